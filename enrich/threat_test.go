package enrich_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich"
	"vtsidecar/internal/event"
	"vtsidecar/internal/faketime"
)

var ecsOn = enrich.ECS{Threat: true, Related: true}

// ecsLine sends one event and returns its line, less arcanna.
func ecsLine(t testing.TB, b *bench, ev string) string {
	t.Helper()
	budget := &fakeBudget{t: t}
	out, err := b.run(context.Background(), batch(budget, ev))
	require.NoError(t, err)
	require.Zero(t, budget.now(), "everything is given back")
	require.Len(t, out.lines, 1)
	return without(t, out.lines[0])
}

// without is a line without the arcanna that was put into it.
func without(t testing.TB, line string) string {
	t.Helper()
	var e struct {
		Arcanna json.RawMessage `json:"arcanna"`
	}
	require.NoError(t, json.Unmarshal([]byte(line), &e))
	member := `"arcanna":` + string(e.Arcanna)
	require.Equal(t, 1, strings.Count(line, member))
	for _, m := range []string{"," + member, member + ",", member} {
		line = strings.Replace(line, m, "", 1)
	}
	return strings.TrimSuffix(line, "\n")
}

// everyType are answers about indicators of every type.
func everyType() map[string]reply {
	ip := flagged(14, 1, 3*day)
	ip.Country, ip.ASOwner, ip.ASN, ip.Reputation = "NL", "X", 64500, -12
	ip.Link = "https://www.virustotal.com/gui/ip-address/203.0.113.7"
	ip.LastModification = time.Now().Add(-2 * day)
	url := flagged(6, 0, day)
	url.FirstSubmission, url.LastSubmission = time.Now().Add(-50*day), time.Now().Add(-5*day)
	url.Link = "https://www.virustotal.com/gui/url/x"
	return map[string]reply{
		"203.0.113.7":               {answer: ip},
		"2001:db8:5::7":             {answer: flagged(2, 0, day)},
		"evil.example.org":          {answer: flagged(9, 0, 200*day)},
		"http://evil.example.org/a": {answer: url},
		"http://198.51.100.9:8080/": {answer: flagged(7, 0, day)},
		"http://[2001:db8:9::1]/":   {answer: flagged(7, 0, day)},
		sha256:                      {answer: theFile(40)},
		md5sum:                      {answer: flagged(1, 0, day)},
		"203.0.113.8":               {answer: flagged(5, 0, day)},
		"203.0.113.9":               {answer: flagged(0, 0, day)},
	}
}

const ecsEvent = `{"source":{"ip":["203.0.113.7","2001:db8:5::7"]},"destination":{"ip":"203.0.113.7"},"dns":{"question":{"name":"evil.example.org"}},` +
	`"url":{"full":["http://evil.example.org/a?token=1","http://198.51.100.9:8080/","http://[2001:db8:9::1]/"]},"process":{"hash":[{"sha256":"` + sha256 + `"},{"md5":"` + md5sum + `"}]}}`

// inECS starts an Enricher that completes threat and related, when the clock stands.
func inECS(t *testing.T, cfg enrich.Config, do func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		source.replies = everyType()
		cfg.Wait = time.Second
		b := newBench(t, cfg, source, nil)
		defer b.close()
		do(t, b)
	})
}

// What every type of indicator adds, whole.
func TestECSDocuments(t *testing.T) {
	inECS(t, enrich.Config{ECS: ecsOn}, func(t *testing.T, b *bench) {
		var got struct {
			Threat  json.RawMessage `json:"threat"`
			Related json.RawMessage `json:"related"`
		}
		line := ecsLine(t, b, ecsEvent)
		require.NoError(t, json.Unmarshal([]byte(line), &got))
		require.True(t, strings.HasPrefix(line, strings.TrimSuffix(ecsEvent, "}")), "the event's own bytes")
		raw, err := json.Marshal(got)
		require.NoError(t, err)
		golden(t, "ecs", raw)
	})
}

