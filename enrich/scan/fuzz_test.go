package scan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
)

// fuzzFields reaches everything that fields can do, in short names.
var fuzzFields = []Field{
	{Path: "a"}, {Path: "a.b"}, {Path: "a.b"}, {Path: "a.b.c"}, {Path: "source.ip"}, {Path: "message"},
	{Path: "h", Hashes: true}, {Path: "h.md5"}, {Path: "p.h", Hashes: true}, {Path: "p.h.sha256", Hashes: true},
	{Path: "arcanna.note"}, {Path: "arcanna.ioc.x"}, {Path: "@metadata.x"}, {Path: "arcanna.ioc", Hashes: true},
}

var fuzzRoutes = []string{"a.b", "@timestamp", "a", "log.offset", "n", "p.h.sha256", "arcanna.note"}

var fuzzSeeds = []string{
	// reference/lumberjack.md: what cannot be an event.
	`1`, `"x"`, `true`, `null`, `[]`, `[{"a":1}]`, "\xef\xbb\xbf{}", ``, ` `, "{\"a\":\"\xff\"}", `{"a":1}{"b":2}`, `{"a":1} x`,
	`{"a":1,}`, `[1,]`, `{"a":[1,]}`, `{"a":NaN}`, `{"a":Infinity}`, "{\"a\":\"\x01\"}", "{\"a\":\"\n\"}", "{\"a\x00\":1}",
	strings.Repeat(`{"a":`, 1000) + `1` + strings.Repeat(`}`, 1000), strings.Repeat(`{"a":`, 1001) + `1` + strings.Repeat(`}`, 1001),
	// What must be stored byte for byte.
	`{"a":"\ud800","b":"\udc00\ud800","c":"\ud83d\ude00","d":"\ud800\u0041"}`, `{"a":1,"a":2,"a":{"b":"x"},"a":{"b":"y"}}`,
	`{"n":[9007199254740993,18446744073709551615,1e400,-0,0.0,1E+2,-1.5e-7]}`, `{"@timestamp":"yesterday"}`, `{"sour\u0063e":{"i\u0070":"192.0.2.1"}}`,
	"{\r\n\t\"a\" :\r\n 1 ,\n\"b\":[ 1\n,\r2 ] }\r\n",
	`{"@metadata":"x","a":1}`, `{"a":1,"@metadata":{"beat":"f"}}`, `{"@metadata":1,"a":1,"@metadata":2}`, `{"@metadata":{}}`, `{"@metadata":1,"@metadata":2}`,
	`{"@metadata._id":"x","a":"b"}`, `{"@metad\u0061ta":{"_id":"q\u0041\n"},"x":{"@metadata":1}}`, `{ "@metadata" : [ 1 ] , "a" : 1 , "@metadata.x" : 2 }`,
	// Verdicts.
	`{"arcanna":{"ioc":{"x":"evil"},"note":"n"}}`, `{"arcanna":{"note":"n","ioc":1}}`, `{"arcanna":{"ioc":1}}`, `{"arcanna":{}}`, `{"arcanna":5}`, `{"arcanna":"s","arcanna":{}}`,
	`{"arcanna.ioc":1,"arcanna.ioc.x":"y","arcanna.note":"k","b":2}`, `{"arcanna":{"ioc.x":1,"ioc.y":2},"arcanna":{"n":1}}`, `{"\u0061rcanna":{"i\u006fc":1,"z":2}}`,
	`{"arcanna":[{"ioc":1},{"n":2}]}`, `{"arcanna":[]}`, `{"arcanna.ioc":1,"@metadata":2}`, `{"@metadata":2,"arcanna.ioc":1}`, `{"a":1,"arcanna.ioc":1,"@metadata":2,"b":3}`, `{"x":{"arcanna":{"ioc":1}}}`,
	`{"arcanna":null,"arcanna.ioc":{"arcanna":{"ioc":1}}}`, `{"@metadata":{"arcanna":{"ioc":1},"@metadata":{"_id":"no"}}}`,
	`{"arcanna":{"ioc":0}}`,
	// What hits add to.
	`{"threat":{"enrichments":[{"indicator":{"ip":"192.0.2.1","url.full":"x"},"matched":{"id":"i"}}],"n":1},"related":{"ip":["192.0.2.1"],"user":["u"]},"arcanna":{"ioc":1}}`,
	`{"threat":{},"related.ip":"192.0.2.1","related.user":"u","threat.enrichments.matched.occurred":"t","arcanna.ioc":{}}`,
	`{"threat":"x","related":["y"],"related.hash":[],"thre\u0061t.enrichments":{},"a":[{"threat":{}}]}`,
	// Fields and hashes.
	`{"a":["x",["y",{"b":"z"}],{"b":{"c":"w"}}],"a.b":"v","a.b.c":"u","a":{"b.c":"t"}}`,
	`{"h":{"md5":"1","sha256":"2","n":3,"o":{"q":"r"},"l":["s"]},"h.md5":"4","h.sha1":"5","p.h.md5":"6","p":{"h.sha256":"7","h":{"sha256":"8"}},"h":"9","h":["10",{"x":"11"}]}`,
	`{"p.h.sha256":{"x":"1"},"p":[{"h.md5":"1","h.sha1":"2"},{"h.md5":"3"}]}`, `{"p":{"h.\ud800":"1","h":{"\u006dd5\ud800":"\ud800"}}}`,
	`{"":{"":1},".":2,"a..b":3,"a.":4,".a":5}`,
	// Where it goes.
	`{"a":{"b":"x"},"@timestamp":5,"n":true,"log":{"offset":null}}`, `{"a":"\u0078","a.b":"","n":[1],"log.offset":1e5,"log":{"offset":{}}}`, `{"n":1,"n":false,"a":[{"b":"x"}],"p":{"h.sha256":"s"}}`,
	`{"@metadata.x":1,"@metadata":{"n":1}}`, `{"@metadata":{"n":1} , "@metadata.x":1}`,
	// Identity.
	`{"log":{"file":{"path":"/x"},"offset":0},"@timestamp":"t","agent":{"ephemeral_id":"e"},"event":{"created":"c","ingested":"i"}}`,
	`{"log.offset":5,"log.file.path":"x","@timestamp":["t"]}`,
	`{"message":"C:\\Windows\\System32\\\"cmd.exe\" /c \ttäst\r\n漢字 \u6f22\u5b57 😀"}`,
	`{"aaaaaaaaaaaaaaa":1,"aaaaaaaaaaaaaaaa":2,"aaaaaaaaaaaaaaaaa":3,"aaaaaaa":4,"aaaaaaaa":5,"aaaaaaa.":6,"ä":7}`,
}

