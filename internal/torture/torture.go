package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// torture is one run over the whole table.
type torture struct {
	binary string
	dir    string
	stop   time.Duration // of SIGSTOP
	load   time.Duration // of everything at once; 0: none
	only   []int         // rows; none: all
	first  bool          // the first failure ends it
	out    io.Writer
	enough context.CancelFunc // ends all trials

	mu      sync.Mutex          // guards all below
	results map[string][]result // by row and trial
	ended   bool                // by a failure
}

// result is what came of a trial over one transport.
type result struct {
	over    string
	outcome string
	err     error
}

func tortureCommand(ctx context.Context, args []string, out io.Writer) error {
	t := &torture{out: out, results: map[string][]result{}}
	set := flag.NewFlagSet("torture", flag.ContinueOnError)
	set.StringVar(&t.binary, "vtsidecar", "bin/vtsidecar", "the program's binary")
	set.StringVar(&t.dir, "dir", "", "`FOLDER` for its files; default: a temporary one, removed at the end")
	set.DurationVar(&t.stop, "stop", 60*time.Second, "how long SIGSTOP lasts")
	set.DurationVar(&t.load, "load", 15*time.Second, "how long everything comes at once; 0s: not at all")
	set.BoolVar(&t.first, "first", false, "end at the first failure")
	only := set.String("rows", "", "these `ROWS` of the table only, with commas, and not all at once")
	if err := parse(set, args); err != nil {
		return err
	}
	for _, n := range strings.FieldsFunc(*only, func(r rune) bool { return r == ',' }) {
		i, err := strconv.Atoi(n)
		if err != nil || i < 1 || i > len(rows()) {
			return fmt.Errorf("-rows: there is no row %q", n)
		}
		t.only = append(t.only, i)
	}
	binary, err := filepath.Abs(t.binary)
	if err != nil {
		return err
	}
	t.binary = binary
	if t.dir == "" {
		if t.dir, err = os.MkdirTemp("", "vtsidecar-torture-"); err != nil {
			return err
		}
		defer os.RemoveAll(t.dir)
	}
	return t.run(ctx)
}

func (t *torture) run(outer context.Context) error {
	begin := time.Now()
	ctx, enough := context.WithCancel(outer)
	defer enough()
	t.enough = enough
	table := rows()
	wanted := func(row int) bool { return len(t.only) == 0 || slices.Contains(t.only, row+1) }
	targets, err := t.targets(ctx)
	for _, x := range targets {
		defer x.close()
	}
	if err != nil {
		return err
	}
	sampling, stop := context.WithCancel(ctx)
	var samples sync.WaitGroup
	for _, x := range targets {
		x.heal(ctx, 4)
		if err := x.warm(); err != nil {
			stop()
			return err
		}
		if x.first, err = x.footprint(); err != nil {
			stop()
			return err
		}
		samples.Go(func() {
			for pause(sampling, 250*time.Millisecond) {
				x.sample()
			}
		})
	}

	// One at a time over each transport, so that every count is one trial's; what
	// takes its time, and what has its own process, beside them. Who stalls has to
	// be through before the load: it would be closed as slow then, and rightly.
	var beside, turns, alone sync.WaitGroup
	for r, row := range table {
		if !wanted(r) {
			continue
		}
		for i, tr := range row.trials {
			if tr.alone != nil {
				over := "own"
				if tr.over == tlsOnly {
					over = "own, tls"
				}
				alone.Go(func() {
					l := &life{torture: t, ctx: ctx, name: fmt.Sprintf("life-%d-%d", r+1, i+1)}
					outcome, err := tr.alone(l)
					t.note(r, i, over, outcome, err)
				})
			}
			for _, x := range targets {
				if tr.slow && tr.fits(x) {
					beside.Go(func() { t.try(x, r, i, tr) })
				}
			}
		}
	}
	for _, x := range targets {
		turns.Go(func() {
			for r, row := range table {
				for i, tr := range row.trials {
					if wanted(r) && tr.run != nil && !tr.slow && tr.fits(x) && ctx.Err() == nil {
						t.try(x, r, i, tr)
					}
				}
			}
		})
	}
	turns.Wait()
	beside.Wait()
	var attacks []result
	if t.load > 0 && len(t.only) == 0 && ctx.Err() == nil {
		attacks = t.atOnce(ctx, targets, table)
	}
	var ends []result
	for _, x := range targets {
		if ctx.Err() == nil {
			ends = append(ends, t.conclude(x)...)
		}
	}
	alone.Wait()
	stop()
	samples.Wait()
	if err := outer.Err(); err != nil {
		return err
	}
	return t.report(table, wanted, append(attacks, ends...), time.Since(begin))
}