// The example in docs/verdicts.md is made here.
func TestECSExample(t *testing.T) {
	const path, begin, end = "../docs/verdicts.md", "<!-- example -->\n", "<!-- /example -->\n"
	inECS(t, enrich.Config{ECS: ecsOn}, func(t *testing.T, b *bench) {
		line := strings.TrimPrefix(ecsLine(t, b, ipEvent("203.0.113.7")), `{"source":{"ip":"203.0.113.7"},`)
		var pretty bytes.Buffer
		require.NoError(t, json.Indent(&pretty, []byte("{"+line), "", "  "))
		page, err := os.ReadFile(path)
		require.NoError(t, err)
		before, rest, ok := strings.Cut(string(page), begin)
		require.True(t, ok)
		_, behind, ok := strings.Cut(rest, end)
		require.True(t, ok)
		want := before + begin + "\n```json\n" + pretty.String() + "\n```\n\n" + end + behind
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
			return
		}
		assert.Equal(t, want, string(page), "go test ./enrich -run TestECSExample -update")
	})
}

// Every leaf that is added is one of ECS's, with a value of its type.
func TestECSLeavesAreDefined(t *testing.T) {
	types := ecsTypes(t)
	// Kibana reads it, and writes it into alerts; ECS has it as threat.feed.name.
	types["threat.enrichments.feed.name"] = "keyword"
	confidence := []string{"Low", "Medium", "High"}                                    // of expected_values
	kinds := []string{"ipv4-addr", "ipv6-addr", "domain-name", "url", "file"}          // likewise
	stamp := regexp.MustCompile(`^[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9:]{8}Z$`)          // strict_date_optional_time
	never := map[string]bool{"threat.enrichments": true, "threat.enrichments.x": true} // no leaves
	seen := map[string]int{}
	inECS(t, enrich.Config{ECS: ecsOn}, func(t *testing.T, b *bench) {
		var added map[string]any
		d := json.NewDecoder(strings.NewReader(ecsLine(t, b, ecsEvent)))
		d.UseNumber()
		require.NoError(t, d.Decode(&added))
		for _, top := range []string{"threat", "related"} {
			leaves(top, added[top], func(path string, v any) {
				seen[path]++
				require.False(t, never[path])
				text, isText := v.(string)
				switch typ := types[path]; typ {
				case "keyword", "wildcard":
					assert.True(t, isText && text != "", "%s: %v", path, v)
				case "ip":
					_, err := netip.ParseAddr(text)
					assert.NoError(t, err, path)
				case "long":
					n, ok := v.(json.Number)
					require.True(t, ok, path)
					_, err := n.Int64()
					assert.NoError(t, err, path)
				case "date":
					assert.Regexp(t, stamp, text, path)
				default:
					assert.Fail(t, "not in ECS, or of a type that nothing here has", "%s is %q", path, typ)
				}
				switch path {
				case "threat.enrichments.indicator.confidence":
					assert.Contains(t, confidence, text)
				case "threat.enrichments.indicator.type":
					assert.Contains(t, kinds, text)
				}
			})
		}
	})
	for path, n := range map[string]int{
		"threat.enrichments.matched.id": 9, "threat.enrichments.indicator.ip": 3, "threat.enrichments.indicator.url.full": 3, "threat.enrichments.indicator.url.domain": 1,
		"threat.enrichments.indicator.file.hash.sha256": 1, "threat.enrichments.indicator.file.hash.md5": 2, "threat.enrichments.indicator.as.organization.name": 2,
		"threat.enrichments.indicator.first_seen": 1, "threat.enrichments.indicator.last_seen": 9, "threat.enrichments.indicator.modified_at": 2, "related.ip": 4, "related.hosts": 1, "related.hash": 2,
	} {
		assert.Equal(t, n, seen[path], path)
	}
}

