package scan

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pinned is the identity of the event at the end of TestDigest.
const pinned = "4fe2e6a1dd22724d03b16f6378e90c0a"

func sizeOf[T any]() uintptr { return reflect.TypeFor[T]().Size() }

func mustNew(t testing.TB, fields ...Field) *Scanner {
	t.Helper()
	s, err := New(Config{Fields: fields})
	require.NoError(t, err)
	return s
}

func mustScan(t testing.TB, s *Scanner, doc string) *Result {
	t.Helper()
	var r Result
	require.NoError(t, s.Scan([]byte(doc), &r), "%s", doc)
	return &r
}

func nested(depth int) string {
	return strings.Repeat(`{"a":`, depth-1) + `{}` + strings.Repeat(`}`, depth-1)
}

func TestMalformed(t *testing.T) {
	for _, c := range []struct {
		name, doc, reason string
		offset            int
	}{
		{"empty", ``, reasonEnd, 0},
		{"blank", " \r\n\t", reasonEnd, 4},
		{"number", ` 1`, reasonNotObject, 1},
		{"string", `"x"`, reasonNotObject, 0},
		{"true", `true`, reasonNotObject, 0},
		{"null", `null`, reasonNotObject, 0},
		{"array", `[{"a":1}]`, reasonNotObject, 0},
		{"byte order mark", "\xef\xbb\xbf{}", reasonBOM, 0},
		{"cut after the brace", `{`, reasonEnd, 1},
		{"cut in a key", `{"a`, reasonEnd, 3},
		{"cut after a key", `{"a"`, reasonEnd, 4},
		{"cut after the colon", `{"a":`, reasonEnd, 5},
		{"cut in a string", `{"a":"x`, reasonEnd, 7},
		{"cut in an escape", `{"a":"\`, reasonEnd, 7},
		{"cut in a hex escape", `{"a":"\u12`, reasonEnd, 10},
		{"cut in a character", "{\"a\":\"\xe6\xbc", reasonUTF8, 6},
		{"cut in a literal", `{"a":tru`, reasonEnd, 8},
		{"cut in a number", `{"a":1`, reasonEnd, 6},
		{"cut after minus", `{"a":-`, reasonEnd, 6},
		{"cut after a comma", `{"a":1,`, reasonEnd, 7},
		{"cut in an array", `{"a":[1,2`, reasonEnd, 9},
		{"two values", `{"a":1}{"b":2}`, reasonAfter, 7},
		{"a comma behind", `{},`, reasonAfter, 2},
		{"a NUL behind", "{}\x00", reasonAfter, 2},
		{"trailing comma", `{"a":1,}`, reasonSyntax, 7},
		{"trailing comma in an array", `{"a":[1,]}`, reasonSyntax, 8},
		{"leading comma", `{,"a":1}`, reasonSyntax, 1},
		{"no colon", `{"a" 1}`, reasonSyntax, 5},
		{"no comma", `{"a":1 "b":2}`, reasonSyntax, 7},
		{"no key", `{1:2}`, reasonSyntax, 1},
		{"wrong bracket", `{"a":[1}}`, reasonSyntax, 7},
		{"wrong brace", `{"a":1]`, reasonSyntax, 6},
		{"NaN", `{"a":NaN}`, reasonSyntax, 5},
		{"Infinity", `{"a":-Infinity}`, reasonNumber, 6},
		{"leading zero", `{"a":01}`, reasonSyntax, 6},
		{"plus", `{"a":+1}`, reasonSyntax, 5},
		{"point first", `{"a":.5}`, reasonSyntax, 5},
		{"point last", `{"a":1.}`, reasonNumber, 7},
		{"no exponent", `{"a":1e}`, reasonNumber, 7},
		{"hexadecimal", `{"a":0x1}`, reasonSyntax, 6},
		{"single quotes", `{'a':1}`, reasonSyntax, 1},
		{"comment", `{/**/}`, reasonSyntax, 1},
		{"form feed between tokens", "{\f}", reasonSyntax, 1},
		{"raw newline in a string", "{\"a\":\"x\ny\"}", reasonControl, 7},
		{"raw NUL in a key", "{\"a\x00\":1}", reasonControl, 3},
		{"unknown escape", `{"a":"\x41"}`, reasonEscape, 7},
		{"bad hex escape", `{"a":"\u12g4"}`, reasonEscape, 10},
		{"stray continuation", "{\"a\":\"\x80\"}", reasonUTF8, 6},
		{"overlong", "{\"a\":\"\xc0\xaf\"}", reasonUTF8, 6},
		{"overlong of three", "{\"a\":\"\xe0\x9f\xbf\"}", reasonUTF8, 6},
		{"overlong of four", "{\"a\":\"\xf0\x8f\xbf\xbf\"}", reasonUTF8, 6},
		{"encoded surrogate", "{\"a\":\"\xed\xa0\x80\"}", reasonUTF8, 6},
		{"beyond U+10FFFF", "{\"a\":\"\xf4\x90\x80\x80\"}", reasonUTF8, 6},
		{"0xff", "{\"a\":\"\xff\"}", reasonUTF8, 6},
		{"invalid UTF-8 between tokens", "{\xff}", reasonSyntax, 1},
		{"invalid UTF-8 after an escape", "{\"a\":\"\\n\xc3\"}", reasonUTF8, 8},
		{"inside of @metadata", `{"@metadata":{"a":01}}`, reasonSyntax, 19},
		{"inside of a verdict", `{"arcanna":{"ioc":[1,]}}`, reasonSyntax, 21},
		{"1,001 levels", nested(1001), reasonDepth, 5000},
		{"1,001 levels of arrays", `{"a":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`, reasonDepth, 5 + 999},
		{"a million open arrays", `{"a":` + strings.Repeat("[", 1e6), reasonDepth, 5 + 999},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r Result
			for _, raw := range [][]byte{[]byte(c.doc)[:len(c.doc):len(c.doc)], padded(c.doc, 0), padded(c.doc, '"'), padded(c.doc, '}'), padded(c.doc, '1'), padded(c.doc, 0x80)} {
				err := mustNew(t, Field{Path: "a"}).Scan(raw, &r)
				var m *Malformed
				require.True(t, errors.As(err, &m), "%v", err)
				assert.Equal(t, Malformed{c.reason, c.offset}, *m)
			}
		})
	}
}

