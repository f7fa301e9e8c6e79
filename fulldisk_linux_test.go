package main

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
)

// fillDisk makes every further write to a file fail that this process has open,
// as on a full disk.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	const fds = "/proc/self/fd"
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	require.NoError(t, err)
	defer full.Close()
	names, err := os.ReadDir(fds)
	require.NoError(t, err)
	filled := 0
	for _, name := range names {
		if target, err := os.Readlink(filepath.Join(fds, name.Name())); err != nil || target != path {
			continue // one that was closed meanwhile is none
		}
		fd, err := strconv.Atoi(name.Name())
		require.NoError(t, err)
		require.NoError(t, syscall.Dup3(int(full.Fd()), fd, syscall.O_CLOEXEC))
		filled++
	}
	require.Equal(t, 1, filled)
}

// The disk of path.data is full at the end: that costs quota and no event, and
// all that was in flight is settled, so it is no failure.
func TestWhatIsNotSavedAtTheEndIsNoFailure(t *testing.T) {
	_, vt := standIn(t)
	data, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	cfg := &configs.Config{DataDir: data}
	p := startServer(t, data, vt)
	sendEvents(t, p.address(t), `{"n":1,"source":{"ip":"203.0.113.7"}}`)
	fillDisk(t, quotaPath(cfg))
	require.NoError(t, os.MkdirAll(filepath.Join(snapshotPath(cfg), "in the way"), 0o700))
	p.stop()
	require.Zero(t, p.wait(t), p.stderr.String())
	assert.Regexp(t, `the counts of requests could not be saved at the end.*no space left`, p.stderr.String())
	assert.Contains(t, p.stderr.String(), "the cache could not be saved at the end")
	assert.Contains(t, p.stderr.String(), "all that was in flight was settled")
}
