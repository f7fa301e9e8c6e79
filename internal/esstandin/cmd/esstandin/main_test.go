package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"--discard", "--delay", "1ms"}, w) }()
	line, err := bufio.NewReader(r).ReadString('\n')
	require.NoError(t, err)
	m := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(line)
	require.NotNil(t, m, line)
	resp, err := http.Post("http://"+m[1]+"/_bulk", "application/x-ndjson", strings.NewReader("{}\n{}\n"))
	require.NoError(t, err)
	assert.Equal(t, 200, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
	http.DefaultClient.CloseIdleConnections()
	cancel()
	require.NoError(t, <-ended)
}

func TestRunRefuses(t *testing.T) {
	for _, args := range [][]string{{"extra"}, {"--colour"}, {"--address", "nowhere"}} {
		require.Error(t, run(t.Context(), args, io.Discard), "%v", args)
	}
}
