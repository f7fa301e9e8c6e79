package output_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/crashfs"
	"vtsidecar/internal/faketime"
	"vtsidecar/internal/metrics"
	"vtsidecar/output"
)

// bubble is a folder /d and a log in synctest's time, which begins at
// 2000-01-01T00:00:00Z, a Saturday.
type bubble struct {
	*testing.T
	disk *crashfs.FS
	log  bytes.Buffer
	m    *metrics.Set
}

func inBubble(t *testing.T, test func(b *bubble)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{T: t, disk: crashfs.New(), m: metrics.New("", "", "")}
		require.NoError(t, b.disk.Mkdir("/d", 0o700))
		test(b)
	})
}

// open opens /d/events.ndjson, or what cfg says; it is closed with the test.
func (b *bubble) open(cfg output.FileConfig) *output.File {
	b.Helper()
	if cfg.Path == "" {
		cfg.Path = "/d/events.ndjson"
	}
	if cfg.FS == nil {
		cfg.FS = diskFS{b.disk}
	}
	cfg.Log, cfg.Metrics = slog.New(slog.NewTextHandler(&b.log, nil)), b.m
	return openFile(b.T, cfg)
}

// put makes a file that is there before the program.
func (b *bubble) put(name, data string) {
	b.Helper()
	h, err := b.disk.Create("/d/"+name, 0o600)
	require.NoError(b, err)
	require.NoError(b, h.Append([][]byte{[]byte(data)}))
}

func (b *bubble) store(f *output.File, from, to int) {
	b.Helper()
	require.NoError(b, f.Store(background, linesOf(ids(from, to))))
	synctest.Wait()
}

// after lets time pass.
func (b *bubble) after(d time.Duration) {
	faketime.Pass(b, d)
	synctest.Wait()
}

func (b *bubble) read(name string) string {
	b.Helper()
	data, err := b.disk.ReadFile("/d/" + name)
	require.NoError(b, err)
	if strings.HasSuffix(name, ".gz") {
		data, err = unzip(data)
		require.NoError(b, err, name)
	}
	return string(data)
}

func (b *bubble) names() []string { return b.disk.Names("/d") }

// warnings is how many lines the log has of a level.
func (b *bubble) logged(level string) int { return strings.Count(b.log.String(), "level="+level) }

func zippedText(t *testing.T, s string) string {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := io.WriteString(w, s)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.String()
}

// TestRotationByAge: at the interval's end in UTC, with or without further
// events, but no empty file.
func TestRotationByAge(t *testing.T) {
	inBubble(t, func(b *bubble) {
		f := b.open(output.FileConfig{RotateEvery: time.Hour})
		b.after(90 * time.Minute)
		assert.Equal(t, []string{"events.ndjson"}, b.names(), "an empty file is left alone")
		b.store(f, 1, 1) // at 01:30
		b.after(30*time.Minute - time.Millisecond)
		assert.Equal(t, []string{"events.ndjson"}, b.names())
		b.after(time.Second)
		assert.Equal(t, []string{"events-20000101T020000-1.ndjson", "events.ndjson"}, b.names(), "nobody stored anything")
		assert.Empty(t, b.read("events.ndjson"))
		b.after(5 * time.Hour)
		assert.Len(t, b.names(), 2, "an empty file is left alone")

		b.after(time.Hour - time.Second - time.Millisecond) // to 07:59:59.999
		b.store(f, 2, 2)
		b.after(2 * time.Millisecond)
		b.store(f, 3, 3)
		assert.Equal(t, allLines(2, 2), b.read("events-20000101T080000-1.ndjson"))
		assert.Equal(t, allLines(3, 3), b.read("events.ndjson"))
		assert.NoError(t, f.Ready())
		assert.Empty(t, b.log.String())
	})
}

