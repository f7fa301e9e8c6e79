package lumber

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
	"vtsidecar/internal/faketime"
)

// three is a good window of three events.
var three = join(windowFrame('2', 3), compressedFrame('2', jsonFrame(1, `{"a":1}`), jsonFrame(2, `{"a":2}`), jsonFrame(3, `{"a":3}`)))

var threeEvents = []string{`{"a":1}`, `{"a":2}`, `{"a":3}`}

// Windows that must be acknowledged, and what the handler must see.
func TestGoodWindows(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	for _, tt := range []struct {
		name    string
		version byte
		send    []byte
		acks    []uint32
		events  []string
	}{
		{"window 0", '2', windowFrame('2', 0), []uint32{0}, nil},
		{"window 0 in version 1", '1', windowFrame('1', 0), []uint32{0}, nil},
		{"window 0 in its order", '2', join(three, windowFrame('2', 0), three), []uint32{3, 0, 3}, append(threeEvents[:3:3], threeEvents...)},
		{"one compressed frame", '2', three, []uint32{3}, threeEvents},
		{"plain frames", '2', join(windowFrame('2', 2), jsonFrame(1, `{}`), jsonFrame(2, `[]`)), []uint32{2}, []string{`{}`, `[]`}},
		{"spread over frames", '2', join(windowFrame('2', 4), compressedFrame('2', jsonFrame(1, `{"a":1}`)), jsonFrame(2, `{"a":2}`),
			compressedFrame('2', jsonFrame(3, `{"a":3}`), jsonFrame(4, `{"a":4}`))), []uint32{4}, []string{`{"a":1}`, `{"a":2}`, `{"a":3}`, `{"a":4}`}},
		{"empty compressed frames", '2', join(rawCompressed('2', nil), windowFrame('2', 1), rawCompressed('2', nil), compressedFrame('2'),
			jsonFrame(1, `{}`), rawCompressed('2', nil), compressedFrame('2'), three), []uint32{1, 3}, append([]string{`{}`}, threeEvents...)},
		{"stored blocks", '2', join(windowFrame('2', 1), rawCompressed('2', deflated(0, jsonFrame(7, long)))), []uint32{7}, []string{long}},
		{"large events", '2', join(windowFrame('2', 3), compressedFrame('2', jsonFrame(1, long), jsonFrame(2, `{}`)), jsonFrame(3, long)), []uint32{3}, []string{long, `{}`, long}},
		{"sequence 0", '2', join(windowFrame('2', 1), jsonFrame(0, `{}`)), []uint32{0}, []string{`{}`}},
		{"sequence with gaps", '2', join(windowFrame('2', 2), jsonFrame(3, `{}`), jsonFrame(9, `{}`)), []uint32{9}, []string{`{}`, `{}`}},
		{"sequence descending", '2', join(windowFrame('2', 2), jsonFrame(9, `{}`), jsonFrame(3, `{}`)), []uint32{3}, []string{`{}`, `{}`}},
		{"sequence never reset", '2', join(windowFrame('2', 1), jsonFrame(1, `{}`), windowFrame('2', 1), jsonFrame(2, `{}`)), []uint32{1, 2}, []string{`{}`, `{}`}},
		{"sequence rolling over", '2', join(windowFrame('2', 2), jsonFrame(1<<32-1, `{}`), jsonFrame(0, `{}`)), []uint32{0}, []string{`{}`, `{}`}},
		{"several windows in one packet", '2', join(three, three, three, three, three, three), []uint32{3, 3, 3, 3, 3, 3}, nil},
		{"both versions on one connection", '2', join(three), []uint32{3}, threeEvents},
		{"data frames", '1', join(windowFrame('1', 2), dataFrame(1, "a", "1", "b", "2"), dataFrame(2)), []uint32{2}, []string{`{"a":"1","b":"2"}`, `{}`}},
		{"data frames compressed", '1', join(windowFrame('1', 2), compressedFrame('1', dataFrame(1, "a", "1"), dataFrame(2, "b", long))), []uint32{2}, []string{`{"a":"1"}`, `{"b":"` + long + `"}`}},
		{"data with empty and duplicate keys", '1', join(windowFrame('1', 1), dataFrame(1, "", "", "", "x")), []uint32{1}, []string{`{"":"","":"x"}`}},
		{"data that needs escapes", '1', join(windowFrame('1', 1), dataFrame(1, "k\"\\", "\x00\n\r\t\x1f/é\u2028😀")), []uint32{1}, []string{`{"k\"\\":"\u0000\n\r\t\u001f/é` + "\u2028" + `😀"}`}},
		{"data that is no UTF-8", '1', join(windowFrame('1', 2), dataFrame(1, "a", "x\xff\xc3"), dataFrame(2, "b", "y")), []uint32{2}, []string{"{\"a\":\"x\xff\xc3\"}", `{"b":"y"}`}},
		{"what is no JSON object", '2', join(windowFrame('2', 6), compressedFrame('2', jsonFrame(1, `{"ok":1}`), jsonFrame(2, "\xef\xbb\xbf{}"), jsonFrame(3, "\xff"),
			jsonFrame(4, `{}{}`), jsonFrame(5, "{\r\n\"a\":NaN,}"), jsonFrame(6, `{"ok":2}`))), []uint32{6},
			[]string{`{"ok":1}`, "\xef\xbb\xbf{}", "\xff", `{}{}`, "{\r\n\"a\":NaN,}", `{"ok":2}`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &store{t: t}
			s := start(t, Config{}, h)
			p := s.dial()
			p.send(tt.send)
			p.acks(tt.version, tt.acks...)
			if tt.events != nil {
				// Windows are handled side by side, so only within one is there an order.
				assert.ElementsMatch(t, tt.events, h.raws())
			}
			assert.Equal(t, float64(len(tt.acks)), value(t, s.metrics.WindowsAcked))
			assert.Equal(t, float64(len(h.all())), value(t, s.metrics.EventsReceived))
			// Another window on the same connection.
			p.send(three)
			p.acks('2', 3)
			s.stop()
			p.closedByFIN()
		})
	}
}

