package lumber

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vtsidecar/internal/event"
)

// tally is a handler that counts.
type tally struct {
	events, bytes atomic.Int64
}

func (h *tally) Handle(_ context.Context, b *event.Batch) error {
	for _, e := range b.Events {
		h.events.Add(1)
		h.bytes.Add(int64(len(e.Raw)))
		_ = bytes.Count(e.Raw[:len(e.Raw)+event.Sentinel], []byte{0})
	}
	return nil
}

// FuzzFrames gives a connection bytes from a stranger. Whatever they are: no
// panic, memory within bounds, an ack for complete windows only, and at most the
// events that acks were due for, plus those of one window that broke.
func FuzzFrames(f *testing.F) {
	one := jsonFrame(1, `{}`)
	for _, seed := range [][]byte{
		nil, three, join(three, three), windowFrame('2', 0), windowFrame('2', 1<<32-1), join(windowFrame('2', 2), one, one), join(windowFrame('2', 2), one, windowFrame('2', 1)),
		join(windowFrame('2', 1), compressedFrame('2', one, one)), ackFrame('2', 1), []byte("2X\x00\x00\x00\x00"), []byte("GET / HTTP/1.1\r\n"), []byte("\x16\x03\x01\x02\x00\x01"),
		join(windowFrame('2', 1), dataFrame(1, "a", "b")), join(windowFrame('1', 2), dataFrame(1, "a", "b"), dataFrame(2, "", "\x00\xff\"\\")), join(windowFrame('1', 1), one),
		join(windowFrame('2', 1), compressedFrame('2', compressedFrame('2', one))), join(windowFrame('2', 1), compressedFrame('2', windowFrame('2', 1), one)),
		join(windowFrame('2', 1), compressedFrame('2', jsonHeader(1, 100), []byte("{}"))), join(windowFrame('2', 1), rawCompressed('2', deflated(3, one)[:12])),
		join(windowFrame('2', 1), rawCompressed('2', join(deflated(3, one), []byte("junk")))), join(windowFrame('1', 1), []byte("1D"), u32(1), u32(10_001)),
		join(rawCompressed('2', nil), windowFrame('2', 1), rawCompressed('2', nil), one), join(windowFrame('2', 2), jsonFrame(1, ""), one),
		join(windowFrame('2', 2), compressedFrame('2', jsonFrame(1, string(make([]byte, 3000))), one)), join(windowFrame('2', 1), jsonHeader(1, 1<<31-1)),
		join(windowFrame('1', 1), compressedFrame('1', dataFrame(1, "k", string(make([]byte, 3000))))), join(windowFrame('2', 1), jsonHeader(1, 1<<20)),
		join(windowFrame('2', 4), compressedFrame('2', one), one, compressedFrame('2', one, one)), join(windowFrame('2', 1), rawCompressed('2', deflated(0, one))),
		join(windowFrame('2', 100), compressedFrame('2', bytes.Repeat(one, 100))), join(windowFrame('2', 1), compressedFrame('2', jsonHeader(1, 1<<20), make([]byte, 1<<20))),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		h := &tally{}
		const memory = 1 << 20
		s, err := NewServer(Config{MaxEvent: 2000, MaxWindow: 1000, MaxWindowBytes: 8 << 20, Memory: memory, BatchBytes: 4000, Linger: time.Millisecond}, h)
		if err != nil {
			t.Fatal(err)
		}
		highest := int64(0)
		s.budget.used = func(n int64) { highest = max(highest, n) } // under the budget's lock

		client, server := net.Pipe()
		s.admit(server)
		var all sync.WaitGroup
		var answer []byte
		all.Go(func() { answer, _ = io.ReadAll(client) })
		if _, err := client.Write(sent); err == nil {
			// All was read: what is due is due now, then the client ends.
			ended := make(chan struct{})
			all.Go(func() {
				defer close(ended)
				_ = s.Shutdown(context.Background())
			})
			<-ended
		}
		_ = client.Close()
		all.Wait()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}

		if len(answer)%6 != 0 {
			t.Fatalf("%d bytes are no whole acks", len(answer))
		}
		for a := answer; len(a) > 0; a = a[6:] {
			if (a[0] != '1' && a[0] != '2') || a[1] != 'A' {
				t.Fatalf("no ack: %q", a[:6])
			}
		}
		// Windows that are acknowledged were announced.
		announced := int64(0)
		windows := 0
		for rest := sent; ; {
			i := bytes.IndexByte(rest, 'W')
			if i < 0 || len(rest) < i+5 {
				break
			}
			windows++
			if n := binary.BigEndian.Uint32(rest[i+1:]); n <= 1000 {
				announced += int64(n)
			}
			rest = rest[i+1:]
		}
		if len(answer)/6 > windows {
			t.Fatalf("%d acks for %d windows", len(answer)/6, windows)
		}
		if n := h.events.Load(); n > announced {
			t.Fatalf("%d events of at most %d announced", n, announced)
		}
		// One byte on the wire becomes at most some 1,032 by deflate, and six by escapes.
		if n := h.bytes.Load(); n > int64(len(sent))*1032*6 {
			t.Fatalf("%d bytes of events from %d sent", n, len(sent))
		}
		if highest > memory+wireBuffer+rigCharge+4*bigChunk {
			t.Fatalf("%d bytes in use", highest)
		}
		if s.budget.inUse != 0 || len(s.budget.open) != 0 {
			t.Fatalf("%d bytes left behind", s.budget.inUse)
		}
	})
}