// TestWeeksBeginOnMonday: intervals of whole days and weeks lie where people look for them.
func TestWeeksBeginOnMonday(t *testing.T) {
	inBubble(t, func(b *bubble) {
		f := b.open(output.FileConfig{RotateEvery: 7 * 24 * time.Hour})
		b.store(f, 1, 1)
		b.after(10 * 24 * time.Hour)
		assert.Equal(t, []string{"events-20000103T000000-1.ndjson", "events.ndjson"}, b.names(), "the 3rd is a Monday")
	})
}

// TestRotationByAgeOverARestart: the file tells when it was written last.
func TestRotationByAgeOverARestart(t *testing.T) {
	for name, c := range map[string]struct {
		away time.Duration
		want []string
	}{
		"in the same hour": {10 * time.Minute, []string{"events.ndjson"}},
		"in a later one":   {3 * time.Hour, []string{"events-20000101T033000-1.ndjson", "events.ndjson"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				b.after(30 * time.Minute)
				f := b.open(output.FileConfig{RotateEvery: time.Hour})
				b.store(f, 1, 1)
				require.NoError(t, f.Close(background))
				b.after(c.away)
				b.disk = b.disk.Restart()
				f = b.open(output.FileConfig{RotateEvery: time.Hour})
				synctest.Wait()
				assert.Equal(t, c.want, b.names())
				b.store(f, 2, 2)
				if len(c.want) == 1 {
					assert.Equal(t, allLines(1, 2), b.read("events.ndjson"))
				} else {
					assert.Equal(t, allLines(2, 2), b.read("events.ndjson"))
				}
			})
		})
	}
}

// TestClockSteps: whatever the clock does, files are closed, and their names
// sort in the order of closing, over a restart too.
func TestClockSteps(t *testing.T) {
	inBubble(t, func(b *bubble) {
		var mu sync.Mutex
		var off time.Duration
		step := func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			off += d
		}
		now := func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(off)
		}
		cfg := output.FileConfig{RotateEvery: time.Hour, Now: now}
		f := b.open(cfg)
		b.store(f, 1, 1)
		step(365 * 24 * time.Hour) // to 2000-12-31
		b.store(f, 2, 2)
		assert.Equal(t, allLines(1, 1), b.read("events-20001231T000000-1.ndjson"))
		step(-365 * 24 * time.Hour)
		b.after(2 * time.Hour)
		assert.Equal(t, allLines(2, 2), b.read("events-20001231T000000-2.ndjson"), "it did not wait for a year")
		b.store(f, 3, 3)
		require.NoError(t, f.Close(background))
		b.after(2 * time.Hour)
		b.open(cfg)
		synctest.Wait()
		assert.Equal(t, allLines(3, 3), b.read("events-20001231T000000-3.ndjson"))
		assert.Len(t, b.names(), 4)
	})
}

// TestCompression: closed files lose nothing but their length, and others' files
// nothing at all.
func TestCompression(t *testing.T) {
	dir := t.TempDir()
	foreign := []string{
		"events-backup.ndjson", "events.late.ndjson", "events.torn-20260102T030405", "events-20260102T030405-1.ndjson.old",
		"events-20260102T030405-0.ndjson", "events-20260102T030405-01.ndjson", "events-20260102T030405-+1.ndjson", "events-20261302T030405-1.ndjson",
		"events-20260102T030405.ndjson", "events-20260102-1.ndjson", "events-20260102T030405-1.log", "events-x-20260102T030405-1.ndjson",
		"events-20260102T030405-1.ndjson.tmp", "events-20260102T030405-1-2.ndjson", "Events-20260102T030405-1.ndjson",
		"events-20260102T030405-99999999999999999999.ndjson", "events-20260102T030405-1.ndjson.cut-x", "events-", "events-.ndjson", "events.ndjson.gz",
	}
	for _, name := range foreign {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("theirs\n"), 0o644))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "events-20260102T030405-7.ndjson"), 0o755))
	require.NoError(t, os.Symlink("events-backup.ndjson", filepath.Join(dir, "events-20260102T030405-8.ndjson")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "events-20260102T030405-9.ndjson"), []byte(allLines(90, 99)), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "events-20260102T030405-9.ndjson.gz.tmp"), []byte("half"), 0o600))
	removed := make(chan string, 100)
	f := openFile(t, output.FileConfig{Path: filepath.Join(dir, "events.ndjson"), RotateBytes: 300 << 10, Compress: true, FS: removalFS{removed: removed}})
	zipped := func() []string { return names(t, dir, "events-20*-[1-9].ndjson.gz") }
	plain := func() int { return len(names(t, dir, "events-20*-[1-9]*.ndjson")) }
	others := plain() - len(names(t, dir, "events-20260102T030405-9.ndjson"))
	for n := range 20 {
		require.NoError(t, f.Store(background, linesOf(ids(1000*n, 1000*n+999))))
	}
	for plain() > others {
		<-removed
	}
	require.Len(t, zipped(), 3)
	var all string
	for _, name := range zipped() {
		data, err := unzip([]byte(text(t, name)))
		require.NoError(t, err)
		all += string(data)
		info, err := os.Stat(name)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	assert.Equal(t, allLines(90, 99)+allLines(0, 19999), all+text(t, filepath.Join(dir, "events.ndjson")))
	for _, name := range foreign {
		assert.Equal(t, "theirs\n", text(t, filepath.Join(dir, name)))
	}
	assert.Empty(t, names(t, dir, "*.gz.tmp"))
}