// targets starts the two processes that most trials share.
func (t *torture) targets(ctx context.Context) (all []*target, err error) {
	args := []string{"--input.max_event", fmt.Sprint(maxEvent), "--input.max_window", fmt.Sprint(maxWindow), "--input.max_window_bytes", fmt.Sprint(maxWindowBytes),
		"--input.memory", fmt.Sprint(memory), "--input.max_connections", fmt.Sprint(maxConnections)}
	plain, err := startTarget(ctx, t, "plain", nil, args...)
	if err != nil {
		return nil, err
	}
	all = append(all, plain)
	ca, err := newAuthority("torture CA")
	if err != nil {
		return all, err
	}
	server, err := ca.issue("server", time.Hour)
	if err != nil {
		return all, err
	}
	files := newPemFiles(t.dir)
	if err := files.write(ca, server); err != nil {
		return all, err
	}
	secure, err := startTarget(ctx, t, "tls", &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1"}, append(args, files.flags()...)...)
	if err != nil {
		return all, err
	}
	// A name that was never asked for takes a moment.
	for _, x := range append(all, secure) {
		x.vt.SetLatency(100 * time.Millisecond)
	}
	return append(all, secure), nil
}

func (tr *trial) fits(x *target) bool {
	return tr.run != nil && (tr.over == both || (tr.over == tlsOnly) == (x.tls != nil))
}

func (t *torture) try(x *target, row, i int, tr trial) {
	outcome, err := tr.run(x)
	t.note(row, i, x.name, outcome, err)
}

func (t *torture) note(row, i int, over, outcome string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return // it was not let finish
	}
	key := fmt.Sprint(row, ".", i)
	t.results[key] = append(t.results[key], result{over, outcome, err})
	if err != nil && t.first {
		t.ended = true
		t.enough()
	}
}

// atOnce lets everything come at once: every quick trial, both sides of each
// rule, over many connections, beside clients that hold, drip, hoard and bomb.
func (t *torture) atOnce(ctx context.Context, targets []*target, table []row) (all []result) {
	for _, x := range targets {
		x.loose = true
	}
	var mu sync.Mutex
	tried := map[string]int{}
	fail := func(x *target, what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if len(all) < 20 {
			all = append(all, result{x.name, "at once: " + what, err})
		}
	}
	var quick []trial
	for _, row := range table {
		for _, tr := range row.trials {
			if tr.run != nil && !tr.slow && !tr.heavy {
				quick = append(quick, tr)
			}
		}
	}
	over, cancel := context.WithTimeout(ctx, t.load)
	defer cancel()
	var done sync.WaitGroup
	for _, x := range targets {
		for w := range 12 {
			done.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(w), 3))
				for over.Err() == nil {
					tr := quick[rnd.IntN(len(quick))]
					if !tr.fits(x) {
						continue
					}
					if _, err := tr.run(x); err != nil {
						fail(x, tr.sent, err)
					}
					mu.Lock()
					tried[x.name]++
					mu.Unlock()
				}
			})
		}
		for kind, n := range map[*func(context.Context, *target) error]int{&idle: 60, &drip: 60, &hoard: 10, &explode: 2, &silent: 10, &garbage: 4} {
			for range n {
				done.Go(func() {
					for over.Err() == nil {
						if err := (*kind)(over, x); err != nil {
							fail(x, "hostile client", err)
							return
						}
					}
				})
			}
		}
	}
	done.Wait()
	if len(all) == 0 {
		for _, x := range targets {
			all = append(all, result{over: x.name, outcome: fmt.Sprintf("at once: %d trials in %v beside 146 hostile connections, each with the outcome of its row", tried[x.name], t.load)})
		}
	}
	return all
}

