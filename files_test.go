package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestClosedFiles: what output.file.rotate_bytes, .rotate_every, .compress and
// .keep make of the output, over restarts.
func TestClosedFiles(t *testing.T) {
	_, url := standIn(t)
	data := t.TempDir()
	closed := func(suffix string) []string {
		names, err := filepath.Glob(filepath.Join(data, "events-????????T??????-*"+suffix))
		require.NoError(t, err)
		return names
	}
	events := func(from, to int) string {
		var b strings.Builder
		for n := from; n <= to; n++ {
			fmt.Fprintf(&b, `{"n":%d,"message":"%s"}`+"\n", n, strings.Repeat("x", 300))
		}
		return b.String()
	}
	p := startServer(t, data, url, "--output.file.rotate_bytes", "2KB", "--output.file.compress=false")
	sendEvents(t, p.address(t), events(1, 20))
	p.stop()
	require.Zero(t, p.wait(t), p.stderr)
	plain := len(closed(".ndjson"))
	require.Greater(t, plain, 3)

	p = startServer(t, data, url, "--output.file.keep", "2", "--log.level", "debug")
	p.says(t, `(?s)file was compressed.*file was compressed`)
	assert.Len(t, closed(""), 2)
	assert.Len(t, closed(".ndjson.gz"), 2)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	answer, err := client.Get("http://" + p.says(t, `"admin\.url":"http://(127\.0\.0\.1:[0-9]+)"`) + "/metrics")
	require.NoError(t, err)
	figures, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	require.NoError(t, err)
	assert.Contains(t, string(figures), fmt.Sprintf("vtsidecar_output_files_deleted_total %d\n", plain-2))
	p.stop()
	require.Zero(t, p.wait(t), p.stderr)
	last := stored(t, filepath.Join(data, "events.ndjson"))

	// The file's second is over.
	p = startServer(t, data, url, "--output.file.rotate_every", "1s", "--log.level", "debug")
	path := p.says(t, `file was compressed".*?"path":"([^"]*)"`)
	f, err := os.Open(path + ".gz")
	require.NoError(t, err)
	defer f.Close()
	r, err := gzip.NewReader(f)
	require.NoError(t, err)
	lines, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.Equal(t, len(last), strings.Count(string(lines), "\n"))
	assert.Contains(t, string(lines), `"n":20,`)
	assert.Len(t, closed(""), 3)
	p.stop()
	require.Zero(t, p.wait(t), p.stderr)
}

// TestOutputIsNoFileOfOurs: whatever a server keeps in path.data is refused as
// output, but for the output itself.
func TestOutputIsNoFileOfOurs(t *testing.T) {
	_, url := standIn(t)
	data := t.TempDir()
	p := startServer(t, data, url)
	sendEvents(t, p.address(t), `{"n":1,"source":{"ip":"203.0.113.7"}}`)
	names := map[string]bool{}
	list := func() {
		entries, err := os.ReadDir(data)
		require.NoError(t, err)
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	list()
	p.stop()
	require.Zero(t, p.wait(t), p.stderr)
	list()
	require.Greater(t, len(names), 5)
	for name := range names {
		p := start(t, nil, "", "test", "config", "--path.data", data, "--output.file.path", filepath.Join(data, name))
		if name == "events.ndjson" {
			assert.Zero(t, p.wait(t), p.stderr)
			continue
		}
		assert.Equal(t, 2, p.wait(t), name)
		assert.Contains(t, p.stderr.String(), "output.file.path (flag)")
	}
}