func TestStoredByteForByte(t *testing.T) {
	for _, doc := range []string{
		`{}`, `{"a":"\ud800"}`, `{"a":"\udc00\ud800x"}`, `{"a":1,"a":2,"a":1}`, `{"n":[9007199254740993,18446744073709551615,1e400,-0,0.10,1E+2]}`,
		`{"@timestamp":"yesterday","@timestamp":null}`, `{"sour\u0063e":{"i\u0070":"192.0.2.1"}}`, `{ "a" : [ 1 , 2 ] , "b" : { } }`, "{\"a\":\"\x7f\u2028\U0010ffff\"}", nested(1000),
	} {
		r := mustScan(t, mustNew(t), doc)
		sep := ","
		if doc == `{}` {
			sep = ""
		}
		assert.Equal(t, doc[:len(doc)-1]+sep+`"arcanna":{"ioc":{"x":1}}}`+"\n", string(r.AppendLine(nil, []byte(doc), []byte(`{"x":1}`))))
		assert.Equal(t, doc+"\n", string(r.AppendLineKeepingVerdict(nil, []byte(doc))))
		assert.Equal(t, doc+"\n", string(r.AppendLine(nil, []byte(doc), nil)))
	}
}

func TestLine(t *testing.T) {
	for _, c := range []struct {
		doc, line string
		verdict   bool
		kept      string // of a trusted event; empty: not looked at
	}{
		{doc: "\r\n {\"a\":\r\n1,\"b\":\n[\r]}\n\n", line: `{"a":  1,"b": [ ],"arcanna":{"ioc":I}}`},
		// @metadata of whatever type, wherever.
		{doc: `{"@metadata":{"beat":"x"},"a":1}`, line: `{"a":1,"arcanna":{"ioc":I}}`, kept: `{"a":1}`},
		{doc: `{"a":1,"@metadata":"s","b":2}`, line: `{"a":1,"b":2,"arcanna":{"ioc":I}}`},
		{doc: `{"a":1,"@metadata":[{},[]]}`, line: `{"a":1,"arcanna":{"ioc":I}}`},
		{doc: `{"@metadata":null}`, line: `{"arcanna":{"ioc":I}}`, kept: `{}`},
		{doc: `{"@metadata":1,"@metadata":2}`, line: `{"arcanna":{"ioc":I}}`, kept: `{}`},
		{doc: `{"@metadata":1,"a":0,"@metadata":2}`, line: `{"a":0,"arcanna":{"ioc":I}}`},
		{doc: `{"@metadata.pipeline":"p","a":0,"@metadata._id":"x"}`, line: `{"a":0,"arcanna":{"ioc":I}}`},
		{doc: `{"\u0040metadata":1,"a":0}`, line: `{"a":0,"arcanna":{"ioc":I}}`},
		{doc: `{ "@metadata" : 1 , "a" : 0 , "@metadata" : 2 }`, line: `{  "a" : 0  ,"arcanna":{"ioc":I}}`},
		{doc: `{"a":{"@metadata":1},"@metadatum":2}`, line: `{"a":{"@metadata":1},"@metadatum":2,"arcanna":{"ioc":I}}`},
		// Incoming verdicts.
		{doc: `{"arcanna":{"ioc":{"is_malicious":false}}}`, line: `{"arcanna":{"ioc":I}}`, verdict: true, kept: `{"arcanna":{"ioc":{"is_malicious":false}}}`},
		{doc: `{"arcanna":{"note":"n","ioc":1,"id":2}}`, line: `{"arcanna":{"note":"n","id":2,"ioc":I}}`, verdict: true},
		{doc: `{"arcanna":{"ioc":1,"ioc":2,"note":"n"},"b":3}`, line: `{"arcanna":{"note":"n","ioc":I},"b":3}`, verdict: true},
		{doc: `{"arcanna":{"ioc.x":1,"note":"n"}}`, line: `{"arcanna":{"note":"n","ioc":I}}`, verdict: true},
		{doc: `{"arcanna.ioc":1,"b":2}`, line: `{"b":2,"arcanna":{"ioc":I}}`, verdict: true},
		{doc: `{"b":2,"arcanna.ioc.global.result":"harmless"}`, line: `{"b":2,"arcanna":{"ioc":I}}`, verdict: true},
		{doc: `{"\u0061rcanna":{"\u0069oc":1,"a":2}}`, line: `{"\u0061rcanna":{"a":2,"ioc":I}}`, verdict: true},
		{doc: `{"arcanna.io\u0063":1}`, line: `{"arcanna":{"ioc":I}}`, verdict: true},
		{doc: `{"arcanna":[{"ioc":1},{"note":2}]}`, line: `{"arcanna":[{},{"note":2}],"arcanna.ioc":I}`, verdict: true},
		{doc: `{"arcanna.ioc":1,"@metadata":2}`, line: `{"arcanna":{"ioc":I}}`, verdict: true, kept: `{"arcanna.ioc":1}`},
		{doc: `{"@metadata":2,"arcanna.ioc":1}`, line: `{"arcanna":{"ioc":I}}`, verdict: true, kept: `{"arcanna.ioc":1}`},
		{doc: `{"x":{"arcanna":{"ioc":1}},"ioc":2}`, line: `{"x":{"arcanna":{"ioc":1}},"ioc":2,"arcanna":{"ioc":I}}`},
		// Where ours goes.
		{doc: `{"arcanna":{},"b":1}`, line: `{"arcanna":{"ioc":I},"b":1}`},
		{doc: `{"arcanna":{ },"b":1}`, line: `{"arcanna":{ "ioc":I},"b":1}`},
		{doc: `{"arcanna":{"a":1},"arcanna":{"b":{"c":2}},"d":3}`, line: `{"arcanna":{"a":1},"arcanna":{"b":{"c":2},"ioc":I},"d":3}`},
		{doc: `{"arcanna.note":1}`, line: `{"arcanna.note":1,"arcanna":{"ioc":I}}`},
		{doc: `{"arcanna":"text"}`, line: `{"arcanna":"text","arcanna.ioc":I}`},
		{doc: `{"arcanna":"t\u0065xt"}`, line: `{"arcanna":"t\u0065xt","arcanna.ioc":I}`},
		{doc: `{"arcanna":7}`, line: `{"arcanna":7,"arcanna.ioc":I}`},
		{doc: `{"arcanna":null}`, line: `{"arcanna":null,"arcanna.ioc":I}`},
		{doc: `{"arcanna":[]}`, line: `{"arcanna":[],"arcanna.ioc":I}`},
		{doc: `{"arcanna":{"a":1},"arcanna":false}`, line: `{"arcanna":{"a":1},"arcanna":false,"arcanna.ioc":I}`},
	} {
		t.Run(c.doc, func(t *testing.T) {
			r := mustScan(t, mustNew(t), c.doc)
			ioc := `{"schema":1}`
			assert.Equal(t, strings.Replace(c.line, "I", ioc, 1)+"\n", string(r.AppendLine(nil, []byte(c.doc), []byte(ioc))))
			assert.Equal(t, c.verdict, r.HadVerdict)
			if c.kept != "" {
				assert.Equal(t, c.kept+"\n", string(r.AppendLineKeepingVerdict(nil, []byte(c.doc))))
			}
			p := r.Plan()
			r.reset(0)
			assert.Equal(t, strings.Replace(c.line, "I", ioc, 1)+"\n", string(p.AppendLine(nil, []byte(c.doc), []byte(ioc))))
		})
	}
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		name, doc string
		fields    []Field
		want      string // FIELD=TEXT, or FIELD/GROUP/KEY=TEXT
	}{
		{"nested", `{"source":{"ip":"x"}}`, []Field{{Path: "source.ip"}}, `0=x`},
		{"dotted", `{"source.ip":"x"}`, []Field{{Path: "source.ip"}}, `0=x`},
		{"mixed", `{"a.b":{"c":"x"},"a":{"b.c":"y"},"a":{"b":{"c":"z"}}}`, []Field{{Path: "a.b.c"}}, `0=x 0=y 0=z`},
		{"neighbours", `{"source":{"ipx":"1","i":"2","ip":{"x":"3"}},"ip":"4","sourceip":"5","source":"6"}`, []Field{{Path: "source.ip"}}, ``},
		{"escaped key", `{"sour\u0063e":{"i\u0070":"x"}}`, []Field{{Path: "source.ip"}}, `0=x`},
		{"escaped dot", `{"source\u002eip":"x"}`, []Field{{Path: "source.ip"}}, `0=x`},
		{"beyond ASCII", `{"größe":{"漢":"x"}}`, []Field{{Path: "größe.漢"}}, `0=x`},
		{"long names", `{"a_name_that_is_longer_than_sixteen":{"sixteen_bytes_ok":"x"}}`, []Field{{Path: "a_name_that_is_longer_than_sixteen.sixteen_bytes_ok"}}, `0=x`},
		{"unescaped", `{"a":"C:\\x\"\/\b\f\n\r\t\u00e4\u6f22\ud83d\ude00"}`, []Field{{Path: "a"}}, "0=C:\\x\"/\b\f\n\r\tä漢😀"},
		{"lone surrogates", `{"a":"x\ud800y\udc00\ud83d\u0041"}`, []Field{{Path: "a"}}, "0=x\ufffdy\ufffd\ufffdA"},
		{"only strings", `{"a":[1,true,null,{},[],"x",1.5]}`, []Field{{Path: "a"}}, `0=x`},
		{"arrays", `{"a":["x",["y",[]],{"b":["z",{"c":1}]}]}`, []Field{{Path: "a"}, {Path: "a.b"}}, `0=x 0=y 1=z`},
		{"arrays of objects", `{"e":{"a":[{"f":{"h":"1"}},[{"f.h":"2"}]]}}`, []Field{{Path: "e.a.f.h"}}, `0=1 0=2`},
		{"one path twice", `{"a":"x"}`, []Field{{Path: "a"}, {Path: "a"}}, `0=x 1=x`},
		{"duplicate keys", `{"a":"x","a":"y"}`, []Field{{Path: "a"}}, `0=x 0=y`},
		{"empty string", `{"a":""}`, []Field{{Path: "a"}}, `0=`},
		{"@metadata", `{"@metadata":{"x":"1"},"@metadata.x":"2","a":"3"}`, []Field{{Path: "@metadata.x"}, {Path: "a"}}, `1=3`},
		{"verdict", `{"arcanna":{"ioc":{"x":"1"},"n":"2"},"arcanna.ioc.x":"3"}`, []Field{{Path: "arcanna.ioc.x"}, {Path: "arcanna.n"}}, `1=2`},
		{"hash object", `{"process":{"hash":{"md5":"1","sha256":"2","n":3,"o":{"x":"4"},"l":["5"]}}}`, []Field{{Path: "process.hash", Hashes: true}}, `0/1/md5=1 0/1/sha256=2`},
		{"two hash objects", `{"h":[{"md5":"1"},{"md5":"2"},"3"]}`, []Field{{Path: "h", Hashes: true}}, `0/1/md5=1 0/2/md5=2 0=3`},
		{"dotted hash objects", `{"p.h.md5":"1","f.h.md5":"2","p.h.sha1":"3","p":{"h.md5":"4"}}`, []Field{{Path: "p.h", Hashes: true}, {Path: "f.h", Hashes: true}}, `0/1/md5=1 1/2/md5=2 0/1/sha1=3 0/3/md5=4`},
		{"not its own member", `{"p":{"h.x.md5":"1","h":{"x.md5":"2"}}}`, []Field{{Path: "p.h", Hashes: true}}, `0/1/x.md5=2`},
		{"a field below", `{"p":{"h":{"sha256":"1"}},"p.h.sha256":"2"}`, []Field{{Path: "p.h", Hashes: true}, {Path: "p.h.sha256"}}, `1=1 0/1/sha256=1 1=2 0/2/sha256=2`},
		{"a list like Sysmon's", `{"w":{"Hashes":"MD5=1,SHA256=2"}}`, []Field{{Path: "w.Hashes", Hashes: true}}, `0=MD5=1,SHA256=2`},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, raw := range [][]byte{[]byte(c.doc)[:len(c.doc):len(c.doc)], padded(c.doc, '"')} {
				var r Result
				require.NoError(t, mustNew(t, c.fields...).Scan(raw, &r))
				var got []string
				for _, v := range r.Values {
					if v.Group != 0 {
						got = append(got, fmt.Sprintf("%d/%d/%s=%s", v.Field, v.Group, v.Key, v.Text))
					} else {
						assert.Nil(t, v.Key)
						got = append(got, fmt.Sprintf("%d=%s", v.Field, v.Text))
					}
				}
				assert.Equal(t, c.want, strings.Join(got, " "))
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, path := range []string{"", ".a", "a.", "a..b", "."} {
		_, err := New(Config{Fields: []Field{{Path: "ok"}, {Path: path}}})
		assert.ErrorContains(t, err, fmt.Sprintf("%q", path))
	}
	_, err := New(Config{MaxValues: -1, Fields: []Field{{Path: "."}, {Path: ""}}})
	assert.ErrorContains(t, err, "-1")
	assert.ErrorContains(t, err, `"."`)
	assert.ErrorContains(t, err, `""`)
}

func TestMaxValues(t *testing.T) {
	s, err := New(Config{Fields: []Field{{Path: "a"}}, MaxValues: 3})
	require.NoError(t, err)
	r := mustScan(t, s, `{"a":["1","2","3","4","5"]}`)
	assert.Len(t, r.Values, 3)
	assert.Equal(t, 2, r.Dropped)
	require.NoError(t, s.Scan([]byte(`{"a":"1"}`), r))
	assert.Len(t, r.Values, 1)
	assert.Zero(t, r.Dropped)
}

func TestPosition(t *testing.T) {
	for doc, want := range map[string]bool{
		`{"log":{"offset":0,"file":{"path":"/x"}}}`:                                                         true,
		`{"log.offset":7,"log":{"file.path":"/x"}}`:                                                         true,
		`{"log":{"offset":"7","file":{"path":"/x"}}}`:                                                       false,
		`{"log":{"offset":7,"file":{"path":""}}}`:                                                           false,
		`{"log":{"offset":7}}`:                                                                              false,
		`{"log":[{"offset":7,"file":{"path":"/x"}}]}`:                                                       false,
		`{"x":{"log":{"offset":7,"file":{"path":"/x"}}}}`:                                                   false,
		`{"@metadata":{"log":{"offset":7,"file":{"path":"/x"}}}}`:                                           false,
		`{"winlog":{"record_id":"12","channel":"Security","computer_name":"h"}}`:                            true,
		`{"winlog":{"record_id":12,"channel":"Security","computer_name":"h"}}`:                              true,
		`{"winlog":{"record_id":12,"channel":"Security"}}`:                                                  false,
		`{"winlog":{"record_id":true,"channel":"Security","computer_name":"h"}}`:                            false,
		`{"kafka":{"topic":"t","partition":0,"offset":0}}`:                                                  true,
		`{"kafka":{"topic":"t","offset":0}}`:                                                                false,
		`{"aws":{"s3":{"object":{"key":"k"}}},"log":{"offset":1,"file":{"path":"https://b/k"}}}`:            true,
		`{"source":"/var/log/x","offset":3}`:                                                                false,
		`{"journald":{"pid":1},"systemd":{"unit":"u"},"input":{"type":"journald"},"message":"no position"}`: false,
	} {
		assert.Equal(t, want, mustScan(t, mustNew(t), doc).HasPosition, doc)
	}
}

func TestMetadataID(t *testing.T) {
	for doc, want := range map[string]string{
		`{"@metadata":{"_id":"x"}}`:                         "x",
		`{"@metadata._id":"x"}`:                             "x",
		`{"@metadata":{"_\u0069d":"\u0078\ud800"}}`:         "x\ufffd",
		`{"@metadata":{"_id":""}}`:                          "",
		`{"@metadata":{"_id":7}}`:                           "",
		`{"@metadata":{"_id":["x"]}}`:                       "",
		`{"@metadata":[{"_id":"x"}]}`:                       "",
		`{"@metadata":{"x":{"_id":"x"}}}`:                   "",
		`{"_id":"x","a":{"@metadata":{"_id":"y"}}}`:         "",
		`{"@metadata":{"_id":"x"},"@metadata":{"_id":"y"}}`: "y",
	} {
		r := mustScan(t, mustNew(t), doc)
		assert.Equal(t, want, string(r.MetadataID), doc)
		assert.Equal(t, want == "", r.MetadataID == nil, doc)
	}
}

func TestDigest(t *testing.T) {
	digest := func(doc string) [16]byte { return mustScan(t, mustNew(t), doc).Digest }
	const file = `"log":{"offset":1,"file":{"path":"/x"}}`
	t.Run("equal", func(t *testing.T) {
		for _, pair := range [][2]string{
			{`{"a":1,"b":{"c":"x","d":[1,2]}}`, ` { "b" : { "d" : [ 1 , 2 ] , "c" : "x" } , "a" : 1 } `},
			{`{"a":{"b":{"c":1}}}`, `{"a.b":{"c":1}}`},
			{`{"a":{"b":{"c":1}}}`, `{"a.b.c":1}`},
			{`{"a":[{"b":{"c":1}}]}`, `{"a":[{"b.c":1}]}`},
			{`{"a":"\u0041\n"}`, `{"a":"A\u000a"}`},
			{`{"a":"😀"}`, `{"a":"\ud83d\ude00"}`},
			{`{"\u0061":1}`, `{"a":1}`},
			{`{"a":1}`, `{"a":1,"@metadata":{"x":2},"@metadata.y":3}`},
			{`{"a":1}`, `{"a":1,"arcanna.ioc":{"x":2}}`},
			{`{"a":1}`, `{"a":1,"arcanna":{}}`},
			{`{"a":1,"arcanna":{}}`, `{"a":1,"arcanna":{"ioc":{"x":2}}}`},
			{`{"a":1,"arcanna":{"n":1}}`, `{"a":1,"arcanna":{"ioc":{"x":2},"n":1,"ioc.y":3}}`},
			{`{"agent":{"ephemeral_id":"1","id":"i"},"event":{"created":"1","ingested":"1"}}`, `{"agent":{"ephemeral_id":"2","id":"i"},"event":{"created":"2"}}`},
			{`{"@timestamp":"1",` + file + `}`, `{"@timestamp":"2",` + file + `}`},
			{`{"@timestamp":"1",` + file + `}`, `{"log.file.path":"/x","log.offset":1}`},
		} {
			assert.Equal(t, digest(pair[0]), digest(pair[1]), "%s\n%s", pair[0], pair[1])
		}
	})
	t.Run("different", func(t *testing.T) {
		seen := map[[16]byte]string{}
		for _, doc := range []string{
			`{}`, `{"a":1}`, `{"a":1.0}`, `{"a":"1"}`, `{"a":true}`, `{"a":"true"}`, `{"a":null}`, `{"a":{}}`, `{"a":[]}`, `{"a":"{}"}`, `{"a":"}"}`, `{"a":[[]]}`, `{"a":[{}]}`, `{"a":""}`, `{"":1}`, `{"":{"":1}}`,
			`{"a":[1]}`, `{"a":{"0":1}}`, `{"a":[1,1]}`, `{"a":[1,2]}`, `{"a":[2,1]}`, `{"a":[[1],2]}`, `{"a":[[1,2]]}`, `{"a":[1,[2]]}`, `{"a":[[],[1]]}`, `{"a":[[1],[]]}`,
			`{"a":1,"b":2}`, `{"a":2,"b":1}`, `{"a":1,"a":1}`, `{"a":1,"a":1,"a":1}`, `{"a":{"b":1}}`, `{"a":{"b":1},"a":{"c":1}}`, `{"ab":1}`, `{"a":{"a":1}}`,
			`{"a":"\ud800"}`, `{"a":"\udc00"}`, `{"a":"\ufffd"}`, `{"a":"\ud800\ud800"}`, `{"a":"x\u0000"}`, `{"a":"x"}`, `{"a\u0000":"x"}`,
			`{"@timestamp":"1"}`, `{"@timestamp":"2"}`, `{"@timestamp":"1","log":{"offset":1}}`, `{` + file + `}`, `{"log":{"offset":2,"file":{"path":"/x"}}}`, `{"log":{"offset":1,"file":{"path":"/y"}}}`,
			`{"arcanna":{"n":1}}`, `{"arcanna":1}`, `{"event":{"created":{"x":1}}}`, `{"x":{"event":{"created":1}}}`, `{"created":1}`,
			`{"a":{"@metadata":1}}`, `{"message":"` + strings.Repeat("x", 300) + `"}`, `{"message":"` + strings.Repeat("x", 301) + `"}`,
		} {
			d := digest(doc)
			require.Empty(t, seen[d], doc)
			seen[d] = doc
		}
	})
	// Identities are stored and outlive this program: they must not change.
	assert.Equal(t, pinned, fmt.Sprintf("%x", digest(`{"@timestamp":"2026-01-02T03:04:05.678Z","log":{"offset":42,"file":{"path":"/var/log/syslog"}},"message":"täst \"quoted\"","tags":["a",{"b":null}],"host.name":"web-1","a_rather_long_key_name":[]}`)))
}

// What a server adds to an event with hits must not make another event of it,
// whatever groupings a relay gives it; without a verdict it is the sender's own.
func TestDigestOfEnriched(t *testing.T) {
	s := mustNew(t)
	digest := func(doc string) [16]byte { return mustScan(t, s, doc).Digest }
	enrichment := `{"indicator":{"type":"file","ip":"192.0.2.1","file":{"hash":{"md5":"m","sha1":"s","sha256":"t"}},"url":{"full":"u","domain":"d"},` +
		`"provider":"virustotal","confidence":"High","scanner_stats":9,"reference":"r","description":"d","first_seen":"f","last_seen":"l","modified_at":"m",` +
		`"as":{"number":64500,"organization":{"name":"X"}},"geo":{"country_iso_code":"NL"}},"feed":{"name":"VirusTotal"},` +
		`"matched":{"atomic":"a","id":"i","type":"t","occurred":"o","field":"f"}}`
	for sent, enriched := range map[string][]string{
		`{"a":1}`: {
			`{"a":1,"arcanna":{"ioc":{"x":1}}}`,
			`{"a":1,"arcanna":{"ioc":{"x":1}},"threat":{"enrichments":[` + enrichment + `]},"related":{"ip":["192.0.2.1"],"hash":["t"],"hosts":["d"]}}`,
			`{"a":1,"arcanna.ioc.x":1,"threat.enrichments":[` + enrichment + `,` + enrichment + `],"related.ip":["192.0.2.1"]}`,
		},
		`{"a":1,"threat":{"n":1},"related":{"user":["u"],"ip":"192.0.2.9"}}`: {
			`{"a":1,"threat":{"n":1,"enrichments":[` + enrichment + `]},"related":{"user":["u"],"ip":["192.0.2.9","192.0.2.1"]},"arcanna":{"ioc":{}}}`,
		},
		`{"a":1,"threat":{},"related":{}}`: {
			`{"a":1,"threat":{"enrichments":[` + enrichment + `]},"related":{"ip":["192.0.2.1"]},"arcanna":{"ioc":{}}}`,
		},
	} {
		want := digest(strings.TrimSuffix(sent, "}") + `,"arcanna":{"ioc":1}}`)
		for _, e := range enriched {
			assert.Equal(t, want, digest(e), "%s", e)
		}
	}
	assert.Equal(t, digest(`{"a":1}`), digest(`{"a":1,"arcanna":{"ioc":{}},"threat":{"enrichments":[`+enrichment+`]}}`), "the identity that the first server gave it")
	assert.NotEqual(t, digest(`{"a":1}`), digest(`{"a":1,"related":{"ip":"192.0.2.1"}}`), "without a verdict it is the sender's own")
	assert.NotEqual(t, digest(`{"a":1,"related":{"ip":"192.0.2.2"}}`), digest(`{"a":1,"related":{"ip":"192.0.2.1"}}`))
	assert.NotEqual(t, digest(`{"a":1,"related":{"user":"x"},"arcanna":{"ioc":1}}`), digest(`{"a":1,"related":{"user":"y"},"arcanna":{"ioc":1}}`), "no server adds users")
	assert.NotEqual(t, digest(`{"a":1,"threat":{"tactic":"x"},"arcanna":{"ioc":1}}`), digest(`{"a":1,"threat":{"tactic":"y"},"arcanna":{"ioc":1}}`))
}

func TestManyKeys(t *testing.T) {
	const count = 100_000
	var distinct, same, metadata, verdicts strings.Builder
	for i := range count {
		fmt.Fprintf(&distinct, `,"key%d":%d`, i, i)
		same.WriteString(`,"a":"x"`)
		metadata.WriteString(`,"@metadata":1`)
		fmt.Fprintf(&verdicts, `,"arcanna.ioc.%d":1,"p.h.k%d":""`, i, i)
	}
	s, err := New(Config{Fields: []Field{{Path: "a"}, {Path: "p.h", Hashes: true}}, MaxValues: 2 * count})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		doc          string
		values, left int
	}{
		"distinct": {distinct.String(), 0, count},
		"same":     {same.String(), count, count},
		"metadata": {metadata.String(), 0, 0},
		"verdicts": {verdicts.String(), count, count},
	} {
		t.Run(name, func(t *testing.T) {
			doc := "{" + c.doc[1:] + "}"
			r := mustScan(t, s, doc)
			assert.Len(t, r.Values, c.values)
			line := r.AppendLine(nil, []byte(doc), []byte("{}"))
			requireOneLine(t, line)
			again := mustScan(t, s, string(line))
			assert.Equal(t, r.Digest, again.Digest)
			n, err := refParse(line)
			require.NoError(t, err)
			assert.Len(t, n.members, c.left+1)
		})
	}
}

