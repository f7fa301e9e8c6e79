// Package control is how a command talks to the server that runs on the same
// path.data: HTTP over a socket in that folder.
//
// Promise: whoever is not the folder's owner cannot connect, at no moment; a
// socket that a killed server left behind keeps nobody from serving; and what a
// command has begun ends when the command goes, or when the server stops.
package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	name    = "control.sock"
	private = ".control-" // of the folder where a socket is made
	longest = 100         // bytes of a socket's path; systems have room for 104 or 108
)

// ErrNobody is returned to commands where no server listens.
var ErrNobody = errors.New("no server answers at " + name)

// Path is where the socket of a folder is.
func Path(dir string) string { return filepath.Join(dir, name) }

// Listen makes the socket. The caller holds the lock on dir, so one that is
// there was left behind.
func Listen(dir string) (net.Listener, error) {
	path := Path(dir)
	if at, err := os.Lstat(path); err == nil && at.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("path.data: %s is there and is no socket; remove or rename it", path)
	}
	left, _ := os.ReadDir(dir) // where that fails, nothing works
	for _, l := range left {
		if strings.HasPrefix(l.Name(), private) {
			_ = os.RemoveAll(filepath.Join(dir, l.Name())) // of a server that was killed; it is empty, or holds a socket
		}
	}
	// It takes its name only when nobody else can connect any more.
	tmp, err := os.MkdirTemp(dir, private)
	if err != nil {
		return nil, fmt.Errorf("path.data: %w", err)
	}
	defer os.RemoveAll(tmp)
	var l *net.UnixListener
	err = short(tmp, "s", func(path string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(filepath.Join(tmp, "s"), 0o600)
	if err == nil {
		err = os.Rename(filepath.Join(tmp, "s"), path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("path.data: %w", err), l.Close())
	}
	return &listener{l, path}, nil
}

// listener takes its socket away when it closes.
type listener struct {
	*net.UnixListener
	path string
}

func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if gone := os.Remove(l.path); err == nil && !errors.Is(gone, fs.ErrNotExist) {
		err = gone
	}
	return err
}

// short calls f with a path of a file in dir that is short enough for a socket.
func short(dir, file string, f func(path string) error) error {
	path := filepath.Join(dir, file)
	if len(path) <= longest {
		if err := f(path); err != nil {
			return fmt.Errorf("path.data: %w", err)
		}
		return nil
	}
	if runtime.GOOS != "linux" {
		return fmt.Errorf("path.data: %s is too long for a socket: its path has %d bytes, %d are possible; choose a shorter one", dir, len(path), longest)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("path.data: %w", err)
	}
	defer d.Close()
	if err := f("/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + file); err != nil {
		return fmt.Errorf("path.data: %s: %w", path, err)
	}
	return nil
}

// Client talks to the server of a folder, whatever host its requests name.
// Requests fail with ErrNobody where there is none.
func Client(dir string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // a command says one thing
		DialContext: func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
			err = short(dir, name, func(path string) error {
				var d net.Dialer
				conn, err = d.DialContext(ctx, "unix", path)
				return err
			})
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
				err = ErrNobody
			}
			return conn, err
		},
	}}
}

// Server answers commands. It is safe for concurrent use.
type Server struct {
	http *http.Server
	stop context.CancelFunc
	done chan error
}

// Serve answers on l until Close.
func Serve(l net.Listener, h http.Handler) *Server {
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{stop: stop, done: make(chan error, 1), http: &http.Server{
		Handler: h,
		// No ReadTimeout: it would end, as if the command had gone, what takes longer.
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}}
	go func() { s.done <- s.http.Serve(l) }()
	return s
}

// Close ends what commands have begun, and waits for that until ctx ends.
func (s *Server) Close(ctx context.Context) error {
	s.stop()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
