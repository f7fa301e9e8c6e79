// Package crashfs is a file system in memory that forgets, on a crash, what was
// not synced: for tests of what must survive a power cut.
//
// Promise: it is at least as cruel as POSIX allows. After Crash a file has, page
// by page and in no order, what was synced or what was written later; its length
// lies anywhere between; and each change of a folder since its last SyncDir has
// happened or has not, independently of the others. A sync that fails leaves
// the pages readable and calls them clean, so that a later sync says yes without
// storing them.
//
// It is written for one folder tree of small files and does not hurry.
package crashfs

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// pageSize is small, so that short lines of tests lie over several pages.
const pageSize = 16

// Op is one call, as a Hook sees it.
type Op struct {
	N    int    // the how manieth call on this file system, from 0
	Kind string // "mkdir", "create", "open", "lstat", "stat", "readdir", "read", "append", "truncate", "rewrite", "sync", "rename", "replace", "remove", "syncdir"
	Name string // the file's or folder's name at the time of the call
	Size int    // bytes of an append
	File *int   // of a call on an open file: the same for all handles of one file

	// Of a call on an open file, the call on the same handle before it ("open" and
	// "create" too, reads not). Of a syncdir, the last change of that folder since
	// the process started ("mkdir", "create", "rename", "replace", "remove", or "" for none),
	// and in After the entry's name.
	Last, After string
}

// Change tells whether the call changes what is stored or what survives.
func (o Op) Change() bool {
	switch o.Kind {
	case "open", "lstat", "stat", "readdir", "read":
		return false
	}
	return true
}

// Fault is what happens to a call. The zero Fault lets it pass.
type Fault struct {
	Err   error // returned by the call
	Done  bool  // with Err: the call does its work all the same; without: a sync does nothing and claims success
	Short int   // with Err: so many bytes are written by an append first, or stored by a sync that is Done (0: all)
	Halt  bool  // the machine stops before the call: from here on every call fails
}

// Hook decides about each call. It is called under the file system's lock.
type Hook func(Op) Fault

// ErrHalted is returned by every call after the machine stopped.
var ErrHalted = syscall.ENXIO

// FS is the file system while the machine runs. Its methods are safe for concurrent use.
type FS struct {
	mu     sync.Mutex
	root   *node
	hook   Hook
	ops    int
	after  map[*node][2]string // last change of each folder: kind and entry
	limit  int64               // bytes that files may hold together; 0: any
	halted bool
	halt   chan struct{} // closed when halted
}

type node struct {
	mode fs.FileMode
	id   *int // identity over crashes

	// Of a file.
	data []byte       // as it reads
	time time.Time    // of the last change of data; a crash keeps it
	disk []byte       // as it was stored last
	lost map[int]bool // pages called clean that are not stored

	// Of a folder.
	entries map[string]*node // as they read
	stored  map[string]*node // as they were stored last
	pending []change         // since
}

// change is one step from stored to entries. A rename is one.
type change struct {
	take string // entry that goes; ""
	put  string // entry that comes; ""
	node *node  // what put names
}

// New is an empty file system with a root folder.
func New() *FS { return newFS(newDir(0o755)) }

func newFS(root *node) *FS {
	return &FS{root: root, after: map[*node][2]string{}, halt: make(chan struct{})}
}

func newDir(mode fs.FileMode) *node {
	return &node{mode: mode | fs.ModeDir, id: new(int), entries: map[string]*node{}, stored: map[string]*node{}}
}

// SetHook puts a hook in place, or takes it away.
func (f *FS) SetHook(h Hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = h
}

// SetLimit bounds what files may hold together: appends beyond it are short and
// fail with ENOSPC. 0: no bound.
func (f *FS) SetLimit(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = n
}

// Halted is closed when a hook has stopped the machine.
func (f *FS) Halted() <-chan struct{} { return f.halt }

// Restart is the file system after the process was killed and started again:
// nothing is forgotten. Handles and calls of the old one fail.
func (f *FS) Restart() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop()
	return newFS(f.root)
}

// Crash is the file system after a power cut. What was not synced is kept or
// forgotten as r decides; with a nil r all of it is forgotten.
func (f *FS) Crash(r *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stop()
	return newFS(f.root.crash(r, map[*node]*node{}))
}

// stop fails everything from here on. The caller holds mu.
func (f *FS) stop() {
	if !f.halted {
		f.halted = true
		close(f.halt)
	}
}

