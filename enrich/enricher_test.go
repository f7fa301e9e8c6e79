package enrich_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/cache"
	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/quota"
	"vtsidecar/internal/event"
	"vtsidecar/internal/faketime"
)

const (
	ip1 = "203.0.113.1"
	ip2 = "203.0.113.2"
	ip3 = "203.0.113.3"
)

func failure(d enrich.Decision, until time.Duration) *enrich.LookupError {
	e := &enrich.LookupError{Decision: d, Reason: "because"}
	if until > 0 {
		e.Until = time.Now().Add(until)
	}
	return e
}

// Every decision of a source, and what the part says then. Nothing of it may
// take longer than the wait.
func TestStatuses(t *testing.T) {
	const wait = 2 * time.Second
	cases := []struct {
		name  string
		reply func() reply
		quota *fakeQuota
		want  string
		took  time.Duration
	}{
		{name: "found", reply: func() reply { return reply{answer: flagged(9, 0, day)} }, want: "found malicious"},
		{name: "slow but in time", reply: func() reply { return reply{answer: flagged(9, 0, day), after: time.Second} }, want: "found malicious", took: time.Second},
		{name: "too slow", reply: func() reply { return reply{answer: flagged(9, 0, day), after: time.Minute} }, want: "pending unknown", took: wait},
		{name: "not found", reply: func() reply { return reply{} }, want: "not_found unknown"},
		{name: "passing fault", reply: func() reply { return reply{err: failure(enrich.Retry, 0)} }, want: "unavailable unknown"},
		{name: "strange error", reply: func() reply { return reply{err: errors.New("strange")} }, want: "unavailable unknown"},
		{name: "panic", reply: func() reply { return reply{do: func() { panic("in the source") }} }, want: "unavailable unknown"},
		{name: "minute", reply: func() reply { return reply{err: failure(enrich.PauseMinute, time.Minute)} }, want: "quota unknown"},
		{name: "day", reply: func() reply { return reply{err: failure(enrich.Exhausted, 20*time.Hour)} }, want: "quota unknown"},
		{name: "refused", reply: func() reply { return reply{err: failure(enrich.Refused, time.Hour)} }, want: "unavailable unknown"},
		{name: "unanswerable", reply: func() reply { return reply{err: failure(enrich.Unanswerable, 0)} }, want: "not_found unknown"},
		{name: "no quota", reply: func() reply { return reply{answer: flagged(9, 0, day)} }, quota: &fakeQuota{window: "minute"}, want: "quota unknown"},
		{name: "quota cannot be counted", reply: func() reply { return reply{answer: flagged(9, 0, day)} },
			quota: &fakeQuota{window: "day", left: 9, broken: errors.New("disk full")}, want: "unavailable unknown"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := newSource(t)
				source.say(ip1, c.reply())
				q := c.quota
				if q == nil {
					q = &fakeQuota{window: "day", left: 500}
				} else {
					q = &fakeQuota{window: q.window, left: q.left, broken: q.broken, until: time.Now().Add(time.Minute)}
				}
				source.quota = q
				b := newBench(t, enrich.Config{Wait: wait}, source, q)
				defer b.close()
				began := time.Now()
				d := b.doc(ipEvent(ip1))
				assert.Equal(t, c.want, d.word("source.ip"))
				assert.Equal(t, c.took, time.Since(began))
				if strings.HasPrefix(c.want, "quota") || strings.HasPrefix(c.want, "pending") {
					assert.Equal(t, "pending", d.at("global.status"))
				}
				if strings.HasPrefix(c.want, "unavailable") {
					assert.Equal(t, "unavailable", d.at("global.status"))
				}
				_, said := d["is_malicious"]
				assert.Equal(t, strings.HasSuffix(c.want, "malicious"), said)
			})
		})
	}
}

func TestAnAnswerThatComesLaterFillsTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		source.say(ip1, reply{answer: flagged(9, 0, day), after: 10 * time.Second})
		b := newBench(t, enrich.Config{Wait: time.Second}, source, nil)
		defer b.close()
		assert.Equal(t, "pending unknown", b.doc(ipEvent(ip1)).word("source.ip"))
		assert.Equal(t, "pending unknown", b.doc(ipEvent(ip1)).word("source.ip"))
		faketime.Pass(t, 10*time.Second)
		synctest.Wait()
		d := b.doc(ipEvent(ip1))
		assert.Equal(t, "found malicious", d.word("source.ip"))
		assert.Equal(t, []string{ip1}, source.asked(), "asked once")
		assert.InDelta(t, 1, b.figure("cache_requests_total", "hit"), 0)
		assert.InDelta(t, 1, b.figure("cache_requests_total", "miss"), 0)
		assert.InDelta(t, 1, b.figure("cache_requests_total", "coalesced"), 0)
	})
}

// A full queue without quota is asked nothing further, but the answer of a
// request that is under way is waited for.
func TestFullQueueWithoutQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		source.workers = 2
		source.say(ip1, reply{answer: flagged(9, 0, day), after: 3 * time.Second})
		q := &fakeQuota{window: "day", left: 1, until: time.Now().Add(time.Hour)}
		source.quota = q
		b := newBench(t, enrich.Config{Wait: 2 * time.Second, Workers: 2, QueueLength: 1}, source, q)
		defer b.close()
		assert.Equal(t, "pending unknown", b.doc(ipEvent(ip1)).word("source.ip"))
		assert.Equal(t, "quota unknown", b.doc(ipEvent(ip2)).word("source.ip"), "it fills the queue")
		synctest.Wait() // a worker has found that there is no quota
		assert.Equal(t, "found malicious", b.doc(ipEvent(ip1)).word("source.ip"), "its request is under way")
		began := time.Now()
		assert.Equal(t, "quota unknown", b.doc(ipEvent(ip3)).word("source.ip"))
		assert.Zero(t, time.Since(began))
		assert.Equal(t, []string{ip1}, source.asked())
	})
}

