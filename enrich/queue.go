package enrich

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"vtsidecar/cache"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/quota"
	"vtsidecar/internal/metrics"
)

// Quota counts requests before they are made. *quota.Quota is one. It is larger
// than an interface should be: what is taken, what the source says of it and what
// is left are one count.
type Quota interface {
	// Take counts one request, durably. Where none is left, ok is false and
	// until says when one may be. With an error nothing was granted.
	Take() (ok bool, until time.Time, window string, err error)
	// Spent records that the source says a window is used up until then.
	Spent(window string, until time.Time) error
	// Left is how many requests remain in each limited window.
	Left() map[string]int
}

const (
	queueBytes   = 4 << 20 // most bytes of indicators in the queue
	breakAfter   = 3       // failures in a row that open the breaker
	breakFirst   = time.Second
	breakMost    = time.Minute
	probeEvery   = time.Hour        // of a refused key, where the source names no time
	pauseDefault = time.Minute      // of a pause without an end
	retryQuota   = 10 * time.Second // after the counts could not be saved
	lookAgain    = time.Minute      // longest sleep in a pause: the clock may be set meanwhile
	shortAnswer  = 10 * time.Minute // lifetime of what the source takes for no indicator
	calmAfter    = 10 * time.Minute // without a pause that the source wanted, before their end is told; until then all are told of once
)

var (
	errFull   = errors.New("the look-up queue is full")
	errClosed = errors.New("look-ups have ended")
)

// request is one indicator that waits for its look-up, or is being looked up.
type request struct {
	ind    Indicator
	key    string // in the cache
	flight *cache.Flight[*Answer]
	seq    uint64 // place in the order of arrival
	waits  bool   // no worker has it; guarded by queue.mu
	probe  bool   // the one request that tries whether the source is well again; its worker's
}

func (r *request) size() int { return len(r.ind.Value) + len(r.key) + 128 }

// sickness is why no request is made although there is quota.
type sickness uint8

const (
	well      sickness = iota
	failing            // several failures in a row: the breaker is open
	refused            // the key is not accepted
	uncounted          // the quota cannot be saved
)

// queue is the lookup queue: requests in order of arrival, taken by a few
// workers, as far as quota and the source's health allow. A request stays in it
// until it is answered, even when nobody waits any more: its answer fills the
// cache.
type queue struct {
	source  Source
	quota   Quota
	answers *cache.Cache[*Answer]
	judge   *judge
	life    lifetimes
	now     func() time.Time
	log     *slog.Logger
	metrics *metrics.Set
	most    int // requests that may wait
	workers int
	begin   <-chan struct{} // no request before it is closed; nil: at once

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	done   sync.WaitGroup

	turn chan struct{} // held by the worker that gets the next request

	mu      sync.Mutex
	cond    *sync.Cond          // a worker may find something to do; with mu
	waiting fifo                // guarded by mu, as all that follows
	byKey   map[string]*request // waiting and being looked up
	bytes   int                 // of the waiting
	arrived uint64              // requests that ever came
	taken   uint64              // of these, how many are no longer waiting
	closed  bool

	spentUntil time.Time // no quota before
	quotas     uint64    // how often the quota has changed
	saidWindow string    // of the pause that the log told of; empty: of none
	saidUntil  time.Time // the same
	pausedAt   time.Time // when the source last wanted a pause of its minute; zero: that is over, and the log told so
	sick       sickness
	sickUntil  time.Time
	probing    bool          // one worker tries
	failures   int           // in a row
	backoff    time.Duration // of the breaker
	took       time.Duration // a request's usual duration
	changed    chan struct{} // closed and replaced when the outlook gets worse
	alarm      *time.Timer   // wakes the workers when a pause is over
}

// lifetimes of answers in the cache.
type lifetimes struct{ answer, malicious, notFound time.Duration }

// start starts the workers of a queue whose first block of fields is set.
func (q *queue) start() {
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.cond = sync.NewCond(&q.mu)
	q.turn = make(chan struct{}, 1)
	q.byKey = make(map[string]*request)
	q.changed = make(chan struct{})
	if q.begin == nil {
		begin := make(chan struct{})
		close(begin)
		q.begin = begin
	}
	q.done.Add(q.workers)
	for range q.workers {
		go q.work()
	}
	if q.quota != nil {
		q.metrics.VTQuotaRemaining.From(q.quota.Left)
	}
}