// removalFS is the real file system, and tells what was removed.
type removalFS struct {
	output.RealFS
	removed chan<- string
}

func (f removalFS) Remove(name string) error {
	err := f.RealFS.Remove(name)
	f.removed <- name
	return err
}

// TestKeep: the oldest go, by their names, whatever there is of each.
func TestKeep(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.put("events-19990101T000000-2.ndjson.gz", zippedText(t, "2"))
		b.put("events-19990101T000000-10.ndjson.gz", zippedText(t, "10"))
		b.put("events-19980101T000000-1.ndjson", "1")
		b.put("events-19980101T000000-1.ndjson.gz", zippedText(t, "1"))
		b.put("events.torn-19980101T000000", "torn")
		b.put("events-backup.ndjson", "theirs")
		f := b.open(output.FileConfig{RotateBytes: 100, Keep: 2})
		synctest.Wait()
		rest := []string{"events-backup.ndjson", "events.ndjson", "events.torn-19980101T000000"}
		assert.Equal(t, append([]string{"events-19990101T000000-10.ndjson.gz", "events-19990101T000000-2.ndjson.gz"}, rest...), b.names())
		assert.Equal(t, 1.0, figure(t, b.m, "vtsidecar_output_files_deleted_total", ""), "plain and compressed are one file")
		b.store(f, 0, 3) // 3 fill a file
		assert.Equal(t, append([]string{"events-19990101T000000-10.ndjson.gz", "events-20000101T000000-1.ndjson"}, rest...), b.names())
		b.store(f, 4, 19)
		assert.Equal(t, 9.0, figure(t, b.m, "vtsidecar_output_files_deleted_total", ""), "%v", b.names())
		assert.Len(t, b.names(), 5)
		assert.Equal(t, 9, b.logged("INFO"), b.log.String())
		assert.Contains(t, b.log.String(), "path=/d/events-19980101T000000-1.ndjson output.file.keep=2")
	})
}

// TestKeepWaitsForNames: no file goes for another one whose name a power cut
// can still take away.
func TestKeepWaitsForNames(t *testing.T) {
	inBubble(t, func(b *bubble) {
		f := b.open(output.FileConfig{RotateBytes: 100, Keep: 1})
		b.store(f, 0, 3)
		named, fails, deleted := true, 2, 0
		b.disk.SetHook(func(op crashfs.Op) crashfs.Fault {
			switch op.Kind {
			case "rename":
				named = false
			case "syncdir":
				if fails--; fails >= 0 {
					return crashfs.Fault{Err: syscall.EIO}
				}
				named = true
			case "remove":
				if strings.Contains(op.Name, "events-") {
					deleted++
					assert.True(t, named, op.Name)
				}
			}
			return crashfs.Fault{}
		})
		b.store(f, 4, 6)
		b.after(time.Hour)
		b.store(f, 7, 9)
		assert.Equal(t, 2, deleted)
	})
}