// The hashes of one object are one indicator, its best, wherever other values
// stand in between: dotted keys come in any order.
func TestHashesOfOneObjectApart(t *testing.T) {
	md5, sha256, other := strings.Repeat("a1", 16), strings.Repeat("b2", 32), strings.Repeat("c3", 32)
	b := newBench(t, enrich.Config{Fields: specs("source.ip:ip", "process.hash:hash=first", "process.hash:hash=second", "file.hash:hash")}, nil, nil)
	defer b.close()
	for _, ev := range []string{
		`{"process.hash.md5":"` + md5 + `","source.ip":"` + ip1 + `","process.hash.sha256":"` + sha256 + `"}`,
		`{"process.hash.md5":"` + md5 + `","file.hash.md5":"` + md5 + `","process.hash.sha256":"` + sha256 + `","file.hash.sha256":"` + other + `"}`,
		`{"process":{"hash":{"md5":"` + md5 + `","sha256":"` + sha256 + `"}}}`, // of two fields
		`{"source.ip":["` + ip1 + `","` + ip2 + `"],"process":{"hash.sha256":"` + sha256 + `","hash.md5":"` + md5 + `"},"file.hash":{"md5":"` + md5 + `"}}`,
	} {
		d := b.doc(ev)
		for _, name := range []string{"first", "second"} {
			assert.Equal(t, sha256, d.at(name+".value"), ev)
			assert.Nil(t, d.at(name+".values"), ev)
		}
		if strings.Contains(ev, other) {
			assert.Equal(t, other, d.at("file.hash.value"))
			assert.InDelta(t, 2, d.at("global.checked_count"), 0)
		}
	}
	// Lists are found where their member is named, and the object goes on being one.
	lists := newBench(t, enrich.Config{Fields: specs("file.hash:hash", "file.hash.sha256:hash=file.hash")}, nil, nil)
	defer lists.close()
	assert.Equal(t, []any{sha256, other}, lists.doc(`{"file":{"hash":{"sha256":["`+sha256+`","`+other+`"]}}}`).at("file.hash.values"))
	d := lists.doc(`{"file":{"hash":{"md5":"` + md5 + `","sha256":"` + sha256 + `"}}}`)
	assert.Equal(t, sha256, d.at("file.hash.value"))
	assert.Nil(t, d.at("file.hash.values"))

	// Two objects are two.
	d = b.doc(`{"process":{"hash":[{"md5":"` + md5 + `"},{"sha256":"` + sha256 + `"}]}}`)
	assert.Equal(t, []any{md5, sha256}, d.at("first.values"))
}

func TestBatchesAtATimeShareARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		source.workers = 3
		for _, ip := range []string{ip1, ip2, ip3} {
			source.say(ip, reply{answer: flagged(9, 0, day), after: 500 * time.Millisecond})
		}
		b := newBench(t, enrich.Config{Wait: 10 * time.Second, Workers: 3}, source, nil)
		defer b.close()
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() {
				out, err := b.run(context.Background(), batch(event.Unlimited{}, ipEvent(ip1), ipEvent(ip2), ipEvent(ip3), ipEvent(ip1)))
				if assert.NoError(t, err) {
					for _, l := range out.lines {
						assert.Equal(t, "found malicious", docOf(t, l).word("source.ip"))
					}
				}
			})
		}
		group.Wait()
		assert.ElementsMatch(t, []string{ip1, ip2, ip3}, source.asked())
	})
}

func TestWorkersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		source.workers = 2
		var events []string
		for i := range 20 {
			ip := fmt.Sprintf("203.0.113.%d", i)
			source.say(ip, reply{answer: flagged(0, 0, day), after: time.Second})
			events = append(events, ipEvent(ip))
		}
		b := newBench(t, enrich.Config{Wait: time.Minute, Workers: 2}, source, nil)
		defer b.close()
		began := time.Now()
		for _, d := range b.docs(events...) {
			assert.Equal(t, "found harmless", d.word("source.ip"))
		}
		assert.Equal(t, 10*time.Second, time.Since(began))
		assert.Equal(t, 2, source.busiest)
	})
}

// A backlog that cannot come to its turn in time is not waited for.
func TestNobodyWaitsBehindALongQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		var events []string
		for i := range 100 {
			ip := fmt.Sprintf("203.0.113.%d", i)
			source.say(ip, reply{answer: flagged(0, 0, day), after: time.Second})
			events = append(events, ipEvent(ip))
		}
		b := newBench(t, enrich.Config{Wait: 3 * time.Second, Workers: 1}, source, nil)
		defer b.close()
		b.docs(events...) // learns that a request takes a second
		began := time.Now()
		assert.Equal(t, "pending unknown", b.doc(ipEvent("203.0.113.200")).word("source.ip"))
		assert.Zero(t, time.Since(began))
	})
}

func TestQuotaIsSpentInOrderAndWaitedForByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		q := &fakeQuota{window: "minute", left: 2, until: time.Now().Add(time.Minute)}
		source.quota = q
		for _, ip := range []string{ip1, ip2, ip3} {
			source.say(ip, reply{answer: flagged(9, 0, day), after: 100 * time.Millisecond})
		}
		b := newBench(t, enrich.Config{Wait: 2 * time.Second, Workers: 4}, source, q)
		defer b.close()
		began := time.Now()
		docs := b.docs(ipEvent(ip1), ipEvent(ip2), ipEvent(ip3))
		assert.Equal(t, "found malicious", docs[0].word("source.ip"))
		assert.Equal(t, "found malicious", docs[1].word("source.ip"))
		assert.Equal(t, "quota unknown", docs[2].word("source.ip"))
		assert.Equal(t, 100*time.Millisecond, time.Since(began))

		q.grant(5)
		faketime.Pass(t, time.Minute+time.Second)
		synctest.Wait()
		assert.ElementsMatch(t, []string{ip1, ip2, ip3}, source.asked(), "what waited was asked for when there was quota")
		assert.Equal(t, "found malicious", b.doc(ipEvent(ip3)).word("source.ip"))
	})
}

