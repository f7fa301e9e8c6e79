package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestShow(t *testing.T) {
	clean := `{"n":1,"arcanna":{"ioc":{"is_malicious":false,"global":{"result":"harmless","explanation":"nobody minds"}}}}` + "\n"
	bad := `{"n":1e400,"arcanna":{"ioc":{"is_malicious":true,"global":{"result":"malicious","explanation":"many do"}}}}` + "\n"

	for _, tt := range []struct {
		name, in string
		want     []string
	}{
		{"nothing malicious", clean, nil},
		{"one malicious", clean + bad, []string{"harmless    nobody minds", "malicious   many do", `"n": 1e400`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			require.NoError(t, show(strings.NewReader(tt.in), &out))
			for _, want := range tt.want {
				assert.Contains(t, out.String(), want)
			}
			assert.Equal(t, len(tt.want) == 0, out.String() == "")
		})
	}
	assert.Error(t, show(strings.NewReader("no JSON\n"), new(strings.Builder)))
}

func TestLayout(t *testing.T) {
	long := strings.Repeat("x", 60)
	for _, tt := range []struct{ name, in, want string }{
		{"scalar", ` 1.50 `, "1.50"},
		{"short", `{"a":[1,{"b":"\u00e9"}],"c":{},"d":[]}`, `{"a": [1, {"b": "\u00e9"}], "c": {}, "d": []}`},
		{"long object", `{"a":"` + long + `","\u0062":"` + long + `"}`, "{\n  \"a\": \"" + long + "\",\n  \"\\u0062\": \"" + long + "\"\n}"},
		{"long list of objects", `[{"a":"` + long + `"},{"b":"` + long + `"}]`, "[\n  {\"a\": \"" + long + "\"},\n  {\"b\": \"" + long + "\"}\n]"},
		{"long list is filled", `["` + long + `",1,2,"` + long + `"]`, "[\n  \"" + long + "\", 1, 2,\n  \"" + long + "\"\n]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := layout(json.RawMessage(tt.in), "", 0)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.JSONEq(t, tt.in, got)
		})
	}
	_, err := layout(json.RawMessage(`{"a":`), "", 0)
	assert.Error(t, err)
}
