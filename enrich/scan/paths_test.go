package scan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// segments are what keys are made of: short and long ones, around the length
// that takes the fast way, and all that needs an escape or more than a byte.
var segments = []string{
	"a", "b", "ip", "hash", "source", "event_data", "sevenbb", "eightbbb", "fifteen_bytes_a", "sixteen_bytes_ab", "seventeen_bytes_a",
	"a_segment_that_is_a_good_deal_longer_than_any_word", "größe", "漢字", "😀", "with space", "quo\"te", "back\\slash", "sl/ash", "tab\t", "nul\x00",
	"@timestamp", "a:b", "a=b", "a*", "{", "[0]", "0", "-", "\u2028", "é", "e\u0301", "arcanna", "ioc", "@metadata", "log", "offset", "\x7f",
}

func randomPath(rng *rand.Rand, levels int) []string {
	path := make([]string, levels)
	for i := range path {
		path[i] = segments[rng.IntN(len(segments))]
		if rng.IntN(4) == 0 {
			path[i] += strconv.Itoa(rng.IntN(50))
		}
	}
	if path[0] == "@metadata" || levels > 1 && path[0] == "arcanna" && path[1] == "ioc" {
		path[0] = "x" // what goes is no field
	}
	return path
}

// spell writes value at path: how many segments stand in one key and which
// characters are escaped is as the dice fall, and with company also what stands
// beside the keys and how many arrays are around the values.
func spell(b *strings.Builder, rng *rand.Rand, path []string, value string, company bool) {
	take := 1
	if rng.IntN(2) == 0 {
		take += rng.IntN(len(path))
	}
	arrays := 0
	b.WriteByte('{')
	if company {
		arrays = max(0, rng.IntN(5)-2)
		if rng.IntN(3) == 0 {
			fmt.Fprintf(b, `"beside%d":[{"x":"y"},1],`, rng.IntN(10))
		}
	}
	b.WriteString(respell(utf16.Encode([]rune(strings.Join(path[:take], "."))), rng) + ":" + strings.Repeat("[", arrays))
	if rest := path[take:]; len(rest) > 0 {
		spell(b, rng, rest, value, company)
	} else {
		b.WriteString(value)
	}
	b.WriteString(strings.Repeat("]", arrays))
	if company && rng.IntN(3) == 0 {
		fmt.Fprintf(b, `,"behind%d":{"x":"y"}`, rng.IntN(10))
	}
	b.WriteByte('}')
}

// Whatever a path is made of and however an event groups it into dotted keys,
// objects and arrays, its value is found, and no other.
func TestEveryGroupingIsFound(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for round := range 100 {
		var fields []Field
		var paths [][]string
		taken := map[string]bool{}
		for range 1 + rng.IntN(40) {
			levels := 1 + rng.IntN(8)
			if rng.IntN(10) == 0 {
				levels = 100
			}
			path := randomPath(rng, levels)
			if joined := strings.Join(path, "."); !taken[joined] {
				taken[joined] = true
				fields, paths = append(fields, Field{Path: joined}), append(paths, path)
			}
		}
		s := mustNew(t, fields...)
		for i, path := range paths {
			for range 5 {
				var b strings.Builder
				spell(&b, rng, path, `"here"`, true)
				r := mustScan(t, s, b.String())
				require.Len(t, r.Values, 1, "round %d: %q in %s", round, path, b.String())
				require.Equal(t, i, r.Values[0].Field)
				require.Equal(t, "here", string(r.Values[0].Text))
			}
		}
	}
}

// The groupings of one path are one path to the digest as well.
func TestEveryGroupingIsOneIdentity(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	s := mustNew(t)
	for range 200 {
		path := randomPath(rng, 1+rng.IntN(100))
		var first [16]byte
		for i := range 5 {
			var b strings.Builder
			spell(&b, rng, path, `"v"`, false)
			d := mustScan(t, s, b.String()).Digest
			if i == 0 {
				first = d
			}
			require.Equal(t, first, d, "%s", b.String())
		}
	}
}

// A thousand paths of a hundred levels: the table has a place for each level,
// not for each grouping, and each path is found.
func TestManyDeepPaths(t *testing.T) {
	const count, levels = 1000, 100
	rng := rand.New(rand.NewPCG(9, 10))
	var fields []Field
	var paths [][]string
	for i := range count {
		path := randomPath(rng, levels)
		path[levels/2] = fmt.Sprint("number", i) // no path lies within another
		fields, paths = append(fields, Field{Path: strings.Join(path, "."), Hashes: i%2 == 0}), append(paths, path)
	}
	s := mustNew(t, fields...)
	assert.LessOrEqual(t, len(s.nodes), count*levels+100)
	assert.LessOrEqual(t, len(s.slots), 8*len(s.nodes))
	for i, path := range paths {
		var b strings.Builder
		spell(&b, rng, path, `"here"`, i%3 == 0)
		r := mustScan(t, s, b.String())
		require.Len(t, r.Values, 1, "%s", b.String())
		require.Equal(t, i, r.Values[0].Field)
	}

	// All of them in one event, and an object of hashes at the end of each.
	var all strings.Builder
	for i, path := range paths {
		if i > 0 {
			all.WriteByte(',')
		}
		var one strings.Builder
		spell(&one, rng, path, `{"md5":"x","sha256":"y"}`, false)
		all.WriteString(strings.TrimSuffix(strings.TrimPrefix(one.String(), "{"), "}"))
	}
	r := mustScan(t, s, "{"+all.String()+"}")
	require.Len(t, r.Values, count) // two for each path of two that names objects of hashes
	for i, v := range r.Values {
		assert.Equal(t, i/2*2, v.Field)
		assert.Equal(t, i/2+1, v.Group)
	}
}

// A field may be named with dots where an event has them in its keys, and its
// neighbours are none of it.
func TestNeighboursOfDeepPaths(t *testing.T) {
	levels := slices.Repeat([]string{"a"}, 100)
	s := mustNew(t, Field{Path: strings.Join(levels, ".")})
	for _, n := range []int{99, 101, 200, 1} {
		key := strings.Repeat("a.", n-1) + "a"
		assert.Empty(t, mustScan(t, s, `{"`+key+`":"x"}`).Values, "%d levels", n)
	}
	assert.Empty(t, mustScan(t, s, `{"`+strings.Repeat("a.", 100)+`":"x"}`).Values, "an empty segment is one")
	assert.Len(t, mustScan(t, s, `{"`+strings.Repeat("a.", 98)+`a":{"a":"x"}}`).Values, 1)
}
