package main

// Trials with a process of their own: those that kill it, halt it, starve it, or
// need it set up in another way. Healthy senders send to each all the while, and
// at its end everything that was acknowledged must be in its files.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// life starts processes for one trial.
type life struct {
	*torture
	name string
	ctx  context.Context
}

// lived is a trial that has a process of its own, with two healthy senders. What
// do leaves running is ended and accounted for.
func lived(sent string, args []string, do func(t *target) (string, error)) trial {
	return trial{sent: sent, alone: func(l *life) (outcome string, err error) {
		t, err := startTarget(l.ctx, l.torture, l.name, nil, args...)
		if err != nil {
			return "", err
		}
		defer t.close()
		t.heal(l.ctx, 2)
		return t.live(do)
	}}
}

func (t *target) live(do func(t *target) (string, error)) (string, error) {
	if err := t.warm(); err != nil {
		return "", err
	}
	outcome, err := do(t)
	if err != nil {
		return "", fmt.Errorf("%w; the log ends with:\n%s", err, t.words())
	}
	if err := t.settle(); err != nil {
		return "", err
	}
	acked, _ := t.ledger.total()
	return fmt.Sprintf("%s; %d acked events all there", outcome, acked), nil
}

// warm waits until the healthy senders have had some acks.
func (t *target) warm() error {
	for range 600 {
		if n, _ := t.crowd.windows(); n >= 4 {
			return nil
		}
		pause(t.ctx, 50*time.Millisecond)
	}
	return fmt.Errorf("healthy senders get no acks; the log ends with:\n%s", t.words())
}

// owned is a window of events for which the ledger is answerable.
func (t *target) owned(name string, n int) []byte {
	var events [][]byte
	for i := range n {
		events = append(events, t.ledger.maker.event(nil, name, uint64(i+1)))
	}
	return packed(events)
}

// deliver sends an owned window anew until it is acknowledged, as a Beat does.
func (t *target) deliver(name string, n int) error {
	var err error
	for range 20 {
		p := t.connect()
		p.within(beatsTimeout)
		p.send(t.owned(name, n))
		p.ack('2', uint32(n))
		p.close()
		if err = p.err; err == nil {
			t.ledger.acked(name, 1, uint64(n+1))
			return nil
		}
		pause(t.ctx, 200*time.Millisecond)
	}
	return fmt.Errorf("a window is not acknowledged: %w", err)
}

// revive starts a process that has ended, over the same folder and address.
func (t *target) revive() error { return t.start(t.ctx) }

func lives() []trial {
	return []trial{
		lived("no descriptors left (EMFILE)", nil, emfile),
		{sent: "SIGSTOP", alone: func(l *life) (string, error) {
			return lived("", nil, func(t *target) (string, error) { return halted(t, l.stop) }).alone(l)
		}},
		lived("SIGKILL at each step before the ack, and behind it", nil, killed),
		lived("SIGTERM during an outage that ends in time", []string{"--shutdown.timeout", "50s"}, drainedInTime),
		lived("SIGTERM during an outage that does not end", []string{"--shutdown.timeout", "3s"}, notDrained),
		lived("two SIGTERMs with a window in flight", nil, terminatedTwice),
	}
}

// emfile takes the process's descriptors away for a while.
func emfile(t *target) (string, error) {
	p, err := t.footprint()
	if err != nil {
		return "", err
	}
	before := t.connect()
	defer before.close()
	before.send(t.owned("before", 5))
	before.ack('2', 5)
	if before.err != nil {
		return "", before.err
	}
	t.ledger.acked("before", 1, 6)
	old, err := t.limit(syscall.RLIMIT_NOFILE, uint64(p.descriptors+6))
	if err != nil {
		return "", err
	}
	const many = 30
	var waiting []*peer
	for range many {
		c := t.connect()
		defer c.close()
		waiting = append(waiting, c)
	}
	pause(t.ctx, 3*time.Second)
	for i := range 5 { // who is connected is served on
		name := fmt.Sprintf("meanwhile-%d", i)
		before.send(t.owned(name, 5))
		before.ack('2', 5)
		if before.err != nil {
			return "", fmt.Errorf("an open connection in the shortage: %w", before.err)
		}
		t.ledger.acked(name, 1, 6)
	}
	if _, err := t.limit(syscall.RLIMIT_NOFILE, old); err != nil {
		return "", err
	}
	for i, c := range waiting {
		name := fmt.Sprintf("waiting-%d", i)
		c.send(t.owned(name, 5))
		c.ack('2', 5)
		if c.err != nil {
			return "", fmt.Errorf("a connection that had to wait: %w", c.err)
		}
		t.ledger.acked(name, 1, 6)
	}
	return fmt.Sprintf("open connections served on; %d waited and were served", many), t.logged("too many open files")
}