// close ends all that waits and the workers. It returns early with ctx.
func (q *queue) close(ctx context.Context) error {
	q.mu.Lock()
	q.closed = true
	if q.alarm != nil {
		q.alarm.Stop()
	}
	var left []*request
	for r := q.waiting.pop(); r != nil; r = q.waiting.pop() {
		delete(q.byKey, r.key)
		left = append(left, r)
	}
	q.bytes = 0
	q.worse()
	q.cond.Broadcast()
	q.mu.Unlock()
	q.cancel()
	for _, r := range left {
		r.flight.Finish(nil, errClosed)
	}
	ended := make(chan struct{})
	go func() { q.done.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("look-ups in flight: %w", ctx.Err())
	}
}

// ask brings an indicator into the queue, unless it is there already, and
// returns its flight. joined: someone else had asked. A fresh answer that came
// meanwhile is in the flight at once.
func (q *queue) ask(ind Indicator, key string) (f *cache.Flight[*Answer], joined bool) {
	f, leader := q.answers.Join(key)
	if !leader {
		return f, true
	}
	// Between the caller's look into the cache and now another flight may have ended.
	if a, fresh, ok := q.answers.Get([]byte(key), q.now()); ok && fresh {
		f.Finish(a, nil)
		return f, true
	}
	r := &request{ind: ind, key: key, flight: f}
	q.mu.Lock()
	var err error
	switch {
	case q.closed:
		err = errClosed
	case q.sick == refused && q.now().Before(q.sickUntil):
		err = &LookupError{Decision: Refused, Until: q.sickUntil, Reason: "key refused"}
	case q.waiting.len() >= q.most || q.bytes+r.size() > queueBytes:
		err = errFull
	default:
		r.seq = q.arrived
		q.arrived++
		r.waits = true
		q.waiting.push(r)
		q.byKey[key] = r
		q.bytes += r.size()
		q.metrics.VTQueueLength.Set(float64(q.waiting.len()))
		q.cond.Signal()
	}
	q.mu.Unlock()
	if err != nil {
		f.Finish(nil, err)
	}
	return f, false
}

// outlook is what can be hoped for at one moment.
type outlook struct {
	status  status          // what an indicator is for which nobody should wait
	until   time.Time       // no request before; zero: they are being made
	room    int             // how many requests there is quota for; negative: no limit
	taken   uint64          // as queue.taken
	took    time.Duration   // as queue.took
	changed <-chan struct{} // closed when it has got worse
}

// look returns the outlook.
func (q *queue) look() outlook {
	room := q.room()
	q.mu.Lock()
	defer q.mu.Unlock()
	o := outlook{status: statusPending, room: room, taken: q.taken, took: q.took, changed: q.changed}
	switch now := q.now(); {
	case q.closed || q.sick != well:
		// Also while one request tries the source: it may hang, and not every
		// batch should wait for that.
		o.status, o.until = statusUnavailable, forever
	case now.Before(q.spentUntil):
		o.status, o.until = statusQuota, q.spentUntil
	}
	return o
}

// forever is later than any deadline.
var forever = time.Unix(1<<40, 0)

// hopeless says that nothing can be answered within left: the queue is full,
// before left is over there is no quota, and no request is under way. An
// attacker's or a busy day's unknown values then cost nothing further.
func (q *queue) hopeless(left time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sick == well && !q.closed && q.waiting.len() >= q.most && q.waiting.len() == len(q.byKey) && q.spentUntil.Sub(q.now()) > left
}

// place is where key's request stands: in the order of arrival, and behind how
// many others now. Not waiting: it is being looked up, or was.
func (q *queue) place(key string) (seq uint64, ahead int, waiting bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.byKey[key]
	if r == nil || !r.waits {
		return 0, 0, false
	}
	return r.seq, int(r.seq - min(r.seq, q.taken)), true
}

// room is how many requests there is quota for; negative: no limit.
func (q *queue) room() int {
	if q.quota == nil {
		return -1
	}
	select {
	case <-q.begin:
	default:
		return -1 // the limits are not known yet
	}
	n := -1
	for _, left := range q.quota.Left() {
		if n < 0 || left < n {
			n = left
		}
	}
	return n
}