func TestOrderWithinAWindow(t *testing.T) {
	const n = 5000
	var want []string
	frames := make([][]byte, n)
	for i := range n {
		want = append(want, fmt.Sprintf(`{"n":%d,"pad":"%s"}`, i, strings.Repeat("p", i%300)))
		frames[i] = jsonFrame(uint32(i+1), want[i])
	}
	h := &store{t: t}
	s := start(t, Config{}, h)
	p := s.dial()
	p.send(windowFrame('2', n), compressedFrame('2', frames...))
	p.acks('2', n)
	require.Equal(t, want, h.raws())
}

// What closes a connection unacknowledged, and how it is counted.
func TestBadInput(t *testing.T) {
	flip := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	open := windowFrame('2', 2)
	one := jsonFrame(1, `{}`)
	dictionary := deflated(3, one)
	dictionary[1] = 0xbb // FDICT, level 2, right checksum
	dictionary = join(dictionary[:2], u32(1), dictionary[2:])
	for _, tt := range []struct {
		name   string
		send   []byte
		reason string
		says   string
	}{
		{"window over the cap", windowFrame('2', 10_001), reasonWindowSize, "bulk_max_size"},
		{"window of 2^32-1", windowFrame('2', 1<<32-1), reasonWindowSize, "bulk_max_size"},
		{"window before the last is full", join(open, one, open), reasonWindowShort, ""},
		{"event beyond the window", join(windowFrame('2', 1), compressedFrame('2', one, one)), reasonSurplus, ""},
		{"event outside a window", one, reasonSurplus, ""},
		{"data outside a window", dataFrame(1, "a", "b"), reasonSurplus, ""},
		{"compressed event outside a window", compressedFrame('2', one), reasonSurplus, ""},
		{"ack from a client", ackFrame('2', 1), reasonFrameType, ""},
		{"ack inside a window", join(open, ackFrame('2', 1)), reasonFrameType, ""},
		{"unknown type", join([]byte("2X"), u32(0)), reasonFrameType, ""},
		{"unknown type inside a window", join(open, []byte("2X"), u32(0)), reasonFrameType, ""},
		{"unknown type inside a compressed frame", join(open, compressedFrame('2', []byte("2X"), u32(0))), reasonFrameType, ""},
		{"unknown version", join([]byte("3W"), u32(1)), reasonVersion, ""},
		{"unknown version inside a window", join(open, []byte("3J"), u32(1)), reasonVersion, ""},
		{"other version inside a window", join(open, dataFrame(1, "a", "b")), reasonVersion, ""},
		{"data in a window of version 2", join(open, []byte("2D"), u32(1), u32(0)), reasonWrongFrame, ""},
		{"JSON in a window of version 1", join(windowFrame('1', 1), []byte("1J"), u32(1), u32(2), []byte("{}")), reasonWrongFrame, ""},
		{"compressed inside compressed", join(open, compressedFrame('2', compressedFrame('2', one))), reasonNested, ""},
		{"window inside compressed", join(open, compressedFrame('2', windowFrame('2', 1), one)), reasonNested, ""},
		{"frame cut by its compressed frame: body", join(open, compressedFrame('2', jsonHeader(1, 100), []byte("{}"))), reasonCutFrame, ""},
		{"frame cut by its compressed frame: header", join(open, compressedFrame('2', []byte("2J"))), reasonCutFrame, ""},
		{"frame cut by its compressed frame: length", join(open, compressedFrame('2', []byte("2J"), u32(1), []byte{0})), reasonCutFrame, ""},
		{"oversized event cut by its compressed frame", join(open, compressedFrame('2', jsonHeader(1, 20<<20), make([]byte, 1<<20))), reasonCutFrame, ""},
		{"data cut by its compressed frame", join(windowFrame('1', 1), compressedFrame('1', dataFrame(1, "a", "bc")[:19])), reasonCutFrame, ""},
		{"truncated zlib", join(windowFrame('2', 1), rawCompressed('2', deflated(3, one)[:15])), reasonZlib, ""},
		{"zlib without its checksum", join(windowFrame('2', 1), rawCompressed('2', deflated(3, one)[:len(deflated(3, one))-4])), reasonZlib, ""},
		{"bad Adler-32", join(windowFrame('2', 1), rawCompressed('2', flip(deflated(3, one)))), reasonZlib, ""},
		{"no zlib at all", join(windowFrame('2', 1), rawCompressed('2', []byte("not a zlib stream"))), reasonZlib, ""},
		{"one byte of zlib", join(windowFrame('2', 1), rawCompressed('2', []byte("x"))), reasonZlib, ""},
		{"preset dictionary", join(windowFrame('2', 1), rawCompressed('2', dictionary)), reasonZlib, "dictionary"},
		{"junk behind the stream", join(windowFrame('2', 1), rawCompressed('2', join(deflated(3, one), []byte("junk")))), reasonZlib, "behind"},
		{"much junk behind the stream", join(windowFrame('2', 1), rawCompressed('2', join(deflated(3, one), make([]byte, 100_000)))), reasonZlib, "behind"},
		{"two streams", join(open, rawCompressed('2', join(deflated(3, one), deflated(3, one)))), reasonZlib, "behind"},
		{"pairs over 10,000", join(windowFrame('1', 1), []byte("1D"), u32(1), u32(10_001)), reasonPairs, ""},
		{"event over 128 MiB", join(windowFrame('2', 1), jsonHeader(1, 128<<20+1)), reasonEventSize, ""},
		{"event of 2^31-1", join(windowFrame('2', 1), jsonHeader(1, 1<<31-1)), reasonEventSize, ""},
		{"event of 2^31", join(windowFrame('2', 1), compressedFrame('2', jsonHeader(1, 1<<31))), reasonEventSize, ""},
		{"event of 2^32-1", join(windowFrame('2', 1), jsonHeader(1, 1<<32-1)), reasonEventSize, ""},
		{"key of 2^32-1", join(windowFrame('1', 1), []byte("1D"), u32(1), u32(1), u32(1<<32-1)), reasonEventSize, ""},
		{"value of 2^31", join(windowFrame('1', 1), []byte("1D"), u32(1), u32(1), u32(1), []byte("k"), u32(1<<31)), reasonEventSize, ""},
		{"compressed frame of 2^32-1", join(windowFrame('2', 1), []byte("2C"), u32(1<<32-1)), reasonWindowBytes, "bulk_max_size"},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), reasonHTTP, "HTTP"},
		{"TLS", []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), reasonTLSUnexpected, "input.ssl.certificate"},
		{"random bytes", []byte("\x8f\x01\xfe\x33\x00\x00\x12\x9a\x7c\x00"), reasonVersion, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &store{t: t}
			s := start(t, Config{}, h)
			p := s.dial()
			// The windows before it are none of its business.
			p.send(three, tt.send)
			p.acks('2', 3)
			p.closed()
			s.stop()
			assert.Equal(t, threeEvents, h.raws(), "an event of the bad window was handed down")
			assert.Equal(t, 1.0, s.errors(tt.reason))
			assert.Contains(t, s.logs.String(), "reason="+tt.reason)
			assert.Contains(t, s.logs.String(), "remote=127.0.0.1")
			assert.Contains(t, s.logs.String(), tt.says)
			assert.Equal(t, 1, strings.Count(s.logs.String(), "connection closed"), "one line a connection")

			// And as the first thing of a connection.
			s = start(t, Config{}, h)
			p = s.dial()
			p.offer(tt.send)
			p.closed()
			s.stop()
			assert.Equal(t, 1.0, s.errors(tt.reason))
		})
	}
}

