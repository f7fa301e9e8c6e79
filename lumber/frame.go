package lumber

// Bytes to frames, by these rules:
//
//  1. A frame's header is judged before anything is allocated for it, and memory
//     grows with the bytes that have come, never with those announced.
//  2. Compressed frames are inflated as a stream straight into chunks, headers and
//     all, and events are slices of those chunks. Only an event that straddles
//     the end of a chunk is moved, once per 64 KiB.
//  3. In plain frames never a byte is read into a chunk that lies beyond the frame.
//  4. Whatever lies in a chunk before keep belongs to an event and is not touched
//     again. Up to event.Sentinel bytes behind an event may be read by others once
//     its batch is handed down, so the chunk goes with the batch.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"vtsidecar/internal/event"
)

// errCut: the source ended inside what was asked for.
var errCut = errors.New("cut")

// frames is the place where the bytes of frames arrive. Only the connection's
// reader touches it.
type frames struct {
	pool  *pool
	ctx   context.Context // ends waiting for budget
	share *share          // pays for all chunks

	src   io.Reader // the connection, or the inflater of a compressed frame
	exact bool      // src goes on behind the frame: take no byte too many
	eof   bool      // src has ended

	full [][]byte // chunks that hold events and nothing else that matters
	buf  []byte   // the current chunk; nil before the first byte
	keep int      // buf[:keep] belongs to events
	next int      // buf[next:end] has arrived and is to be parsed
	end  int
}

// limit is where bytes must end so that the sentinel fits behind them.
func (f *frames) limit() int { return max(0, len(f.buf)-event.Sentinel) }

// need makes n bytes lie at buf[next:]. errCut: src ended before.
func (f *frames) need(n int) error {
	if f.end-f.next >= n {
		return nil
	}
	return f.fill(n)
}

func (f *frames) fill(n int) error {
	if f.next == f.end {
		f.next, f.end = f.keep, f.keep // what was parsed and not kept is forgotten
	}
	for f.end-f.next < n {
		if f.eof {
			return errCut
		}
		// As much room as an ordinary event needs at once; for more than that the
		// client has to send first.
		if want := min(n, max(2*(f.end-f.next), bigChunk-event.Sentinel)); f.next+want > f.limit() {
			if err := f.grow(want); err != nil {
				return err
			}
		}
		to := f.limit()
		if f.exact {
			to = min(to, f.next+n)
		}
		if err := f.read(to); err != nil {
			return err
		}
	}
	return nil
}

