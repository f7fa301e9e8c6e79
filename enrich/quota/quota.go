// Package quota counts requests against the limits of a minute, an hour, a day
// and a month.
//
// Promise: no request is made that is not already on disk as made, so a
// restart, a crash or a power cut never makes the program exceed a limit.
//
// The file may say that more was used than was, never less. Where a limit is
// large, requests are put on disk in blocks ahead of their use, so that a fast
// key does not wait for the disk at every request; a crash costs what is left
// of a block, Close gives it back.
//
// The limits are two: what this program may request, and what the source allows
// the key, which other programs may use too (SetLimits). Of the others' requests
// is known what the source last said.
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
	Hour   = "hour"
	Day    = "day"
	Month  = "month"
)

const (
	// slack makes a sliding window longer than the source's: a request that had to
	// open a connection arrives later than one that did not, and must not meet in
	// the source's minute one that was counted 60 s after it.
	slack = time.Second
	// How close together requests share a bucket of a sliding window. A bucket
	// counts until its last request is old enough, so these are the price; 241 and
	// 121 buckets hold any limit.
	minuteMerge, minuteBuckets = 250 * time.Millisecond, 256
	hourMerge, hourBuckets     = 30 * time.Second, 128
	// maxBlock bounds what a crash can cost, in requests.
	maxBlock = 256
	// smallStep is how far back a clock may be set before the day that it had
	// reached is given up: corrections around midnight must not cost a day.
	smallStep = time.Hour
	// maxCount keeps sums far from overflow.
	maxCount = 1 << 40
)

// Limits are the most requests of this program in each window; 0 means unlimited.
type Limits struct{ Minute, Hour, Day, Month int }

// Usage is what the source says about one window of a key: how many requests it
// allows and how many were made, by all programs that use the key together.
// Allowed 0: nothing is known, and nothing follows.
type Usage struct{ Allowed, Used int64 }

// Account is what the source said about a key.
type Account struct {
	Asked            time.Time // when the question was put
	Hour, Day, Month Usage
}

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
	now func() time.Time

	before atomic.Pointer[map[string]int] // what was left before the last save; the map is constant

	mu      sync.Mutex
	file    *stateFile // guarded by mu
	closed  bool       // guarded by mu
	st      state      // guarded by mu; what happened, without ahead
	ahead   int64      // guarded by mu; requests that are on disk but were not granted yet
	limits  Limits     // guarded by mu
	account account    // guarded by mu
	block   int64      // guarded by mu; most requests put on disk ahead of their use
	spentAt time.Time  // guarded by mu; when the source last said that a window is used up
}

// account is what the key allows, and what others made of it. It is not on
// disk: the source is asked again at the next start.
type account struct {
	hour, day, month ceiling
	hourUntil        time.Time // from then on nothing is known of others in the hour
}

// ceiling is one window of an account; the zero value is none.
type ceiling struct {
	allowed int64
	others  int64 // requests that were not ours; in a calendar window until it ends
}

// over is how many requests more than allowed there would be with one more than
// own; negative: so many are left.
func (c ceiling) over(own int64) int64 { return own + c.others - c.allowed }

// state is everything that outlives a restart.
type state struct {
	ahead        int64 // on disk only: how many of the counted requests may not have happened yet
	day, month   window
	minuteSpent  time.Time // the source said so: nothing before
	minute, hour sliding
}

func newState() *state {
	return &state{
		minute: sliding{length: time.Minute + slack, merge: minuteMerge, most: minuteBuckets},
		hour:   sliding{length: time.Hour + slack, merge: hourMerge, most: hourBuckets},
	}
}

// window is a calendar window.
type window struct {
	period int64     // which day or month
	used   int64     // requests in it
	prev   int64     // the period that was left for this one, earlier or later
	before int64     // requests in prev that are not in used
	spent  time.Time // the source said so: nothing before
}

// sliding is the requests of the last minute or hour: sources do not say how
// they cut theirs, and no cut holds more than a sliding window.
type sliding struct {
	length, merge time.Duration // constant
	most          int           // buckets; constant
	buckets       []bucket      // oldest first
	n             int64         // sum over buckets
}