// halted stops the process as a hypervisor does.
func halted(t *target, d time.Duration) (string, error) {
	if err := t.signal(syscall.SIGSTOP); err != nil {
		return "", err
	}
	p := t.connect()
	defer p.close()
	p.within(d + patience)
	p.send(t.owned("during", 50))
	pause(t.ctx, d)
	_, before := t.crowd.windows()
	if err := t.signal(syscall.SIGCONT); err != nil {
		return "", err
	}
	p.ack('2', 50)
	if p.err != nil {
		return "", p.err
	}
	t.ledger.acked("during", 1, 51)
	return fmt.Sprintf("halted for %v, then acked what was sent meanwhile; %d resends", d, before), t.deliver("after", 50)
}

// killed kills the process at each step of a window's way.
func killed(t *target) (string, error) {
	steps := []func(p *peer, wire []byte, n int){
		func(p *peer, wire []byte, _ int) {},
		func(p *peer, wire []byte, _ int) { p.send(wire[:6]) },
		func(p *peer, wire []byte, _ int) { p.send(wire[:len(wire)/2]) },
		func(p *peer, wire []byte, _ int) { p.send(wire[:len(wire)-1]) },
		func(p *peer, wire []byte, _ int) { p.send(wire) },
		func(p *peer, wire []byte, _ int) { p.send(wire); pause(t.ctx, time.Millisecond) },
		func(p *peer, wire []byte, _ int) { p.send(wire); pause(t.ctx, 3*time.Millisecond) },
		func(p *peer, wire []byte, _ int) { p.send(wire); pause(t.ctx, 10*time.Millisecond) },
		func(p *peer, wire []byte, n int) { p.send(wire); p.ack('2', uint32(n)) },
	}
	const events = 500
	kills := 0
	for round := range 2 {
		for i, step := range steps {
			name := fmt.Sprintf("killed-%d-%d", round, i)
			p := t.connect()
			step(p, t.owned(name, events), events)
			acked := p.err == nil && i == len(steps)-1
			t.kill()
			p.close()
			kills++
			if p.err != nil {
				return "", p.err
			}
			if acked {
				t.ledger.acked(name, 1, events+1)
			}
			if err := t.revive(); err != nil {
				return "", err
			}
			if !acked {
				if err := t.deliver(name, events); err != nil {
					return "", err
				}
			}
		}
	}
	return fmt.Sprintf("killed %d times", kills), nil
}

// outage lets the process write no file any more. lift ends that.
func (t *target) outage() (lift func() error, err error) {
	old, err := t.limit(syscall.RLIMIT_FSIZE, 1)
	return func() error {
		_, err := t.limit(syscall.RLIMIT_FSIZE, old)
		return err
	}, err
}

// unacked sends an owned window during an outage and expects nothing but
// keepalives for so long.
func (t *target) unacked(name string, n int, d time.Duration) (*peer, error) {
	p := t.connect()
	p.send(t.owned(name, n))
	p.within(d)
	for p.err == nil {
		_, seq, err := p.frame()
		switch {
		case err == nil && seq == 0:
			p.kept++
			continue
		case err == nil:
			p.err = fmt.Errorf("ack %d although nothing can be written", seq)
		case isTimeout(err):
			p.within(patience)
			return p, nil
		default:
			p.err = fmt.Errorf("the connection ended while its window waited: %w", err)
		}
	}
	p.close()
	return nil, p.err
}