// read takes what src has, up to buf[:to].
func (f *frames) read(to int) error {
	for range 100 {
		n, err := f.src.Read(f.buf[f.end:to])
		f.end += n
		if errors.Is(err, io.EOF) {
			f.eof, err = true, nil
		}
		if n > 0 || f.eof || err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// grow moves buf[next:end] to the start of a chunk in which want bytes fit.
func (f *frames) grow(want int) error {
	size := chunkSize(want)
	if f.buf == nil && want <= smallChunk-event.Sentinel {
		size = smallChunk
	} else if size == smallChunk {
		size = bigChunk
	}
	if err := f.share.reserve(f.ctx, int64(size)); err != nil {
		return err
	}
	old := f.buf
	f.buf = f.pool.chunk(size)
	f.end = copy(f.buf, old[f.next:f.end])
	f.next = 0
	if f.keep > 0 {
		f.full = append(f.full, old)
	} else if old != nil {
		f.pool.freeChunk(old)
		f.share.release(int64(len(old)))
	}
	f.keep = 0
	return nil
}

// take returns the next n bytes, which need has brought, as an event's.
func (f *frames) take(n int) []byte {
	b := f.buf[f.next : f.next+n : f.next+n+event.Sentinel]
	f.next += n
	f.keep = f.next
	return b
}

// some returns between 1 and most bytes, valid until the next call of anything
// here; they are not kept. It never needs more than one chunk.
func (f *frames) some(most int64) ([]byte, error) {
	if f.next == f.end {
		f.next, f.end = f.keep, f.keep
		if f.limit()-f.next < 4<<10 {
			if err := f.grow(4 << 10); err != nil {
				return nil, err
			}
		}
		to := f.limit()
		if f.exact {
			to = int(min(int64(to), int64(f.next)+most))
		}
		if err := f.read(to); err != nil {
			return nil, err
		}
		if f.next == f.end {
			return nil, errCut
		}
	}
	n := int(min(int64(f.end-f.next), most))
	b := f.buf[f.next : f.next+n]
	f.next += n
	return b, nil
}

// more reports whether src has another byte: the question between frames.
func (f *frames) more() (bool, error) {
	switch err := f.need(1); {
	case err == nil:
		return true, nil
	case errors.Is(err, errCut):
		return false, nil
	default:
		return false, err
	}
}

// uint32 reads one integer.
func (f *frames) uint32() (uint32, error) {
	if err := f.need(4); err != nil {
		return 0, err
	}
	v := binary.BigEndian.Uint32(f.buf[f.next:])
	f.next += 4
	return v, nil
}

// from sets where bytes come from next; nothing of the last source may be left.
func (f *frames) from(src io.Reader, exact bool) {
	f.src, f.exact, f.eof = src, exact, false
}

// detach gives away all chunks that hold events. What has arrived and is not
// parsed yet moves to a new chunk, paid by to.
func (f *frames) detach(to *share) ([][]byte, error) {
	if f.end > f.next && f.keep > 0 {
		// Paid by the old share first: it is the older one, so it waits less.
		size := max(bigChunk, chunkSize(f.end-f.next))
		if err := f.share.reserve(f.ctx, int64(size)); err != nil {
			return nil, err
		}
		f.share.move(to, int64(size))
		b := f.pool.chunk(size)
		n := copy(b, f.buf[f.next:f.end])
		f.full = append(f.full, f.buf)
		f.buf, f.keep, f.next, f.end = b, 0, 0, n
	} else if f.keep > 0 {
		f.full = append(f.full, f.buf)
		f.buf, f.keep, f.next, f.end = nil, 0, 0, 0
	} else if f.buf != nil && to != nil {
		f.share.move(to, int64(len(f.buf)))
	}
	chunks := f.full
	f.full, f.share = nil, to
	return chunks, nil
}

// drop forgets everything. The share gives back what it paid when it is closed.
func (f *frames) drop() {
	for _, b := range f.full {
		f.pool.freeChunk(b)
	}
	if f.buf != nil {
		f.pool.freeChunk(f.buf)
	}
	*f = frames{pool: f.pool, ctx: f.ctx}
}

// limited is the rest of one compressed frame on a connection.
type limited struct {
	r    io.Reader
	left int64
	err  error // the connection's, as opposed to the stream's
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, io.EOF
	}
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		l.err = err
	}
	return n, err
}

// inflate starts the inflater over a compressed frame of n bytes on src.
func (r *rig) inflate(src io.Reader, n uint32) error {
	r.limit = limited{r: src, left: int64(n)}
	r.frame.Reset(&r.limit)
	return r.inflateError(r.stream.reset(r.frame))
}

// inflateError tells the connection's errors from the stream's.
func (r *rig) inflateError(err error) error {
	switch {
	case err == nil:
		return nil
	case r.limit.err != nil:
		return r.limit.err
	default:
		return violation(reasonZlib, "a compressed frame is no whole zlib stream: %v", err)
	}
}

// inflated checks that nothing stands behind the stream within its frame.
func (r *rig) inflated() error {
	if n := r.limit.left + int64(r.frame.Buffered()); n > 0 {
		return violation(reasonZlib, "%d bytes stand behind the zlib stream of a compressed frame", n)
	}
	return nil
}

// header is the beginning of every frame.
type header struct {
	version byte
	kind    byte
	n       uint32 // count, length or sequence number
}

const headerSize = 6

func parseHeader(b []byte) header {
	return header{version: b[0], kind: b[1], n: binary.BigEndian.Uint32(b[2:headerSize])}
}

func (h header) String() string { return fmt.Sprintf("frame %q of version %q", h.kind, h.version) }
