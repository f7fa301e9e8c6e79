package cache

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// disk is what a snapshot needs of a file system. A fake of it fails at will
// and forgets what was not synced. It is larger than an interface should be, so
// that it can do so at each call.
type disk interface {
	// Open opens a regular file for reading.
	Open(path string) (io.ReadCloser, error)
	// Create makes a new file that only its owner may read. A file of that name
	// is an error.
	Create(path string) (diskFile, error)
	Remove(path string) error
	Rename(from, to string) error
	Exists(path string) (bool, error)
	// SyncDir makes what happened to names in a folder durable.
	SyncDir(path string) error
}

// diskFile is a file that is being written.
type diskFile interface {
	io.WriteCloser
	Sync() error
}

// osDisk is the operating system's.
type osDisk struct{}

func (osDisk) Open(path string) (io.ReadCloser, error) {
	// Opening a pipe would wait for a writer.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	return os.Open(path)
}

func (osDisk) Create(path string) (diskFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err // not f: a nil *os.File is no nil interface
	}
	return f, nil
}

func (osDisk) Remove(path string) error     { return os.Remove(path) }
func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }

func (osDisk) Exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (osDisk) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
