package output_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/crashfs"
	"vtsidecar/internal/event"
	"vtsidecar/internal/faketime"
	"vtsidecar/internal/metrics"
	"vtsidecar/output"
)

var background = context.Background()

// openFile opens a file that is closed with the test.
func openFile(t *testing.T, cfg output.FileConfig) *output.File {
	t.Helper()
	f, err := output.OpenFile(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, f.Close(background)) })
	return f
}

// figure is a metric's value; label is that of its only label.
func figure(t *testing.T, m *metrics.Set, name, label string) float64 {
	t.Helper()
	families, err := m.Registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if label == "" || metric.GetLabel()[0].GetValue() == label {
				return metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

func ids(from, to int) (out []int) {
	for id := from; id <= to; id++ {
		out = append(out, id)
	}
	return out
}

func allLines(from, to int) string { return string(linesOf(ids(from, to)).Buf) }

func names(t *testing.T, dir, pattern string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(t, err)
	return out
}

func TestFileIsItsOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	m := metrics.New("", "", "")
	f := openFile(t, output.FileConfig{Path: filepath.Join(dir, "events.ndjson"), Metrics: m})
	assert.NoError(t, f.Ready())
	assert.Equal(t, 1.0, figure(t, m, "vtsidecar_output_up", ""))
	require.NoError(t, f.Store(background, linesOf(ids(1, 3))))
	require.NoError(t, f.Store(background, linesOf(ids(4, 4))))
	require.NoError(t, f.Store(background, &event.Lines{}))
	assert.Equal(t, allLines(1, 4), text(t, filepath.Join(dir, "events.ndjson")))
	assert.Equal(t, 4.0, figure(t, m, "vtsidecar_events_stored_total", ""))
	for name, want := range map[string]os.FileMode{dir: 0o700, filepath.Dir(dir): 0o700, filepath.Join(dir, "events.ndjson"): 0o600} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		assert.Equal(t, want, info.Mode().Perm(), name)
	}
}

func TestPermissionsAreThoseOfTheSetting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	openFile(t, output.FileConfig{Path: path, Permissions: 0o666})
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o666), info.Mode().Perm(), "whatever the umask is")
}

func TestFileGoesOnWhereItStopped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	for id := range 3 {
		f, err := output.OpenFile(output.FileConfig{Path: path})
		require.NoError(t, err)
		require.NoError(t, f.Store(background, linesOf(ids(id, id))))
		require.NoError(t, f.Close(background))
		require.NoError(t, f.Close(background), "twice")
		require.ErrorIs(t, f.Store(background, linesOf(ids(id, id))), output.ErrClosed)
		require.Error(t, f.Ready())
	}
	assert.Equal(t, allLines(0, 2), text(t, path))
}

func TestTornLineIsSetAside(t *testing.T) {
	for name, c := range map[string]struct{ before, kept, torn string }{
		"whole":          {allLines(0, 2), allLines(0, 2), ""},
		"torn":           {allLines(0, 2) + `{"id":`, allLines(0, 2), `{"id":`},
		"only torn":      {`{"id":`, "", `{"id":`},
		"hole at end":    {allLines(0, 0) + "\x00\x00\x00", allLines(0, 0), "\x00\x00\x00"},
		"hole in middle": {allLines(0, 0) + "\x00\x00\x00\"}\n" + allLines(2, 2), allLines(0, 0), "\x00\x00\x00\"}\n" + allLines(2, 2)},
		"large":          {strings.Repeat(allLines(0, 9), 5000) + strings.Repeat("x", 3<<20), strings.Repeat(allLines(0, 9), 5000), strings.Repeat("x", 3<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "events.ndjson")
			require.NoError(t, os.WriteFile(path, []byte(c.before), 0o600))
			f := openFile(t, output.FileConfig{Path: path})
			require.NoError(t, f.Store(background, linesOf(ids(7, 7))))
			assert.Equal(t, c.kept+allLines(7, 7), text(t, path))
			aside := names(t, dir, "events.torn-*")
			if c.torn == "" {
				assert.Empty(t, aside)
				return
			}
			require.Len(t, aside, 1)
			assert.Regexp(t, regexp.MustCompile(`/events\.torn-\d{8}T\d{6}$`), aside[0])
			assert.Equal(t, c.torn, text(t, aside[0]))
			info, err := os.Stat(aside[0])
			require.NoError(t, err)
			assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		})
	}
}

