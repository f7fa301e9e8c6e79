package output

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"vtsidecar/internal/event"
)

// Bounds of one group, that is of one write and one sync.
const (
	maxGroupBytes    = 8 << 20 // a larger portion goes alone
	maxGroupPortions = 512     // under the kernel's limit for one vectored write
)

// Pauses between attempts while the disk is full or sick.
const (
	firstPause = time.Second
	maxPause   = time.Minute
)

// ErrClosed is returned for what was not durable when the output was closed.
var ErrClosed = errors.New("output is closed")

// errChanged: somebody moved, removed or cut the file beneath us.
var errChanged = errors.New("the file was changed by someone else while it was written")

// journal appends portions of lines to a file and returns when they are
// durable. File and DeadLetter are both one of these, so that there is one
// piece of code to believe.
//
// How it keeps its promise:
//
//   - Portions that arrive while a group is under way wait for the next one. A
//     group is one write and one sync, whatever it holds.
//
//   - After a failed write or sync nothing is known of a file beyond what was
//     durable before, and a later sync may say yes to bytes that the kernel has
//     dropped. So that file is never synced again: it is cut back, takes a
//     rotated name, and everything that was not durable goes to a new file.
//
//   - That cut cannot be made durable, because it must not be synced. An empty
//     file <rotated name>.cut-<length> says where it was, until the next start
//     has looked.
//
//   - A folder is synced after each rename and each creation, before the next
//     step, so that no order of entries that a crash may leave behind takes an
//     acknowledged line away.
//
//   - A process that is killed after a failed sync cannot tell the next one that
//     pages which read well are not on the disk. So at start the end of the file
//     is written again, in place, before it counts as durable.
type journal struct {
	journalConfig
	dir, stem, ext string // of path: /var/log, events, .ndjson

	wake     chan struct{} // something is queued
	end      chan struct{} // Close was called
	abort    chan struct{} // its patience has ended
	finished chan struct{} // run has ended

	mu      sync.Mutex
	queue   []*request   // in no group; the first may be durable in part
	turns   []chan error // who wants the file closed; each buffered
	failure error        // of the last attempt; nil: all is well
	ending  bool         // end is closed
	aborted bool         // abort is closed
	busy    bool         // run is about files, and may hang there

	// The rest belongs to run, and to openJournal before run starts.
	cur      *appendFile // nil: to be opened
	broken   *appendFile // to be set aside before anything else
	started  bool        // what an earlier process left behind was seen to
	unsynced bool        // the folder has entries that may not be durable
	rotated  []string    // names of files closed since closed was told
	changes  int         // times in a row that somebody changed the file beneath us
	tornOf   string      // a file whose tail could not be cut off,
	torn     string      // and the copy of that tail
	last     closedName  // the last one given
	lastTry  int         // bytes of the last group
	group    []piece     // reused
	bufs     [][]byte    // reused
}

type journalConfig struct {
	setting string // named in errors
	what    string // "output file", for the log
	path    string
	rotate  int64         // bytes; 0: never
	every   time.Duration // age at which a file is closed, see appendFile.due; 0: never
	perm    fs.FileMode
	fs      FS
	now     func() time.Time
	log     *slog.Logger

	stored func(lines int)      // lines became durable; may be nil
	retry  func(reason string)  // an attempt failed; may be nil
	up     func(bool)           // lines can be stored, or no longer; may be nil
	closed func(names []string) // files were closed and are whole; may be nil
}

// appendFile is an open file that lines are appended to.
type appendFile struct {
	h       Handle
	info    fs.FileInfo // tells which file it is
	durable int64       // length that survives a power cut, and that the file has
	aside   string      // its rotated name, once the mark beside it is durable
	due     time.Time   // end of the interval in which it got its first line; zero: it has none
}

// request is one portion that a caller waits for.
type request struct {
	ctx   context.Context
	buf   []byte
	index []event.Line
	off   int        // bytes of buf that are durable; run only, or under journal.mu while queued
	line  int        // lines that are
	done  chan error // one answer, buffered
}

// piece is what of a request goes into one group.
type piece struct {
	r     *request
	bytes int
	lines int
}

