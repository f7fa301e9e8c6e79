package enrich_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich"
	"vtsidecar/enrich/scan"
	"vtsidecar/internal/event"
)

// manyIPs is n distinct public addresses as JSON, from the first on.
func manyIPs(first, n int) string {
	b := []byte("[")
	for i := first; i < first+n; i++ {
		b = append(b, `"45.`...)
		b = strconv.AppendInt(b, int64(i>>16&255), 10)
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(i>>8&255), 10)
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(i&255), 10)
		b = append(b, '"', ',')
	}
	b[len(b)-1] = ']'
	return string(b)
}

// Attackers' batches: what they hold at a time stays bounded, and every event
// comes out on a line.
func TestMemoryStaysBounded(t *testing.T) {
	const mib = 1 << 20
	long := flagged(90, 0, 0)
	for i := range long.Engines {
		long.Engines[i].Engine = fmt.Sprintf("%03d%s", i, strings.Repeat("\x01", 253))
	}
	long.Tags = make([]string, 20)
	for i := range long.Tags {
		long.Tags[i] = strings.Repeat("\"", 256)
	}
	repeat := func(n int, f func(i int) string) (events []string) {
		for i := range n {
			events = append(events, f(i))
		}
		return events
	}
	cases := []struct {
		name   string
		events []string
		answer *enrich.Answer // cached for the first 64 addresses
		most   int64          // bytes reserved at a time
		min    int            // portions at least
	}{
		{"ordinary", repeat(2048, func(i int) string {
			return fmt.Sprintf(`{"log":{"offset":%d,"file":{"path":"/x"}},"source":{"ip":"45.0.0.%d"},"destination":{"ip":"45.0.1.%d"},"message":%q}`, i, i%64, i%250, strings.Repeat("m", 900))
		}), flagged(0, 0, 0), 10 * mib, 1},
		{"small events that grow", repeat(8, func(int) string { return `{"source":{"ip":` + manyIPs(0, 64) + `}}` }), long, 16 * mib, 3},
		{"distinct values", repeat(600, func(i int) string { return `{"source":{"ip":` + manyIPs(64*i, 64) + `}}` }), nil, 12 * mib, 2},
		{"many values in one event", []string{`{"source":{"ip":` + manyIPs(0, 1<<16) + `}}`, ipEvent("45.0.0.1")}, flagged(9, 0, 0), 10 * mib, 1},
		{"many hashes in one event", []string{`{"process":{"hash":{` + strings.TrimSuffix(strings.Repeat(`"md5":"`+md5sum+`",`, 1<<15), ",") + `}}}`}, nil, 5 * mib, 1},
		{"free text", []string{`{"message":"` + strings.Repeat("45.1.2.3 45.3.2.1 ", 1<<14) + `"}`}, nil, 2 * mib, 1},
		{"escapes", repeat(20, func(i int) string { return fmt.Sprintf(`{"message":"%s"}`, strings.Repeat(`\u0041`, 10_000+i)) }), nil, 2 * mib, 1},
		{"empty events", make([]string, 10_000), nil, 3 * mib, 1},
		{"tiny events", repeat(10_000, func(int) string { return `{}` }), nil, 14 * mib, 1},
		{"metadata again and again", repeat(5000, func(int) string {
			return "{" + strings.Repeat(`"@metadata":1,`, 20) + `"a":1}`
		}), nil, 14 * mib, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, enrich.Config{Details: enrich.DetailsAll}, nil, nil)
			defer b.close()
			if c.answer != nil {
				for i := range 64 {
					b.answers.Set(fmt.Sprintf("ip:45.0.0.%d", i), c.answer, time.Hour)
				}
			}
			for range 2 { // the second time with memory that was used before
				budget := &fakeBudget{t: t}
				portions := 0
				err := b.drain(context.Background(), batch(budget, c.events...), func(p enrich.Portion) {
					if portions == 0 && len(p.Lines.Index) > 0 { // all of them would take most of the test's time
						assert.True(t, json.Valid(p.Lines.Buf[:p.Lines.Index[0].End]))
					}
					portions++
				})
				require.NoError(t, err)
				assert.Zero(t, budget.now())
				assert.LessOrEqual(t, budget.most, c.most)
				assert.GreaterOrEqual(t, portions, c.min)
			}
		})
	}
}

// Who waits for memory holds none meanwhile: hundreds may wait.
func TestWaitingForMemoryHoldsNone(t *testing.T) {
	b := newBench(t, enrich.Config{}, nil, nil)
	defer b.close()
	var events []string
	for i := range 2000 {
		events = append(events, fmt.Sprintf(`{"n":%d,"source":{"ip":"45.0.0.1"},"message":%q}`, i, strings.Repeat("m", 500)))
	}
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	window := batch(nil, events...)
	drain := func(ctx context.Context, budget *fakeBudget) error {
		own := *window
		own.Budget = budget
		return b.drain(ctx, &own, func(enrich.Portion) {})
	}
	require.NoError(t, drain(context.Background(), &fakeBudget{t: t}))
	before := live()
	ctx, cancel := context.WithCancel(context.Background())
	var waiting sync.WaitGroup
	for range 20 {
		began := make(chan struct{})
		waiting.Go(func() {
			assert.ErrorIs(t, drain(ctx, &fakeBudget{t: t, full: true, wait: func() { close(began) }}), context.Canceled)
		})
		<-began
		require.NoError(t, drain(context.Background(), &fakeBudget{t: t})) // leaves what it had for the next one
	}
	assert.Less(t, live(), before+20<<20)
	cancel()
	waiting.Wait()
}

