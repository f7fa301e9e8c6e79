package output_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/crashfs"
	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
	"vtsidecar/output"
)

// cluster is a Sender that keeps documents, over all crashes of ours.
type cluster struct {
	docs    map[string]string // by _id
	refuses func(id string) bool
	fail    func() error // before a batch is looked at; may be nil
	lost    error        // of the answer, after the batch was stored
	batches []int
}

func (c *cluster) Send(_ context.Context, letters []*output.Letter) ([]output.Outcome, error) {
	if c.fail != nil {
		if err := c.fail(); err != nil {
			return nil, err
		}
	}
	c.batches = append(c.batches, len(letters))
	out := make([]output.Outcome, len(letters))
	for i, l := range letters {
		event_, whole := l.Event()
		if !whole || l.Target == nil {
			out[i].Obstacle = "it has no target"
			continue
		}
		if c.refuses != nil && c.refuses(l.Target.ID) {
			again := refusedLetter(0)
			again.Event, again.Length, again.Target = event_, l.Length, l.Target
			again.Status, again.Detail = 404, "refused again"
			out[i].Refused = &again
			continue
		}
		c.docs[l.Target.ID] = string(event_)
	}
	return out, c.lost
}

func newCluster() *cluster { return &cluster{docs: map[string]string{}} }

func refusedLetter(id int) event.DeadLetter {
	text := fmt.Sprintf(`{"id":%d,"pad":"%s"}`, id, strings.Repeat("x", id%17))
	return event.DeadLetter{
		Reason: "refused", Detail: "no", Event: []byte(text), Length: int64(len(text)), Status: 400,
		Target: &event.Target{ID: fmt.Sprint("id", id), Index: fmt.Sprint("logs-", id%3), Pipeline: "p", Op: "create"},
	}
}

// lying reads what lies in a folder: how often each _id, and the letters.
func lying(t require.TestingT, fsys output.FS, dir string) (map[string]int, []output.Letter) {
	counts, all := map[string]int{}, []output.Letter{}
	require.NoError(t, output.ReadLetters(output.LettersConfig{Dir: dir, FS: fsys}, func(l *output.Letter) error {
		id := l.Reason
		if l.Target != nil {
			id = l.Target.ID
		}
		counts[id]++
		c := *l
		c.Line = slices.Clone(l.Line)
		all = append(all, c)
		return nil
	}))
	return counts, all
}

func storeRefused(t *testing.T, d *output.DeadLetter, ids ...int) {
	t.Helper()
	for _, id := range ids {
		require.NoError(t, d.Store(background, []event.DeadLetter{refusedLetter(id)}))
	}
}

// TestALetterSaysAllThatReplayNeeds, as it lies in the file.
func TestALetterSaysAllThatReplayNeeds(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir, Output: "elasticsearch", Now: func() time.Time { return now }})
	storeRefused(t, d, 1)
	var got map[string]any
	require.NoError(t, json.Unmarshal([]byte(text(t, filepath.Join(dir, "dead-letter.ndjson"))), &got))
	assert.Equal(t, map[string]any{
		"@timestamp": "2026-01-02T03:04:05Z", "output": "elasticsearch", "status": 400.0, "reason": "refused", "detail": "no",
		"target": map[string]any{"id": "id1", "index": "logs-1", "pipeline": "p", "op": "create"},
		"event":  `{"id":1,"pad":"x"}`, "event_length": 18.0,
	}, got)

	_, all := lying(t, output.RealFS{}, dir)
	require.Len(t, all, 1)
	l := all[0]
	event_, whole := l.Event()
	assert.True(t, whole)
	assert.JSONEq(t, `{"id":1,"pad":"x"}`, string(event_))
	assert.Equal(t, now, l.Time)
	assert.Equal(t, *refusedLetter(1).Target, *l.Target)
	assert.Equal(t, "dead-letter.ndjson", l.File)
	assert.Len(t, l.ID, 16)
}