// TestKeepDeletesMarks: a file that was set aside is not taken for whole.
func TestKeepDeletesMarks(t *testing.T) {
	inBubble(t, func(b *bubble) {
		f := b.open(output.FileConfig{Keep: 1, RotateBytes: 100, Compress: true})
		b.store(f, 1, 1)
		failed := false
		b.disk.SetHook(func(op crashfs.Op) crashfs.Fault {
			if op.Kind == "sync" && !failed {
				failed = true
				return crashfs.Fault{Err: syscall.EIO}
			}
			return crashfs.Fault{}
		})
		b.store(f, 2, 2)
		b.after(time.Hour)
		require.Len(t, b.names(), 3, "the file, its mark, and the new one: %v", b.names())
		assert.Contains(t, b.names()[1], ".cut-")
		assert.Equal(t, allLines(1, 1), b.read(b.names()[0]), "what has a mark is not compressed before the next start")
		b.store(f, 3, 6)
		assert.Len(t, b.names(), 2, "%v", b.names())
		assert.NotContains(t, fmt.Sprint(b.names()), ".cut-")
	})
}

// TestWhatACrashLeft: of a plain and a compressed file the start makes one,
// and loses nothing that only one of them has.
func TestWhatACrashLeft(t *testing.T) {
	const name = "events-19990101T000000-1.ndjson"
	whole := allLines(0, 99)
	zipped := zippedText(t, whole)
	for what, c := range map[string]struct {
		gz    string
		stays bool
	}{
		"the same":          {zipped, false},
		"empty":             {"", false},
		"torn":              {zipped[:len(zipped)/2], false},
		"without checksum":  {zipped[:len(zipped)-8], false},
		"wrong checksum":    {zipped[:len(zipped)-8] + "12345678", false},
		"holes":             {zipped[:20] + strings.Repeat("\x00", 20) + zipped[40:], false},
		"no gzip":           {"hello", false},
		"fewer lines":       {zippedText(t, allLines(0, 9)), false},
		"other lines":       {zippedText(t, allLines(100, 199)), true},
		"more lines":        {zippedText(t, allLines(0, 199)), true},
		"lines of a second": {zipped + zippedText(t, allLines(100, 199)), true},
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				b.put(name, whole)
				b.put(name+".gz", c.gz)
				b.put(name+".gz.tmp", "half")
				b.open(output.FileConfig{Compress: true})
				b.after(24 * time.Hour)
				if !c.stays {
					assert.Equal(t, []string{name + ".gz", "events.ndjson"}, b.names())
					assert.Equal(t, whole, b.read(name+".gz"))
					assert.Empty(t, b.log.String())
					return
				}
				assert.Equal(t, []string{name, name + ".gz", "events.ndjson"}, b.names())
				assert.Equal(t, whole, b.read(name))
				data, err := b.disk.ReadFile("/d/" + name + ".gz")
				require.NoError(t, err)
				assert.Equal(t, c.gz, string(data))
				assert.Equal(t, 1, b.logged("WARN"), b.log.String())
			})
		})
	}
}

// TestFullDiskWhileCompressing: storing goes on, one warning, and it is done when there is space.
func TestFullDiskWhileCompressing(t *testing.T) {
	inBubble(t, func(b *bubble) {
		f := b.open(output.FileConfig{RotateBytes: 100, Compress: true})
		b.disk.SetHook(func(op crashfs.Op) crashfs.Fault {
			if op.Kind == "append" && strings.HasSuffix(op.Name, ".tmp") {
				return crashfs.Fault{Err: syscall.ENOSPC, Short: 3}
			}
			return crashfs.Fault{}
		})
		b.store(f, 0, 19)
		b.after(5 * time.Hour)
		assert.NoError(t, f.Ready())
		assert.Equal(t, 1, b.logged("WARN"), b.log.String())
		assert.Contains(t, b.log.String(), "output.file.compress: ")
		assert.NotContains(t, fmt.Sprint(b.names()), ".gz")
		plain := len(b.names())
		b.disk.SetHook(nil)
		b.after(time.Hour)
		assert.Equal(t, plain-1, strings.Count(fmt.Sprint(b.names()), ".gz"), "%v", b.names())
		assert.Len(t, b.names(), plain)
		assert.Equal(t, 1, b.logged("INFO"), b.log.String())
		assert.NotContains(t, fmt.Sprint(b.names()), ".tmp")
	})
}

