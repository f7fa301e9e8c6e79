package lumber

// Events of version 1 are pairs of texts; here they become JSON objects, while they
// are read and in bounded memory, whatever length they announce.

import (
	"bytes"
	"crypto/sha256"
	"hash"

	"vtsidecar/internal/event"
)

// pairsEvent reads the pairs of one D into a JSON object of strings.
func (c *conn) pairsEvent() error {
	pairs, err := c.in.uint32()
	if err != nil {
		return err
	}
	if pairs > maxPairs {
		return violation(reasonPairs, "an event of %d pairs is over the limit of %d", pairs, maxPairs)
	}
	if err := c.grown(eventHeader); err != nil {
		return err
	}
	o := &object{c: c}
	if err := o.write('{'); err != nil {
		return err
	}
	for i := range pairs {
		if i > 0 {
			err = o.write(',')
		}
		if err == nil {
			err = o.copyString()
		}
		if err == nil {
			err = o.write(':')
		}
		if err == nil {
			err = o.copyString()
		}
		if err != nil {
			return err
		}
	}
	if err := o.write('}'); err != nil {
		return err
	}
	length := int64(c.out.end - c.out.next)
	if err := c.room(length); err != nil {
		return err
	}
	if o.digest == nil {
		return c.add(event.Event{Raw: c.out.take(int(length))})
	}
	if err := c.share.reserve(c.reading, oversizeSize); err != nil {
		return err
	}
	return c.add(oversize(c.out.take(int(length)), o.length, o.digest))
}

// object writes the JSON of a v1 event to conn.out; once that is over
// Config.MaxEvent, it keeps the beginning and only counts and digests the rest.
type object struct {
	c      *conn
	wire   int64     // bytes of keys and values announced so far
	length int64     // of the JSON so far; kept up to date once digest is set
	digest hash.Hash // nil while the event is not oversized
	tmp    [6]byte
}

func (o *object) write(b byte) error {
	o.tmp[0] = b
	return o.append(o.tmp[:1])
}

func (o *object) append(b []byte) error {
	f := &o.c.out
	if o.digest == nil {
		n := f.end - f.next
		if int64(n+len(b)) <= o.c.s.cfg.MaxEvent {
			if f.end+len(b) > f.limit() {
				if err := f.grow(max(n+len(b), min(2*n, int(o.c.s.cfg.MaxEvent)))); err != nil {
					return err
				}
			}
			f.end += copy(f.buf[f.end:], b)
			return nil
		}
		o.digest = sha256.New()
		o.digest.Write(f.buf[f.next:f.end])
		o.length = int64(n)
		if n > keptHead {
			f.end = f.next + keptHead
			if len(f.buf) > bigChunk {
				if err := f.grow(keptHead); err != nil {
					return err
				}
			}
		}
	}
	o.digest.Write(b)
	o.length += int64(len(b))
	// The beginning is filled up to its full length.
	if n := min(keptHead-(f.end-f.next), len(b)); n > 0 {
		if f.end+n > f.limit() {
			if err := f.grow(keptHead); err != nil {
				return err
			}
		}
		f.end += copy(f.buf[f.end:], b[:n])
	}
	return nil
}

// copyString reads one length and that many bytes, and writes them as a string.
func (o *object) copyString() error {
	n, err := o.c.in.uint32()
	if err != nil {
		return err
	}
	o.wire += int64(n)
	if o.wire > maxWireEvent {
		return violation(reasonEventSize, "an event of more than 128 MiB")
	}
	if err := o.c.grown(4 + int64(n)); err != nil {
		return err
	}
	if err := o.write('"'); err != nil {
		return err
	}
	for left := int64(n); left > 0; {
		b, err := o.c.in.some(left)
		if err != nil {
			return err
		}
		left -= int64(len(b))
		if err := o.escape(b); err != nil {
			return err
		}
	}
	return o.write('"')
}

func (o *object) escape(b []byte) error {
	for len(b) > 0 {
		n := bytes.IndexFunc(b, needsEscape)
		if n < 0 {
			return o.append(b)
		}
		if err := o.append(b[:n]); err != nil {
			return err
		}
		if err := o.append(escaped(o.tmp[:0], b[n])); err != nil {
			return err
		}
		b = b[n+1:]
	}
	return nil
}

func needsEscape(r rune) bool { return r < ' ' || r == '"' || r == '\\' }

// escaped appends a byte that may not stand in a JSON string as it is.
func escaped(dst []byte, b byte) []byte {
	const hex = "0123456789abcdef"
	switch b {
	case '"', '\\':
		return append(dst, '\\', b)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	default:
		return append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
	}
}
