package virustotal_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/cache"
	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/virustotal"
	"vtsidecar/internal/event"
)

// midday is when all verdicts of the table are made.
var midday = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

const aDay = 24 * time.Hour

// verdictRow is a row of testdata/verdicts.txt, which says what its columns are.
type verdictRow struct {
	line                int
	typ                 string
	counts              [4]int
	others              map[string]int
	age                 string
	more                []string
	settings            string
	result, explanation string
}

func verdictRows(t *testing.T) (rows []verdictRow) {
	t.Helper()
	text, err := os.ReadFile("testdata/verdicts.txt")
	require.NoError(t, err)
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		c := strings.Split(line, " | ")
		require.Len(t, c, 8, "line %d", n)
		r := verdictRow{line: n, typ: c[0], others: map[string]int{}, age: c[3], more: strings.Split(c[4], ","), settings: c[5], result: c[6], explanation: c[7]}
		for i, w := range strings.Fields(c[1]) {
			r.counts[i] = atoi(t, w)
		}
		for _, o := range strings.Split(c[2], ",") {
			if name, w, ok := strings.Cut(o, ":"); ok {
				r.others[name] = atoi(t, w)
			}
		}
		rows = append(rows, r)
	}
	return rows
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

func (r *verdictRow) is(what string) bool {
	for _, m := range r.more {
		if m == what {
			return true
		}
	}
	return false
}

// object is what the row's indicator is: its value, and VirusTotal's type, folder and id for it.
func (r *verdictRow) object() (value, kind, path, id string) {
	switch r.typ {
	case "ip":
		v := fmt.Sprintf("45.0.%d.%d", r.line/250, r.line%250+1)
		return v, "ip_address", "ip_addresses/" + v, v
	case "domain":
		v := fmt.Sprintf("host%d.example.org", r.line)
		return v, "domain", "domains/" + v, v
	case "url":
		v := fmt.Sprintf("http://host%d.example.org/a", r.line)
		id := fmt.Sprintf("%064x", r.line)
		return v, "url", "urls/", id
	default:
		v := fmt.Sprintf("%064x", r.line+0xabcdef)
		return v, "file", "files/" + v, v
	}
}

var theEngines = []string{"Kaspersky", "BitDefender", "ESET-NOD32", "Sophos", "Fortinet"}

// answer is the row as VirusTotal's API v3 says it.
func (r *verdictRow) answer() []byte {
	_, kind, _, id := r.object()
	attributes := map[string]any{"reputation": 0, "total_votes": map[string]int{"harmless": 0, "malicious": 0}, "tags": []string{}}
	stats := map[string]int{"malicious": 0, "suspicious": 0, "harmless": 0, "undetected": 0, "timeout": 0}
	if kind == "file" {
		stats["confirmed-timeout"], stats["failure"], stats["type-unsupported"] = 0, 0, 0
		attributes["sha256"], attributes["type_tag"] = id, "peexe"
	}
	results := map[string]any{}
	add := func(category string, n int) {
		stats[category] += n
		for range n {
			name := fmt.Sprintf("Engine %d", len(results)+1)
			if len(results) < len(theEngines) {
				name = theEngines[len(results)]
			}
			result := map[string]any{"category": category, "engine_name": name, "method": "blacklist", "result": category}
			if kind == "file" {
				result["engine_version"], result["engine_update"], result["result"] = "1.0", "20260101", nil
			}
			results[name] = result
		}
	}
	for i, c := range []string{"malicious", "suspicious", "harmless", "undetected"} {
		add(c, r.counts[i])
	}
	for c, n := range r.others {
		add(c, n)
	}
	if !r.is("nothing") && !r.is("stats") {
		attributes["last_analysis_results"] = results
	}
	if !r.is("nothing") && !r.is("no-stats") {
		attributes["last_analysis_stats"] = stats
	}
	switch days, plus, _ := strings.Cut(r.age, "+"); {
	case r.age == "none":
	case r.age == "future":
		attributes["last_analysis_date"] = midday.Add(time.Hour).Unix()
	default:
		n, _ := strconv.Atoi(strings.TrimSuffix(days, "d"))
		more, _ := time.ParseDuration(plus)
		attributes["last_analysis_date"] = midday.Add(-time.Duration(n)*aDay - more).Unix()
	}
	for _, m := range r.more {
		if verdict, ok := strings.CutPrefix(m, "gti:"); ok {
			attributes["gti_assessment"] = map[string]any{
				"verdict": map[string]string{"value": verdict}, "severity": map[string]string{"value": "SEVERITY_HIGH"}, "threat_score": map[string]int{"value": 80},
			}
		}
		switch m {
		case "votes":
			attributes["reputation"], attributes["total_votes"] = -900, map[string]int{"harmless": 0, "malicious": 900}
		case "praise":
			attributes["reputation"], attributes["total_votes"] = 900, map[string]int{"harmless": 900, "malicious": 0}
		}
	}
	b, _ := json.Marshal(map[string]any{"data": map[string]any{"id": id, "type": kind, "attributes": attributes, "links": map[string]string{"self": "x"}}})
	return b
}

