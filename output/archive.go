package output

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Pauses before closed files are tried again.
const (
	firstRetry = time.Minute
	maxRetry   = time.Hour
)

// pieceOfFile is how much is compressed between two looks at what is more urgent.
const pieceOfFile = 128 << 10

// archive looks after closed files in a goroutine of its own: it compresses
// them, one at a time, and deletes the oldest where keep says so.
//
// Promise: until keep deletes it, each closed file is there whole, plain or
// compressed, wherever this is interrupted, and nobody who stores waits for it.
//
//   - The compressed file is made under another name, synced, renamed, and its
//     folder synced, before the plain one is removed. A crash between leaves
//     both; the next start makes the compressed one again. Should both differ,
//     which is nothing that a crash can do, both stay.
//
//   - It works on files that were there at start and on those closed since, so
//     that nobody's gunzip in this folder is taken for work to be done.
//
//   - While the output cannot be written it makes nothing: the disk's last
//     bytes are for events.
type archive struct {
	j        *journal // its configuration and names, and ready
	compress bool
	keep     int    // closed files that stay; 0: all
	deleted  func() // one was deleted

	wake     chan struct{} // fresh has something
	stop     chan struct{}
	stopOnce sync.Once
	finished chan struct{}

	mu    sync.Mutex
	fresh []string // names of files closed since the last pass

	// The rest belongs to run.
	listed  bool         // the folder as the start found it was seen to
	todo    []string     // names of plain files, oldest first
	failing bool         // the last pass did not do all it should
	zip     *gzip.Writer // reused; nil: not needed yet
}

// closedFile is what there is of one closed file.
type closedFile struct {
	closedName
	plain, gz, tmp bool
	mark           string // the mark's name; "": it was not set aside
	markCut        int64  // the length that it tells
}

var (
	errNotNow = errors.New("not now")
	errDiffer = errors.New("the compressed file has what the plain one has not")
)

func newArchive(compress bool, keep int, deleted func()) *archive {
	return &archive{
		compress: compress, keep: keep, deleted: deleted,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), finished: make(chan struct{}),
	}
}

