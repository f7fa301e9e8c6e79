package main

import (
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