func TestTooManyRequestsPauses(t *testing.T) {
	for _, c := range []struct {
		decision enrich.Decision
		pause    time.Duration
		window   string
		logged   int
	}{
		{enrich.PauseMinute, time.Minute, "minute", 0},
		{enrich.Exhausted, 20 * time.Hour, "day", 1},
		{enrich.Exhausted, 20 * day, "month", 1},
	} {
		t.Run(c.window, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := newSource(t)
				q := &fakeQuota{window: c.window, left: 100}
				source.say(ip1, reply{err: failure(c.decision, c.pause)})
				b := newBench(t, enrich.Config{Wait: time.Second, Workers: 1}, source, q)
				defer b.close()
				assert.Equal(t, "quota unknown", b.doc(ipEvent(ip1)).word("source.ip"))
				assert.Equal(t, "quota unknown", b.doc(ipEvent(ip2)).word("source.ip"))
				assert.Equal(t, []string{c.window}, q.spent)
				assert.Equal(t, []string{ip1}, source.asked())
				assert.Equal(t, c.logged, b.log.count("quota is used up"))

				source.say(ip1, reply{answer: flagged(9, 0, day)})
				q.grant(100)
				faketime.Pass(t, c.pause+2*time.Minute)
				synctest.Wait()
				assert.Equal(t, []string{ip1, ip1, ip2}, source.asked(), "asked again, in order")
				assert.Equal(t, c.logged, b.log.count("there is quota again"))
			})
		})
	}
}

// A source that wants pauses again and again is told of once, and once more when
// it has wanted none for a while.
func TestPausesOfTheSourceAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		b := newBench(t, enrich.Config{Wait: time.Second, Workers: 1, TTLNotFound: time.Minute}, source, nil)
		defer b.close()
		const begins, ends = "takes fewer requests in a minute", "wants no more pauses"
		for range 3 {
			source.say(ip1, reply{err: failure(enrich.PauseMinute, time.Minute)})
			b.doc(ipEvent(ip1))
			source.say(ip1, reply{}) // not known
			faketime.Pass(t, 8*time.Minute)
		}
		assert.Equal(t, 1, b.log.count(begins))
		assert.Zero(t, b.log.count(ends))
		faketime.Pass(t, 2*time.Minute)
		b.doc(ipEvent(ip2))
		assert.Equal(t, 1, b.log.count(ends))
		b.doc(ipEvent(ip3))
		assert.Equal(t, 1, b.log.count(ends))

		source.say(ip1, reply{err: failure(enrich.PauseMinute, time.Minute)})
		b.doc(ipEvent(ip1))
		assert.Equal(t, 2, b.log.count(begins))
		source.say(ip1, reply{})
		faketime.Pass(t, 72*time.Hour) // in which nobody asks
		source.say("203.0.113.4", reply{err: failure(enrich.PauseMinute, time.Minute)})
		b.doc(ipEvent("203.0.113.4"))
		assert.Equal(t, 3, b.log.count(begins))
	})
}

func TestARefusedKeyStopsLookupsAndSaysSoOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		b := newBench(t, enrich.Config{Wait: time.Second, Workers: 1}, source, nil)
		defer b.close()
		source.say(ip3, reply{answer: flagged(9, 0, day)})
		b.doc(ipEvent(ip3))

		source.say(ip1, reply{err: failure(enrich.Refused, time.Hour)})
		source.say(ip2, reply{err: failure(enrich.Refused, 2*time.Hour)})
		for range 5 {
			assert.Equal(t, "unavailable unknown", b.doc(ipEvent(ip1)).word("source.ip"))
			assert.Equal(t, "unavailable unknown", b.doc(ipEvent(ip2)).word("source.ip"))
		}
		assert.Equal(t, []string{ip3, ip1}, source.asked())
		assert.Equal(t, "found malicious", b.doc(ipEvent(ip3)).word("source.ip"), "the cache still answers")

		faketime.Pass(t, time.Hour)
		b.doc(ipEvent(ip2)) // a probe
		synctest.Wait()
		assert.Equal(t, []string{ip3, ip1, ip2}, source.asked())
		assert.Equal(t, 1, b.log.count("refuses the key"))

		source.say(ip1, reply{answer: flagged(9, 0, day)})
		faketime.Pass(t, time.Hour)
		b.doc(ipEvent(ip1))
		synctest.Wait()
		assert.Equal(t, "found malicious", b.doc(ipEvent(ip1)).word("source.ip"))
		assert.Equal(t, 1, b.log.count("the source answers"))
	})
}

func TestTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		source.workers = 1
		b := newBench(t, enrich.Config{Wait: time.Second, Workers: 1}, source, nil)
		defer b.close()
		down := reply{err: failure(enrich.Retry, 0)}
		for i := range 250 {
			source.say(fmt.Sprintf("203.0.113.%d", i), down)
		}
		for i := range 200 {
			assert.Equal(t, "unavailable unknown", b.doc(ipEvent(fmt.Sprintf("203.0.113.%d", i))).word("source.ip"))
		}
		assert.Len(t, source.asked(), 3, "open after three")
		assert.Equal(t, 1, b.log.count("the source does not answer"))

		faketime.Pass(t, 10*time.Minute)
		synctest.Wait()
		probes := len(source.asked()) - 3
		assert.Greater(t, probes, 10)
		assert.Less(t, probes, 25, "about one a minute")
		assert.Equal(t, 1, b.log.count("the source does not answer"))

		for i := range 250 {
			source.say(fmt.Sprintf("203.0.113.%d", i), reply{answer: flagged(9, 0, day)})
		}
		faketime.Pass(t, time.Minute)
		synctest.Wait()
		assert.Equal(t, 1, b.log.count("the source answers"))
		assert.Equal(t, "found malicious", b.doc(ipEvent("203.0.113.199")).word("source.ip"), "what waited was asked for")
		assert.Zero(t, b.figure("vt_queue_length"))
	})
}

