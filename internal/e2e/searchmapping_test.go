//go:build real

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Somebody else's template wins the program's own indices, with another mapping:
// test output names it before any event is lost to it.
func foreignTemplate(t *testing.T, n *node, vt string) {
	const path = "/_index_template/foreign"
	n.do(t, "PUT", path, `{"index_patterns":["logs-vtsidecar-overruled*"],"priority":500,"data_stream":{},
		"template":{"mappings":{"properties":{"arcanna":{"properties":{"ioc":{"properties":{"global":{"properties":{"result":{"type":"integer"}}}}}}}}}}}`)
	defer n.do(t, "DELETE", path, "")
	settings := append(surroundings(t.TempDir(), vt), "--output.elasticsearch.hosts", n.url, "--output.elasticsearch.index", "logs-vtsidecar-overruled")
	out, code := command(t, settings, "test", "output")
	require.Equal(t, 1, code, "the exit status of test output")
	require.Contains(t, out, `"foreign" (priority 500)`)
	require.Contains(t, out, "arcanna.ioc.global.result")
}

// One event of a thousand does not fit the mapping: those alone are put aside,
// and stored when the mapping was mended.
func mappingConflict(t *testing.T, n *node, vt string) {
	const index, count, every = "conflict-e2e", 2_000, 1_000
	n.do(t, "PUT", "/_index_template/conflict", `{"index_patterns":["conflict-*"],"composed_of":["vtsidecar@mappings"],"template":{"mappings":{"properties":{"size":{"type":"long"}}}}}`)
	s := startStoring(t, vt, n, "--output.elasticsearch.index", index)
	want := make(map[int]int)
	for k := every / 2; k < count; k += every {
		want[firstLine+k] = 400
	}
	sent := s.send(t, firstLine, count, func(n int) string {
		size := `{"size":1,`
		if want[n] != 0 {
			size = `{"size":"large",`
		}
		return strings.Replace(searchLine(n), "{", size, 1)
	})
	require.Zero(t, sent.wait(t), "the sender's exit status")
	require.Equal(t, want, s.letters(t))
	require.Equal(t, count-len(want), n.count(t, index))

	n.do(t, "PUT", "/"+index+"/_mapping", `{"properties":{"size":{"type":"long","ignore_malformed":true}}}`)
	_, code := command(t, s.args, "dlq", "replay")
	require.Zero(t, code, "the exit status of dlq replay")
	require.Empty(t, s.letters(t))
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
	n.verify(t, index, span{firstLine, count})
}

// letters are the lines whose events are in the dead letter, with the status that
// refused them.
func (s *sidecar) letters(t *testing.T) map[int]int {
	t.Helper()
	all := make(map[int]int)
	files, err := filepath.Glob(filepath.Join(s.dir, "data", "dead-letter", "*.ndjson"))
	require.NoError(t, err)
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for raw := range strings.Lines(string(text)) {
			var letter struct {
				Status int
				Event  string
			}
			require.NoError(t, json.Unmarshal([]byte(raw), &letter), "%s", raw)
			var event struct{ N int }
			require.NoError(t, json.Unmarshal([]byte(letter.Event), &event), "%s", letter.Event)
			all[event.N] = letter.Status
		}
	}
	return all
}
