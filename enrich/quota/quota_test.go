package quota

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a wall clock that a test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time      { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) set(t time.Time)     { c.mu.Lock(); defer c.mu.Unlock(); c.t = t }
func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

func mustOpen(t *testing.T, path string, l Limits, c *clock) *Quota {
	t.Helper()
	q, err := Open(path, l, c.now)
	require.NoError(t, err)
	return q
}

func take(t *testing.T, q *Quota, want bool) (time.Time, string) {
	t.Helper()
	ok, until, window, err := q.Take()
	require.NoError(t, err)
	require.Equal(t, want, ok, "until %v, window %q", until, window)
	return until, window
}

func takeAll(t *testing.T, q *Quota, most int) int {
	t.Helper()
	n := 0
	for ; n < most; n++ {
		ok, _, _, err := q.Take()
		require.NoError(t, err)
		if !ok {
			break
		}
	}
	return n
}

func TestMinuteSlides(t *testing.T) {
	c := &clock{t: noon}
	q := mustOpen(t, filepath.Join(t.TempDir(), "q"), Limits{Minute: 4}, c)
	defer q.Close()
	for range 4 {
		take(t, q, true)
		c.add(10 * time.Second)
	}
	until, window := take(t, q, false)
	assert.Equal(t, Minute, window)
	assert.True(t, until.Equal(noon.Add(time.Minute+slack)), until)
	assert.Equal(t, map[string]int{Minute: 0}, q.Left())

	c.set(until.Add(-1))
	take(t, q, false)
	c.set(until)
	take(t, q, true)
	until, _ = take(t, q, false)
	assert.True(t, until.Equal(noon.Add(10*time.Second+time.Minute+slack)), until)
}

func TestHourSlides(t *testing.T) {
	c := &clock{t: noon.Add(-40 * time.Minute)}
	path := filepath.Join(t.TempDir(), "q")
	q := mustOpen(t, path, Limits{Hour: 3}, c)
	take(t, q, true)
	c.add(50 * time.Minute) // the clock strikes meanwhile
	take(t, q, true)
	take(t, q, true)
	assert.Equal(t, map[string]int{Hour: 0}, q.Left())
	until, window := take(t, q, false)
	assert.Equal(t, Hour, window)
	assert.True(t, until.Equal(noon.Add(20*time.Minute+slack)), until)
	require.NoError(t, q.Close())
	q = mustOpen(t, path, Limits{Hour: 3}, c)
	again, _ := take(t, q, false)
	assert.True(t, again.Equal(until), "over a restart too: %v", again)
	c.set(until)
	take(t, q, true)
	take(t, q, false)
	require.NoError(t, q.Close())
}

func TestAccount(t *testing.T) {
	c := &clock{t: noon}
	path := filepath.Join(t.TempDir(), "q")
	q := mustOpen(t, path, Limits{Minute: 4, Day: 500, Month: 15500}, c)
	defer func() { require.NoError(t, q.Close()) }()
	for range 4 {
		take(t, q, true)
	}
	c.add(2 * time.Minute)

	// Others have made six of the ten; ours are known to be ours.
	limits := Limits{Minute: 1000, Hour: 300, Day: 700, Month: 9000}
	require.NoError(t, q.SetLimits(limits, Account{
		Asked: c.now(), Hour: Usage{240, 10}, Day: Usage{600, 110}, Month: Usage{8000, 1010},
	}))
	assert.Equal(t, map[string]int{Minute: 1000, Hour: 230, Day: 490, Month: 6990}, q.Left())
	take(t, q, true)
	assert.Equal(t, map[string]int{Minute: 999, Hour: 229, Day: 489, Month: 6989}, q.Left())

	// The request just made may not have arrived when the source counted.
	require.NoError(t, q.SetLimits(limits, Account{Asked: c.now(), Day: Usage{600, 111}}))
	assert.Equal(t, map[string]int{Minute: 999, Hour: 295, Day: 488, Month: 8995}, q.Left())
	c.add(2 * time.Minute)
	require.NoError(t, q.SetLimits(limits, Account{Asked: c.now(), Day: Usage{600, 111}}))
	assert.Equal(t, 489, q.Left()[Day], "and now it has")

	// A source that is behind makes nothing of ours undone.
	require.NoError(t, q.SetLimits(limits, Account{Asked: c.now(), Day: Usage{600, 0}}))
	assert.Equal(t, 595, q.Left()[Day])

	// A limit of this program's own is about its own requests alone.
	require.NoError(t, q.SetLimits(Limits{Day: 8}, Account{Asked: c.now(), Day: Usage{600, 400}}))
	assert.Equal(t, map[string]int{Day: 3}, q.Left())
	require.NoError(t, q.SetLimits(Limits{}, Account{Asked: c.now()}))
	assert.Empty(t, q.Left())
	require.Error(t, q.SetLimits(Limits{Hour: -1}, Account{}))
}

