//go:build unix

package enrich_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"vtsidecar/enrich"
	"vtsidecar/enrich/scan"
	"vtsidecar/internal/event"
)

// filebeatLike makes n events of about 1,053 bytes with six indicators each,
// drawn from so many distinct ones as a day's traffic has: few are frequent.
func filebeatLike(n, distinct int) []string {
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.2, 8, uint64(distinct-1))
	pick := func() uint64 { return zipf.Uint64() }
	events := make([]string, n)
	for i := range events {
		ev := fmt.Sprintf(`{"@timestamp":"2026-01-02T03:04:05.%03dZ","@metadata":{"beat":"filebeat","type":"_doc","version":"8.15.0"},"log":{"offset":%d,"file":{"path":"/var/log/proxy/access.log"}},`+
			`"source":{"ip":"45.%d.1.%d","port":51234,"bytes":1234},"destination":{"ip":"46.%d.2.%d","port":443},"url":{"full":"https://www.site%d.example.org/index.html?session=%d"},`+
			`"dns":{"question":{"name":"host%d.example.net","type":"A"}},"process":{"name":"curl","hash":{"sha256":"%064x"}},"tls":{"client":{"server_name":"name%d.example.com"}},`+
			`"agent":{"name":"web-01","type":"filebeat","version":"8.15.0","ephemeral_id":"3f1c9b1e-6d0f-4f0e-9b53-3f2a1f0c0b11","id":"5a2f7f6e-2a77-4b4e-8b0c-0f5d9e1a7c22"},"ecs":{"version":"8.0.0"},"host":{"name":"web-01"},"message":"`,
			i%1000, 1000*i, pick()%200, pick()%200, pick()%200, pick()%200, pick(), i, pick(), pick(), pick())
		ev += strings.Repeat("m", max(0, 1053-2-len(ev))) + `"}`
		events[i] = ev
	}
	return events
}

var benchFields = []string{"source.ip:ip", "destination.ip:ip", "url.full:url", "dns.question.name:domain", "process.hash:hash", "tls.client.server_name:domain"}

// BenchmarkEnrich is the whole way of a batch of 2,048 events through the
// Enricher, 95 % of its indicators cached; beside it what the scan and the
// splice alone take.
func BenchmarkEnrich(b *testing.B) {
	for _, distinct := range []int{1000, 20_000} {
		events := filebeatLike(2048, distinct)
		in := batch(event.Unlimited{}, events...)
		in.Budget = event.Unlimited{}

		b.Run(fmt.Sprintf("distinct=%d/enrich", distinct), func(b *testing.B) {
			// No source: what is not cached is unavailable, at once.
			e := newBench(b, enrich.Config{Fields: specs(benchFields...)}, nil, nil)
			defer e.close()
			fill(b, e, in)
			b.ReportAllocs()
			began := cpu()
			for b.Loop() {
				work := e.Enrich(in)
				for {
					if _, err := work.Next(context.Background()); errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						b.Fatal(err)
					}
				}
				work.Close()
			}
			perEvent(b, len(events), cpu()-began)
		})
		b.Run(fmt.Sprintf("distinct=%d/scan", distinct), func(b *testing.B) {
			cfg := scan.Config{}
			for _, f := range specs(benchFields...) {
				cfg.Fields = append(cfg.Fields, scan.Field{Path: f.Path, Hashes: f.Path == "process.hash"})
			}
			scanner, err := scan.New(cfg)
			if err != nil {
				b.Fatal(err)
			}
			var r scan.Result
			dst := make([]byte, 0, 1<<20)
			ioc := []byte(`{}`)
			b.ReportAllocs()
			began := cpu()
			for b.Loop() {
				for i := range in.Events {
					if err := scanner.Scan(in.Events[i].Raw, &r); err != nil {
						b.Fatal(err)
					}
					dst = r.AppendLine(dst[:0], in.Events[i].Raw, ioc)
				}
			}
			perEvent(b, len(events), cpu()-began)
		})
	}
}

// perEvent reports CPU time, which a busy machine distorts less than the clock.
func perEvent(b *testing.B, events int, spent time.Duration) {
	n := float64(b.N) * float64(events)
	b.ReportMetric(float64(spent)/n, "cpu-ns/event")
	b.ReportMetric(n/b.Elapsed().Seconds(), "events/s")
}

// cpu is what the process has used, user and system.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fill caches answers for 95 % of what the batch asks for.
func fill(b *testing.B, e *bench, in *event.Batch) {
	b.Helper()
	e.answers.Set("ip:1.1.1.1", flagged(0, 0, 0), time.Hour)
	learner := newSource(b)
	l := newBench(b, enrich.Config{Fields: specs(benchFields...), Wait: time.Minute}, learner, nil)
	defer l.close()
	if _, err := l.run(context.Background(), in); err != nil {
		b.Fatal(err)
	}
	for i, value := range learner.asked() {
		if i%20 == 0 {
			continue
		}
		key := "domain:"
		switch {
		case strings.HasPrefix(value, "http"):
			key = "url:"
		case len(value) == 64 && !strings.Contains(value, "."):
			key = "hash:"
		case strings.Trim(value, "0123456789.") == "":
			key = "ip:"
		}
		a := flagged(0, 0, 3*day)
		if i%100 == 1 {
			a = flagged(9, 0, 3*day)
		}
		e.answers.Set(key+value, a, 24*time.Hour)
	}
}
