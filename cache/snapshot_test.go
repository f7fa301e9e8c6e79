package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func newAt(entries int, t time.Time) *Cache[string] {
	return New[string](Config{MaxEntries: entries, Now: at(t)})
}

func encodeString(dst []byte, v string) []byte { return append(dst, v...) }
func decodeString(b []byte) (string, error)    { return string(b), nil }

// state is what a cache says of a key: "value fresh", "value stale" or "none".
func state(c *Cache[string], key string) string {
	v, fresh, ok := c.Get([]byte(key), c.now())
	switch {
	case !ok:
		return "none"
	case fresh:
		return v + " fresh"
	default:
		return v + " stale"
	}
}

// snapshot is the bytes of a snapshot with n entries k0…, made at testTime.
func snapshot(t testing.TB, n int) []byte {
	c := newAt(max(n, 1), testTime)
	for i := range n {
		c.Set(fmt.Sprint("k", i), fmt.Sprint("v", i), time.Hour)
	}
	path := filepath.Join(t.TempDir(), "s")
	require.NoError(t, c.Save(path, encodeString))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

func TestSnapshotKeepsEntriesAndLifetimes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.snapshot")
	now := testTime
	clock := func() time.Time { return now }
	c := New[string](Config{MaxEntries: 100, Now: clock})
	c.Set("hour", "1", time.Hour)
	c.Set("minute", "2", time.Minute)
	c.Set("over", "3", time.Second)
	c.Set("", "", time.Hour)
	c.Set("bytes \x00\xff\n", "\x00\xff\n", time.Hour)
	c.Set("large", strings.Repeat("x", 300_000), time.Hour)
	now = now.Add(2 * time.Second)
	require.NoError(t, c.Save(path, encodeString))

	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing else is left")

	now = now.Add(2 * time.Minute)
	c = New[string](Config{MaxEntries: 100, Now: clock})
	n, err := c.Load(path, decodeString)
	require.NoError(t, err)
	assert.Equal(t, 6, n)
	assert.Equal(t, 6, c.Len())
	assert.Equal(t, "1 fresh", state(c, "hour"))
	assert.Equal(t, "2 stale", state(c, "minute"))
	assert.Equal(t, "3 stale", state(c, "over"))
	assert.Equal(t, " fresh", state(c, ""))
	assert.Equal(t, "\x00\xff\n fresh", state(c, "bytes \x00\xff\n"))
	assert.Equal(t, strings.Repeat("x", 300_000)+" fresh", state(c, "large"))
	now = testTime.Add(time.Hour)
	assert.Equal(t, "1 stale", state(c, "hour"), "an hour from Set, not from Load")
	check(t, c)

	require.NoError(t, c.Save(path, encodeString), "over the one before")
	_, err = c.Load(path, decodeString)
	require.NoError(t, err)
}

func TestNoSnapshotIsNoError(t *testing.T) {
	n, err := newAt(1, testTime).Load(filepath.Join(t.TempDir(), "none", "s"), decodeString)
	assert.Zero(t, n)
	assert.NoError(t, err)
}

func TestLoadNeitherEvictsNorOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	require.NoError(t, os.WriteFile(path, snapshot(t, 10), 0o600))
	c := newAt(5, testTime)
	c.Set("mine", "1", time.Hour)
	c.Set("k3", "mine too", time.Hour)
	n, err := c.Load(path, decodeString)
	require.NoError(t, err)
	assert.Equal(t, 3, n)
	assert.Equal(t, 5, c.Len())
	assert.Equal(t, "1 fresh", state(c, "mine"))
	assert.Equal(t, "mine too fresh", state(c, "k3"))
	check(t, c)
}

