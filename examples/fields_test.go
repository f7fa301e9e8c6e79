package examples_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
)

// A thousand fields of up to a hundred levels, with keys of all kinds: each part
// comes out where its field says, in one valid document.
func TestFieldsOfAnyKind(t *testing.T) {
	keys := []string{"a", "host", "größe", "漢字", "😀", "with space", `quo"te`, `back\slash`, "a_key_that_is_longer_than_sixteen", "x:y", "0", "[1]", "{}", "a\u2028b", "@timestamp", "e\u0301"}
	rng := rand.New(rand.NewPCG(15, 16))
	var fields []string
	var paths [][]string
	for i := range 1000 {
		path := []string{fmt.Sprint("field", i)}
		levels := 1 + rng.IntN(10)
		if i%10 == 0 {
			levels = 100
		}
		for len(path) < levels {
			path = append(path, keys[rng.IntN(len(keys))])
		}
		fields, paths = append(fields, strings.Join(path, ".")+":ip"), append(paths, path)
	}
	require.NoError(t, errorOf(indicator.CheckFields(specsOf(t, fields))))
	e := newEnricher(t, enrich.Config{MaxValues: 100}, fields...)

	for range 10 {
		event, some := document{}, rng.Perm(len(paths))[:20]
		for i, n := range some {
			at := map[string]any(event)
			for _, key := range paths[n][:len(paths[n])-1] {
				next, ok := at[key].(map[string]any)
				if !ok {
					next = map[string]any{}
					at[key] = next
				}
				at = next
			}
			at[paths[n][len(paths[n])-1]] = []any{fmt.Sprintf("203.0.113.%d", i)}
		}
		_, line := enriched(t, e, event.sent(rng))
		ioc := iocOf(t, line)
		for i, n := range some {
			at := ioc
			for _, key := range paths[n] {
				at, _ = at[key].(map[string]any)
			}
			require.NotNil(t, at, "%q", fields[n])
			assert.Equal(t, fmt.Sprintf("ip 203.0.113.%d", i), say(at))
		}
	}
}