// TestEventsComeFirst: while the output itself has no space, nothing is compressed.
func TestEventsComeFirst(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.put("events-19990101T000000-1.ndjson", allLines(0, 99))
		b.disk.SetLimit(1)
		b.disk.SetHook(func(op crashfs.Op) crashfs.Fault {
			assert.False(t, op.Kind == "create" && strings.HasSuffix(op.Name, ".tmp"), "%+v", op)
			if op.Kind == "create" {
				return crashfs.Fault{Err: syscall.ENOSPC}
			}
			return crashfs.Fault{}
		})
		f := b.open(output.FileConfig{Compress: true})
		b.after(24 * time.Hour)
		assert.Error(t, f.Ready())
		b.disk.SetHook(nil)
		b.disk.SetLimit(0)
		b.after(3 * time.Hour)
		assert.Equal(t, []string{"events-19990101T000000-1.ndjson.gz", "events.ndjson"}, b.names())
	})
}

// TestCloseWhileCompressing: it is given up at once, leaves nothing, and the
// next start does it.
func TestCloseWhileCompressing(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.put("events-19990101T000000-1.ndjson", strings.Repeat(allLines(0, 99), 1000))
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		begun, gate := make(chan struct{}), make(chan struct{})
		f := b.open(output.FileConfig{Compress: true, FS: slowFS{diskFS{b.disk}, begun, gate}})
		<-begun
		b.store(f, 1, 1) // it waits for none of this
		closed := make(chan error, 1)
		go func() { closed <- f.Close(ctx) }()
		synctest.Wait()
		assert.Empty(t, closed)
		close(gate)
		require.NoError(t, <-closed)
		assert.Equal(t, []string{"events-19990101T000000-1.ndjson", "events.ndjson"}, b.names())
		assert.Empty(t, b.log.String())

		b.disk = b.disk.Restart()
		b.open(output.FileConfig{Compress: true})
		synctest.Wait()
		assert.Equal(t, []string{"events-19990101T000000-1.ndjson.gz", "events.ndjson"}, b.names())
	})
}

// TestCloseDoesNotWaitForASickDisk: what hangs in the kernel is left behind.
func TestCloseDoesNotWaitForASickDisk(t *testing.T) {
	inBubble(t, func(b *bubble) {
		b.put("events-19990101T000000-1.ndjson", allLines(0, 99))
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		begun, gate := make(chan struct{}), make(chan struct{})
		defer close(gate)
		f, err := output.OpenFile(output.FileConfig{Path: "/d/events.ndjson", Compress: true, FS: slowFS{diskFS{b.disk}, begun, gate}})
		require.NoError(t, err)
		<-begun
		err = f.Close(ctx)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "output.file.compress")
	})
}

// slowFS holds the reads of closed files until the gate opens.
type slowFS struct {
	diskFS
	begun, gate chan struct{}
}

func (s slowFS) Open(name string) (output.Handle, error) {
	h, err := s.diskFS.Open(name)
	if err == nil && strings.Contains(name, "events-") {
		close(s.begun)
		<-s.gate
	}
	return h, err
}

