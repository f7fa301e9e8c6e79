package datadir

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/windows"
)

const noFollow = 0

// lock takes a byte far behind the process number, since a locked byte cannot be read.
func lock(f *os.File) error {
	far := &windows.Overlapped{Offset: math.MaxUint32, OffsetHigh: math.MaxInt32}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, far)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return errLocked
	}
	return err
}
