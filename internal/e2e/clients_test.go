//go:build real

package e2e

import (
	"bytes"
	"compress/zlib"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	client "github.com/elastic/go-lumber/client/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// listener is a program that takes plain text or TLS, and the way to it.
type listener struct {
	*sidecar
	dial func(network, address string) (net.Conn, error)
}

func startListener(t *testing.T, encrypted bool, vt string, args ...string) *listener {
	t.Helper()
	d := &net.Dialer{Timeout: patience}
	if !encrypted {
		return &listener{startSidecar(t, vt, nil, args...), d.Dial}
	}
	dir := t.TempDir()
	servers, senders := newAuthority(t, "servers"), newAuthority(t, "senders")
	certificate, key := servers.issue(t, "server").put(t, dir, "server")
	trusted := put(t, dir, "senders.pem", senders.pem)
	s := startSidecar(t, vt, nil, append([]string{"--input.ssl.certificate", certificate, "--input.ssl.key", key,
		"--input.ssl.certificate_authorities", trusted, "--input.ssl.client_authentication", "required"}, args...)...)
	return &listener{s, (&tls.Dialer{NetDialer: d, Config: senders.issue(t, "sender").tls(t, servers)}).Dial}
}

// go-lumber's client, which Beats and others are built on, one window after the
// other and with several under way, of one event and of many.
func TestGoLumberClient(t *testing.T) {
	t.Parallel()
	vt := startStandIn(t)
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", encrypted), func(t *testing.T) {
			s := startListener(t, encrypted, vt)
			sent := make(map[int][]byte)
			window := func(size int) []any {
				events := make([]any, size)
				for i := range events {
					n := firstLine + len(sent)
					sent[n] = []byte(line(n))
					events[i] = sent[n]
				}
				return events
			}
			options := func(level int) []client.Option {
				asIs := client.JSONEncoder(func(event any) ([]byte, error) { return event.([]byte), nil })
				return []client.Option{asIs, client.CompressionLevel(level), client.Timeout(patience)}
			}
			sizes := []int{1, 200, 1024, 1}
			for _, level := range []int{0, 3, 9} {
				c, err := client.SyncDialWith(s.dial, s.address, options(level)...)
				require.NoError(t, err)
				for _, size := range sizes {
					n, err := c.Send(window(size))
					require.NoError(t, err)
					require.Equal(t, size, n)
				}
				require.NoError(t, c.Close())

				a, err := client.AsyncDialWith(s.dial, s.address, len(sizes), options(level)...)
				require.NoError(t, err)
				var acked sync.WaitGroup
				for _, size := range sizes {
					acked.Add(1)
					require.NoError(t, a.Send(func(seq uint32, err error) {
						defer acked.Done()
						assert.NoError(t, err)
						assert.EqualValues(t, size, seq)
					}, window(size)))
				}
				acked.Wait()
				require.NoError(t, a.Close())
			}
			require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
			verify(t, check{lines: []span{{firstLine, len(sent)}}, sent: sent, once: true}, s.sidecar)
		})
	}
}

// forwarder speaks lumberjack version 1 as logstash-forwarder 0.4.0 does, after
// PROTOCOL.md and publisher1.go in github.com/elastic/logstash-forwarder. The
// program itself was never a module, so there is nothing to build it from.
//
//   - TLS always, with or without a certificate of its own.
//   - A window is a W and one C at zlib's level 3, flushed and then closed. Codes
//     and lengths are written one by one, so each is a TLS record.
//   - An event is a D with file, host, offset and line, and the fields that the
//     settings add. Sequence numbers go on over windows and connections.
//   - Whatever six bytes come next are taken for the window's ack.
//   - A window and its ack have one deadline, 15 s. After any failure the same bytes
//     go out again on a new connection, without end.
type forwarder struct {
	dial     func(network, address string) (net.Conn, error)
	address  string
	conn     net.Conn // nil: to be dialled
	sequence uint32
	offset   int
	resent   int // windows that went out again
}

const (
	forwarderHost    = "forwarder.example.com"
	forwarderFile    = "/var/log/app.log"
	forwarderTimeout = 15 * time.Second
	forwarderSpool   = 1024 // events in a window
)

