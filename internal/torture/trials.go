package main

// Trials on the wire: what is sent, and what must come back, stand in the files
// and be counted. Each uses marks of its own, so that any number of them can run
// at a time. Here are what they share and those of frames and windows; those of
// what is within an event are in documents.go, of how clients behave in clients.go.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/adler32"
	"strings"
	"sync"
	"time"
)

// marked is an event with a mark and more members.
func marked(m, more string) string { return `{"mark":"` + m + `"` + more + `}` }

// accepted sends what makes one window or more of events with its mark, and
// expects the acks and every event stored.
func accepted(sent string, acks []uint32, events int, make func(m string) []byte) trial {
	return trial{sent: sent, run: func(t *target) (string, error) {
		m := t.newMark()
		p := t.connect()
		defer p.close()
		p.send(make(m))
		p.ack('2', acks...)
		if p.err != nil {
			return "", p.err
		}
		lines, letters, err := t.tail.take(m)
		switch {
		case err != nil:
			return "", err
		case len(letters) > 0:
			return "", fmt.Errorf("dead-lettered: %s", letters[0].Detail)
		case len(lines) != events:
			return "", fmt.Errorf("%d of %d events were stored", len(lines), events)
		}
		return fmt.Sprintf("ack %s, %d stored", numbers(acks), events), nil
	}}
}

func numbers(n []uint32) string { return strings.Trim(fmt.Sprint(n), "[]") }

// refused sends something and expects the end.
func refused(reason, sent string, wire ...[]byte) trial {
	return trial{sent: sent, run: func(t *target) (string, error) { return t.refuse(reason, wire...) }}
}

func zeroWindows() []trial {
	zero := func(sent string, version byte, n int) trial {
		return trial{sent: sent, run: func(t *target) (string, error) {
			p := t.connect()
			defer p.close()
			for range n {
				p.send(window(version, 0))
			}
			for range n {
				p.ack(version, 0)
			}
			return "A 0", p.err
		}}
	}
	return []trial{zero("W of 0", '2', 1), zero("W of 0 in version 1", '1', 1), zero("ten W of 0 in one packet", '2', 10)}
}