func TestOthersUsedItUp(t *testing.T) {
	open := func(t *testing.T, c *clock) *Quota {
		q := mustOpen(t, filepath.Join(t.TempDir(), "q"), Limits{}, c)
		t.Cleanup(func() { require.NoError(t, q.Close()) })
		return q
	}
	t.Run("day", func(t *testing.T) {
		c := &clock{t: noon}
		q := open(t, c)
		require.NoError(t, q.SetLimits(Limits{}, Account{Asked: noon, Day: Usage{500, 498}}))
		take(t, q, true)
		take(t, q, true)
		until, window := take(t, q, false)
		assert.Equal(t, Day, window)
		assert.True(t, until.Equal(noon.Add(12*time.Hour)), until)
		c.set(until)
		assert.Equal(t, map[string]int{Day: 500}, q.Left(), "a new day")
	})
	t.Run("asked before midnight", func(t *testing.T) {
		c := &clock{t: noon.Add(12 * time.Hour)}
		q := open(t, c)
		require.NoError(t, q.SetLimits(Limits{}, Account{Asked: noon.Add(12*time.Hour - 1), Day: Usage{500, 500}, Month: Usage{1000, 600}}))
		assert.Equal(t, map[string]int{Day: 500, Month: 400}, q.Left())
	})
	t.Run("hour", func(t *testing.T) {
		c := &clock{t: noon}
		q := open(t, c)
		take(t, q, true)
		c.add(30 * time.Minute)
		asked := c.now()
		require.NoError(t, q.SetLimits(Limits{}, Account{Asked: asked, Hour: Usage{10, 10}}))
		until, window := take(t, q, false)
		assert.Equal(t, Hour, window)
		assert.True(t, until.Equal(noon.Add(time.Hour+slack)), "when ours is an hour old: %v", until)
		require.NoError(t, q.SetLimits(Limits{}, Account{Asked: asked, Hour: Usage{10, 100}}))
		until, _ = take(t, q, false)
		assert.True(t, until.Equal(asked.Add(time.Hour)), "when nothing is known of others: %v", until)
		c.set(until)
		assert.Equal(t, map[string]int{Hour: 10}, q.Left())
	})
}

// The source's newer word lifts its older one.
func TestAccountLiftsSpent(t *testing.T) {
	c := &clock{t: noon}
	path := filepath.Join(t.TempDir(), "q")
	q := mustOpen(t, path, Limits{}, c)
	require.NoError(t, q.Spent(Day, noon.Add(12*time.Hour)))
	for _, a := range []Account{
		{Asked: noon.Add(-time.Second), Day: Usage{500, 100}}, // asked before
		{Asked: noon.Add(time.Second), Day: Usage{500, 500}},
		{Asked: noon.Add(time.Second), Month: Usage{500, 100}},
	} {
		require.NoError(t, q.SetLimits(Limits{}, a))
		_, window := take(t, q, false)
		require.Equal(t, Day, window)
	}
	require.NoError(t, q.SetLimits(Limits{}, Account{Asked: noon.Add(time.Second), Day: Usage{500, 499}}))
	take(t, q, true)
	require.NoError(t, q.Close())
	q = mustOpen(t, path, Limits{}, c)
	take(t, q, true)
	require.NoError(t, q.Close())
	require.ErrorIs(t, q.SetLimits(Limits{}, Account{}), ErrClosed)
}