// Connections that end where they should not.
func TestEnds(t *testing.T) {
	for name, sent := range map[string][]byte{
		"in a header":           []byte("2W"),
		"in a window":           windowFrame('2', 3),
		"in a frame header":     join(windowFrame('2', 3), []byte("2J")),
		"in a body":             join(windowFrame('2', 3), jsonHeader(1, 10), []byte("{")),
		"in a compressed frame": three[:20],
		"in an oversized event": join(windowFrame('2', 1), jsonHeader(1, 20<<20), make([]byte, 100_000)),
		"in a data frame":       join(windowFrame('1', 1), dataFrame(1, "abc", "def")[:20]),
	} {
		t.Run(name+" by FIN", func(t *testing.T) {
			h := &store{t: t}
			s := start(t, Config{}, h)
			p := s.dial()
			p.send(three, sent)
			require.NoError(t, p.conn.(*net.TCPConn).CloseWrite())
			p.acks('2', 3)
			p.closedByFIN()
			s.awaitErrors(reasonTruncated, 1)
			assert.Equal(t, threeEvents, h.raws())
		})
		t.Run(name+" by RST", func(t *testing.T) {
			h := &store{t: t}
			s := start(t, Config{}, h)
			p := s.dial()
			p.send(three)
			p.acks('2', 3)
			p.send(sent)
			require.NoError(t, p.conn.(*net.TCPConn).SetLinger(0))
			require.NoError(t, p.conn.Close())
			s.awaitErrors(reasonTruncated, 1)
			assert.Equal(t, threeEvents, h.raws())
		})
	}
	t.Run("half-close gets all its acks", func(t *testing.T) {
		gate := make(chan struct{})
		h := &store{t: t, before: func(context.Context, *event.Batch) error { <-gate; return nil }}
		s := start(t, Config{}, h)
		p := s.dial()
		p.send(three, three, windowFrame('2', 0))
		require.NoError(t, p.conn.(*net.TCPConn).CloseWrite())
		require.Eventually(t, func() bool { return s.Stats().Windows == 3 }, patience, time.Millisecond)
		close(gate)
		p.acks('2', 3, 3, 0)
		p.closedByFIN()
	})
}

// awaitErrors waits until so many errors of a reason were counted and no
// connection is left.
func (r *running) awaitErrors(reason string, n float64) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.errors(reason) == n && r.Stats().Connections == 0 }, patience, time.Millisecond)
}

// Oversized and empty events are skipped to a stub, and the window goes on.
func TestOversizeEvents(t *testing.T) {
	const limit = 100_000
	stub := func(doc string) received {
		o := &event.Oversize{Length: int64(len(doc)), SHA256: sha256.Sum256([]byte(doc))}
		return received{doc[:min(len(doc), 64<<10)], o}
	}
	plain := func(s string) received { return received{Raw: s} }
	just, over, much := strings.Repeat("j", limit), strings.Repeat("o", limit+1), strings.Repeat("0123456789", 300_000)
	long := func(pad string) string { return `{"k\n":"` + pad + `","z":"\u0001"}` }
	for _, tt := range []struct {
		name string
		send []byte
		want []received
	}{
		{"empty, plain", join(windowFrame('2', 2), jsonFrame(1, ""), jsonFrame(2, "{}")), []received{stub(""), plain("{}")}},
		{"empty, compressed", join(windowFrame('2', 3), compressedFrame('2', jsonFrame(1, ""), jsonFrame(2, "{}"), jsonFrame(3, ""))), []received{stub(""), plain("{}"), stub("")}},
		{"just within", join(windowFrame('2', 2), compressedFrame('2', jsonFrame(1, just), jsonFrame(2, "{}"))), []received{plain(just), plain("{}")}},
		{"just over, plain", join(windowFrame('2', 2), jsonFrame(1, over), jsonFrame(2, "{}")), []received{stub(over), plain("{}")}},
		{"just over, compressed", join(windowFrame('2', 2), compressedFrame('2', jsonFrame(1, over), jsonFrame(2, "{}"))), []received{stub(over), plain("{}")}},
		{"far over, between others", join(windowFrame('2', 3), compressedFrame('2', jsonFrame(1, "{}"), jsonFrame(2, much), jsonFrame(3, just))), []received{plain("{}"), stub(much), plain(just)}},
		{"far over, plain, twice", join(windowFrame('2', 3), jsonFrame(1, much), jsonFrame(2, much), jsonFrame(3, "{}")), []received{stub(much), stub(much), plain("{}")}},
		{"data over", join(windowFrame('1', 3), compressedFrame('1', dataFrame(1, "a", "b"), dataFrame(2, "k\n", much, "z", "\x01"), dataFrame(3, "c", "d"))),
			[]received{plain(`{"a":"b"}`), stub(long(much)), plain(`{"c":"d"}`)}},
		{"data over, by its escapes", join(windowFrame('1', 1), dataFrame(1, "k", strings.Repeat("\x00", 20_000))), []received{stub(`{"k":"` + strings.Repeat(`\u0000`, 20_000) + `"}`)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &store{t: t}
			s := start(t, Config{MaxEvent: limit}, h)
			p := s.dial()
			p.send(tt.send)
			var head [6]byte
			_, err := io.ReadFull(p.conn, head[:])
			require.NoError(t, err)
			require.Equal(t, byte(len(tt.want)), head[5])
			require.Equal(t, tt.want, h.all())
		})
	}
}

