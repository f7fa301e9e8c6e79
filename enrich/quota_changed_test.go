package enrich_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"vtsidecar/enrich"
)

// What waits for tomorrow's quota goes on at once when the account turns out to
// allow more, and the log tells of one pause only.
func TestQuotaChangedWakesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		tomorrow := time.Now().Add(24 * time.Hour)
		q := &fakeQuota{window: "day", until: tomorrow}
		source.quota = q
		source.say(ip1, reply{answer: flagged(9, 0, day)})
		b := newBench(t, enrich.Config{Wait: time.Second, Workers: 2}, source, q)
		defer b.close()
		assert.Equal(t, "quota unknown", b.doc(ipEvent(ip1)).word("source.ip"))
		for range 3 {
			b.QuotaChanged() // and it has not become more
			synctest.Wait()
		}
		assert.Empty(t, source.asked())
		assert.Equal(t, 1, b.log.count("quota is used up"))

		q.grant(1)
		b.QuotaChanged()
		synctest.Wait()
		assert.Equal(t, []string{ip1}, source.asked())
		assert.Equal(t, 1, b.log.count("there is quota again"))
		assert.Equal(t, "found malicious", b.doc(ipEvent(ip1)).word("source.ip"))
		assert.Zero(t, b.figure(`vt_quota_remaining{window="day"}`))
	})
}

// changingQuota changes between its answer and the queue's look at it, once.
type changingQuota struct {
	*fakeQuota
	change func()
}

func (q *changingQuota) Take() (bool, time.Time, string, error) {
	ok, until, window, err := q.fakeQuota.Take()
	if !ok && q.change != nil {
		q.change()
		q.change = nil
	}
	return ok, until, window, err
}

// An answer that is out of date when it arrives puts nothing off until tomorrow.
func TestQuotaChangedWhileItIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		q := &changingQuota{fakeQuota: &fakeQuota{window: "day", until: time.Now().Add(24 * time.Hour)}}
		source.quota = q.fakeQuota
		source.say(ip1, reply{answer: flagged(9, 0, day)})
		begin := make(chan struct{})
		b := newBench(t, enrich.Config{Wait: time.Second, Workers: 1, Begin: begin}, source, q)
		defer b.close()
		q.change = func() {
			q.grant(1)
			b.QuotaChanged()
		}
		close(begin)
		began := time.Now()
		b.doc(ipEvent(ip1))
		synctest.Wait()
		assert.Equal(t, []string{ip1}, source.asked())
		assert.Zero(t, time.Since(began))
		assert.Zero(t, b.log.count("quota is used up"))
	})
}

// Nobody judges by limits that are still being read.
func TestABatchWaitsForTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		q := &fakeQuota{window: "minute", left: 1, until: time.Now().Add(time.Minute)}
		var events []string
		for i := range 20 {
			ip := fmt.Sprintf("203.0.113.%d", i)
			source.say(ip, reply{answer: flagged(9, 0, day)})
			events = append(events, ipEvent(ip))
		}
		begin := make(chan struct{})
		b := newBench(t, enrich.Config{Wait: 2 * time.Second, Begin: begin}, source, q)
		defer b.close()
		began := time.Now()
		known := time.AfterFunc(100*time.Millisecond, func() {
			assert.Empty(t, source.asked())
			q.grant(100)
			close(begin)
			b.QuotaChanged()
		})
		defer known.Stop()
		for _, d := range b.docs(events...) {
			assert.Equal(t, "found malicious", d.word("source.ip"))
		}
		assert.Equal(t, 100*time.Millisecond, time.Since(began))
	})
}

func TestCloseBeforeTheLimitsAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t)
		b := newBench(t, enrich.Config{Wait: time.Second, Begin: make(chan struct{})}, source, nil)
		began := time.Now()
		assert.Equal(t, "pending unknown", b.doc(ipEvent(ip1)).word("source.ip"))
		assert.Equal(t, time.Second, time.Since(began), "vt.wait holds all the same")
		b.close()
		assert.Empty(t, source.asked())
	})
}
