package output

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// appendFile is an open file that lines are appended to.
type appendFile struct {
	h       Handle
	info    fs.FileInfo // tells which file it is
	durable int64       // length that survives a power cut, and that the file has
	aside   string      // its rotated name, once the mark beside it is durable
	due     time.Time   // end of the interval in which it got its first line; zero: it has none
}

// inPlace tells whether path still names this file, with this length.
func (j *journal) inPlace(f *appendFile, size int64) (bool, error) {
	at, err := j.fs.Lstat(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return j.fs.SameFile(at, f.info) && at.Size() == size, nil
}

// drop lets go of the current file without touching it.
func (j *journal) drop() {
	j.cur.h.Close() // nothing of ours is in it that was not synced
	j.cur = nil
}

// prepare leaves an open file that is safe to append to.
func (j *journal) prepare() error {
	if !j.started {
		if err := j.makeDir(); err != nil {
			return err
		}
		if err := j.finishCuts(); err != nil {
			return err
		}
		// A process that was killed may have come to a rename or a creation, and not to its sync.
		j.started, j.unsynced = true, true
	}
	if j.broken != nil {
		if err := j.setAside(); err != nil {
			return err
		}
	}
	if j.cur != nil {
		still, err := j.inPlace(j.cur, j.cur.durable)
		if err != nil {
			return err
		}
		if !still {
			j.log.Info(j.what+" was moved, removed or cut by someone else; it is opened anew", "path", j.path)
			j.drop()
			j.unsynced = true // their rename must not be lost behind our creation
		}
	}
	if j.cur == nil {
		if err := j.makeDir(); err != nil { // somebody may have taken the folder as well
			return err
		}
	}
	if err := j.syncDir(); err != nil {
		return err
	}
	if j.cur == nil {
		if err := j.open(); err != nil {
			return err
		}
	}
	return j.syncDir()
}

// syncDir makes entries durable where that is owed.
func (j *journal) syncDir() error {
	if !j.unsynced {
		return nil
	}
	if err := j.fs.SyncDir(j.dir); err != nil {
		return err
	}
	j.unsynced = false
	return nil
}

// open adopts the file that is there, or makes one.
func (j *journal) open() error {
	at, err := j.fs.Lstat(j.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return j.create()
	case err != nil:
		return err
	case at.IsDir():
		return fmt.Errorf("open %s: is a folder, not a file", j.path)
	case at.Mode()&fs.ModeSymlink != 0:
		// Rotation would rename the link, and the file would be out of our folder's syncs.
		return fmt.Errorf("open %s: is a symbolic link; name the file itself", j.path)
	case !at.Mode().IsRegular():
		return fmt.Errorf("open %s: is not a regular file, so nothing in it would be durable", j.path)
	}
	f, err := j.openFile(j.path)
	if err != nil {
		return err
	}
	f.durable, err = wholeLines(f.h, f.info.Size())
	if err == nil && f.durable < f.info.Size() {
		err = j.moveTail(f)
	}
	if err != nil {
		f.h.Close()
		return err
	}
	if f.durable > 0 && j.every > 0 {
		f.due = j.intervalEnd(f.info.ModTime()) // before it is written again
	}
	if f.info.Size() > 0 {
		// A process that was killed leaves bytes that only the page cache has:
		// from here on they count as durable. And new lines must never meet
		// what is left on the disk of a tail that was cut off.
		err := f.h.Rewrite(max(f.durable-2*maxGroupBytes, 0), f.durable)
		if err == nil {
			err = f.h.Sync()
		}
		if err != nil {
			j.broken = f
			return err
		}
	}
	j.cur = f
	return nil
}

// openFile opens a file that is there.
func (j *journal) openFile(name string) (*appendFile, error) {
	h, err := j.fs.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := h.Stat()
	if err != nil {
		h.Close()
		return nil, err
	}
	return &appendFile{h: h, info: info}, nil
}

func (j *journal) create() error {
	j.unsynced = true // whatever Create says
	h, err := j.fs.Create(j.path, j.perm)
	if err != nil {
		return err
	}
	info, err := h.Stat()
	if err != nil {
		h.Close() // it is empty and will be adopted
		return err
	}
	j.cur = &appendFile{h: h, info: info}
	return nil
}

// rotateFile gives the full file, all of which is durable, its rotated name. The
// caller needs a new one.
func (j *journal) rotateFile() error {
	j.unsynced = true // whatever Rename says
	for {
		name := j.rotatedName()
		err := j.fs.Rename(j.path, name)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		j.drop()
		j.rotated = append(j.rotated, filepath.Base(name))
		return j.prepare()
	}
}

// setAside gets a file out of the way whose last write or sync failed, without
// syncing it. It can be repeated from any point.
func (j *journal) setAside() error {
	f := j.broken
	at, err := j.fs.Lstat(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !j.fs.SameFile(at, f.info) {
		f.h.Close() // somebody else moved it, or a rename that failed was done
		j.broken = nil
		j.unsynced = true
		return nil
	}
	if err := f.h.Truncate(f.durable); err != nil {
		return err
	}
	if f.durable == 0 {
		if err := j.fs.Remove(j.path); err != nil {
			return err
		}
	} else if err := j.renameBroken(f); err != nil {
		return err
	}
	f.h.Close() // it has failed already
	j.broken = nil
	return nil
}

func (j *journal) renameBroken(f *appendFile) error {
	for {
		if f.aside == "" {
			name := j.rotatedName()
			if _, err := j.fs.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
				if err != nil {
					return err
				}
				continue
			}
			j.unsynced = true
			mark, err := j.fs.Create(f.cutMark(name), j.perm)
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			if err != nil {
				return err
			}
			mark.Close()
			f.aside = name
		}
		// The mark first: without it the file would be taken for whole.
		if err := j.syncDir(); err != nil {
			return err
		}
		j.unsynced = true
		err := j.fs.Rename(j.path, f.aside)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := j.fs.Remove(f.cutMark(f.aside)); err != nil {
			return err
		}
		f.aside = ""
	}
}

func (j *journal) removeIfThere(name string) error {
	if err := j.fs.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// makeDir makes the folder and those above it, owner-only, each durably. Those
// that are there are synced too: the process that made them may have been
// killed before it came to that.
func (j *journal) makeDir() error {
	var missing []string
	dir := j.dir
	for {
		at, err := j.fs.Lstat(dir)
		if err == nil && !at.IsDir() && at.Mode()&fs.ModeSymlink == 0 {
			return fmt.Errorf("mkdir %s: is a file, not a folder", dir)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, dir)
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	if j.started && len(missing) == 0 {
		return nil
	}
	for up := dir; up != filepath.Dir(up); up = filepath.Dir(up) {
		// One that may not be opened is none that we made.
		if err := j.fs.SyncDir(filepath.Dir(up)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	for _, name := range slices.Backward(missing) {
		if err := j.fs.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := j.fs.SyncDir(filepath.Dir(name)); err != nil {
			return err
		}
	}
	return nil
}

// closeFiles ends run; whatever is durable is durable already.
func (j *journal) closeFiles() {
	for _, f := range []*appendFile{j.cur, j.broken} {
		if f != nil {
			f.h.Close()
		}
	}
}
