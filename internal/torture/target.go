package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// target is a running sidecar with all that a trial needs of it.
type target struct {
	*sidecar
	ctx    context.Context // ends all waiting
	name   string          // plain, tls, or that of a trial with a process of its own
	vt     *virusTotal
	tls    *tls.Config // nil: plain
	ledger *ledger
	tail   *tail
	crowd  *crowd // the healthy senders; nil: none
	loose  bool   // others break rules at the same time: counts are at least

	serial atomic.Int64

	mu          sync.Mutex
	most        footprint // of all samples; guarded by mu
	connections int       // at most, of all samples; guarded by mu
	first       footprint // before any load; run's alone
}

// limits of the targets, small so that both sides of each are cheap to try.
const (
	maxEvent       = 1 << 20
	maxWindow      = 10_000
	maxWindowBytes = 160 << 20
	memory         = 64 << 20
	cacheEntries   = 1000
	maxConnections = 1000
)

// memoryBound is the contract's: input.memory, the cache, and 128 MiB.
const memoryBound = memory + cacheEntries*8<<10 + 128<<20

func startTarget(ctx context.Context, t *torture, name string, tlsConfig *tls.Config, args ...string) (*target, error) {
	vt, err := startVirusTotal()
	if err != nil {
		return nil, err
	}
	x := &target{ctx: ctx, name: name, vt: vt, tls: tlsConfig, ledger: newLedger(&maker{malformed: 499})}
	args = append(append(vt.settings(), "--input.keepalive", "1s", "--cache.max_entries", fmt.Sprint(cacheEntries)), args...)
	if x.sidecar, err = startSidecar(ctx, t.binary, filepath.Join(t.dir, name), args...); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), vt.stop())
	}
	x.tail = newTail(x.sidecar, x.ledger)
	return x, nil
}

// heal starts healthy senders.
func (t *target) heal(ctx context.Context, n int) {
	var all []*sender
	for i := range n {
		all = append(all, &sender{name: fmt.Sprintf("healthy-%d", i), ledger: t.ledger, size: 50, every: 100 * time.Millisecond,
			fresh: i == n-1, dial: t.dial})
	}
	t.crowd = send(ctx, beatsTimeout, all...)
}

func (t *target) close() {
	if t.crowd != nil {
		t.crowd.end()
	}
	t.kill()
	t.tail.close()
	_ = t.vt.stop() // nothing rests on how a stand-in ends
}

// settle ends the senders and the process, and holds everything that was stored
// against everything that was acknowledged.
func (t *target) settle() error {
	if t.crowd != nil {
		t.crowd.end()
	}
	err := t.terminate()
	return errors.Join(err, t.account())
}

// account reads the files of a process that has ended.
func (t *target) account() error {
	l := newLedger(t.ledger.maker)
	t.ledger.mu.Lock()
	for name, a := range t.ledger.accounts {
		l.accounts[name] = &account{acked: a.acked}
	}
	l.wrong, l.wrongs = t.ledger.wrong, t.ledger.wrongs
	t.ledger.mu.Unlock()
	return errors.Join(readAll(t.sidecar, l, nil), l.settle())
}

// newMark is a text that no other trial's events hold.
func (t *target) newMark() string { return fmt.Sprintf("mark-%s-%d-", t.name, t.serial.Add(1)) }