// stopped sends an owned window during an outage and then SIGTERM: what is in flight
// cannot be settled before lift, or at all.
func (t *target) stopped() (p *peer, lift func() error, err error) {
	if lift, err = t.outage(); err != nil {
		return nil, nil, err
	}
	if p, err = t.unacked("outage", 50, 2*time.Second); err != nil {
		return nil, nil, err
	}
	if err := t.signal(syscall.SIGTERM); err != nil {
		p.close()
		return nil, nil, err
	}
	return p, lift, nil
}

func drainedInTime(t *target) (string, error) {
	p, lift, err := t.stopped()
	if err != nil {
		return "", err
	}
	defer p.close()
	pause(t.ctx, time.Second)
	if err := lift(); err != nil {
		return "", err
	}
	p.ack('2', 50)
	p.closed()
	if p.err != nil {
		return "", p.err
	}
	t.ledger.acked("outage", 1, 51)
	state, err := t.wait(patience)
	if err == nil && !state.Success() {
		err = fmt.Errorf("all was settled, and %v", state)
	}
	return "acked, closed by " + p.took + ", exit status 0", errors.Join(err, t.revive())
}

func notDrained(t *target) (string, error) {
	p, _, err := t.stopped()
	if err != nil {
		return "", err
	}
	defer p.close()
	p.closed()
	if p.err != nil {
		return "", p.err
	}
	state, err := t.wait(patience)
	if err != nil {
		return "", err
	}
	if state.ExitCode() != 1 {
		return "", fmt.Errorf("windows were not settled, and %v in place of exit status 1", state)
	}
	if err := t.revive(); err != nil {
		return "", err
	}
	return "no ack, exit status 1, resent and acked after the restart", t.deliver("outage", 50)
}

func terminatedTwice(t *target) (string, error) {
	p, _, err := t.stopped()
	if err != nil {
		return "", err
	}
	defer p.close()
	// The first is heeded when readiness says so.
	for range 100 {
		if ok, text, err := t.ready(); err == nil && !ok && strings.Contains(text, "stopping") {
			break
		}
		pause(t.ctx, 20*time.Millisecond)
	}
	begin := time.Now()
	if err := t.signal(syscall.SIGTERM); err != nil {
		return "", err
	}
	if _, err := t.wait(5 * time.Second); err != nil {
		return "", fmt.Errorf("the second SIGTERM: %w", err)
	}
	took := time.Since(begin)
	p.closed()
	if p.err != nil {
		return "", p.err
	}
	if err := t.revive(); err != nil {
		return "", err
	}
	return fmt.Sprintf("gone %v after the second, no ack", took.Round(time.Millisecond)), t.deliver("outage", 50)
}

func outages() []trial {
	return []trial{lived("a window while no file can be written", nil, func(t *target) (string, error) {
		lift, err := t.outage()
		if err != nil {
			return "", err
		}
		const length = 5 * time.Second
		p, err := t.unacked("outage", 50, length)
		if err != nil {
			return "", err
		}
		defer p.close()
		// input.keepalive is 1 s here.
		if p.kept < 3 {
			return "", fmt.Errorf("%d keepalives in %v", p.kept, length)
		}
		ok, text, err := t.ready()
		if err != nil {
			return "", err
		}
		if ok || !strings.Contains(text, "output") {
			return "", fmt.Errorf("readiness says: %s", text)
		}
		f, err := t.metrics()
		if err != nil {
			return "", err
		}
		if f["vtsidecar_output_up"] != 0 {
			return "", errors.New("vtsidecar_output_up is not 0")
		}
		kept := p.kept
		if err := lift(); err != nil {
			return "", err
		}
		p.ack('2', 50)
		if p.err != nil {
			return "", p.err
		}
		t.ledger.acked("outage", 1, 51)
		if ok, text, err := t.ready(); err != nil || !ok {
			return "", fmt.Errorf("the output is back and readiness says: %s (%v)", text, err)
		}
		return fmt.Sprintf("%d keepalives and no ack in %v, not ready; acked when it was back", kept, length), nil
	})}
}

