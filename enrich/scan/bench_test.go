package scan

import (
	"bytes"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
)

// sixFields and twentyFourFields are what the benchmarks look for.
var sixFields = []Field{
	{Path: "source.ip"}, {Path: "destination.ip"}, {Path: "process.hash", Hashes: true},
	{Path: "url.full"}, {Path: "dns.question.name"}, {Path: "winlog.event_data.Hashes", Hashes: true},
}

func twentyFourFields() []Field {
	fields := slices.Clone(sixFields)
	for _, p := range []string{
		"file.hash", "email.attachments.file.hash", "winlog.event_data.QueryName", "tls.client.server_name",
		"winlog.event_data.DestinationIp", "winlog.event_data.IpAddress", "host.ip", "client.ip", "server.ip", "url.domain",
		"related.ip", "related.hash", "dll.hash", "process.parent.hash", "observer.ip", "user_agent.original", "http.request.referrer", "message",
	} {
		fields = append(fields, Field{Path: p, Hashes: strings.HasSuffix(p, ".hash")})
	}
	return fields
}

// benchWindow is a window of events as Filebeat sends them: about 1,053 bytes
// each, members in random order, compressed at level 3 in lumberjack's frames.
func benchWindow(tb testing.TB, count int) (plain []byte, ends []int, packed []byte) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range count {
		name := fmt.Sprintf("host-%02d", i%7)
		e := map[string]any{
			"@timestamp":  fmt.Sprintf("2026-01-02T03:%02d:%02d.%03dZ", i/60%60, i%60, rng.IntN(1000)),
			"@metadata":   map[string]any{"beat": "filebeat", "type": "_doc", "version": "8.17.0"},
			"agent":       map[string]any{"ephemeral_id": "6f3c9d1e-3b1a-4f0e-9d57-6a1f1c0e9b11", "id": "0a9e8b7c-1d2e-4f30-8a9b-0c1d2e3f4a5b", "name": name, "type": "filebeat", "version": "8.17.0"},
			"ecs":         map[string]any{"version": "8.0.0"},
			"event":       map[string]any{"dataset": "proxy.access", "module": "proxy", "duration": rng.IntN(1 << 30)},
			"host":        map[string]any{"name": name, "hostname": name, "architecture": "x86_64", "containerized": false, "os": map[string]any{"family": "debian", "kernel": "6.1.0-18-amd64", "name": "Debian GNU/Linux", "version": "12 (bookworm)"}},
			"input":       map[string]any{"type": "filestream"},
			"log":         map[string]any{"offset": i * 187, "file": map[string]any{"path": "/var/log/proxy/access.json"}},
			"message":     fmt.Sprintf("GET /index-%d.html?id=%x HTTP/1.1 200 %d", rng.IntN(100), rng.Uint64(), rng.IntN(50000)),
			"source":      map[string]any{"ip": fmt.Sprintf("198.51.100.%d", rng.IntN(255)), "port": rng.IntN(65535)},
			"destination": map[string]any{"ip": fmt.Sprintf("203.0.113.%d", rng.IntN(255)), "port": 443},
			"url":         map[string]any{"full": fmt.Sprintf("https://www%d.example.com/index.html", rng.IntN(40)), "domain": "www.example.com"},
			"dns":         map[string]any{"question": map[string]any{"name": "www.example.com"}},
			"trace":       map[string]any{"id": fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64())},
			"user":        map[string]any{"id": fmt.Sprintf("%016x", rng.Uint64()), "name": fmt.Sprintf("user%d", rng.IntN(300))},
			"tags":        []string{"proxy", "dmz"},
		}
		plain = appendShuffled(plain, e, rng)
		plain = append(plain, '\n')
		ends = append(ends, len(plain)-1)
	}
	return plain, ends, pack(tb, plain)
}

func pack(tb testing.TB, plain []byte) []byte {
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, 3)
	require.NoError(tb, err)
	_, err = w.Write(plain)
	require.NoError(tb, err)
	require.NoError(tb, w.Close())
	return b.Bytes()
}

