package main

// The soak, by these rules:
//
//  1. One process serves from the beginning to the end: memory that grows is
//     memory of one process.
//  2. What is compared is like with like: load, faults and churn are the same in
//     both stretches, and the cache is full before the first begins.
//  3. Nothing here grows with time either: numbers are kept as spans, files are
//     read once and, unless the program itself deletes them, removed.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"vtsidecar/internal/vtstandin"
)

// allowedGrowth is how much more memory the last stretch may take than the first.
const allowedGrowth = 0.05

const (
	soakCache  = 10_000 // cache.max_entries
	soakKeep   = 12     // output.file.keep: more than are closed between two readings
	soakRotate = "32MiB"
	steady     = 6   // senders that keep their connection
	churned    = 3   // senders that connect for every window, and are often cut off
	soakWindow = 100 // events
	strangers  = 2   // clients that are no senders at all
)

type soak struct {
	binary   string
	dir      string
	length   time.Duration
	rate     int // events a second
	out      io.Writer
	vt       *virusTotal
	server   *sidecar
	ledger   *ledger
	crowd    *crowd
	deletes  bool // the program deletes old files itself
	verified map[string]bool

	began    time.Time
	files    atomic.Int64 // read
	cutOff   atomic.Int64 // windows
	strange  atomic.Int64 // connections of strangers
	fault    atomic.Value // string: what VirusTotal suffers from
	stopped  atomic.Int64 // times that the process was halted for a while
	samples  []sample
	failures []error
	mu       sync.Mutex // guards failures
}

type sample struct {
	at time.Duration
	footprint
	cache  int
	events uint64
}

func soakCommand(ctx context.Context, args []string, out io.Writer) error {
	k := &soak{out: out, verified: map[string]bool{}}
	set := flag.NewFlagSet("torture soak", flag.ContinueOnError)
	set.StringVar(&k.binary, "vtsidecar", "bin/vtsidecar", "the program's binary")
	set.StringVar(&k.dir, "dir", "", "`FOLDER` for its files; default: a temporary one, removed at the end")
	set.DurationVar(&k.length, "for", time.Hour, "how long; at least 2m")
	set.IntVar(&k.rate, "rate", 1500, "events a second, in all")
	if err := parse(set, args); err != nil {
		return err
	}
	if k.length < 2*time.Minute || k.rate < 100 {
		return errors.New("soak: -for at least 2m, -rate at least 100")
	}
	binary, err := filepath.Abs(k.binary)
	if err != nil {
		return err
	}
	k.binary = binary
	if k.dir == "" {
		if k.dir, err = os.MkdirTemp("", "vtsidecar-soak-"); err != nil {
			return err
		}
		defer os.RemoveAll(k.dir)
	}
	return k.run(ctx)
}

func (k *soak) run(ctx context.Context) (err error) {
	if k.vt, err = startVirusTotal(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.vt.stop()) }()
	args := append(k.vt.settings(), "--cache.max_entries", strconv.Itoa(soakCache), "--output.file.rotate_bytes", soakRotate,
		"--vt.wait", "500ms", "--vt.timeout", "2s", "--input.keepalive", "1s")
	if k.knows("output.file.keep") {
		k.deletes = true
		args = append(args, "--output.file.keep", strconv.Itoa(soakKeep))
	}
	if k.server, err = startSidecar(ctx, k.binary, k.dir, args...); err != nil {
		return err
	}
	defer k.server.kill()

	// Three times the cache's room in names that nobody asked for yet, before the
	// first stretch begins.
	names := max(50, 3*soakCache*time.Second/(k.stretch(0).from))
	k.ledger = newLedger(&maker{malformed: 997, fresh: max(2, uint64(k.rate)/uint64(names))})
	k.began = time.Now()
	ctx, cancel := context.WithTimeout(ctx, k.length)
	defer cancel()
	fmt.Fprintf(k.out, "soak: %v, %d events a second from %d senders, %d of them reconnecting for every window; cache of %d; files in %s\n",
		k.length, k.rate, steady+churned, churned, soakCache, k.dir)
	fmt.Fprintf(k.out, "%8s %10s %7s %9s %9s %6s %5s %7s %9s %8s %8s %8s %9s  %s\n", "time", "acked", "ev/s", "RSS MiB", "peak MiB", "gorout", "fds", "cache", "VT asked", "resends", "cut off", "files", "slowest", "VirusTotal")

	k.crowd = send(ctx, beatsTimeout, k.senders()...)
	var side sync.WaitGroup
	for range strangers {
		side.Go(func() { k.wander(ctx) })
	}
	side.Go(func() { k.disturb(ctx) })
	side.Go(func() { k.halt(ctx) })
	k.watch(ctx)
	side.Wait()
	k.crowd.end()
	return k.verdict()
}

