package examples_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
	"vtsidecar/enrich"
)

// document is an event decoded, numbers as they are spelled.
type document map[string]any

func decoded(t *testing.T, raw []byte) (d document) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	require.NoError(t, dec.Decode(&d))
	return d
}

func shapeNamed(t *testing.T, name string) document {
	t.Helper()
	data, err := os.ReadFile("shapes/" + name + ".json")
	require.NoError(t, err)
	var s shape
	require.NoError(t, json.Unmarshal(data, &s))
	return decoded(t, s.Event)
}

// with is the document with the values at these dotted paths; nil takes one away.
func (d document) with(changes map[string]any) document {
	out := copied(map[string]any(d)).(map[string]any)
	for path, v := range changes {
		m := out
		keys := strings.Split(path, ".")
		for _, key := range keys[:len(keys)-1] {
			next, ok := m[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				m[key] = next
			}
			m = next
		}
		if last := keys[len(keys)-1]; v == nil {
			delete(m, last)
		} else {
			m[last] = v
		}
	}
	return out
}

func copied(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := maps.Clone(v)
		for k := range out {
			out[k] = copied(out[k])
		}
		return out
	case []any:
		out := slices.Clone(v)
		for i := range out {
			out[i] = copied(out[i])
		}
		return out
	}
	return v
}

// sent is the document as JSON. libbeat encodes an event anew for each send and
// its maps come in any order; between here and there somebody may also write
// dotted keys for objects, other escapes and white space.
func (d document) sent(rng *rand.Rand) []byte {
	return appendSent(nil, map[string]any(d), rng)
}

func appendSent(dst []byte, v any, rng *rand.Rand) []byte {
	space := func() { dst = append(dst, []string{"", "", " ", "\t", "\r\n"}[rng.IntN(5)]...) }
	switch v := v.(type) {
	case map[string]any:
		members := map[string]any{}
		for k, m := range v {
			if below, ok := m.(map[string]any); ok && len(below) > 0 && rng.IntN(4) == 0 {
				for k2, m2 := range below {
					members[k+"."+k2] = m2
				}
				continue
			}
			members[k] = m
		}
		keys := slices.Sorted(maps.Keys(members))
		rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		dst = append(dst, '{')
		for i, k := range keys {
			if i > 0 {
				dst = append(dst, ',')
			}
			space()
			dst = append(appendSpelled(dst, k, rng), ':')
			space()
			dst = appendSent(dst, members[k], rng)
			space()
		}
		return append(dst, '}')
	case []any:
		dst = append(dst, '[')
		for i, m := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			space()
			dst = appendSent(dst, m, rng)
		}
		return append(dst, ']')
	case string:
		return appendSpelled(dst, v, rng)
	case json.Number:
		return append(dst, v...)
	default:
		return fmt.Append(dst, v)
	}
}

// appendSpelled writes a string with more escapes or fewer, as the dice fall.
func appendSpelled(dst []byte, s string, rng *rand.Rand) []byte {
	if rng.IntN(3) > 0 {
		plain, _ := json.Marshal(s) // cannot fail
		return append(dst, plain...)
	}
	dst = append(dst, '"')
	for _, u := range utf16.Encode([]rune(s)) {
		dst = fmt.Appendf(dst, `\u%04x`, u)
	}
	return append(dst, '"')
}

// again is what differs when a restarted Beat reads an event once more: it is
// another process, and what it stamps by its clock is later.
func again(d document, stamped bool) document {
	changes := map[string]any{"agent.ephemeral_id": "00c0ffee-0000-4000-8000-000000000000", "event.created": "2026-01-02T09:59:59.999Z"}
	if stamped {
		changes["@timestamp"] = "2026-01-02T09:59:59.998Z"
	}
	return d.with(changes)
}

// input is a row of the table in docs/identity.md.
type input struct {
	name     string
	event    document
	position []string // the fields that name the event's place
	stamped  bool     // @timestamp is when the Beat read or received it
	lost     bool     // after a restart there is nothing to read again
	reused   string   // when another event comes to stand in its place
	other    document // which one
}

