package enrich_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich"
	"vtsidecar/internal/event"
)

const (
	md5sum = "0123456789abcdef0123456789abcdef"
	sha1   = "0123456789abcdef0123456789abcdef01234567"
	sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// theFile is an answer about one file, which names its three hashes.
func theFile(malicious int) *enrich.Answer {
	a := flagged(malicious, 1, 400*day)
	a.MD5, a.SHA1, a.SHA256 = md5sum, sha1, sha256
	a.ThreatLabel = "trojan.emotet/x"
	a.Tags = []string{"peexe", "signed"}
	a.Link = "https://www.virustotal.com/gui/file/" + sha256
	return a
}

// The documents, whole, as they are written. The clock stands at the beginning
// of 2000, where a synctest bubble begins.
func TestDocuments(t *testing.T) {
	cases := []struct {
		name string
		cfg  enrich.Config
		says func() map[string]reply // called when the clock stands
		sent string
	}{
		{name: "malicious", sent: `{"source":{"ip":"203.0.113.7"},"process":{"hash":{"md5":"` + md5sum + `","sha256":"` + sha256 + `"}},"destination":{"ip":"10.0.0.1"}}`,
			says: func() map[string]reply {
				return map[string]reply{"203.0.113.7": {answer: func() *enrich.Answer {
					a := flagged(14, 1, 3*day)
					a.Country, a.ASOwner, a.ASN, a.Reputation = "NL", "X", 64500, -12
					a.Link = "https://www.virustotal.com/gui/ip-address/203.0.113.7"
					return a
				}()}, sha256: {answer: flagged(0, 0, day)}}
			}},
		{name: "malicious file", sent: `{"process":{"hash":{"sha256":"` + sha256 + `"}}}`, says: func() map[string]reply { return map[string]reply{sha256: {answer: theFile(40)}} }},
		{name: "suspicious", sent: ipEvent("203.0.113.8"), says: func() map[string]reply { return map[string]reply{"203.0.113.8": {answer: flagged(1, 2, day)}} }},
		{name: "harmless", sent: ipEvent("203.0.113.8"), says: func() map[string]reply { return map[string]reply{"203.0.113.8": {answer: flagged(0, 1, day)}} }},
		{name: "details all", cfg: enrich.Config{Details: enrich.DetailsAll}, sent: ipEvent("203.0.113.8"), says: func() map[string]reply { return map[string]reply{"203.0.113.8": {answer: flagged(0, 1, day)}} }},
		{name: "details none", cfg: enrich.Config{Details: enrich.DetailsNone}, sent: ipEvent("203.0.113.8"), says: func() map[string]reply { return map[string]reply{"203.0.113.8": {answer: flagged(9, 1, day)}} }},
		{name: "not found", sent: ipEvent("203.0.113.8")},
		{name: "never analysed", sent: ipEvent("203.0.113.8"), says: func() map[string]reply { return map[string]reply{"203.0.113.8": {answer: &enrich.Answer{Found: true}}} }},
		{name: "too old to be harmless", sent: ipEvent("203.0.113.8"), says: func() map[string]reply { return map[string]reply{"203.0.113.8": {answer: flagged(0, 0, 120*day)}} }},
		{name: "too old to be malicious", sent: ipEvent("203.0.113.8"), says: func() map[string]reply { return map[string]reply{"203.0.113.8": {answer: flagged(30, 0, 120*day)}} }},
		{name: "assessment decides", sent: ipEvent("203.0.113.8"), says: func() map[string]reply {
			return map[string]reply{"203.0.113.8": {answer: func() *enrich.Answer {
				a := flagged(0, 0, 120*day)
				a.Assessment = "malicious"
				return a
			}()}}
		}},
		{name: "skipped", sent: `{"source":{"ip":"192.168.1.1"}}`},
		{name: "nothing", sent: `{"message":"hello"}`},
		{name: "several values", sent: `{"source":{"ip":["203.0.113.1","203.0.113.2","10.0.0.1","203.0.113.3"]}}`, says: func() map[string]reply {
			return map[string]reply{
				"203.0.113.1": {answer: flagged(0, 0, day)}, "203.0.113.2": {answer: flagged(7, 0, day)}, "203.0.113.3": {answer: flagged(9, 0, day)}}
		}},
		{name: "partial", sent: `{"source":{"ip":"203.0.113.1"},"destination":{"ip":"203.0.113.2"}}`, says: func() map[string]reply {
			return map[string]reply{
				"203.0.113.1": {answer: flagged(0, 0, day)}, "203.0.113.2": {err: &enrich.LookupError{Decision: enrich.Retry, Reason: "HTTP 503"}}}
		}},
		{name: "names share objects", cfg: enrich.Config{Fields: specs("a:ip=one.two.a", "b:ip=one.b", "c:ip=one.two.c", "d:ip=zero", "e:ip=one.two.c")},
			sent: `{"a":"203.0.113.1","b":"203.0.113.2","c":"203.0.113.3","d":"203.0.113.4","e":"203.0.113.5"}`},
		{name: "names share objects with a gap between", cfg: enrich.Config{Fields: specs("a:ip=one.two.a", "b:ip=one.b", "c:ip=one.two.c", "d:ip=zero")},
			sent: `{"b":"203.0.113.2","c":"203.0.113.3"}`},
		{name: "names share objects at the end", cfg: enrich.Config{Fields: specs("a:ip=one.a", "b:ip=one.two.b.c", "c:ip=one.two.b.d", "d:ip=one.two.e")},
			sent: `{"a":"203.0.113.2","c":"203.0.113.3","d":"203.0.113.3"}`},
		{name: "suspicious and unanswered", sent: `{"source":{"ip":["203.0.113.1","203.0.113.2"]},"destination":{"ip":"203.0.113.1"}}`, says: func() map[string]reply {
			return map[string]reply{"203.0.113.1": {answer: flagged(2, 0, day)}, "203.0.113.2": {err: &enrich.LookupError{Decision: enrich.Retry, Reason: "HTTP 503"}}}
		}},
		{name: "one value twice", sent: `{"source":{"ip":["203.0.113.1","203.0.113.1"]},"destination":{"ip":["203.0.113.1"]}}`},
		{name: "odd values", sent: `{"source":{"ip":["nonsense","","10.0.0.1"]},"destination":{"ip":"nonsense"}}`},
		{name: "URL without its query", sent: `{"url":{"full":"http://example.org/a?token=secret"}}`,
			says: func() map[string]reply { return map[string]reply{"http://example.org/a": {answer: flagged(6, 0, day)}} }},
		{name: "metadata id", sent: `{"@metadata":{"_id":"a\"b\u0001"},"message":"x"}`},
		{name: "too many", cfg: enrich.Config{MaxValues: 1}, sent: `{"source":{"ip":["203.0.113.1","203.0.113.2"]},"destination":{"ip":"203.0.113.1"}}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := newSource(t)
				if c.says != nil {
					source.replies = c.says()
				}
				c.cfg.Wait, c.cfg.IDMetadata = time.Second, true
				b := newBench(t, c.cfg, source, nil)
				defer b.close()
				ev := c.sent
				if !strings.Contains(ev, "_id") {
					ev = strings.Replace(ev, "{", `{"@metadata":{"_id":"event-1"},`, 1)
				}
				out, err := b.run(context.Background(), batch(event.Unlimited{}, ev))
				require.NoError(t, err)
				require.Len(t, out.lines, 1)
				raw, err := json.Marshal(rawDoc(t, out.lines[0]))
				require.NoError(t, err)
				golden(t, c.name, raw)
			})
		})
	}
}

// golden compares a document with the one in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	var pretty bytes.Buffer
	require.NoError(t, json.Indent(&pretty, got, "", "  "))
	pretty.WriteByte('\n')
	path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".golden.json")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, pretty.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), pretty.String())
}

// rawDoc is arcanna.ioc with its members in the order in which they stand.
func rawDoc(t *testing.T, line string) json.RawMessage {
	t.Helper()
	var ev struct {
		Arcanna struct{ IOC json.RawMessage }
	}
	require.NoError(t, json.Unmarshal([]byte(line), &ev))
	return ev.Arcanna.IOC
}