// An event of 128 MiB passes in constant memory.
func TestLargestOversizeEvent(t *testing.T) {
	h := &store{t: t}
	s := start(t, Config{MaxEvent: 1 << 20, Memory: 2 << 20}, h)
	highest := s.watchBudget()
	p := s.dial()
	p.send(windowFrame('2', 2), jsonHeader(1, 128<<20))
	piece := make([]byte, 1<<20)
	for range 128 {
		p.send(piece)
	}
	p.send(jsonFrame(2, "{}"))
	p.acks('2', 2)
	require.Len(t, h.all(), 2)
	assert.Equal(t, int64(128<<20), h.all()[0].Oversize.Length)
	assert.Len(t, h.all()[0].Raw, 64<<10)
	assert.LessOrEqual(t, highest.Load(), int64(1<<20))
}

// Every frame split at every byte, and a byte at a time.
func TestSplits(t *testing.T) {
	v1 := join(windowFrame('1', 2), dataFrame(1, "a", "b", "c", "d"), compressedFrame('1', dataFrame(2, "e", "f")))
	v2 := join(three, windowFrame('2', 2), jsonFrame(1, `{"b":1}`), compressedFrame('2', jsonFrame(2, `{"b":2}`)), rawCompressed('2', nil), windowFrame('2', 0))
	check := func(t *testing.T, version byte, acks []uint32, parts ...[]byte) {
		h := &store{t: t}
		srv, err := NewServer(Config{Linger: time.Millisecond}, h)
		require.NoError(t, err)
		client, server := net.Pipe()
		srv.admit(server)
		p := &peer{t, client}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, b := range parts {
				if _, err := client.Write(b); err != nil {
					t.Error(err)
				}
			}
		}()
		p.acks(version, acks...)
		<-done
		require.NoError(t, client.Close())
		require.NoError(t, srv.Shutdown(context.Background()))
	}
	for i := range len(v1) {
		check(t, '1', []uint32{2}, v1[:i], v1[i:])
	}
	for i := range len(v2) {
		check(t, '2', []uint32{3, 2, 0}, v2[:i], v2[i:])
	}
	check(t, '1', []uint32{2}, slices.Collect(slices.Chunk(v1, 1))...)
	check(t, '2', []uint32{3, 2, 0}, slices.Collect(slices.Chunk(v2, 1))...)
}

// A large window goes down in batches and gets one ack at the end.
func TestLargeWindowInBatches(t *testing.T) {
	for _, version := range []byte{'1', '2'} {
		t.Run(string(version), func(t *testing.T) {
			const n = 400
			var frames [][]byte
			var want []string
			for i := range n {
				pad := strings.Repeat(string(rune('a'+i%26)), 10_000)
				want = append(want, `{"p":"`+pad+`"}`)
				if version == '2' {
					frames = append(frames, jsonFrame(uint32(i+1), want[i]))
				} else {
					frames = append(frames, dataFrame(uint32(i+1), "p", pad))
				}
			}
			h := &store{t: t}
			// 4 MB through a budget of 1 MiB: the batches before it must have gone.
			s := start(t, Config{BatchBytes: 64 << 10, MaxEvent: 64 << 10, Memory: 1 << 20}, h)
			p := s.dial()
			p.send(windowFrame(version, n), compressedFrame(version, frames...), windowFrame(version, 1))
			p.acks(version, n)
			assert.ElementsMatch(t, want, h.raws())
			assert.Greater(t, h.batches, 50)
			assert.Equal(t, 1.0, value(t, s.metrics.WindowsAcked))
			assert.Equal(t, float64(h.batches), value(t, s.metrics.BatchDuration))
		})
	}
}

func TestWindowBytes(t *testing.T) {
	h := &store{t: t}
	s := start(t, Config{MaxWindowBytes: 1 << 20}, h)
	p := s.dial()
	zeros := make([]byte, 600<<10)
	p.offer(windowFrame('2', 2), compressedFrame('2', jsonHeader(1, 600<<10), zeros, jsonHeader(2, 600<<10), zeros))
	p.closed()
	s.awaitErrors(reasonWindowBytes, 1)
	assert.Empty(t, h.all())
	assert.Contains(t, s.logs.String(), "bulk_max_size")
}

// Acks come in the windows' order, whichever is durable first.
func TestAcksInOrder(t *testing.T) {
	gates := map[string]chan struct{}{`1`: make(chan struct{}), `2`: make(chan struct{}), `3`: make(chan struct{})}
	entered := make(chan string, 3)
	h := &store{t: t, before: func(_ context.Context, b *event.Batch) error {
		raw := string(b.Events[0].Raw)
		entered <- raw
		<-gates[raw]
		return nil
	}}
	s := start(t, Config{}, h)
	p := s.dial()
	p.send(windowFrame('2', 1), jsonFrame(1, `1`), windowFrame('2', 1), jsonFrame(2, `2`), windowFrame('2', 1), jsonFrame(3, `3`))
	// All three are handled side by side.
	assert.ElementsMatch(t, []string{`1`, `2`, `3`}, []string{<-entered, <-entered, <-entered})
	close(gates[`3`])
	close(gates[`2`])
	require.Eventually(t, func() bool { return len(h.all()) == 2 }, patience, time.Millisecond)
	assert.Zero(t, value(t, s.metrics.WindowsAcked))
	close(gates[`1`])
	p.acks('2', 1, 2, 3)
}