// quotaChanged makes the workers ask the quota again, whatever it said last.
func (q *queue) quotaChanged() {
	if q.quota == nil {
		return
	}
	q.mu.Lock()
	q.quotas++
	q.spentUntil = time.Time{}
	q.worse() // or better: whoever waits looks again
	q.cond.Broadcast()
	q.mu.Unlock()
}

// work is a worker.
func (q *queue) work() {
	defer q.done.Done()
	select {
	case <-q.begin:
	case <-q.ctx.Done():
		return
	}
	for {
		q.turn <- struct{}{} // so that quota goes to requests in their order
		r := q.next()
		granted := r != nil && q.take(r)
		<-q.turn
		if r == nil {
			return
		}
		if granted {
			q.lookup(r)
		}
	}
}

// next waits for a request that may be made.
func (q *queue) next() *request {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.closed {
			return nil
		}
		if q.waiting.len() > 0 && q.admit() {
			r := q.waiting.pop()
			r.waits = false
			r.probe = q.probing && q.sick != well
			q.taken++
			q.bytes -= r.size()
			q.metrics.VTQueueLength.Set(float64(q.waiting.len()))
			return r
		}
		q.cond.Wait()
	}
}

// admit says whether a request may be made now, as far as is known. Of a sick
// source it admits one, to try. With mu.
func (q *queue) admit() bool {
	now := q.now()
	if now.Before(q.spentUntil) {
		q.wakeAt(q.spentUntil, now)
		return false
	}
	if q.sick == well {
		return true
	}
	if q.probing {
		return false
	}
	if now.Before(q.sickUntil) {
		q.wakeAt(q.sickUntil, now)
		return false
	}
	q.probing = true
	return true
}

// wakeAt wakes the workers at t, or somewhat before, to look again. With mu.
func (q *queue) wakeAt(t, now time.Time) {
	d := min(max(t.Sub(now), time.Millisecond), lookAgain)
	if q.alarm == nil {
		q.alarm = time.AfterFunc(d, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.cond.Broadcast()
		})
		return
	}
	q.alarm.Reset(d)
}

// worse tells all that wait to look again. With mu.
func (q *queue) worse() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// back puts a request that was not answered where it came from. With mu.
func (q *queue) back(r *request) {
	if r.probe {
		r.probe, q.probing = false, false
	}
	q.taken--
	r.waits = true
	q.waiting.unpop(r)
	q.bytes += r.size()
	q.metrics.VTQueueLength.Set(float64(q.waiting.len()))
}

// take counts the request. Where it may not be made it goes back.
func (q *queue) take(r *request) bool {
	if q.quota == nil {
		return true
	}
	q.mu.Lock()
	quotas := q.quotas
	q.mu.Unlock()
	ok, until, window, err := q.quota.Take()
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	if ok {
		if q.saidWindow != "" && !now.Before(q.spentUntil) {
			q.log.Info("look-ups go on: there is quota again", "source", q.source.Name())
			q.saidWindow = ""
		}
		return true
	}
	if q.closed {
		q.drop(r)
		return false
	}
	if err != nil {
		if q.sick != uncounted {
			q.log.Error("look-ups stop: they cannot be counted on disk", "source", q.source.Name(), "error", err)
		}
		q.back(r)
		q.sick, q.sickUntil = uncounted, now.Add(retryQuota)
		q.worse()
		q.cond.Signal()
		return false
	}
	if !until.After(now) {
		until = now.Add(time.Second) // a quota that cannot say when must not be asked in a loop
	}
	q.back(r)
	if quotas != q.quotas { // what it said is no longer so
		q.cond.Signal()
		return false
	}
	q.spend(window, until)
	return false
}

// drop ends a request of a closed queue. With mu.
func (q *queue) drop(r *request) {
	delete(q.byKey, r.key)
	r.flight.Finish(nil, errClosed)
}