// openJournal opens or makes the file and starts the writer. A full disk is not
// an error: the journal then starts unready and goes on when there is space.
func openJournal(cfg journalConfig) (*journal, error) {
	if cfg.path == "" {
		return nil, fmt.Errorf("%s: no path is given", cfg.setting)
	}
	if cfg.fs == nil {
		// What is done to the working directory later must not move the file.
		cfg.fs = osFS{}
		path, err := filepath.Abs(cfg.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cfg.setting, err)
		}
		cfg.path = path
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.log == nil {
		cfg.log = slog.New(slog.DiscardHandler)
	}
	if cfg.stored == nil {
		cfg.stored = func(int) {}
	}
	if cfg.retry == nil {
		cfg.retry = func(string) {}
	}
	if cfg.up == nil {
		cfg.up = func(bool) {}
	}
	if cfg.closed == nil {
		cfg.closed = func([]string) {}
	}
	name := filepath.Base(cfg.path)
	ext := filepath.Ext(name)
	if ext == name {
		ext = "" // a name such as .events
	}
	j := &journal{
		journalConfig: cfg,
		dir:           filepath.Dir(cfg.path),
		stem:          strings.TrimSuffix(name, ext),
		ext:           ext,
		wake:          make(chan struct{}, 1),
		end:           make(chan struct{}),
		abort:         make(chan struct{}),
		finished:      make(chan struct{}),
	}
	err := j.prepare()
	if err != nil && !noSpace(err) {
		j.closeFiles()
		return nil, j.words(err)
	}
	j.report(err)
	go j.run()
	return j, nil
}

// words names the setting; the operation and the path are in err.
func (j *journal) words(err error) error { return fmt.Errorf("%s: %w", j.setting, err) }

// store returns nil when all lines are durable. Until a portion is in a group
// it is dropped as soon as ctx ends; in a group it is waited for, because its
// bytes are being read.
func (j *journal) store(ctx context.Context, buf []byte, index []event.Line) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(buf) == 0 {
		return nil
	}
	r := &request{ctx: ctx, buf: buf, index: index, done: make(chan error, 1)}
	j.mu.Lock()
	if j.ending {
		j.mu.Unlock()
		return ErrClosed
	}
	j.queue = append(j.queue, r)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}

	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
	}
	j.mu.Lock()
	at := slices.Index(j.queue, r)
	if at >= 0 {
		j.queue = slices.Delete(j.queue, at, at+1)
	}
	j.mu.Unlock()
	if at >= 0 {
		return ctx.Err()
	}
	return <-r.done
}

// turn closes the current file, if there is anything in it, so that all that was
// stored before stands in closed ones.
func (j *journal) turn(ctx context.Context) error {
	done := make(chan error, 1)
	j.mu.Lock()
	switch {
	case j.ending:
		j.mu.Unlock()
		return ErrClosed
	case j.failure != nil:
		err := j.words(j.failure)
		j.mu.Unlock()
		return err
	}
	j.turns = append(j.turns, done)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-j.finished:
		return ErrClosed
	}
}

// ready is nil, or why nothing can be stored.
func (j *journal) ready() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.ending:
		return ErrClosed
	case j.failure != nil:
		return j.words(j.failure)
	}
	return nil
}

// close lets what is queued become durable, until ctx ends, and ends the
// writer. A write that the kernel does not return from is left behind.
func (j *journal) close(ctx context.Context) error {
	j.mu.Lock()
	if !j.ending {
		j.ending = true
		close(j.end)
	}
	j.mu.Unlock()
	select {
	case <-j.finished:
		return nil
	case <-ctx.Done():
	}
	j.mu.Lock()
	if !j.aborted {
		j.aborted = true
		close(j.abort)
	}
	left, busy := len(j.queue), j.busy
	for _, r := range j.queue {
		r.done <- ErrClosed
	}
	j.queue = nil
	j.mu.Unlock()
	if !busy {
		<-j.finished // it was only pausing
		if left == 0 {
			return nil
		}
	}
	return j.words(fmt.Errorf("close: %w", ctx.Err()))
}

