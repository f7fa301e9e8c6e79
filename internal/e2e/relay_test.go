//go:build real

package e2e

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// relay stands between a Beat and the program, passes on what each says and
// keeps what the Beat sent. It is the only witness of a number's spelling: a
// Beat may change it before it sends, the program must not after.
type relay struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	said  []*bytes.Buffer // by connection; guarded by mu, the buffers until wait returns
	conns []net.Conn      // guarded by mu
	wg    sync.WaitGroup
}

func startRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{listener: l, to: to}
	r.wg.Go(r.accept)
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *relay) address() string { return r.listener.Addr().String() }

func (r *relay) accept() {
	for {
		beat, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.to)
		if err != nil {
			beat.Close()
			continue
		}
		said := new(bytes.Buffer)
		r.mu.Lock()
		r.said = append(r.said, said)
		r.conns = append(r.conns, beat, server)
		r.mu.Unlock()
		pass := func(to, from net.Conn, keep io.Writer) {
			_, _ = io.Copy(io.MultiWriter(to, keep), from) // the ends of connections are theirs to judge
			to.Close()
			from.Close()
		}
		r.wg.Go(func() { pass(server, beat, said) })
		r.wg.Go(func() { pass(beat, server, io.Discard) })
	}
}

// stop ends the relay; what was said is complete then.
func (r *relay) stop() {
	r.listener.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// connections is how many were passed on so far.
func (r *relay) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.said)
}

// events are the JSON documents that were sent, by their line's number, and how
// many that were with those that were sent more than once. It ends the relay.
func (r *relay) events(t *testing.T) (sent map[int][]byte, copies int) {
	t.Helper()
	r.stop()
	sent = make(map[int][]byte)
	for _, said := range r.said {
		require.NoError(t, frames(said, func(event []byte) error {
			var e struct{ N int }
			if err := json.Unmarshal(event, &e); err != nil {
				return err
			}
			sent[e.N] = event
			copies++
			return nil
		}))
	}
	return sent, copies
}

// frames reads what a client says in lumberjack v2.
func frames(r io.Reader, event func([]byte) error) error {
	var head [2]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		var word [4]byte
		if _, err := io.ReadFull(r, word[:]); err != nil {
			return err
		}
		switch string(head[:]) {
		case "2W":
		case "2C":
			frame := &io.LimitedReader{R: r, N: int64(binary.BigEndian.Uint32(word[:]))}
			z, err := zlib.NewReader(frame)
			if err != nil {
				return err
			}
			if err := frames(z, event); err != nil {
				return err
			}
			if frame.N > 0 {
				return fmt.Errorf("%d bytes behind a compressed frame's stream", frame.N)
			}
		case "2J":
			if _, err := io.ReadFull(r, word[:]); err != nil { // the first one was the sequence number
				return err
			}
			document := make([]byte, binary.BigEndian.Uint32(word[:]))
			if _, err := io.ReadFull(r, document); err != nil {
				return err
			}
			if err := event(document); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a frame %q", head)
		}
	}
}
