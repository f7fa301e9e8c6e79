package admin_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/internal/admin"
	"vtsidecar/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves cfg on a free port until the test ends.
func start(t *testing.T, cfg admin.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := admin.New(cfg)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		assert.NoError(t, s.Shutdown(context.Background()))
		assert.NoError(t, <-done)
	})
	return l.Addr().String()
}

// ask makes one request and returns status, headers and body.
func ask(t *testing.T, method, addr, path, host string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, nil)
	require.NoError(t, err)
	if host != "" {
		req.Host = host
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, string(body)
}

func TestAnswers(t *testing.T) {
	set := metrics.New("1.2.3", "abc", "go1.26")
	set.EventsReceived.Add(7)
	addr := start(t, admin.Config{Gatherer: set.Registry, Version: "1.2.3<script>"})

	for path, want := range map[string]string{"/livez": "ok\n", "/readyz": "ok\n"} {
		status, head, body := ask(t, http.MethodGet, addr, path, "")
		assert.Equal(t, 200, status)
		assert.Equal(t, want, body)
		assert.Equal(t, "no-store", head.Get("Cache-Control"))
	}
	status, _, body := ask(t, http.MethodGet, addr, "/metrics", "")
	assert.Equal(t, 200, status)
	assert.Contains(t, body, "vtsidecar_events_received_total 7")
	assert.Contains(t, body, `vtsidecar_build_info{goversion="go1.26",revision="abc",version="1.2.3"} 1`)
	assert.Contains(t, body, "go_goroutines")

	status, head, body := ask(t, http.MethodGet, addr, "/", "")
	assert.Equal(t, 200, status)
	assert.Contains(t, head.Get("Content-Type"), "text/html")
	for _, link := range []string{"/livez", "/readyz", "/metrics", "1.2.3"} {
		assert.Contains(t, body, link)
	}
	assert.NotContains(t, body, "<script>")

	status, _, body = ask(t, http.MethodHead, addr, "/livez", "")
	assert.Equal(t, 200, status)
	assert.Empty(t, body)
	for _, path := range []string{"/nothing", "/livez/x", "/debug/pprof/", "/../livez/../x"} {
		status, _, _ = ask(t, http.MethodGet, addr, path, "")
		assert.GreaterOrEqual(t, status, 300, path)
	}
}

func TestReadOnly(t *testing.T) {
	addr := start(t, admin.Config{})
	for _, m := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "ODD"} {
		for _, path := range []string{"/", "/livez", "/readyz", "/metrics"} {
			status, head, _ := ask(t, m, addr, path, "")
			assert.Equal(t, 405, status, m+path)
			assert.Equal(t, "GET, HEAD", head.Get("Allow"))
		}
	}
}

func TestReadinessNamesTheParts(t *testing.T) {
	reasons := make(chan error, 3)
	addr := start(t, admin.Config{Checks: []admin.Check{
		{Name: "input", Ready: func() error { return nil }},
		{Name: "output", Ready: func() error { return <-reasons }},
		{Name: "odd", Ready: func() error {
			if err := <-reasons; err != nil {
				panic(err)
			}
			return nil
		}},
	}})
	reasons <- errors.New("disk full:\nno space left")
	reasons <- errors.New("a secret of the check")
	status, _, body := ask(t, http.MethodGet, addr, "/readyz", "")
	assert.Equal(t, 503, status)
	assert.Equal(t, "output: disk full: no space left\nodd: its check broke\n", body)

	reasons <- nil
	reasons <- nil
	status, _, body = ask(t, http.MethodGet, addr, "/readyz", "")
	assert.Equal(t, 200, status, "it goes on after a panic, and is ready again")
	assert.Equal(t, "ok\n", body)

	status, _, _ = ask(t, http.MethodGet, addr, "/livez", "")
	assert.Equal(t, 200, status, "alive asks no check")
}

func TestHostHeader(t *testing.T) {
	addr := start(t, admin.Config{Host: "Sidecar.example"})
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	for host, want := range map[string]int{
		addr: 200, "127.0.0.1": 200, "localhost": 200, "localhost:" + port: 200, "LOCALHOST.:1": 200, "[::1]:" + port: 200, "127.9.9.9": 200, "[::ffff:127.0.0.1]": 200,
		"sidecar.example:" + port: 200, "SIDECAR.example": 200, "192.0.2.1": 200, "[2001:db8::1]:" + port: 200, // as before a container
		"evil.example": 403, "evil.example:" + port: 403, "localhost.evil.example": 403, "0.0.0.0": 403, "[::]:" + port: 403, "127.0.0.1.evil.example": 403, "2130706433": 403,
	} {
		status, _, _ := ask(t, http.MethodGet, addr, "/metrics", host)
		if want == 200 {
			want = 404 // no metrics are configured here: it passed the guard
		}
		assert.Equal(t, want, status, host)
		status, _, _ = ask(t, http.MethodGet, addr, "/", host)
		assert.Equal(t, want == 403, status == 403, host)
	}
}

func TestLimits(t *testing.T) {
	addr := start(t, admin.Config{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/livez", nil)
	require.NoError(t, err)
	req.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode)

	// HTTP/1.0 without a Host header names nobody.
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /livez HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Contains(t, string(answer), " 403 ")
}

func TestShutdownIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	entered, release := make(chan struct{}), make(chan struct{})
	s := admin.New(admin.Config{Checks: []admin.Check{{Name: "slow", Ready: func() error {
		close(entered)
		<-release
		return nil
	}}}})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		_, _ = io.ReadAll(c)
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, s.Shutdown(ctx), context.Canceled)
	assert.NoError(t, <-served)
	<-gone // the connection was closed although its check had not answered
	close(release)
}