func inputs(t *testing.T) []input {
	file := []string{"log.file.path", "log.offset"}
	windows := []string{"winlog.channel", "winlog.computer_name", "winlog.record_id"}
	line := map[string]any{"message": "another line"}
	named := func(name string) document { return shapeNamed(t, name) }
	syslog := named("filebeat-syslog")
	tcp := syslog.with(map[string]any{"input.type": "tcp", "syslog": nil, "hostname": nil})
	stdin := named("filebeat-log").with(map[string]any{"input.type": "stdin", "log": nil})
	polled := named("filebeat-kafka").with(map[string]any{"input.type": "httpjson", "kafka": nil, "event.created": "2026-01-02T08:31:16.100Z"})
	pubsub := polled.with(map[string]any{"input.type": "gcp-pubsub", "@metadata._id": "90ab34cd12-7712093311", "event.id": "90ab34cd12-7712093311"})
	return []input{
		{name: "Filebeat `log`", event: named("filebeat-log"), position: file, stamped: true, reused: "rotated: another line at its path and offset", other: named("filebeat-log").with(line)},
		{name: "Filebeat 8 `filestream`", event: named("filebeat-filestream"), position: file, stamped: true, reused: "truncated (`copytruncate`): another line at its path, inode and offset", other: named("filebeat-filestream").with(line)},
		{name: "Filebeat 9 `filestream`", event: named("filebeat9-filestream"), position: file, stamped: true, reused: "rotated: an equal line in another file (`log.file.inode`, `.fingerprint`)", other: named("filebeat9-filestream").with(map[string]any{"log.file.inode": "1310988", "log.file.fingerprint": strings.Repeat("1f", 32)})},
		{name: "Filebeat `filestream` with `ndjson`", event: named("filebeat-json"), position: file, stamped: true, reused: "rotated: another line", other: named("filebeat-json").with(map[string]any{"destination.port": json.Number("444")})},
		{name: "Filebeat `container`", event: named("filebeat-container"), position: file, stamped: true, reused: "the container's log was rotated", other: named("filebeat-container").with(line)},
		{name: "Winlogbeat 8", event: named("winlogbeat8-sysmon-01"), position: windows, reused: "a re-imaged host of the same name: its records count from 1 again", other: named("winlogbeat8-sysmon-01").with(map[string]any{"@timestamp": "2026-03-01T10:00:00.000Z", "agent.id": "f1d2d2f9-24e9-46ac-86fd-f7d6c94c64b5"})},
		{name: "Winlogbeat 7", event: named("winlogbeat7-sysmon-01"), position: windows, reused: "the same, with no other difference than `agent.id`", other: named("winlogbeat7-sysmon-01").with(map[string]any{"agent.id": "f1d2d2f9-24e9-46ac-86fd-f7d6c94c64b5"})},
		{name: "Filebeat `kafka`", event: named("filebeat-kafka"), position: []string{"kafka.offset", "kafka.partition", "kafka.topic"}, reused: "the topic was deleted and made again", other: named("filebeat-kafka").with(line)},
		{name: "Filebeat `aws-s3`", event: named("filebeat-aws-s3"), stamped: true, reused: "the object was overwritten", other: named("filebeat-aws-s3").with(line)},
		{name: "Filebeat `gcp-pubsub`", event: pubsub},
		{name: "Filebeat `journald`", event: named("filebeat-journald")},
		{name: "Filebeat `syslog`, `udp`", event: syslog, stamped: true, lost: true},
		{name: "Filebeat `tcp`, `unix`", event: tcp, stamped: true, lost: true},
		{name: "Filebeat `stdin`", event: stdin, stamped: true, lost: true},
		{name: "Filebeat `httpjson`, `cel`, `http_endpoint`", event: polled, stamped: true},
		{name: "Packetbeat", event: named("packetbeat-dns"), lost: true},
		{name: "Auditbeat", event: named("auditbeat-file-integrity"), stamped: true, lost: true},
	}
}

// identities makes identities with the default settings, but for what cfg says.
type identities struct {
	t   *testing.T
	e   *enrich.Enricher
	rng *rand.Rand
}

func newIdentities(t *testing.T, cfg enrich.Config) *identities {
	return &identities{t: t, e: newEnricher(t, cfg), rng: rand.New(rand.NewPCG(11, 12))}
}

// same says whether all sends of two documents have one identity; anything
// between all and none is a mistake.
func (x *identities) same(a, b document) bool {
	x.t.Helper()
	first, _ := enriched(x.t, x.e, a.sent(x.rng))
	equal := 0
	const sends = 10
	for range sends {
		id, _ := enriched(x.t, x.e, b.sent(x.rng))
		if id == first {
			equal++
		}
	}
	require.Contains(x.t, []int{0, sends}, equal, "the way in which an event is written matters")
	return equal > 0
}

var word = map[bool]string{true: "the same", false: "another"}

