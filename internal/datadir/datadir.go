// Package datadir is the folder that holds everything the program keeps.
//
// Promise: only its owner can read it, and only one server at a time uses it,
// also after a crash: the lock goes with the process that holds it.
package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockName is the file that is locked. It holds the PID of its holder, in
// decimal, for people; what counts is the lock.
const lockName = "lock"

// Dir is a folder that is held. Close lets it go.
type Dir struct{ lock *os.File }

// Open makes the folder where it is missing, owner-only, and locks it. Its
// errors name the setting path.data.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("path.data: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("path.data: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer lock.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("path.data %s: lock: %w", path, err)
		}
		return nil, fmt.Errorf("path.data %s is in use by %s: stop that server, or give this one a folder of its own", path, holder(lock))
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := errors.Join(lock.Truncate(0), writeAt(lock, pid)); err != nil {
		return nil, errors.Join(fmt.Errorf("path.data %s: %w", path, err), lock.Close())
	}
	return &Dir{lock}, nil
}

// Close lets the folder go. The file stays: to remove it would let two servers
// lock two files of one name.
func (d *Dir) Close() error { return d.lock.Close() }

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// holder names the process that holds the lock.
func holder(lock *os.File) string {
	b := make([]byte, 32)
	n, _ := lock.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil { // between its lock and its number, or not written on a full disk
		return "another process"
	}
	return fmt.Sprintf("process %d", pid)
}
