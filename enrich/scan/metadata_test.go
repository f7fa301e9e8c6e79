package scan

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What an event says about where it should go.
func TestRoutes(t *testing.T) {
	paths := []string{"@timestamp", "a.b", "data_stream.type"}
	s, err := New(Config{Routes: paths, Fields: []Field{{Path: "a.b"}}, MaxValues: 1})
	require.NoError(t, err)
	const nothing = "\x00"
	for doc, want := range map[string][]string{
		`{}`: {nothing, nothing, nothing},
		`{"@timestamp":"2026-01-02T03:04:05Z","a":{"b":"x"},"data_stream":{"type":"logs"}}`: {"2026-01-02T03:04:05Z", "x", "logs"},
		`{"a.b":"x","data_stream.type":"\u006cogs"}`:                                        {nothing, "x", "logs"},
		`{"a":{"b":12},"data_stream":{"type":true}}`:                                        {nothing, "12", "true"},
		`{"a":{"b":null},"data_stream":{"type":{}}}`:                                        {nothing, nothing, nothing},
		`{"a":{"b":["x"]},"data_stream":[{"type":"logs"}]}`:                                 {nothing, nothing, nothing},
		`{"a":{"b":"x"},"a.b":"y"}`:                                                         {nothing, nothing, nothing},
		`{"a":{"b":"x"},"a.b":"y","a":{"b":"z"}}`:                                           {nothing, nothing, nothing},
		`{"a":{"b":""}}`: {nothing, "", nothing},
		`{"a":[{"b":"1"},{"b":"2"}],"data_stream.type":"x"}`:     {nothing, nothing, "x"},
		`{"@metadata":{"a":{"b":"x"}},"@metadata.a.b":"x"}`:      {nothing, nothing, nothing},
		`{"arcanna":{"ioc":{"a":{"b":"x"}}},"a":{"b":"\ud800"}}`: {nothing, "\uFFFD", nothing},
	} {
		var r Result
		require.NoError(t, s.Scan([]byte(doc), &r), doc)
		require.Len(t, r.Routes, len(paths))
		for i, v := range r.Routes {
			got := string(v)
			if v == nil {
				got = nothing
			}
			assert.Equal(t, want[i], got, "%s of %s", paths[i], doc)
		}
	}
	_, err = New(Config{Routes: []string{"a.b", "a.b", "a..b"}})
	assert.ErrorContains(t, err, "given twice")
	assert.ErrorContains(t, err, `"a..b"`)
}

func TestMetadata(t *testing.T) {
	s := mustNew(t)
	for doc, want := range map[string]string{
		`{"a":1}`:                                     ``,
		`{"@metadata":{"beat":"x"},"a":1}`:            `{"beat":"x"}`,
		`{"a":1, "\u0040metadata" : ["y"] , "b":2}`:   `["y"]`,
		`{"@metadata":null}`:                          `null`,
		`{"@metadata":"text"}`:                        `"text"`,
		`{"@metadata":{"n":1},"@metadata":{"n":2}}`:   `{"n":2}`,
		`{"@metadata.beat":"x"}`:                      ``,
		`{"@metadata":{"n":1},"@metadata.x":{"n":2}}`: `{"n":1}`,
		`{"@metadata.x":1,"\u0040metadata":{"n":1},"@metadata\u002ex":{"n":2}}`: `{"n":1}`,
		`{"x":{"@metadata":{"n":1}}}`:                                           ``,
	} {
		r := mustScan(t, s, doc)
		m := r.Metadata([]byte(doc))
		assert.Equal(t, want, doc[m.From:m.To], doc)
	}
}