// padded is the event with a sentinel of the given byte behind it.
func padded(raw string, fill byte) []byte {
	b := append(make([]byte, 0, len(raw)+event.Sentinel), raw...)
	copy(b[len(b):cap(b)], bytes.Repeat([]byte{fill}, event.Sentinel))
	return b
}

func FuzzScan(f *testing.F) {
	for _, s := range fuzzSeeds {
		f.Add([]byte(s))
	}
	s, err := New(Config{Fields: fuzzFields, Routes: fuzzRoutes, MaxValues: 1 << 20})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, in []byte) {
		raw := string(in)
		var r Result
		err := s.Scan(in[:len(in):len(in)], &r) // copied
		want, refErr := refParse(in)
		require.Equal(t, refErr == nil, err == nil, "accepts: reference %v, scan %v", refErr, err)

		// What lies behind the event must not matter.
		for _, fill := range []byte("\x00\"{[}] \\u0d\xff\x80,:1") {
			var other Result
			require.Equal(t, err, s.Scan(padded(raw, fill), &other))
			if err == nil {
				require.Equal(t, r.Digest, other.Digest)
				require.Equal(t, regroup(r.Values), regroup(other.Values))
				require.Equal(t, r.cuts, other.cuts)
			}
		}
		if err != nil {
			return
		}

		const ioc = `{"n":1}`
		line := r.AppendLine([]byte("before"), in, []byte(ioc))
		require.True(t, bytes.HasPrefix(line, []byte("before")))
		line = line[len("before"):]
		requireOneLine(t, line)
		require.Equal(t, refLine(want, ioc), squeeze(line))
		kept := r.AppendLineKeepingVerdict(nil, in)
		requireOneLine(t, kept)
		var b bytes.Buffer
		want.prune(nil, false).write(&b)
		require.Equal(t, b.String(), squeeze(kept))
		if len(r.metaCuts) == 0 {
			require.Equal(t, strings.Trim(strings.NewReplacer("\r", " ", "\n", " ").Replace(raw), " \t")+"\n", string(kept))
		}
		require.Equal(t, string(in), raw, "the event itself was changed")

		for _, path := range []string{"a", "a.b", "a.b.c", "arcanna.ioc", "related.ip", "threat.enrichments"} {
			requireSite(t, want, raw, path, r.Find(in, path))
		}

		require.Equal(t, refRoutes(want, fuzzRoutes), r.Routes)
		meta := r.Metadata(in)
		if value := refMetadata(want); value == nil {
			require.Zero(t, meta)
		} else {
			var b bytes.Buffer
			value.write(&b)
			require.Equal(t, b.String(), squeeze(in[meta.From:meta.To]))
		}

		require.Equal(t, regroup(refValues(want, fuzzFields)), regroup(r.Values))
		for _, v := range r.Values {
			require.True(t, utf8.Valid(v.Text) && utf8.Valid(v.Key))
		}
		requireSameByStandard(t, in, line)

		// What came out is an event with the same identity, and says so itself.
		var again Result
		require.NoError(t, s.Scan(line, &again))
		require.True(t, again.HadVerdict)
		require.Empty(t, again.metaCuts)
		require.Equal(t, line, again.AppendLine(nil, line, []byte(ioc)), "not stable")
	})
}

