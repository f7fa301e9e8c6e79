//go:build unix

package lumber

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// With the process's last file descriptor gone, connections wait, and what is
// open goes on; with the first that is free again they are served.
func TestNoFileDescriptors(t *testing.T) {
	s := start(t, Config{}, &store{t: t})
	before := s.dial()
	before.send(three)
	before.acks('2', 3)

	var old syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	low := old
	low.Cur = 256
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low))
	var taken []*os.File
	release := func() {
		for _, f := range taken {
			_ = f.Close()
		}
		taken = nil
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old)
	}
	defer release()
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			require.ErrorIs(t, err, syscall.EMFILE)
			break
		}
		taken = append(taken, f)
	}
	require.NotEmpty(t, taken)
	last := len(taken) - 1
	require.NoError(t, taken[last].Close())
	taken = taken[:last]

	waits := s.dial() // takes the last one for the client's end
	waits.send(three)
	require.Eventually(t, func() bool { return strings.Contains(s.logs.String(), "LimitNOFILE") }, patience, time.Millisecond)
	before.send(three)
	before.acks('2', 3)
	release()
	waits.acks('2', 3)
	assert.Equal(t, 1, strings.Count(s.logs.String(), "cannot be accepted"))
}