// rules are the settings of a row: malicious, suspicious and age as vt.malicious,
// vt.suspicious and vt.max_analysis_age have them, engines, ignore.
func (r *verdictRow) rules(t *testing.T) enrich.Rules {
	t.Helper()
	rules := enrich.Rules{MaxAnalysisAge: enrich.PerType[time.Duration]{IP: 90 * aDay, URL: 30 * aDay, Domain: 180 * aDay}}
	for _, s := range strings.Fields(strings.Trim(r.settings, "-")) {
		name, value, _ := strings.Cut(s, "=")
		for _, v := range strings.Split(value, ",") {
			typ, text, one := strings.Cut(v, ":")
			if !one {
				typ, text = "", v
			}
			switch name {
			case "malicious":
				perType(&rules.Malicious, typ, func() int { return atoi(t, text) })
			case "suspicious":
				perType(&rules.Suspicious, typ, func() int { return atoi(t, text) })
			case "age":
				perType(&rules.MaxAnalysisAge, typ, func() time.Duration { return time.Duration(atoi(t, strings.TrimSuffix(text, "d"))) * aDay })
			case "engines":
				rules.Engines = append(rules.Engines, v)
			case "ignore":
				rules.EnginesIgnore = append(rules.EnginesIgnore, v)
			default:
				require.Fail(t, "no such setting", s)
			}
		}
	}
	return rules
}

func perType[T any](p *enrich.PerType[T], typ string, v func() T) {
	for name, to := range map[string]*T{"ip": &p.IP, "domain": &p.Domain, "url": &p.URL, "hash": &p.Hash} {
		if typ == "" || typ == name {
			*to = v()
		}
	}
}

// Every answer of the table gets its verdict: asked over HTTP, parsed, kept,
// judged, and written into an event. A second Enricher with the rules of the
// same row, over the answers that the first ones have kept, says the same and
// asks nobody: what is kept is the answer, not the verdict.
func TestVerdicts(t *testing.T) {
	rows := verdictRows(t)
	require.GreaterOrEqual(t, len(rows), 150)
	bodies := map[string][]byte{}
	for i := range rows {
		_, _, path, _ := rows[i].object()
		if rows[i].typ == "url" {
			value, _, _, _ := rows[i].object()
			path += base64.RawURLEncoding.EncodeToString([]byte(value))
		}
		bodies["/api/v3/"+path] = rows[i].answer()
	}
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		w.Header().Set("Content-Type", "application/json")
		body, ok := bodies[r.URL.Path]
		if !ok {
			t.Errorf("nobody should ask for %s", r.URL.Path)
		}
		_, _ = w.Write(body)
	}))
	defer server.Close()
	source, err := virustotal.New(virustotal.Config{APIKey: "key", URL: server.URL, Direct: true, Now: func() time.Time { return midday }})
	require.NoError(t, err)
	defer func() { require.NoError(t, source.Close()) }()
	answers := cache.New[*enrich.Answer](cache.Config{MaxEntries: 10_000, Now: func() time.Time { return midday }})

	// First under rules that have nothing to do with the row's.
	for i := range rows {
		judged(t, &rows[i], enrich.Rules{Malicious: enrich.PerType[int]{IP: 1, Domain: 1, URL: 1, Hash: 1}, Engines: []string{"Engine 9"}}, answers, source)
	}
	require.Equal(t, len(rows), requests)

	// The snapshot is what a restart has.
	snapshot := filepath.Join(t.TempDir(), "snapshot")
	require.NoError(t, answers.Save(snapshot, enrich.AppendAnswer))
	restarted := cache.New[*enrich.Answer](cache.Config{MaxEntries: 10_000, Now: func() time.Time { return midday }})
	_, err = restarted.Load(snapshot, enrich.DecodeAnswer)
	require.NoError(t, err)

	for i := range rows {
		r := &rows[i]
		value, _, _, _ := r.object()
		result, explanation := judged(t, r, r.rules(t), restarted, nil)
		assert.Equal(t, r.result, result, "line %d", r.line)
		assert.Equal(t, "f "+value+": "+r.explanation, explanation, "line %d", r.line)
	}
	require.Equal(t, len(rows), requests, "nothing is asked again")
}

// judged sends an event with the row's indicator and returns what is said of it.
func judged(t *testing.T, r *verdictRow, rules enrich.Rules, answers *cache.Cache[*enrich.Answer], source enrich.Source) (result, explanation string) {
	t.Helper()
	kinds := map[string]indicator.Kind{"ip": indicator.KindIP, "domain": indicator.KindDomain, "url": indicator.KindURL, "hash": indicator.KindHash}
	parser, err := indicator.NewParser(indicator.Config{})
	require.NoError(t, err)
	e, err := enrich.New(enrich.Config{
		Fields: []indicator.FieldSpec{{Path: "f", Kind: kinds[r.typ], Name: "f"}}, Rules: rules,
		Wait: 10 * time.Second, Workers: 1, Now: func() time.Time { return midday },
	}, parser, answers, source, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close(context.Background())) }()
	value, _, _, _ := r.object()
	raw := fmt.Appendf(nil, `{"f":%q}`, value)
	b := &event.Batch{Budget: event.Unlimited{}, Events: []event.Event{{Raw: raw}}}
	work := e.Enrich(b)
	defer work.Close()
	p, err := work.Next(t.Context())
	require.NoError(t, err)
	var line struct {
		Arcanna struct {
			IOC struct {
				Global struct{ Result, Explanation string }
				F      struct{ Status, Result string }
			}
		}
	}
	require.NoError(t, json.Unmarshal(p.Lines.Buf, &line))
	require.Equal(t, "found", line.Arcanna.IOC.F.Status, "line %d", r.line)
	require.Equal(t, line.Arcanna.IOC.F.Result, line.Arcanna.IOC.Global.Result)
	_, err = work.Next(t.Context())
	require.True(t, errors.Is(err, io.EOF))
	return line.Arcanna.IOC.Global.Result, line.Arcanna.IOC.Global.Explanation
}