// knows is whether this version has a setting.
func (k *soak) knows(setting string) bool {
	return exec.Command(k.binary, "test", "config", "--"+setting, "1").Run() == nil
}

// stretch is one of the two spans of time that are compared: for an hour, the
// minutes 10 to 20 and 50 to 60.
type stretch struct{ from, to time.Duration }

func (k *soak) stretch(i int) stretch {
	if i == 0 {
		return stretch{k.length / 6, k.length / 3}
	}
	return stretch{k.length * 5 / 6, k.length}
}

// compared is whether a time lies in one of them, or so shortly before one that
// what happens then would show in it.
func (k *soak) compared(at time.Duration) bool {
	for i := range 2 {
		if s := k.stretch(i); at >= s.from && at-k.length/20 < s.to {
			return true
		}
	}
	return false
}

func (k *soak) senders() (all []*sender) {
	dial := func() (net.Conn, error) { return net.DialTimeout("tcp", k.server.at(), patience) }
	every := time.Duration(steady+churned) * soakWindow * time.Second / time.Duration(k.rate)
	for i := range steady {
		all = append(all, &sender{name: fmt.Sprintf("steady-%d", i), ledger: k.ledger, dial: dial, size: soakWindow, every: every})
	}
	for i := range churned {
		rnd := rand.New(rand.NewPCG(uint64(i), 1)) // one sender's, so one goroutine's
		all = append(all, &sender{name: fmt.Sprintf("churned-%d", i), ledger: k.ledger, dial: dial, size: soakWindow, every: every, fresh: true,
			disturb: func(conn net.Conn, window [][]byte) bool {
				if rnd.IntN(3) > 0 {
					return false
				}
				k.cutOff.Add(1)
				wire := packed(window)
				_, _ = conn.Write(wire[:rnd.IntN(len(wire))])
				if rnd.IntN(2) == 0 {
					abort(conn)
				} else {
					_ = conn.Close()
				}
				return true
			}})
	}
	return all
}

// wander is a client that is no sender: it probes, guesses, and breaks off.
func (k *soak) wander(ctx context.Context) {
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 2))
	for pause(ctx, 100*time.Millisecond) {
		conn, err := net.DialTimeout("tcp", k.server.at(), patience)
		if err != nil {
			continue // halted for a while, and its backlog full
		}
		k.strange.Add(1)
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = conn.Write(oddities[rnd.IntN(len(oddities))])
		if rnd.IntN(2) == 0 {
			_, _ = io.Copy(io.Discard, conn)
		}
		_ = conn.Close()
	}
}