// Two programs share a key; one of them keeps to the account as it last read it.
// However their requests fall, no more are made than the key allows, as long as
// the other one leaves it as much as it read.
func TestSharedKeyIsNotExceeded(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(11, seed))
		c := &clock{t: noon}
		q := mustOpen(t, filepath.Join(t.TempDir(), "q"), Limits{}, c)
		const allowed = 100
		total, flying := 0, 0
		for range 400 {
			switch rng.IntN(4) {
			case 0: // another program's, and the account is read before we ask again
				if total+flying < allowed {
					total++
				}
				require.NoError(t, q.SetLimits(Limits{}, Account{Asked: c.now(), Day: Usage{allowed, int64(total)}}))
			case 1:
				if flying > 0 { // arrives, within a minute
					flying--
					total++
				}
			default:
				if ok, _, _, err := q.Take(); ok {
					require.NoError(t, err)
					flying++
				}
			}
			require.LessOrEqual(t, total+flying, allowed)
			c.add(time.Duration(rng.IntN(10)) * time.Second)
			if rng.IntN(4) == 0 || flying > 3 {
				total, flying = total+flying, 0
			}
		}
		require.Equal(t, allowed, total+flying, "and all of them are, in the end")
		require.NoError(t, q.Close())
	}
}

func TestDayAndMonthEndInUTC(t *testing.T) {
	east := time.FixedZone("east", 9*60*60)
	c := &clock{t: time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC).In(east)} // already 2027 there
	q := mustOpen(t, filepath.Join(t.TempDir(), "q"), Limits{Day: 3, Month: 5}, c)
	defer q.Close()
	require.Equal(t, 3, takeAll(t, q, 10))
	until, window := take(t, q, false)
	assert.Equal(t, Day, window)
	assert.True(t, until.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)), until)

	c.set(until)
	assert.Equal(t, map[string]int{Day: 3, Month: 5}, q.Left(), "a new month as well")
	require.Equal(t, 3, takeAll(t, q, 10))
	c.add(24 * time.Hour)
	require.Equal(t, 2, takeAll(t, q, 10))
	until, window = take(t, q, false)
	assert.Equal(t, Month, window, "the window that ends last is named")
	assert.True(t, until.Equal(time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)), until)
}

func TestUnlimited(t *testing.T) {
	c := &clock{t: noon}
	path := filepath.Join(t.TempDir(), "q")
	q := mustOpen(t, path, Limits{}, c)
	require.Equal(t, 5000, takeAll(t, q, 5000))
	assert.Empty(t, q.Left())
	require.NoError(t, q.Close())

	q = mustOpen(t, path, Limits{Minute: 4, Day: 5002, Month: 6000}, c)
	defer q.Close()
	assert.Equal(t, map[string]int{Minute: 0, Day: 2, Month: 1000}, q.Left(), "what an unlimited key used is known")
}

func TestCountsOutliveRestartAndNewLimits(t *testing.T) {
	c := &clock{t: noon}
	path := filepath.Join(t.TempDir(), "q")
	q := mustOpen(t, path, Limits{Minute: 4, Day: 10, Month: 100}, c)
	require.Equal(t, 3, takeAll(t, q, 3))
	require.NoError(t, q.Close())

	q = mustOpen(t, path, Limits{Minute: 4, Day: 10, Month: 100}, c)
	assert.Equal(t, map[string]int{Minute: 1, Day: 7, Month: 97}, q.Left())
	require.NoError(t, q.Close())

	q = mustOpen(t, path, Limits{Minute: 2, Day: 3, Month: 0}, c)
	assert.Equal(t, map[string]int{Minute: 0, Day: 0}, q.Left())
	take(t, q, false)
	require.NoError(t, q.Close())

	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestClosed(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "q"), Limits{}, &clock{t: noon})
	require.NoError(t, q.Close())
	require.NoError(t, q.Close())
	ok, _, _, err := q.Take()
	assert.False(t, ok)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, q.Spent(Day, noon), ErrClosed)
}