// add tells of files that were closed. It never waits.
func (a *archive) add(names []string) {
	a.mu.Lock()
	a.fresh = append(a.fresh, names...)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// end asks run to end: what it is making is given up and made at the next start.
func (a *archive) end() { a.stopOnce.Do(func() { close(a.stop) }) }

// wait returns when run has ended, or ctx has.
func (a *archive) wait(ctx context.Context) error {
	select {
	case <-a.finished:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("output.file.compress: close: %w", ctx.Err())
	}
}

func (a *archive) run() {
	defer close(a.finished)
	pause := firstRetry
	for {
		var retry <-chan time.Time
		if a.report(a.pass()) {
			pause = firstRetry
		} else {
			retry = time.After(pause)
			pause = min(2*pause, maxRetry)
		}
		select {
		case <-a.stop:
			return
		case <-a.wake:
		case <-retry:
		}
	}
}

// report logs when the outcome of a pass differs from the one before. ok: there
// is nothing left to do.
func (a *archive) report(err error) (ok bool) {
	if errors.Is(err, errNotNow) {
		return false
	}
	switch {
	case err != nil && !a.failing:
		a.j.log.Warn("closed output files stay as they are for now; it is tried again", "error", err)
	case err == nil && a.failing:
		a.j.log.Info("closed output files are looked after again", "path", a.j.dir)
	}
	a.failing = err != nil
	return err == nil
}

// pass does what there is to be done, as far as it can be, and returns the
// first obstacle.
func (a *archive) pass() error {
	a.mu.Lock()
	fresh := a.fresh
	a.fresh = nil
	a.mu.Unlock()
	if a.compress {
		a.todo = append(a.todo, fresh...)
	}
	var first error
	if !a.listed || a.keep > 0 {
		files, err := a.list()
		if err == nil && !a.listed {
			err = a.resume(files)
		}
		if err == nil && a.keep > 0 {
			err = a.prune(files)
		}
		first = err
	}
	full := false
	a.todo = slices.DeleteFunc(a.todo, func(name string) bool {
		if full {
			return false // the next one would only fill it again
		}
		err := a.settle(name)
		full = noSpace(err)
		if first == nil {
			first = err
		}
		return err == nil
	})
	return first
}

// list is the closed files that are there, oldest first.
func (a *archive) list() ([]closedFile, error) {
	files, err := listClosed(a.j.fs, a.j.dir, a.j.stem, a.j.ext)
	if err != nil {
		return nil, a.j.words(err)
	}
	return files, nil
}

// listClosed is the closed files of a folder, oldest first.
func listClosed(fsys FS, dir, stem, ext string) ([]closedFile, error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []closedFile
	at := map[string]int{}
	for _, e := range entries {
		name, ok := parseName(e.Name(), stem, ext)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		i, ok := at[name.base]
		if !ok {
			i = len(files)
			at[name.base] = i
			files = append(files, closedFile{closedName: name})
		}
		switch f := &files[i]; name.suffix {
		case "":
			f.plain = true
		case gzSuffix:
			f.gz = true
		case tmpSuffix:
			f.tmp = true
		default:
			f.mark, f.markCut = e.Name(), name.cut
		}
	}
	slices.SortFunc(files, func(a, b closedFile) int { return a.compare(b.closedName) })
	return files, nil
}

// resume takes up what an earlier process left.
func (a *archive) resume(files []closedFile) error {
	var todo []string
	for _, f := range files {
		if f.tmp {
			if err := a.j.removeIfThere(a.path(f.base) + tmpSuffix); err != nil {
				return a.j.words(err)
			}
		}
		// One that was set aside has a cut that is not durable: the next start sees to it.
		if f.plain && f.mark == "" && (a.compress || f.gz) {
			todo = append(todo, f.base)
		}
	}
	// Some of those that came in since may be there already.
	a.todo = append(todo, slices.DeleteFunc(a.todo, func(name string) bool { return slices.Contains(todo, name) })...)
	a.listed = true
	return nil
}

// prune deletes the oldest files beyond keep, whatever there is of each.
func (a *archive) prune(files []closedFile) error {
	files = slices.DeleteFunc(files, func(f closedFile) bool { return !f.plain && !f.gz })
	if len(files) > a.keep {
		// Those that stay must not lose their names after others have gone for them.
		if err := a.j.fs.SyncDir(a.j.dir); err != nil {
			return fmt.Errorf("output.file.keep: %w", err)
		}
	}
	for len(files) > a.keep {
		f := files[0]
		files = files[1:]
		var names []string
		if f.plain {
			names = append(names, f.base)
		}
		if f.gz {
			names = append(names, f.base+gzSuffix)
		}
		if f.mark != "" {
			names = append(names, f.mark) // last: without it the file would be taken for whole
		}
		for _, name := range names {
			if err := a.j.removeIfThere(a.path(name)); err != nil {
				return fmt.Errorf("output.file.keep: %w", err)
			}
		}
		a.deleted()
		a.j.log.Info("the oldest closed output file was deleted", "path", a.path(f.base), "output.file.keep", a.keep)
	}
	return nil
}

func (a *archive) path(name string) string { return filepath.Join(a.j.dir, name) }

// notNow tells whether to leave the disk alone: the program stops, or the output
// cannot be written.
func (a *archive) notNow() error {
	select {
	case <-a.stop:
		return errNotNow
	default:
	}
	if a.j.ready() != nil {
		return errNotNow
	}
	return nil
}

// settle compresses a file, or ends what was begun with it. nil: there is
// nothing more to be done with it.
func (a *archive) settle(name string) error {
	err := a.notNow()
	if err == nil {
		err = a.settleFile(a.path(name))
	}
	switch {
	case err == nil, errors.Is(err, errNotNow):
		return err
	case errors.Is(err, errDiffer):
		a.j.log.Warn("a closed output file stands beside a compressed one that holds something else; both stay, remove or rename the wrong one",
			"path", a.path(name))
		return nil
	}
	return fmt.Errorf("output.file.compress: %w", err)
}

func (a *archive) settleFile(path string) error {
	plain, err := a.j.openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody took it
	}
	if err != nil {
		return err
	}
	defer plain.h.Close() // it was read only
	gz, err := a.j.openFile(path + gzSuffix)
	if err == nil {
		err = a.check(plain, gz)
		gz.h.Close() // it was read only
		if err == nil {
			// It may be that of a process that was killed, or somebody's own, and
			// never have reached the disk: that cannot be seen.
			err = a.j.fs.Remove(path + gzSuffix)
		}
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = a.make(plain, path)
	}
	if err != nil {
		return err
	}
	// The new name must be durable before the old one goes.
	if err := a.j.fs.SyncDir(a.j.dir); err != nil {
		return err
	}
	if err := a.unchanged(plain, path); err != nil {
		return err
	}
	if err := a.j.removeIfThere(path); err != nil {
		return err
	}
	a.j.log.Debug("a closed output file was compressed", "path", path, "bytes", plain.info.Size())
	return nil
}