func TestRotationBySize(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "events.ndjson")
	now := func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 7200)) }
	f := openFile(t, output.FileConfig{Path: path, RotateBytes: 100, Now: now})
	// One that is there is never written over.
	taken := filepath.Join(dir, "events-20260102T010405-2.ndjson")
	require.NoError(t, os.WriteFile(taken, []byte("mine\n"), 0o600))
	big := &event.Lines{Buf: []byte(`{"big":"` + strings.Repeat("x", 500) + "\"}\n")}
	big.Index = []event.Line{{End: len(big.Buf)}}
	require.NoError(t, f.Store(background, linesOf(ids(0, 19))))
	require.NoError(t, f.Store(background, big))
	require.NoError(t, f.Store(background, linesOf(ids(20, 20))))

	assert.Equal(t, "mine\n", text(t, taken))
	var all string
	for n := 1; ; n++ {
		name := filepath.Join(dir, fmt.Sprintf("events-20260102T010405-%d.ndjson", n))
		if name == taken {
			continue
		}
		if _, err := os.Stat(name); err != nil {
			break
		}
		part := text(t, name)
		assert.True(t, len(part) <= 100 || part == string(big.Buf), "%d bytes", len(part))
		all += part
	}
	all += text(t, path)
	assert.Equal(t, allLines(0, 19)+string(big.Buf)+allLines(20, 20), all)
}

func TestNoRotationWithoutASize(t *testing.T) {
	dir := t.TempDir()
	f := openFile(t, output.FileConfig{Path: filepath.Join(dir, "noext")})
	for range 5 {
		require.NoError(t, f.Store(background, linesOf(ids(0, 500))))
	}
	assert.Len(t, names(t, dir, "*"), 1)
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(file, link))
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	inUse := filepath.Join(dir, "used")
	openFile(t, output.FileConfig{Path: inUse})
	cases := map[string]string{"": "no path", dir: "is a folder", link: "symbolic link", pipe: "not a regular file",
		filepath.Join(file, "below"): file, inUse: "in use by another process"}
	if os.Geteuid() != 0 {
		closed := filepath.Join(dir, "closed")
		require.NoError(t, os.Mkdir(closed, 0o500))
		cases[filepath.Join(closed, "events.ndjson")] = "permission denied"
	}
	for path, word := range cases {
		_, err := output.OpenFile(output.FileConfig{Path: path})
		require.Error(t, err, path)
		assert.Contains(t, err.Error(), "output.file.path: ", path)
		assert.Contains(t, err.Error(), word, path)
		assert.NotContains(t, err.Error(), "\n")
	}
}