// spend stops requests until a window begins anew. With mu.
func (q *queue) spend(window string, until time.Time) {
	if !until.After(q.spentUntil) {
		q.worse() // a request went back, for which somebody may wait
		q.cond.Signal()
		return
	}
	// Our own minutes and hours come and go all the time.
	if (window == quota.Day || window == quota.Month) && (window != q.saidWindow || !until.Equal(q.saidUntil)) {
		q.log.Warn("look-ups pause: the quota is used up", "source", q.source.Name(), "window", window, "until", until.UTC().Format(time.RFC3339))
		q.saidWindow, q.saidUntil = window, until
	}
	q.spentUntil = until
	q.worse()
	q.cond.Signal() // so that some worker sets the alarm
}

// lookup makes one request and draws the conclusions.
func (q *queue) lookup(r *request) {
	began := time.Now()
	a, err := q.call(r.ind)
	if err == nil {
		err = sound(r.ind, a)
	}
	var failed *LookupError
	switch {
	case err == nil:
		q.store(r, a)
		q.recovered(r, time.Since(began))
		q.finish(r, a, nil)
		return
	case q.ctx.Err() != nil:
		q.finish(r, nil, errClosed)
		return
	case !errors.As(err, &failed):
		failed = &LookupError{Decision: Retry, Reason: "unexpected error"}
	}

	switch failed.Decision {
	case Unanswerable:
		a := &Answer{FetchedAt: q.now()}
		q.answers.Set(r.key, a, min(shortAnswer, q.life.notFound))
		q.recovered(r, time.Since(began))
		q.finish(r, a, nil)
	case PauseMinute, Exhausted:
		q.exhausted(r, failed)
	case Refused:
		q.refuse(r, failed)
		q.finish(r, nil, failed)
	default:
		q.failed(r, failed)
		q.finish(r, nil, failed)
	}
}

// call asks the source. A source that panics has failed.
func (q *queue) call(ind Indicator) (a *Answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			q.log.Error("a look-up panicked", "source", q.source.Name(), "stack", string(debug.Stack()))
			a, err = nil, &LookupError{Decision: Retry, Reason: "panic"}
		}
	}()
	return q.source.Lookup(q.ctx, ind)
}

// sound refuses an answer that is none, or one about another file.
func sound(ind Indicator, a *Answer) error {
	if a == nil {
		return &LookupError{Decision: Retry, Reason: "no answer"}
	}
	if ind.Type != indicator.Hash || !a.Found {
		return nil
	}
	for _, h := range [...]string{a.MD5, a.SHA1, a.SHA256} {
		if len(h) == len(ind.Value) && isHex(h) && !strings.EqualFold(h, ind.Value) {
			return &LookupError{Decision: Retry, Reason: "an answer about another file"}
		}
	}
	return nil
}

// store keeps an answer. A file's stands under the hashes that the answer
// names: that two hashes belong to one file is known from there alone. The one
// that was asked for is added, since the source has answered about it.
func (q *queue) store(r *request, a *Answer) {
	if !a.Found {
		q.answers.Set(r.key, a, q.life.notFound)
		return
	}
	life := q.life.answer
	if q.judge.verdict(a, r.ind.Type, q.now()).result == resultMalicious {
		life = q.life.malicious
	}
	q.answers.Set(r.key, a, life)
	if r.ind.Type != indicator.Hash {
		return
	}
	for n, h := range map[int]string{32: a.MD5, 40: a.SHA1, 64: a.SHA256} {
		if len(h) == n && n != len(r.ind.Value) && isHex(h) {
			q.answers.Set(string(appendKey(nil, indicator.Hash, strings.ToLower(h))), a, life)
		}
	}
}

// finish ends the request.
func (q *queue) finish(r *request, a *Answer, err error) {
	q.mu.Lock()
	delete(q.byKey, r.key)
	q.mu.Unlock()
	q.metrics.CacheEntries.Set(float64(q.answers.Len()))
	r.flight.Finish(a, err)
}

// recovered: the source has answered.
func (q *queue) recovered(r *request, took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.took == 0 {
		q.took = took
	}
	q.took += (took - q.took) / 8
	q.failures = 0
	if !q.pausedAt.IsZero() && q.now().Sub(q.pausedAt) >= calmAfter {
		q.log.Info("look-ups go on: the source wants no more pauses", "source", q.source.Name())
		q.pausedAt = time.Time{}
	}
	if r.probe {
		r.probe, q.probing = false, false
		q.sick, q.backoff = well, 0
		q.log.Info("look-ups go on: the source answers", "source", q.source.Name())
		q.cond.Broadcast()
	}
}

