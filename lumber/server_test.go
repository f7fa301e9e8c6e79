package lumber

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
)

func asNetError(err error, target *net.Error) bool { return errors.As(err, target) }

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
	t.Run("connect and close", func(t *testing.T) {
		s := start(t, Config{}, &store{t: t})
		_ = s.dial().conn.Close()
		s.awaitErrors(reasonNoData, 1)
	})
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