// leaves shows every value that is neither object nor array.
func leaves(path string, v any, show func(path string, v any)) {
	switch v := v.(type) {
	case map[string]any:
		for k, m := range v {
			leaves(path+"."+k, m, show)
		}
	case []any:
		for _, e := range v {
			leaves(path, e, show)
		}
	default:
		show(path, v)
	}
}

// ecsTypes are ECS's own definitions; the file names its source.
func ecsTypes(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("testdata/ecs-9.4.0-fields.txt")
	require.NoError(t, err)
	types := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if name, typ, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			types[name] = typ
		}
	}
	require.Greater(t, len(types), 200)
	return types
}

// What is added to what is there. <1> and <2> stand for the elements of the
// event's hits, "source":{"ip":["203.0.113.7","203.0.113.8"]}.
func TestECSIsAddedToWhatIsThere(t *testing.T) {
	const ip = `"source":{"ip":["203.0.113.7","203.0.113.8"]}`
	const bothIPs = `"203.0.113.7","203.0.113.8"`
	const threat = `,"threat":{"enrichments":[<1>,<2>]}`
	const relatedToo = `,"related":{"ip":[` + bothIPs + `]}`
	inECS(t, enrich.Config{ECS: ecsOn}, func(t *testing.T, b *bench) {
		var first struct {
			Threat struct{ Enrichments []json.RawMessage }
		}
		require.NoError(t, json.Unmarshal([]byte(ecsLine(t, b, "{"+ip+"}")), &first))
		require.Len(t, first.Threat.Enrichments, 2)
		elements := strings.NewReplacer("<1>", string(first.Threat.Enrichments[0]), "<2>", string(first.Threat.Enrichments[1]))
		for _, c := range []struct {
			name, sent, want string
			refused          string
		}{
			{name: "nothing there", sent: `{` + ip + `}`, want: `{` + ip + threat + relatedToo + `}`},
			{name: "objects of other things", sent: `{"threat":{"framework":"x"},"related":{"user":["u"]},` + ip + `}`,
				want: `{"threat":{"framework":"x","enrichments":[<1>,<2>]},"related":{"user":["u"],"ip":[` + bothIPs + `]},` + ip + `}`},
			{name: "empty objects", sent: `{"threat":{ },"related":{},` + ip + `}`, want: `{"threat":{ "enrichments":[<1>,<2>]},"related":{"ip":[` + bothIPs + `]},` + ip + `}`},
			{name: "lists", sent: `{"threat":{"enrichments":[{"a":1}],"z":[]},"related":{"ip":["192.0.2.1"],"user":"u"},` + ip + `}`,
				want: `{"threat":{"enrichments":[{"a":1},<1>,<2>],"z":[]},"related":{"ip":["192.0.2.1",` + bothIPs + `],"user":"u"},` + ip + `}`},
			{name: "empty lists", sent: `{"threat":{"enrichments":[ ]},"related":{"ip":[]},` + ip + `}`, want: `{"threat":{"enrichments":[ <1>,<2>]},"related":{"ip":[` + bothIPs + `]},` + ip + `}`},
			{name: "one object, one string", sent: `{"threat":{"enrichments": {"a":{"b":[1]}} },"related":{"ip" : "192.0.2.1"},` + ip + `}`,
				want: `{"threat":{"enrichments": [{"a":{"b":[1]}},<1>,<2>] },"related":{"ip" : ["192.0.2.1",` + bothIPs + `]},` + ip + `}`},
			{name: "dotted", sent: `{"threat.enrichments":[{"a":1}],` + ip + `,"related.ip":["192.0.2.1"]}`,
				want: `{"threat.enrichments":[{"a":1},<1>,<2>],` + ip + `,"related.ip":["192.0.2.1",` + bothIPs + `]}`},
			{name: "dotted, others", sent: `{"threat.framework":"x",` + ip + `,"related.user":"u"}`, want: `{"threat.framework":"x",` + ip + `,"related.user":"u"` + threat + relatedToo + `}`},
			{name: "dotted and nested", sent: `{"threat":{"n":1},"threat.enrichments":[],"related":{"user":"u"},"related.ip":"192.0.2.1",` + ip + `}`,
				want: `{"threat":{"n":1},"threat.enrichments":[<1>,<2>],"related":{"user":"u"},"related.ip":["192.0.2.1",` + bothIPs + `],` + ip + `}`},
			{name: "escaped keys", sent: `{"thre\u0061t":{"enrichm\u0065nts":[]},"rel\u0061ted\u002eip":[],` + ip + `}`,
				want: `{"thre\u0061t":{"enrichm\u0065nts":[<1>,<2>]},"rel\u0061ted\u002eip":[` + bothIPs + `],` + ip + `}`},
			{name: "known values", sent: `{"related":{"ip":["203.0.113.8","192.0.2.1"],"hash":["h"]},` + ip + `}`,
				want: `{"related":{"ip":["203.0.113.8","192.0.2.1","203.0.113.7"],"hash":["h"]},` + ip + threat + `}`},
			{name: "nothing new", sent: `{"related":{"ip":[` + bothIPs + `]},"threat":{"enrichments":[<2>,<1>]},` + ip + `}`, want: `{"related":{"ip":[` + bothIPs + `]},"threat":{"enrichments":[<2>,<1>]},` + ip + `}`},
			{name: "one element of ours, alone", sent: `{"threat":{"enrichments":<2>},"related":{"ip":"203.0.113.7"},` + ip + `}`,
				want: `{"threat":{"enrichments":[<2>,<1>]},"related":{"ip":["203.0.113.7","203.0.113.8"]},` + ip + `}`},
			{name: "not where it counts", sent: `{"a":{"threat":"x","related":1},` + ip + `,"threats":1,"related_ip":2,"threa":3}`,
				want: `{"a":{"threat":"x","related":1},` + ip + `,"threats":1,"related_ip":2,"threa":3` + threat + relatedToo + `}`},
			{name: "over several lines", sent: "{\"threat\" :\r\n {\"n\":1\n}, " + ip + ",\n\"related\"\t:{}\n}\n",
				want: `{"threat" :   {"n":1 ,"enrichments":[<1>,<2>]}, ` + ip + `, "related"` + "\t" + `:{"ip":[` + bothIPs + `]} }`},
			{name: "verdict and metadata go", sent: `{"@metadata":{"threat":1},"threat":{"n":1},"arcanna":{"ioc":{"related":1}},` + ip + `}`,
				want: `{"threat":{"n":1,"enrichments":[<1>,<2>]},` + ip + relatedToo + `}`},
			{name: "several", sent: `{"threat":{"enrichments":[{"a":1}]},"threat":{},"related":{},"related":{"user":1},` + ip + `}`,
				want: `{"threat":{"enrichments":[{"a":1},<1>,<2>]},"threat":{},"related":{},"related":{"user":1,"ip":[` + bothIPs + `]},` + ip + `}`},

			{name: "a string", sent: `{"threat":"x",` + ip + `}`, want: `{"threat":"x",` + ip + relatedToo + `}`, refused: "threat"},
			{name: "a number", sent: `{"related":5,` + ip + `}`, want: `{"related":5,` + ip + threat + `}`, refused: "related"},
			{name: "null", sent: `{"threat":null,"related":null,` + ip + `}`, want: `{"threat":null,"related":null,` + ip + `}`, refused: "threat related"},
			{name: "an array", sent: `{"threat":[{"enrichments":[]}],` + ip + `}`, want: `{"threat":[{"enrichments":[]}],` + ip + relatedToo + `}`, refused: "threat"},
			{name: "an empty array", sent: `{"threat":[],"related":[],` + ip + `}`, want: `{"threat":[],"related":[],` + ip + `}`, refused: "threat related"},
			{name: "a string beside a list", sent: `{"threat":"x","threat.enrichments":[],"related":true,"related.ip":[],` + ip + `}`,
				want: `{"threat":"x","threat.enrichments":[],"related":true,"related.ip":[],` + ip + `}`, refused: "threat related"},
			{name: "enrichments of strings", sent: `{"threat":{"enrichments":[{},"x"]},` + ip + `}`, want: `{"threat":{"enrichments":[{},"x"]},` + ip + relatedToo + `}`, refused: "threat"},
			{name: "enrichments no object", sent: `{"threat":{"enrichments":"x"},` + ip + `}`, want: `{"threat":{"enrichments":"x"},` + ip + relatedToo + `}`, refused: "threat"},
			{name: "enrichments spelled with dots", sent: `{"threat":{"enrichments.matched.id":"x"},` + ip + `}`, want: `{"threat":{"enrichments.matched.id":"x"},` + ip + relatedToo + `}`, refused: "threat"},
			{name: "addresses that are none", sent: `{"related":{"ip":["192.0.2.1",5]},` + ip + `}`, want: `{"related":{"ip":["192.0.2.1",5]},` + ip + threat + `}`, refused: "related"},
			{name: "an object of addresses", sent: `{"related.ip.v4":"x",` + ip + `}`, want: `{"related.ip.v4":"x",` + ip + threat + `}`, refused: "related"},
			{name: "an array of arrays", sent: `{"related":{"ip":[["192.0.2.1"]]},` + ip + `}`, want: `{"related":{"ip":[["192.0.2.1"]]},` + ip + threat + `}`, refused: "related"},
		} {
			before := map[string]float64{"threat": b.figure("ecs_refused_total", "threat"), "related": b.figure("ecs_refused_total", "related")}
			assert.Equal(t, elements.Replace(c.want), ecsLine(t, b, elements.Replace(c.sent)), c.name)
			for field, n := range before {
				if strings.Contains(c.refused, field) {
					n++
				}
				assert.Equal(t, n, b.figure("ecs_refused_total", field), "%s: %s", c.name, field)
			}
		}
	})
}