func violations() []trial {
	one := jsonFrame(1, `{"a":1}`)
	stream := deflated(3, nil, one)
	broken := bytes.Clone(stream)
	broken[len(broken)-1] ^= 1
	w1, w2 := window('2', 1), window('2', 2)
	key := func(n int) []byte { // one v1 event of n pairs
		b := join([]byte("1D"), u32(1), u32(uint32(n)))
		for i := range n {
			k := fmt.Sprint(i)
			b = join(b, u32(uint32(len(k))), []byte(k), u32(1), []byte("v"))
		}
		return b
	}
	return []trial{
		refused("window_size", "W of 10,001", window('2', maxWindow+1)),
		refused("window_size", "W of 10,001 in version 1", window('1', maxWindow+1)),
		refused("window_size", "W of 2^32-1", window('2', 1<<32-1)),
		accepted("a window of 10,000", []uint32{maxWindow}, maxWindow, func(m string) []byte {
			var b []byte
			for i := range maxWindow {
				b = append(b, jsonFrame(uint32(i+1), marked(m, ""))...)
			}
			return join(window('2', maxWindow), compressed('2', b))
		}),
		refused("window_short", "W after 1 of 2 events", w2, one, w1),
		refused("window_short", "W after W", w1, w1),
		refused("surplus", "three events in C of a window of 2", w2, compressed('2', one, one, one)),
		refused("surplus", "C with an event and no window", compressed('2', one)),
		refused("surplus", "J without a window", one),
		refused("frame_type", "A between windows", []byte("2A\x00\x00\x00\x01")),
		refused("frame_type", "A within a window", w1, []byte("2A\x00\x00\x00\x01")),
		refused("frame_type", "type X between windows", []byte("2X\x00\x00\x00\x01")),
		refused("frame_type", "type X within C", w1, compressed('2', []byte("2X\x00\x00\x00\x01"))),
		refused("version", "version 3", []byte("3W\x00\x00\x00\x01")),
		refused("version", "version NUL", make([]byte, 6)),
		refused("version", "J of version 1 in a window of version 2", w1, []byte("1J\x00\x00\x00\x01\x00\x00\x00\x02{}")),
		refused("version", "J of version 2 in a window of version 1", window('1', 1), one),
		refused("wrong_frame", "D in a v2 window", w1, []byte("2D"), dataFrame(1, "a", "b")[2:]),
		refused("wrong_frame", "J in a v1 window", window('1', 1), []byte("1J"), one[2:]),
		refused("nested", "W inside C", w1, compressed('2', w1, one)),
		refused("nested", "C inside C", w1, compressed('2', compressed('2', one))),
		{sent: "C 4,000 levels deep", run: func(t *target) (string, error) { return t.refuse("nested", w1, nested()) }},
		refused("cut_frame", "J cut by the end of its C", w1, compressed('2', one[:len(one)-1])),
		refused("cut_frame", "J's header cut by the end of its C", w1, compressed('2', one[:3])),
		refused("cut_frame", "an event that goes on in the next C", w1, compressed('2', one[:12]), compressed('2', one[12:])),
		refused("zlib", "truncated zlib", w1, rawCompressed('2', stream[:len(stream)-5])),
		refused("zlib", "zlib without its Adler-32", w1, rawCompressed('2', stream[:len(stream)-4])),
		refused("zlib", "bad Adler-32", w1, rawCompressed('2', broken)),
		refused("zlib", "preset dictionary", w1, rawCompressed('2', deflated(3, []byte(`{"a":1}`), one))),
		refused("zlib", "junk after the stream", w1, rawCompressed('2', join(stream, []byte("junk")))),
		refused("zlib", "a second stream after the first", w2, rawCompressed('2', join(stream, stream))),
		refused("zlib", "no zlib at all", w1, rawCompressed('2', []byte("surely no zlib stream"))),
		refused("pairs", "v1 event of 10,001 pairs", window('1', 1), dataFrame(1)[:6], u32(10_001)),
		{sent: "v1 event of 10,000 pairs", run: func(t *target) (string, error) {
			p := t.connect()
			defer p.close()
			p.send(window('1', 1), key(10_000))
			p.ack('1', 1)
			return "ack 1", p.err
		}},
		{sent: "an event behind a full window", run: func(t *target) (string, error) {
			m := t.newMark()
			before, err := t.metrics()
			if err != nil {
				return "", err
			}
			p := t.connect()
			defer p.close()
			p.offer(windowOf(marked(m, "")), one)
			p.ack('2', 1)
			p.closed()
			if p.err != nil {
				return "", p.err
			}
			return "ack 1, then closed by " + p.took + ", surplus", errors.Join(t.counted("surplus", 1, before), t.found(m, marked(m, "")))
		}},
		{heavy: true, sent: "sixty connections that announce 128 MiB and send none", run: func(t *target) (string, error) {
			return t.announced(60, w1, jsonHeader(1, 128<<20-1))
		}},
		{heavy: true, sent: "sixty that announce 100 MiB compressed", run: func(t *target) (string, error) {
			return t.announced(60, w1, []byte("2C"), u32(100<<20))
		}},
		{heavy: true, sent: "sixty that announce a v1 value of 100 MiB", run: func(t *target) (string, error) {
			return t.announced(60, window('1', 1), dataFrame(1)[:6], u32(1), u32(100<<20))
		}},
	}
}

// nested is a C in a C in a C, 4,000 levels deep, around an event.
var nested = sync.OnceValue(func() []byte {
	b := jsonFrame(1, `{"deep":true}`)
	for range 4000 {
		// Stored blocks, for what counts is the depth.
		stream := []byte{0x78, 0x01}
		for rest := b; len(rest) > 0; {
			block := rest[:min(len(rest), 1<<16-1)]
			rest = rest[len(block):]
			last := byte(0)
			if len(rest) == 0 {
				last = 1
			}
			stream = append(stream, last)
			stream = binary.LittleEndian.AppendUint16(stream, uint16(len(block)))
			stream = binary.LittleEndian.AppendUint16(stream, ^uint16(len(block)))
			stream = append(stream, block...)
		}
		b = rawCompressed('2', binary.BigEndian.AppendUint32(stream, adler32.Checksum(b)))
	}
	return b
})