// What each input gives: the table in docs/identity.md.
func TestIdentityOfEachInput(t *testing.T) {
	standard := newIdentities(t, enrich.Config{IDMetadata: true})
	content := newIdentities(t, enrich.Config{IDMetadata: true, IDFromContent: true})
	var table strings.Builder
	table.WriteString("| input | identity of | sent again | read again by a restarted Beat | another event in its place | with `id.from_content`: sent again, read again |\n|---|---|---|---|---|---|\n")
	for _, in := range inputs(t) {
		of := "each receipt: random"
		switch _, hasID := in.event["@metadata"].(map[string]any)["_id"]; {
		case hasID:
			of = "`@metadata._id`"
		case len(in.position) > 0:
			of = "`" + strings.Join(in.position, "`, `") + "` and content"
		}
		for _, field := range in.position { // each of them is needed
			without := in.event.with(map[string]any{field: nil})
			assert.False(t, standard.same(without, without), "%s without %s", in.name, field)
		}
		resent := standard.same(in.event, in.event)
		assert.Equal(t, !strings.Contains(of, "random"), resent, in.name)
		reread := "there is nothing to read"
		contentReread := ""
		if !in.lost {
			reread = word[standard.same(in.event, again(in.event, in.stamped))]
			contentReread = ", " + word[content.same(in.event, again(in.event, in.stamped))]
		}
		reused := ""
		if in.reused != "" {
			reused = in.reused + ": " + word[standard.same(in.event, in.other)]
		}
		fromContent := word[content.same(in.event, in.event)] + contentReread
		if resent {
			fromContent = "no difference"
			assert.Equal(t, standard.same(in.event, again(in.event, in.stamped)), content.same(in.event, again(in.event, in.stamped)), in.name)
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s | %s |\n", in.name, of, word[resent], reread, reused, fromContent)
	}
	section(t, "../docs/identity.md", "inputs", table.String())
}

// What two sends of one event may differ in, and what makes them two events.
func TestWhatIdentityCounts(t *testing.T) {
	x := newIdentities(t, enrich.Config{IDMetadata: true, IDFromContent: true})
	line, record := shapeNamed(t, "filebeat-filestream"), shapeNamed(t, "winlogbeat8-sysmon-03")
	line = line.with(map[string]any{"host.ip": []any{"10.31.0.7", "fe80::7"}, "size": json.Number("1"), "tags": []any{"dmz", "web"}})
	record = record.with(map[string]any{"host.ip": []any{"10.31.4.42"}, "size": json.Number("1"), "tags": []any{"dmz", "web"}})
	var table strings.Builder
	table.WriteString("| what differs | line of a file | record of Windows |\n|---|---|---|\n")
	for _, c := range []struct {
		what    string
		changes map[string]any
		both    map[string]any // what both have
	}{
		{what: "order of members, white space, escapes, dotted keys for objects"},
		{what: "`agent.ephemeral_id`, `event.created`, `event.ingested`", changes: map[string]any{"agent.ephemeral_id": "x", "event.created": "2027-01-01T00:00:00Z", "event.ingested": "2027-01-01T00:00:00Z"}},
		{what: "anything in `@metadata` but `_id`", changes: map[string]any{"@metadata.pipeline": "p", "@metadata.version": "8.17.1"}},
		{what: "an incoming `arcanna.ioc`", changes: map[string]any{"arcanna.ioc.event_id": "x"}},
		{what: "what hits add to `threat` and `related`, in an event that comes with an `arcanna.ioc`", both: map[string]any{"arcanna.ioc.schema": json.Number("1")},
			changes: map[string]any{"related.ip": []any{"203.0.113.77"}, "threat.enrichments": []any{map[string]any{"matched": map[string]any{"occurred": "2027-01-01T00:00:00Z"}}}}},
		{what: "the same in one that comes without", changes: map[string]any{"related.ip": []any{"203.0.113.77"}}},
		{what: "`@timestamp`", changes: map[string]any{"@timestamp": "2027-01-01T00:00:00.000Z"}},
		{what: "`message`, or any other field", changes: map[string]any{"message": "other"}},
		{what: "the order of a list", changes: map[string]any{"tags": []any{"web", "dmz"}}},
		{what: "the spelling of a number (`1`, `1.0`)", changes: map[string]any{"size": json.Number("1.0")}},
		{what: "a number written as a string", changes: map[string]any{"size": "1"}},
		{what: "`agent.version` (an upgrade), `host.*` (another address)", changes: map[string]any{"agent.version": "8.18.0", "host.ip": []any{"10.31.0.8"}}},
		{what: "`agent.id` (another Beat)", changes: map[string]any{"agent.id": "x"}},
		{what: "`log.file.path` (renamed and read again)", changes: map[string]any{"log.file.path": "/var/log/nginx/access.log.1"}},
	} {
		line, record := line.with(c.both), record.with(c.both)
		fmt.Fprintf(&table, "| %s | %s | %s |\n", c.what, word[x.same(line, line.with(c.changes))], word[x.same(record, record.with(c.changes))])
	}
	section(t, "../docs/identity.md", "content", table.String())
}

// What the pages promise and concede, each by name.
func TestIdentityInOddCases(t *testing.T) {
	standard := newIdentities(t, enrich.Config{IDMetadata: true})
	content := newIdentities(t, enrich.Config{IDMetadata: true, IDFromContent: true})
	withoutID := newIdentities(t, enrich.Config{})
	line := shapeNamed(t, "filebeat-filestream")
	header := line.with(map[string]any{"message": "#Fields: date time", "log.offset": json.Number("0")})
	journal, datagram, record := shapeNamed(t, "filebeat-journald"), shapeNamed(t, "filebeat-syslog"), shapeNamed(t, "filebeat-kafka")
	object := shapeNamed(t, "filebeat-aws-s3")
	for _, c := range []struct {
		what string
		x    *identities
		a, b document
		same bool
	}{
		{"two inputs that read one file", standard, line, line, true},
		{"two inputs that read one file, one of which adds a tag", standard, line, line.with(map[string]any{"tags": []any{"x"}}), false},
		{"two types of input that read one file", standard, line, line.with(map[string]any{"input.type": "log"}), false},
		{"two Beats that read one file", standard, line, line.with(map[string]any{"agent.id": "x"}), false},
		{"the same line twice in one file", standard, line, line.with(map[string]any{"log.offset": json.Number("92000")}), false},
		{"an equal line at an equal offset after copytruncate", standard, header, again(header, true), true},
		{"an equal line at an equal offset of a new file", standard, header, header.with(map[string]any{"log.file.inode": "7"}), false},
		{"an _id, whatever the rest", standard, object, object.with(map[string]any{"message": "x", "log.offset": json.Number("1")}), true},
		{"an _id with id.metadata off: position and content count", withoutID, object, object, true},
		{"an _id with id.metadata off: other content", withoutID, object, object.with(map[string]any{"message": "x"}), false},
		{"an _id without a position, with id.metadata off", withoutID, object.with(map[string]any{"log": nil}), object.with(map[string]any{"log": nil}), false},
		{"another _id", standard, object, object.with(map[string]any{"@metadata._id": "4fae9d01c7-000000004097"}), false},
		{"an empty _id is none", standard, datagram.with(map[string]any{"@metadata._id": ""}), datagram.with(map[string]any{"@metadata._id": ""}), false},
		{"a long _id", standard, datagram.with(map[string]any{"@metadata._id": strings.Repeat("é", 600)}), datagram.with(map[string]any{"@metadata._id": strings.Repeat("é", 600), "message": "x"}), true},
		{"the journal's entry, by its content", content, journal, again(journal, false), true},
		{"two entries of the journal, a microsecond apart", content, journal, journal.with(map[string]any{"@timestamp": "2026-01-02T08:31:11.530113Z"}), false},
		{"two equal datagrams in one second, by their content", content, datagram, datagram, true},
		{"two equal elements of one Kafka record", standard, record, record, true},
		{"two elements of one Kafka record", standard, record, record.with(map[string]any{"message": "x"}), false},
	} {
		assert.Equal(t, c.same, c.x.same(c.a, c.b), c.what)
	}
}

// Every shape is one event however it is written, to the identity and to the fields.
func TestShapesWrittenAnew(t *testing.T) {
	c, err := configs.Load(configs.Input{})
	require.NoError(t, err)
	e := newEnricher(t, enrich.Config{IDFromContent: true}, c.Fields...)
	rng := rand.New(rand.NewPCG(13, 14))
	for _, s := range shapes(t) {
		event := decoded(t, s.Event)
		want, _ := enriched(t, e, s.Event)
		for range 10 {
			id, line := enriched(t, e, event.sent(rng))
			require.Equal(t, want, id, s.file)
			require.Equal(t, s.Parts, parts(t, iocOf(t, line), c.Fields), s.file)
		}
	}
}