func TestScratchIsBounded(t *testing.T) {
	s := mustNew(t, Field{Path: "a"})
	var r Result
	require.NoError(t, s.Scan([]byte(`{"a":"x"}`), &r))
	small := r.Size()
	assert.Positive(t, small)
	assert.Less(t, small, 8<<10)

	large := `{"a":["` + strings.Repeat(`\n`, 1<<20) + `"` + strings.Repeat(`,"x"`, 1<<18) + strings.Repeat(`]`, 1) + strings.Repeat(`,"@metadata":1`, 1000) + `}`
	require.NoError(t, s.Scan([]byte(large), &r))
	assert.Greater(t, r.Size(), len(large))
	assert.Less(t, r.Size(), 4*len(large))
	assert.Len(t, r.Values, defaultMaxValues)

	require.NoError(t, s.Scan([]byte(`{"a":"x"}`), &r))
	assert.Less(t, r.Size(), spare, "the large event's scratch must go")
}

func TestSizesAreTrue(t *testing.T) {
	assert.EqualValues(t, valueSize, sizeOf[Value]())
	assert.EqualValues(t, spanSize, sizeOf[span]())
	assert.EqualValues(t, frameSize, sizeOf[frame]())
	assert.EqualValues(t, virtualSize, sizeOf[virtual]())
}