func (n *node) crash(r *rand.Rand, seen map[*node]*node) *node {
	if c := seen[n]; c != nil {
		return c
	}
	c := &node{mode: n.mode, id: n.id, time: n.time}
	seen[n] = c
	if !n.mode.IsDir() {
		c.data = n.survivor(r)
		c.disk = slices.Clone(c.data)
		return c
	}
	kept := map[string]*node{}
	for name, child := range n.stored {
		kept[name] = child
	}
	for _, ch := range n.pending {
		if r == nil || r.IntN(2) == 0 {
			continue
		}
		ch.apply(kept)
	}
	c.entries, c.stored = map[string]*node{}, map[string]*node{}
	for _, name := range slices.Sorted(maps.Keys(kept)) { // r's numbers go to the same places each time
		c.entries[name] = kept[name].crash(r, seen)
		c.stored[name] = c.entries[name]
	}
	return c
}

func (c change) apply(entries map[string]*node) {
	if c.take != "" {
		delete(entries, c.take)
	}
	if c.put != "" {
		entries[c.put] = c.node
	}
}

// survivor is what a crash leaves of a file.
func (n *node) survivor(r *rand.Rand) []byte {
	size := len(n.disk)
	if r != nil {
		switch low, high := min(len(n.disk), len(n.data)), max(len(n.disk), len(n.data)); r.IntN(3) {
		case 0:
			size = len(n.data)
		case 1:
			size = low + r.IntN(high-low+1)
		}
	}
	out := make([]byte, size)
	copy(out, n.disk)
	for at := 0; at < size; at += pageSize {
		end := min(at+pageSize, size)
		if r == nil || n.lost[at/pageSize] || r.IntN(2) == 0 {
			continue
		}
		clear(out[at:end])
		if at < len(n.data) {
			copy(out[at:end], n.data[at:])
		}
	}
	return out
}

// enter counts a call and asks the hook. The caller holds mu.
func (f *FS) enter(op Op) (Fault, error) {
	if f.halted {
		return Fault{}, &fs.PathError{Op: op.Kind, Path: op.Name, Err: ErrHalted}
	}
	op.N = f.ops
	f.ops++
	if f.hook == nil {
		return Fault{}, nil
	}
	fault := f.hook(op)
	if fault.Halt {
		f.stop()
		return fault, &fs.PathError{Op: op.Kind, Path: op.Name, Err: ErrHalted}
	}
	if fault.Err != nil {
		fault.Err = &fs.PathError{Op: op.Kind, Path: op.Name, Err: fault.Err}
	}
	return fault, nil
}

// call is a call that is done or not done, by name. The caller does not hold mu.
func (f *FS) call(kind, name string, do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	op := Op{Kind: kind, Name: name}
	if kind == "syncdir" {
		if dir, err := f.find(name); err == nil {
			op.Last, op.After = f.after[dir][0], f.after[dir][1]
		}
	}
	fault, err := f.enter(op)
	if err != nil {
		return err
	}
	if fault.Err != nil && !fault.Done {
		return fault.Err
	}
	if kind == "syncdir" && fault.Done && fault.Err == nil {
		return nil
	}
	if err := do(); err != nil {
		return &fs.PathError{Op: kind, Path: name, Err: err}
	}
	return fault.Err
}

func (f *FS) find(name string) (*node, error) {
	n := f.root
	for part := range strings.SplitSeq(strings.TrimPrefix(filepath.ToSlash(filepath.Clean(name)), "/"), "/") {
		if part == "" {
			continue
		}
		if !n.mode.IsDir() {
			return nil, syscall.ENOTDIR
		}
		child := n.entries[part]
		if child == nil {
			return nil, syscall.ENOENT
		}
		n = child
	}
	return n, nil
}

// folder is the folder that holds name, and name's entry in it.
func (f *FS) folder(name string) (dir *node, entry string, err error) {
	dir, err = f.find(filepath.Dir(name))
	if err == nil && !dir.mode.IsDir() {
		err = syscall.ENOTDIR
	}
	return dir, filepath.Base(name), err
}

func (f *FS) change(dir *node, kind string, c change) {
	c.apply(dir.entries)
	dir.pending = append(dir.pending, c)
	name := c.put
	if name == "" {
		name = c.take
	}
	f.after[dir] = [2]string{kind, name}
}

