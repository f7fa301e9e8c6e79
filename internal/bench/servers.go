package main

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/elastic/go-lumber/lj"
	"github.com/elastic/go-lumber/server"

	"vtsidecar/internal/event"
	"vtsidecar/lumber"
)

// listen opens a port and says which, as the program does.
func listen() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		fmt.Fprintf(os.Stderr, "address=%s\n", l.Addr())
	}
	return l, err
}

// floor is the least that a receiver can do: read frames, inflate with the
// standard library, cut into slices, count, acknowledge.
func floor(ctx context.Context) error { return floorServer(ctx, nil) }

// floorFile is the floor that also stores what a whole path has to store: each
// event with as many bytes more as a document of six fields takes, one write and
// one fsync a window. What it costs beyond the floor is the disk's and the
// kernel's, whatever program writes.
func floorFile(ctx context.Context, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return floorServer(ctx, f)
}

// added is about what arcanna.ioc takes in an event with six fields.
var added = append(bytes.Repeat([]byte("."), 2000), '\n')

func floorServer(ctx context.Context, f *os.File) error {
	l, err := listen()
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil // closed: the run is over
		}
		go func() {
			defer conn.Close()
			if err := floorConn(conn, f); err != io.EOF {
				fmt.Fprintln(os.Stderr, "floor:", err)
			}
		}()
	}
}

func floorConn(conn net.Conn, f *os.File) error {
	var (
		in       = bufio.NewReaderSize(conn, 64<<10)
		inflater io.ReadCloser
		// Small enough to stay in the processor's cache, and longer than any event.
		buf   = make([]byte, 64<<10)
		lines []byte
		head  [12]byte
	)
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		if string(head[:2]) != "2W" || string(head[6:8]) != "2C" {
			return fmt.Errorf("frames %q, %q", head[:2], head[6:8])
		}
		count := binary.BigEndian.Uint32(head[2:])
		// The inflater takes its bytes one by one, so nothing may stand between it
		// and bufio; the frame's length is taken on trust.
		var err error
		if inflater == nil {
			inflater, err = zlib.NewReader(in)
		} else {
			err = inflater.(zlib.Resetter).Reset(in, nil)
		}
		if err != nil {
			return err
		}
		events, filled := uint32(0), 0
		for err == nil {
			var n int
			n, err = inflater.Read(buf[filled:])
			rest := buf[:filled+n]
			for len(rest) >= 10 {
				end := 10 + int(binary.BigEndian.Uint32(rest[6:]))
				if end > len(rest) {
					break
				}
				event := rest[10:end]
				if len(event) > 0 {
					events++
				}
				if f != nil {
					lines = append(append(lines, event...), added...)
				}
				rest = rest[end:]
			}
			filled = copy(buf, rest)
		}
		if err != io.EOF {
			return err
		}
		if events != count {
			return fmt.Errorf("%d events in a window of %d", events, count)
		}
		if f != nil {
			if _, err := f.Write(lines); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
			lines = lines[:0]
		}
		if _, err := conn.Write(ack(count)); err != nil {
			return err
		}
	}
}

func ack(seq uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{'2', 'A'}, seq)
}

// goLumber is go-lumber's server over raw bytes, which it discards. Its decoder
// must copy: the bytes it is given are used again.
func goLumber(ctx context.Context) error {
	return lumberServer(ctx, func(b *lj.Batch) error { return nil },
		server.JSONDecoder(func(raw []byte, into any) error {
			*(into.(*any)) = append([]byte(nil), raw...)
			return nil
		}))
}

func lumberServer(ctx context.Context, handle func(*lj.Batch) error, options ...server.Option) error {
	l, err := listen()
	if err != nil {
		return err
	}
	s, err := server.NewWithListener(l, append(options, server.V2(true), server.Timeout(time.Minute))...)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return s.Close()
		case b := <-s.ReceiveChan():
			if err := handle(b); err != nil {
				return err
			}
			b.ACK()
		}
	}
}

// wire is this program's own server alone: wire to window, with nobody behind it.
func wire(ctx context.Context) error {
	l, err := listen()
	if err != nil {
		return err
	}
	s, err := lumber.NewServer(lumber.Config{}, discard{})
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = s.Shutdown(context.Background()) }) // nothing is in flight then
	return s.Serve(l)
}

type discard struct{}

func (discard) Handle(context.Context, *event.Batch) error { return nil }

// peer is the program that one would write in an afternoon: go-lumber's server
// as it comes, which decodes into maps; verdicts out of a map, and into the
// event's; the event encoded again into a buffered file; then the ack. It syncs
// nothing and does not check what it stores.
func peer(ctx context.Context, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	cache := newVerdicts()
	return lumberServer(ctx, func(b *lj.Batch) error {
		for _, e := range b.Events {
			m, ok := e.(map[string]any)
			if !ok {
				return fmt.Errorf("an event is a %T", e)
			}
			delete(m, "@metadata")
			cache.enrich(m)
			if err := encoder.Encode(m); err != nil {
				return err
			}
		}
		return w.Flush()
	})
}

// verdicts is the peer's cache.
type verdicts struct {
	mu    sync.RWMutex
	known map[string]map[string]any // guarded by mu
}

func newVerdicts() *verdicts {
	v := &verdicts{known: make(map[string]map[string]any)}
	for pool, typ := range typeOf {
		for i := range perPool {
			name := value(pool, i)
			v.known[name] = map[string]any{
				"value": name, "type": typ, "result": "harmless", "is_malicious": false, "status": "found", "provider": "virustotal",
				"positives": 0, "engines_total": 90, "analysis_age_days": 3, "link": "https://www.virustotal.com/gui/search/" + name,
			}
		}
	}
	return v
}

// looked are the fields that are looked up, as paths.
var looked = [][]string{
	{"source", "ip"}, {"destination", "ip"}, {"dns", "question", "name"}, {"url", "full"}, {"file", "hash", "sha256"}, {"process", "hash", "sha256"},
}

func (v *verdicts) enrich(event map[string]any) {
	ioc, asked := map[string]any{}, 0
	for _, path := range looked {
		var at any = event
		for _, key := range path {
			m, ok := at.(map[string]any)
			if !ok {
				at = nil
				break
			}
			at = m[key]
		}
		name, ok := at.(string)
		if !ok {
			continue
		}
		v.mu.RLock()
		verdict, ok := v.known[name]
		v.mu.RUnlock()
		if !ok {
			verdict = map[string]any{"value": name, "result": "unknown", "status": "quota"}
		}
		asked++
		into := ioc
		for _, key := range path[:len(path)-1] {
			next, ok := into[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				into[key] = next
			}
			into = next
		}
		into[path[len(path)-1]] = verdict
	}
	ioc["global"] = map[string]any{"result": "unknown", "checked_count": asked, "updated_at": time.Now().UTC()}
	event["arcanna"] = map[string]any{"ioc": ioc}
}