func TestOpenRefuses(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "q"), Limits{Day: -1}, nil)
	require.Error(t, err)
	_, err = Open(filepath.Join(t.TempDir(), "nowhere", "q"), Limits{}, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Open(t.TempDir(), Limits{}, nil)
	require.Error(t, err, "a folder")
}

func TestSpent(t *testing.T) {
	midnight := time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC)
	april := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		window      string
		until, want time.Time
	}{
		{Minute, noon.Add(20 * time.Second), noon.Add(20 * time.Second)},
		{Minute, noon.AddDate(5, 0, 0), noon.Add(time.Hour)},
		{Day, midnight, midnight},
		{Day, midnight.AddDate(1, 0, 0), midnight},
		{Month, april, april},
		{Month, april.AddDate(9, 0, 0), april},
	} {
		t.Run(fmt.Sprint(tt.window, tt.until), func(t *testing.T) {
			c := &clock{t: noon}
			path := filepath.Join(t.TempDir(), "q")
			limits := Limits{Minute: 4, Day: 500, Month: 15500}
			q := mustOpen(t, path, limits, c)
			take(t, q, true)
			require.NoError(t, q.Spent(tt.window, tt.until))
			assert.Zero(t, q.Left()[tt.window])
			require.NoError(t, q.Close())

			q = mustOpen(t, path, limits, c)
			defer q.Close()
			until, window := take(t, q, false)
			assert.Equal(t, tt.window, window)
			assert.True(t, until.Equal(tt.want), until)
			c.set(tt.want)
			take(t, q, true)
		})
	}
	q := mustOpen(t, filepath.Join(t.TempDir(), "q"), Limits{}, &clock{t: noon})
	defer q.Close()
	require.Error(t, q.Spent("fortnight", noon))
}

func TestClockIsSet(t *testing.T) {
	restart := func(t *testing.T, q *Quota, path string, limits Limits, c *clock, crash bool) *Quota {
		if !crash {
			require.NoError(t, q.Close())
		}
		t.Cleanup(func() { q.Close() })
		return mustOpen(t, path, limits, c)
	}
	for _, how := range []string{"running", "restart", "crash"} {
		t.Run(how, func(t *testing.T) {
			t.Run("back an hour: the minute passes all the same", func(t *testing.T) {
				c := &clock{t: noon}
				path := filepath.Join(t.TempDir(), "q")
				limits := Limits{Minute: 4, Day: 10, Month: 20}
				q := mustOpen(t, path, limits, c)
				require.Equal(t, 4, takeAll(t, q, 9))
				c.add(-time.Hour)
				if how != "running" {
					q = restart(t, q, path, limits, c, how == "crash")
				}
				until, _ := take(t, q, false)
				assert.True(t, until.Equal(c.now().Add(time.Minute+slack)), until)
				c.set(until)
				require.Positive(t, takeAll(t, q, 9))
				require.NoError(t, q.Close())
			})
			t.Run("back across midnight: the day's count is not forgotten, nor kept for ever", func(t *testing.T) {
				for _, back := range []time.Duration{14 * time.Hour, 24 * 365 * time.Hour} {
					c := &clock{t: noon}
					path := filepath.Join(t.TempDir(), "q")
					limits := Limits{Day: 10}
					q := mustOpen(t, path, limits, c)
					require.Equal(t, 9, takeAll(t, q, 9))
					c.add(-back)
					if how != "running" {
						q = restart(t, q, path, limits, c, how == "crash")
					}
					require.LessOrEqual(t, takeAll(t, q, 20), 1)
					until, _ := take(t, q, false)
					assert.LessOrEqual(t, until.Sub(c.now()), 24*time.Hour)
					// The day that the clock came back from may be the one that comes now.
					c.set(until)
					first := takeAll(t, q, 20)
					assert.LessOrEqual(t, first, 10)
					c.add(24 * time.Hour)
					assert.Positive(t, first+takeAll(t, q, 20), "stuck")
					require.NoError(t, q.Close())
				}
			})
		})
	}

	t.Run("a small step around midnight costs nothing", func(t *testing.T) {
		c := &clock{t: time.Date(2026, 3, 14, 23, 59, 59, 0, time.UTC)}
		q := mustOpen(t, filepath.Join(t.TempDir(), "q"), Limits{Day: 500}, c)
		defer q.Close()
		require.Equal(t, 490, takeAll(t, q, 490))
		for range 3 {
			c.add(2 * time.Second)
			take(t, q, true)
			c.add(-2 * time.Second)
			take(t, q, true)
		}
		c.add(2 * time.Second)
		assert.Equal(t, 494, q.Left()[Day])
	})
	t.Run("forward by mistake and back: both counts stand", func(t *testing.T) {
		c := &clock{t: noon}
		q := mustOpen(t, filepath.Join(t.TempDir(), "q"), Limits{Day: 10, Month: 300}, c)
		defer q.Close()
		require.Equal(t, 6, takeAll(t, q, 6))
		c.set(noon.AddDate(4, 0, 0))
		require.Equal(t, 3, takeAll(t, q, 3))
		c.set(noon)
		assert.Equal(t, map[string]int{Day: 1, Month: 291}, q.Left())
		c.add(24 * time.Hour)
		assert.Equal(t, map[string]int{Day: 10, Month: 291}, q.Left())
	})
	t.Run("boots in 1970 and learns the time: nothing counts twice", func(t *testing.T) {
		c := &clock{t: noon}
		path := filepath.Join(t.TempDir(), "q")
		q := mustOpen(t, path, Limits{Day: 500}, c)
		require.Equal(t, 100, takeAll(t, q, 100))
		require.NoError(t, q.Close())
		for range 5 {
			c.set(time.Unix(1, 0))
			q = mustOpen(t, path, Limits{Day: 500}, c)
			take(t, q, true)
			c.set(noon.Add(time.Minute))
			take(t, q, true)
			require.NoError(t, q.Close())
		}
		q = mustOpen(t, path, Limits{Day: 500}, c)
		defer q.Close()
		assert.Equal(t, 390, q.Left()[Day])
	})
}

