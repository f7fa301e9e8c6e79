package output

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const noFollow = unix.O_NOFOLLOW

var errInUse = errors.New("in use by another process")

// lockFile keeps two servers from writing into one file, each taking the
// other's lines for damage. File systems without locks are let through: the
// lock is for mistakes, and durability does not rest on it.
func lockFile(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return errInUse
	}
	return nil
}

func renameNoReplace(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		return renameIfFree(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func writeVector(f *os.File, bufs [][]byte) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	rest := append([][]byte(nil), bufs...) // it is cut as it is written
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		for len(rest) > 0 {
			n, err := unix.Writev(int(fd), rest)
			switch {
			case err == unix.EINTR:
				continue
			case err != nil:
				failed = &fs.PathError{Op: "write", Path: f.Name(), Err: err}
				return true
			case n == 0:
				failed = &fs.PathError{Op: "write", Path: f.Name(), Err: io.ErrShortWrite}
				return true
			}
			for n > 0 && n >= len(rest[0]) {
				n -= len(rest[0])
				rest = rest[1:]
			}
			if n > 0 {
				rest[0] = rest[0][n:]
			}
		}
		return true
	})
	return errors.Join(failed, err)
}

// giveUpPages tells the kernel that nobody needs these bytes in memory.
func giveUpPages(f *os.File, from, to int64) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // a hint: what comes of it changes nothing
		_ = unix.Fadvise(int(fd), from, to-from, unix.FADV_DONTNEED)
	})
}