// failed: a passing fault. Several in a row open the breaker.
func (q *queue) failed(r *request, e *LookupError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failures++
	switch {
	case r.probe:
		r.probe, q.probing = false, false
	case q.sick != well || q.failures < breakAfter:
		return // others said so already, or it may be chance
	}
	if q.sick == refused {
		q.sickUntil = q.now().Add(breakMost) // still refused, as far as is known
		q.cond.Signal()
		return
	}
	if q.sick != failing {
		q.log.Warn("look-ups pause: the source does not answer", "source", q.source.Name(), "reason", e.Reason)
	}
	q.backoff = min(max(2*q.backoff, breakFirst), breakMost)
	jitter := time.Duration(rand.Int64N(int64(q.backoff / 4)))
	q.sick, q.sickUntil = failing, q.now().Add(q.backoff-jitter)
	q.worse()
	q.cond.Signal()
}

// refuse: the key is wrong or not allowed.
func (q *queue) refuse(r *request, e *LookupError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.probe {
		r.probe, q.probing = false, false
	}
	now := q.now()
	if q.sick != refused {
		q.log.Error("look-ups stop: the source refuses the key", "source", q.source.Name(), "reason", e.Reason)
	}
	q.sick, q.sickUntil = refused, e.Until
	if !e.Until.After(now) {
		q.sickUntil = now.Add(probeEvery)
	}
	q.worse()
	q.cond.Signal()
}

// exhausted: the source says that its quota is used up. The request goes back
// and waits for its turn.
func (q *queue) exhausted(r *request, e *LookupError) {
	now := q.now()
	window, until := quota.Minute, e.Until
	if !until.After(now) {
		until = now.Add(pauseDefault)
	}
	if e.Decision == Exhausted {
		window = quota.Day
		if y, m, d := now.UTC().Date(); until.After(time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC)) {
			window = quota.Month
		}
	}
	var err error
	if q.quota != nil {
		err = q.quota.Spent(window, until)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil && !until.Equal(q.spentUntil) {
		q.log.Warn("the quota could not be saved", "source", q.source.Name(), "error", err)
	}
	q.failures = 0
	if r.probe { // it has answered, if only this
		q.sick, q.backoff = well, 0
	}
	if e.Decision == PauseMinute {
		if q.pausedAt.IsZero() || now.Sub(q.pausedAt) >= calmAfter {
			q.log.Warn("look-ups pause: the source takes fewer requests in a minute than are made", "source", q.source.Name(), "until", until.UTC().Format(time.RFC3339))
		}
		q.pausedAt = now
	}
	if q.closed {
		q.drop(r)
		return
	}
	q.back(r)
	q.spend(window, until)
	q.cond.Broadcast()
}

// fifo is a queue of requests that reuses its memory.
type fifo struct {
	items []*request // from head on
	head  int
}

func (f *fifo) len() int { return len(f.items) - f.head }

func (f *fifo) push(r *request) {
	if f.head > 64 && f.head > len(f.items)/2 {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, r)
}

func (f *fifo) pop() *request {
	if f.len() == 0 {
		return nil
	}
	r := f.items[f.head]
	f.items[f.head] = nil
	f.head++
	return r
}

// unpop puts r in front.
func (f *fifo) unpop(r *request) {
	if f.head == 0 {
		f.items = append(f.items, nil)
		copy(f.items[1:], f.items)
		f.items[0] = r
		return
	}
	f.head--
	f.items[f.head] = r
}

// appendKey appends the cache's key of an indicator. A long one, which only
// URLs are, is named by its digest, so that the cache's memory stays bounded.
func appendKey[S string | []byte](dst []byte, t indicator.Type, value S) []byte {
	dst = append(append(dst, t.String()...), ':')
	if len(value) > 256 {
		sum := sha256.Sum256([]byte(value))
		return hex.AppendEncode(append(dst, "sha256:"...), sum[:])
	}
	return append(dst, value...)
}

func isHex(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}