// Whatever the type, what is there is known again.
func TestECSTwice(t *testing.T) {
	inECS(t, enrich.Config{ECS: ecsOn}, func(t *testing.T, b *bench) {
		sent := strings.Replace(ecsEvent, "{", `{"log":{"file":{"path":"/x"},"offset":1},`, 1)
		once, err := b.run(context.Background(), batch(event.Unlimited{}, sent))
		require.NoError(t, err)
		twice, err := b.run(context.Background(), batch(event.Unlimited{}, strings.TrimSuffix(once.lines[0], "\n")))
		require.NoError(t, err)
		assert.Equal(t, once.ids, twice.ids, "the same event")
		thrice, err := b.run(context.Background(), batch(event.Unlimited{}, strings.TrimSuffix(twice.lines[0], "\n")))
		require.NoError(t, err)
		assert.Equal(t, without(t, once.lines[0]), without(t, thrice.lines[0]))
		// Later, when a match would have another time.
		faketime.Pass(t, time.Hour)
		again, err := b.run(context.Background(), batch(event.Unlimited{}, sent))
		require.NoError(t, err)
		require.NotEqual(t, without(t, once.lines[0]), without(t, again.lines[0]))
		resent, err := b.run(context.Background(), batch(event.Unlimited{}, strings.TrimSuffix(again.lines[0], "\n")))
		require.NoError(t, err)
		assert.Equal(t, once.ids, resent.ids, "the same event, resent through another server")
		// Other spellings of what is there.
		line := ecsLine(t, b, `{"related":{"ip":["2001:0DB8:5:0::7","2001:DB8:5::7"],"hosts":"EVIL.example.org","hash":["`+strings.ToUpper(sha256)+`"]},`+
			`"source":{"ip":"2001:db8:5::7"},"dns.question.name":"evil.example.org","process":{"hash":{"sha256":"`+sha256+`"}}}`)
		assert.Contains(t, line, `"related":{"ip":["2001:0DB8:5:0::7","2001:DB8:5::7"],"hosts":"EVIL.example.org","hash":["`+strings.ToUpper(sha256)+`"]}`)
	})
}

