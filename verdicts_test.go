package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/vtstandin"
)

// What is kept is what VirusTotal said, not what it was taken to mean: other
// rules give other words for it, after a restart and without a request.
func TestChangedRulesNeedNoLookup(t *testing.T) {
	vt, url := standIn(t)
	require.NoError(t, vt.Add(vtstandin.Object{
		Type: vtstandin.IP, Value: "198.51.100.77", Harmless: 60, Undetected: 20, AnalysedDaysAgo: 20,
		Engines: map[string]string{"One": "malicious", "Two": "malicious", "Three": "malicious", "Four": "suspicious", "Five": "malicious", "Six": "malicious"},
	}))
	data := t.TempDir()
	for i, c := range []struct {
		settings    []string
		result      string
		explanation string
	}{
		{nil, "malicious", "5 of 86 engines malicious (threshold 5)"},
		{[]string{"--vt.malicious", "6"}, "suspicious", "6 of 86 engines malicious or suspicious (threshold 2)"},
		{[]string{"--vt.malicious", "ip:6", "--vt.suspicious", "ip:7"}, "harmless", "6 of 86 engines malicious or suspicious (threshold 7)"},
		{[]string{"--vt.engines_ignore", "one"}, "suspicious", "5 of 85 engines malicious or suspicious (threshold 2)"},
		{[]string{"--vt.engines", "Two,Three", "--vt.malicious", "2"}, "malicious", "2 of 2 engines malicious (threshold 2)"},
		{[]string{"--vt.engines", "Nobody"}, "unknown", "no engine has an opinion"},
		{[]string{"--vt.max_analysis_age", "ip:10d"}, "suspicious", "5 of 86 engines malicious (threshold 5); analysed 20 days ago (limit 10), so suspicious"},
		{nil, "malicious", "5 of 86 engines malicious (threshold 5)"},
	} {
		p := startServer(t, data, url, append(c.settings, "--output.file.path", filepath.Join(data, "out", string(rune('a'+i))))...)
		sendEvents(t, p.address(t), `{"n":1,"source":{"ip":"198.51.100.77"}}`)
		p.stop()
		require.Zero(t, p.wait(t), p.stderr.String())
		e := stored(t, filepath.Join(data, "out", string(rune('a'+i))))["1"]
		assert.Equal(t, c.result, at(e, "arcanna.ioc.source.ip.result"), "%v", c.settings)
		assert.Equal(t, "source.ip 198.51.100.77: "+c.explanation, at(e, "arcanna.ioc.global.explanation"))
		assert.Equal(t, c.result == "malicious" || c.result == "suspicious", at(e, "threat.enrichments") != nil)
		assert.Equal(t, 1, vt.Requests()["ip 198.51.100.77"], "%v", vt.Requests())
	}
}

func TestHitsCompleteThreatAndRelated(t *testing.T) {
	_, url := standIn(t)
	data := t.TempDir()
	send := func(out string, settings ...string) map[string]map[string]any {
		out = filepath.Join(data, out)
		p := startServer(t, data, url, append(settings, "--output.file.path", out)...)
		sendEvents(t, p.address(t), `
{"n":1,"source":{"ip":"203.0.113.7"},"related":{"ip":"192.0.2.1"},"threat":{"enrichments":[{"indicator":{"ip":"192.0.2.1"}}]}}
{"n":2,"source":{"ip":"8.8.8.8"}}
{"n":3,"source":{"ip":"203.0.113.7"},"threat":"x"}`)
		p.stop()
		require.Zero(t, p.wait(t), p.stderr.String())
		return stored(t, out)
	}
	on := send("on")
	assert.Equal(t, []any{"192.0.2.1", "203.0.113.7"}, at(on["1"], "related.ip"))
	elements, _ := at(on["1"], "threat.enrichments").([]any)
	require.Len(t, elements, 2)
	mine, _ := elements[1].(map[string]any)
	assert.Equal(t, "203.0.113.7", at(mine, "indicator.ip"))
	assert.Equal(t, "ipv4-addr", at(mine, "indicator.type"))
	assert.Equal(t, "source.ip", at(mine, "matched.field"))
	assert.Equal(t, "indicator_match_rule", at(mine, "matched.type"))
	assert.NotContains(t, on["2"], "threat")
	assert.NotContains(t, on["2"], "related")
	assert.Equal(t, "x", on["3"]["threat"])

	other := send("other", "--ecs.threat=false", "--ecs.related=false")
	assert.Equal(t, "192.0.2.1", at(other["1"], "related.ip"))
	assert.Len(t, at(other["1"], "threat.enrichments"), 1)
	assert.NotContains(t, other["3"], "related")

	typed := send("typed", "--ecs.matched_type", "investigation_time")
	elements, _ = at(typed["1"], "threat.enrichments").([]any)
	require.Len(t, elements, 2)
	mine, _ = elements[1].(map[string]any)
	assert.Equal(t, "investigation_time", at(mine, "matched.type"))
}