// announced opens connections that announce much, and expects that none of it is
// allocated.
func (t *target) announced(n int, wire ...[]byte) (string, error) {
	before, err := t.footprint()
	if err != nil {
		return "", err
	}
	counts, err := t.metrics()
	if err != nil {
		return "", err
	}
	var peers []*peer
	for range n {
		p := t.connect()
		defer p.close()
		p.send(wire...)
		if p.err != nil {
			return "", p.err
		}
		peers = append(peers, p)
	}
	pause(t.ctx, 300*time.Millisecond) // it would happen at once
	after, err := t.footprint()
	if err != nil {
		return "", err
	}
	grown := after.rss - before.rss
	for _, p := range peers {
		p.close()
	}
	// A thousandth of what was announced is connections and other clients.
	if grown > 32<<20 && !t.loose {
		return "", fmt.Errorf("memory grew by %s", mib(grown))
	}
	return fmt.Sprintf("memory %+.1f MiB", float64(grown)/(1<<20)), t.counted("truncated", n, counts)
}

func spreads() []trial {
	docs := func(m string, n int) (all [][]byte) {
		for i := range n {
			all = append(all, jsonFrame(uint32(i+1), marked(m, fmt.Sprintf(`,"i":%d`, i))))
		}
		return all
	}
	empty := []byte("2C\x00\x00\x00\x00")
	return []trial{
		accepted("5 events over C, J, C", []uint32{5}, 5, func(m string) []byte {
			d := docs(m, 5)
			return join(window('2', 5), compressed('2', d[0], d[1]), d[2], compressed('2', d[3], d[4]))
		}),
		accepted("a C for each event", []uint32{40}, 40, func(m string) []byte {
			b := window('2', 40)
			for _, d := range docs(m, 40) {
				b = append(b, compressed('2', d)...)
			}
			return b
		}),
		accepted("empty C before, between and behind", []uint32{2}, 2, func(m string) []byte {
			d := docs(m, 2)
			return join(empty, window('2', 2), empty, d[0], empty, empty, d[1], empty)
		}),
		accepted("C that inflates to nothing", []uint32{1}, 1, func(m string) []byte {
			return join(window('2', 1), compressed('2'), docs(m, 1)[0])
		}),
	}
}

// lettered expects one dead letter of a kind under a mark.
func lettered(d letter, reason string, length int64) error {
	switch {
	case d.Reason != reason:
		return fmt.Errorf("dead-lettered as %q (%s) and not as %q", d.Reason, d.Detail, reason)
	case d.Length != length:
		return fmt.Errorf("the dead letter tells of %d bytes and not of %d", d.Length, length)
	}
	return nil
}