// The order of events, and every one of them, across rounds and portions.
func TestManyPortionsLoseNothing(t *testing.T) {
	b := newBench(t, enrich.Config{}, nil, nil)
	defer b.close()
	for i := range 64 {
		b.answers.Set(fmt.Sprintf("ip:45.0.0.%d", i), flagged(9, 0, 0), time.Hour)
	}
	var events []string
	for i := range 2000 {
		events = append(events, fmt.Sprintf(`{"n":%d,"source":{"ip":%s}}`, i, manyIPs(i%300, 40)))
	}
	portions, n := 0, 0
	err := b.drain(context.Background(), batch(&fakeBudget{t: t}, events...), func(p enrich.Portion) {
		portions++
		assert.LessOrEqual(t, len(p.Lines.Buf), 8<<20)
		at := 0
		for i, l := range p.Lines.Index {
			line := p.Lines.Buf[at:l.End]
			at = l.End
			require.True(t, bytes.HasPrefix(line, fmt.Appendf(nil, `{"n":%d,`, n)), "event %d: %.100s", n, line)
			want := min(max(64-n%300, 0), 40)
			require.Contains(t, string(line), fmt.Sprintf(`"malicious_count":%d,"suspicious_count":0,"unknown_count":%d,"checked_count":40,`, want, 40-want))
			if i == 0 || i == len(p.Lines.Index)-1 {
				docOf(t, string(line))
			}
			n++
		}
	})
	require.NoError(t, err)
	assert.Equal(t, len(events), n)
	assert.Greater(t, portions, 1)
}

// One event in, one line out, and all but arcanna.ioc as it was.
func FuzzOneLineComesOut(f *testing.F) {
	f.Add([]byte(`{"source":{"ip":"203.0.113.1"},"url.full":"hxxp://a.example/?q","process":{"hash":{"md5":"` + md5sum + `"}},"message":"1.2.3.4 é"}`))
	f.Add([]byte(`{"@metadata":{"_id":"x\n\u0000"},"arcanna":{"ioc":{}},"source":{"ip":["10.0.0.1",""]}}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`{"related":{"ip":["192.0.2.1"]},"threat":{"enrichments":[]},"source.ip":"203.0.113.1"}`))
	b := newBench(f, enrich.Config{IDMetadata: true, Details: enrich.DetailsAll, ECS: ecsOn}, nil, nil)
	f.Cleanup(b.close)
	b.answers.Set("ip:203.0.113.1", flagged(9, 0, 0), time.Hour)
	scanner, err := scan.New(scan.Config{})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b.t = t
		budget := &fakeBudget{t: t}
		out, err := b.run(context.Background(), batch(budget, string(raw)))
		require.NoError(t, err)
		require.Zero(t, budget.now())
		for _, l := range out.lines {
			docOf(t, l)
			// Ours taken out again, it is what the scan makes of the event with any
			// verdict in it.
			var want, got scan.Result
			require.NoError(t, scanner.Scan(raw, &want))
			require.NoError(t, scanner.Scan(want.AppendLine(nil, raw, []byte("{}")), &want))
			line := append([]byte(strings.TrimSuffix(l, "\n")), make([]byte, event.Sentinel)...)
			require.NoError(t, scanner.Scan(line[:len(l)-1], &got))
			require.True(t, got.HadVerdict)
			require.Equal(t, want.Digest, got.Digest)
		}
	})
}

func FuzzStrings(f *testing.F) {
	f.Add("plain")
	f.Add("\x00\x1f\x7f\"\\/\u2028\xff\xc0\xe2\x82é\n\t")
	f.Fuzz(func(t *testing.T, s string) {
		got := enrich.AppendString(nil, s)
		require.LessOrEqual(t, len(got), 6*len(s)+2)
		var back string
		require.NoError(t, json.Unmarshal(got, &back))
		require.Equal(t, strings.ToValidUTF8(strings.ReplaceAll(s, "\uFFFD", ""), ""), strings.ReplaceAll(back, "\uFFFD", ""))
	})
}

// Parts are rendered ahead and kept, within bounds: what is rendered anew is
// the same.
func TestManyDistinctValuesAndThenTheSameAgain(t *testing.T) {
	b := newBench(t, enrich.Config{}, nil, nil)
	defer b.close()
	name := func(i int) string {
		return fmt.Sprintf("%s.%s.n%d.example.org", strings.Repeat("a", 60), strings.Repeat("b", 60), i%2500)
	}
	var events []string
	for i := range 6000 {
		events = append(events, fmt.Sprintf(`{"dns":{"question":{"name":"%s"}},"source":{"ip":"45.0.0.%d"}}`, name(i), i%256))
	}
	out, err := b.run(context.Background(), batch(&fakeBudget{t: t}, events...))
	require.NoError(t, err)
	for i, l := range out.lines {
		require.Contains(t, l, `"question":{"name":{"value":"`+name(i)+`"`)
		require.Contains(t, l, fmt.Sprintf(`"source":{"ip":{"value":"45.0.0.%d"`, i%256))
		require.Contains(t, l, `"explanation":"dns.question.name `+name(i)[:120])
	}
}
