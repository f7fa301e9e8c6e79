//go:build real

package e2e

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Mutual TLS, and all of it is replaced on disk while Filebeat sends: the
// server's certificate twice, and the authority of the senders' certificates by
// another, with a time in which both are good. Nothing is restarted and
// nothing reloaded by hand, no event is lost, none is sent twice.
//
//   - The old Filebeat's certificate is of the old authority. Its one connection
//     outlives all that, also when its authority is good for nothing new.
//   - The new Filebeat's is of the new authority. It is refused until that
//     authority is there, and is let in without being touched. It connects anew
//     every half second from then on (ttl).
func TestCertificatesRotate(t *testing.T) {
	t.Parallel()
	servers, before, after := newAuthority(t, "servers"), newAuthority(t, "old senders"), newAuthority(t, "new senders")
	dir := t.TempDir()
	trusted := put(t, dir, "senders.pem", before.pem)
	certificate, key := servers.issue(t, "first").put(t, dir, "server")
	s := startSidecar(t, startStandIn(t), nil, "--input.ssl.certificate", certificate, "--input.ssl.key", key,
		"--input.ssl.certificate_authorities", trusted, "--input.ssl.client_authentication", "required")

	type sender struct {
		*beat
		log   string
		relay *relay
		tls   *tls.Config // of a connection that shows the same certificate
	}
	newSender := func(a *authority, written span, output string) *sender {
		home := t.TempDir()
		own := a.issue(t, "sender")
		certificate, key := own.put(t, home, "sender")
		b := &sender{log: filepath.Join(home, "app.log"), relay: startRelay(t, s.address), tls: own.tls(t, servers)}
		appendLines(t, b.log, written.first, written.count)
		output += fmt.Sprintf("ssl: {certificate_authorities: [%q], certificate: %q, key: %q}\n", put(t, home, "ca.pem", servers.pem), certificate, key)
		b.beat = startFilebeat(t, b.log, settings{output: output, raw: true}, b.relay.address())
		return b
	}
	lines := []span{{firstLine, 5000}, {5 * firstLine, 5000}}
	older := newSender(before, lines[0], "")
	newer := newSender(after, lines[1], "pipelining: 0\nttl: 500ms\nbulk_max_size: 256\nbackoff: {init: 200ms, max: 1s}\n")
	feeder := feed(t, lines, older.log, newer.log)

	// shows waits until a new connection sees a certificate.
	shows := func(by *sender, name string) {
		t.Helper()
		require.Eventually(t, func() bool {
			got, err := show(s.address, by.tls)
			return err == nil && got == name
		}, patience, 100*time.Millisecond, "new connections do not get %q", name)
	}
	refuses := func(by *sender) {
		t.Helper()
		require.Eventually(t, func() bool {
			_, err := show(s.address, by.tls)
			return err != nil
		}, patience, 100*time.Millisecond, "a sender of the wrong authority is let in")
	}

	shows(older, "first")
	refuses(newer)
	newer.say(t, failed, 2)
	grows(t, s, 1)

	// The senders' new authority beside the old one, then a new certificate: each
	// file in one step, with a moment in which key and certificate do not fit.
	put(t, dir, "senders.pem", slices.Concat(before.pem, after.pem))
	shows(newer, "first")
	second := servers.issue(t, "second")
	put(t, dir, "server.pem", second.certificate)
	shows(newer, "first")
	put(t, dir, "server.key", second.key)
	shows(newer, "second")
	shows(older, "second")
	connections := newer.relay.connections()
	require.Eventually(t, func() bool { return newer.relay.connections() > connections+2 }, patience, 50*time.Millisecond, "Filebeat does not connect anew")

	// The old authority goes, and a third certificate comes: written over what was
	// there, as a careless script does it.
	third := servers.issue(t, "third")
	require.NoError(t, os.WriteFile(key, third.key, 0o600))
	require.NoError(t, os.WriteFile(certificate, third.certificate, 0o600))
	require.NoError(t, os.WriteFile(trusted, after.pem, 0o600))
	shows(newer, "third")
	refuses(older)
	grows(t, s, 1)

	lines = feeder.halt(t)
	for _, b := range []*sender{older, newer} {
		b.acked(t, b.log)
		assert.Zero(t, b.terminate(t), "Filebeat's exit status")
	}
	assert.Equal(t, 1, older.relay.connections(), "a connection was dropped")
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
	verify(t, check{lines: lines, raw: true, once: true}, s)
	t.Logf("%d and %d lines over %d and %d connections", lines[0].count, lines[1].count, older.relay.connections(), newer.relay.connections())
}