// TestLettersAreReadWhileTheyAreWritten: rotated and current ones, each once; a
// torn end and damage in between are nobody's error.
func TestLettersAreReadWhileTheyAreWritten(t *testing.T) {
	dir := t.TempDir()
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir, MaxBytes: 16 * 500})
	for id := range 12 {
		storeRefused(t, d, id)
	}
	require.NotEmpty(t, names(t, dir, "dead-letter-*.ndjson"))
	counts, all := lying(t, output.RealFS{}, dir)
	assert.Len(t, counts, 12)
	require.Len(t, all, 12)
	for i, l := range all {
		assert.Equal(t, fmt.Sprint("id", i), l.Target.ID, "in their order")
	}

	// A letter without its end, NULs as a power cut leaves them, strangers' lines.
	damaged := t.TempDir()
	whole := string(all[0].Line)
	require.NoError(t, os.WriteFile(filepath.Join(damaged, "dead-letter.ndjson"), []byte(whole+"\n\n\x00\x00\x00\n[1]\n{}\n{\"event\":3}\n"+whole[:40]), 0o600))
	counts, _ = lying(t, output.RealFS{}, damaged)
	assert.Equal(t, map[string]int{"id0": 1, output.Unreadable: 4}, counts)

	// A folder that is not there has no letters.
	counts, _ = lying(t, output.RealFS{}, filepath.Join(damaged, "x"))
	assert.Empty(t, counts)
}

// TestALetterThatIsTooLong is passed over in constant memory, and its neighbours are read.
func TestALetterThatIsTooLong(t *testing.T) {
	dir := t.TempDir()
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir})
	storeRefused(t, d, 1)
	require.NoError(t, d.Store(background, malformed(3<<20)))
	storeRefused(t, d, 2)
	var got []string
	require.NoError(t, output.ReadLetters(output.LettersConfig{Dir: dir, Most: 1 << 20}, func(l *output.Letter) error {
		got = append(got, l.Reason)
		if l.Reason == output.Unreadable {
			assert.Nil(t, l.Line)
			assert.Greater(t, l.Size, int64(3<<20))
		}
		return nil
	}))
	assert.Equal(t, []string{"refused", output.Unreadable, "refused"}, got)
}

// TestReplay: what is stored goes, what is refused again stays with its newest
// status, what cannot be sent stays as it is.
func TestReplay(t *testing.T) {
	dir := t.TempDir()
	m := metrics.New("", "", "")
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir, MaxBytes: 16 * 700, Metrics: m, Output: "elasticsearch"})
	require.NoError(t, d.Store(background, malformed(10)))
	storeRefused(t, d, 0, 1, 2, 3, 4, 5, 6, 7)
	require.NoError(t, d.Store(background, []event.DeadLetter{{Reason: "oversize", Event: []byte("{"), Length: 99}}))
	_, before := lying(t, output.RealFS{}, dir)

	es := newCluster()
	es.refuses = func(id string) bool { return id == "id3" || id == "id6" }
	tally, err := d.Replay(background, output.Edit{Filter: output.Filter{Indices: []string{"*-0", "logs-2"}}}, es)
	require.NoError(t, err)
	assert.Equal(t, output.Tally{Matched: 5, Stored: 3, Refused: 2}, tally)
	counts, after := lying(t, output.RealFS{}, dir)
	assert.Equal(t, map[string]int{"malformed": 1, "oversize": 1, "id1": 1, "id4": 1, "id7": 1, "id3": 1, "id6": 1}, counts)
	assert.Equal(t, map[string]string{"id0": string(refusedLetter(0).Event), "id2": string(refusedLetter(2).Event), "id5": string(refusedLetter(5).Event)}, es.docs)
	id := func(all []output.Letter, target string) output.Letter {
		return all[slices.IndexFunc(all, func(l output.Letter) bool { return l.Target != nil && l.Target.ID == target })]
	}
	again := id(after, "id3")
	assert.Equal(t, 404, again.Status)
	assert.Equal(t, "refused again", again.Detail)
	assert.False(t, again.Replayed.IsZero())
	assert.Equal(t, id(before, "id3").ID, again.ID, "its address is the same")
	assert.Equal(t, id(before, "id1").Line, id(after, "id1").Line, "byte for byte")

	es.refuses = nil
	tally, err = d.Replay(background, output.Edit{}, es)
	require.NoError(t, err)
	assert.Equal(t, 7, tally.Matched)
	assert.Equal(t, 5, tally.Stored)
	assert.Equal(t, 2, tally.Kept)
	assert.Len(t, es.docs, 8)
	counts, _ = lying(t, output.RealFS{}, dir)
	assert.Equal(t, map[string]int{"malformed": 1, "oversize": 1}, counts)

	// And an address of each chooses one.
	_, all := lying(t, output.RealFS{}, dir)
	tally, err = d.Purge(background, output.Edit{Filter: output.Filter{IDs: []string{all[0].ID[:8]}}})
	require.NoError(t, err)
	assert.Equal(t, output.Tally{Matched: 1, Removed: 1}, tally)
	tally, err = d.Purge(background, output.Edit{})
	require.NoError(t, err)
	assert.Equal(t, output.Tally{Matched: 1, Removed: 1}, tally)
	assert.Empty(t, names(t, dir, "dead-letter-*"), "nothing is left of what has no letters")
	assert.Zero(t, figure(t, m, "vtsidecar_dead_letter_bytes", ""))
}