func TestDamagedFile(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":   func([]byte) []byte { return nil },
		"zeros":   func(b []byte) []byte { clear(b); return b },
		"html":    func([]byte) []byte { return []byte("<html>") },
		"long":    func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) },
		"version": func(b []byte) []byte { b[3]++; b[regionSize+3]++; return b },
		"bits":    func(b []byte) []byte { b[40]++; b[regionSize+40]++; return b },
		"length":  func(b []byte) []byte { b[6]++; b[regionSize+6]++; return b },
		"short":   func(b []byte) []byte { return b[:50] },
		"buckets": func(b []byte) []byte {
			for _, at := range []int{0, regionSize} {
				binary.LittleEndian.PutUint32(b[at+fixedLen-8:], 1<<31)
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "q")
			c := &clock{t: noon}
			limits := Limits{Minute: 4, Day: 10}
			q := mustOpen(t, path, limits, c)
			require.Equal(t, 3, takeAll(t, q, 3))
			require.NoError(t, q.Close())
			raw, err := os.ReadFile(path)
			require.NoError(t, err)
			raw = spoil(raw)
			require.NoError(t, os.WriteFile(path, raw, 0o600))

			q, err = Open(path, limits, c.now)
			var damaged *DamagedError
			require.ErrorAs(t, err, &damaged)
			require.NotNil(t, q)
			aside, err := os.ReadFile(damaged.Aside)
			require.NoError(t, err)
			assert.Equal(t, len(raw), len(aside), "kept as it was found")

			until, window := take(t, q, false)
			assert.Equal(t, Minute, window, "nothing is known of this minute")
			c.set(until)
			assert.Equal(t, 10, q.Left()[Day])
			take(t, q, true)
			require.NoError(t, q.Close())

			q = mustOpen(t, path, limits, c)
			assert.Equal(t, 9, q.Left()[Day])
			require.NoError(t, q.Close())
		})
	}
}

