//go:build real

package e2e

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Two Filebeats share two servers (loadbalance), and one server is killed while
// both are at work. Over both outputs every line is there, and those that are
// there twice have one event_id. The server comes back at once, and is used
// again; or it stays away, and the other one gets everything.
func TestLoadBalanced(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		comesBack bool
	}{{"the killed one comes back", true}, {"the killed one stays away", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const backlog = 10_000
			vt := startStandIn(t)
			victim, other := startSidecar(t, vt, nil), startSidecar(t, vt, nil)

			dir := t.TempDir()
			logs := []string{filepath.Join(dir, "one.log"), filepath.Join(dir, "two.log")}
			written := []span{{firstLine, backlog}, {5 * firstLine, backlog}} // numbers of seven digits, all of them
			beats := make([]*beat, len(logs))
			for i, log := range logs {
				appendLines(t, log, written[i].first, written[i].count)
				beats[i] = startFilebeat(t, log, settings{output: "loadbalance: true\nbulk_max_size: 512\n", raw: true}, victim.address, other.address)
			}
			feeder := feed(t, written, logs...)

			grows(t, victim, 1+rand.Int64N(8<<20))
			grows(t, other, 1)
			victim.kill()
			if c.comesBack {
				victim.start(t)
				grows(t, victim, 1)
			}
			grows(t, other, 1)

			written = feeder.halt(t)
			for i, log := range logs {
				beats[i].acked(t, log)
				assert.Zero(t, beats[i].terminate(t), "Filebeat's exit status")
			}
			if !c.comesBack {
				victim.start(t) // what it was writing when it was killed is put aside
			}
			require.Zero(t, victim.terminate(t), "the exit status on SIGTERM")
			require.Zero(t, other.terminate(t), "the exit status on SIGTERM")
			repeats := verify(t, check{lines: written, raw: true}, victim, other)
			t.Logf("%d and %d lines; %d came more than once, each under its event_id", written[0].count, written[1].count, repeats)
		})
	}
}

// grows waits until a server has stored n bytes more.
func grows(t *testing.T, s *sidecar, n int64) {
	t.Helper()
	from := s.size()
	require.Eventually(t, func() bool { return s.size() >= from+n }, patience, 10*time.Millisecond, "nothing is stored")
}
