package enrich_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich"
	"vtsidecar/internal/event"
)

// poison is an address whose cached answer is nil: no source gives such a one,
// and whoever reads it panics.
const poison = "198.51.100.66"

// An event that panics goes to the dead letter, whole; its neighbours come out
// as ever, each once and in their order.
func TestAPanicOverAnEventBuriesThatEvent(t *testing.T) {
	long := `{"source":{"ip":"` + poison + `"},"message":"` + strings.Repeat("x", 70_000) + `"}`
	for _, c := range []struct {
		name   string
		events int
		bad    func(i int) bool
	}{
		{"alone", 1, func(int) bool { return true }},
		{"first", 100, func(i int) bool { return i == 0 }},
		{"in between", 100, func(i int) bool { return i == 37 }},
		{"last", 100, func(i int) bool { return i == 99 }},
		{"two side by side", 100, func(i int) bool { return i == 50 || i == 51 }},
		{"every other", 40, func(i int) bool { return i%2 == 0 }},
		{"all", 40, func(int) bool { return true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, enrich.Config{}, nil, nil)
			defer b.close()
			b.answers.Set("ip:"+poison, nil, time.Hour)
			b.answers.Set("ip:"+ip1, flagged(9, 0, 0), time.Hour)
			var events, good, malformed []string
			bad := 0
			for i := range c.events {
				switch {
				case c.bad(i):
					bad++
					events = append(events, long)
				case i%10 == 3:
					malformed = append(malformed, fmt.Sprintf("[%d]", i))
					events = append(events, malformed[len(malformed)-1])
				default:
					good = append(good, fmt.Sprintf(`{"n":%d,"source":{"ip":"%s"}`, i, ip1))
					events = append(events, good[len(good)-1]+"}")
				}
			}
			budget := &fakeBudget{t: t}
			out, err := b.run(context.Background(), batch(budget, events...))
			require.NoError(t, err)
			assert.Zero(t, budget.now())
			require.Len(t, out.lines, len(good))
			for i, l := range out.lines {
				assert.True(t, strings.HasPrefix(l, good[i]), l)
				assert.Equal(t, "found malicious", docOf(t, l).word("source.ip"))
			}
			for _, d := range out.dead {
				if d.Reason != "internal_error" {
					require.NotEmpty(t, malformed)
					assert.Equal(t, malformed[0], string(d.Event))
					malformed = malformed[1:]
					continue
				}
				bad--
				assert.Equal(t, long, string(d.Event))
				assert.EqualValues(t, len(long), d.Length)
				assert.Empty(t, d.SHA256)
			}
			assert.Empty(t, malformed)
			assert.Zero(t, bad)
			assert.Equal(t, 1, b.log.count("panicked"))
			assert.InDelta(t, len(good), b.figure("indicators_total", "malicious", "ip"), 0, "those that came out are counted, once")
		})
	}
}

// touchyBudget panics over more than most bytes at once.
type touchyBudget struct {
	event.Unlimited
	most int64 // 0: anything is granted
}

func (b *touchyBudget) Reserve(_ context.Context, n int64) error {
	if b.most > 0 && n > b.most {
		panic("too much")
	}
	return nil
}

// The panic comes when the round's first portion and its dead letters are
// stored already: none of that comes out again, and nothing behind is lost.
func TestAPanicInALaterPortion(t *testing.T) {
	b := newBench(t, enrich.Config{Details: enrich.DetailsAll}, nil, nil)
	defer b.close()
	answer := flagged(90, 0, 0)
	for i := range answer.Engines {
		answer.Engines[i].Engine = fmt.Sprintf("%03d%s", i, strings.Repeat("\x01", 253))
	}
	for range 20 {
		answer.Tags = append(answer.Tags, strings.Repeat("\x01", 256))
	}
	for i := range 64 {
		b.answers.Set(fmt.Sprintf("ip:45.0.0.%d", i), answer, time.Hour)
	}
	var events []string
	for i := range 8 {
		events = append(events, fmt.Sprintf(`{"n":%d,"message":"%s"}`, i, strings.Repeat("m", 1<<20)))
	}
	large := `{"source":{"ip":` + manyIPs(0, 64) + `}}` // its document asks for more than the others
	events = append(events, "[8]", large, "[10]", `{"n":11}`, "[12]")

	budget := &touchyBudget{}
	work := b.Enrich(batch(budget, events...))
	defer work.Close()
	var got []string
	for {
		p, err := work.Next(context.Background())
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		budget.most = 2 << 20 // from the second portion on
		at := 0
		for _, l := range p.Lines.Index {
			got = append(got, string(p.Lines.Buf[at:at+7]))
			at = l.End
		}
		for _, d := range p.Dead {
			got = append(got, d.Reason+" "+string(d.Event[:min(len(d.Event), 9)]))
		}
	}
	assert.Equal(t, 1, b.log.count("panicked"))
	assert.ElementsMatch(t, []string{
		`{"n":0,`, `{"n":1,`, `{"n":2,`, `{"n":3,`, `{"n":4,`, `{"n":5,`, `{"n":6,`, `{"n":7,`,
		"malformed [8]", "internal_error " + large[:9], "malformed [10]", `{"n":11`, "malformed [12]",
	}, got)
}

// Where no event is to blame nothing is known of any: the batch is not
// acknowledged, and nothing else suffers.
func TestAPanicOfNoEventEndsTheBatch(t *testing.T) {
	var clock sync.Mutex
	broken := false
	b := newBench(t, enrich.Config{Now: func() time.Time {
		clock.Lock()
		defer clock.Unlock()
		if broken {
			panic("the clock of " + ip1)
		}
		return time.Now()
	}}, nil, nil)
	defer b.close()
	set := func(v bool) { clock.Lock(); defer clock.Unlock(); broken = v }
	set(true)
	budget := &fakeBudget{t: t}
	out, err := b.run(context.Background(), batch(budget, ipEvent(ip1)))
	require.Error(t, err)
	assert.Empty(t, out.lines)
	assert.Empty(t, out.dead)
	assert.NotContains(t, err.Error(), ip1)
	assert.Equal(t, 1, b.log.count("panicked"))
	assert.Zero(t, b.log.count(ip1))
	assert.Zero(t, budget.now())
	set(false)
	b.doc(ipEvent(ip1))
}

// An event that cannot even be buried ends the batch too.
func TestAPanicThatDoesNotEnd(t *testing.T) {
	b := newBench(t, enrich.Config{}, nil, nil)
	defer b.close()
	out, err := b.run(context.Background(), batch(&touchyBudget{most: 1}, ipEvent(ip1), ipEvent(ip2)))
	require.Error(t, err)
	assert.Empty(t, out.lines)
	assert.Empty(t, out.dead)
	assert.Equal(t, 1, b.log.count("panicked"))
}