// TestOthersTouchAClosedFile: gone before it is compressed, or changed meanwhile.
func TestOthersTouchAClosedFile(t *testing.T) {
	const name = "/d/events-19990101T000000-1.ndjson"
	for what, touch := range map[string]func(*crashfs.FS) error{
		"removed": func(d *crashfs.FS) error { return d.Remove(name) },
		"moved":   func(d *crashfs.FS) error { return d.Rename(name, "/d/theirs") },
		"continued": func(d *crashfs.FS) error {
			h, err := d.Open(name)
			if err != nil {
				return err
			}
			return h.Append([][]byte{[]byte(allLines(3, 3))})
		},
	} {
		for _, when := range []string{"create", "sync", "rename"} {
			t.Run(what+" before "+when, func(t *testing.T) {
				inBubble(t, func(b *bubble) {
					b.put("events-19990101T000000-1.ndjson", allLines(0, 2))
					b.open(output.FileConfig{Compress: true, FS: &touchingFS{diskFS: diskFS{b.disk}, when: when, touch: touch}})
					b.after(24 * time.Hour)
					all := ""
					for _, name := range b.names() {
						all += b.read(name)
					}
					switch what {
					case "continued":
						assert.Equal(t, []string{"events-19990101T000000-1.ndjson.gz", "events.ndjson"}, b.names())
						assert.Equal(t, allLines(0, 3), all)
					case "moved":
						assert.Equal(t, allLines(0, 2), b.read("theirs"))
					}
					assert.NotContains(t, fmt.Sprint(b.names()), ".tmp")
				})
			})
		}
	}
}

// touchingFS touches the closed file once, before a call on the compressed one.
type touchingFS struct {
	diskFS
	when  string
	touch func(*crashfs.FS) error
	done  bool
}

func (s *touchingFS) at(when, name string) error {
	if s.done || s.when != when || !strings.HasSuffix(name, ".tmp") {
		return nil
	}
	s.done = true
	return s.touch(s.FS)
}

func (s *touchingFS) Create(name string, perm os.FileMode) (output.Handle, error) {
	if err := s.at("create", name); err != nil {
		return nil, err
	}
	h, err := s.diskFS.Create(name, perm)
	return touchingHandle{h, s, name}, err
}

func (s *touchingFS) Rename(from, to string) error {
	if err := s.at("rename", from); err != nil {
		return err
	}
	return s.diskFS.Rename(from, to)
}

type touchingHandle struct {
	output.Handle
	s    *touchingFS
	name string
}

func (h touchingHandle) Sync() error {
	if err := h.s.at("sync", h.name); err != nil {
		return err
	}
	return h.Handle.Sync()
}

// TestOddPaths: names with other extensions, several, or none.
func TestOddPaths(t *testing.T) {
	for path, want := range map[string][]string{
		"events":       {"events", "events-20000101T000000-2", "events-20000101T000000-1.gz"},
		".events":      {".events", ".events-20000101T000000-2", ".events-20000101T000000-1.gz"},
		"a.b.json":     {"a.b.json", "a.b-20000101T000000-2.json", "a.b-20000101T000000-1.json.gz"},
		"e.gz":         {"e.gz", "e-20000101T000000-2.gz", "e-20000101T000000-1.gz.gz"},
		"e.tmp":        {"e.tmp", "e-20000101T000000-2.tmp", "e-20000101T000000-1.tmp.gz"},
		"é ü-1.ndjson": {"é ü-1.ndjson", "é ü-1-20000101T000000-2.ndjson", "é ü-1-20000101T000000-1.ndjson.gz"},
		"e.":           {"e.", "e-20000101T000000-2.", "e-20000101T000000-1..gz"},
	} {
		t.Run(path, func(t *testing.T) {
			inBubble(t, func(b *bubble) {
				f := b.open(output.FileConfig{Path: "/d/" + path, RotateBytes: 100, Compress: true})
				b.store(f, 0, 3)
				require.NoError(t, f.Close(background))
				f = b.open(output.FileConfig{Path: "/d/" + path, RotateBytes: 100})
				b.store(f, 4, 7)
				assert.ElementsMatch(t, want, b.names())
				require.NoError(t, f.Close(background))
				b.open(output.FileConfig{Path: "/d/" + path, Keep: 1})
				synctest.Wait()
				assert.ElementsMatch(t, want[:2], b.names())
			})
		})
	}
}