// oddities are what strangers send.
var oddities = [][]byte{
	nil,
	[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
	[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
	[]byte("SSH-2.0-OpenSSH_9.9\r\n"),
	window('2', 0),
	window('2', 10_001),
	join(window('2', 2), jsonFrame(1, `{"half":`)),
	join(window('2', 1), window('2', 1)),
	join(window('2', 1), jsonHeader(1, 1<<31)),
	join(window('2', 1), compressed('2', compressed('2', jsonFrame(1, "{}")))),
	join(window('2', 1), rawCompressed('2', []byte("no zlib stream"))),
	join(window('1', 1), u32(0)),
}

// disturb makes VirusTotal suffer, from one thing after the other, with as much
// time in health between them. Answers out of all proportion leave garbage that
// stays until the next collection, which a few of them may put off or bring
// near: they come before and between the stretches that are compared, so that
// what is compared is what they leave behind and not when they came.
func (k *soak) disturb(ctx context.Context) {
	sufferings := []struct {
		name    string
		fault   vtstandin.Fault
		latency time.Duration
	}{
		{"huge", vtstandin.Fault{Kind: "huge", Times: 20}, 0},
		{"bomb", vtstandin.Fault{Kind: "bomb", Times: 20}, 0},
		{"slow", vtstandin.Fault{}, 700 * time.Millisecond},
		{"503", vtstandin.Fault{Kind: "status", Status: 503}, 0},
		{"page", vtstandin.Fault{Kind: "html"}, 0},
		{"truncated", vtstandin.Fault{Kind: "truncate"}, 0},
		{"hangs", vtstandin.Fault{Kind: "hang"}, 0},
		{"resets", vtstandin.Fault{Kind: "reset"}, 0},
		{"empty", vtstandin.Fault{Kind: "empty"}, 0},
		{"wrong object", vtstandin.Fault{Kind: "wrong_object"}, 0},
		{"wrong types", vtstandin.Fault{Kind: "wrong_types"}, 0},
		{"429", vtstandin.Fault{Kind: "status", Status: 429, Times: 5}, 0},
	}
	defer k.set(vtstandin.Fault{}, 0, "well")
	k.set(vtstandin.Fault{}, 0, "well")
	// One round of all of them, and as much health, fits into a stretch.
	span := k.length / 6 / time.Duration(2*len(sufferings))
	if !pause(ctx, k.length/15) { // the cache fills first
		return
	}
	for i := 0; ; i++ {
		x := sufferings[i%len(sufferings)]
		if big := i%len(sufferings) < 2; big && k.compared(time.Since(k.began)+span+k.length/20) {
			continue
		}
		k.set(x.fault, x.latency, x.name)
		if !pause(ctx, span) {
			return
		}
		k.set(vtstandin.Fault{}, 0, "well")
		if !pause(ctx, span) {
			return
		}
	}
}

func (k *soak) set(f vtstandin.Fault, latency time.Duration, name string) {
	if err := k.vt.SetFault(f); err != nil {
		k.fail(err)
	}
	k.vt.SetLatency(latency)
	k.fault.Store(name)
}

// halt stops the whole process now and then, as a hypervisor does.
func (k *soak) halt(ctx context.Context) {
	for pause(ctx, k.length/12) {
		if err := k.server.signal(syscall.SIGSTOP); err != nil {
			k.fail(err)
			return
		}
		k.stopped.Add(1)
		pause(ctx, 3*time.Second)
		if err := k.server.signal(syscall.SIGCONT); err != nil {
			k.fail(err)
			return
		}
	}
}

func (k *soak) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.failures) < 10 {
		k.failures = append(k.failures, err)
	}
}

// watch takes samples, prints them once a minute and reads closed files, until
// ctx ends.
func (k *soak) watch(ctx context.Context) {
	// Each loop ends its own round: the process may be halted for as long as that.
	every := min(5*time.Second, k.length/100)
	print := max(min(time.Minute, k.length/20), every)
	next := print
	var last uint64
	for pause(ctx, every) {
		if !k.server.running() {
			k.fail(fmt.Errorf("vtsidecar has ended: %v\n%s", k.server.end(), k.server.words()))
			return
		}
		if err := k.readClosed(); err != nil {
			k.fail(err)
		}
		p, err := k.server.footprint()
		if err != nil {
			if ctx.Err() == nil && k.server.running() {
				continue // halted for a while
			}
			return
		}
		f, err := k.server.metrics()
		if err != nil {
			continue
		}
		acked, _ := k.ledger.total()
		s := sample{time.Since(k.began), p, int(f["vtsidecar_cache_entries"]), acked}
		k.samples = append(k.samples, s)
		if s.at < next {
			continue
		}
		windows, resends := k.crowd.windows()
		asked := k.vt.Stats().Total
		fmt.Fprintf(k.out, "%8s %10d %7.0f %9.1f %9.1f %6d %5d %7d %9d %8d %8d %8d %9s  %s\n", s.at.Round(time.Second), acked, float64(acked-last)/print.Seconds(),
			float64(p.rss)/(1<<20), float64(p.peak)/(1<<20), p.goroutines, p.descriptors, s.cache, asked, resends, k.cutOff.Load(), k.files.Load(),
			k.crowd.slowest().Round(time.Millisecond), k.fault.Load())
		_ = windows
		last = acked
		next += print
	}
}