func TestNoAllocations(t *testing.T) {
	s := mustNew(t, Field{Path: "message"}, Field{Path: "process.hash", Hashes: true})
	doc := `{"@metadata":{"_id":"x"},"arcanna":{"ioc":{"a":1}},"message":"a\\b\n\ud83d\ude00ä","process.hash.md5":"1","process":{"hash":{"sha1":"2"}},"n":[1,2.5e3,true,null,{}]}`
	var r Result
	var line []byte
	for name, raw := range map[string][]byte{"with a sentinel": padded(doc, 0), "without": []byte(doc)[:len(doc):len(doc)]} {
		got := testing.AllocsPerRun(100, func() {
			if err := s.Scan(raw, &r); err != nil {
				panic(err)
			}
			line = r.AppendLine(line[:0], raw, []byte(`{}`))
		})
		assert.Zero(t, got, name)
	}
}

func TestScannerIsShared(t *testing.T) {
	s := mustNew(t, Field{Path: "a.b"})
	want := mustScan(t, s, `{"a":{"b":"x\n"}}`).Digest
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var r Result
			for range 200 {
				if assert.NoError(t, s.Scan([]byte(`{"a":{"b":"x\n"}}`), &r)) {
					assert.Equal(t, want, r.Digest)
					assert.Equal(t, "x\n", string(r.Values[0].Text))
				}
			}
		})
	}
	wg.Wait()
}

