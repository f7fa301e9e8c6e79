// Package quota counts requests against the limits of a minute, a day and a
// month.
//
// Promise: no request is made that is not already on disk as made, so a
// restart, a crash or a power cut never makes the program exceed a limit.
//
// The file may say that more was used than was, never less. Where a limit is
// large, requests are put on disk in blocks ahead of their use, so that a fast
// key does not wait for the disk at every request; a crash costs what is left
// of a block, Close gives it back.
//
// Two risks are accepted. A clock that is set forward is believed: nothing here
// can tell it from time that passed while the machine slept. And a request that
// is counted just before midnight may arrive just after it. In both cases the
// source's own answer corrects the count, by Spent.
package quota

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// The names of the windows.
const (
	Minute = "minute"
	Day    = "day"
	Month  = "month"
)

const (
	// minute is a second longer than the source's: a request that had to open a
	// connection arrives later than one that did not, and must not meet in the
	// source's minute one that was counted 60 s after it.
	minute = time.Minute + time.Second
	// mergeWithin is how close together requests share a bucket of the sliding
	// minute. A bucket counts until its last request is a minute old, so the
	// price is a quarter of a second, and 241 buckets hold any limit.
	mergeWithin = 250 * time.Millisecond
	maxBuckets  = 256
	// maxBlock bounds what a crash can cost, in requests.
	maxBlock = 256
	// smallStep is how far back a clock may be set before the day that it had
	// reached is given up: corrections around midnight must not cost a day.
	smallStep = time.Hour
	// maxCount keeps sums far from overflow.
	maxCount = 1 << 40
)

// Limits are the most requests in each window; 0 means unlimited.
type Limits struct{ Minute, Day, Month int }

// ErrClosed is what a closed Quota answers.
var ErrClosed = errors.New("quota: closed")

// DamagedError says that the counts on disk could not be read. The file was set
// aside and counting began anew, with this minute counted as used up; the Quota
// returned beside this error is good.
type DamagedError struct {
	Path   string // the file that was found damaged
	Aside  string // where it is now
	Reason string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("quota: %s is damaged (%s): set aside as %s, counting begins anew", e.Path, e.Reason, e.Aside)
}

// Quota keeps the counts. It is safe for concurrent use.
type Quota struct {
	now    func() time.Time
	limits Limits // constant
	block  int64  // most requests put on disk ahead of their use; constant

	before atomic.Pointer[map[string]int] // what was left before the last save; the map is constant

	mu     sync.Mutex
	file   *stateFile // guarded by mu
	closed bool       // guarded by mu
	st     state      // guarded by mu; what happened, without ahead
	ahead  int64      // guarded by mu; requests that are on disk but were not granted yet
}

// state is everything that outlives a restart.
type state struct {
	ahead       int64 // on disk only: how many of the counted requests may not have happened yet
	day, month  window
	minuteSpent time.Time // the source said so: nothing before
	buckets     []bucket  // the sliding minute, oldest first
	inMinute    int64     // sum over buckets
}

// window is a calendar window.
type window struct {
	period int64     // which day or month
	used   int64     // requests in it
	prev   int64     // the period that was left for this one, earlier or later
	before int64     // requests in prev that are not in used
	spent  time.Time // the source said so: nothing before
}

// bucket is requests of the sliding minute.
type bucket struct {
	first, last time.Time
	n           int64
}

// Open reads the counts kept at path, or starts anew. Days and months are in UTC.
// Counts survive a change of the limits. A damaged file is reported as a
// *DamagedError together with a Quota that works; with any other error the
// Quota is nil.
func Open(path string, limits Limits, now func() time.Time) (*Quota, error) {
	return open(osDisk{}, path, limits, now)
}

func open(d disk, path string, limits Limits, now func() time.Time) (*Quota, error) {
	if limits.Minute < 0 || limits.Day < 0 || limits.Month < 0 {
		return nil, errors.New("quota: a limit is negative")
	}
	if now == nil {
		now = time.Now
	}
	q := &Quota{now: now, limits: limits, block: blockSize(limits)}
	t := now()
	file, found, err := openState(d, path, t)
	var damaged *DamagedError
	if err != nil && !errors.As(err, &damaged) {
		return nil, err
	}
	q.file = file
	q.st = found.since(t)
	if damaged != nil && limits.Minute > 0 {
		// Nothing is known. A minute of silence is cheap, a day's is not.
		q.st.add(bucket{first: t, last: t, n: int64(limits.Minute)})
	}
	q.roll(t)
	// Written at once, so that a place that cannot be written is known at start.
	if err := q.save(0); err != nil {
		file.close()
		return nil, err
	}
	if damaged != nil {
		return q, damaged
	}
	return q, nil
}