func TestFilter(t *testing.T) {
	l := output.Letter{ID: "abcd", Reason: "refused", Status: 400, Target: &event.Target{Index: "logs-a-b"}, Time: time.Unix(100, 0)}
	for name, c := range map[string]struct {
		f    output.Filter
		want bool
	}{
		"all":               {output.Filter{}, true},
		"its id":            {output.Filter{IDs: []string{"x", "ab"}}, true},
		"an empty id":       {output.Filter{IDs: []string{""}}, false},
		"its reason":        {output.Filter{Reasons: []string{"x", "refused"}}, true},
		"another reason":    {output.Filter{Reasons: []string{"x"}}, false},
		"its status":        {output.Filter{Statuses: []int{400}}, true},
		"another status":    {output.Filter{Statuses: []int{0}}, false},
		"its index":         {output.Filter{Indices: []string{"logs-a-b"}}, true},
		"a pattern":         {output.Filter{Indices: []string{"l*-*b"}}, true},
		"another pattern":   {output.Filter{Indices: []string{"l*x*b", "*a", "a*"}}, false},
		"a pattern's parts": {output.Filter{Indices: []string{"logs-a-b*b"}}, false},
		"since then":        {output.Filter{Since: time.Unix(100, 0)}, true},
		"since later":       {output.Filter{Since: time.Unix(101, 0)}, false},
		"all of them":       {output.Filter{Reasons: []string{"refused"}, Statuses: []int{401}}, false},
	} {
		assert.Equal(t, c.want, c.f.Match(&l), name)
	}
	assert.False(t, (&output.Filter{Indices: []string{"*"}}).Match(&output.Letter{}))
}

// TestReplayMakesRoom: windows go on as soon as a file has become smaller.
func TestReplayMakesRoom(t *testing.T) {
	dir := t.TempDir()
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir, MaxBytes: 4000})
	id := 0
	for {
		err := d.Store(background, []event.DeadLetter{refusedLetter(id)})
		if errors.Is(err, output.ErrDeadLetterFull) {
			break
		}
		require.NoError(t, err)
		id++
	}
	require.ErrorIs(t, d.Ready(), output.ErrDeadLetterFull)
	tally, err := d.Replay(background, output.Edit{}, newCluster())
	require.NoError(t, err)
	assert.Equal(t, id, tally.Stored)
	assert.NoError(t, d.Ready())
	storeRefused(t, d, id)
}

// TestReplayWhileLettersCome: nothing of what is stored meanwhile is lost, and
// nobody who stores waits for a replay that hangs.
func TestReplayWhileLettersCome(t *testing.T) {
	dir := t.TempDir()
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir, MaxBytes: 16 * 1000})
	storeRefused(t, d, 0, 1, 2)
	es := newCluster()
	begun, goOn := make(chan struct{}), make(chan struct{})
	es.fail = func() error { close(begun); <-goOn; es.fail = nil; return nil }
	done := make(chan error, 1)
	go func() {
		_, err := d.Replay(background, output.Edit{}, es)
		done <- err
	}()
	<-begun
	storeRefused(t, d, 3, 4, 5, 6, 7, 8, 9)
	_, err := d.Purge(background, output.Edit{})
	assert.ErrorIs(t, err, output.ErrEditing)
	close(goOn)
	require.NoError(t, <-done)
	counts, _ := lying(t, output.RealFS{}, dir)
	for id := range 10 {
		_, stored := es.docs[fmt.Sprint("id", id)]
		want := 1
		if stored {
			want = 0
		}
		assert.Equal(t, want, counts[fmt.Sprint("id", id)], "id%d", id)
		if id < 3 {
			assert.True(t, stored)
		}
	}
}

// TestReplayEndsInTheMiddle: what was stored is out, the rest stays.
func TestReplayEndsInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir})
	var many []event.DeadLetter
	for id := range 1200 {
		many = append(many, refusedLetter(id))
	}
	require.NoError(t, d.Store(background, many))
	ctx, cancel := context.WithCancel(background)
	es := newCluster()
	es.fail = func() error {
		if len(es.batches) == 2 {
			cancel()
			return ctx.Err()
		}
		return nil
	}
	tally, err := d.Replay(ctx, output.Edit{}, es)
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, []int{500, 500}, es.batches)
	assert.Equal(t, 1000, tally.Stored)
	counts, _ := lying(t, output.RealFS{}, dir)
	assert.Len(t, counts, 200)
	assert.Equal(t, 1, counts["id1000"])
}