func shortages() []trial {
	const few = 20
	return []trial{
		lived("connections over input.max_connections", []string{"--input.max_connections", fmt.Sprint(few)}, func(t *target) (string, error) {
			t.crowd.end()
			before, err := t.metrics()
			if err != nil {
				return "", err
			}
			var open []*peer
			for range few {
				p := t.connect()
				defer p.close()
				p.send(windowOf(marked(t.newMark(), "")))
				p.ack('2', 1)
				if p.err != nil {
					return "", p.err
				}
				open = append(open, p)
			}
			const more = 5
			for range more {
				p := t.connect()
				defer p.close()
				p.within(5 * time.Second) // who is let in and says nothing is closed later
				p.closed()
				if p.err != nil {
					return "", p.err
				}
			}
			if err := t.counted("max_connections", more, before); err != nil {
				return "", err
			}
			open[0].close()
			return fmt.Sprintf("%d of %d refused; room is used again", more, few+more), t.deliver("again", 5)
		}),
		lived("a client that holds memory and sends a byte a second", []string{"--input.memory", "4MiB", "--input.max_event", "1MiB"}, func(t *target) (string, error) {
			before, err := t.metrics()
			if err != nil {
				return "", err
			}
			big := jsonFrame(1, `{"pad":"`+strings.Repeat("x", 1<<20-100)+`"}`)
			hoarder, other := t.connect(), t.connect()
			defer hoarder.close()
			defer other.close()
			hoarder.send(window('2', 5), big, big, big)
			pause(t.ctx, 500*time.Millisecond)
			other.send(window('2', 3), big, big, big)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				hoarder.closed()
			}()
			dripping, stop := context.WithCancel(t.ctx)
			defer stop()
			go func() {
				for pause(dripping, time.Second) {
					_, _ = hoarder.conn.Write([]byte("2")) // until it is closed
				}
			}()
			begin := time.Now()
			<-ended
			if hoarder.err != nil {
				return "", hoarder.err
			}
			took := time.Since(begin)
			other.ack('2', 1)
			if other.err != nil {
				return "", fmt.Errorf("who waited for the memory: %w", other.err)
			}
			return fmt.Sprintf("closed by %s after %.0f s, slow; who waited was acked", hoarder.took, took.Seconds()), t.counted("slow", 1, before)
		}),
	}
}

// mutual is a target with mutual TLS.
type mutual struct {
	*target
	ours   *authority
	files  pemFiles
	served tls.Certificate
	client atomic.Pointer[tls.Certificate] // what healthy senders show
	roots  *x509.CertPool
}

func withMutualTLS(sent string, do func(t *mutual) (string, error), args ...string) trial {
	return trial{sent: sent, over: tlsOnly, alone: func(l *life) (string, error) {
		m := &mutual{}
		var err error
		if m.ours, err = newAuthority("torture CA"); err != nil {
			return "", err
		}
		if m.served, err = m.ours.issue("server", time.Hour); err != nil {
			return "", err
		}
		client, err := m.ours.issue("healthy", time.Hour)
		if err != nil {
			return "", err
		}
		m.client.Store(&client)
		m.roots = m.ours.pool()
		dir, err := os.MkdirTemp(l.dir, "certificates-")
		if err != nil {
			return "", err
		}
		m.files = newPemFiles(dir)
		if err := m.files.write(m.ours, m.served); err != nil {
			return "", err
		}
		config := &tls.Config{RootCAs: m.roots, ServerName: "127.0.0.1",
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.client.Load(), nil }}
		args := append(append(m.files.flags(), "--input.ssl.certificate_authorities", m.files.ca, "--input.ssl.client_authentication", "required"), args...)
		if m.target, err = startTarget(l.ctx, l.torture, l.name, config, args...); err != nil {
			return "", err
		}
		defer m.target.close()
		m.heal(l.ctx, 2)
		return m.live(func(*target) (string, error) { return do(m) })
	}}
}

