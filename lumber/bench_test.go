package lumber

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
)

// filebeatLike is an event as Filebeat sends it: about 1,053 bytes of JSON, of
// which most repeats from event to event.
func filebeatLike(r *rand.Rand, i int) []byte {
	doc := map[string]any{
		"@timestamp": time.Unix(1767323400, int64(i)*1e6).UTC().Format("2006-01-02T15:04:05.000Z"),
		"@metadata":  map[string]any{"beat": "filebeat", "type": "_doc", "version": "8.17.0"},
		"agent": map[string]any{"ephemeral_id": "0f1c5c1e-8f0a-4a5e-9d2f-d2b8a1c3b111", "id": fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64()),
			"name": "web-frontend-01", "type": "filebeat", "version": "8.17.0"},
		"ecs":   map[string]any{"version": "8.0.0"},
		"host":  map[string]any{"name": "web-frontend-01", "hostname": "web-frontend-01", "architecture": "x86_64", "os": map[string]any{"platform": "ubuntu", "family": "debian", "kernel": "5.15.0-91-generic"}},
		"input": map[string]any{"type": "filestream"},
		"log":   map[string]any{"file": map[string]any{"path": "/var/log/nginx/access.log", "inode": "1835017", "device_id": "64768"}, "offset": 1000000 + i*231},
		"message": fmt.Sprintf(`%d.%d.%d.%d - - [02/Jan/2026:03:10:%02d +0000] "GET /api/v2/items/%d?session=%08x HTTP/1.1" %d %d "-" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"`,
			r.IntN(223)+1, r.IntN(256), r.IntN(256), r.IntN(256), i%60, r.IntN(1e6), r.Uint32(), 200+r.IntN(5), r.IntN(1e5)),
		"source":      map[string]any{"ip": fmt.Sprintf("203.0.113.%d", r.IntN(256)), "port": 1024 + r.IntN(60000)},
		"destination": map[string]any{"ip": "198.51.100.7", "port": 443},
		"event":       map[string]any{"dataset": "nginx.access", "module": "nginx"},
		"fileset":     map[string]any{"name": "access"}, "trace": map[string]any{"id": fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())},
		"url": map[string]any{"full": fmt.Sprintf("https://shop.example.com/api/v2/items/%d", r.IntN(1e6))},
	}
	return shuffled(nil, r, doc)
}

// shuffled writes v with the members of objects in random order, as libbeat does.
func shuffled(b []byte, r *rand.Rand, v any) []byte {
	m, ok := v.(map[string]any)
	if !ok {
		leaf, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return append(b, leaf...)
	}
	keys := slices.Sorted(maps.Keys(m))
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendQuote(b, k), ':')
		b = shuffled(b, r, m[k])
	}
	return append(b, '}')
}

const benchEvents = 2048

func benchWindow() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	frames := make([][]byte, benchEvents)
	for i := range frames {
		frames[i] = jsonFrame(uint32(i+1), string(filebeatLike(r, i)))
	}
	return join(windowFrame('2', benchEvents), compressedFrame('2', frames...))
}

// floor reads windows as simply as can be: buffered reads, the standard
// library's inflater into one buffer, events cut and counted, an ack.
func floor(l net.Listener, events func(n int)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			in := bufio.NewReaderSize(conn, 64<<10)
			var head [6]byte
			var z io.ReadCloser
			var buf []byte
			for {
				if _, err := io.ReadFull(in, head[:]); err != nil {
					return
				}
				count := binary.BigEndian.Uint32(head[2:])
				if _, err := io.ReadFull(in, head[:]); err != nil {
					return
				}
				lr := io.LimitReader(in, int64(binary.BigEndian.Uint32(head[2:])))
				frame := bufio.NewReaderSize(lr, 32<<10)
				if z == nil {
					z, err = zlib.NewReader(frame)
				} else {
					err = z.(zlib.Resetter).Reset(frame, nil)
				}
				if err != nil {
					return
				}
				buf = buf[:0]
				for {
					if cap(buf)-len(buf) < 64<<10 {
						buf = slices.Grow(buf, max(64<<10, len(buf)))
					}
					n, err := z.Read(buf[len(buf):cap(buf)])
					buf = buf[:len(buf)+n]
					if err == io.EOF {
						break
					}
					if err != nil {
						return
					}
				}
				got := 0
				for rest := buf; len(rest) > 0; got++ {
					rest = rest[10+binary.BigEndian.Uint32(rest[6:]):]
				}
				if got != int(count) {
					return
				}
				events(got)
				_, _ = conn.Write(ackFrame('2', count))
			}
		}()
	}
}

func jsonBytes(window []byte) int {
	z, err := zlib.NewReader(bytes.NewReader(window[12:]))
	if err != nil {
		panic(err)
	}
	n, err := io.Copy(io.Discard, z)
	if err != nil {
		panic(err)
	}
	return int(n) - benchEvents*eventHeader
}

type discard struct{}

func (discard) Handle(context.Context, *event.Batch) error { return nil }

// pump sends windows over connections, two in flight on each.
func pump(tb testing.TB, addr string, window []byte, connections, windows int) {
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				tb.Error(err)
				return
			}
			defer conn.Close()
			acked := make(chan struct{}, 2)
			acked <- struct{}{}
			acked <- struct{}{}
			done := make(chan struct{})
			go func() {
				defer close(done)
				var got [6]byte
				for range windows {
					if _, err := io.ReadFull(conn, got[:]); err != nil {
						tb.Error(err)
						return
					}
					acked <- struct{}{}
				}
			}()
			for range windows {
				<-acked
				if _, err := conn.Write(window); err != nil {
					tb.Error(err)
					return
				}
			}
			<-done
		})
	}
	wg.Wait()
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWireToWindow runs the server with a handler that does nothing and the
// floor alternately and reports the median of their ratio of CPU time. The
// sending side is in both figures, so the true ratio is a little farther from 1.
func BenchmarkWireToWindow(b *testing.B) {
	window := benchWindow()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	go floor(l, func(int) {})
	s := start(b, Config{}, discard{})

	const connections, windows = 4, 25
	pump(b, l.Addr().String(), window, connections, windows)
	pump(b, s.addr, window, connections, windows)
	var ratios []float64
	var ours, theirs time.Duration
	for b.Loop() {
		t0 := cpu()
		pump(b, l.Addr().String(), window, connections, windows)
		t1 := cpu()
		pump(b, s.addr, window, connections, windows)
		t2 := cpu()
		ratios = append(ratios, float64(t2-t1)/float64(t1-t0))
		theirs += t1 - t0
		ours += t2 - t1
	}
	slices.Sort(ratios)
	events := float64(b.N) * connections * windows * benchEvents
	b.ReportMetric(ratios[len(ratios)/2], "×floor")
	b.ReportMetric(ours.Seconds()/events*1e6, "ours-cpu-s/M")
	b.ReportMetric(theirs.Seconds()/events*1e6, "floor-cpu-s/M")
	b.ReportMetric(float64(len(window))/benchEvents, "wire-B/event")
	b.ReportMetric(float64(jsonBytes(window))/benchEvents, "JSON-B/event")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkServe is the server alone, for profiles and allocations.
func BenchmarkServe(b *testing.B) {
	window := benchWindow()
	s := start(b, Config{}, discard{})
	pump(b, s.addr, window, 2, 5)
	b.ReportAllocs()
	b.SetBytes(benchEvents * 1053)
	b.ResetTimer()
	pump(b, s.addr, window, 1, b.N)
}