// A chain of servers, the second of which trusts the first: one identity, which
// is that of the verdict, whatever was added on the way.
func TestIdentityOfATrustedVerdict(t *testing.T) {
	inECS(t, enrich.Config{ECS: ecsOn, IDMetadata: true}, func(t *testing.T, first *bench) {
		second := newBench(t, enrich.Config{ECS: ecsOn, IDMetadata: true, TrustVerdicts: true}, newSource(t), nil)
		defer second.close()
		for name, sent := range map[string]string{
			"position":           `{"log":{"file":{"path":"/x"},"offset":1},"source":{"ip":"203.0.113.7"}}`,
			"with its own lists": `{"log":{"file":{"path":"/x"},"offset":1},"source":{"ip":"203.0.113.7"},"related":{"ip":["192.0.2.1"]},"threat":{}}`,
			"none":               ipEvent("203.0.113.7"),
			"an _id":             `{"@metadata":{"_id":"a\"\u00e9\n"},"source":{"ip":"203.0.113.7"}}`,
			"an _id in hex":      `{"@metadata":{"_id":"00112233445566778899aabbccddeeff"},"n":1}`,
		} {
			sent, err := first.run(context.Background(), batch(event.Unlimited{}, sent))
			require.NoError(t, err)
			line := strings.TrimSuffix(sent.lines[0], "\n")
			for _, l := range []string{line, strings.NewReplacer(`"arcanna":`, "\r\n\"arcanna\" :\n", `"event_id":`, "\n\"event_id\"\t: ").Replace(line)} {
				got, err := second.run(context.Background(), batch(event.Unlimited{}, l))
				require.NoError(t, err)
				if name == "an _id in hex" {
					assert.Equal(t, "00112233445566778899aabbccddeeff", fmt.Sprint(got.ids[0]))
					continue
				}
				assert.Equal(t, sent.ids, got.ids, name)
			}
		}
		// What is no identity is none.
		sent := `{"log":{"file":{"path":"/x"},"offset":1},"arcanna":{"ioc":%s}}`
		want, err := second.run(context.Background(), batch(event.Unlimited{}, fmt.Sprintf(sent, "{}")))
		require.NoError(t, err)
		for _, ioc := range []string{`{"event_id":""}`, `{"event_id":5}`, `{"event_id":null}`, `{"event_id":{"a":"b"}}`, `{"event_id":["x"]}`, `5`, `{"event_id":"` + strings.Repeat("x", 4000) + `"}`} {
			got, err := second.run(context.Background(), batch(event.Unlimited{}, fmt.Sprintf(sent, ioc)))
			require.NoError(t, err)
			assert.Equal(t, want.ids, got.ids, ioc)
		}
	})
}