// A giant goes alone, and letters before and behind it go all the same.
func TestReplayOfGiants(t *testing.T) {
	dir := t.TempDir()
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir})
	giant := refusedLetter(5)
	giant.Event = []byte(`{"id":5,"pad":"` + strings.Repeat(`\"`, 2<<20) + `"}`)
	giant.Length = int64(len(giant.Event))
	storeRefused(t, d, 1, 2)
	require.NoError(t, d.Store(background, []event.DeadLetter{giant}))
	storeRefused(t, d, 3)
	es := newCluster()
	_, err := d.Replay(background, output.Edit{Most: output.MaxLetter(16 << 20)}, es)
	require.NoError(t, err)
	assert.Equal(t, []int{2, 1, 1}, es.batches)
	assert.Equal(t, string(giant.Event), es.docs["id5"])
	counts, _ := lying(t, output.RealFS{}, dir)
	assert.Empty(t, counts)
}

// TestReplayCrashes stops the machine at each call of a replay and of a purge,
// and lets each call fail in each way: no letter is lost, none is there twice,
// and the next replay brings all of it to its end. One of the files was set
// aside after a failed sync.
func TestReplayCrashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := func(purge bool, halt int, fault *crashfs.Fault, end between, seen func(crashfs.Op)) error {
			disk := crashfs.New()
			cfg := func() output.DeadLetterConfig {
				return output.DeadLetterConfig{Dir: letterDir, MaxBytes: 16 * 700, FS: diskFS{disk}, Metrics: figures, Output: "elasticsearch"}
			}
			syncs := 0
			disk.SetHook(func(op crashfs.Op) crashfs.Fault {
				if op.Kind == "sync" && strings.HasSuffix(op.Name, "dead-letter.ndjson") {
					if syncs++; syncs == 5 {
						return crashfs.Fault{Err: syscall.EIO}
					}
				}
				return crashfs.Fault{}
			})
			d, err := output.OpenDeadLetter(cfg())
			if err != nil {
				return err
			}
			const all = 9
			for id := range all {
				if err := d.Store(background, []event.DeadLetter{refusedLetter(id)}); err != nil {
					return err
				}
			}
			if !slices.ContainsFunc(disk.Names(letterDir), func(name string) bool { return strings.Contains(name, ".cut-") }) {
				return errors.New("no file was set aside")
			}
			es := newCluster()
			es.refuses = func(id string) bool { return id == "id3" || id == "id7" } // id3 is alone in the file set aside
			edit := func(d *output.DeadLetter) error {
				if purge {
					_, err := d.Purge(background, output.Edit{Filter: output.Filter{Indices: []string{"logs-0", "logs-1"}}})
					return err
				}
				_, err := d.Replay(background, output.Edit{}, es)
				return err
			}
			check := func(when string) error {
				counts, letters := lying(t, diskFS{disk}, letterDir)
				for id := range all {
					name := fmt.Sprint("id", id)
					_, stored := es.docs[name]
					switch n := counts[name]; {
					case n > 1:
						return fmt.Errorf("%s: %s is there %d times", when, name, n)
					case n == 0 && !stored && !(purge && id%3 < 2):
						return fmt.Errorf("%s: %s is lost", when, name)
					}
				}
				if counts[output.Unreadable] > 0 {
					return fmt.Errorf("%s: damage", when)
				}
				for _, l := range letters {
					if e, whole := l.Event(); !whole || !json.Valid(e) {
						return fmt.Errorf("%s: %s is damaged", when, l.Target.ID)
					}
				}
				return nil
			}

			n := 0
			disk.SetHook(func(op crashfs.Op) crashfs.Fault {
				if seen != nil {
					seen(op)
				}
				n++
				if n-1 == halt {
					if fault != nil {
						return *fault
					}
					return crashfs.Fault{Halt: true}
				}
				return crashfs.Fault{}
			})
			edited := edit(d)
			disk.SetHook(nil)
			ctx, cancel := context.WithCancel(background)
			cancel()
			_ = d.Close(ctx)
			synctest.Wait()
			if fault == nil && halt >= 0 && edited == nil {
				return errors.New("a machine that stopped did not say so")
			}
			switch end {
			case kill:
				disk = disk.Restart()
			case forget:
				disk = disk.Crash(nil)
			default:
				disk = disk.Crash(rand.New(rand.NewPCG(uint64(end), 1)))
			}
			if err := check("after the crash"); err != nil {
				return err
			}
			want := map[string]int{"id3": 1, "id7": 1}
			if purge {
				want = map[string]int{"id2": 1, "id5": 1, "id8": 1}
			}
			if counts, _ := lying(t, diskFS{disk}, letterDir); edited == nil && !assert.ObjectsAreEqual(want, counts) {
				return fmt.Errorf("it was done, and after a crash there is %v", counts)
			}
			d, err = output.OpenDeadLetter(cfg())
			if err != nil {
				return err
			}
			defer d.Close(background)
			if err := check("after the start"); err != nil {
				return err
			}
			if err := edit(d); err != nil {
				return err
			}
			if err := check("at the end"); err != nil {
				return err
			}
			counts, _ := lying(t, diskFS{disk}, letterDir)
			if !purge && len(es.docs) != all-2 {
				return fmt.Errorf("%d documents", len(es.docs))
			}
			if !assert.ObjectsAreEqual(want, counts) {
				return fmt.Errorf("at the end there is %v", counts)
			}
			if slices.ContainsFunc(disk.Names(letterDir), func(name string) bool { return strings.HasSuffix(name, ".new") }) {
				return errors.New("a draft is left")
			}
			return nil
		}

		runs := 0
		for _, purge := range []bool{false, true} {
			var ops []crashfs.Op
			require.NoError(t, run(purge, -1, nil, kill, func(op crashfs.Op) { ops = append(ops, op) }))
			changes := 0
			for at, op := range ops {
				for _, end := range []between{kill, forget, mix, mix + 1, mix + 2, mix + 3, mix + 4, mix + 5} {
					if op.Change() {
						changes++
						runs++
						require.NoError(t, run(purge, at, nil, end, nil), "purge %v, stopped at call %d, %s %s, end %d", purge, at, op.Kind, op.Name, end)
					}
					for _, fault := range faultsOf(op) {
						runs++
						require.NoError(t, run(purge, at, &fault, end, nil), "purge %v, call %d, %s %s fails with %+v, end %d", purge, at, op.Kind, op.Name, fault, end)
					}
				}
			}
			assert.Greater(t, changes, 100)
		}
		t.Logf("%d runs", runs)
	})
}