// While one request tries whether the source is well again, nobody waits for it
// but those that asked for the same.
func TestAHangingProbeDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		b := newBench(t, enrich.Config{Wait: 2 * time.Second}, source, nil)
		defer b.close()
		for i := range 4 {
			ip := fmt.Sprintf("203.0.113.%d", i)
			source.say(ip, reply{err: failure(enrich.Retry, 0)})
			b.doc(ipEvent(ip))
		}
		source.say("203.0.113.3", reply{after: time.Hour})
		for i := range 5 {
			b.doc(ipEvent(fmt.Sprintf("203.0.113.%d", 20+i)))
		}
		faketime.Pass(t, time.Minute) // the probe has begun
		synctest.Wait()
		assert.Len(t, source.asked(), 4, "one request tries")
		began := time.Now()
		assert.Equal(t, "unavailable unknown", b.doc(ipEvent("203.0.113.9")).word("source.ip"))
		assert.Zero(t, time.Since(began))
	})
}

func TestExpiredAnswersAreUsedWhenNoOtherComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		source.say(ip1, reply{answer: flagged(9, 0, 0)})
		b := newBench(t, enrich.Config{Wait: time.Second, TTL: day, TTLMalicious: 2 * day, TTLNotFound: time.Hour}, source, nil)
		defer b.close()
		b.docs(ipEvent(ip1), ipEvent(ip2))
		source.say(ip1, reply{err: failure(enrich.Retry, 0)})
		source.say(ip2, reply{err: failure(enrich.Retry, 0)})

		faketime.Pass(t, 30*time.Minute)
		assert.Equal(t, "not_found unknown", b.doc(ipEvent(ip2)).word("source.ip"))
		faketime.Pass(t, 2*time.Hour)
		d := b.doc(ipEvent(ip2))
		assert.Equal(t, "stale unknown", d.word("source.ip"))
		assert.Equal(t, "complete", d.at("global.status"))
		assert.Equal(t, "found malicious", b.doc(ipEvent(ip1)).word("source.ip"))
		faketime.Pass(t, 2*day)
		d = b.doc(ipEvent(ip1))
		assert.Equal(t, "stale malicious", d.word("source.ip"))
		assert.Equal(t, true, d["is_malicious"])
		assert.InDelta(t, 2, b.figure("cache_requests_total", "stale"), 0)

		source.say(ip1, reply{answer: flagged(0, 0, 0)})
		assert.Equal(t, "found harmless", b.doc(ipEvent(ip1)).word("source.ip"))
		faketime.Pass(t, day-time.Minute)
		source.say(ip1, reply{err: failure(enrich.Retry, 0)})
		assert.Equal(t, "found harmless", b.doc(ipEvent(ip1)).word("source.ip"))
		faketime.Pass(t, 2*time.Minute)
		assert.Equal(t, "stale harmless", b.doc(ipEvent(ip1)).word("source.ip"))
	})
}

// A file's answer stands under the hashes that it names, whatever an event says
// belongs together.
func TestAFilesAnswerStandsUnderItsOwnHashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := func(sum string) string { return fmt.Sprintf(`{"process":{"hash":%q}}`, sum) }
		source := newSource(t)
		source.say(sha256, reply{answer: theFile(40)})
		b := newBench(t, enrich.Config{Wait: time.Second}, source, nil)
		defer b.close()
		other := strings.Repeat("c", 32)
		claim := fmt.Sprintf(`{"process":{"hash":{"md5":%q,"sha256":%q}}}`, other, sha256)
		assert.Equal(t, "found malicious", b.doc(claim).word("process.hash"))
		assert.Equal(t, "found malicious", b.doc(file(sha1)).word("process.hash"))
		assert.Equal(t, "found malicious", b.doc(file(md5sum)).word("process.hash"))
		assert.Equal(t, []string{sha256}, source.asked())
		assert.Equal(t, "not_found unknown", b.doc(file(other)).word("process.hash"), "what an event claims teaches nothing")

		wrong := strings.Repeat("d", 64)
		source.say(wrong, reply{answer: theFile(40)})
		assert.Equal(t, "unavailable unknown", b.doc(file(wrong)).word("process.hash"), "an answer about another file")
	})
}

func TestWithoutASource(t *testing.T) {
	for _, c := range []struct {
		name, want, log string
		cfg             enrich.Config
	}{
		{"no key", "found malicious", "no API key", enrich.Config{NoSource: "no API key"}},
		{"off", "unavailable unknown", "switched off", enrich.Config{Off: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.cfg, nil, nil)
			defer b.close()
			b.answers.Set("ip:"+ip1, flagged(9, 0, day), time.Hour)
			d := b.docs(ipEvent(ip1), ipEvent(ip2), ipEvent(ip2))
			assert.Equal(t, c.want, d[0].word("source.ip"))
			assert.Equal(t, "unavailable unknown", d[1].word("source.ip"))
			assert.Equal(t, "unavailable", d[1].at("global.status"))
			assert.Equal(t, 1, b.log.count(c.log))
		})
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		q := &fakeQuota{window: "minute", until: time.Now().Add(time.Minute)}
		b := newBench(t, enrich.Config{Wait: time.Second, QueueLength: 10}, source, q)
		defer b.close()
		for i := range 50 {
			assert.Equal(t, "quota unknown", b.doc(ipEvent(fmt.Sprintf("203.0.113.%d", i))).word("source.ip"))
			synctest.Wait() // what a worker has tried is back
		}
		assert.InDelta(t, 10, b.figure("vt_queue_length"), 0)
		q.grant(100)
		faketime.Pass(t, 3*time.Minute)
		synctest.Wait()
		assert.Len(t, source.asked(), 10)
	})
}

func TestTheQueueIsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		q := &fakeQuota{window: "minute", until: time.Now().Add(time.Minute)}
		b := newBench(t, enrich.Config{Wait: time.Second}, source, q)
		defer b.close()
		var events []string
		for i := range 700 { // of which 512 fit at most
			events = append(events, fmt.Sprintf(`{"url":{"full":"http://example.org/%d/%s"}}`, i, strings.Repeat("x", 8000)))
		}
		waiting := 0
		require.NoError(t, b.drain(context.Background(), batch(event.Unlimited{}, events...), func(p enrich.Portion) {
			waiting += bytes.Count(p.Lines.Buf, []byte(`"status":"quota"`))
		}))
		assert.Equal(t, len(events), waiting)
		synctest.Wait()
		assert.LessOrEqual(t, b.figure("vt_queue_length"), 600.0)
		assert.Greater(t, b.figure("vt_queue_length"), 400.0)
	})
}

func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		var events []string
		for i := range 50 {
			ip := fmt.Sprintf("203.0.113.%d", i)
			source.say(ip, reply{hold: make(chan struct{})}) // for ever
			events = append(events, ipEvent(ip))
		}
		b := newBench(t, enrich.Config{Wait: time.Hour}, source, nil)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, d := range b.docs(events...) {
				assert.Equal(t, "unavailable unknown", d.word("source.ip"))
			}
		}()
		synctest.Wait()
		b.close()
		<-done
		b.close() // again is nothing
	})
}

func TestTheEndOfTheContextIsTheEndOfTheBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		source.say(ip1, reply{answer: flagged(9, 0, day), after: time.Minute})
		b := newBench(t, enrich.Config{Wait: time.Hour}, source, nil)
		defer b.close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		budget := &fakeBudget{t: t}
		began := time.Now()
		_, err := b.run(ctx, batch(budget, ipEvent(ip1)))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(began))
		assert.Zero(t, budget.now())

		ctx, cancel = context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = b.run(ctx, batch(&fakeBudget{t: t, full: true}, ipEvent(ip1)))
		require.ErrorIs(t, err, context.DeadlineExceeded, "a budget that grants nothing")
	})
}

func TestIdentity(t *testing.T) {
	id := func(cfg enrich.Config, ev string) string {
		b := newBench(t, cfg, nil, nil)
		defer b.close()
		out, err := b.run(context.Background(), batch(event.Unlimited{}, ev))
		require.NoError(t, err)
		got := docOf(t, out.lines[0])["event_id"].(string)
		if !cfg.IDMetadata {
			assert.Equal(t, hex.EncodeToString(out.ids[0][:]), got)
		}
		return got
	}
	const placed = `{"log":{"file":{"path":"/x"},"offset":7},"message":"a","@metadata":{"_id":"mine"}}`
	const loose = `{"message":"a"}`
	assert.Equal(t, "mine", id(enrich.Config{IDMetadata: true}, placed))
	assert.Equal(t, id(enrich.Config{}, placed), id(enrich.Config{}, placed))
	assert.Regexp(t, "^[0-9a-f]{32}$", id(enrich.Config{}, placed))
	assert.NotEqual(t, id(enrich.Config{}, loose), id(enrich.Config{}, loose), "nothing tells that it is the same")
	assert.Equal(t, id(enrich.Config{IDFromContent: true}, loose), id(enrich.Config{IDFromContent: true}, loose))

	long := strings.Repeat("x", 513)
	withID := `{"@metadata":{"_id":"` + long + `"}}`
	assert.Regexp(t, "^[0-9a-f]{32}$", id(enrich.Config{IDMetadata: true}, withID))
	assert.Equal(t, id(enrich.Config{IDMetadata: true}, withID), id(enrich.Config{IDMetadata: true}, withID))
	assert.NotEqual(t, id(enrich.Config{IDMetadata: true}, withID), id(enrich.Config{IDMetadata: true}, strings.Replace(withID, "xx", "xy", 1)))
}

func TestRandomIdentitiesNeverRepeat(t *testing.T) {
	b := newBench(t, enrich.Config{}, nil, nil)
	defer b.close()
	events := make([]string, 1000)
	for i := range events {
		events[i] = `{"message":"a"}`
	}
	seen := map[event.ID]bool{}
	for range 3 {
		out, err := b.run(context.Background(), batch(event.Unlimited{}, events...))
		require.NoError(t, err)
		for _, id := range out.ids {
			assert.False(t, seen[id])
			seen[id] = true
		}
	}
}