// requireSite holds what Find found against the tree.
func requireSite(t *testing.T, n *refNode, raw, path string, got Site) {
	t.Helper()
	var value, object *refNode
	blocked := false
	var look func(n *refNode, path string)
	look = func(n *refNode, path string) {
		for _, m := range n.members {
			key := exact(m.units)
			switch {
			case key == path:
				value = m.value
			case strings.HasPrefix(key, path+"."), strings.HasPrefix(path, key+".") && m.value.kind != '{':
				blocked = true
			case strings.HasPrefix(path, key+"."):
				object = m.value
				look(m.value, path[len(key)+1:])
			}
		}
	}
	look(n, path)
	require.Equal(t, blocked, got.Blocked, path)
	for _, x := range []struct {
		want *refNode
		got  Span
	}{{value, got.Value}, {object, got.Object}} {
		if x.want == nil {
			require.Zero(t, x.got, path)
			continue
		}
		var b bytes.Buffer
		x.want.write(&b)
		require.Equal(t, b.String(), squeeze([]byte(raw[x.got.From:x.got.To])), path)
		if x.want.kind == '{' || x.want.kind == '[' {
			require.Equal(t, len(x.want.members)+len(x.want.elements) == 0, Empty([]byte(raw), x.got.From))
		}
		if x.want.kind == '[' {
			count := 0
			for e := range Elements([]byte(raw), x.got.From) {
				b.Reset()
				x.want.elements[count].write(&b)
				require.Equal(t, b.String(), squeeze([]byte(raw[e.From:e.To])))
				count++
			}
			require.Equal(t, len(x.want.elements), count)
		}
	}
}

func requireOneLine(t *testing.T, line []byte) {
	t.Helper()
	require.True(t, bytes.HasSuffix(line, []byte("\n")))
	require.Equal(t, len(line)-1, bytes.IndexAny(line, "\r\n"), "more than one line: %q", line)
	require.True(t, json.Valid(line), "%q", line)
	require.True(t, utf8.Valid(line))
}

// requireSameByStandard compares the event and its line as encoding/json sees
// them, where no key stands twice (it would keep one of them only).
func requireSameByStandard(t *testing.T, in, line []byte) {
	t.Helper()
	a, errA := decodeUnique(in)
	b, errB := decodeUnique(line)
	if errA != nil || errB != nil {
		return
	}
	strip := func(m map[string]any) {
		for k := range m {
			if k == "@metadata" || strings.HasPrefix(k, "@metadata.") || k == "arcanna.ioc" || strings.HasPrefix(k, "arcanna.ioc.") || k == "arcanna" {
				delete(m, k) // arcanna itself is compared with the reference
			}
		}
	}
	strip(a)
	strip(b)
	require.Equal(t, a, b)
}