// Whatever stands where in a word: the marks are what a loop over bytes finds.
func TestMarks(t *testing.T) {
	stop := func(c byte) bool { return c < ' ' || c == '"' || c == '\\' || c >= 0x80 }
	var r Result
	for c := range 256 {
		for _, d := range []byte{0, 0x1f, ' ', '!', '"', '#', '[', '\\', ']', '^', 0x7f, 0x80, 0xff, byte(c) + 1, byte(c) ^ 1} {
			for at := range 9 {
				doc := []byte(strings.Repeat(" ", at) + string([]byte{byte(c), d, byte(c)}) + strings.Repeat("#", 70))
				n := len(doc)
				marks := r.mark(padded(string(doc), '"')[:n+event.Sentinel], n)
				for i, x := range doc {
					if stop(x) != (marks[i>>3]>>(i&7)&1 == 1) {
						t.Fatalf("%q at %d", doc, i)
					}
				}
				require.Equal(t, n, next(marks, at+3))
			}
		}
	}
}

// An event cut anywhere is refused, in the same words whatever lies behind it.
func TestEveryPrefix(t *testing.T) {
	s, err := New(Config{Fields: fuzzFields})
	require.NoError(t, err)
	for _, doc := range fuzzSeeds {
		doc = strings.TrimRight(doc, " \t\r\n")
		if len(doc) > 1000 {
			continue
		}
		for n := range doc {
			var r Result
			err := s.Scan([]byte(doc[:n])[:n:n], &r)
			if _, refErr := refParse([]byte(doc[:n])); refErr == nil {
				require.NoError(t, err)
				continue
			}
			require.Error(t, err, "%q", doc[:n])
			for _, fill := range []byte("\x00 \n\"\\{}[]:,0dufnte-.\x80\xbf\xff") {
				require.Equal(t, err, s.Scan(padded(doc[:n], fill), &r), "%q before %q", doc[:n], fill)
			}
			behind := append(append([]byte(doc), make([]byte, event.Sentinel)...), 0)
			require.Equal(t, err, s.Scan(behind[:n], &r), "%q before the rest", doc[:n])
		}
	}
}