func TestWhatCannotBeStoredGoesToTheDeadLetterAlone(t *testing.T) {
	b := newBench(t, enrich.Config{}, nil, nil)
	defer b.close()
	in := batch(&fakeBudget{t: t}, `{"a":1}`, `not json`, "{\"a\":\"\xff\"}", `[1]`, ``, `{"b":"`+strings.Repeat("x", 100_000), `{"c":3}`, `{"first":"bytes`, ``)
	in.Events[7].Oversize = &event.Oversize{Length: 1 << 30, SHA256: [32]byte{1}}
	in.Events[8].Oversize = &event.Oversize{}
	out, err := b.run(context.Background(), in)
	require.NoError(t, err)
	require.Len(t, out.lines, 2)
	require.Len(t, out.dead, 7)
	var reasons []string
	for _, d := range out.dead {
		reasons = append(reasons, d.Reason)
		assert.LessOrEqual(t, len(d.Event), 64<<10)
		assert.NotEmpty(t, d.Detail)
		assert.NotContains(t, d.Detail, "xxx")
		assert.Equal(t, d.SHA256 == "", d.Length == int64(len(d.Event)))
	}
	assert.Equal(t, []string{"malformed", "malformed", "malformed", "malformed", "malformed", "oversize", "malformed"}, reasons)
	assert.Equal(t, `{"first":"bytes`, string(out.dead[5].Event))
	assert.EqualValues(t, 1<<30, out.dead[5].Length)
	assert.Equal(t, "empty event", out.dead[6].Detail)
}

func TestIncomingVerdicts(t *testing.T) {
	const claim = `{"source":{"ip":"` + ip1 + `"},"arcanna":{"ioc":{"is_malicious":false},"own":1}}`
	source := newSource(t)
	source.say(ip1, reply{answer: flagged(9, 0, day)})
	b := newBench(t, enrich.Config{Wait: time.Minute}, source, nil)
	defer b.close()
	d := b.doc(claim)
	assert.Equal(t, true, d["is_malicious"])
	assert.InDelta(t, 1, b.figure("incoming_verdicts_removed_total"), 0)

	trusting := newBench(t, enrich.Config{TrustVerdicts: true}, newSource(t), nil)
	defer trusting.close()
	assert.Equal(t, doc{"is_malicious": false}, trusting.doc(claim))
	assert.Empty(t, trusting.source.asked())
	assert.Zero(t, trusting.figure("incoming_verdicts_removed_total"))
}

func TestAtMostSoManyIndicatorsOfAnEvent(t *testing.T) {
	source := newSource(t)
	b := newBench(t, enrich.Config{Wait: time.Minute, MaxValues: 5}, source, nil)
	defer b.close()
	var ips []string
	for i := range 30 {
		ips = append(ips, fmt.Sprintf("203.0.113.%d", i))
	}
	list, err := json.Marshal(ips)
	require.NoError(t, err)
	docs := b.docs(`{"source":{"ip":`+string(list)+`},"destination":{"ip":"203.0.113.2"},"message":"203.0.113.99 and 203.0.113.3"}`, ipEvent("203.0.113.20"))
	assert.Len(t, source.asked(), 6)
	d := docs[0]
	assert.InDelta(t, 30, d.at("source.ip.values_total"), 0)
	assert.Len(t, d.at("source.ip.values"), 20)
	assert.InDelta(t, 5, d.at("global.checked_count"), 0)
	assert.InDelta(t, 26, d.at("global.skipped_count"), 0)
	assert.Equal(t, "not_found unknown", d.word("destination.ip"), "it is one of the five")
	assert.Equal(t, "not_found unknown", d.word("message"))
	assert.Equal(t, "not_found unknown", docs[1].word("source.ip"), "another event has room for it")
}

func TestMetricsOfIndicators(t *testing.T) {
	source := newSource(t)
	source.say(ip1, reply{answer: flagged(9, 0, day)})
	b := newBench(t, enrich.Config{Wait: time.Minute}, source, nil)
	defer b.close()
	b.docs(ipEvent(ip1), ipEvent(ip1), ipEvent(ip2), ipEvent("10.0.0.1"))
	count := func(typ, result string) float64 { return b.figure("indicators_total", result, typ) }
	assert.InDelta(t, 2, count("ip", "malicious"), 0)
	assert.InDelta(t, 1, count("ip", "unknown"), 0)
	assert.InDelta(t, 1, count("ip", "none"), 0)
	assert.InDelta(t, 2, b.figure("cache_entries"), 0)
}

// The real quota, on disk: no more requests than it allows.
func TestWithTheRealQuota(t *testing.T) {
	now := time.Now()
	var later atomic.Int64
	clock := func() time.Time { return now.Add(time.Duration(later.Load())) }
	q, err := quota.Open(filepath.Join(t.TempDir(), "quota"), quota.Limits{Minute: 2, Day: 100}, clock)
	require.NoError(t, err)
	defer func() { require.NoError(t, q.Close()) }()
	source := newSource(t)
	b := newBench(t, enrich.Config{Wait: time.Minute, Workers: 1}, source, q)
	defer b.close()
	docs := b.docs(ipEvent(ip1), ipEvent(ip2), ipEvent(ip3))
	assert.Equal(t, "not_found unknown", docs[0].word("source.ip"))
	assert.Equal(t, "not_found unknown", docs[1].word("source.ip"))
	assert.Equal(t, "quota unknown", docs[2].word("source.ip"))
	assert.Len(t, source.asked(), 2)
	assert.Equal(t, map[string]int{"minute": 0, "day": 98}, left(t, b))
	// What time gives back is seen without a request.
	later.Store(int64(24 * time.Hour))
	assert.Equal(t, map[string]int{"minute": 2, "day": 100}, left(t, b))
}

// left is what vtsidecar_vt_quota_remaining says.
func left(t *testing.T, b *bench) map[string]int {
	t.Helper()
	families, err := b.metrics.Registry.Gather()
	require.NoError(t, err)
	out := map[string]int{}
	for _, f := range families {
		if f.GetName() == "vtsidecar_vt_quota_remaining" {
			for _, m := range f.GetMetric() {
				out[m.GetLabel()[0].GetValue()] = int(m.GetGauge().GetValue())
			}
		}
	}
	return out
}