// No more than ReadAhead windows of a connection are read, and the wait is not
// the client's fault.
func TestReadAheadIsBounded(t *testing.T) {
	gate := make(chan struct{})
	h := &store{t: t, before: func(context.Context, *event.Batch) error { <-gate; return nil }}
	s := start(t, Config{ReadAhead: 2, NoProgress: 50 * time.Millisecond}, h)
	p := s.dial()
	for range 5 {
		p.send(three)
	}
	require.Eventually(t, func() bool { return s.Stats().Windows == 2 }, patience, time.Millisecond)
	await(t, 150*time.Millisecond)
	assert.Equal(t, 6.0, value(t, s.metrics.EventsReceived))
	close(gate)
	p.acks('2', 3, 3, 3, 3, 3)
}

// await lets time pass in which something must not happen.
func await(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func TestHandlerRefuses(t *testing.T) {
	refuse := func(ctx context.Context, b *event.Batch) error {
		switch string(b.Events[0].Raw) {
		case `"bad"`:
			return errors.New("the disk is full")
		case `"panic"`:
			panic("a secret: " + string(b.Events[0].Raw))
		case `"later"`:
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	for _, bad := range []string{`"bad"`, `"panic"`} {
		t.Run(bad, func(t *testing.T) {
			h := &store{t: t, before: refuse}
			s := start(t, Config{}, h)
			other := s.dial()
			other.send(three)
			other.acks('2', 3)
			p := s.dial()
			p.send(three, windowFrame('2', 1), jsonFrame(1, bad), windowFrame('2', 1), jsonFrame(1, `"later"`))
			p.acks('2', 3)
			p.closed()
			other.send(three)
			other.acks('2', 3)
			assert.NotContains(t, s.logs.String(), "secret", "a panic's value may hold an event")
			if bad == `"bad"` {
				assert.Contains(t, s.logs.String(), "the disk is full")
			}
		})
	}
}

// The context of a connection's batches ends when the connection is gone.
func TestContextEndsWithTheConnection(t *testing.T) {
	entered, ended := make(chan struct{}), make(chan struct{})
	h := &store{t: t, before: func(ctx context.Context, _ *event.Batch) error {
		close(entered)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}}
	s := start(t, Config{}, h)
	p := s.dial()
	p.send(three)
	<-entered
	require.NoError(t, p.conn.(*net.TCPConn).SetLinger(0))
	require.NoError(t, p.conn.Close())
	<-ended
}

func TestKeepalives(t *testing.T) {
	gate := make(chan struct{})
	h := &store{t: t, before: func(_ context.Context, b *event.Batch) error {
		<-gate
		return nil
	}}
	s := start(t, Config{Keepalive: 10 * time.Millisecond}, h)
	v2, v1 := s.dial(), s.dial()
	v2.send(three, three)
	v1.send(windowFrame('1', 1), dataFrame(1, "a", "b"))
	for range 5 {
		v2.acks('2', 0)
	}
	close(gate)
	v2.ackAfterKeepalives(3)
	v2.ackAfterKeepalives(3)
	v1.acks('1', 1) // and nothing before it
}

// While a window is still being sent, and after its ack, there are none.
func TestNoKeepaliveWithoutAWindowDownstream(t *testing.T) {
	s := start(t, Config{Keepalive: time.Millisecond}, &store{t: t})
	p := s.dial()
	p.send(three[:20])
	await(t, 20*time.Millisecond)
	p.send(three[20:])
	p.ackAfterKeepalives(3)
	await(t, 20*time.Millisecond)
	p.send(windowFrame('2', 1), jsonFrame(77, `{}`))
	p.ackAfterKeepalives(77)
	require.NoError(t, p.conn.(*net.TCPConn).CloseWrite())
	p.closedByFIN()
}

func TestStuckConnectionIsClosed(t *testing.T) {
	for _, version := range []byte{'1', '2'} {
		h := &store{t: t, before: func(ctx context.Context, _ *event.Batch) error { <-ctx.Done(); return ctx.Err() }}
		s := start(t, Config{Keepalive: 10 * time.Millisecond, Stalled: 100 * time.Millisecond}, h)
		p := s.dial()
		if version == '2' {
			p.send(three)
		} else {
			p.send(windowFrame('1', 1), dataFrame(1, "a", "b"))
		}
		b, err := io.ReadAll(p.conn)
		require.NoError(t, err, "not closed with FIN")
		require.NoError(t, p.conn.Close())
		if version == '2' { // how many keepalives there were before is the machine's affair
			b = bytes.ReplaceAll(b, ackFrame('2', 0), nil)
		}
		assert.Empty(t, b)
		s.stop()
		assert.Contains(t, s.logs.String(), "nothing stored for too long")
	}
}

func TestTimeouts(t *testing.T) {
	short := Config{NoProgress: 30 * time.Millisecond}
	for _, tt := range []struct {
		name   string
		send   []byte
		reason string
	}{
		{"first byte", nil, reasonFirstByte},
		{"header", []byte("2"), reasonStalled},
		{"window", windowFrame('2', 2), reasonStalled},
		{"frame header", join(windowFrame('2', 2), []byte("2J")), reasonStalled},
		{"body", join(windowFrame('2', 2), jsonHeader(1, 100), []byte("{")), reasonStalled},
		{"compressed body", three[:18], reasonStalled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := short
			if tt.send == nil {
				cfg.FirstByte = 30 * time.Millisecond
			}
			s := start(t, cfg, &store{t: t})
			p := s.dial()
			p.send(tt.send)
			p.closed()
			s.awaitErrors(tt.reason, 1)
		})
	}
	t.Run("idle between windows is no fault", func(t *testing.T) {
		s := start(t, short, &store{t: t})
		p := s.dial()
		for range 3 {
			p.send(three)
			p.acks('2', 3)
			await(t, 100*time.Millisecond)
		}
	})
	t.Run("slow but steady is no fault", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, p := pipe(t, short, &store{t: t})
			for _, b := range three {
				p.send([]byte{b})
				faketime.Pass(t, short.NoProgress-time.Millisecond)
			}
			p.acks('2', 3)
		})
	})
}