func sizes() []trial {
	// long makes an event of exactly so many bytes.
	long := func(m string, n int) []byte {
		e := []byte(marked(m, `,"pad":""`))
		return join(e[:len(e)-2], bytes.Repeat([]byte("x"), n-len(e)), e[len(e)-2:])
	}
	size := func(sent string, n int, deflate bool) trial {
		return trial{sent: sent, heavy: n > maxEvent+1, run: func(t *target) (string, error) {
			m, first, last := t.newMark(), t.newMark(), t.newMark()
			doc := long(m, n)
			frames := [][]byte{jsonFrame(1, marked(first, "")), jsonHeader(2, uint32(n)), doc, jsonFrame(3, marked(last, ""))}
			p := t.connect()
			defer p.close()
			if deflate {
				p.send(window('2', 3), compressed('2', frames...))
			} else {
				p.send(append([][]byte{window('2', 3)}, frames...)...)
			}
			p.ack('2', 3)
			if p.err != nil {
				return "", p.err
			}
			if err := errors.Join(t.found(first, marked(first, "")), t.found(last, marked(last, ""))); err != nil {
				return "", fmt.Errorf("a neighbour: %w", err)
			}
			if n <= maxEvent {
				return "stored, neighbours too, ack 3", t.found(m, string(doc))
			}
			_, letters, err := t.tail.take(m)
			if err != nil || len(letters) != 1 {
				return "", fmt.Errorf("%d dead letters (%v)", len(letters), err)
			}
			sum := sha256.Sum256(doc)
			if letters[0].SHA256 != hex.EncodeToString(sum[:]) {
				return "", errors.New("the dead letter's SHA-256 is another")
			}
			return "dead letter, neighbours stored, ack 3", lettered(letters[0], "oversize", int64(n))
		}}
	}
	return []trial{
		{sent: "J of length 0", run: func(t *target) (string, error) {
			first, last := t.newMark(), t.newMark()
			p := t.connect()
			defer p.close()
			p.send(windowOf(marked(first, ""), "", marked(last, "")))
			p.ack('2', 3)
			if p.err != nil {
				return "", p.err
			}
			d, err := t.tail.takeOne("empty event")
			return "dead letter, neighbours stored, ack 3", errors.Join(err, lettered(d, "malformed", 0), t.found(first, marked(first, "")), t.found(last, marked(last, "")))
		}},
		size("J of max_event (1 MiB here)", maxEvent, false),
		size("J of max_event + 1", maxEvent+1, false),
		size("J of max_event + 1 in C", maxEvent+1, true),
		size("J of 128 MiB in C", 128<<20, true),
	}
}

// bomb is a window of two events, 128 and 64 MiB long, in less than 1 MiB.
var bomb = sync.OnceValue(func() []byte {
	zeros := make([]byte, 128<<20)
	return join(window('2', 2), compressed('2', jsonHeader(1, 128<<20), zeros, jsonHeader(2, 64<<20), zeros[:64<<20]))
})

func giants() []trial {
	w := window('2', 1)
	all := []trial{
		{heavy: true, sent: "192 MiB of zeros in C", run: func(t *target) (string, error) { return t.refuse("window_bytes", bomb()) }},
		refused("window_bytes", "C of 2^32-1", w, []byte("2C\xff\xff\xff\xff")),
		refused("event_size", "J of 128 MiB + 1", w, jsonHeader(1, 128<<20+1)),
		refused("event_size", "a v1 key of 2^32-1", window('1', 1), dataFrame(1)[:6], u32(1), u32(1<<32-1)),
	}
	for _, n := range []struct {
		name string
		size uint32
	}{{"2^31-1", 1<<31 - 1}, {"2^31", 1 << 31}, {"2^32-1", 1<<32 - 1}} {
		all = append(all, refused("event_size", "J of "+n.name, w, jsonHeader(1, n.size)),
			refused("event_size", "J of "+n.name+" in C", w, compressed('2', jsonHeader(1, n.size))))
	}
	return all
}

func sequences() []trial {
	numbered := func(seqs ...uint32) func(string) []byte {
		return func(m string) []byte {
			b := window('2', uint32(len(seqs)))
			for _, n := range seqs {
				b = append(b, jsonFrame(n, marked(m, fmt.Sprintf(`,"seq":%d`, n)))...)
			}
			return b
		}
	}
	return []trial{
		accepted("seq 0, 0", []uint32{0}, 2, numbered(0, 0)),
		accepted("gaps: 1, 5, 9", []uint32{9}, 3, numbered(1, 5, 9)),
		accepted("descending: 3, 2, 1", []uint32{1}, 3, numbered(3, 2, 1)),
		accepted("never reset: 1 to 3, 4 to 6", []uint32{3, 6}, 6, func(m string) []byte {
			return join(numbered(1, 2, 3)(m), numbered(4, 5, 6)(m))
		}),
		accepted("rolling over: 2^32-2, 2^32-1, 0, 1", []uint32{1}, 4, numbered(1<<32-2, 1<<32-1, 0, 1)),
		accepted("2^32-1", []uint32{1<<32 - 1}, 1, numbered(1<<32-1)),
	}
}

