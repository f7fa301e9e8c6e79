package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
	"vtsidecar/lumber"
)

// Two servers in a chain, as a branch and the head office have them: the first
// asks VirusTotal and forwards over mutual TLS, the second keeps its verdicts.
// Every event arrives once, under the identity that the first one gave it, though
// the second one is away in the middle of it.
func TestChained(t *testing.T) {
	_, url := standIn(t)
	dir := t.TempDir()
	branch, office := newIdentity(t, 1, "branch.example"), newIdentity(t, 2)
	branch.lay(t, filepath.Join(dir, "branch"))
	office.lay(t, filepath.Join(dir, "office"))
	file := func(who, name string) string { return filepath.Join(dir, who, name) }

	data, address := t.TempDir(), "127.0.0.1:0"
	second := func() *program {
		p := start(t, nil, "", "--input.address", address, "--admin.address", "off", "--path.data", data, "--vt.enabled=false",
			"--input.trust_verdicts", "--input.ssl.certificate", file("office", "tls.crt"), "--input.ssl.key", file("office", "tls.key"),
			"--input.ssl.certificate_authorities", file("branch", "tls.crt"), "--input.ssl.client_authentication", "required",
			"--input.ssl.allowed_names", "branch.example")
		address = p.address(t)
		return p
	}
	p2 := second()
	first := startServer(t, t.TempDir(), url, "--output.logstash.hosts", address, "--output.logstash.ssl.certificate_authorities", file("office", "tls.crt"),
		"--output.logstash.ssl.certificate", file("branch", "tls.crt"), "--output.logstash.ssl.key", file("branch", "tls.key"))

	events := func(from, to int) string {
		var b strings.Builder
		for n := from; n < to; n++ {
			switch n % 3 {
			case 0: // known by where it stood
				fmt.Fprintf(&b, `{"@metadata":{"beat":"filebeat"},"n":%d,"source":{"ip":"203.0.113.7"},"log":{"file":{"path":"/l"},"offset":%d}}`, n, n)
			case 1: // known by a name of its own
				fmt.Fprintf(&b, `{"@metadata":{"_id":"own\"%d"},"n":%d,"big":9007199254740993}`, n, n)
			case 2: // known by nothing
				fmt.Fprintf(&b, `{"n":%d}`, n)
			}
			b.WriteByte('\n')
		}
		return b.String()
	}
	sendEvents(t, first.address(t), events(0, 3000))

	p2.stop()
	require.Zero(t, p2.wait(t), p2.stderr.String())
	sender := start(t, nil, events(3000, 6000), "send", "--to", first.address(t))
	first.says(t, "no Logstash takes events")
	p2 = second()
	require.Zero(t, sender.wait(t), sender.stderr.String())
	first.says(t, "Logstash takes events again")

	first.stop()
	require.Zero(t, first.wait(t), first.stderr.String())
	p2.stop()
	require.Zero(t, p2.wait(t), p2.stderr.String())

	f, err := os.Open(filepath.Join(data, "events.ndjson"))
	require.NoError(t, err)
	defer f.Close()
	seen, ids := map[int]bool{}, map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e map[string]any
		require.NoError(t, json.Unmarshal(lines.Bytes(), &e))
		n := int(e["n"].(float64))
		require.False(t, seen[n], "event %d is there twice", n)
		seen[n] = true
		id, _ := at(e, "arcanna.ioc.event_id").(string)
		require.False(t, ids[id], "two events are %s", id)
		ids[id] = true
		require.Nil(t, e["@metadata"])
		switch n % 3 {
		case 0:
			require.Equal(t, true, at(e, "arcanna.ioc.is_malicious"), "the first server's verdict")
		case 1:
			require.Equal(t, fmt.Sprintf(`own"%d`, n), id)
			require.Contains(t, lines.Text(), `"big":9007199254740993`)
		default:
			require.Len(t, id, 32)
		}
	}
	assert.Len(t, seen, 6000)

	// Who shows no certificate gets in nowhere, and readiness says why.
	p2 = second()
	stranger := startServer(t, t.TempDir(), url, "--output.logstash.hosts", address, "--output.logstash.ssl.certificate_authorities", file("office", "tls.crt"), "--shutdown.timeout", "1s")
	sender = start(t, nil, events(0, 1), "send", "--to", stranger.address(t))
	assert.Contains(t, stranger.says(t, `(no Logstash takes events.*)`), "certificate")
	p2.says(t, "certificate_missing")
	sender.stop()
	require.NotZero(t, sender.wait(t))
}

// received is what a server took.
type received struct {
	mu     sync.Mutex
	events []string
}

func (r *received) Handle(_ context.Context, b *event.Batch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range b.Events {
		r.events = append(r.events, string(e.Raw))
	}
	return nil
}

// What a Logstash gets is what the Beat sent, its @metadata too, with the verdict
// and an _id to store it under.
func TestLogstashGetsMetadata(t *testing.T) {
	_, url := standIn(t)
	var got received
	server, err := lumber.NewServer(lumber.Config{MaxEvent: 1 << 20, MaxWindow: 4096, MaxWindowBytes: 1 << 24, Memory: 1 << 25, Keepalive: 5e9}, &got)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		require.NoError(t, server.Shutdown(context.Background()))
		<-served
	}()

	p := startServer(t, t.TempDir(), url, "--output.logstash.hosts", listener.Addr().String())
	sendEvents(t, p.address(t), `{"@metadata":{"beat":"filebeat","version":"9.4.2","pipeline":"p"},"n":1}
{"n":2,"@metadata":{"_id":"own"}}
{"n":3}
`)
	p.stop()
	require.Zero(t, p.wait(t), p.stderr.String())
	require.Len(t, got.events, 3)
	for i, want := range []string{`{"@metadata":{"_id":"ID","beat":"filebeat","version":"9.4.2","pipeline":"p"},"n":1,`, `{"n":2,"@metadata":{"_id":"ID"},`, `{"n":3,`} {
		var e map[string]any
		require.NoError(t, json.Unmarshal([]byte(got.events[i]), &e))
		id, _ := at(e, "arcanna.ioc.event_id").(string)
		assert.Equal(t, id, at(e, "@metadata._id"))
		assert.True(t, strings.HasPrefix(got.events[i], strings.ReplaceAll(want, "ID", id)), got.events[i])
		if i == 1 {
			assert.Equal(t, "own", id)
		}
	}
}