// shows connects with a certificate, or none, and expects to be told why it is
// refused, and to be counted under a reason.
func (m *mutual) shows(cert tls.Certificate, why, reason string) (string, error) {
	before, err := m.metrics()
	if err != nil {
		return "", err
	}
	raw, err := m.dialRaw()
	if err != nil {
		return "", err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(patience))
	c := tls.Client(raw, &tls.Config{RootCAs: m.roots, ServerName: "127.0.0.1",
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }})
	_, _ = c.Write(windowOf(`{"refused":true}`)) // in TLS 1.3 a client learns of it when it reads
	_, err = c.Read(make([]byte, 6))
	if err == nil {
		return "", errors.New("served")
	}
	if isTimeout(err) || !strings.Contains(err.Error(), why) {
		return "", fmt.Errorf("the client was told %q and not %q", err, why)
	}
	if err := m.counted(reason, 1, before); err != nil {
		return "", err
	}
	return "refused, told " + why + ", " + reason, m.logged(reason)
}

func certificates() []trial {
	return []trial{
		withMutualTLS("an expired client certificate", func(m *mutual) (string, error) {
			cert, err := m.ours.issue("late", -time.Hour)
			if err != nil {
				return "", err
			}
			return m.shows(cert, "expired certificate", "certificate_expired")
		}),
		withMutualTLS("a client certificate of another CA", func(m *mutual) (string, error) {
			others, err := newAuthority("another CA")
			if err != nil {
				return "", err
			}
			cert, err := others.issue("stranger", time.Hour)
			if err != nil {
				return "", err
			}
			return m.shows(cert, "unknown certificate authority", "certificate_authority")
		}),
		withMutualTLS("no client certificate", func(m *mutual) (string, error) {
			return m.shows(tls.Certificate{}, "certificate required", "certificate_missing")
		}),
		withMutualTLS("a client certificate with a name that is not allowed", func(m *mutual) (string, error) {
			cert, err := m.ours.issue("stranger", time.Hour)
			if err != nil {
				return "", err
			}
			return m.shows(cert, "bad certificate", "certificate_name")
		}, "--input.ssl.allowed_names", "healthy"),
		withMutualTLS("certificate, key and CA rotate; a broken key between", rotates),
	}
}

func rotates(m *mutual) (string, error) {
	old := m.connect()
	defer old.close()
	serves := func(when string) error {
		old.send(windowOf(marked(m.newMark(), "")))
		old.ack('2', 1)
		if old.err != nil {
			return fmt.Errorf("an open connection %s: %w", when, old.err)
		}
		return nil
	}
	if err := serves("before"); err != nil {
		return "", err
	}
	if err := os.WriteFile(m.files.key, []byte("half of a key"), 0o600); err != nil {
		return "", err
	}
	pause(m.ctx, 2*time.Second)
	if err := errors.Join(serves("with a broken key"), m.deliver("broken-key", 5)); err != nil {
		return "", fmt.Errorf("with a broken key: %w", err)
	}
	next, err := newAuthority("next CA")
	if err != nil {
		return "", err
	}
	served, err := next.issue("server", time.Hour)
	if err != nil {
		return "", err
	}
	client, err := next.issue("healthy", time.Hour)
	if err != nil {
		return "", err
	}
	m.roots.AddCert(next.cert)
	if err := m.files.write(next, served); err != nil {
		return "", err
	}
	begin := time.Now()
	for {
		if time.Since(begin) > patience {
			return "", fmt.Errorf("the old certificate is served after %v still", patience)
		}
		serial, err := m.serial()
		if err == nil && serial == served.Leaf.SerialNumber.String() {
			break
		}
		pause(m.ctx, 200*time.Millisecond)
	}
	took := time.Since(begin)
	m.client.Store(&client)
	return fmt.Sprintf("the new one served after %.1f s, open connections go on", took.Seconds()),
		errors.Join(m.deliver("rotated", 5), serves("behind the rotation"))
}

// serial is the number of the certificate that a new connection is shown.
func (m *mutual) serial() (serial string, err error) {
	raw, err := net.DialTimeout("tcp", m.at(), patience)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(patience))
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.client.Load(), nil }})
	if err := c.Handshake(); err != nil {
		return "", err
	}
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}