func TestOneDamagedSlotIsCharged(t *testing.T) {
	for slot := range slots {
		path := filepath.Join(t.TempDir(), "q")
		c := &clock{t: noon}
		limits := Limits{Minute: 4, Day: 10}
		q := mustOpen(t, path, limits, c)
		require.Equal(t, 3, takeAll(t, q, 3))
		raw, err := os.ReadFile(path) // as a crash leaves it
		require.NoError(t, err)
		require.NoError(t, q.Close())
		raw[slot*regionSize+20]++
		require.NoError(t, os.WriteFile(path, raw, 0o600))

		q = mustOpen(t, path, limits, c)
		assert.LessOrEqual(t, q.Left()[Day], 7)
		assert.GreaterOrEqual(t, q.Left()[Day], 6)
		require.NoError(t, q.Close())
	}
}

// world is the source's own count of what it was asked.
type world struct {
	at []time.Time
}

func (w *world) check(t *testing.T, l Limits) {
	t.Helper()
	days, months := map[string]int{}, map[string]int{}
	for i, at := range w.at {
		days[at.UTC().Format("2006-01-02")]++
		months[at.UTC().Format("2006-01")]++
		if j := i - l.Minute; l.Minute > 0 && j >= 0 {
			require.GreaterOrEqual(t, at.Sub(w.at[j]), time.Minute, "%d requests within a minute", l.Minute+1)
		}
		if j := i - l.Hour; l.Hour > 0 && j >= 0 {
			require.GreaterOrEqual(t, at.Sub(w.at[j]), time.Hour, "%d requests within an hour", l.Hour+1)
		}
	}
	for d, n := range days {
		require.True(t, l.Day == 0 || n <= l.Day, "%d requests on %s", n, d)
	}
	for m, n := range months {
		require.True(t, l.Month == 0 || n <= l.Month, "%d requests in %s", n, m)
	}
}

// TestCrashes pulls the plug at random steps of random lives and lets the source
// count.
func TestCrashes(t *testing.T) {
	for _, l := range []Limits{
		{Minute: 4, Day: 20, Month: 100},
		{Minute: 1},
		{Hour: 3},
		{Minute: 4, Hour: 10, Day: 100},
		{Day: 7},
		{Month: 9},
		{Minute: 200, Day: 5000, Month: 90000}, // blocks
		{},
	} {
		t.Run(fmt.Sprint(l), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, uint64(l.Minute+l.Hour+l.Day)))
			c := &clock{t: noon}
			d := newCrashDisk(t)
			w := &world{}
			granted := 0
			for range 300 {
				d.faultAfter(rng.IntN(40), rng.IntN(2) == 0)
				q, err := open(d, "/data/q", l, c.now)
				if err == nil {
					for range rng.IntN(60) {
						ok, until, window, err := q.Take()
						switch {
						case err != nil:
							require.False(t, ok)
						case ok:
							w.at = append(w.at, c.now())
							granted++
						default:
							require.NotEmpty(t, window)
							require.True(t, until.After(c.now()))
							if rng.IntN(3) == 0 {
								c.set(until)
							}
						}
						if d.crashed {
							break
						}
						c.add(time.Duration(rng.Int64N(int64(3 * time.Second))))
					}
					if !d.crashed && rng.IntN(2) == 0 {
						_ = q.Close()
					}
				} else {
					var damaged *DamagedError
					require.False(t, errors.As(err, &damaged), "a crash damages nothing: %v", err)
				}
				d.crash(rng)
				c.add(time.Duration(rng.Int64N(int64(time.Minute))))
			}
			w.check(t, l)
			require.Positive(t, granted)
		})
	}
}

func TestFullDiskAndRecovery(t *testing.T) {
	d := newCrashDisk(t)
	c := &clock{t: noon}
	q, err := open(d, "/data/q", Limits{Minute: 4, Day: 10}, c.now)
	require.NoError(t, err)
	take(t, q, true)
	d.faultAfter(0, false)
	d.keepFailing = true
	for range 3 {
		ok, _, _, err := q.Take()
		require.ErrorIs(t, err, errDisk)
		require.False(t, ok)
	}
	d.keepFailing = false
	d.faultAfter(-1, false)
	take(t, q, true)
	assert.Equal(t, map[string]int{Minute: 2, Day: 8}, q.Left(), "a request that was refused by the disk is none")
	d.crash(rand.New(rand.NewPCG(1, 1)))
	q, err = open(d, "/data/q", Limits{Minute: 4, Day: 10}, c.now)
	require.NoError(t, err)
	assert.Equal(t, 8, q.Left()[Day])
}