// bucket is requests of a sliding window.
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
	if err := limits.check(); err != nil {
		return nil, err
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
		q.st.minute.add(bucket{first: t, last: t, n: int64(limits.Minute)})
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

func (l Limits) check() error {
	if l.Minute < 0 || l.Hour < 0 || l.Day < 0 || l.Month < 0 {
		return errors.New("quota: a limit is negative")
	}
	return nil
}

// blockSize is 1 for keys so small that a sync for each request costs nothing,
// and otherwise a share of the limits that a crash may cost.
func blockSize(l Limits) int64 {
	n := maxBlock
	for _, share := range [...]struct{ limit, of int }{{l.Minute, 16}, {l.Hour, 100}, {l.Day, 1000}, {l.Month, 30000}} {
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

// SetLimits changes what this program may request and tells what the source said
// of the key. Both hold from now on: no window gets more than its limit of our
// requests, nor more than the account allows of all. Of the account's requests
// are taken for ours those that are more than a minute old, since a younger one
// may not have arrived when the source counted: so for a while others' may be
// taken for too many, never for too few.
//
// Where the source had said that a day or a month is used up (Spent) and now,
// asked later, says that it is not, the newer word holds. If it keeps two minds,
// that costs one request per SetLimits.
func (q *Quota) SetLimits(limits Limits, a Account) error {
	if err := limits.check(); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	t := q.now()
	q.roll(t)
	q.limits = limits
	s := &q.st
	recent := s.minute.n
	of := func(u Usage, own int64) ceiling {
		if u.Allowed <= 0 {
			return ceiling{}
		}
		ours := max(own-recent, 0)
		return ceiling{allowed: min(u.Allowed, maxCount), others: min(max(u.Used-ours, 0), maxCount)}
	}
	q.account = account{
		hour: of(a.Hour, s.hour.n), day: of(a.Day, s.day.used), month: of(a.Month, s.month.used),
		hourUntil: a.Asked.Add(time.Hour),
	}
	// An answer from before midnight says nothing of the new day.
	if dayOf(a.Asked) != s.day.period {
		q.account.day.others = 0
	}
	if monthOf(a.Asked) != s.month.period {
		q.account.month.others = 0
	}
	q.block = blockSize(q.tightest())
	lifted := false
	for _, w := range [...]struct {
		u  Usage
		at *time.Time
	}{{a.Day, &s.day.spent}, {a.Month, &s.month.spent}} {
		if w.u.Used < w.u.Allowed && w.at.After(t) && q.spentAt.Before(a.Asked) {
			*w.at, lifted = time.Time{}, true
		}
	}
	q.roll(t)
	if !lifted {
		return nil
	}
	return q.save(q.ahead)
}

// tightest is the limits with those of the account.
func (q *Quota) tightest() Limits {
	both := func(limit int, c ceiling) int {
		if c.allowed > 0 && (limit == 0 || c.allowed < int64(limit)) {
			return int(min(c.allowed, 1<<30))
		}
		return limit
	}
	return Limits{
		Minute: q.limits.Minute, Hour: both(q.limits.Hour, q.account.hour),
		Day: both(q.limits.Day, q.account.day), Month: both(q.limits.Month, q.account.month),
	}
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
	q.spentAt = t
	q.roll(t)
	return q.save(q.ahead)
}

// Left is how many requests remain now in each limited window ("minute", "hour",
// "day", "month"). It never waits for the disk: while something is being put there it
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
	left := make(map[string]int, 4)
	put := func(name string, limit int, c ceiling, used int64, spent time.Time) {
		n := int64(-1)
		if limit > 0 {
			n = max(int64(limit)-used, 0)
		}
		if c.allowed > 0 {
			if n2 := max(-c.over(used), 0); n < 0 || n2 < n {
				n = n2
			}
		}
		switch {
		case n < 0: // unlimited
		case spent.After(t):
			left[name] = 0
		default:
			left[name] = int(n)
		}
	}
	put(Minute, q.limits.Minute, ceiling{}, q.st.minute.n, q.st.minuteSpent)
	put(Hour, q.limits.Hour, q.account.hour, q.st.hour.n, time.Time{})
	put(Day, q.limits.Day, q.account.day, q.st.day.used, q.st.day.spent)
	put(Month, q.limits.Month, q.account.month, q.st.month.used, q.st.month.spent)
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
		c     ceiling
		used  int64
	}{
		{q.limits.Minute, ceiling{}, q.st.minute.n}, {q.limits.Hour, q.account.hour, q.st.hour.n},
		{q.limits.Day, q.account.day, q.st.day.used}, {q.limits.Month, q.account.month, q.st.month.used},
	} {
		if w.limit > 0 {
			n = min(n, int64(w.limit)-w.used)
		}
		if w.c.allowed > 0 {
			n = min(n, -w.c.over(w.used))
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
	if over := q.st.minute.n - int64(q.limits.Minute); q.limits.Minute > 0 && over >= 0 {
		latest(Minute, q.st.minute.frees(over))
	}
	if over := q.st.hour.n - int64(q.limits.Hour); q.limits.Hour > 0 && over >= 0 {
		latest(Hour, q.st.hour.frees(over))
	}
	if c := q.account.hour; c.allowed > 0 && c.over(q.st.hour.n) >= 0 {
		// Ours grow old one by one, of others nothing is known after a time.
		at := q.st.hour.frees(c.over(q.st.hour.n))
		if forgotten := q.account.hourUntil; at.IsZero() || q.st.hour.n < c.allowed && forgotten.Before(at) {
			at = forgotten
		}
		latest(Hour, at)
	}
	full := func(limit int, c ceiling, used int64) bool {
		return limit > 0 && used >= int64(limit) || c.allowed > 0 && c.over(used) >= 0
	}
	if full(q.limits.Day, q.account.day, q.st.day.used) {
		latest(Day, startOfDay(q.st.day.period+1))
	}
	if full(q.limits.Month, q.account.month, q.st.month.used) {
		latest(Month, startOfMonth(q.st.month.period+1))
	}
	return until, window
}

// roll brings the windows up to the time t.
func (q *Quota) roll(t time.Time) {
	s := &q.st
	newDay := s.day.enter(dayOf(t), t, startOfDay)
	newMonth := s.month.enter(monthOf(t), t, startOfMonth)
	if newDay || newMonth {
		// What was reserved was counted in another day; on disk this one has none yet.
		q.ahead = 0
	}
	if newDay {
		q.account.day.others = 0
	}
	if newMonth {
		q.account.month.others = 0
	}
	if !t.Before(q.account.hourUntil) {
		q.account.hour.others = 0
	}
	s.minuteSpent = atMost(s.minuteSpent, t.Add(time.Hour))
	s.day.spent = atMost(s.day.spent, startOfDay(s.day.period+1))
	s.month.spent = atMost(s.month.spent, startOfMonth(s.month.period+1))
	s.minute.roll(t)
	s.hour.roll(t)
}

// roll forgets what is too old at t.
func (s *sliding) roll(t time.Time) {
	// A request cannot have happened later than now, whatever the clock said: so a
	// clock that was set back delays by the window's length at most.
	for i := len(s.buckets) - 1; i >= 0 && s.buckets[i].last.After(t); i-- {
		s.buckets[i].last = t
		if s.buckets[i].first.After(t) {
			s.buckets[i].first = t
		}
	}
	gone := 0
	for gone < len(s.buckets) && t.Sub(s.buckets[gone].last) >= s.length {
		s.n -= s.buckets[gone].n
		gone++
	}
	if gone > 0 {
		s.buckets = append(s.buckets[:0], s.buckets[gone:]...)
	}
}

// frees is when more than over requests will have grown too old; zero: never.
func (s *sliding) frees(over int64) time.Time {
	for _, b := range s.buckets {
		if over -= b.n; over < 0 {
			return b.last.Add(s.length)
		}
	}
	return time.Time{}
}

// add puts requests into the window.
func (s *sliding) add(b bucket) {
	s.n += b.n
	if i := len(s.buckets) - 1; i >= 0 {
		last := &s.buckets[i]
		if b.last.Sub(last.first) < s.merge || len(s.buckets) == s.most {
			last.n += b.n
			if b.last.After(last.last) {
				last.last = b.last
			}
			return
		}
	}
	s.buckets = append(s.buckets, b)
}

// since fills s, which is empty, with what was read from disk at the time t.
func (s *sliding) since(old *sliding, t time.Time) {
	for _, b := range old.buckets {
		if age := max(t.Sub(b.last), 0); age < s.length {
			at := t.Add(-age)
			s.add(bucket{first: at, last: at, n: b.n})
		}
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
	s.slide(bucket{first: t, last: t, n: n})
}

// slide puts requests into the sliding windows.
func (s *state) slide(b bucket) {
	s.minute.add(b)
	s.hour.add(b)
}

// since is a state that was read from disk, at the time t of a start. Requests
// that had been reserved may have happened at any time up to now, so they count
// as made just now. Times are rebased on t, whose monotonic reading then keeps
// the sliding windows right when the clock is set.
func (s *state) since(t time.Time) state {
	out := newState()
	out.day, out.month, out.minuteSpent = s.day, s.month, s.minuteSpent
	out.minute.since(&s.minute, t)
	out.hour.since(&s.hour, t)
	if s.ahead > 0 {
		out.slide(bucket{first: t, last: t, n: s.ahead})
	}
	return *out
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