// narrow is a listener whose connections can hardly buffer what is written.
type narrow struct{ net.Listener }

func (n *narrow) Accept() (net.Conn, error) {
	conn, err := n.Listener.Accept()
	if err == nil {
		err = conn.(*net.TCPConn).SetWriteBuffer(1)
	}
	return conn, err
}

// A client that never reads its acks holds nothing and hinders nobody.
func TestNeverReadsAcks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := startOn(t, &narrow{l}, Config{AckWrite: 50 * time.Millisecond}, discard{})
	p := s.dial()
	require.NoError(t, p.conn.(*net.TCPConn).SetReadBuffer(1))
	flood := bytes.Repeat(windowFrame('2', 0), 10_000)
	for {
		if _, err := p.conn.Write(flood); err != nil {
			break
		}
	}
	require.Eventually(t, func() bool { return s.Stats().Connections == 0 }, patience, time.Millisecond)
	other := s.dial()
	other.send(three)
	other.acks('2', 3)
}

// While it is waited for, it holds a buffer of what it has sent and nothing else.
func TestNeverReadsAcksHoldsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := pipe(t, Config{}, discard{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = client.conn.Write(bytes.Repeat(three, 10_000))
		}()
		synctest.Wait()
		assert.Equal(t, s.cfg.ReadAhead, s.Stats().Windows, "it reads ahead as far as it may")
		assert.LessOrEqual(t, s.held(), int64(wireBuffer))
		faketime.Pass(t, s.cfg.AckWrite)
		<-ended
		synctest.Wait()
		assert.Zero(t, s.Stats().Connections)
	})
}

// A client that reads its acks late gets them all the same.
func TestReadsAcksSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := pipe(t, Config{}, discard{})
		go p.offer(bytes.Repeat(three, 20))
		for range 20 {
			faketime.Pass(t, 25*time.Second)
			p.acks('2', 3)
		}
	})
}

// The same window again while its first copy is in flight: both are handled,
// both acknowledged.
func TestSameWindowTwice(t *testing.T) {
	entered, gate := make(chan struct{}, 2), make(chan struct{})
	h := &store{t: t, before: func(context.Context, *event.Batch) error {
		entered <- struct{}{}
		<-gate
		return nil
	}}
	s := start(t, Config{}, h)
	a, b := s.dial(), s.dial()
	a.send(three)
	<-entered
	b.send(three)
	<-entered
	close(gate)
	a.acks('2', 3)
	b.acks('2', 3)
	assert.Len(t, h.all(), 6)
}

// What is an event is not this room's to judge: whatever its bytes are, they are
// handed down as they came, and the window goes on.
func TestEventsAreNotJudged(t *testing.T) {
	var keys strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&keys, `,"k%d":%d`, i, i)
	}
	docs := []string{
		// what becomes a dead letter further down
		`1`, `"text"`, `[1,2]`, `null`, "\xef\xbb\xbf{}", "{\"a\":\"\xff\"}", strings.Repeat(`{"a":`, 1001) + "1" + strings.Repeat("}", 1001),
		`{} {}`, `{"a":1,}`, `{"a":NaN}`, "{\"a\":\"\x01\"}", ` `, "\x00",
		// what is stored as it is
		`{"a":"\ud800"}`, `{"a":1,"a":2}`, `{"first":0` + keys.String() + `}`, `{"a":9007199254740993}`, `{"a":18446744073709551615}`, `{"a":1e400}`,
		`{"@timestamp":"tomorrow"}`, `{"@timestamp":7}`, `{"sour\u0063e":{"ip":"203.0.113.7"}}`, "{\r\n\"a\":\n1\r}",
		`{"@metadata":"text","a":1}`, `{"@metadata":{},"@metadata":{"_id":"1"}}`, `{"a":1,"@metadata":{"_id":"1"}}`,
	}
	frames := make([][]byte, len(docs))
	for i, doc := range docs {
		frames[i] = jsonFrame(uint32(i+1), doc)
	}
	n := uint32(len(docs))
	for name, window := range map[string][]byte{
		"plain": join(windowFrame('2', n), join(frames...)), "compressed": join(windowFrame('2', n), compressedFrame('2', frames...)),
	} {
		t.Run(name, func(t *testing.T) {
			h := &store{t: t}
			s := start(t, Config{}, h)
			p := s.dial()
			p.send(window)
			p.acks('2', n)
			assert.Equal(t, docs, h.raws())
		})
	}
}

// By a bubble's clock, with the times that users get: who stalls is closed, not
// before and not long after, and others do not notice.
func TestStalls(t *testing.T) {
	ca := newAuthority(t)
	overTLS := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.issue(time.Now().AddDate(-20, 0, 0))}}
	for _, tt := range []struct {
		name   string
		tls    bool
		send   []byte
		after  time.Duration
		reason string
	}{
		{"first byte", false, nil, 10 * time.Second, reasonFirstByte},
		{"first byte, TLS", true, nil, 10 * time.Second, reasonFirstByte},
		{"handshake", true, []byte("\x16\x03\x01"), 10 * time.Second, reasonHandshake},
		{"header", false, []byte("2W\x00"), 30 * time.Second, reasonStalled},
		{"window", false, windowFrame('2', 2), 30 * time.Second, reasonStalled},
		{"body", false, join(windowFrame('2', 2), jsonHeader(1, 100), []byte("{")), 30 * time.Second, reasonStalled},
		{"compressed body", false, three[:18], 30 * time.Second, reasonStalled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var cfg Config
				if tt.tls {
					cfg.TLS = overTLS
				}
				s, p := pipe(t, cfg, discard{})
				p.send(tt.send)
				var other *peer
				if !tt.tls {
					other = s.join(t)
				}
				for range int(tt.after/time.Second) - 1 {
					faketime.Pass(t, time.Second)
					if other != nil {
						other.send(three)
						other.acks('2', 3)
					}
				}
				count := func() float64 { return value(t, s.metrics.ProtocolErrors.WithLabelValues(tt.reason)) }
				assert.Zero(t, count())
				faketime.Pass(t, time.Second)
				synctest.Wait()
				assert.Equal(t, 1.0, count())
				p.closed()
				if other != nil {
					other.send(three)
					other.acks('2', 3)
				}
			})
		})
	}
}

