//go:build !linux

package output

import "os"

const noFollow = 0 // the Lstat before it has to do

// lockFile: the lock on path.data has to do.
func lockFile(*os.File) error { return nil }

func renameNoReplace(from, to string) error { return renameIfFree(from, to) }

func writeVector(f *os.File, bufs [][]byte) error {
	for _, b := range bufs {
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func giveUpPages(*os.File, int64, int64) {}
