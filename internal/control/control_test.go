package control_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/internal/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ask(t *testing.T, dir string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://control/hello", nil)
	require.NoError(t, err)
	resp, err := control.Client(dir).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b), nil
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })

// TestCommandsAreAnswered: by its owner only, also in a folder whose path is too
// long for a socket, and after a server that was killed.
func TestCommandsAreAnswered(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("l", 120))
	for name, dir := range map[string]string{"short": t.TempDir(), "long": long} {
		t.Run(name, func(t *testing.T) {
			if name == "long" && runtime.GOOS != "linux" {
				t.Skip("is refused here")
			}
			require.NoError(t, os.MkdirAll(dir, 0o755))
			_, err := ask(t, dir)
			require.ErrorIs(t, err, control.ErrNobody)

			for range 2 {
				l, err := control.Listen(dir)
				require.NoError(t, err)
				s := control.Serve(l, hello)
				got, err := ask(t, dir)
				require.NoError(t, err)
				assert.Equal(t, "hello", got)
				info, err := os.Lstat(filepath.Join(dir, "control.sock"))
				require.NoError(t, err)
				assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
				require.NoError(t, s.Close(t.Context()))
				entries, err := os.ReadDir(dir)
				require.NoError(t, err)
				assert.Empty(t, entries, "nothing is left")
			}

			// A server that was killed leaves its socket.
			l, err := control.Listen(dir)
			require.NoError(t, err)
			path := filepath.Join(dir, "control.sock")
			require.NoError(t, os.Rename(path, path+".kept"))
			require.NoError(t, l.Close())
			require.NoError(t, os.Rename(path+".kept", path))
			require.NoError(t, os.Mkdir(filepath.Join(dir, ".control-1"), 0o700))
			_, err = ask(t, dir)
			require.ErrorIs(t, err, control.ErrNobody)
			l, err = control.Listen(dir)
			require.NoError(t, err)
			s := control.Serve(l, hello)
			_, err = ask(t, dir)
			require.NoError(t, err)
			require.NoError(t, s.Close(t.Context()))
		})
	}
}

func TestNoStrangersFileIsReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "control.sock")
	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err := control.Listen(dir)
	require.ErrorContains(t, err, "path.data")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "mine", string(b))
}

// TestCloseEndsWhatWasBegun: a handler that waits sees its context end.
func TestCloseEndsWhatWasBegun(t *testing.T) {
	dir := t.TempDir()
	l, err := control.Listen(dir)
	require.NoError(t, err)
	begun, ended := make(chan struct{}), make(chan error, 1)
	s := control.Serve(l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		ended <- r.Context().Err()
	}))
	done := make(chan error, 1)
	go func() { _, err := ask(t, dir); done <- err }()
	<-begun
	require.NoError(t, s.Close(t.Context()))
	assert.ErrorIs(t, <-ended, context.Canceled)
	<-done
}