func splits() []trial {
	split := func(sent string, version byte, wire func(m string) []byte, events int) trial {
		return trial{sent: sent, run: func(t *target) (string, error) {
			m := t.newMark()
			b := wire(m)
			p := t.connect()
			defer p.close()
			for i := 1; i < len(b) && p.err == nil; i++ {
				p.send(b[:i])
				pause(t.ctx, 200*time.Microsecond) // else one read takes both
				p.send(b[i:])
				p.ack(version, uint32(events))
			}
			if p.err != nil {
				return "", p.err
			}
			lines, _, err := t.tail.take(m)
			if want := events * (len(b) - 1); err == nil && len(lines) != want {
				err = fmt.Errorf("%d of %d events were stored", len(lines), want)
			}
			return fmt.Sprintf("%d windows acked in order, all stored", len(b)-1), err
		}}
	}
	return []trial{
		split("a window of J split at every byte", '2', func(m string) []byte { return windowOf(marked(m, ""), marked(m, `,"b":2`)) }, 2),
		split("a window of C split at every byte", '2', func(m string) []byte {
			return join(window('2', 2), compressed('2', jsonFrame(1, marked(m, "")), jsonFrame(2, marked(m, ""))))
		}, 2),
		split("a v1 window split at every byte", '1', func(m string) []byte {
			return join(window('1', 1), dataFrame(1, "mark", m, "k", "v"))
		}, 1),
		{sent: "two windows a byte at a time", run: func(t *target) (string, error) {
			m := t.newMark()
			p := t.connect()
			defer p.close()
			for _, c := range join(windowOf(marked(m, "")), window('2', 1), compressed('2', jsonFrame(7, marked(m, "")))) {
				p.send([]byte{c})
				pause(t.ctx, 200*time.Microsecond)
			}
			p.ack('2', 1, 7)
			if p.err != nil {
				return "", p.err
			}
			return "acked in order, all stored", t.found(m, marked(m, ""), marked(m, ""))
		}},
		accepted("twenty windows in one packet", []uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, 20, func(m string) (b []byte) {
			for i := range 20 {
				b = join(b, window('2', 1), jsonFrame(uint32(i+1), marked(m, "")))
			}
			return b
		}),
	}
}

func pairs() []trial {
	v1 := func(sent string, body func(m string) string, kv ...string) trial {
		return trial{sent: sent, run: func(t *target) (string, error) {
			m := t.newMark()
			p := t.connect()
			defer p.close()
			p.send(window('1', 1), dataFrame(1, append([]string{"mark", m}, kv...)...))
			p.ack('1', 1)
			p.within(1500 * time.Millisecond) // longer than the pause between keepalives
			if _, n, err := p.frame(); p.err == nil && err == nil {
				return "", fmt.Errorf("a frame with %d behind the ack: a v1 client takes it for the next ack", n)
			}
			if p.err != nil {
				return "", p.err
			}
			if body != nil {
				return "ack 1 and nothing more, stored", t.found(m, body(m))
			}
			_, letters, err := t.tail.take(m)
			if err != nil || len(letters) != 1 {
				return "", fmt.Errorf("%d dead letters (%v)", len(letters), err)
			}
			return "ack 1 and nothing more, dead letter", lettered(letters[0], "malformed", letters[0].Length)
		}}
	}
	with := func(more string) func(string) string { return func(m string) string { return marked(m, more) } }
	all := []trial{
		v1("empty key", with(`,"":"x"`), "", "x"),
		v1("duplicate keys", with(`,"k":"1","k":"2"`), "k", "1", "k", "2"),
		v1("NUL bytes", with(`,"a\u0000b":"\u0000"`), "a\x00b", "\x00"),
		v1("quotes and line breaks", with(`,"\"\\":"a\nb\r"`), `"\`, "a\nb\r"),
		v1("invalid UTF-8 in a value", nil, "k", "a\xff\xfe"),
		v1("invalid UTF-8 in a key", nil, "\xc3(", "x"),
	}
	for i := range all {
		all[i].slow = true // each waits for what must not come
	}
	return all
}