// sample looks at the process and keeps the most of each.
func (t *target) sample() {
	p, err := t.footprint()
	if err != nil {
		return // gone: other checks say so
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.connections = max(t.connections, p.connections)
	t.most.rss, t.most.peak = max(t.most.rss, p.rss), max(t.most.peak, p.peak)
	t.most.goroutines, t.most.descriptors = max(t.most.goroutines, p.goroutines), max(t.most.descriptors, p.descriptors)
}

// dialRaw connects without TLS, whatever the server speaks.
func (t *target) dialRaw() (net.Conn, error) { return net.DialTimeout("tcp", t.at(), patience) }

func (t *target) dial() (net.Conn, error) {
	raw, err := t.dialRaw()
	if err != nil || t.tls == nil {
		return raw, err
	}
	c := tls.Client(raw, t.tls)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}

// peer is a client that does what it is told. Its first error sticks, as
// bufio.Writer's does: what follows does nothing, and err says what it was.
type peer struct {
	conn net.Conn
	err  error
	took string // how the connection ended: FIN or RST
	kept int    // keepalives that came
}

func (t *target) connect() *peer {
	conn, err := t.dial()
	return newPeer(conn, err)
}

func (t *target) connectRaw() *peer {
	conn, err := t.dialRaw()
	return newPeer(conn, err)
}

func newPeer(conn net.Conn, err error) *peer {
	p := &peer{conn: conn, err: err}
	p.within(patience)
	return p
}

func (p *peer) close() {
	if p.conn != nil {
		_ = p.conn.Close()
	}
}

// within gives the connection so much time from now.
func (p *peer) within(d time.Duration) {
	if p.conn != nil {
		_ = p.conn.SetDeadline(time.Now().Add(d))
	}
}

// send sends all of it.
func (p *peer) send(parts ...[]byte) {
	if p.err == nil {
		_, p.err = p.conn.Write(join(parts...))
	}
}

// offer sends and does not mind when the server has closed meanwhile.
func (p *peer) offer(parts ...[]byte) {
	if p.err == nil {
		_, _ = p.conn.Write(join(parts...))
	}
}

// frame reads one frame of the server's.
func (p *peer) frame() (version byte, n uint32, err error) {
	var b [6]byte
	if _, err := io.ReadFull(p.conn, b[:]); err != nil {
		return 0, 0, err
	}
	if b[1] != 'A' {
		return 0, 0, fmt.Errorf("a frame %q came: no ack", b[:2])
	}
	return b[0], binary.BigEndian.Uint32(b[2:]), nil
}

// ack expects acks of these numbers, one after the other, and passes over
// keepalives before them.
func (p *peer) ack(version byte, numbers ...uint32) {
	for _, want := range numbers {
		for p.err == nil {
			v, n, err := p.frame()
			switch {
			case err != nil:
				p.err = fmt.Errorf("no ack %d: %w", want, err)
			case v != version:
				p.err = fmt.Errorf("an ack of version %q in place of %q", v, version)
			case n == want:
			case n == 0 && version == '2':
				p.kept++
				continue
			default:
				p.err = fmt.Errorf("ack %d in place of %d", n, want)
			}
			break
		}
	}
}

// closed expects the end of the connection, without an ack before it.
func (p *peer) closed() {
	for p.err == nil {
		_, n, err := p.frame()
		switch {
		case err == nil && n == 0:
			p.kept++
			continue
		case err == nil:
			p.err = fmt.Errorf("ack %d in place of a closed connection", n)
		case errors.Is(err, io.EOF):
			p.took = "FIN"
		case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			p.took = "RST"
		case strings.Contains(err.Error(), "tls: "):
			p.took = "TLS alert"
		default:
			p.err = fmt.Errorf("not closed: %w", err)
		}
		return
	}
}

// counted checks that a reason was counted n times since before.
func (t *target) counted(reason string, n int, before figures) error {
	enough := func(got int) bool { return got == n || got > n && t.loose }
	got, err := t.refusedMore(reason, before, enough)
	if err != nil {
		return err
	}
	if !enough(got) {
		return fmt.Errorf("protocol_errors_total{reason=%q} went up by %d and not by %d", reason, got, n)
	}
	return nil
}

// refusedMore is how often connections were closed for a reason since before; the
// count is waited for until it is enough, for a moment: the sender may learn of the
// end first, and the server of an end that is the sender's.
func (t *target) refusedMore(reason string, before figures, enough func(got int) bool) (got int, err error) {
	for range 200 {
		now, err := t.metrics()
		if err != nil {
			return got, err
		}
		if got = now.refused(reason) - before.refused(reason); enough(got) {
			break
		}
		pause(t.ctx, 25*time.Millisecond)
	}
	return got, nil
}

// logged waits until the log holds a text.
func (t *target) logged(text string) error {
	for range 200 {
		log, err := os.ReadFile(t.logName())
		if err != nil || bytes.Contains(log, []byte(text)) {
			return err
		}
		pause(t.ctx, 25*time.Millisecond)
	}
	return fmt.Errorf("the log does not tell of %q", text)
}

// refuse sends something and expects a closed connection, no ack, and the
// reason counted.
func (t *target) refuse(reason string, wire ...[]byte) (string, error) {
	before, err := t.metrics()
	if err != nil {
		return "", err
	}
	p := t.connect()
	defer p.close()
	p.offer(wire...)
	p.closed()
	if p.err != nil {
		return "", p.err
	}
	return "closed by " + p.took + ", no ack, " + reason, t.counted(reason, 1, before)
}

// found expects exactly these beginnings of lines under a mark, in any order,
// each once, and no dead letter.
func (t *target) found(m string, bodies ...string) error {
	lines, letters, err := t.tail.take(m)
	if err != nil {
		return err
	}
	if len(letters) > 0 {
		return fmt.Errorf("dead-lettered: %s %s", letters[0].Reason, letters[0].Detail)
	}
	return same(lines, bodies)
}

// same compares lines with the bytes that each must begin with.
func same(lines, bodies []string) error {
	if len(lines) != len(bodies) {
		return fmt.Errorf("%d lines were stored and not %d", len(lines), len(bodies))
	}
	left := append([]string{}, lines...)
	for _, body := range bodies {
		at := -1
		for i, line := range left {
			rest, ok := strings.CutPrefix(line, strings.TrimSuffix(body, "}"))
			if ok && strings.HasPrefix(rest, `,"`) && strings.Contains(rest, `"event_id":"`) && strings.HasSuffix(rest, "}") && !strings.Contains(rest, "@metadata") {
				at = i
				break
			}
		}
		if at < 0 {
			return fmt.Errorf("not stored byte for byte: want %.300s, there is %.300s", body, left)
		}
		left = append(left[:at], left[at+1:]...)
	}
	return nil
}
