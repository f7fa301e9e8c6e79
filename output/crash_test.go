package output_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"regexp"
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

// The crash tests run a script of portions on a disk that forgets what was not
// synced. A run has several lives. In each of them calls fail or the machine
// stops at chosen calls; between two lives the process is killed or the power
// is cut. At every start, and after a last power cut, all that was ever
// acknowledged must be there, whole, and nothing but whole lines.

// diskFS is crashfs as output knows a file system.
type diskFS struct{ *crashfs.FS }

func (d diskFS) Create(name string, perm fs.FileMode) (output.Handle, error) {
	h, err := d.FS.Create(name, perm)
	if err != nil {
		return nil, err
	}
	return h, nil
}

func (d diskFS) Open(name string) (output.Handle, error) {
	h, err := d.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return h, nil
}

func (d diskFS) View(name string) (output.View, error) {
	h, err := d.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// store is a File or a DeadLetter that is given its lines by number.
type store interface {
	put(ctx context.Context, ids []int) error
	Ready() error
	Close(ctx context.Context) error
}

// subject is what the crash tests are about.
type subject struct {
	dir, active string
	open        func(disk *crashfs.FS) (store, error)
	line        func(id int) string                 // as it stands in the file, where it is the same each time
	id          func(line []byte) (id int, ok bool) // ok: the line is whole
	starts      []string                            // disks that a first life can find, see prepare
	compress    bool                                // closed files are compressed
	keep        int                                 // closed files that stay; 0: all
}

var figures = metrics.New("", "", "") // nobody reads them here

const dataDir = "/var/lib"

// tornText is longer than a line that is written in its place.
var tornText = `{"id":77,"torn":"` + strings.Repeat("a line that never came to its end, ", 8)

func fileLine(id int) string {
	return fmt.Sprintf(`{"id":%d,"pad":"%s"}`+"\n", id, strings.Repeat(string(rune('a'+id%26)), 7+id*5%23))
}

type fileStore struct{ *output.File }

func (s fileStore) put(ctx context.Context, ids []int) error { return s.Store(ctx, linesOf(ids)) }

func linesOf(ids []int) *event.Lines {
	lines := &event.Lines{}
	for _, id := range ids {
		lines.Buf = append(lines.Buf, fileLine(id)...)
		lines.Index = append(lines.Index, event.Line{End: len(lines.Buf)})
	}
	return lines
}

var (
	fileSubject       = fileSubjectOf(false, 0, "torn", "killed", "")
	compressedSubject = fileSubjectOf(true, 0, "pair", "damaged", "")
	keptSubject       = fileSubjectOf(true, 2, "")
)

func fileSubjectOf(compress bool, keep int, starts ...string) subject {
	return subject{
		dir: dataDir, active: dataDir + "/events.ndjson",
		open: func(disk *crashfs.FS) (store, error) {
			f, err := output.OpenFile(output.FileConfig{
				Path: dataDir + "/events.ndjson", RotateBytes: 110, Compress: compress, Keep: keep, FS: diskFS{disk}, Metrics: figures,
			})
			return fileStore{f}, err
		},
		line: fileLine,
		id: func(line []byte) (int, bool) {
			var l struct{ ID int }
			err := json.Unmarshal(line, &l)
			return l.ID, err == nil && string(line)+"\n" == fileLine(l.ID)
		},
		starts: starts, compress: compress, keep: keep,
	}
}

type letterStore struct{ *output.DeadLetter }

func (s letterStore) put(ctx context.Context, ids []int) error {
	var letters []event.DeadLetter
	for _, id := range ids {
		letters = append(letters, event.DeadLetter{Reason: "malformed", Event: []byte(letterText(id))})
	}
	return s.Store(ctx, letters)
}

func letterText(id int) string { return fmt.Sprintf("{%d %s", id, strings.Repeat("x", 20+id%7)) }

const letterDir = dataDir + "/dead-letter"

var letterSubject = subject{
	dir: letterDir, active: letterDir + "/dead-letter.ndjson",
	open: func(disk *crashfs.FS) (store, error) {
		d, err := output.OpenDeadLetter(output.DeadLetterConfig{Dir: letterDir, MaxBytes: 16 * 400, FS: diskFS{disk}, Metrics: figures})
		return letterStore{d}, err
	},
	line: func(int) string { return `{"event":"{0 ` + strings.Repeat("x", 20) + `"}` + "\n" },
	id: func(line []byte) (int, bool) {
		var l struct{ Event string }
		if json.Unmarshal(line, &l) != nil {
			return 0, false
		}
		var id int
		fmt.Sscanf(l.Event, "{%d", &id)
		return id, l.Event == letterText(id)
	},
	starts: []string{"torn", "killed", ""},
}

// between says what ends a life.
type between int

const (
	kill   between = iota // the page cache stays
	forget                // the power is cut and everything unsynced is gone
	mix                   // the power is cut and anything unsynced may be gone; and more of these with other seeds
)

// life is what goes wrong until the process ends.
type life struct {
	faults map[int]crashfs.Fault // by number of the call
	halt   int                   // the machine stops at this call; -1: the script is played to its end
	end    between
}

// plan is one run.
type plan struct {
	start string // one of the subject's
	lives []life
}

// run plays the script on a plan and returns what was lost or damaged. skip
// takes a sync out. seen is told each call.
func (s subject) run(p plan, skip func(crashfs.Op) bool, seen func(life int, op crashfs.Op)) error {
	disk := s.prepare(p.start)
	script := [][]int{{1}, {2, 3}, {4}, {5, 6, 7, 8}, {9}, {10, 11}}
	acked := map[int]bool{}
	switch p.start {
	case "killed":
		acked[0] = false
	case "pair", "damaged":
		acked[0] = true
	}
	for n, l := range p.lives {
		ctx, cancel := context.WithCancel(context.Background())
		crashed := false
		failed := map[*int]bool{} // files of which a write or sync has failed
		var again error
		disk.SetHook(func(op crashfs.Op) crashfs.Fault {
			if op.Kind == "sync" && failed[op.File] {
				again = fmt.Errorf("life %d: %s was synced again after a failure", n, op.Name)
			}
			if seen != nil {
				seen(n, op)
			}
			if op.N == l.halt {
				cancel()
				return crashfs.Fault{Halt: true}
			}
			if fault, ok := l.faults[op.N]; ok {
				if op.Kind == "append" || op.Kind == "sync" {
					failed[op.File] = true
				}
				return fault
			}
			if skip != nil && (op.Kind == "sync" || op.Kind == "syncdir") && skip(op) {
				return crashfs.Fault{Done: true}
			}
			return crashfs.Fault{}
		})
		st, err := s.open(disk)
		if err == nil {
			// A start on a full disk is one, but not at its end; and what looks after
			// closed files has its calls here, so that their order is the same each time.
			synctest.Wait()
			if err := s.check(disk, acked, p.start, false); st.Ready() == nil && err != nil {
				cancel()
				st.Close(ctx)
				return fmt.Errorf("at start of life %d: %w", n, err)
			}
			for _, ids := range script {
				if done(acked, ids) {
					continue
				}
				err := st.put(ctx, ids)
				if err != nil {
					crashed = true
					break
				}
				for _, id := range ids {
					acked[id] = true
				}
				if err := st.Ready(); err != nil {
					cancel()
					st.Close(ctx)
					return fmt.Errorf("not ready after an ack: %w", err)
				}
				synctest.Wait()
			}
			if crashed {
				cancel()
			} else {
				<-time.After(2 * time.Hour) // of the bubble's clock: closed files are tried again
				synctest.Wait()
			}
			st.Close(ctx)
			if !crashed && n == 0 {
				// Whatever was overcome, each line is there once.
				if err := s.check(disk, acked, p.start, true); err != nil {
					cancel()
					return fmt.Errorf("at the end of the first life: %w", err)
				}
			}
		}
		cancel()
		if again != nil {
			return again
		}
		switch l.end {
		case kill:
			disk = disk.Restart()
		case forget:
			disk = disk.Crash(nil)
		default:
			disk = disk.Crash(rand.New(rand.NewPCG(uint64(l.end), 1)))
		}
	}
	// The last start is without trouble, but for a sync that is missing.
	disk.SetHook(nil)
	st, err := s.open(disk)
	if err != nil {
		return fmt.Errorf("the last start: %w", err)
	}
	synctest.Wait()
	st.Close(context.Background())
	if err := errors.Join(s.check(disk, acked, p.start, false), s.checkClosed(disk)); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	return nil
}

// checkClosed looks whether closed files are as the settings want them.
func (s subject) checkClosed(disk *crashfs.FS) error {
	names := disk.Names(s.dir)
	closed := map[string]bool{}
	for _, name := range names {
		base := strings.TrimSuffix(name, ".gz")
		aside := slices.ContainsFunc(names, func(other string) bool { return strings.HasPrefix(other, base+".cut-") })
		switch {
		case strings.HasSuffix(name, ".tmp"):
			return fmt.Errorf("%s was left", name)
		case !closedName.MatchString(name):
			continue
		case s.compress && base == name && !aside:
			return fmt.Errorf("%s was not compressed: %v", name, names)
		}
		closed[base] = true
	}
	if s.keep > 0 && len(closed) > s.keep {
		return fmt.Errorf("%d closed files stayed", len(closed))
	}
	return nil
}

var closedName = regexp.MustCompile(`-\d{8}T\d{6}-\d+\.ndjson(\.gz)?$`)

func done(acked map[int]bool, ids []int) bool {
	for _, id := range ids {
		if !acked[id] {
			return false
		}
	}
	return true
}

// prepare makes the disk that the first life finds.
func (s subject) prepare(start string) *crashfs.FS {
	disk := crashfs.New()
	if start == "" {
		return disk
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	dir := ""
	for part := range strings.SplitSeq(strings.TrimPrefix(s.dir, "/"), "/") {
		must(disk.Mkdir(dir+"/"+part, 0o700))
		must(disk.SyncDir(dir + "/"))
		dir += "/" + part
	}
	h, err := disk.Create(s.active, 0o600)
	must(err)
	must(disk.SyncDir(s.dir))
	if start == "pair" || start == "damaged" {
		const name = "/events-20000101T000000-1.ndjson"
		plain, err := disk.Create(s.dir+name, 0o600)
		must(err)
		must(plain.Append([][]byte{[]byte(s.line(0))}))
		must(plain.Sync())
		// Somebody else's gzip, which synced nothing or was stopped.
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, err = w.Write([]byte(s.line(0)))
		must(errors.Join(err, w.Close()))
		if start == "damaged" {
			zipped.Truncate(zipped.Len() - 9)
		}
		gz, err := disk.Create(s.dir+name+".gz", 0o600)
		must(err)
		must(gz.Append([][]byte{zipped.Bytes()}))
		must(disk.SyncDir(s.dir))
	}
	switch start {
	case "torn":
		must(h.Append([][]byte{[]byte(s.line(0)), []byte(tornText)}))
		must(h.Sync())
	case "killed":
		must(h.Append([][]byte{[]byte(s.line(0))}))
	}
	return disk.Restart()
}

// check looks at what is on the disk as it reads now.
func (s subject) check(disk *crashfs.FS, acked map[int]bool, start string, once bool) error {
	count := map[int]int{}
	closed, oldest := map[string]bool{}, math.MaxInt
	torn := start != "torn"
	empty := 0
	for _, name := range disk.Names(s.dir) {
		data, err := disk.ReadFile(s.dir + "/" + name)
		if err != nil {
			continue // a folder
		}
		if len(data) == 0 {
			empty++
		}
		if strings.Contains(name, ".torn-") {
			torn = torn || bytes.HasPrefix(data, []byte(tornText))
			continue
		}
		if strings.HasSuffix(name, ".probe") || strings.HasSuffix(name, ".tmp") {
			continue
		}
		if closedName.MatchString(name) {
			closed[strings.TrimSuffix(name, ".gz")] = true
		}
		if plain, ok := strings.CutSuffix(name, ".gz"); ok {
			if _, err := disk.ReadFile(s.dir + "/" + plain); err == nil {
				continue // that one is whole, and of two a reader takes one
			}
			if data, err = unzip(data); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		for len(data) > 0 {
			line, rest, ok := bytes.Cut(data, []byte("\n"))
			id, whole := s.id(line)
			if !ok || !whole {
				return fmt.Errorf("%s holds a line that is not whole: %.60q", name, line)
			}
			count[id]++
			if acked[id] {
				oldest = min(oldest, id)
			}
			data = rest
		}
	}
	for id, is := range acked {
		switch {
		case is && count[id] == 0 && s.keep > 0 && len(closed) >= s.keep && id < oldest:
			// It went with its file.
		case is && count[id] == 0:
			return fmt.Errorf("line %d was acknowledged and is lost", id)
		case is && once && count[id] > 1:
			return fmt.Errorf("line %d is stored %d times", id, count[id])
		}
	}
	if !torn {
		return errors.New("the torn line is lost")
	}
	if empty > 3 {
		return fmt.Errorf("%d empty files", empty)
	}
	return nil
}

func unzip(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// calls is how many calls the first life of a plan makes, and which.
func (s subject) calls(t *testing.T, p plan, of int) []crashfs.Op {
	var ops []crashfs.Op
	require.NoError(t, s.run(p, nil, func(n int, op crashfs.Op) {
		if n == of {
			ops = append(ops, op)
		}
	}))
	return ops
}

var quiet = life{halt: -1, end: forget}

// faults are the ways in which a call can fail.
func faultsOf(op crashfs.Op) []crashfs.Fault {
	out := []crashfs.Fault{{Err: syscall.EIO}}
	if !op.Change() {
		return out
	}
	out = append(out, crashfs.Fault{Err: syscall.EIO, Done: true})
	switch op.Kind {
	case "append":
		out = append(out, crashfs.Fault{Err: syscall.ENOSPC, Short: 1}, crashfs.Fault{Err: syscall.ENOSPC, Short: op.Size - 1})
	case "sync":
		out = append(out, crashfs.Fault{Err: syscall.EIO, Done: true, Short: 20})
	}
	return out
}

// family is a set of plans on one start; it stops when do says so.
type family func(s subject, t *testing.T, start string, do func(plan) bool)

// halts stops the machine at each call, and then the start after it at each
// call as well.
func halts(s subject, t *testing.T, start string, do func(plan) bool) {
	ops := slices.DeleteFunc(s.calls(t, plan{start, []life{quiet}}, 0), func(op crashfs.Op) bool { return !op.Change() })
	for _, op := range ops {
		for _, end := range []between{kill, forget, mix, mix + 1, mix + 2, mix + 3, mix + 4, mix + 5} {
			if !do(plan{start, []life{{halt: op.N, end: end}, quiet}}) {
				return
			}
		}
	}
	for _, op := range ops {
		for next := range 14 {
			for _, end := range []between{kill, forget, mix + between(next+op.N)} {
				if !do(plan{start, []life{{halt: op.N, end: kill}, {halt: next, end: end}, quiet}}) ||
					!do(plan{start, []life{{halt: op.N, end: mix + between(op.N)}, {halt: next, end: end}, quiet}}) {
					return
				}
			}
		}
	}
}

// failures lets each call fail in each way, and stops the machine at each of
// the calls by which that is seen to, and where a sync failed the start after it too.
func failures(s subject, t *testing.T, start string, do func(plan) bool) {
	s.failures(t, start, func(crashfs.Op) bool { return true }, do)
}

// syncFailures are those that begin with a failed sync.
func syncFailures(s subject, t *testing.T, start string, do func(plan) bool) {
	s.failures(t, start, func(op crashfs.Op) bool { return op.Kind == "sync" }, do)
}

func (s subject) failures(t *testing.T, start string, of func(crashfs.Op) bool, do func(plan) bool) {
	ops := slices.DeleteFunc(s.calls(t, plan{start, []life{quiet}}, 0), func(op crashfs.Op) bool { return !of(op) })
	for _, starts := range []bool{false, true} {
		for _, op := range ops {
			for _, fault := range faultsOf(op) {
				faults := map[int]crashfs.Fault{op.N: fault}
				if !starts && !do(plan{start, []life{{faults: faults, halt: -1, end: forget}, quiet}}) {
					return
				}
				for later := op.N + 1; later < op.N+18; later++ {
					for _, end := range []between{kill, forget, mix + between(later), mix + between(later+1000), mix + between(later+2000)} {
						first := life{faults: faults, halt: later, end: end}
						if !starts && !do(plan{start, []life{first, quiet}}) {
							return
						}
						for next := 2; starts && op.Kind == "sync" && end != forget && next < 14; next += 2 {
							if !do(plan{start, []life{first, {halt: next, end: forget}, quiet}}) {
								return
							}
						}
					}
				}
			}
		}
	}
}

func eachSubject(t *testing.T, test func(*testing.T, subject)) {
	for name, s := range map[string]subject{
		"file": fileSubject, "dead letter": letterSubject, "compressed file": compressedSubject, "kept files": keptSubject,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { test(t, s) })
		})
	}
}

// TestCrash: whatever call the machine stops at, and whatever call fails before,
// every acknowledged line is there. The runs with several misfortunes are too
// many for each day: VTSIDECAR_CRASH=all makes all of them.
func TestCrash(t *testing.T) {
	eachSubject(t, func(t *testing.T, s subject) {
		few := s.few()
		if os.Getenv("VTSIDECAR_CRASH") == "all" {
			few = 1
		}
		all, runs := 0, 0
		for _, start := range s.starts {
			for _, plans := range []family{halts, failures} {
				plans(s, t, start, func(p plan) bool {
					if all++; len(p.lives) > 1 && p.troubles() > 1 && all%few != 0 {
						return true
					}
					runs++
					return assert.NoError(t, s.run(p, nil, nil), "plan %+v", p)
				})
			}
		}
		t.Logf("%d runs of %d", runs, all)
	})
}

// few thins out runs that are too many for each day: one in so many is made.
// Runs that compress take longer.
func (s subject) few() int {
	if s.compress {
		return 307
	}
	return 37
}

// troubles is how many things go wrong.
func (p plan) troubles() (n int) {
	for _, l := range p.lives {
		n += len(l.faults)
		if l.halt >= 0 {
			n++
		}
	}
	return n
}

// site is one place in the code that syncs.
type site struct {
	name  string
	start string // where its absence shows,
	plans family // and in which plans
	is    func(s subject, op crashfs.Op) bool
}

func fileSync(name func(s subject, name string) bool, last string) func(subject, crashfs.Op) bool {
	return func(s subject, op crashfs.Op) bool {
		return op.Kind == "sync" && op.Last == last && name(s, op.Name)
	}
}

func folderSync(last string, after func(s subject, name string) bool) func(subject, crashfs.Op) bool {
	return func(s subject, op crashfs.Op) bool {
		return op.Kind == "syncdir" && op.Name == s.dir && op.Last == last && after(s, op.After)
	}
}

func above(last string) func(subject, crashfs.Op) bool {
	return func(s subject, op crashfs.Op) bool {
		return op.Kind == "syncdir" && op.Name != s.dir && op.Last == last
	}
}

func active(s subject, name string) bool { return path.Base(name) == path.Base(s.active) }
func torn(_ subject, name string) bool   { return strings.Contains(name, ".torn-") }
func mark(_ subject, name string) bool   { return strings.Contains(name, ".cut-") }
func zipped(_ subject, name string) bool { return strings.HasSuffix(name, ".gz") }
func tmp(_ subject, name string) bool    { return strings.HasSuffix(name, ".gz.tmp") }
func anyName(subject, string) bool       { return true }
func notZipped(s subject, name string) bool {
	return !zipped(s, name)
}
func rotated(s subject, name string) bool {
	return !active(s, name) && strings.HasSuffix(name, ".ndjson")
}

var sites = []site{
	{"the group", "", halts, fileSync(active, "append")},
	{"the copy of a torn line", "torn", halts, fileSync(torn, "append")},
	{"the cut of a torn line", "torn", halts, fileSync(active, "rewrite")},
	{"what a killed process left", "killed", syncFailures, fileSync(active, "rewrite")},
	{"the cut of a file set aside, still seen", "", syncFailures, fileSync(rotated, "open")},
	{"the cut of a file set aside, made again", "", syncFailures, fileSync(rotated, "truncate")},
	{"the folder after a file was made", "", halts, folderSync("create", active)},
	{"the folder after a rename", "", halts, folderSync("rename", notZipped)},
	{"the folder after the copy of a torn line was made", "torn", halts, folderSync("create", torn)},
	{"the folder after a cut was marked", "", syncFailures, folderSync("create", mark)},
	{"the folder that a killed process left", "", halts, folderSync("", anyName)},
	{"the folder above one that was made", "", halts, above("mkdir")},
	{"the folders above one that was there", "", halts, above("")},
}

var archiveSites = []site{
	{"the compressed file", "", halts, fileSync(tmp, "append")},
	{"the folder after a compressed file got its name", "", halts, folderSync("rename", zipped)},
}

// spare are syncs that make nothing durable that must be: of the probe, whose
// fate is the answer, and of a folder that only lost an entry before. And one of
// the journal's, all of which are above, is seen here to follow what was not its own.
var spare = []func(subject, crashfs.Op) bool{
	func(_ subject, op crashfs.Op) bool { return op.Kind == "sync" && strings.HasSuffix(op.Name, ".probe") },
	folderSync("remove", anyName),
	folderSync("create", tmp),
}

// TestEachSyncIsNeeded takes out one sync after the other: each time the test
// above must find a loss.
func TestEachSyncIsNeeded(t *testing.T) {
	eachSubject(t, func(t *testing.T, s subject) {
		sites := sites
		if s.compress {
			sites = archiveSites // the others are those of a file
		}
		if s.keep > 0 {
			sites = nil // to delete needs none
		}
		for _, site := range sites {
			used, runs, found := 0, 0, error(nil)
			site.plans(s, t, site.start, func(p plan) bool {
				runs++
				found = s.run(p, func(op crashfs.Op) bool {
					if !site.is(s, op) {
						return false
					}
					used++
					return true
				}, nil)
				return found == nil
			})
			assert.NotZero(t, used, "%s: never synced", site.name)
			assert.Error(t, found, "%s: taking this sync out is not noticed", site.name)
			t.Logf("%s: after %d runs: %v", site.name, runs, found)
		}
	})
}

// TestEverySyncIsListed: there is no sync that the test above does not know.
func TestEverySyncIsListed(t *testing.T) {
	eachSubject(t, func(t *testing.T, s subject) {
		for _, start := range s.starts {
			n := 0
			failures(s, t, start, func(p plan) bool {
				if n++; n%(3*s.few()) != 0 {
					return true
				}
				return assert.NoError(t, s.run(p, nil, func(_ int, op crashfs.Op) {
					if op.Kind != "sync" && op.Kind != "syncdir" {
						return
					}
					is := func(site func(subject, crashfs.Op) bool) bool { return site(s, op) }
					listed := slices.ContainsFunc(slices.Concat(sites, archiveSites), func(site site) bool { return is(site.is) }) || slices.ContainsFunc(spare, is)
					assert.True(t, listed, "%+v", op)
				}))
			})
		}
	})
}