func TestECSBounds(t *testing.T) {
	inECS(t, enrich.Config{ECS: ecsOn}, func(t *testing.T, b *bench) {
		var ips []string
		for i := range 60 {
			ip := fmt.Sprintf("198.51.100.%d", i)
			n := 2 // suspicious
			if i >= 50 {
				n = 30
			}
			b.source.say(ip, reply{answer: flagged(n, 0, day)})
			ips = append(ips, `"`+ip+`"`)
		}
		source := `"source":{"ip":[` + strings.Join(ips, ",") + `]}`
		enrichments := func(line string) (ours []string, all int, related []string) {
			var e struct {
				Threat struct {
					Enrichments []struct {
						Indicator struct{ IP string }
					}
				}
				Related struct{ IP []string }
			}
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			for _, x := range e.Threat.Enrichments {
				if x.Indicator.IP != "" {
					ours = append(ours, x.Indicator.IP)
				}
			}
			return ours, len(e.Threat.Enrichments), e.Related.IP
		}
		ours, all, related := enrichments(ecsLine(t, b, "{"+source+"}"))
		assert.Equal(t, 20, all)
		assert.Equal(t, []string{"198.51.100.50", "198.51.100.51"}, ours[:2], "the worst first")
		assert.Equal(t, "198.51.100.0", ours[10])
		assert.Len(t, related, 20)
		for have, want := range map[int]int{0: 20, 1: 19, 19: 1, 20: 0, 25: 0} {
			there := strings.TrimSuffix(strings.Repeat(`{"a":[{}]},`, have), ",")
			ours, all, _ := enrichments(ecsLine(t, b, `{"threat":{"enrichments":[`+there+`]},`+source+`}`))
			assert.Len(t, ours, want)
			assert.Equal(t, have+want, all, "what is there stays")
		}
		_, all, _ = enrichments(ecsLine(t, b, `{"threat":{"enrichments":{}},"related":{"ip":"x"},`+source+`}`))
		assert.Equal(t, 20, all)
		// The same value under two names is two matches.
		ours, _, related = enrichments(ecsLine(t, b, `{"source":{"ip":"198.51.100.55"},"destination":{"ip":"198.51.100.55"}}`))
		assert.Equal(t, []string{"198.51.100.55", "198.51.100.55"}, ours)
		assert.Equal(t, []string{"198.51.100.55"}, related)
		assert.Zero(t, b.figure("ecs_refused_total", "threat"))
	})
}

