package output

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"syscall"
)

// FS is what the journal needs of a file system, no more. It is larger than an
// interface should be because each of these calls is a place where a power cut
// or a sick disk can strike, and the crash tests must be able to stand at each
// of them.
//
// Its contract is POSIX's, read pessimistically: bytes are durable after Sync
// of their handle and not before, entries of a folder after SyncDir of it, and
// a call that failed may have done its work all the same.
type FS interface {
	// Mkdir makes one folder.
	Mkdir(name string, perm fs.FileMode) error
	// Create makes a file that is not there yet, with exactly these permissions.
	Create(name string, perm fs.FileMode) (Handle, error)
	// Open opens a regular file that is there, for this process alone. It does
	// not follow a symbolic link.
	Open(name string) (Handle, error)
	// View opens a regular file for reading, also while somebody writes it. It
	// does not follow a symbolic link.
	View(name string) (View, error)
	// Lstat describes what stands at name, and not what a link points to.
	Lstat(name string) (fs.FileInfo, error)
	// SameFile tells whether both describe one file, under whatever name.
	SameFile(a, b fs.FileInfo) bool
	// ReadDir lists a folder.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Rename moves a file within its folder and never replaces another:
	// fs.ErrExist.
	Rename(from, to string) error
	// Replace moves a file within its folder onto another, which is gone then:
	// whatever happens, there is one of them under that name.
	Replace(from, to string) error
	// Remove takes a file's entry out of its folder.
	Remove(name string) error
	// SyncDir makes the entries of a folder durable.
	SyncDir(name string) error
}

// View is a file that is open for reading. It is larger than an interface should
// be, as FS is.
type View interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// Handle is an open file that is read anywhere and written at its end. It is
// larger than an interface should be, as FS is.
type Handle interface {
	io.ReaderAt
	io.Closer
	// Append writes bufs, one after the other, behind what the file holds.
	Append(bufs [][]byte) error
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
	// Rewrite writes the bytes between two offsets again, as they read, so that
	// Sync stores them even if an earlier one has failed to.
	Rewrite(from, to int64) error
}

// osFS is the real file system.
type osFS struct{}

func (osFS) Mkdir(name string, perm fs.FileMode) error  { return os.Mkdir(name, perm) }
func (osFS) Lstat(name string) (fs.FileInfo, error)     { return os.Lstat(name) }
func (osFS) SameFile(a, b fs.FileInfo) bool             { return os.SameFile(a, b) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
func (osFS) Rename(from, to string) error               { return renameNoReplace(from, to) }
func (osFS) Replace(from, to string) error              { return os.Rename(from, to) }
func (osFS) View(name string) (View, error)             { return os.OpenFile(name, os.O_RDONLY|noFollow, 0) }
func (osFS) Remove(name string) error                   { return os.Remove(name) }
func (osFS) Open(name string) (Handle, error)           { return openHandle(name, 0, 0) }
func (osFS) Create(name string, p fs.FileMode) (Handle, error) {
	h, err := openHandle(name, os.O_CREATE|os.O_EXCL, p)
	if err != nil {
		return nil, err
	}
	// The umask must not decide: the setting says who reads the events.
	if err := h.f.Chmod(p); err != nil {
		h.f.Close()
		os.Remove(name)
		return nil, err
	}
	return h, nil
}

// SyncDir accepts that some file systems (and Windows) know no sync of a
// folder: there is nothing better to be had there.
func (osFS) SyncDir(name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// What was synced is in nobody's way in the page cache, but costs: a file that is
// appended to for days takes every free page of the machine, and each of them is
// dearer than one that was in use a moment ago. So only the end of the file
// stays, for who follows it and for Rewrite. docs/decisions/0005 has the figures.
const (
	keptPages  = 2 * maxGroupBytes // bytes at the end that stay
	pagesStep  = 2 << 20           // bytes that are given up at once, at least
	pagesAgain = 4 << 20           // a piece of the cache that lies across a step's end goes with the next one
)

type osHandle struct {
	f     *os.File
	end   int64 // length of the file as far as this handle knows
	given int64 // length from its start that was given up
}

func openHandle(name string, flag int, perm fs.FileMode) (*osHandle, error) {
	// O_APPEND: should somebody cut the file while we write, our bytes still
	// stand together at its end and not behind a hole.
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND|noFollow|flag, perm)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &osHandle{f: f, end: info.Size(), given: info.Size()}, nil
}

func (h *osHandle) ReadAt(p []byte, off int64) (int, error) { return h.f.ReadAt(p, off) }
func (h *osHandle) Close() error                            { return h.f.Close() }
func (h *osHandle) Stat() (fs.FileInfo, error)              { return h.f.Stat() }
func (h *osHandle) Truncate(size int64) error               { return h.f.Truncate(size) }

// Rewrite needs a descriptor of its own: what is opened for appending writes
// nowhere else.
func (h *osHandle) Rewrite(from, to int64) error {
	f, err := os.OpenFile(h.f.Name(), os.O_RDWR|noFollow, 0)
	if err != nil {
		return err
	}
	defer f.Close() // the bytes are synced through h, or count for nothing
	mine, err := h.f.Stat()
	if err != nil {
		return err
	}
	theirs, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(mine, theirs) {
		return errChanged
	}
	buf := make([]byte, min(to-from, 1<<20))
	for from < to {
		buf = buf[:min(to-from, int64(len(buf)))]
		if n, err := f.ReadAt(buf, from); n < len(buf) {
			return err
		}
		if _, err := f.WriteAt(buf, from); err != nil {
			return err
		}
		from += int64(len(buf))
	}
	return nil
}

// Sync gives up the pages of what is far behind the end. It is a hint: where the
// length is not what it was thought to be, nothing comes of it but a slower read.
func (h *osHandle) Sync() error {
	if err := h.f.Sync(); err != nil {
		return err
	}
	if to := h.end - keptPages; to-h.given >= pagesStep {
		giveUpPages(h.f, max(h.given-pagesAgain, 0), to)
		h.given = to
	}
	return nil
}

// Append makes one write of one buffer without looking at it, and one vectored
// write of several, so that nothing is copied together first.
func (h *osHandle) Append(bufs [][]byte) error {
	for _, b := range bufs {
		h.end += int64(len(b))
	}
	if len(bufs) == 1 {
		_, err := h.f.Write(bufs[0])
		return err
	}
	return writeVector(h.f, bufs)
}

// renameIfFree is for file systems that cannot do it in one call. Between the
// look and the rename somebody could put a file there; nobody else makes names
// of this form.
func renameIfFree(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	}
	return os.Rename(from, to)
}