// TestOthersTouchTheFile: an operator or logrotate may do what they like; what
// is stored after it goes to a file with the right name.
func TestOthersTouchTheFile(t *testing.T) {
	for name, c := range map[string]struct {
		touch func(t *testing.T, path string)
		want  string
	}{
		"removed": {func(t *testing.T, p string) { require.NoError(t, os.Remove(p)) }, allLines(2, 2)},
		"moved":   {func(t *testing.T, p string) { require.NoError(t, os.Rename(p, p+".1")) }, allLines(2, 2)},
		"emptied": {func(t *testing.T, p string) { require.NoError(t, os.Truncate(p, 0)) }, allLines(2, 2)},
		"cut":     {func(t *testing.T, p string) { require.NoError(t, os.Truncate(p, int64(len(allLines(0, 0))+3))) }, allLines(0, 0) + allLines(2, 2)},
		"folder":  {func(t *testing.T, p string) { require.NoError(t, os.RemoveAll(filepath.Dir(p))) }, allLines(2, 2)},
		"replaced": {func(t *testing.T, p string) {
			require.NoError(t, os.Rename(p, p+".1"))
			require.NoError(t, os.WriteFile(p, []byte(allLines(5, 5)), 0o600))
		}, allLines(5, 5) + allLines(2, 2)},
		"continued": {func(t *testing.T, p string) { appendTo(t, p, allLines(5, 5)+"{") }, allLines(0, 1) + allLines(5, 5) + allLines(2, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "d", "events.ndjson")
			f := openFile(t, output.FileConfig{Path: path})
			require.NoError(t, f.Store(background, linesOf(ids(0, 1))))
			c.touch(t, path)
			require.NoError(t, f.Store(background, linesOf(ids(2, 2))))
			assert.Equal(t, c.want, text(t, path))
			assert.NoError(t, f.Ready())
		})
	}
}

func appendTo(t *testing.T, path, s string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = f.WriteString(s)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// TestTouchedWhileWritten: between the write and the answer. A second time in a
// row is a failure, with a pause.
func TestTouchedWhileWritten(t *testing.T) {
	for name, touch := range map[string]func(disk *crashfs.FS) error{
		"removed": func(disk *crashfs.FS) error { return disk.Remove("/events.ndjson") },
		"moved":   func(disk *crashfs.FS) error { return disk.Rename("/events.ndjson", "/elsewhere") },
		"cut": func(disk *crashfs.FS) error {
			h, err := disk.Open("/events.ndjson")
			if err != nil {
				return err
			}
			return h.Truncate(0)
		},
	} {
		for times := 1; times <= 2; times++ {
			t.Run(fmt.Sprint(name, times), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					disk, left := crashfs.New(), times
					f := openFile(t, output.FileConfig{Path: "/events.ndjson", FS: touchedFS{diskFS{disk}, touch, &left}})
					start := time.Now()
					require.NoError(t, f.Store(background, linesOf(ids(1, 2))))
					data, err := disk.ReadFile("/events.ndjson")
					require.NoError(t, err)
					assert.Equal(t, allLines(1, 2), string(data))
					assert.Zero(t, left, "it was not touched so often")
					assert.LessOrEqual(t, time.Since(start), time.Second)
				})
			})
		}
	}
}

// touchedFS touches the file after its next syncs.
type touchedFS struct {
	diskFS
	touch func(*crashfs.FS) error
	times *int
}

func (f touchedFS) Create(name string, perm os.FileMode) (output.Handle, error) {
	h, err := f.diskFS.Create(name, perm)
	return touchedHandle{h, f}, err
}

func (f touchedFS) Open(name string) (output.Handle, error) {
	h, err := f.diskFS.Open(name)
	return touchedHandle{h, f}, err
}

type touchedHandle struct {
	output.Handle
	f touchedFS
}

func (h touchedHandle) Append(bufs [][]byte) error {
	err := h.Handle.Append(bufs)
	if *h.f.times > 0 && err == nil {
		*h.f.times--
		err = h.f.touch(h.f.FS)
	}
	return err
}

// TestGroupCommit: what arrives during a sync shares the next write and sync.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := crashfs.New()
		first, gate := make(chan struct{}), make(chan struct{})
		f := openFile(t, output.FileConfig{Path: "/events.ndjson", FS: gatedFS{diskFS{disk}, first, gate}})
		var mu sync.Mutex
		var calls []string
		disk.SetHook(func(op crashfs.Op) crashfs.Fault {
			mu.Lock()
			defer mu.Unlock()
			if op.Kind == "sync" || op.Kind == "append" {
				calls = append(calls, op.Kind)
			}
			return crashfs.Fault{}
		})
		var wg sync.WaitGroup
		put := func(ctx context.Context, id int) {
			wg.Go(func() { assert.NoError(t, f.Store(ctx, linesOf(ids(id, id)))) })
		}
		put(background, 0)
		<-first
		for id := 1; id < 50; id++ {
			put(background, id)
		}
		// One that leaves before it is in a group leaves at once, and no trace.
		leaving, leave := context.WithCancel(background)
		gone := make(chan error)
		go func() { gone <- f.Store(leaving, linesOf(ids(99, 99))) }()
		synctest.Wait()
		leave()
		assert.ErrorIs(t, <-gone, context.Canceled)
		close(gate)
		wg.Wait()
		assert.Equal(t, []string{"append", "sync", "append", "sync"}, calls)
		data, err := disk.ReadFile("/events.ndjson")
		require.NoError(t, err)
		lines := strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n")
		assert.Len(t, lines, 50)
		assert.NotContains(t, string(data), `"id":99`)
	})
}

