package datadir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/datadir"
)

func TestOneServerAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "data")
	first, err := datadir.Open(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	_, err = datadir.Open(path)
	require.ErrorContains(t, err, fmt.Sprintf("path.data %s is in use by process %d", path, os.Getpid()))

	require.NoError(t, first.Close())
	again, err := datadir.Open(path)
	require.NoError(t, err, "a lock that was let go, with its file still there")
	require.NoError(t, again.Close())
}

func TestErrorsNameTheSetting(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := datadir.Open(file)
	assert.ErrorContains(t, err, "path.data")
	assert.ErrorContains(t, err, file)
}