// The hostile clients of atOnce. Each is served over and over; an error is
// something that must not happen.
var (
	// idle connects and says nothing.
	idle = func(ctx context.Context, x *target) error {
		p := x.connect()
		defer p.close()
		pause(ctx, time.Minute)
		return nil
	}
	// drip announces a large event and sends a byte now and then.
	drip = func(ctx context.Context, x *target) error {
		p := x.connect()
		defer p.close()
		p.offer(window('2', 2), jsonHeader(1, maxEvent))
		for pause(ctx, 500*time.Millisecond) && p.err == nil {
			_, p.err = p.conn.Write([]byte("x"))
		}
		return nil // closed as slow, or not
	}
	// hoard holds a large window open for a while before it ends it.
	hoard = func(ctx context.Context, x *target) error {
		p := x.connect()
		defer p.close()
		wire := hoarded()
		p.offer(wire[:len(wire)-1])
		if pause(ctx, 3*time.Second) {
			p.offer(wire[len(wire)-1:])
			p.ack('2', 12)
		}
		if p.err != nil && ctx.Err() == nil && !isEOF(p.err) && !isReset(p.err) {
			return p.err // it may be closed as slow
		}
		return nil
	}
	// explode sends little that inflates to much.
	explode = func(ctx context.Context, x *target) error {
		_, err := x.refuse("window_bytes", bomb())
		pause(ctx, time.Second)
		return err
	}
	// silent sends windows and reads no ack.
	silent = func(ctx context.Context, x *target) error {
		p := x.connect()
		defer p.close()
		wire := join(window('2', 1), compressed('2', jsonFrame(1, `{"silent":true}`)))
		for range 500 {
			p.offer(wire)
			if !pause(ctx, 10*time.Millisecond) {
				break
			}
		}
		return nil
	}
	// garbage sends what nobody can read.
	garbage = func(ctx context.Context, x *target) error {
		conn, err := x.dialRaw()
		if err != nil {
			return nil
		}
		defer conn.Close()
		b := make([]byte, rand.IntN(2000))
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		if len(b) > 1 && rand.IntN(2) == 0 {
			b[0], b[1] = '2', "WCJDA"[rand.IntN(5)]
		}
		_, _ = conn.Write(b)
		if rand.IntN(2) == 0 {
			abort(conn)
		}
		pause(ctx, 20*time.Millisecond)
		return nil
	}
)

// hoarded is a window of 12 events of nearly 1 MiB, small on the wire, malformed
// so that it fills no disk.
var hoarded = sync.OnceValue(func() []byte {
	big := join([]byte(`{"hoarded":"`), make([]byte, maxEvent-100), []byte(`"}`))
	w := window('2', 12)
	for i := range 12 {
		w = append(w, compressed('2', jsonHeader(uint32(i+1), uint32(len(big))), big)...)
	}
	return w
})

