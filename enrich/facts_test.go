package enrich_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/internal/event"
	"vtsidecar/internal/faketime"
)

// forgetful is an Enricher over the same answers that knows no facts yet.
func (b *bench) forgetful() *bench {
	fresh := newBench(b.t, enrich.Config{}, nil, nil)
	parser, err := indicator.NewParser(indicator.Config{})
	require.NoError(b.t, err)
	age := enrich.PerType[time.Duration]{IP: 90 * day, URL: 30 * day, Domain: 180 * day}
	fresh.Enricher, err = enrich.New(enrich.Config{Fields: specs(sixFields...), Rules: enrich.Rules{MaxAnalysisAge: age}, Metrics: fresh.metrics}, parser, b.answers, nil, nil)
	require.NoError(b.t, err)
	return fresh
}

// The same values come again and again while their answers come, change, age,
// expire and are pushed out; whoever has seen them before says what somebody
// says who has not.
func TestWhatIsRememberedIsWhatAFirstLookSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(3, 4))
		b := newBench(t, enrich.Config{}, nil, nil)
		defer b.close()
		hash := func(i int) string { return fmt.Sprintf("%064x", 0xabcdef0123456789+uint64(i)) }
		key := func(kind string, i int) string {
			switch kind {
			case "ip":
				return fmt.Sprintf("ip:203.0.113.%d", i)
			case "domain":
				return fmt.Sprintf("domain:d%d.example.net", i)
			case "url":
				return fmt.Sprintf("url:http://d%d.example.net/a", i)
			}
			return "hash:" + hash(i)
		}
		const values = 9
		spelled := func(s string) string {
			if rnd.IntN(3) == 0 {
				return strings.ToUpper(s)
			}
			return s
		}
		one := func(n int) string {
			i := func() int { return rnd.IntN(values) }
			if rnd.IntN(2) == 0 { // so that the explanation is about a URL
				query := func() string { return []string{"", "?q=1", "?q=2"}[rnd.IntN(3)] }
				return fmt.Sprintf(`{"log":{"offset":%d,"file":{"path":"/f"}},"message":"see http://d%d.example.net/a%s","url":{"full":"http://d%d.example.net/a%s"}}`,
					n, i(), query(), i(), query())
			}
			return fmt.Sprintf(`{"log":{"offset":%d,"file":{"path":"/f"}},"source":{"ip":["203.0.113.%d","10.0.0.%d","::ffff:203.0.113.%d"]},"destination":{"ip":"203.0.113.%d"},`+
				`"url":{"full":"%s"},"dns":{"question":{"name":"%s"}},"process":{"hash":{"sha256":"%s"}},"message":"saw 203.0.113.%d"}`,
				n, i(), i(), i(), i(), spelled(fmt.Sprintf("http://d%d.example.net/a%s", i(), []string{"", "?q=1", "?q=2"}[rnd.IntN(3)])), spelled(fmt.Sprintf("d%d.example.net", i())), spelled(hash(i())), i())
		}
		found, hits := 0, 0
		for batchNo := range 300 {
			for range rnd.IntN(4) {
				kind := []string{"ip", "domain", "url", "hash"}[rnd.IntN(4)]
				a := flagged(rnd.IntN(2)*rnd.IntN(12), 0, time.Duration(rnd.IntN(200))*day)
				if rnd.IntN(5) == 0 {
					a = &enrich.Answer{FetchedAt: time.Now()}
				}
				b.answers.Set(key(kind, rnd.IntN(values)), a, time.Duration(1+rnd.IntN(100))*time.Hour)
			}
			switch rnd.IntN(6) {
			case 0:
				faketime.Pass(t, time.Duration(rnd.IntN(40))*time.Hour)
			case 1:
				if batchNo%50 == 0 { // everything goes
					for i := range 10_000 {
						b.answers.Set(fmt.Sprintf("ip:other %d", i), flagged(0, 0, 0), time.Hour)
					}
				}
			}
			var events []string
			for n := range 1 + rnd.IntN(6) {
				events = append(events, one(batchNo*100+n))
			}
			got, err := b.run(context.Background(), batch(event.Unlimited{}, events...))
			require.NoError(t, err)
			first := b.forgetful()
			want, err := first.run(context.Background(), batch(event.Unlimited{}, events...))
			first.close()
			require.NoError(t, err)
			require.Equal(t, want.lines, got.lines, "batch %d", batchNo)
			for _, l := range got.lines {
				found += strings.Count(l, `"status":"found"`)
				hits += strings.Count(l, `"result":"malicious"`)
			}
		}
		assert.Greater(t, found, 500, "the answers are used")
		assert.Greater(t, hits, 100)
	})
}

func TestBatchesAtATimeShareWhatIsRemembered(t *testing.T) {
	b := newBench(t, enrich.Config{}, nil, nil)
	defer b.close()
	var events []string
	for i := range 200 {
		value := fmt.Sprintf("203.0.113.%d", i)
		b.answers.Set("ip:"+value, flagged(9, 0, 0), time.Hour)
		events = append(events, ipEvent(value), ipEvent(fmt.Sprintf("10.0.0.%d", i)))
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 5 {
				for i, d := range b.docs(events...) {
					want := "found malicious"
					if i%2 == 1 {
						want = "skipped none"
					}
					if got := d.word("source.ip"); got != want {
						t.Errorf("event %d: %s, wanted %s", i, got, want)
					}
				}
			}
		})
	}
	for i := range 200 { // while answers are replaced
		b.answers.Set(fmt.Sprintf("ip:203.0.113.%d", i), flagged(8, 0, 0), time.Hour)
	}
	all.Wait()
}