// send sends the log's lines from number n on as one window, again and again
// until there is an answer, and holds that for the ack. written is called whenever
// a window has been written.
func (f *forwarder) send(t *testing.T, n, count int, written func()) {
	t.Helper()
	var payload bytes.Buffer
	z, err := zlib.NewWriterLevel(&payload, 3)
	require.NoError(t, err)
	word := func(v int) { _ = binary.Write(z, binary.BigEndian, uint32(v)) } // Close reports it
	text := func(s string) {
		word(len(s))
		_, _ = io.WriteString(z, s)
	}
	for i := range count {
		pairs := []string{"file", forwarderFile, "host", forwarderHost, "offset", strconv.Itoa(f.offset), "line", line(n + i),
			"type", "app", "source.ip", indicators(n + i)["source.ip"].value}
		f.offset += len(line(n+i)) + 1
		f.sequence++
		_, _ = io.WriteString(z, "1D")
		word(int(f.sequence))
		word(len(pairs) / 2)
		for _, s := range pairs {
			text(s)
		}
	}
	require.NoError(t, errors.Join(z.Flush(), z.Close()))

	var ack [6]byte
	try := func() error {
		if f.conn == nil {
			conn, err := f.dial("tcp", f.address)
			if err != nil {
				return err
			}
			f.conn = conn
		}
		if err := f.conn.SetDeadline(time.Now().Add(forwarderTimeout)); err != nil {
			return err
		}
		for _, part := range [][]byte{
			[]byte("1W"), binary.BigEndian.AppendUint32(nil, uint32(count)),
			[]byte("1C"), binary.BigEndian.AppendUint32(nil, uint32(payload.Len())), payload.Bytes(),
		} {
			if _, err := f.conn.Write(part); err != nil {
				return err
			}
		}
		written()
		_, err := io.ReadFull(f.conn, ack[:])
		return err
	}
	for tries := 1; ; tries++ {
		if err = try(); err == nil {
			break
		}
		f.close()
		f.resent++
		require.Less(t, tries, 20, "no ack: %v", err)
		<-time.After(time.Second) // as it does
	}
	require.Equal(t, "1A", string(ack[:2]))
	require.Equal(t, f.sequence, binary.BigEndian.Uint32(ack[2:]), "the number of the window's last event")
}

func (f *forwarder) close() {
	if f.conn != nil {
		_ = f.conn.Close() // it may be broken
		f.conn = nil
	}
}

// logstash-forwarder's windows are stored, every event of them, and acknowledged.
// The program is killed between two of them and inside another.
func TestLogstashForwarder(t *testing.T) {
	t.Parallel()
	const windows = 12
	s := startListener(t, true, startStandIn(t), "--id.from_content=true")
	f := &forwarder{dial: s.dial, address: s.address}
	defer f.close()
	for k := range windows {
		kill := k == windows/2
		if k == windows/4 {
			s.crash(t)
		}
		f.send(t, firstLine+k*forwarderSpool, forwarderSpool, func() {
			if kill {
				kill = false
				s.crash(t)
			}
		})
	}
	require.Positive(t, f.resent)
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")

	ids := make(map[int]string)
	table := newTable()
	for raw := range documents(t, s.sidecar) {
		var got struct {
			File, Host, Offset, Line, Type string
			Source                         string `json:"source.ip"`
			Arcanna                        struct{ IOC map[string]json.RawMessage }
		}
		require.NoError(t, json.Unmarshal(raw, &got), "%s", raw)
		require.Equal(t, []string{forwarderFile, forwarderHost, "app"}, []string{got.File, got.Host, got.Type})
		offset, err := strconv.Atoi(got.Offset)
		require.NoError(t, err)
		n := firstLine + offset/(len(line(firstLine))+1) // all lines are equally long
		require.Equal(t, line(n), got.Line)
		require.Equal(t, indicators(n)["source.ip"].value, got.Source)
		require.Equal(t, table.part(indicators(n)["source.ip"]), at(t, got.Arcanna.IOC, "source.ip"))
		id := string(got.Arcanna.IOC["event_id"])
		if was, again := ids[n]; again {
			require.Equal(t, was, id, "line %d came again under another event_id", n)
		}
		ids[n] = id
	}
	require.Equal(t, windows*forwarderSpool, len(ids), "lines stored")
	_, ok := ids[firstLine+windows*forwarderSpool-1]
	require.True(t, ok, "lines that nobody sent are there")
}

// It takes the first six bytes for its ack, so no keepalive may come before that,
// however long the output takes.
func TestLogstashForwarderGetsNoKeepalive(t *testing.T) {
	t.Parallel()
	const windows, each = 2, 10
	s := startListener(t, true, startStandIn(t, "-latency", "1h"), "--vt.wait", "3s", "--vt.timeout", "1h", "--input.keepalive", "500ms")
	f := &forwarder{dial: s.dial, address: s.address}
	defer f.close()
	for k := range windows {
		f.send(t, firstLine+k*each, each, func() {})
	}
	require.Zero(t, f.resent)
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
}