// Mkdir makes a folder.
func (f *FS) Mkdir(name string, perm fs.FileMode) error {
	return f.call("mkdir", name, func() error {
		dir, entry, err := f.folder(name)
		if err != nil {
			return err
		}
		if dir.entries[entry] != nil {
			return syscall.EEXIST
		}
		f.change(dir, "mkdir", change{put: entry, node: newDir(perm)})
		return nil
	})
}

// Create makes a file that is not there yet.
func (f *FS) Create(name string, perm fs.FileMode) (*Handle, error) {
	var h *Handle
	err := f.call("create", name, func() error {
		dir, entry, err := f.folder(name)
		if err != nil {
			return err
		}
		if dir.entries[entry] != nil {
			return syscall.EEXIST
		}
		n := &node{mode: perm, id: new(int), time: time.Now()}
		f.change(dir, "create", change{put: entry, node: n})
		h = &Handle{f, n, name, "create"}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Open opens a file that is there.
func (f *FS) Open(name string) (*Handle, error) {
	var h *Handle
	err := f.call("open", name, func() error {
		n, err := f.find(name)
		if err != nil {
			return err
		}
		if n.mode.IsDir() {
			return syscall.EISDIR
		}
		h = &Handle{f, n, name, "open"}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Lstat describes a file or folder.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	var info fs.FileInfo
	err := f.call("lstat", name, func() error {
		n, err := f.find(name)
		if err != nil {
			return err
		}
		info = n.info(filepath.Base(name))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// SameFile tells whether two descriptions are of one file.
func (*FS) SameFile(a, b fs.FileInfo) bool { return a.Sys() == b.Sys() }

// ReadDir lists a folder, sorted.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	err := f.call("readdir", name, func() error {
		n, err := f.find(name)
		if err != nil {
			return err
		}
		if !n.mode.IsDir() {
			return syscall.ENOTDIR
		}
		for entry, child := range n.entries {
			out = append(out, fs.FileInfoToDirEntry(child.info(entry)))
		}
		slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Rename moves a file within its folder and replaces nothing.
func (f *FS) Rename(from, to string) error { return f.move("rename", from, to, false) }

// Replace moves a file within its folder onto another.
func (f *FS) Replace(from, to string) error { return f.move("replace", from, to, true) }

// move is a call of that kind; onto: there may be a file of the new name.
func (f *FS) move(kind, from, to string, onto bool) error {
	return f.call(kind, from, func() error {
		dir, old, err := f.folder(from)
		if err != nil {
			return err
		}
		into, entry, err := f.folder(to)
		if err != nil {
			return err
		}
		n := dir.entries[old]
		switch {
		case n == nil:
			return syscall.ENOENT
		case dir != into:
			return syscall.EXDEV
		case !onto && dir.entries[entry] != nil:
			return syscall.EEXIST
		}
		f.change(dir, kind, change{take: old, put: entry, node: n})
		return nil
	})
}

// Remove takes a file out of its folder.
func (f *FS) Remove(name string) error {
	return f.call("remove", name, func() error {
		dir, entry, err := f.folder(name)
		if err != nil {
			return err
		}
		n := dir.entries[entry]
		if n == nil {
			return syscall.ENOENT
		}
		if n.mode.IsDir() && len(n.entries) > 0 {
			return syscall.ENOTEMPTY
		}
		f.change(dir, "remove", change{take: entry})
		return nil
	})
}

// SyncDir makes the entries of a folder durable. After a failure they are still
// to be synced, unlike a file's pages: file systems stop when their journal fails.
func (f *FS) SyncDir(name string) error {
	return f.call("syncdir", name, func() error {
		n, err := f.find(name)
		if err != nil {
			return err
		}
		if !n.mode.IsDir() {
			return syscall.ENOTDIR
		}
		for _, c := range n.pending {
			c.apply(n.stored)
		}
		n.pending = nil
		return nil
	})
}

// ReadFile is a whole file as it reads, past any hook: for the test's own eyes.
func (f *FS) ReadFile(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(name)
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.data), nil
}

// Names are the entries of a folder, sorted, past any hook.
func (f *FS) Names(dir string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(dir)
	if err != nil {
		return nil
	}
	var names []string
	for name := range n.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// used is how much all files that have a name hold. The caller holds mu.
func (n *node) used() (sum int64) {
	for _, child := range n.entries {
		sum += int64(len(child.data)) + child.used()
	}
	return sum
}

func (n *node) info(name string) fs.FileInfo {
	return info{name: name, size: int64(len(n.data)), mode: n.mode, time: n.time, id: n.id}
}

type info struct {
	name string
	size int64
	mode fs.FileMode
	time time.Time
	id   *int
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.time }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return i.id }

// Handle is an open file.
type Handle struct {
	fs   *FS
	n    *node
	name string
	last string // call, guarded by fs.mu
}

// enter is FS.enter for a call on a file. The caller holds mu.
func (h *Handle) enter(kind string, size int) (Fault, error) {
	op := Op{Kind: kind, Name: h.name, Size: size, File: h.n.id, Last: h.last}
	if op.Change() {
		h.last = kind
	}
	return h.fs.enter(op)
}

// ReadAt reads what was written, synced or not.
func (h *Handle) ReadAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	fault, err := h.enter("read", len(p))
	if err != nil {
		return 0, err
	}
	if fault.Err != nil {
		return 0, fault.Err
	}
	if off >= int64(len(h.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Append writes at the end.
func (h *Handle) Append(bufs [][]byte) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	all := slices.Concat(bufs...)
	fault, err := h.enter("append", len(all))
	if err != nil {
		return err
	}
	fail := fault.Err
	if fail != nil && !fault.Done {
		all = all[:min(fault.Short, len(all))]
	}
	if h.fs.limit > 0 {
		if room := max(h.fs.limit-h.fs.root.used(), 0); int64(len(all)) > room {
			all = all[:room]
			fail = &fs.PathError{Op: "write", Path: h.name, Err: syscall.ENOSPC}
		}
	}
	h.n.dirty(len(h.n.data), len(h.n.data)+len(all))
	h.n.data = append(h.n.data, all...)
	h.n.time = time.Now()
	return fail
}

// dirty: pages written again are no longer lost.
func (n *node) dirty(from, to int) {
	for p := from / pageSize; p*pageSize < to; p++ {
		delete(n.lost, p)
	}
}

// Truncate cuts the file.
func (h *Handle) Truncate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	fault, err := h.enter("truncate", 0)
	if err != nil {
		return err
	}
	if fault.Err != nil && !fault.Done {
		return fault.Err
	}
	if size > int64(len(h.n.data)) {
		h.n.data = append(h.n.data, make([]byte, size-int64(len(h.n.data)))...)
	}
	h.n.data = h.n.data[:size:size]
	h.n.time = time.Now()
	return fault.Err
}

// Rewrite writes a range again, as it reads: its pages are no longer lost.
func (h *Handle) Rewrite(from, to int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	fault, err := h.enter("rewrite", int(to-from))
	if err != nil {
		return err
	}
	if fault.Err == nil || fault.Done {
		h.n.dirty(int(from), int(to))
		h.n.time = time.Now()
	}
	return fault.Err
}

// Sync makes the bytes durable that were written since the last one. One that
// fails and is not Done loses them: they read, but no later Sync stores them.
func (h *Handle) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	fault, err := h.enter("sync", 0)
	if err != nil {
		return err
	}
	switch {
	case fault.Err == nil && fault.Done:
		return nil
	case fault.Err != nil && !fault.Done:
		h.n.lose()
		return fault.Err
	}
	old := len(h.n.disk)
	h.n.store()
	if fault.Err != nil && fault.Short > 0 && old+fault.Short < len(h.n.disk) {
		h.n.disk = h.n.disk[:old+fault.Short]
		h.n.lose()
	}
	return fault.Err
}

// lose calls every page clean that is not stored.
func (n *node) lose() {
	if n.lost == nil {
		n.lost = map[int]bool{}
	}
	for at := 0; at < len(n.data); at += pageSize {
		end := min(at+pageSize, len(n.data))
		if end > len(n.disk) || string(n.data[at:end]) != string(n.disk[at:end]) {
			n.lost[at/pageSize] = true
		}
	}
}

// store makes the disk equal to what reads, but for lost pages.
func (n *node) store() {
	disk := slices.Clone(n.data)
	for p := range n.lost {
		at := p * pageSize
		if at >= len(disk) {
			continue
		}
		page := disk[at:min(at+pageSize, len(disk))]
		clear(page)
		if at < len(n.disk) {
			copy(page, n.disk[at:])
		}
	}
	n.disk = disk
}

// Stat describes the file.
func (h *Handle) Stat() (fs.FileInfo, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	fault, err := h.enter("stat", 0)
	if err == nil {
		err = fault.Err
	}
	if err != nil {
		return nil, err
	}
	return h.n.info(filepath.Base(h.name)), nil
}

// Close ends the handle. It syncs nothing.
func (h *Handle) Close() error { return nil }