// held is a connection to a process that stands still for a minute, once.
type held struct {
	net.Conn
	at   int // read
	read int
}

func (h *held) Read(p []byte) (int, error) {
	if h.read++; h.read == h.at {
		<-time.After(time.Minute)
		return 0, os.ErrDeadlineExceeded // as the runtime sees it first
	}
	return h.Conn.Read(p)
}

// A process that was stopped for a minute, or slept with its machine, does not
// hold that against its clients.
func TestStandstillIsNoFault(t *testing.T) {
	for at := 1; at <= 3; at++ {
		for _, pressed := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s, err := NewServer(Config{}, discard{})
				require.NoError(t, err)
				client, server := net.Pipe()
				s.admit(&held{Conn: server, at: at})
				p := &peer{t, client}
				p.offer(three[:6])
				synctest.Wait()
				if pressed {
					defer s.pressure()()
					s.join(t).send(three[:6])
				}
				go func() {
					p.offer(three[6:20])
					p.offer(three[20:])
				}()
				p.acks('2', 3)
				require.NoError(t, client.Close())
				require.NoError(t, s.Shutdown(context.Background()))
			})
		}
	}
}

func TestMaxConnections(t *testing.T) {
	s := start(t, Config{MaxConnections: 2}, &store{t: t})
	a, b := s.dial(), s.dial()
	a.send(three)
	b.send(three)
	a.acks('2', 3)
	b.acks('2', 3)
	for range 3 {
		s.dial().closed()
	}
	assert.Equal(t, 3.0, s.errors(reasonMaxConns))
	assert.Equal(t, 2.0, value(t, s.metrics.Connections))
	require.NoError(t, a.conn.Close())
	require.Eventually(t, func() bool { return s.Stats().Connections == 1 }, patience, time.Millisecond)
	c := s.dial()
	c.send(three)
	c.acks('2', 3)
	assert.Equal(t, 1, strings.Count(s.logs.String(), "input.max_connections (2) is reached"))
}

func TestMaxConnectionsPerAddress(t *testing.T) {
	s := start(t, Config{MaxConnections: 5, MaxPerAddress: 2}, &store{t: t})
	from := func(local string) *peer {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
		conn, err := d.DialContext(t.Context(), "tcp", s.addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return &peer{t, conn}
	}
	window := func(p *peer) {
		t.Helper()
		p.send(three)
		p.acks('2', 3)
	}
	first := from("127.0.0.1")
	window(first)
	window(from("127.0.0.1"))
	for range 3 {
		from("127.0.0.1").closed()
	}
	assert.Equal(t, 3.0, s.errors(reasonMaxPerAddress))
	assert.Equal(t, 1, strings.Count(s.logs.String(), "input.max_connections_per_address (2) is reached"))
	// Others are others.
	window(from("127.0.0.2"))
	window(from("127.0.0.2"))
	from("127.0.0.2").closed()
	assert.Equal(t, 4.0, s.errors(reasonMaxPerAddress))
	assert.Zero(t, s.errors(reasonMaxConns))
	// What ends makes room.
	require.NoError(t, first.conn.Close())
	require.Eventually(t, func() bool { return s.Stats().Connections == 3 }, patience, time.Millisecond)
	window(from("127.0.0.1"))
	s.stop()
	assert.Empty(t, s.addresses)
}

func TestAddresses(t *testing.T) {
	of := func(s string) netip.Addr { return addressOf(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s))) }
	assert.Equal(t, of("192.0.2.1:1"), of("[::ffff:192.0.2.1]:2"), "IPv4 in IPv6")
	assert.Equal(t, addressOf(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}), addressOf(&net.TCPAddr{IP: net.IP{192, 0, 2, 1}}), "16 bytes or 4")
	assert.NotEqual(t, of("[2001:db8::1]:1"), of("[2001:db8::2]:1"), "neighbours in a network")
	assert.NotEqual(t, of("[fe80::1%eth0]:1"), of("[fe80::1%eth1]:1"), "the same on another link")
}

// flaky is a listener that cannot accept for a while.
type flaky struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

func (f *flaky) Accept() (net.Conn, error) {
	f.mu.Lock()
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		f.mu.Unlock()
		return nil, err
	}
	f.mu.Unlock()
	return f.Listener.Accept()
}

func TestAcceptSurvives(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := startOn(t, &flaky{Listener: l, errs: []error{syscall.EMFILE, syscall.ECONNABORTED, syscall.ENFILE, syscall.ENOBUFS, errors.New("unheard of")}}, Config{}, &store{t: t})
	p := s.dial()
	p.send(three)
	p.acks('2', 3)
	assert.Equal(t, 1, strings.Count(s.logs.String(), "cannot be accepted"))
	assert.Contains(t, s.logs.String(), "LimitNOFILE")
}

// scripted is a listener that answers what it is told to.
type scripted struct{ answers chan any }

func (l *scripted) Accept() (net.Conn, error) {
	switch a := (<-l.answers).(type) {
	case net.Conn:
		return a, nil
	case error:
		return nil, a
	}
	return nil, net.ErrClosed
}
func (l *scripted) Close() error   { close(l.answers); return nil }
func (l *scripted) Addr() net.Addr { return &net.TCPAddr{} }

