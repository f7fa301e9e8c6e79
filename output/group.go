package output

import (
	"context"
	"errors"
	"slices"

	"vtsidecar/internal/event"
)

// Bounds of one group, that is of one write and one sync.
const (
	maxGroupBytes    = 8 << 20 // a larger portion goes alone
	maxGroupPortions = 512     // under the kernel's limit for one vectored write
)

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