// With KeepMetadata it stays in the line, with an _id of its own or ours.
func TestKeepMetadata(t *testing.T) {
	keep, err := New(Config{KeepMetadata: true})
	require.NoError(t, err)
	cut := mustNew(t)
	for doc, want := range map[string]string{
		`{"a":1}`:                               `{"a":1,"arcanna":{"ioc":{}},"@metadata":{"_id":"ID"}}`,
		`{}`:                                    `{"arcanna":{"ioc":{}},"@metadata":{"_id":"ID"}}`,
		`{"@metadata":{},"a":1}`:                `{"@metadata":{"_id":"ID"},"a":1,"arcanna":{"ioc":{}}}`,
		`{"a":1,"@metadata":{"beat":"x"}}`:      `{"a":1,"@metadata":{"_id":"ID","beat":"x"},"arcanna":{"ioc":{}}}`,
		`{"@metadata":{"_id":"own","n":1}}`:     `{"@metadata":{"_id":"own","n":1},"arcanna":{"ioc":{}}}`,
		`{"@metadata":{"n":1,"_id":7}}`:         `{"@metadata":{"n":1,"_id":"ID"},"arcanna":{"ioc":{}}}`,
		`{"@metadata":{"_id":""}}`:              `{"@metadata":{"_id":"ID"},"arcanna":{"ioc":{}}}`,
		`{"@metadata":{"_id":{"x":[1]},"n":1}}`: `{"@metadata":{"_id":"ID","n":1},"arcanna":{"ioc":{}}}`,
		`{"@metadata":"text","a":1}`:            `{"@metadata":{"_id":"ID"},"a":1,"arcanna":{"ioc":{}}}`,
		`{"@metadata":[1,2]}`:                   `{"@metadata":{"_id":"ID"},"arcanna":{"ioc":{}}}`,
		`{"@metadata":{"n":1},"@metadata":{}}`:  `{"@metadata":{"n":1},"@metadata":{"_id":"ID"},"arcanna":{"ioc":{}}}`,
		`{"arcanna":{"ioc":1},"@metadata":{}}`:  `{"arcanna":{"ioc":{}},"@metadata":{"_id":"ID"}}`,
	} {
		r := mustScan(t, keep, doc)
		line := SetMetadataID(r.AppendLine([]byte("line before\n"), []byte(doc), []byte(`{}`)), len("line before\n"), []byte("ID"))
		assert.Equal(t, "line before\n"+want+"\n", string(line), doc)
		assert.Equal(t, mustScan(t, cut, doc).Digest, r.Digest, "the identity does not hang on what becomes of @metadata: %s", doc)
	}
	line := SetMetadataID([]byte("{}\n"), 0, []byte("ID"))
	assert.Equal(t, `{"@metadata":{"_id":"ID"}}`+"\n", string(line))
}

// Any event comes out as one valid line whose @metadata has an _id, and which is
// the same without it.
func FuzzKeepMetadata(f *testing.F) {
	for _, s := range fuzzSeeds {
		f.Add([]byte(s))
	}
	f.Add([]byte(`{"@metadata" : { "_id" : null , "x":[{}]} , "\u0040metadata":"y","@metadata._id":"z"}`))
	keep, err := New(Config{KeepMetadata: true, Routes: []string{"@timestamp", "a.b"}})
	require.NoError(f, err)
	cut, err := New(Config{})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, in []byte) {
		var r, plain Result
		err := keep.Scan(in[:len(in):len(in)], &r)
		require.Equal(t, cut.Scan(in[:len(in):len(in)], &plain) == nil, err == nil)
		if err != nil {
			return
		}
		require.Equal(t, plain.Digest, r.Digest)
		for _, ioc := range []string{`{"n":1}`, ""} {
			line := r.AppendLine(nil, in, []byte(ioc))
			if ioc == "" {
				line = r.AppendLineKeepingVerdict(nil, in)
			}
			id := []byte("0123456789abcdef")
			before := len(line)
			line = SetMetadataID(line, 0, id)
			require.LessOrEqual(t, len(line), before+LenMetadataID(id))
			requireOneLine(t, line)
			var again Result
			require.NoError(t, keep.Scan(line, &again))
			require.NotEmpty(t, again.MetadataID, "%s", line)
			var m struct {
				ID json.RawMessage `json:"_id"`
			}
			if at := again.Metadata(line); at.To > 0 {
				require.NoError(t, json.Unmarshal(line[at.From:at.To], &m))
			}
			// Without @metadata nothing has changed.
			a, b := again.withoutMetadata(t, line), plain.AppendLineKeepingVerdict(nil, in)
			if ioc != "" {
				b = plain.AppendLine(nil, in, []byte(ioc))
			}
			require.Equal(t, strings.TrimSpace(squeeze(b)), strings.TrimSpace(squeeze(a)))
		}
	})
}

// withoutMetadata is the line as a scanner that cuts @metadata has it.
func (r *Result) withoutMetadata(t *testing.T, line []byte) []byte {
	s, err := New(Config{})
	require.NoError(t, err)
	var plain Result
	require.NoError(t, s.Scan(line, &plain))
	return plain.AppendLineKeepingVerdict(nil, line)
}