func decodeUnique(doc []byte) (map[string]any, error) {
	n, err := refParse(doc)
	if err != nil {
		return nil, err
	}
	if n.duplicates() {
		return nil, errReference
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var m map[string]any
	return m, d.Decode(&m)
}

func (n *refNode) duplicates() bool {
	seen := map[string]bool{}
	for _, m := range n.members {
		if k := text(m.units); seen[k] {
			return true
		} else {
			seen[k] = true
		}
		if m.value.duplicates() {
			return true
		}
	}
	return slices.ContainsFunc(n.elements, (*refNode).duplicates)
}

// FuzzDigest: an event written anew in another order, other groupings and other
// escapes is the same event; with one leaf changed it is another.
func FuzzDigest(f *testing.F) {
	for i, s := range fuzzSeeds {
		f.Add([]byte(s), uint64(i))
	}
	s, err := New(Config{})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, in []byte, seed uint64) {
		n, err := refParse(in)
		if err != nil {
			return
		}
		digest := func(n *refNode) [16]byte {
			var b bytes.Buffer
			n.write(&b)
			var r Result
			require.NoError(t, s.Scan(b.Bytes(), &r), "%s", b.Bytes())
			return r.Digest
		}
		leaves := func(n *refNode) []string { return refLeaves(n, refIsFile(n.prune(nil, true))) }
		was, had := digest(n), leaves(n)
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 3 {
			other := n.shuffle(rng)
			require.Equal(t, had, leaves(other), "the test's own shuffle")
			require.Equal(t, was, digest(other))
		}
		for range 3 {
			other := n.change(rng)
			require.Equal(t, slices.Equal(had, leaves(other)), was == digest(other))
		}
	})
}

// shuffle writes the tree anew: members in another order, strings with other
// escapes, and dotted keys in place of objects of one member.
func (n *refNode) shuffle(rng *rand.Rand) *refNode {
	out := *n
	out.members, out.elements = nil, nil
	for _, m := range n.members {
		m.value = m.value.shuffle(rng)
		if m.value.kind == '{' && len(m.value.members) == 1 && rng.IntN(2) == 0 {
			in := m.value.members[0]
			m.units = append(append(slices.Clone(m.units), '.'), in.units...)
			m.value = in.value
		}
		m.spelling = respell(m.units, rng)
		out.members = append(out.members, m)
	}
	rng.Shuffle(len(out.members), func(i, j int) { out.members[i], out.members[j] = out.members[j], out.members[i] })
	for _, e := range n.elements {
		out.elements = append(out.elements, e.shuffle(rng))
	}
	if n.kind == '"' {
		out.spelling = respell(n.units, rng)
	}
	return &out
}

// respell writes a string with escapes or without, as the dice fall.
func respell(units []uint16, rng *rand.Rand) string {
	b := []byte{'"'}
	plain := rng.IntN(2) == 0
	for _, u := range units {
		if plain && u >= ' ' && u < 0x7f && u != '"' && u != '\\' {
			b = append(b, byte(u))
		} else {
			b = fmt.Appendf(b, `\u%04x`, u)
		}
	}
	return string(append(b, '"'))
}

// change alters one leaf, or takes one member or element away.
func (n *refNode) change(rng *rand.Rand) *refNode {
	out := *n
	out.members, out.elements = slices.Clone(n.members), slices.Clone(n.elements)
	switch {
	case len(n.members) > 0:
		i := rng.IntN(len(n.members))
		if rng.IntN(8) == 0 {
			out.members = slices.Delete(out.members, i, i+1)
		} else {
			out.members[i].value = n.members[i].value.change(rng)
		}
	case len(n.elements) > 0:
		i := rng.IntN(len(n.elements))
		if rng.IntN(8) == 0 {
			out.elements = slices.Delete(out.elements, i, i+1)
		} else {
			out.elements[i] = n.elements[i].change(rng)
		}
	case n.kind == '"':
		out.units = append(slices.Clone(n.units), 'x')
		out.spelling = respell(out.units, rng)
	case n.kind == 'x' && rng.IntN(2) == 0:
		out.kind, out.units = '"', []uint16{}
		for _, c := range n.spelling {
			out.units = append(out.units, uint16(c))
		}
		out.spelling = `"` + n.spelling + `"`
	case n.kind == 'x':
		out.spelling = "12345"
	}
	return &out
}