// run is the writer: the only one that touches files.
func (j *journal) run() {
	defer close(j.finished)
	defer j.closeFiles()
	var pause time.Duration
	end := j.end // nil once it was heeded
	for {
		j.mu.Lock()
		work, ending, failing := len(j.queue)+len(j.turns) > 0, j.ending, j.failure != nil
		aged := !ending && !failing && j.aged()
		j.busy = work || aged || failing && !ending
		j.mu.Unlock()
		var err error
		switch {
		case work || aged:
			err = j.commit()
		case ending:
			return
		case failing:
			err = j.probe()
		default:
			j.idle()
			continue
		}
		j.report(err)
		if len(j.rotated) > 0 {
			j.closed(j.rotated) // not before: who waited for the new file comes first
			j.rotated = nil
		}
		j.mu.Lock()
		j.busy = false
		j.mu.Unlock()
		if err == nil {
			pause = 0
			continue
		}
		pause = min(max(2*pause, firstPause), maxPause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-end: // one more attempt without waiting
			end = nil
		case <-j.abort:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// idle waits until something is queued, Close is called, or the file may be due.
func (j *journal) idle() {
	var due <-chan time.Time
	if j.every > 0 && j.cur != nil && !j.cur.due.IsZero() {
		// A timer does not see the clock being set or the machine sleeping.
		timer := time.NewTimer(min(max(j.cur.due.Sub(j.now()), time.Millisecond), maxPause))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-j.wake:
	case <-j.end:
	case <-due:
	}
}

// aged tells whether the interval of the current file is over.
func (j *journal) aged() bool {
	if j.every == 0 || j.cur == nil || j.cur.due.IsZero() {
		return false
	}
	now := j.now()
	// Where the clock was set back, the file must not stay open until it has caught up.
	if end := j.intervalEnd(now); j.cur.due.After(end) {
		j.cur.due = end
	}
	return !now.Before(j.cur.due)
}

// intervalEnd is the end of the interval that holds t. Intervals are counted
// from a Monday, 00:00 UTC, so that hours, days and weeks begin where people
// expect it, and every process has the same.
func (j *journal) intervalEnd(t time.Time) time.Time { return t.Truncate(j.every).Add(j.every) }

// report keeps the outcome of an attempt and logs when it differs from the one before.
func (j *journal) report(err error) {
	j.mu.Lock()
	before := j.failure
	j.failure = err
	j.mu.Unlock()
	if err != nil {
		j.retry(reason(err))
	}
	j.up(err == nil)
	switch {
	case err != nil && before == nil:
		j.log.Error(j.what+" cannot be written; nothing that needs it is acknowledged until it can", "error", j.words(err))
	case err == nil && before != nil:
		j.log.Info(j.what+" can be written again", "path", j.path)
	}
}

// retryReasons are all labels of reason.
var retryReasons = []string{"no_space", "io", "permission", "changed", "other"}

// reason is an error's metric label.
func reason(err error) string {
	switch {
	case noSpace(err):
		return "no_space"
	case errors.Is(err, syscall.EIO):
		return "io"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "permission"
	case errors.Is(err, errChanged):
		return "changed"
	}
	return "other"
}

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// commit makes one group durable and answers its callers. Where that failed,
// the group is back in the queue.
func (j *journal) commit() (err error) {
	j.mu.Lock()
	turns := j.turns
	j.turns = nil
	j.mu.Unlock()
	defer func() {
		for _, t := range turns {
			if err != nil {
				t <- j.words(err)
			} else {
				t <- nil
			}
		}
	}()
	if err := j.prepare(); err != nil {
		return err
	}
	if len(turns) > 0 && j.cur.durable > 0 || j.aged() || j.gather() { // the file is due, or full
		if err := j.rotateFile(); err != nil {
			return err
		}
		j.gather()
	}
	if len(j.group) == 0 {
		return nil // everyone left, or the file was due
	}
	err = j.appendGroup()
	if err == nil {
		j.report(nil) // before the answers: who has one finds the output ready
	}
	j.settle(err == nil)
	if !errors.Is(err, errChanged) {
		j.changes = 0
		return err
	}
	// Once is somebody's logrotate, and the disk took the group: the next
	// attempt needs no pause. More in a row is a failure.
	if j.changes++; j.changes == 1 {
		return nil
	}
	return err
}

// gather moves portions from the queue to the group as far as they fit into the
// file. full: not even the first line does.
func (j *journal) gather() (full bool) {
	j.group, j.bufs = j.group[:0], j.bufs[:0]
	j.mu.Lock()
	defer j.mu.Unlock()
	size := 0
	defer func() {
		if size > 0 {
			j.lastTry = size
		}
	}()
	for len(j.queue) > 0 && len(j.group) < maxGroupPortions {
		r := j.queue[0]
		if err := r.ctx.Err(); err != nil {
			j.pop()
			r.done <- err
			continue
		}
		p := r.rest()
		if size > 0 && size+p.bytes > maxGroupBytes {
			break
		}
		if j.rotate > 0 {
			used := j.cur.durable + int64(size)
			if used+int64(p.bytes) > j.rotate {
				p = r.fit(j.rotate-used, used == 0)
			}
		}
		if p.lines == 0 {
			return size == 0
		}
		j.pop()
		j.group = append(j.group, p)
		j.bufs = append(j.bufs, r.buf[r.off:r.off+p.bytes])
		size += p.bytes
		if r.off+p.bytes < len(r.buf) {
			break // the rest begins the next file
		}
	}
	return false
}

// pop takes the first request out of the queue. The caller holds mu.
func (j *journal) pop() {
	j.queue[0] = nil
	j.queue = j.queue[1:]
}

// rest is everything that is not durable yet.
func (r *request) rest() piece {
	return piece{r: r, bytes: len(r.buf) - r.off, lines: len(r.index) - r.line}
}

// fit is as many whole lines of the rest as there is room for; at least one if
// it must be.
func (r *request) fit(room int64, must bool) piece {
	lines, _ := slices.BinarySearchFunc(r.index[r.line:], int64(r.off)+room, func(l event.Line, end int64) int {
		if int64(l.End) <= end {
			return -1
		}
		return 1
	})
	if lines == 0 && must {
		lines = 1
	}
	if lines == 0 {
		return piece{r: r}
	}
	return piece{r: r, bytes: r.index[r.line+lines-1].End - r.off, lines: lines}
}

// settle answers the callers of the group, or puts them back to the head of the queue.
func (j *journal) settle(durable bool) {
	if durable {
		lines := 0
		for _, p := range j.group {
			lines += p.lines
		}
		j.stored(lines) // first, so that who has an answer finds its lines counted
	}
	j.mu.Lock()
	var back []*request
	for _, p := range j.group {
		if durable {
			p.r.off += p.bytes
			p.r.line += p.lines
			if p.r.off == len(p.r.buf) {
				p.r.done <- nil
				continue
			}
		}
		if err := p.r.ctx.Err(); err != nil {
			p.r.done <- err // its caller waits for the group only
			continue
		}
		if j.aborted {
			p.r.done <- ErrClosed
			continue
		}
		back = append(back, p.r)
	}
	if len(back) > 0 {
		j.queue = slices.Insert(j.queue, 0, back...)
	}
	j.mu.Unlock()
	clear(j.group)
	clear(j.bufs)
}

// appendGroup writes and syncs the group, and looks whether it is where
// everybody will look for it.
func (j *journal) appendGroup() error {
	f := j.cur
	size := f.durable
	for _, b := range j.bufs {
		size += int64(len(b))
	}
	err := f.h.Append(j.bufs)
	if err == nil {
		err = f.h.Sync()
	}
	var still bool
	if err == nil {
		still, err = j.inPlace(f, size)
	}
	if err != nil {
		j.cur, j.broken = nil, f
		return err
	}
	if !still {
		j.drop()
		return errChanged
	}
	f.durable = size
	if f.due.IsZero() && j.every > 0 {
		f.due = j.intervalEnd(j.now())
	}
	return nil
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

// finishCuts makes durable, at start, the cuts of files that were set aside. It
// also finds the last name that was given, so that the next one comes behind it.
func (j *journal) finishCuts() error {
	entries, err := j.fs.ReadDir(j.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := parseName(e.Name(), j.stem, j.ext)
		if !ok {
			continue
		}
		if name.compare(j.last) > 0 {
			j.last = name
		}
		if name.cut == 0 {
			continue
		}
		if err := j.finishCut(filepath.Join(j.dir, name.base), name.cut); err != nil {
			return err
		}
		if err := j.fs.Remove(filepath.Join(j.dir, e.Name())); err != nil {
			return err
		}
	}
	return j.removeIfThere(j.probePath())
}

func (j *journal) removeIfThere(name string) error {
	if err := j.fs.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (j *journal) finishCut(name string, durable int64) error {
	f, err := j.openFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the rename did not come to be, or an operator took the file
	}
	if err != nil {
		return err
	}
	defer f.h.Close()
	f.durable = min(durable, f.info.Size())
	if f.durable < f.info.Size() {
		if err := j.moveTail(f); err != nil {
			return err
		}
	}
	return f.h.Sync() // a cut that is seen need not be on the disk
}

// moveTail moves what stands behind f.durable, whole lines or not, to a file of
// its own: durably first, then the cut. A crash between leaves the tail twice.
// The cut itself is not durable until f is synced.
func (j *journal) moveTail(f *appendFile) error {
	size := f.info.Size()
	name, h, err := j.createTorn()
	if err == nil {
		err = copyTail(h, f.h, f.durable, size)
		if err == nil {
			err = h.Sync()
		}
		h.Close() // it is synced, or not needed
	}
	if err == nil {
		err = j.fs.SyncDir(j.dir)
	}
	if err != nil {
		j.fs.Remove(name) // the tail is still where it was; attempts must not pile up
		return err
	}
	if j.tornOf == f.info.Name() {
		j.fs.Remove(j.torn) // that of an earlier attempt
	}
	// Where the cut fails it may have been made all the same: the copy stays.
	j.tornOf, j.torn = f.info.Name(), name
	if err := f.h.Truncate(f.durable); err != nil {
		return err
	}
	j.tornOf, j.torn = "", ""
	j.log.Warn(j.what+" did not end with a whole line, as after a crash; what was never acknowledged was moved aside",
		"path", filepath.Join(j.dir, f.info.Name()), "moved_to", name, "bytes", size-f.durable)
	return nil
}

func (j *journal) createTorn() (string, Handle, error) {
	base := filepath.Join(j.dir, j.stem+".torn-"+j.now().UTC().Format(stampLayout))
	name := base
	for n := 1; ; n++ {
		h, err := j.fs.Create(name, j.perm)
		if !errors.Is(err, fs.ErrExist) {
			return name, h, err
		}
		name = base + "-" + strconv.Itoa(n)
	}
}

func copyTail(to, from Handle, at, end int64) error {
	buf := make([]byte, min(end-at, 1<<20))
	for at < end {
		buf = buf[:min(end-at, int64(len(buf)))]
		n, err := from.ReadAt(buf, at)
		if n < len(buf) {
			return fmt.Errorf("read the torn line: %w", err)
		}
		if err := to.Append([][]byte{buf}); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// probe finds out, while nobody waits, whether lines could be stored again: the
// readiness that would bring them must not wait for them.
func (j *journal) probe() error {
	if err := j.prepare(); err != nil {
		return err
	}
	if err := j.removeIfThere(j.probePath()); err != nil {
		return err
	}
	h, err := j.fs.Create(j.probePath(), j.perm)
	if err == nil {
		err = h.Append(probeBytes(j.lastTry))
		if err == nil {
			err = h.Sync()
		}
		h.Close() // it goes
	}
	if gone := j.removeIfThere(j.probePath()); err == nil {
		err = gone
	}
	return err
}

func (j *journal) probePath() string { return filepath.Join(j.dir, j.stem+".probe") }

// probeBytes is as much as the last group, within bounds.
func probeBytes(n int) [][]byte {
	const block = 64 << 10
	zeros := make([]byte, block)
	n = min(max(n, 1), maxGroupBytes)
	var bufs [][]byte
	for ; n > 0; n -= block {
		bufs = append(bufs, zeros[:min(n, block)])
	}
	return bufs
}

// wholeLines is the length of what can be trusted in a file of this size: up to
// the last "\n" before the first NUL. JSON holds no raw NUL, and a page that was
// not written before a power cut is full of them, even if later pages were
// written.
func wholeLines(h Handle, size int64) (int64, error) {
	// Bytes that were not synced are those of one group: there is no need to
	// read all of a huge file. An event has at most 128 MiB.
	const most = 192 << 20
	return wholeLinesFrom(h, max(size-most, 0), size)
}

func wholeLinesFrom(h Handle, at, size int64) (int64, error) {
	from, whole := at, int64(-1)
	buf := make([]byte, min(size-at, 256<<10))
	for at < size {
		buf = buf[:min(size-at, int64(len(buf)))]
		if n, err := h.ReadAt(buf, at); n < len(buf) {
			return 0, fmt.Errorf("read: %w", err)
		}
		nul := bytes.IndexByte(buf, 0)
		part := buf
		if nul >= 0 {
			part = buf[:nul]
		}
		if end := bytes.LastIndexByte(part, '\n'); end >= 0 {
			whole = at + int64(end) + 1
		}
		if nul >= 0 {
			break
		}
		at += int64(len(buf))
	}
	switch {
	case whole >= 0:
		return whole, nil
	case from == 0:
		return 0, nil
	}
	return wholeLinesFrom(h, 0, size)
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