func TestSettingsThatMakeNoSense(t *testing.T) {
	parser, err := indicator.NewParser(indicator.Config{})
	require.NoError(t, err)
	answers := cache.New[*enrich.Answer](cache.Config{MaxEntries: 1})
	for _, cfg := range []enrich.Config{
		{Details: "some"},
		{Fields: specs("a:ip=source", "b:ip=source.ip")},
		{Fields: specs("a:ip=global.x")},
		{Fields: specs("a:ip=x..y")},
	} {
		_, err := enrich.New(cfg, parser, answers, nil, nil)
		require.Error(t, err)
	}
	_, err = enrich.New(enrich.Config{}, nil, answers, nil, nil)
	require.Error(t, err)
	_, err = enrich.New(enrich.Config{}, parser, nil, newSource(t), nil)
	require.Error(t, err)
}

// Whatever stands in events: one line of JSON each, and words that agree.
func TestWordsAgree(t *testing.T) {
	source := newSource(t)
	replies := []reply{
		{answer: flagged(9, 0, day)}, {answer: flagged(9, 0, 200*day)}, {answer: flagged(1, 1, day)}, {answer: flagged(0, 0, day)},
		{answer: flagged(0, 0, 200*day)}, {}, {err: failure(enrich.Unanswerable, 0)}, {answer: &enrich.Answer{Found: true}},
	}
	for i := range 64 {
		source.say(fmt.Sprintf("203.0.113.%d", i), replies[i%len(replies)])
	}
	b := newBench(t, enrich.Config{Wait: time.Minute, Details: enrich.DetailsAll}, source, nil)
	defer b.close()
	worse := map[any]int{"none": 0, "harmless": 1, "unknown": 2, "pending": 3, "suspicious": 4, "malicious": 5}
	random := make([]byte, 4000)
	_, err := rand.Read(random)
	require.NoError(t, err)
	var events []string
	for i := 0; i+8 <= len(random); i += 8 {
		r := random[i:]
		var ips []string
		for _, c := range r[1 : 1+r[0]%6] {
			ips = append(ips, fmt.Sprintf(`"203.0.113.%d"`, c%64))
		}
		events = append(events, fmt.Sprintf(`{"source":{"ip":[%s]},"destination.ip":"203.0.113.%d","message":"10.0.0.1 \u00e9\\"}`, strings.Join(ips, ","), r[7]%64))
	}
	for i, d := range b.docs(events...) {
		worst := 0
		var parts []any
		for _, name := range []string{"source.ip", "destination.ip", "message"} {
			if p := d.at(name); p != nil {
				parts = append(parts, p)
				worst = max(worst, worse[d.at(name+".result")])
				said := d.at(name + ".is_malicious")
				switch d.at(name + ".result") {
				case "malicious":
					assert.Equal(t, true, said)
				case "suspicious", "harmless":
					assert.Contains(t, []any{false, nil}, said)
				default:
					assert.Nil(t, said)
				}
			}
		}
		require.NotEmpty(t, parts)
		assert.Equal(t, worst, worse[d.at("global.result")], events[i])
		said := d["is_malicious"]
		assert.Equal(t, said, d.at("global.is_malicious"))
		switch d.at("global.result") {
		case "malicious":
			assert.Equal(t, true, said)
		case "suspicious", "harmless":
			assert.Equal(t, false, said, "all were answered")
		default:
			assert.Nil(t, said)
		}
	}
}

// With one request left, whoever stands behind it does not wait for it.
func TestNobodyWaitsForQuotaThatAnotherTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		q := &fakeQuota{window: "minute", left: 1, until: time.Now().Add(time.Minute)}
		source.say(ip1, reply{answer: flagged(9, 0, day), after: 1500 * time.Millisecond})
		b := newBench(t, enrich.Config{Wait: 2 * time.Second, Workers: 1}, source, q)
		defer b.close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			assert.Equal(t, "found malicious", b.doc(ipEvent(ip1)).word("source.ip"))
		}()
		synctest.Wait()
		began := time.Now()
		assert.Equal(t, "quota unknown", b.doc(ipEvent(ip2)).word("source.ip"))
		assert.Zero(t, time.Since(began))
		<-done
	})
}

// Thresholds are applied when an answer is read, so that one cache serves any.
func TestRules(t *testing.T) {
	few := flagged(6, 0, day)
	few.Engines = few.Engines[:9]
	undated := flagged(9, 0, day)
	undated.LastAnalysis = time.Time{}
	benign := flagged(30, 0, day)
	benign.Assessment = "benign"
	future := flagged(0, 0, -10*day)
	cases := []struct {
		name   string
		rules  enrich.Rules
		answer *enrich.Answer
		want   string
		total  int
	}{
		{"five are malicious", enrich.Rules{}, flagged(5, 0, day), "malicious", 90},
		{"four are suspicious", enrich.Rules{}, flagged(4, 0, day), "suspicious", 90},
		{"one suspicious and one malicious", enrich.Rules{}, flagged(1, 1, day), "suspicious", 90},
		{"one is harmless on an address", enrich.Rules{}, flagged(1, 0, day), "harmless", 90},
		{"own threshold", enrich.Rules{Malicious: enrich.PerType[int]{IP: 1}}, flagged(1, 0, day), "malicious", 90},
		{"threshold of another type", enrich.Rules{Malicious: enrich.PerType[int]{Hash: 1}}, flagged(1, 0, day), "harmless", 90},
		{"own threshold of suspicion", enrich.Rules{Suspicious: enrich.PerType[int]{IP: 4}}, flagged(3, 0, day), "harmless", 90},
		{"ignored engines", enrich.Rules{EnginesIgnore: []string{"engine00", "ENGINE01"}}, flagged(6, 0, day), "suspicious", 88},
		{"chosen engines", enrich.Rules{Engines: []string{"Engine00", "Engine89"}, Malicious: enrich.PerType[int]{IP: 1}}, flagged(1, 0, day), "malicious", 2},
		{"chosen engines that are silent", enrich.Rules{Engines: []string{"Other"}}, flagged(9, 0, day), "unknown", 0},
		{"too few engines", enrich.Rules{}, few, "unknown", 9},
		{"no date", enrich.Rules{}, undated, "suspicious", 90},
		{"benign by assessment", enrich.Rules{}, benign, "harmless", 90},
		{"from the future", enrich.Rules{}, future, "harmless", 90},
		{"at the limit of age", enrich.Rules{}, flagged(0, 0, 90*day-time.Minute), "harmless", 90},
		{"beyond it", enrich.Rules{}, flagged(0, 0, 90*day+time.Minute), "unknown", 90},
		{"beyond it and suspicious", enrich.Rules{}, flagged(1, 1, 91*day), "suspicious", 90},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			// Others have read the same answer by other rules.
			other := newBench(t, enrich.Config{Rules: enrich.Rules{Engines: []string{"Engine03"}}}, nil, nil)
			defer other.close()
			other.answers.Set("ip:"+ip1, c.answer, time.Hour)
			other.doc(ipEvent(ip1))

			b := newBench(t, enrich.Config{Rules: c.rules}, nil, nil)
			defer b.close()
			b.answers.Set("ip:"+ip1, c.answer, time.Hour)
			for range 2 {
				d := b.doc(ipEvent(ip1))
				assert.Equal(t, c.want, d.at("source.ip.result"))
				assert.InDelta(t, c.total, d.at("source.ip.engines_total"), 0)
			}
		})
	}
}