// FuzzLetters reads whatever lies there: no line takes a neighbour with it, and
// what is read as a letter is what encoding/json sees in it.
func FuzzLetters(f *testing.F) {
	f.Add([]byte(`{"@timestamp":"2026-01-02T03:04:05Z","output":"file","status":0,"reason":"malformed","event":"{\"","event_length":2}`))
	f.Add([]byte(`{"@timestamp":"2026-01-02T03:04:05Z","reason":"x","target":{"id":"\\\"","index":"a"},"event_base64":"e/8="}`))
	f.Add([]byte("{\"event\":\"\x00\"}\n\n[[["))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.ReplaceAll(b, []byte("\n"), []byte(" \n"))
		good := `{"@timestamp":"2026-01-02T03:04:05Z","reason":"neighbour","event":"x","event_length":1}`
		disk := crashfs.New()
		require.NoError(t, disk.Mkdir("/d", 0o700))
		h, err := disk.Create("/d/dead-letter.ndjson", 0o600)
		require.NoError(t, err)
		require.NoError(t, h.Append([][]byte{[]byte(good + "\n"), b, []byte("\n" + good + "\n"), b}))
		neighbours := 0
		require.NoError(t, output.ReadLetters(output.LettersConfig{Dir: "/d", FS: diskFS{disk}, Most: 1 << 10}, func(l *output.Letter) error {
			if string(l.Line) == good {
				neighbours++
			}
			if l.Reason == output.Unreadable || !json.Valid(l.Line) {
				return nil
			}
			var want struct {
				Reason string
				Status int
				Event  *string
				Base64 *string `json:"event_base64"`
			}
			// encoding/json takes keys in any case, and puts duplicates together.
			if json.Unmarshal(l.Line, &want) != nil || strings.Count(strings.ToLower(string(l.Line)), "event") > 2 || bytes.Contains(l.Line, []byte(`\u`)) {
				return nil
			}
			raw, _ := l.Event()
			if want.Event != nil && l.Reason == want.Reason {
				assert.Equal(t, *want.Event, string(raw))
			}
			if want.Base64 != nil && want.Event == nil && raw != nil {
				b, err := base64.StdEncoding.DecodeString(*want.Base64)
				require.NoError(t, err)
				assert.Equal(t, b, raw)
			}
			return nil
		}))
		assert.GreaterOrEqual(t, neighbours, 2)
	})
}