// Failing now and then is one state with one line, and so is its end.
func TestAcceptStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &logs{}
		s, err := NewServer(Config{Log: slog.New(slog.NewTextHandler(out, nil))}, discard{})
		require.NoError(t, err)
		l := &scripted{answers: make(chan any)}
		served := make(chan error)
		go func() { served <- s.Serve(l) }()
		connect := func() {
			client, server := net.Pipe()
			l.answers <- server
			_ = client.Close()
		}
		l.answers <- syscall.ECONNABORTED // one client's own affair
		connect()
		assert.Empty(t, out.String())
		for range 100 {
			l.answers <- syscall.EMFILE
			l.answers <- syscall.EMFILE
			connect()
		}
		assert.Equal(t, 1, strings.Count(out.String(), "\n"), out.String())
		faketime.Pass(t, steadyAccepts)
		connect()
		connect()
		l.answers <- syscall.ENFILE
		synctest.Wait()
		lines := strings.Split(out.String(), "\n")
		require.Len(t, lines, 4)
		assert.Contains(t, lines[0], "LimitNOFILE")
		assert.Contains(t, lines[1], "accepted again")
		assert.Contains(t, lines[2], "fs.file-max")
		require.NoError(t, s.Shutdown(t.Context()))
		require.NoError(t, <-served)
	})
}

func TestListenerClosedByOthers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	s, err := NewServer(Config{}, discard{})
	require.NoError(t, err)
	require.ErrorIs(t, s.Serve(l), net.ErrClosed)
	require.NoError(t, s.Shutdown(t.Context()))
}

func TestConfigIsChecked(t *testing.T) {
	_, err := NewServer(Config{MaxEvent: 200 << 20, Keepalive: 11 * time.Second, MaxConnections: -1, MaxPerAddress: -1, ReadAhead: -1}, discard{})
	for _, word := range []string{"MaxEvent", "Memory", "Keepalive", "MaxConnections", "MaxPerAddress", "less than 0"} {
		assert.ErrorContains(t, err, word)
	}
	_, err = NewServer(Config{}, nil)
	assert.Error(t, err)
}

// A minute has one line about an address and ten in all, for each reason; the
// next line tells how many there were not.
func TestComplaintsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logs{}
		c := complaints{log: slog.New(slog.NewTextHandler(l, nil)), reasons: map[string]*complaint{}}
		from := func(i int) *conn {
			return &conn{addr: netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), remote: fmt.Sprintf("%d", i)}
		}
		for range 1000 {
			c.write(slog.LevelWarn, "line", "zlib", from(0))
		}
		assert.Equal(t, 1, strings.Count(l.String(), "msg=line"))
		c.write(slog.LevelWarn, "another", "http", from(0))
		assert.Contains(t, l.String(), "msg=another remote=0 reason=http\n")
		c.write(slog.LevelWarn, "line", "zlib", from(1))
		assert.Contains(t, l.String(), "remote=1 reason=zlib similar_left_out=999\n")
		for i := range 60_000 { // a scan
			c.write(slog.LevelWarn, "line", "zlib", from(i))
		}
		assert.Equal(t, linesPerMinute, strings.Count(l.String(), "msg=line"))
		assert.LessOrEqual(t, cap(c.reasons["zlib"].told), 2*linesPerMinute, "grows with addresses")
		faketime.Pass(t, time.Minute)
		c.write(slog.LevelWarn, "line", "zlib", from(0))
		assert.Contains(t, l.String(), fmt.Sprintf("remote=0 reason=zlib similar_left_out=%d\n", 60_000-linesPerMinute))
		c.write(slog.LevelDebug, "line", "zlib", from(7))
		c.write(slog.LevelWarn, "line", "zlib", from(8))
		assert.Contains(t, l.String(), "remote=8 reason=zlib\n", "lines that the level leaves out are not counted")
	})
}

// Health checks connect and go: no error, no line, nothing left.
func TestHealthChecksAreQuiet(t *testing.T) {
	ca := newAuthority(t)
	overTLS := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.issue(time.Now().Add(time.Hour))}}
	fin := func(c *net.TCPConn) { require.NoError(t, c.Close()) }
	rst := func(c *net.TCPConn) {
		require.NoError(t, c.SetLinger(0))
		require.NoError(t, c.Close())
	}
	half := func(c *net.TCPConn) { require.NoError(t, c.CloseWrite()) }
	for _, cfg := range []Config{{}, {TLS: overTLS}} {
		for name, end := range map[string]func(*net.TCPConn){"FIN": fin, "RST": rst, "half-close": half} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, cfg.TLS != nil), func(t *testing.T) {
				s := start(t, cfg, &store{t: t})
				const n = 20
				for range n {
					end(s.dial().conn.(*net.TCPConn))
				}
				require.Eventually(t, func() bool { return value(t, s.metrics.ConnectionsUnused) == n && s.Stats().Connections == 0 }, patience, time.Millisecond)
				s.quiet()
			})
		}
	}
	t.Run("a whole TLS handshake", func(t *testing.T) {
		s := start(t, Config{TLS: overTLS}, &store{t: t})
		c := s.dialTLS(&tls.Config{RootCAs: ca.pool, ServerName: "127.0.0.1"}).conn.(*tls.Conn)
		require.NoError(t, c.HandshakeContext(t.Context()))
		require.NoError(t, c.Close())
		require.Eventually(t, func() bool { return value(t, s.metrics.ConnectionsUnused) == 1 }, patience, time.Millisecond)
		s.quiet()
	})
	for name, cfg := range map[string]Config{"plain": {}, "TLS": {TLS: overTLS}} {
		t.Run("who stays without a byte is closed, quietly, "+name, func(t *testing.T) {
			cfg.FirstByte = 30 * time.Millisecond
			s := start(t, cfg, &store{t: t})
			s.dial().closed()
			s.awaitErrors(reasonFirstByte, 1)
			assert.NotContains(t, s.logs.String(), "level=INFO")
			assert.NotContains(t, s.logs.String(), "level=WARN")
		})
	}
}

// quiet checks that there was no protocol error and no line above debug.
func (r *running) quiet() {
	r.t.Helper()
	families, err := r.metrics.Registry.Gather()
	require.NoError(r.t, err)
	for _, f := range families {
		if f.GetName() != "vtsidecar_protocol_errors_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			assert.Zero(r.t, m.GetCounter().GetValue(), "counted as an error: %v", m.GetLabel())
		}
	}
	for _, level := range []string{"INFO", "WARN", "ERROR"} {
		assert.NotContains(r.t, r.logs.String(), "level="+level)
	}
}