func appendShuffled(dst []byte, v any, rng *rand.Rand) []byte {
	m, ok := v.(map[string]any)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return append(dst, b...)
	}
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = fmt.Appendf(dst, "%q:", k)
		dst = appendShuffled(dst, m[k], rng)
	}
	return append(dst, '}')
}

// escapedWindow is events with a message of 10 KB, much of it escapes.
func escapedWindow(tb testing.TB, count int) (plain []byte, ends []int, packed []byte) {
	rng := rand.New(rand.NewPCG(3, 4))
	words := []string{`C:\Windows\System32\`, "\r\n\tat com.example.Service.call(Service.java:", `"quoted" `, "GET /a/b/c ", "the quick brown fox ", "0x7ffe"}
	for i := range count {
		var m strings.Builder
		for m.Len() < 9000 {
			m.WriteString(words[rng.IntN(len(words))])
			fmt.Fprint(&m, rng.IntN(1000))
		}
		plain = appendShuffled(plain, map[string]any{"message": m.String(), "log": map[string]any{"offset": i, "file": map[string]any{"path": "/x"}}, "source": map[string]any{"ip": "203.0.113.7"}}, rng)
		plain = append(plain, '\n')
		ends = append(ends, len(plain)-1)
	}
	return plain, ends, pack(tb, plain)
}

// BenchmarkScan measures a scan of a window beside the inflating of the same
// window with compress/zlib, alternating, and reports the median ratio.
func BenchmarkScan(b *testing.B) {
	for _, bench := range []struct {
		name   string
		window func(testing.TB, int) ([]byte, []int, []byte)
		count  int
		fields []Field
		line   bool
	}{
		{"none", benchWindow, 2048, nil, false},
		{"six", benchWindow, 2048, sixFields, false},
		{"twentyfour", benchWindow, 2048, twentyFourFields(), false},
		{"six_and_line", benchWindow, 2048, sixFields, true},
		{"escapes", escapedWindow, 200, sixFields, false},
	} {
		b.Run(bench.name, func(b *testing.B) {
			plain, ends, packed := bench.window(b, bench.count)
			s, err := New(Config{Fields: bench.fields})
			require.NoError(b, err)
			into := make([]byte, len(plain), len(plain)+event.Sentinel)
			inflater, err := zlib.NewReader(bytes.NewReader(packed))
			require.NoError(b, err)
			var r Result
			var line []byte
			ioc := []byte(`{"event_id":"0123456789abcdef0123456789abcdef","schema":1}`)
			values := 0
			scan := func() {
				from := 0
				for _, end := range ends {
					raw := into[from:end]
					if err := s.Scan(raw, &r); err != nil {
						b.Fatal(err)
					}
					values += len(r.Values)
					if bench.line {
						line = r.AppendLine(line[:0], raw, ioc)
					}
					from = end + 1
				}
			}
			inflate := func() {
				if err := inflater.(zlib.Resetter).Reset(bytes.NewReader(packed), nil); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(inflater, into); err != nil {
					b.Fatal(err)
				}
			}
			inflate()
			scan()
			var ratios []float64
			var scanned time.Duration
			b.ResetTimer()
			for b.Loop() {
				t0 := time.Now()
				inflate()
				t1 := time.Now()
				scan()
				t2 := time.Now()
				ratios = append(ratios, float64(t2.Sub(t1))/float64(t1.Sub(t0)))
				scanned += t2.Sub(t1)
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "×inflate")
			b.ReportMetric(float64(scanned.Nanoseconds())/float64(len(ratios)*len(ends)), "ns/event")
			b.ReportMetric(float64(len(plain))/float64(len(ends)), "B/event")
			b.ReportMetric(float64(testing.AllocsPerRun(1, scan))/float64(len(ends)), "allocs/event")
		})
	}
}