// conclude says how a target has come through: memory, goroutines, descriptors,
// healthy senders, and what its files hold.
func (t *torture) conclude(x *target) (all []result) {
	add := func(what string, err error) { all = append(all, result{x.name, what, err}) }
	x.tail.mu.Lock()
	x.tail.stored = map[string][]string{} // nobody asks any more
	x.tail.mu.Unlock()

	// What the load took must come back.
	var p footprint
	var err error
	back := func() bool {
		return p.goroutines <= x.first.goroutines+20 && p.descriptors <= x.first.descriptors+10 && p.rss <= restingBound
	}
	begin := time.Now()
	for time.Since(begin) < 45*time.Second {
		if p, err = x.footprint(); err != nil || back() {
			break
		}
		pause(x.ctx, 500*time.Millisecond)
	}
	what := fmt.Sprintf("after the load: RSS %s, %d goroutines, %d descriptors after %.0f s (before it: %s, %d, %d)",
		mib(p.rss), p.goroutines, p.descriptors, time.Since(begin).Seconds(), mib(x.first.rss), x.first.goroutines, x.first.descriptors)
	if err == nil && !back() {
		err = errors.New("that does not come back")
	}
	add(what, err)

	x.mu.Lock()
	most := x.most
	x.mu.Unlock()
	err = nil
	if bound := int64(memoryBound); most.peak > bound {
		err = fmt.Errorf("over input.memory + cache + 128 MiB = %s", mib(bound))
	}
	add(fmt.Sprintf("at most: RSS %s (bound %s)", mib(most.peak), mib(memoryBound)), err)
	err = nil
	if most.goroutines > 6*x.connections+100 {
		err = errors.New("more than 6 goroutines a connection, and 100")
	}
	if most.descriptors > x.connections+60 {
		err = errors.Join(err, errors.New("more than a descriptor a connection, and 60"))
	}
	add(fmt.Sprintf("at most: %d connections, %d goroutines, %d descriptors", x.connections, most.goroutines, most.descriptors), err)

	slowest := x.crowd.slowest()
	windows, resends := x.crowd.windows()
	err = nil
	if slowest > beatsTimeout {
		err = fmt.Errorf("a stop of more than %v", beatsTimeout)
	}
	add(fmt.Sprintf("healthy senders: %d windows, %d resends, the slowest took %v", windows, resends, slowest.Round(time.Millisecond)), err)

	complaints := x.vt.Violations()
	err = nil
	if len(complaints) > 0 {
		err = fmt.Errorf("VirusTotal complains: %s", complaints[0])
	}
	add(fmt.Sprintf("VirusTotal was asked %d times", x.vt.Stats().Total), err)

	err = x.settle()
	acked, _ := x.ledger.total()
	add(fmt.Sprintf("SIGTERM: exit status 0; %d acked events of healthy senders all there, none altered", acked), err)
	return all
}

// restingBound is what a process may hold some time after the load.
const restingBound = 128 << 20

// report prints the table and says how many failed.
func (t *torture) report(table []row, wanted func(int) bool, rest []result, took time.Duration) error {
	failed, tried := 0, 0
	line := func(row, what, over, outcome string, err error) {
		tried++
		verdict := "ok"
		if err != nil {
			failed++
			outcome, verdict = strings.ReplaceAll(err.Error(), "\n", "\n         "), "FAILED"
		}
		fmt.Fprintf(t.out, "%4s  %-6s  %-10s  %-58s  %s\n", row, verdict, over, what, outcome)
	}
	for r, row := range table {
		if !wanted(r) {
			continue
		}
		fmt.Fprintf(t.out, "\n%d. %s\n   must be: %s\n", r+1, row.input, row.outcome)
		for i, tr := range row.trials {
			results := t.results[fmt.Sprint(r, ".", i)]
			slices.SortFunc(results, func(a, b result) int { return strings.Compare(a.over, b.over) })
			if len(results) == 0 && !t.ended {
				line(strconv.Itoa(r+1), tr.sent, "-", "", errors.New("not tried"))
			}
			// Alike over both is one line.
			if len(results) == 2 && results[0].err == nil && results[1].err == nil {
				outcome := results[0].outcome
				if results[1].outcome != outcome {
					outcome += "; tls: " + results[1].outcome
				}
				results = []result{{"plain, tls", outcome, nil}}
			}
			for _, x := range results {
				line(strconv.Itoa(r+1), tr.sent, x.over, x.outcome, x.err)
			}
		}
	}
	fmt.Fprintf(t.out, "\nAll at once, and afterwards\n")
	for _, x := range rest {
		line("-", x.outcome, x.over, "", x.err)
	}
	fmt.Fprintf(t.out, "\ntorture: %d lines in %v, %d failed\n", tried, took.Round(time.Second), failed)
	if failed > 0 {
		return fmt.Errorf("%d of %d failed", failed, tried)
	}
	return nil
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