func TestECSOnlyOnHitsAndWhereWanted(t *testing.T) {
	harmless, hit := ipEvent("203.0.113.9"), ipEvent("203.0.113.7")
	for name, c := range map[string]struct {
		ecs             enrich.ECS
		trust           bool
		sent            string
		threat, related bool
	}{
		"harmless":      {ecs: ecsOn, sent: harmless},
		"not known":     {ecs: ecsOn, sent: ipEvent("203.0.113.77")},
		"nothing":       {ecs: ecsOn, sent: `{"a":1}`},
		"hit":           {ecs: ecsOn, sent: hit, threat: true, related: true},
		"threat only":   {ecs: enrich.ECS{Threat: true}, sent: hit, threat: true},
		"related only":  {ecs: enrich.ECS{Related: true}, sent: hit, related: true},
		"off":           {sent: hit},
		"trusted stays": {ecs: ecsOn, trust: true, sent: strings.TrimSuffix(hit, "}") + `,"arcanna":{"ioc":{}}}`},
	} {
		inECS(t, enrich.Config{ECS: c.ecs, TrustVerdicts: c.trust}, func(t *testing.T, b *bench) {
			line := ecsLine(t, b, c.sent)
			assert.Equal(t, c.threat, strings.Contains(line, `"threat":`), name)
			assert.Equal(t, c.related, strings.Contains(line, `"related":`), name)
		})
	}
	inECS(t, enrich.Config{ECS: enrich.ECS{Threat: true, MatchedType: `my "type"`}}, func(t *testing.T, b *bench) {
		assert.Contains(t, ecsLine(t, b, hit), `"type":"my \"type\""`)
	})
}

// Portions, rounds and memory bounds hold with much added, and what is rendered
// ahead is the same as what is rendered anew.
func TestECSInLargeBatches(t *testing.T) {
	inECS(t, enrich.Config{ECS: ecsOn, Details: enrich.DetailsNone}, func(t *testing.T, b *bench) {
		long := strings.Repeat("a", 1800)
		var events []string
		for i := range 600 {
			u := fmt.Sprintf("http://evil.example.org/%d/%s", i%150, long)
			b.source.say(u, reply{answer: flagged(9, 0, day)})
			own := ""
			if i%2 == 0 {
				own = `"threat":{"enrichments":{"a":1}},"related":{"hosts":"x"},`
			}
			events = append(events, fmt.Sprintf(`{%s"url":{"full":%q}}`, own, u))
		}
		budget := &fakeBudget{t: t}
		out, err := b.run(context.Background(), batch(budget, events...))
		require.NoError(t, err)
		require.Zero(t, budget.now())
		require.Len(t, out.lines, len(events))
		for i, l := range out.lines {
			hosts := `"related":{"hosts":["evil.example.org"]}`
			if i%2 == 0 {
				hosts = `"related":{"hosts":["x","evil.example.org"]}`
				require.Contains(t, l, `"threat":{"enrichments":[{"a":1},{"indicator":{"type":"url"`)
			}
			require.Contains(t, l, hosts)
			require.Equal(t, 4, strings.Count(l, fmt.Sprintf(`:"http://evil.example.org/%d/%s"`, i%150, long)), "the event's, the part's, indicator.url.full, matched.atomic")
		}
	})
}

