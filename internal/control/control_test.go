package control_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// A folder's name is no pattern: nothing is taken out of another one.
func TestOtherFoldersAreLeftAlone(t *testing.T) {
	parent := t.TempDir()
	dir, other := filepath.Join(parent, "data[12]"), filepath.Join(parent, "data1")
	for _, d := range []string{dir, other} {
		require.NoError(t, os.MkdirAll(filepath.Join(d, ".control-1"), 0o700))
	}
	l, err := control.Listen(dir)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	assert.NoDirExists(t, filepath.Join(dir, ".control-1"))
	assert.DirExists(t, filepath.Join(other, ".control-1"))
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

// pipes is a listener without a network, so that a test may run on a clock of its
// own.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// TestAnswersTakeTheirTime: what a command has begun is not ended because it
// takes long, whether it says something meanwhile or not.
func TestAnswersTakeTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		s := control.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			io.WriteString(w, "begun ")
			assert.NoError(t, http.NewResponseController(w).Flush())
			select {
			case <-r.Context().Done():
				io.WriteString(w, "given up")
			case <-time.After(time.Hour): // of the bubble's clock
				io.WriteString(w, "done")
			}
		}))
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				l.conns <- theirs
				return ours, nil
			},
		}}
		resp, err := client.Post("http://control/", "application/json", strings.NewReader("{}"))
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, "begun done", string(b))
		require.NoError(t, resp.Body.Close())
		require.NoError(t, s.Close(t.Context()))
	})
}