func TestLoadKeepsWhatIsWorthMost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	now := testTime
	clock := func() time.Time { return now }
	c := New[string](Config{MaxEntries: 10, Now: clock})
	set := func(key string, life time.Duration) {
		c.Set(key, "", life)
		now = now.Add(time.Second)
	}
	set("asked", time.Hour)
	set("stale", time.Minute)
	set("old", time.Hour)
	set("new", time.Hour)
	c.Get([]byte("asked"), c.now())
	now = now.Add(time.Minute)
	require.NoError(t, c.Save(path, encodeString))

	for most, want := range map[int]string{1: "asked", 2: "asked new", 3: "asked new old", 4: "asked new old stale"} {
		c := New[string](Config{MaxEntries: most, Now: clock})
		n, err := c.Load(path, decodeString)
		require.NoError(t, err)
		assert.Equal(t, most, n)
		for key := range strings.FieldsSeq(want) {
			assert.NotEqual(t, "none", state(c, key), "%s of %d", key, most)
		}
	}

	// And it is evicted in the same order.
	c = New[string](Config{MaxEntries: 4, Now: clock})
	_, err := c.Load(path, decodeString)
	require.NoError(t, err)
	for i, gone := range []string{"stale", "old", "new"} {
		c.Set(fmt.Sprint(i), "", time.Hour)
		c.Get(fmt.Append(nil, i), c.now())
		_, ok := c.maps[0].Get(gone)
		assert.False(t, ok, gone)
	}
	assert.Equal(t, " fresh", state(c, "asked"))
}

// A clock that was wrong when an entry was stored, or is wrong now, must not
// make it fresh for longer than its lifetime.
func TestClockJumpsOverARestart(t *testing.T) {
	for _, tc := range []struct {
		name  string
		moved time.Duration // of the clock, between Set and Load
		want  string
		until time.Duration // from Load
	}{
		{"none", 0, "v fresh", time.Hour},
		{"on", 40 * time.Minute, "v fresh", 20 * time.Minute},
		{"far on", 24 * time.Hour, "v stale", 0},
		{"a little back", -time.Minute, "v fresh", time.Hour},
		{"far back", -24 * time.Hour, "v stale", 0},
		{"back to 1970", -time.Duration(testTime.UnixNano()), "v stale", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			c := newAt(1, testTime)
			c.Set("k", "v", time.Hour)
			require.NoError(t, c.Save(path, encodeString))
			now := testTime.Add(tc.moved)
			c = New[string](Config{MaxEntries: 1, Now: func() time.Time { return now }})
			_, err := c.Load(path, decodeString)
			require.NoError(t, err)
			require.Equal(t, tc.want, state(c, "k"))
			if tc.until > 0 {
				now = now.Add(tc.until - 1)
				require.Equal(t, "v fresh", state(c, "k"))
				now = now.Add(1)
				require.Equal(t, "v stale", state(c, "k"))
			}
		})
	}
}

func TestAbsurdTimesAreStale(t *testing.T) {
	now := testTime.UnixNano()
	for _, tc := range [][2]int64{ // created, lifetime
		{now, math.MaxInt64}, {now, -1}, {math.MaxInt64, math.MaxInt64}, {math.MinInt64, math.MaxInt64},
		{-1, int64(maxLifetime)}, {now + int64(clockSkew) + 1, 1}, {math.MinInt64, math.MinInt64}, {now, int64(maxLifetime) + 1},
	} {
		b := []byte{0}
		b = binary.LittleEndian.AppendUint64(b, uint64(tc[0]))
		b = binary.LittleEndian.AppendUint64(b, uint64(tc[1]))
		e, _, ok := parseEntry[string](append(b, 1, 'k'), now, 0)
		require.True(t, ok)
		assert.False(t, e.fresh(now, 0), "%v", tc)
		assert.True(t, e.created >= 0 && e.created <= now, "%v", tc)
	}
}