// Of two requests at a time the first is told that the day's quota is used up,
// and the second still gets its answer: nobody waits for the first then.
func TestNobodyWaitsForARequestThatWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		source.say(ip1, reply{err: failure(enrich.Exhausted, 20*time.Hour), after: 100 * time.Millisecond})
		source.say(ip2, reply{answer: flagged(9, 0, day), after: 200 * time.Millisecond})
		b := newBench(t, enrich.Config{Wait: 2 * time.Second, Workers: 2}, source, &fakeQuota{window: "day", left: 100})
		defer b.close()
		docs := b.docs(ipEvent(ip1), ipEvent(ip2))
		assert.Equal(t, "quota unknown", docs[0].word("source.ip"))
		assert.Equal(t, "found malicious", docs[1].word("source.ip"))
		began := time.Now()
		assert.Equal(t, "quota unknown", b.doc(ipEvent(ip1)).word("source.ip"))
		assert.Zero(t, time.Since(began))
	})
}

// Both are told that the day's quota is used up: the second says nothing new of
// the quota, and its batch waits for it no longer all the same.
func TestNobodyWaitsForTheSecondRequestThatWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		told := failure(enrich.Exhausted, 20*time.Hour)
		source.say(ip1, reply{err: told, after: 100 * time.Millisecond})
		source.say(ip2, reply{err: told, after: 200 * time.Millisecond})
		b := newBench(t, enrich.Config{Wait: 2 * time.Second, Workers: 2}, source, &fakeQuota{window: "day", left: 100})
		defer b.close()
		began := time.Now()
		for _, d := range b.docs(ipEvent(ip1), ipEvent(ip2)) {
			assert.Equal(t, "quota unknown", d.word("source.ip"))
		}
		assert.Equal(t, 200*time.Millisecond, time.Since(began))
		assert.Equal(t, 1, b.log.count("quota is used up"))
	})
}

// How long the queue is counts when it matters, not when the batch began to
// wait: the queue has moved on since.
func TestTheQueueMovesOnWhileABatchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		ip := func(i int) string { return fmt.Sprintf("203.0.113.%d", i) }
		for i := range 100 {
			source.say(ip(i), reply{answer: flagged(9, 0, day), after: 100 * time.Millisecond})
		}
		b := newBench(t, enrich.Config{Wait: 2 * time.Second, Workers: 1}, source, nil)
		defer b.close()
		b.doc(ipEvent(ip(99))) // learns how long a request takes
		var others []string
		for i := range 15 {
			others = append(others, ipEvent(ip(i)))
		}
		done := make(chan struct{})
		go func() { defer close(done); b.docs(others...) }()
		synctest.Wait()
		docs := b.docs(ipEvent(ip(13)), ipEvent(ip(50))) // answered after 1.4 s and 1.6 s
		assert.Equal(t, "found malicious", docs[0].word("source.ip"))
		assert.Equal(t, "found malicious", docs[1].word("source.ip"))
		<-done
	})
}

// What seemed hopeless at first and came while the batch waited for something
// else is not thrown away.
func TestAnAnswerThatComesSoonerThanExpected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		ip := func(i int) string { return fmt.Sprintf("203.0.113.%d", i) }
		source.say(ip(99), reply{answer: flagged(9, 0, day), after: 5 * time.Second})
		source.say(ip(0), reply{answer: flagged(9, 0, day), after: 1500 * time.Millisecond})
		var others []string
		for i := range 8 {
			if i > 0 {
				source.say(ip(i), reply{answer: flagged(9, 0, day), after: 100 * time.Millisecond})
			}
			others = append(others, ipEvent(ip(i)))
		}
		b := newBench(t, enrich.Config{Wait: 6 * time.Second, Workers: 2}, source, nil)
		defer b.close()
		b.doc(ipEvent(ip(99))) // learns that a request takes five seconds
		done := make(chan struct{})
		go func() { defer close(done); b.docs(others...) }()
		synctest.Wait()
		began := time.Now()
		docs := b.docs(ipEvent(ip(7)), ipEvent(ip(0))) // the first would have to wait for two times five seconds
		assert.Equal(t, "found malicious", docs[0].word("source.ip"))
		assert.Equal(t, "found malicious", docs[1].word("source.ip"))
		assert.Equal(t, 1500*time.Millisecond, time.Since(began))
		<-done
	})
}