// readClosed holds files that the program writes no more against the ledger.
func (k *soak) readClosed() error {
	dir := filepath.Join(k.dir, "out")
	names, err := closedFiles(dir)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, name := range names {
		stem := stemOf(name)
		there[stem] = true
		if k.verified[stem] {
			continue
		}
		path := filepath.Join(dir, name)
		err := readOutput(path, k.take)
		if errors.Is(err, fs.ErrNotExist) {
			continue // compressed meanwhile: it stands in the next list
		}
		if err != nil {
			return err
		}
		k.verified[stem] = true
		k.files.Add(1)
		if !k.deletes {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	for stem := range k.verified {
		if !there[stem] {
			delete(k.verified, stem)
		}
	}
	return nil
}

func (k *soak) take(line []byte) error {
	if !k.ledger.line(line) {
		return fmt.Errorf("a line that nobody sent: %.300s", line)
	}
	return nil
}

// verdict ends the process, reads what is left, and judges.
func (k *soak) verdict() error {
	elapsed := time.Since(k.began)
	end := k.server.terminate()
	if end != nil {
		k.fail(end)
	}
	if err := k.readClosed(); err != nil {
		k.fail(err)
	}
	if err := readOutput(filepath.Join(k.dir, "out", "events.ndjson"), k.take); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.fail(err)
	}
	err := readLetters(k.server, func(line []byte) error {
		mine, err := k.ledger.buried(line)
		if err == nil && !mine {
			err = fmt.Errorf("a dead letter that nobody sent: %.300s", line)
		}
		return err
	})
	if err != nil {
		k.fail(err)
	}
	if err := k.ledger.settle(); err != nil {
		k.fail(err)
	}
	first, last := k.mean(k.stretch(0)), k.mean(k.stretch(1))
	growth := last.rss/first.rss - 1
	if first.n == 0 || last.n == 0 {
		k.fail(fmt.Errorf("too few samples: the soak ended after %v", elapsed.Round(time.Second)))
	} else if growth > allowedGrowth {
		k.fail(fmt.Errorf("memory grew by %.1f %%: at most %.0f %%", 100*growth, 100*allowedGrowth))
	}
	if first.n > 0 && first.cache < soakCache*99/100 {
		k.fail(fmt.Errorf("the cache was not full when the comparison began: %d of %d entries", first.cache, soakCache))
	}
	if first.n > 0 && last.n > 0 {
		// Strangers come and go, so some room; what leaks grows beyond any.
		if last.goroutines > first.goroutines+30 {
			k.fail(fmt.Errorf("goroutines grew from %.0f to %.0f", first.goroutines, last.goroutines))
		}
		if last.descriptors > first.descriptors+15 {
			k.fail(fmt.Errorf("descriptors grew from %.0f to %.0f", first.descriptors, last.descriptors))
		}
	}
	if slowest := k.crowd.slowest(); slowest > beatsTimeout {
		k.fail(fmt.Errorf("a healthy sender waited %v for a window", slowest.Round(time.Second)))
	}

	acked, found := k.ledger.total()
	windows, resends := k.crowd.windows()
	fmt.Fprintf(k.out, "\nsoak of %v: %d events acknowledged in %d windows, %d resends, %d windows cut off, %d strangers, halted %d times, %d files read\n",
		elapsed.Round(time.Second), acked, windows, resends, k.cutOff.Load(), k.strange.Load(), k.stopped.Load(), k.files.Load())
	fmt.Fprintf(k.out, "found again: %d of them, %d repeats of resent windows\n", found, k.ledger.repeats)
	for i, m := range []mean{first, last} {
		s := k.stretch(i)
		fmt.Fprintf(k.out, "%9v to %9v: RSS %.1f MiB, goroutines %.0f, descriptors %.0f, cache %d (means of %d samples)\n",
			s.from.Round(time.Second), s.to.Round(time.Second), m.rss/(1<<20), m.goroutines, m.descriptors, m.cache, m.n)
	}
	fmt.Fprintf(k.out, "memory: %+.1f %%; slowest window %v\n", 100*growth, k.crowd.slowest().Round(time.Millisecond))
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.failures) > 0 {
		fmt.Fprintln(k.out, "soak: FAILED")
		return errors.Join(k.failures...)
	}
	fmt.Fprintln(k.out, "soak: ok, nothing lost, nothing altered, memory flat")
	return nil
}

type mean struct {
	n                            int
	rss, goroutines, descriptors float64
	cache                        int // the least
}

func (k *soak) mean(s stretch) (m mean) {
	for _, x := range k.samples {
		if x.at < s.from || x.at > s.to {
			continue
		}
		m.rss += float64(x.rss)
		m.goroutines += float64(x.goroutines)
		m.descriptors += float64(x.descriptors)
		if m.n == 0 || x.cache < m.cache {
			m.cache = x.cache
		}
		m.n++
	}
	if m.n > 0 {
		n := float64(m.n)
		m.rss, m.goroutines, m.descriptors = m.rss/n, m.goroutines/n, m.descriptors/n
	}
	return m
}