func TestNothingNewIsNotSavedAgain(t *testing.T) {
	const path = "/data/s"
	d := &forgetful{names: make(map[string]*forgetfulFile), durable: make(map[string]*forgetfulFile)}
	c := newAt(10, testTime)
	c.disk = d
	save := func(path string) (written bool) {
		t.Helper()
		d.did = nil
		require.NoError(t, c.Save(path, encodeString))
		return len(d.did) > 0
	}
	assert.True(t, save(path), "even an empty one: it says that nothing was kept")
	assert.False(t, save(path))
	c.Set("k", "v", time.Hour)
	assert.True(t, save(path))
	state(c, "k")
	assert.False(t, save(path), "to ask changes nothing worth a write")
	c.Set("k", "v", time.Hour)
	assert.True(t, save(path), "it lives longer now")
	assert.True(t, save(path+"2"), "another file")
	assert.True(t, save(path))
	delete(d.names, path)
	assert.True(t, save(path), "somebody has removed it")

	c.Set("k", "v", time.Hour)
	d.calls, d.failAt = 0, 4
	require.Error(t, c.Save(path, encodeString))
	d.failAt = 0
	assert.True(t, save(path), "the last attempt failed")

	next := newAt(10, testTime)
	next.disk = d
	n, err := next.Load(path, decodeString)
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

func TestDamageIsSetAside(t *testing.T) {
	good := snapshot(t, 3)
	newer := append([]byte(nil), good...)
	newer[len(magic)] = 2
	newer = append(binary.LittleEndian.AppendUint32(newer[:len(magic)+4:len(magic)+4], crc32.Checksum(newer[:len(magic)+4], castagnoli)), good[headerLen:]...)
	long := binary.LittleEndian.AppendUint32(append([]byte(nil), good[:headerLen]...), maxRecord+1)
	for _, tc := range []struct {
		name, reason string
		bytes        []byte
		loaded       int
	}{
		{"empty", "too early", nil, 0},
		{"something else", "no snapshot", []byte("<html>a page of twenty bytes and more</html>"), 0},
		{"newer", "newer version", newer, 0},
		{"cut", "too early", good[:len(good)-1], 3},
		{"cut between entries", "too early", good[:len(good)-16], 3},
		{"long", "too long", append(long, make([]byte, 100)...), 0},
		{"more", "data after the end", append(append([]byte(nil), good...), 0), 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			for i, suffix := range []string{"", "-1", "-2"} {
				require.NoError(t, os.WriteFile(path, tc.bytes, 0o600))
				c := newAt(10, testTime)
				n, err := c.Load(path, decodeString)
				var damaged *DamagedError
				require.ErrorAs(t, err, &damaged)
				assert.Equal(t, path, damaged.Path)
				assert.Equal(t, path+".damaged-20260102T030405.006Z"+suffix, damaged.SetAside, "round %d", i)
				assert.Contains(t, damaged.Reason, tc.reason)
				assert.Contains(t, err.Error(), tc.reason)
				assert.Contains(t, err.Error(), damaged.SetAside)
				assert.NoError(t, damaged.Err)
				assert.Equal(t, tc.loaded, n)
				assert.Equal(t, tc.loaded, c.Len())
				aside, err := os.ReadFile(damaged.SetAside)
				require.NoError(t, err)
				assert.True(t, bytes.Equal(tc.bytes, aside), "byte for byte")
				assert.NoFileExists(t, path)
				check(t, c)
			}
		})
	}
}

func TestEveryFlippedBitAndEveryCutIsNoticed(t *testing.T) {
	good := snapshot(t, 3)
	holds := func(c *Cache[string]) {
		for i := range c.shards {
			for e := c.shards[i].oldest; e != nil; e = e.newer {
				require.Equal(t, "v"+e.key[1:], e.value)
			}
		}
	}
	for i := range good {
		c := newAt(10, testTime)
		_, err := c.read(bytes.NewReader(good[:i]), decodeString)
		require.Error(t, err, "cut at %d", i)
		holds(c)
		for bit := range 8 {
			bad := append([]byte(nil), good...)
			bad[i] ^= 1 << bit
			c := newAt(10, testTime)
			_, err := c.read(bytes.NewReader(bad), decodeString)
			require.Error(t, err, "bit %d of byte %d", bit, i)
			holds(c)
		}
	}
}

func TestValuesThatCannotBeDecoded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	require.NoError(t, os.WriteFile(path, snapshot(t, 3), 0o600))
	c := newAt(10, testTime)
	n, err := c.Load(path, func(b []byte) (string, error) {
		if string(b) == "v1" {
			return "", errors.New("of another version")
		}
		return string(b), nil
	})
	var damaged *DamagedError
	require.ErrorAs(t, err, &damaged)
	assert.Equal(t, "1 of 3 values could not be decoded", damaged.Reason)
	assert.Equal(t, 2, n)
	assert.Equal(t, "none", state(c, "k1"))
	assert.Equal(t, "v2 fresh", state(c, "k2"))
}

func TestWhatIsTooLargeIsLeftOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c := newAt(10, testTime)
	c.Set("small", "v", time.Hour)
	c.Set("large", strings.Repeat("x", maxRecord), time.Hour)
	require.NoError(t, c.Save(path, encodeString))
	c = newAt(10, testTime)
	n, err := c.Load(path, decodeString)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.Equal(t, "v fresh", state(c, "small"))
}

func TestWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	c := newAt(10, testTime)
	_, err := c.Load(dir, decodeString)
	require.Error(t, err)
	var damaged *DamagedError
	assert.False(t, errors.As(err, &damaged), "nothing to set aside")
	require.Error(t, c.Save(filepath.Join(dir, "none", "s"), encodeString))
}

// An announced length takes memory only for what is there.
func TestMemoryOfALie(t *testing.T) {
	lie := binary.LittleEndian.AppendUint32(append([]byte(nil), snapshot(t, 0)[:headerLen]...), maxRecord)
	lie = append(lie, make([]byte, 100)...)
	c := newAt(10, testTime)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const rounds = 20
	for range rounds {
		_, err := c.read(bytes.NewReader(lie), decodeString)
		require.Error(t, err)
	}
	runtime.ReadMemStats(&after)
	assert.Less(t, (after.TotalAlloc-before.TotalAlloc)/rounds, uint64(4*readStep))
}

// forgetful is a disk in memory. A crash undoes what was not synced: the bytes
// of a file, and the names in the folder.
type forgetful struct {
	names, durable map[string]*forgetfulFile // as seen now; as they are after a crash
	calls, failAt  int                       // the call number failAt fails, and does nothing; 0: none
	did            []string                  // every call that came
}

type forgetfulFile struct {
	disk          *forgetful
	bytes, synced []byte
}

var errDisk = errors.New("disk failed")

func (d *forgetful) call(name string) error {
	d.calls++
	d.did = append(d.did, name)
	if d.calls == d.failAt {
		return errDisk
	}
	return nil
}

func (d *forgetful) Open(path string) (io.ReadCloser, error) {
	f, ok := d.names[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(f.bytes)), nil
}

func (d *forgetful) Create(path string) (diskFile, error) {
	if err := d.call("create"); err != nil {
		return nil, err
	}
	if _, ok := d.names[path]; ok {
		return nil, fs.ErrExist
	}
	f := &forgetfulFile{disk: d}
	d.names[path] = f
	return f, nil
}

func (d *forgetful) Remove(path string) error {
	if err := d.call("remove"); err != nil {
		return err
	}
	if _, ok := d.names[path]; !ok {
		return fs.ErrNotExist
	}
	delete(d.names, path)
	return nil
}

