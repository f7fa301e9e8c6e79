package main

// Trials of how clients behave: slow ones, deaf ones, and such as speak something
// else.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

func stalls() []trial {
	one := jsonFrame(1, marked("stalled", ""))
	stall := func(sent, reason string, over transport, raw bool, least time.Duration, wire ...[]byte) trial {
		return trial{sent: sent, over: over, slow: true, run: func(t *target) (string, error) {
			before, err := t.metrics()
			if err != nil {
				return "", err
			}
			p := t.connect
			if raw {
				p = t.connectRaw
			}
			c := p()
			defer c.close()
			c.within(least + 30*time.Second)
			if len(wire) > 0 {
				c.send(wire...)
			}
			begin := time.Now()
			c.closed()
			took := time.Since(begin)
			if c.err != nil {
				return "", c.err
			}
			if took < least-time.Second {
				return "", fmt.Errorf("closed after %v already", took.Round(time.Millisecond))
			}
			got, err := t.refusedMore(reason, before, func(got int) bool { return got > 0 })
			if err == nil && got < 1 {
				err = fmt.Errorf("%s is not counted", reason)
			}
			return fmt.Sprintf("closed by %s after %.0f s, %s", c.took, took.Seconds(), reason), err
		}}
	}
	const first, inside = 10 * time.Second, 30 * time.Second
	return []trial{
		stall("nothing, to a TLS port", "first_byte", tlsOnly, true, first),
		stall("half of a TLS handshake", "handshake", tlsOnly, true, first, []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")),
		stall("no first byte", "first_byte", both, false, first),
		stall("one byte of a header", "stalled", both, false, inside, []byte("2")),
		stall("W, and no more", "stalled", both, false, inside, window('2', 1)),
		stall("half of J's header", "stalled", both, false, inside, window('2', 1), one[:7]),
		stall("half of J's body", "stalled", both, false, inside, window('2', 1), one[:len(one)/2]),
		stall("half of C's body", "stalled", both, false, inside, window('2', 1), func() []byte { c := compressed('2', one); return c[:len(c)/2] }()),
		stall("half of a v1 value", "stalled", both, false, inside, window('1', 1), dataFrame(1, "k", "value")[:20]),
	}
}

func readers() []trial {
	// windows are n of one event each, numbered through, with the acks they must get.
	windows := func(m string, n int) (b []byte, acks []uint32) {
		for i := range n {
			b = append(b, window('2', 1)...)
			b = append(b, jsonFrame(uint32(i+1), marked(m, ""))...)
			acks = append(acks, uint32(i+1))
		}
		return b, acks
	}
	count := func(t *target, m string, want int) error {
		lines, _, err := t.tail.take(m)
		if err == nil && len(lines) != want {
			err = fmt.Errorf("%d of %d events were stored", len(lines), want)
		}
		return err
	}
	return []trial{
		{sent: "2,000 windows, and their acks read at the end only", slow: true, run: func(t *target) (string, error) {
			m := t.newMark()
			b, acks := windows(m, 2000)
			p := t.connect()
			defer p.close()
			p.send(b)
			pause(t.ctx, 3*time.Second)
			p.ack('2', acks...)
			if p.err != nil {
				return "", p.err
			}
			return "2,000 acks in order", count(t, m, 2000)
		}},
		{sent: "200 windows, an ack read every 10 ms", slow: true, run: func(t *target) (string, error) {
			m := t.newMark()
			b, acks := windows(m, 200)
			p := t.connect()
			defer p.close()
			p.send(b)
			for _, n := range acks {
				p.ack('2', n)
				pause(t.ctx, 10*time.Millisecond)
			}
			if p.err != nil {
				return "", p.err
			}
			return "200 acks in order", count(t, m, 200)
		}},
		{sent: "50 windows, then a half-close", run: func(t *target) (string, error) {
			m := t.newMark()
			b, acks := windows(m, 50)
			p := t.connect()
			defer p.close()
			p.send(b)
			if half, ok := p.conn.(interface{ CloseWrite() error }); ok && p.err == nil {
				p.err = half.CloseWrite()
			}
			p.ack('2', acks...)
			p.closed()
			if p.err != nil {
				return "", p.err
			}
			return "50 acks in order, then " + p.took, count(t, m, 50)
		}},
	}
}

func strangersAtTheDoor() []trial {
	http := []byte("GET /_bulk HTTP/1.1\r\nHost: localhost\r\n\r\n")
	hello := []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
	// to a bare port, whatever it speaks
	bare := func(sent, reason string, over transport, wire []byte) trial {
		return trial{sent: sent, over: over, run: func(t *target) (string, error) {
			before, err := t.metrics()
			if err != nil {
				return "", err
			}
			p := t.connectRaw()
			defer p.close()
			p.offer(wire)
			if p.err == nil { // a TLS server may say an alert first
				p.took, p.err = drained(p.conn)
			}
			if p.err != nil {
				return "", p.err
			}
			return "closed by " + p.took + ", " + reason, t.counted(reason, 1, before)
		}}
	}
	random := make([]byte, 4096)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(rnd.Uint32())
	}
	random[0] = 0xfe // no version, and no TLS
	return []trial{
		{sent: "RST within a window", run: func(t *target) (string, error) {
			before, err := t.metrics()
			if err != nil {
				return "", err
			}
			p := t.connect()
			p.send(window('2', 2), jsonFrame(1, `{"reset":true}`))
			pause(t.ctx, 50*time.Millisecond) // the server has read it
			if p.conn != nil {
				abort(p.conn)
			}
			if p.err != nil {
				return "", p.err
			}
			return "counted as truncated", t.counted("truncated", 1, before)
		}},
		{sent: "FIN within a window", run: func(t *target) (string, error) {
			return t.ended(func(p *peer) { p.send(window('2', 2), jsonFrame(1, `{"cut":true}`)) })
		}},
		{sent: "FIN within a header", run: func(t *target) (string, error) {
			return t.ended(func(p *peer) { p.send([]byte("2W\x00")) })
		}},
		{sent: "connect and close", run: func(t *target) (string, error) {
			return t.unused((*net.TCPConn).Close)
		}},
		{sent: "connect and reset", run: func(t *target) (string, error) {
			return t.unused(func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) })
		}},
		bare("HTTP", "http", plainOnly, http),
		bare("TLS to plaintext", "tls_unexpected", plainOnly, hello),
		bare("random bytes", "version", plainOnly, random),
		bare("HTTP", "tls_expected", tlsOnly, http),
		bare("lumberjack without TLS", "tls_expected", tlsOnly, windowOf(`{"plain":true}`)),
		bare("random bytes", "tls_expected", tlsOnly, random),
		{sent: "HTTP within TLS", over: tlsOnly, run: func(t *target) (string, error) { return t.refuse("http", http) }},
		{sent: "random bytes within TLS", over: tlsOnly, run: func(t *target) (string, error) { return t.refuse("version", random) }},
	}
}