func TestCloseGivesBack(t *testing.T) {
	c := &clock{t: noon}
	path := filepath.Join(t.TempDir(), "q")
	limits := Limits{Day: 100_000}
	q := mustOpen(t, path, limits, c)
	take(t, q, true)
	assert.Equal(t, 99_999, q.Left()[Day])
	crashed := mustOpen(t, path, limits, c) // what a crash now would find
	assert.Equal(t, 99_900, crashed.Left()[Day])
	require.NoError(t, crashed.file.close())
	require.NoError(t, q.Close())
	q = mustOpen(t, path, limits, c)
	assert.Equal(t, 99_999, q.Left()[Day])
	require.NoError(t, q.Close())
}

func TestReservedYesterdayIsNotSpentToday(t *testing.T) {
	c := &clock{t: noon}
	path := filepath.Join(t.TempDir(), "q")
	limits := Limits{Day: 100_000}
	q := mustOpen(t, path, limits, c)
	defer q.Close()
	take(t, q, true)
	c.add(24 * time.Hour)
	take(t, q, true)
	crashed := mustOpen(t, path, limits, c)
	assert.Less(t, crashed.Left()[Day], 100_000)
	require.NoError(t, crashed.file.close())
}

func TestConcurrent(t *testing.T) {
	c := &clock{t: noon}
	q := mustOpen(t, filepath.Join(t.TempDir(), "q"), Limits{Day: 500}, c)
	defer q.Close()
	var wg sync.WaitGroup
	var mu sync.Mutex
	granted := 0
	for range 8 {
		wg.Go(func() {
			for range 100 {
				ok, _, _, err := q.Take()
				assert.NoError(t, err)
				q.Left()
				if ok {
					mu.Lock()
					granted++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 500, granted)
}

func FuzzState(f *testing.F) {
	s := newState()
	s.ahead, s.day = 3, window{period: 20000, used: 5}
	s.slide(bucket{first: noon, last: noon, n: 2})
	f.Add(appendState(nil, s, 9))
	f.Add(make([]byte, 2*regionSize))
	f.Fuzz(func(t *testing.T, raw []byte) {
		st, _, why := newest(raw)
		if why != "" {
			return
		}
		q := &Quota{limits: Limits{Minute: 4, Hour: 100, Day: 500, Month: 15500}, now: time.Now, block: 1}
		q.st = st.since(noon)
		q.roll(noon)
		if until, window := q.blocked(noon); window != "" && !until.After(noon) {
			t.Fatal("blocked until a time that has passed")
		}
	})
}

func BenchmarkTake(b *testing.B) {
	for name, l := range map[string]Limits{"public": {Day: 1 << 40 / 1000000}, "unlimited": {}} {
		b.Run(name, func(b *testing.B) {
			q, err := Open(filepath.Join(b.TempDir(), "q"), l, nil)
			require.NoError(b, err)
			for b.Loop() {
				_, _, _, _ = q.Take()
			}
			require.NoError(b, q.Close())
		})
	}
}

// A disk that hangs holds up requests, and nobody who only asks what is left.
func TestLeftDoesNotWaitForTheDisk(t *testing.T) {
	d := newCrashDisk(t)
	q, err := open(d, "/data/q", Limits{Minute: 4, Day: 10}, (&clock{t: noon}).now)
	require.NoError(t, err)
	defer q.Close()
	take(t, q, true)
	for name, call := range map[string]func(){
		"take":  func() { _, _, _, _ = q.Take() },
		"spent": func() { _ = q.Spent(Month, noon) },
	} {
		t.Run(name, func(t *testing.T) {
			hangs, goesOn, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
			before := q.Left()
			d.onSync = func() { close(hangs); <-goesOn }
			go func() { defer close(done); call() }()
			<-hangs
			assert.Equal(t, before, q.Left())
			close(goesOn)
			<-done
			d.onSync = nil
		})
	}
}