func (d *forgetful) Rename(from, to string) error {
	if err := d.call("rename"); err != nil {
		return err
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

func (d *forgetful) Exists(path string) (bool, error) {
	_, ok := d.names[path]
	return ok, nil
}

func (d *forgetful) SyncDir(string) error {
	if err := d.call("sync folder"); err != nil {
		return err
	}
	d.durable = make(map[string]*forgetfulFile)
	for name, f := range d.names {
		d.durable[name] = f
	}
	return nil
}

func (f *forgetfulFile) Write(b []byte) (int, error) {
	if err := f.disk.call("write"); err != nil {
		f.bytes = append(f.bytes, b[:len(b)/2]...)
		return len(b) / 2, err
	}
	f.bytes = append(f.bytes, b...)
	return len(b), nil
}

func (f *forgetfulFile) Sync() error {
	if err := f.disk.call("sync"); err != nil {
		return err
	}
	f.synced = append([]byte(nil), f.bytes...)
	return nil
}

func (f *forgetfulFile) Close() error { return f.disk.call("close") }

// crash is the disk after a power cut. namesKept: the folder's changes had
// reached the disk by chance; bytes that were not synced never did.
func (d *forgetful) crash(namesKept bool) *forgetful {
	from := d.durable
	if namesKept {
		from = d.names
	}
	next := &forgetful{names: make(map[string]*forgetfulFile)}
	for name, f := range from {
		next.names[name] = &forgetfulFile{disk: next, bytes: f.synced, synced: f.synced}
	}
	next.durable = next.names
	return next
}

// Whatever step of Save fails, and whatever a power cut then takes away, the
// snapshot is the old one or the new one, whole.
func TestSaveIsAtomic(t *testing.T) {
	const path = "/data/s"
	version := func(v string) *Cache[string] {
		c := newAt(10, testTime)
		c.Set("k", v, time.Hour)
		return c
	}
	load := func(d *forgetful) string {
		c := newAt(10, testTime)
		c.disk = d
		_, err := c.Load(path, decodeString)
		require.NoError(t, err)
		return state(c, "k")
	}
	steps := 0
	for failAt := 0; failAt == 0 || failAt <= steps; failAt++ {
		d := &forgetful{names: make(map[string]*forgetfulFile), durable: make(map[string]*forgetfulFile)}
		c := version("old")
		c.disk = d
		require.NoError(t, c.Save(path, encodeString))
		d.names[path+".tmp"] = &forgetfulFile{disk: d, bytes: []byte("of an earlier crash")}

		c = version("new")
		c.disk, d.calls, d.failAt, d.did = d, 0, failAt, nil
		err := c.Save(path, encodeString)
		if failAt == 0 {
			require.NoError(t, err)
			require.Equal(t, []string{"remove", "create", "write", "sync", "close", "rename", "sync folder"}, d.did)
			steps = len(d.did)
			for _, namesKept := range []bool{false, true} {
				require.Equal(t, "new fresh", load(d.crash(namesKept)), "durable once Save returned nil")
			}
			continue
		}
		require.ErrorIs(t, err, errDisk, "step %d", failAt)
		d.failAt = 0
		for _, after := range []*forgetful{d, d.crash(false), d.crash(true)} {
			got := load(after)
			if failAt < steps {
				require.Equal(t, "old fresh", got, "step %d", failAt)
			} else {
				require.Contains(t, []string{"old fresh", "new fresh"}, got, "step %d", failAt)
			}
		}
		if failAt > 1 && failAt < steps {
			require.NotContains(t, d.names, path+".tmp", "step %d", failAt)
		}
		require.NoError(t, c.Save(path, encodeString), "the next one works")
		require.Equal(t, "new fresh", load(d.crash(false)))
	}
}

// A power cut between any two steps, with nothing failing before it.
func TestACrashAtAnyStepOfSave(t *testing.T) {
	const path = "/data/s"
	for at := 1; ; at++ {
		d := &forgetful{names: make(map[string]*forgetfulFile), durable: make(map[string]*forgetfulFile)}
		c := newAt(10, testTime)
		c.disk = d
		c.Set("k", "old", time.Hour)
		require.NoError(t, c.Save(path, encodeString))
		c.Set("k", "new", time.Hour)
		d.calls, d.failAt = 0, at
		cut := func() (r any) {
			defer func() { r = recover() }()
			c.disk = crashDisk{d}
			require.NoError(t, c.Save(path, encodeString))
			return nil
		}()
		if cut == nil {
			require.Greater(t, at, 6)
			return
		}
		require.Equal(t, errDisk, cut)
		for _, namesKept := range []bool{false, true} {
			c := newAt(10, testTime)
			c.disk = d.crash(namesKept)
			n, err := c.Load(path, decodeString)
			require.NoError(t, err, "step %d", at)
			require.Equal(t, 1, n)
		}
	}
}

// crashDisk ends the process, so to speak, where its disk would fail.
type crashDisk struct{ *forgetful }

func (d crashDisk) Create(path string) (diskFile, error) {
	f, err := d.forgetful.Create(path)
	return crashFile{f}, must(err)
}
func (d crashDisk) Remove(path string) error     { return must(d.forgetful.Remove(path)) }
func (d crashDisk) Rename(from, to string) error { return must(d.forgetful.Rename(from, to)) }
func (d crashDisk) SyncDir(path string) error    { return must(d.forgetful.SyncDir(path)) }

type crashFile struct{ diskFile }

func (f crashFile) Write(b []byte) (int, error) { n, err := f.diskFile.Write(b); return n, must(err) }
func (f crashFile) Sync() error                 { return must(f.diskFile.Sync()) }
func (f crashFile) Close() error                { return must(f.diskFile.Close()) }

func must(err error) error {
	if err == errDisk {
		panic(err)
	}
	return err
}

func TestWhatCannotBeSetAsideStays(t *testing.T) {
	d := &forgetful{names: map[string]*forgetfulFile{"/data/s": {bytes: []byte("damaged")}}, failAt: 1}
	c := newAt(1, testTime)
	c.disk = d
	_, err := c.Load("/data/s", decodeString)
	var damaged *DamagedError
	require.ErrorAs(t, err, &damaged)
	assert.Empty(t, damaged.SetAside)
	assert.ErrorIs(t, err, errDisk)
	assert.Contains(t, err.Error(), "could not be set aside")
	assert.Contains(t, d.names, "/data/s")
}

func FuzzSnapshot(f *testing.F) {
	good := snapshot(f, 3)
	f.Add(good)
	f.Add(good[:len(good)-16])
	f.Add(snapshot(f, 0))
	f.Add([]byte{})
	f.Add(appendEnd(append([]byte(nil), good[:headerLen]...), 0))
	var again []byte
	again = append(again, good...)
	again[headerLen] ^= 0x40
	f.Add(again)
	f.Fuzz(func(t *testing.T, b []byte) {
		// Once as it is, once with its checksums made right, so that what is behind
		// them is reached.
		for _, in := range [][]byte{b, resealed(b)} {
			const most = 4
			c := newAt(most, testTime)
			decoded := 0
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			n, err := c.read(bytes.NewReader(in), func(v []byte) (string, error) {
				decoded++
				if !bytes.Contains(in, v) {
					t.Fatal("a value that is not in the file")
				}
				return string(v), nil
			})
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > uint64(20*len(in)+1<<20) {
				t.Fatalf("%d bytes of memory for %d bytes of file", took, len(in))
			}
			if n > decoded || n > most || c.Len() != n {
				t.Fatalf("%d loaded, %d decoded, %d kept", n, decoded, c.Len())
			}
			var d damage
			if err != nil && !errors.As(err, &d) {
				t.Fatalf("%v", err)
			}
			check(t, c)
			wall, mono := c.clock()
			for i := range c.shards {
				for e := c.shards[i].oldest; e != nil; e = e.newer {
					if e.fresh(wall+int64(maxLifetime), mono) || e.fresh(wall, mono+int64(maxLifetime)) {
						t.Fatal("fresh for longer than anything can be")
					}
				}
			}
			if err == nil && n == decoded {
				// What was loaded in full is saved and loaded again.
				path := filepath.Join(t.TempDir(), "s")
				require.NoError(t, c.Save(path, encodeString))
				next := newAt(most, testTime)
				m, err := next.Load(path, decodeString)
				require.NoError(t, err)
				require.Equal(t, n, m)
			}
		}
	})
}

// resealed is b with every checksum that can be found made right.
func resealed(b []byte) []byte {
	b = append([]byte(nil), b...)
	if len(b) < headerLen {
		return b
	}
	binary.LittleEndian.PutUint32(b[headerLen-4:], crc32.Checksum(b[:headerLen-4], castagnoli))
	for rest := b[headerLen:]; len(rest) >= 8; {
		n := int(binary.LittleEndian.Uint32(rest))
		if n == 0 {
			if len(rest) >= 16 {
				binary.LittleEndian.PutUint32(rest[4:], sum(rest[:4], rest[8:16]))
			}
			break
		}
		if n > len(rest)-8 {
			break
		}
		seal(rest[:8+n])
		rest = rest[8+n:]
	}
	return b
}