// FuzzECS: whatever the event has, one valid line comes out, what it has stays,
// and a second time nothing more is added.
func FuzzECS(f *testing.F) {
	for _, s := range []string{
		`{"threat":{"enrichments":[{"a":1}]},"related":{"ip":["192.0.2.1"]},"source.ip":"203.0.113.1"}`,
		`{"threat.enrichments":{},"related.ip":"x","source":{"ip":"203.0.113.1"}}`,
		`{"threat":{"enrichments":"x"},"related":{"ip":{}},"source":{"ip":"203.0.113.1"}}`,
		`{ "threat" : { } , "related" : [ ] , "source" : { "ip" : "203.0.113.1" } }`,
		`{"threat":{},"threat":{"enrichments":[]},"related":{"ip":[],"ip":"y"},"source":{"ip":"203.0.113.1"}}`,
		"{\"\\u0074hreat\":\n{\"enrichments\\u002ex\":1},\"source\":{\"ip\":\"203.0.113.1\"},\"arcanna\":5}",
	} {
		f.Add([]byte(s))
	}
	stamp := regexp.MustCompile(`"updated_at":"[^"]*"`)
	b := newBench(f, enrich.Config{ECS: ecsOn, IDFromContent: true}, nil, nil)
	f.Cleanup(b.close)
	b.answers.Set("ip:203.0.113.1", flagged(9, 0, 0), time.Hour)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b.t = t
		budget := &fakeBudget{t: t}
		out, err := b.run(context.Background(), batch(budget, string(raw)))
		require.NoError(t, err)
		require.Zero(t, budget.now())
		for _, l := range out.lines {
			requireStays(t, raw, []byte(l))
			again := func(l string) outcome {
				out, err := b.run(context.Background(), batch(budget, strings.TrimSuffix(l, "\n")))
				require.NoError(t, err)
				require.Len(t, out.lines, 1)
				return out
			}
			second := again(l)
			third := again(second.lines[0])
			require.Equal(t, second.ids, third.ids)
			require.Equal(t, stamp.ReplaceAllString(second.lines[0], ""), stamp.ReplaceAllString(third.lines[0], ""))
		}
	})
}

// requireStays holds the line against the event as encoding/json sees both:
// outside of arcanna all that the event has is in the line.
func requireStays(t *testing.T, raw, line []byte) {
	t.Helper()
	decode := func(b []byte) map[string]any {
		var m map[string]any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		require.NoError(t, d.Decode(&m))
		return m
	}
	was, is := decode(raw), decode(line)
	for k, v := range was {
		if k == "@metadata" || strings.HasPrefix(k, "@metadata.") || k == "arcanna" || strings.HasPrefix(k, "arcanna.") {
			continue
		}
		require.True(t, within(v, is[k]), "%q: %v is not in %v", k, v, is[k])
	}
}

// within says whether b is a, or a with more in it: members, elements, or a list
// around it.
func within(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		if m, ok := b.(map[string]any); ok {
			for k, v := range a {
				if _, ok := m[k]; !ok || !within(v, m[k]) {
					return false
				}
			}
			return true
		}
	case []any:
		l, ok := b.([]any)
		return ok && len(l) >= len(a) && slices.EqualFunc(a, l[:len(a)], within)
	}
	if l, ok := b.([]any); ok && len(l) > 1 {
		return within(a, l[0])
	}
	return assert.ObjectsAreEqual(a, b)
}