// gatedFS holds the first append until the gate opens.
type gatedFS struct {
	diskFS
	first, gate chan struct{}
}

func (g gatedFS) Create(name string, perm os.FileMode) (output.Handle, error) {
	h, err := g.diskFS.Create(name, perm)
	return &gatedHandle{Handle: h, g: g}, err
}

type gatedHandle struct {
	output.Handle
	g    gatedFS
	once sync.Once
}

func (h *gatedHandle) Append(bufs [][]byte) error {
	h.once.Do(func() {
		close(h.g.first)
		<-h.g.gate
	})
	return h.Handle.Append(bufs)
}

// TestInAGroupIsWaitedFor: the bytes are being read, so Store must not return.
func TestInAGroupIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := crashfs.New()
		first, gate := make(chan struct{}), make(chan struct{})
		f := openFile(t, output.FileConfig{Path: "/events.ndjson", FS: gatedFS{diskFS{disk}, first, gate}})
		ctx, cancel := context.WithCancel(background)
		result := make(chan error, 1)
		go func() { result <- f.Store(ctx, linesOf(ids(1, 1))) }()
		<-first
		cancel()
		synctest.Wait()
		assert.Empty(t, result, "it returned while its bytes were read")
		close(gate)
		assert.NoError(t, <-result, "it is stored, so say so")
		assert.ErrorIs(t, f.Store(ctx, linesOf(ids(2, 2))), context.Canceled)
	})
}

// TestFullDisk: no ack, not ready, growing pauses, one line in the log, no
// litter; and all goes on when there is space, with or without anyone waiting.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := crashfs.New()
		m := metrics.New("", "", "")
		var log bytes.Buffer
		f := openFile(t, output.FileConfig{Path: "/d/events.ndjson", FS: diskFS{disk}, Metrics: m, Log: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, f.Store(background, linesOf(ids(0, 1))))
		disk.SetLimit(int64(len(allLines(0, 1)) + 10))
		var tries []time.Duration
		start := time.Now()
		disk.SetHook(func(op crashfs.Op) crashfs.Fault {
			if op.Kind == "append" {
				tries = append(tries, time.Since(start))
			}
			return crashfs.Fault{}
		})
		stored := make(chan error, 1)
		go func() { stored <- f.Store(background, linesOf(ids(2, 4))) }()
		faketime.Pass(t, 400*time.Second)
		synctest.Wait()
		assert.Empty(t, stored)
		second := time.Second
		assert.Equal(t, []time.Duration{0, 1 * second, 3 * second, 7 * second, 15 * second, 31 * second, 63 * second, 123 * second, 183 * second, 243 * second, 303 * second, 363 * second}, tries)
		require.Error(t, f.Ready())
		assert.ErrorIs(t, f.Ready(), syscall.ENOSPC)
		assert.Contains(t, f.Ready().Error(), "output.file.path")
		assert.Equal(t, 0.0, figure(t, m, "vtsidecar_output_up", ""))
		assert.Equal(t, 12.0, figure(t, m, "vtsidecar_output_retries_total", "no_space"))
		assert.Equal(t, 1, strings.Count(log.String(), "level="), log.String())
		assert.LessOrEqual(t, len(disk.Names("/d")), 3, "%v", disk.Names("/d"))

		disk.SetLimit(0)
		require.NoError(t, <-stored)
		assert.NoError(t, f.Ready())
		assert.Equal(t, 2, strings.Count(log.String(), "level="), log.String())
		assert.Equal(t, 5.0, figure(t, m, "vtsidecar_events_stored_total", ""))
		var all string
		for _, name := range disk.Names("/d") {
			data, _ := disk.ReadFile("/d/" + name)
			all += string(data)
		}
		assert.Equal(t, allLines(0, 4), all)

		// And with nobody waiting.
		disk.SetLimit(1)
		ctx, cancel := context.WithTimeout(background, 5*time.Second)
		defer cancel()
		assert.ErrorIs(t, f.Store(ctx, linesOf(ids(5, 9))), context.DeadlineExceeded)
		faketime.Pass(t, 10*time.Minute)
		require.Error(t, f.Ready())
		disk.SetLimit(0)
		faketime.Pass(t, 2*time.Minute)
		assert.NoError(t, f.Ready())
		assert.False(t, slices.Contains(disk.Names("/d"), "events.probe"))
		require.NoError(t, f.Store(background, linesOf(ids(10, 10))))
	})
}

func TestStartOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := crashfs.New()
		require.NoError(t, disk.SyncDir("/"))
		h, err := disk.Create("/events.ndjson", 0o600)
		require.NoError(t, err)
		require.NoError(t, h.Append([][]byte{[]byte(allLines(0, 0) + "torn")}))
		disk.SetLimit(1)
		f := openFile(t, output.FileConfig{Path: "/events.ndjson", FS: diskFS{disk}})
		assert.ErrorIs(t, f.Ready(), syscall.ENOSPC)
		faketime.Pass(t, time.Hour)
		assert.Equal(t, []string{"events.ndjson"}, disk.Names("/"))
		disk.SetLimit(0)
		require.NoError(t, f.Store(background, linesOf(ids(1, 1))))
		data, err := disk.ReadFile("/events.ndjson")
		require.NoError(t, err)
		assert.Equal(t, allLines(0, 1), string(data))
	})
}

// TestCloseOnASickDisk: what waits is told so, and Close ends when its patience does.
func TestCloseOnASickDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := crashfs.New()
		f, err := output.OpenFile(output.FileConfig{Path: "/events.ndjson", FS: diskFS{disk}})
		require.NoError(t, err)
		disk.SetHook(func(op crashfs.Op) crashfs.Fault {
			if op.Kind == "sync" {
				return crashfs.Fault{Err: syscall.EIO}
			}
			return crashfs.Fault{}
		})
		stored := make(chan error, 1)
		go func() { stored <- f.Store(background, linesOf(ids(1, 1))) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(background, 10*time.Second)
		defer cancel()
		err = f.Close(ctx)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorIs(t, <-stored, output.ErrClosed)
	})
}

// TestManyAtOnce is for the race detector: real files, rotation, leavers.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	m := metrics.New("", "", "")
	f := openFile(t, output.FileConfig{Path: filepath.Join(dir, "events.ndjson"), RotateBytes: 5000, Metrics: m})
	var wg sync.WaitGroup
	const writers, each = 16, 20
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				id := (w*each + n) * 3
				ctx, cancel := context.WithCancel(background)
				if n%5 == 4 {
					go cancel()
				}
				for f.Store(ctx, linesOf(ids(id, id+2))) != nil {
					ctx = background
				}
				cancel()
			}
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for _, name := range names(t, dir, "events*.ndjson") {
		data := text(t, name)
		require.True(t, strings.HasSuffix(data, "\n"))
		for line := range strings.SplitSeq(strings.TrimSuffix(data, "\n"), "\n") {
			id, whole := fileSubject.id([]byte(line))
			require.True(t, whole, line)
			seen[id] = true
		}
	}
	assert.Len(t, seen, writers*each*3)
	assert.NoError(t, f.Ready())
}