// unchanged makes sure that what was read is all there is.
func (a *archive) unchanged(plain *appendFile, path string) error {
	at, err := a.j.fs.Lstat(path)
	if err == nil && (!a.j.fs.SameFile(at, plain.info) || at.Size() != plain.info.Size()) {
		return fmt.Errorf("%s was changed by someone else while it was compressed", path)
	}
	return err
}

// make leaves a whole compressed file, under its name, beside the plain one.
func (a *archive) make(plain *appendFile, path string) error {
	tmp := path + tmpSuffix
	if err := a.j.removeIfThere(tmp); err != nil { // of an earlier attempt
		return err
	}
	h, err := a.j.fs.Create(tmp, a.j.perm)
	if err != nil {
		return err
	}
	err = a.write(h, plain)
	if err == nil {
		err = h.Sync()
	}
	h.Close() // it is synced, or not needed
	if err == nil {
		err = a.unchanged(plain, path)
	}
	if err == nil {
		err = a.j.fs.Rename(tmp, path+gzSuffix)
	}
	if err != nil {
		a.j.removeIfThere(tmp) // the disk may be full; the next attempt looks again
	}
	return err
}

// write compresses the plain file into h.
func (a *archive) write(h Handle, plain *appendFile) error {
	out := bufio.NewWriterSize(appender{h}, pieceOfFile/2)
	if a.zip == nil {
		zip, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
		if err != nil {
			return err
		}
		a.zip = zip
	}
	a.zip.Reset(out)
	a.zip.Name, a.zip.ModTime = plain.info.Name(), plain.info.ModTime()
	err := a.read(plain, func(b []byte) error {
		_, err := a.zip.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	if err := a.zip.Close(); err != nil {
		return err
	}
	return out.Flush()
}

// appender is a handle as an io.Writer.
type appender struct{ h Handle }

func (a appender) Write(b []byte) (int, error) {
	if err := a.h.Append([][]byte{b}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// read hands a file over in pieces.
func (a *archive) read(f *appendFile, each func([]byte) error) error {
	buf := make([]byte, min(f.info.Size(), pieceOfFile))
	for at := int64(0); at < f.info.Size(); at += int64(len(buf)) {
		if err := a.notNow(); err != nil {
			return err
		}
		buf = buf[:min(f.info.Size()-at, int64(len(buf)))]
		if n, err := f.h.ReadAt(buf, at); n < len(buf) {
			return fmt.Errorf("read %s: %w", f.info.Name(), err)
		}
		if err := each(buf); err != nil {
			return err
		}
		runtime.Gosched() // those with events to store come first
	}
	return nil
}

// check finds out whether the compressed file has anything that the plain one
// has not: errDiffer. One that is damaged has nothing that can be relied on.
func (a *archive) check(plain, gz *appendFile) error {
	r, err := gzip.NewReader(io.NewSectionReader(gz.h, 0, gz.info.Size()))
	if err != nil {
		return nil
	}
	var early error // why the compressed file ended
	buf := make([]byte, min(plain.info.Size(), pieceOfFile))
	err = a.read(plain, func(b []byte) error {
		n, err := io.ReadFull(r, buf[:len(b)])
		if !bytes.Equal(buf[:n], b[:n]) {
			return errDiffer
		}
		early = err
		return err
	})
	if early != nil {
		return nil
	}
	if err != nil && !errors.Is(err, errDiffer) {
		return err
	}
	more, damaged := io.Copy(io.Discard, r) // up to its checksum
	if damaged == nil && (err != nil || more > 0) {
		return errDiffer
	}
	return nil
}
