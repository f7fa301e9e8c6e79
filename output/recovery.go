package output

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
)

// finishCuts makes durable, at start, the cuts of files that were set aside. It
// also finds the last name that was given, so that the next one comes behind it.
func (j *journal) finishCuts() error {
	entries, err := j.fs.ReadDir(j.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := parseName(e.Name(), j.stem, j.ext)
		if !ok {
			continue
		}
		if name.compare(j.last) > 0 {
			j.last = name
		}
		if name.cut == 0 {
			continue
		}
		if err := j.finishCut(filepath.Join(j.dir, name.base), name.cut); err != nil {
			return err
		}
		if err := j.fs.Remove(filepath.Join(j.dir, e.Name())); err != nil {
			return err
		}
	}
	return j.removeIfThere(j.probePath())
}

func (j *journal) finishCut(name string, durable int64) error {
	f, err := j.openFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the rename did not come to be, or an operator took the file
	}
	if err != nil {
		return err
	}
	defer f.h.Close()
	f.durable = min(durable, f.info.Size())
	if f.durable < f.info.Size() {
		if err := j.moveTail(f); err != nil {
			return err
		}
	}
	return f.h.Sync() // a cut that is seen need not be on the disk
}

// moveTail moves what stands behind f.durable, whole lines or not, to a file of
// its own: durably first, then the cut. A crash between leaves the tail twice.
// The cut itself is not durable until f is synced.
func (j *journal) moveTail(f *appendFile) error {
	size := f.info.Size()
	name, h, err := j.createTorn()
	if err == nil {
		err = copyTail(h, f.h, f.durable, size)
		if err == nil {
			err = h.Sync()
		}
		h.Close() // it is synced, or not needed
	}
	if err == nil {
		err = j.fs.SyncDir(j.dir)
	}
	if err != nil {
		j.fs.Remove(name) // the tail is still where it was; attempts must not pile up
		return err
	}
	if j.tornOf == f.info.Name() {
		j.fs.Remove(j.torn) // that of an earlier attempt
	}
	// Where the cut fails it may have been made all the same: the copy stays.
	j.tornOf, j.torn = f.info.Name(), name
	if err := f.h.Truncate(f.durable); err != nil {
		return err
	}
	j.tornOf, j.torn = "", ""
	j.log.Warn(j.what+" did not end with a whole line, as after a crash; what was never acknowledged was moved aside",
		"path", filepath.Join(j.dir, f.info.Name()), "moved_to", name, "bytes", size-f.durable)
	return nil
}

func (j *journal) createTorn() (string, Handle, error) {
	base := filepath.Join(j.dir, j.stem+".torn-"+j.now().UTC().Format(stampLayout))
	name := base
	for n := 1; ; n++ {
		h, err := j.fs.Create(name, j.perm)
		if !errors.Is(err, fs.ErrExist) {
			return name, h, err
		}
		name = base + "-" + strconv.Itoa(n)
	}
}

func copyTail(to, from Handle, at, end int64) error {
	buf := make([]byte, min(end-at, 1<<20))
	for at < end {
		buf = buf[:min(end-at, int64(len(buf)))]
		n, err := from.ReadAt(buf, at)
		if n < len(buf) {
			return fmt.Errorf("read the torn line: %w", err)
		}
		if err := to.Append([][]byte{buf}); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// wholeLines is the length of what can be trusted in a file of this size: up to
// the last "\n" before the first NUL. JSON holds no raw NUL, and a page that was
// not written before a power cut is full of them, even if later pages were
// written.
func wholeLines(h Handle, size int64) (int64, error) {
	// Bytes that were not synced are those of one group: there is no need to
	// read all of a huge file. An event has at most 128 MiB.
	const most = 192 << 20
	return wholeLinesFrom(h, max(size-most, 0), size)
}

func wholeLinesFrom(h Handle, at, size int64) (int64, error) {
	from, whole := at, int64(-1)
	buf := make([]byte, min(size-at, 256<<10))
	for at < size {
		buf = buf[:min(size-at, int64(len(buf)))]
		if n, err := h.ReadAt(buf, at); n < len(buf) {
			return 0, fmt.Errorf("read: %w", err)
		}
		nul := bytes.IndexByte(buf, 0)
		part := buf
		if nul >= 0 {
			part = buf[:nul]
		}
		if end := bytes.LastIndexByte(part, '\n'); end >= 0 {
			whole = at + int64(end) + 1
		}
		if nul >= 0 {
			break
		}
		at += int64(len(buf))
	}
	switch {
	case whole >= 0:
		return whole, nil
	case from == 0:
		return 0, nil
	}
	return wholeLinesFrom(h, 0, size)
}
