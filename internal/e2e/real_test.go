//go:build real

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each way of sending that Filebeat has: every line arrives exactly once,
// enriched as the stand-in answers, and byte for byte as Filebeat sent it.
//
// Filebeat itself changes numbers when it decodes a line (1.10 becomes 1.1, -0
// becomes 0, 1e400 a string). So the reference for bytes is what a relay in
// between saw on the wire; and where Filebeat keeps the line in "message",
// that must be the log's line to the byte.
func TestFilebeatSends(t *testing.T) {
	const count = 50_000
	log := filepath.Join(t.TempDir(), "app.log")
	appendLines(t, log, firstLine, count)
	vt := startStandIn(t)

	for _, c := range []struct {
		name   string
		output string
		raw    bool
	}{
		{"default settings", "", false},
		{"message kept", "", true},
		{"bulk_max_size 0", "bulk_max_size: 0", false},
		{"compression_level 0", "compression_level: 0", true},
		{"compression_level 9", "compression_level: 9", false},
		{"pipelining 5", "pipelining: 5", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startSidecar(t, vt, nil, "--output.file.rotate_bytes", "20MiB")
			r := startRelay(t, s.address)
			f := startFilebeat(t, log, settings{output: c.output, raw: c.raw, once: true}, r.address())
			require.Zero(t, f.wait(t), "Filebeat's exit status")
			require.Zero(t, s.terminate(t), "the exit status on SIGTERM")

			sent, copies := r.events(t)
			require.Len(t, sent, count)
			require.Equal(t, count, copies, "events that Filebeat sent")
			verify(t, check{lines: []span{{firstLine, count}}, raw: c.raw, sent: sent, once: true}, s)
		})
	}

	t.Run("TLS", func(t *testing.T) {
		dir := t.TempDir()
		servers := newAuthority(t, "servers")
		ca := put(t, dir, "ca.pem", servers.pem)
		certificate, key := servers.issue(t, "server").put(t, dir, "server")
		s := startSidecar(t, vt, nil, "--input.ssl.certificate", certificate, "--input.ssl.key", key)
		f := startFilebeat(t, log, settings{output: fmt.Sprintf("ssl.certificate_authorities: [%q]", ca), raw: true, once: true}, s.address)
		require.Zero(t, f.wait(t), "Filebeat's exit status")
		require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
		// No relay can look into TLS: the numbers must be spelled as Filebeat spells them elsewhere.
		verify(t, check{lines: []span{{firstLine, count}}, raw: true, odd: spelling(t, true), once: true}, s)
	})
}

// spelling is how Filebeat spells the odd numbers on the wire, as a relay sees
// them in a run over one line.
func spelling(t *testing.T, raw bool) map[string]json.RawMessage {
	t.Helper()
	log := filepath.Join(t.TempDir(), "one.log")
	appendLines(t, log, firstLine, 1)
	s := startSidecar(t, "http://127.0.0.1:1", nil, "--vt.enabled=false")
	r := startRelay(t, s.address)
	f := startFilebeat(t, log, settings{raw: raw, once: true}, r.address())
	require.Zero(t, f.wait(t))
	s.terminate(t)
	sent, _ := r.events(t)
	var e stored
	require.NoError(t, json.Unmarshal(sent[firstLine], &e))
	require.Len(t, e.Odd, 7)
	return e.Odd
}

// SIGKILL ten times, each at another moment of a round that is under way; the
// program comes back on its address and Filebeat goes on by itself.
func TestKilled(t *testing.T) {
	t.Parallel()
	const rounds, round = 10, 6_000
	odd := spelling(t, true)
	log := filepath.Join(t.TempDir(), "app.log")
	s := startSidecar(t, startStandIn(t), nil, "--output.file.rotate_bytes", "20MiB")
	f := startFilebeat(t, log, settings{raw: true}, s.address)
	moments := rand.New(rand.NewPCG(1, 2))
	for k := range rounds {
		size := s.size()
		appendLines(t, log, firstLine+k*round, round)
		grown(t, s, size+moments.Int64N(8<<20))
		s.crash(t)
	}
	f.acked(t, log)
	f.terminate(t)
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
	repeats := verify(t, check{lines: []span{{firstLine, rounds * round}}, raw: true, odd: odd}, s)
	t.Logf("%d of %d lines came more than once, each under its event_id", repeats, rounds*round)
}

// The log is rotated (renamed, and a new one begun) and truncated in place
// (after a copy), in turn, ten times, and the program is killed in each round.
// A truncation waits for Filebeat's registry to reach the end of the file:
// what Filebeat has not read is not this program's to keep. All lines are
// equally long, so after a truncation other lines stand at the same offsets.
func TestRotatedTruncatedAndKilled(t *testing.T) {
	t.Parallel()
	const rounds, round = 10, 6_000
	odd := spelling(t, false)
	dir := t.TempDir()
	log := filepath.Join(dir, "app.log")
	s := startSidecar(t, startStandIn(t), nil)
	f := startFilebeat(t, log, settings{}, s.address)
	moments := rand.New(rand.NewPCG(3, 4))
	truncations := 0
	for k := range rounds {
		size := s.size()
		appendLines(t, log, firstLine+k*round, round)
		grown(t, s, size+moments.Int64N(8<<20))
		s.crash(t)
		if k%2 == 0 {
			require.NoError(t, os.Rename(log, fmt.Sprintf("%s.%d", log, k)))
			continue
		}
		f.acked(t, log)
		copyFile(t, log, filepath.Join(dir, fmt.Sprintf("copy.%d", k)))
		require.NoError(t, os.Truncate(log, 0))
		truncations++
		f.say(t, truncated, truncations) // a file that grew again unseen would hide lines from Filebeat
	}
	for k := 0; k < rounds; k += 2 {
		f.acked(t, fmt.Sprintf("%s.%d", log, k))
	}
	f.terminate(t)
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
	repeats := verify(t, check{lines: []span{{firstLine, rounds * round}}, odd: odd}, s)
	t.Logf("%d of %d lines came more than once, each under its event_id", repeats, rounds*round)
}

// grown waits until the output holds more than size bytes, or has
// stopped growing because everything is there.
func grown(t *testing.T, s *sidecar, size int64) {
	t.Helper()
	last, still := int64(-1), 0
	require.Eventually(t, func() bool {
		now := s.size()
		if still++; now != last {
			last, still = now, 0
		}
		return now > size || still > 600 // seconds without a byte
	}, patience, 5*time.Millisecond, "nothing is stored")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.Create(to)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, err)
	require.NoError(t, out.Close())
}
