package wildcard_test

import (
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"vtsidecar/internal/wildcard"
)

// patterns and names over a small alphabet, up to a length.
func texts(alphabet string, longest int) []string {
	all := []string{""}
	for from := 0; len(all[from]) < longest; from++ {
		for _, c := range alphabet {
			all = append(all, all[from]+string(c))
		}
	}
	return all
}

// Every short pattern against every short name, as path.Match has it.
func TestMatch(t *testing.T) {
	for _, pattern := range texts("ab*", 5) {
		for _, name := range texts("ab", 6) {
			want, err := path.Match(pattern, name)
			if got := wildcard.Match(pattern, name); err != nil || got != want {
				assert.Equal(t, want, got, "%q matches %q", pattern, name)
			}
		}
	}
	for _, special := range []string{"a?", "[ab]", `a\*`, "a/*"} {
		assert.True(t, wildcard.Match(special, strings.ReplaceAll(special, "*", "x")), special)
		assert.False(t, wildcard.Match(special, "ab"), special)
	}
}

// Two short patterns meet where a name that both match is found by trying.
func TestMeet(t *testing.T) {
	patterns, names := texts("ab*", 3), texts("ab", 6)
	for _, a := range patterns {
		for _, b := range patterns {
			want := false
			for _, name := range names {
				want = want || wildcard.Match(a, name) && wildcard.Match(b, name)
			}
			assert.Equal(t, want, wildcard.Meet(a, b), "%q and %q", a, b)
		}
	}
}