// blockSize is 1 for keys so small that a sync for each request costs nothing,
// and otherwise a share of the limits that a crash may cost.
func blockSize(l Limits) int64 {
	n := maxBlock
	for _, share := range [...]struct{ limit, of int }{{l.Minute, 16}, {l.Day, 1000}, {l.Month, 30000}} {
		if share.limit > 0 {
			n = min(n, share.limit/share.of)
		}
	}
	return int64(max(n, 1))
}

// Take counts one request, durably. Where none is left, ok is false and until
// says when the next window begins that would allow one. With an error ok is
// false too, nothing was granted, and the next Take tries the disk again.
func (q *Quota) Take() (ok bool, until time.Time, window string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false, time.Time{}, "", ErrClosed
	}
	for range 3 {
		t := q.now()
		q.roll(t)
		if until, window := q.blocked(t); window != "" {
			return false, until, window, nil
		}
		if q.ahead > 0 {
			q.ahead--
			q.st.count(t, 1)
			return true, time.Time{}, "", nil
		}
		n := min(q.block, q.left())
		if err := q.save(n); err != nil {
			return false, time.Time{}, "", err
		}
		q.ahead = n
		// The disk may have been slow: the request belongs to the time at which
		// it is granted, not to the one at which it was asked for.
	}
	return false, time.Time{}, "", errors.New("quota: the clock changed the day at every attempt to save")
}

// Spent records that the source itself says a window is used up, until then.
// A time beyond what such a window can last is cut to that.
func (q *Quota) Spent(window string, until time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	t := q.now()
	q.roll(t)
	switch window {
	case Minute:
		q.st.minuteSpent = until
	case Day:
		q.st.day.spent = until
	case Month:
		q.st.month.spent = until
	default:
		return fmt.Errorf("quota: no window is called %q", window)
	}
	q.roll(t)
	return q.save(q.ahead)
}

// Left is how many requests remain now in each limited window ("minute", "day",
// "month"). It never waits for the disk: while something is being put there it
// is what was left just before.
func (q *Quota) Left() map[string]int {
	if !q.mu.TryLock() {
		return maps.Clone(*q.before.Load())
	}
	defer q.mu.Unlock()
	t := q.now()
	q.roll(t)
	return q.remaining(t)
}

// remaining is what Left says at t, up to which the windows were brought. With mu.
func (q *Quota) remaining(t time.Time) map[string]int {
	left := make(map[string]int, 3)
	put := func(name string, limit int, used int64, spent time.Time) {
		switch {
		case limit == 0:
		case spent.After(t):
			left[name] = 0
		default:
			left[name] = int(max(int64(limit)-used, 0))
		}
	}
	put(Minute, q.limits.Minute, q.st.inMinute, q.st.minuteSpent)
	put(Day, q.limits.Day, q.st.day.used, q.st.day.spent)
	put(Month, q.limits.Month, q.st.month.used, q.st.month.spent)
	return left
}

// Close gives back what was reserved ahead and closes the file. Where that
// cannot be written the file goes on saying that more was used.
func (q *Quota) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	q.roll(q.now())
	return errors.Join(q.save(0), q.file.close())
}

// save makes the state durable with n more requests counted than happened. mu
// is held meanwhile, as long as the disk takes.
func (q *Quota) save(n int64) error {
	left := q.remaining(q.now())
	q.before.Store(&left)
	s := q.st
	s.ahead = n
	s.day.used += n
	s.month.used += n
	return q.file.save(&s)
}

// left is how many requests the limits allow now; at least 1 where blocked
// names no window.
func (q *Quota) left() int64 {
	n := int64(maxBlock)
	for _, w := range [...]struct {
		limit int
		used  int64
	}{{q.limits.Minute, q.st.inMinute}, {q.limits.Day, q.st.day.used}, {q.limits.Month, q.st.month.used}} {
		if w.limit > 0 {
			n = min(n, int64(w.limit)-w.used)
		}
	}
	return n
}

