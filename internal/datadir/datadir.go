// Package datadir owns path.data, the folder that holds everything this program
// keeps.
//
// Promise: at most one process at a time has it, and what is made in it is its
// owner's alone. The lock ends with the process, however that ends.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// lockName is the file that is locked. It stays when the lock goes: removing it
// would let two processes lock two files of one name.
const lockName = "lock"

// errLocked: another process has it.
var errLocked = errors.New("locked")

// InUseError says that another process has the folder.
type InUseError struct{ Path, By string }

func (e *InUseError) Error() string {
	return fmt.Sprintf("path.data %s is in use by %s: stop that server, or give this one a folder of its own", e.Path, e.By)
}

// Dir is the data folder, locked.
type Dir struct{ lock *os.File }

// Open makes the folder, and those above it, where they are missing, and locks
// it. A folder that is there keeps its permissions: it may be more than ours.
func Open(path string) (*Dir, error) {
	if path == "" {
		return nil, errors.New("path.data: no path is given")
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("path.data: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE|noFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("path.data: %w", err)
	}
	if err := lock(f); err != nil {
		defer f.Close()
		if errors.Is(err, errLocked) {
			return nil, &InUseError{Path: path, By: holder(f)}
		}
		return nil, fmt.Errorf("path.data: lock %s: %w", f.Name(), err)
	}
	sign(f)
	return &Dir{lock: f}, nil
}

// Close gives the folder to the next process.
func (d *Dir) Close() error {
	if err := d.lock.Close(); err != nil {
		return fmt.Errorf("path.data: unlock: %w", err)
	}
	return nil
}

// sign writes this process's number for those who find the folder locked. It is
// for people: not synced, and a full disk may keep it out without stopping us.
// It is padded to one length, so that one write replaces the number before.
func sign(f *os.File) {
	f.WriteAt(fmt.Appendf(nil, "%-10d\n", os.Getpid()), 0)
}

// holder names the process that has the lock, as well as it is known: it may
// not have signed yet.
func holder(f *os.File) string {
	b := make([]byte, 32)
	n, err := f.ReadAt(b, 0)
	pid, bad := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if (err != nil && !errors.Is(err, io.EOF)) || bad != nil {
		return "another process"
	}
	return "process " + strconv.Itoa(pid)
}
