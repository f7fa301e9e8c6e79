package output

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"vtsidecar/internal/event"
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
