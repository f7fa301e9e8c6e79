package quota

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

var errDisk = errors.New("no space left on device")

// crashDisk is a disk that keeps what was not synced in memory only. A crash
// keeps each unsynced change or not, as it likes: of a write any prefix, of a
// rename all or nothing.
type crashDisk struct {
	t     *testing.T
	names map[string]*inode // as programs see it
	saved map[string]*inode // as a crash leaves it

	left        int // steps until a fault; below 0: none
	asCrash     bool
	keepFailing bool
	crashed     bool

	onSync func() // nil: nothing
}

type inode struct {
	data  []byte
	saved []byte
	bad   bool // a sync failed: nobody may sync it again
}

func newCrashDisk(t *testing.T) *crashDisk {
	return &crashDisk{t: t, names: map[string]*inode{}, saved: map[string]*inode{}, left: -1}
}

// faultAfter makes the step n steps from now fail, and with crash all after it.
func (d *crashDisk) faultAfter(n int, crash bool) { d.left, d.asCrash = n, crash }

func (d *crashDisk) step() error {
	if d.crashed {
		return errDisk
	}
	if d.left == 0 {
		if !d.keepFailing {
			d.left = -1
		}
		d.crashed = d.asCrash
		return errDisk
	}
	if d.left > 0 {
		d.left--
	}
	return nil
}

// crash is a power cut and the start after it.
func (d *crashDisk) crash(rng *rand.Rand) {
	if rng.IntN(2) == 0 {
		d.saved = maps.Clone(d.names)
	}
	d.names = maps.Clone(d.saved)
	for _, f := range d.names {
		kept := append([]byte(nil), f.saved...)
		if rng.IntN(2) == 0 { // some of the unsynced bytes made it
			n := rng.IntN(len(f.data) + 1)
			for i := range n {
				if i < len(kept) {
					kept[i] = f.data[i]
				} else {
					kept = append(kept, f.data[i])
				}
			}
		}
		f.data, f.saved, f.bad = kept, append([]byte(nil), kept...), false
	}
	d.left, d.crashed = -1, false
}

func (d *crashDisk) ReadFile(path string, most int64) ([]byte, error) {
	f, ok := d.names[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return append([]byte(nil), f.data[:min(int64(len(f.data)), most)]...), nil
}

func (d *crashDisk) OpenFile(path string, flag int, _ fs.FileMode) (diskFile, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f, ok := d.names[path]
	switch {
	case !ok && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case !ok:
		f = &inode{}
		d.names[path] = f
	case flag&os.O_TRUNC != 0:
		f.data = nil
	}
	return &crashFile{d: d, f: f}, nil
}

func (d *crashDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	f, ok := d.names[from]
	if !ok {
		return fs.ErrNotExist
	}
	delete(d.names, from)
	d.names[to] = f
	return nil
}

func (d *crashDisk) SyncDir(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	if path != filepath.Dir("/data/q") {
		d.t.Errorf("synced %s, which is not the file's folder", path)
	}
	d.saved = maps.Clone(d.names)
	return nil
}

type crashFile struct {
	d      *crashDisk
	f      *inode
	closed bool
}

func (f *crashFile) WriteAt(p []byte, off int64) (int, error) {
	if f.closed {
		f.d.t.Error("written after close")
	}
	err := f.d.step()
	n := len(p)
	if err != nil {
		n = 0
		if len(p) > 1 {
			n = len(p) / 2 // a full disk takes a part
		}
	}
	for int64(len(f.f.data)) < off+int64(n) {
		f.f.data = append(f.f.data, 0)
	}
	copy(f.f.data[off:], p[:n])
	return n, err
}

func (f *crashFile) Sync() error {
	if f.d.onSync != nil {
		f.d.onSync()
	}
	if f.f.bad {
		f.d.t.Error("synced again after a failed sync")
	}
	if err := f.d.step(); err != nil {
		f.f.bad = true
		return err
	}
	f.f.saved = append([]byte(nil), f.f.data...)
	return nil
}

func (f *crashFile) Close() error {
	if f.closed {
		f.d.t.Error("closed twice")
	}
	f.closed = true
	return nil
}
