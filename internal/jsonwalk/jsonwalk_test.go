package jsonwalk_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/jsonwalk"
)

// members are those of an object, as they are spelled.
func members(t []byte) (keys, values []string, err error) {
	w := jsonwalk.New(t)
	err = w.Object(func(key []byte) error {
		value, err := w.Value()
		keys, values = append(keys, string(key)), append(values, string(value))
		return err
	})
	if err == nil {
		err = w.End()
	}
	return keys, values, err
}

func TestWalk(t *testing.T) {
	keys, values, err := members([]byte(" {\"a\" : [1, {\"b\":\"]\"}] ,\"\\\"\\\\\":\"x\\\\\", \"c\":{} , \"d\" :-1.5e+7,\"e\":null\t}\r\n"))
	require.NoError(t, err)
	assert.Equal(t, []string{"a", `\"\\`, "c", "d", "e"}, keys)
	assert.Equal(t, []string{`[1, {"b":"]"}]`, `"x\\"`, "{}", "-1.5e+7", "null"}, values)

	w := jsonwalk.New([]byte(`[201,"text",7]`))
	var got []any
	require.NoError(t, w.Array(func() error {
		if len(got) == 1 {
			s, err := w.Text()
			got = append(got, string(s))
			return err
		}
		n, err := w.Small()
		got = append(got, n)
		return err
	}))
	assert.Equal(t, []any{201, "text", 7}, got)
	assert.Equal(t, len(`[201,"text",7]`), w.Offset())
	require.NoError(t, w.End())
}

func TestWhatIsNotWalked(t *testing.T) {
	for _, text := range []string{
		``, `{`, `{}}`, `[]`, `"a"`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1 "b":2}`, `{a:1}`, `{"a":"x\"}`, `{"a":[1}`, `{"a":[1,]}`, `{"a":~}`, `{"a":1}x`,
		`{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
	} {
		_, _, err := members([]byte(text))
		assert.Error(t, err, text)
	}
	for _, number := range []string{``, `x`, `-1`, `12345`, `"1"`} {
		w := jsonwalk.New([]byte(number))
		_, err := w.Small()
		assert.Error(t, err, number)
	}
	assert.Empty(t, jsonwalk.Unquote([]byte(`\x`)))
	assert.Equal(t, "\"é", jsonwalk.Unquote([]byte(`\"\u00e9`)))
}

// Of what encoding/json takes each member's value is what it sees there.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":"]"}],"\"":"x\\","c":{},"d":-1.5E+7,"e":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, values, err := members(text)
		if text = bytes.TrimSpace(text); !json.Valid(text) || len(text) == 0 || text[0] != '{' {
			return
		}
		if err != nil {
			assert.Greater(t, bytes.Count(text, []byte("["))+bytes.Count(text, []byte("{")), 60, "%q", text)
			return
		}
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(text, &want))
		last := map[string]string{}
		for i, key := range keys {
			last[jsonwalk.Unquote([]byte(key))] = values[i]
		}
		require.Len(t, last, len(want))
		for key, value := range want {
			assert.Equal(t, string(value), last[key])
		}
	})
}
