package standin_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/internal/standin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hanging answers /hang when it is closed, and anything else at once.
type hanging struct {
	asked, done chan struct{}
	once        sync.Once
}

func (h *hanging) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/hang" {
		close(h.asked)
		<-h.done
	}
}

func (h *hanging) Close() { h.once.Do(func() { close(h.done) }) }

// It says where it listens, answers, and ends with its context, whatever hangs.
func TestServe(t *testing.T) {
	h := &hanging{asked: make(chan struct{}), done: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	said, stderr := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- standin.Serve(ctx, "x", "127.0.0.1:0", h, stderr) }()
	line, err := bufio.NewReader(said).ReadString('\n')
	require.NoError(t, err)
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "x: listening address=")
	require.True(t, ok, line)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) {
		resp, err := client.Get("http://" + address + path)
		if assert.NoError(t, err) {
			assert.NoError(t, resp.Body.Close())
		}
	}
	get("/")
	var hangs sync.WaitGroup
	hangs.Go(func() { get("/hang") })
	<-h.asked
	stop()
	require.NoError(t, <-done)
	hangs.Wait()

	require.Error(t, standin.Serve(t.Context(), "x", "256.0.0.1:0", h, stderr))
}