// ended sends the beginning of something, ends the connection and expects that
// it is counted.
func (t *target) ended(begin func(p *peer)) (string, error) {
	before, err := t.metrics()
	if err != nil {
		return "", err
	}
	p := t.connect()
	begin(p)
	p.close()
	if p.err != nil {
		return "", p.err
	}
	return "counted as truncated", t.counted("truncated", 1, before)
}

// unused connects and ends without a byte.
func (t *target) unused(end func(*net.TCPConn) error) (string, error) {
	const name = "vtsidecar_connections_unused_total"
	before, err := t.metrics()
	if err != nil {
		return "", err
	}
	conn, err := t.dialRaw()
	if err != nil {
		return "", err
	}
	if err := end(conn.(*net.TCPConn)); err != nil {
		return "", err
	}
	for range 200 {
		now, err := t.metrics()
		if err != nil {
			return "", err
		}
		if now[name] > before[name] {
			return "counted as unused", nil
		}
		pause(t.ctx, 25*time.Millisecond)
	}
	return "", errors.New(name + " did not go up")
}

// drained reads a connection to its end, whatever comes.
func drained(c net.Conn) (how string, err error) {
	b := make([]byte, 4096)
	for {
		_, err := c.Read(b)
		switch {
		case err == nil:
		case isReset(err):
			return "RST", nil
		case isEOF(err):
			return "FIN", nil
		default:
			return "", fmt.Errorf("not closed: %w", err)
		}
	}
}