// blocked names the window that allows a request last, and when.
func (q *Quota) blocked(t time.Time) (until time.Time, window string) {
	latest := func(name string, at time.Time) {
		if at.After(t) && at.After(until) {
			until, window = at, name
		}
	}
	latest(Minute, q.st.minuteSpent)
	latest(Day, q.st.day.spent)
	latest(Month, q.st.month.spent)
	if over := q.st.inMinute - int64(q.limits.Minute); q.limits.Minute > 0 && over >= 0 {
		for _, b := range q.st.buckets {
			if over -= b.n; over < 0 {
				latest(Minute, b.last.Add(minute))
				break
			}
		}
	}
	if q.limits.Day > 0 && q.st.day.used >= int64(q.limits.Day) {
		latest(Day, startOfDay(q.st.day.period+1))
	}
	if q.limits.Month > 0 && q.st.month.used >= int64(q.limits.Month) {
		latest(Month, startOfMonth(q.st.month.period+1))
	}
	return until, window
}

// roll brings the windows up to the time t.
func (q *Quota) roll(t time.Time) {
	s := &q.st
	day, month := dayOf(t), monthOf(t)
	moved := s.day.enter(day, t, startOfDay)
	moved = s.month.enter(month, t, startOfMonth) || moved
	if moved {
		// What was reserved was counted in another day; on disk this one has none yet.
		q.ahead = 0
	}
	s.minuteSpent = atMost(s.minuteSpent, t.Add(time.Hour))
	s.day.spent = atMost(s.day.spent, startOfDay(s.day.period+1))
	s.month.spent = atMost(s.month.spent, startOfMonth(s.month.period+1))

	// A request cannot have happened later than now, whatever the clock said:
	// so a clock that was set back delays by a minute at most.
	for i := len(s.buckets) - 1; i >= 0 && s.buckets[i].last.After(t); i-- {
		s.buckets[i].last = t
		if s.buckets[i].first.After(t) {
			s.buckets[i].first = t
		}
	}
	gone := 0
	for gone < len(s.buckets) && t.Sub(s.buckets[gone].last) >= minute {
		s.inMinute -= s.buckets[gone].n
		gone++
	}
	if gone > 0 {
		s.buckets = append(s.buckets[:0], s.buckets[gone:]...)
	}
}

// enter moves to period p and reports whether it did. A period that is later
// than the ones known starts at nothing. A clock that is set back takes the
// counts along, and so does one that returns from there, as a machine does that
// boots in 1970 and learns the time later.
func (w *window) enter(p int64, t time.Time, start func(int64) time.Time) bool {
	if p == w.period || p < w.period && start(w.period).Sub(t) <= smallStep {
		return false
	}
	used, before := w.used, int64(0)
	switch {
	case p < w.period && p == w.prev:
		used += w.before
	case p > w.period && p != w.prev:
		used, before = 0, w.used
	}
	w.prev, w.before = w.period, before
	w.period, w.used = p, min(used, maxCount)
	return true
}

// count adds n requests at t.
func (s *state) count(t time.Time, n int64) {
	s.day.used = min(s.day.used+n, maxCount)
	s.month.used = min(s.month.used+n, maxCount)
	s.add(bucket{first: t, last: t, n: n})
}

// add puts requests into the sliding minute.
func (s *state) add(b bucket) {
	s.inMinute += b.n
	if i := len(s.buckets) - 1; i >= 0 {
		last := &s.buckets[i]
		if b.last.Sub(last.first) < mergeWithin || len(s.buckets) == maxBuckets {
			last.n += b.n
			if b.last.After(last.last) {
				last.last = b.last
			}
			return
		}
	}
	s.buckets = append(s.buckets, b)
}

// since is a state that was read from disk, at the time t of a start. Requests
// that had been reserved may have happened at any time up to now, so they count
// as made just now. Times are rebased on t, whose monotonic reading then keeps
// the sliding minute right when the clock is set.
func (s *state) since(t time.Time) state {
	out := *s
	out.ahead, out.buckets, out.inMinute = 0, nil, 0
	for _, b := range s.buckets {
		age := max(t.Sub(b.last), 0)
		if age < minute {
			at := t.Add(-age)
			out.add(bucket{first: at, last: at, n: b.n})
		}
	}
	if s.ahead > 0 {
		out.add(bucket{first: t, last: t, n: s.ahead})
	}
	return out
}

func atMost(t, most time.Time) time.Time {
	if t.After(most) {
		return most
	}
	return t
}

func dayOf(t time.Time) int64 {
	const day = 24 * 60 * 60
	s := t.Unix()
	if s < 0 {
		return 0
	}
	return s / day
}

func monthOf(t time.Time) int64 {
	y, m, _ := t.UTC().Date()
	return int64(y)*12 + int64(m) - 1
}

func startOfDay(p int64) time.Time { return time.Unix(p*24*60*60, 0).UTC() }

func startOfMonth(p int64) time.Time {
	return time.Date(int(p/12), time.Month(p%12+1), 1, 0, 0, 0, 0, time.UTC)
}
