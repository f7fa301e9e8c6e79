package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// warmup is how many windows each process gets before it is measured.
const warmup = 24

// harness runs the servers in turns, feeds them and reads their clocks.
type harness struct {
	rounds, windows  int
	sidecar, standIn string
	searchStandIn    string
	mode             string         // "", "outage" or "slow"
	beside           string         // another build of the program; "": none
	only             *regexp.Regexp // names of the subjects that are measured, beside the floor; nil: all
	subjects         []subject
	dir              string

	load    []window
	json    int    // mean bytes of an event's JSON
	vt      string // the stand-in's URL
	search  *searchNode
	primed  string // path.data of the program with every known value in its cache, and no quota left
	looked  int    // values that priming looked up
	results map[string][]measurement
}

// subject is a server to be measured.
type subject struct {
	name    string
	target  float64 // ratio to the floor it should stay under; 0: none
	share   int     // it gets one in share of the windows, since it is slow
	command func(h *harness, dir string) (*exec.Cmd, error)
	output  string // glob of what it writes, in its folder
	search  bool   // it writes to the stand-in Elasticsearch
}

const (
	wholePath = "whole path: vtsidecar to a file"
	aPeer     = "peer: go-lumber, maps, encode, buffered file, no fsync"
)

var subjects = []subject{
	{name: "floor: read, inflate (standard zlib), cut, count, ack", share: 1, command: self("floor")},
	{name: "go-lumber v0.2.0, raw bytes, discarded", share: 1, command: self("go-lumber")},
	{name: "wire to window: vtsidecar's server, nobody behind it", target: 1.2, share: 1, command: self("wire")},
	{name: wholePath, target: 2.5, share: 1, command: program, output: "out/events*.ndjson"},
	{name: "whole path: vtsidecar to Elasticsearch, uncompressed", target: 3, share: 1, command: toSearch("0"), search: true},
	{name: "whole path: vtsidecar to Elasticsearch, gzip at level 1", share: 2, command: toSearch("1"), search: true},
	{name: "for comparison: the floor, writing as much with fsync", share: 1, command: self("floor-file", "floor.out")},
	{name: aPeer, share: 4, command: self("peer", "peer.ndjson"), output: "peer.ndjson"},
}

// choose fills subjects.
func (h *harness) choose() {
	for i, s := range subjects {
		if i == 0 || h.only == nil || h.only.MatchString(s.name) {
			h.subjects = append(h.subjects, s)
		}
		if s.name == wholePath && h.beside != "" {
			s.name, s.command = "whole path: "+h.beside, other(h.beside)
			h.subjects = append(h.subjects, s)
		}
	}
}

// self is this binary as a server; files are in the run's folder.
func self(mode string, files ...string) func(*harness, string) (*exec.Cmd, error) {
	return func(_ *harness, dir string) (*exec.Cmd, error) {
		exe, err := os.Executable()
		args := []string{mode}
		for _, f := range files {
			args = append(args, filepath.Join(dir, f))
		}
		return exec.Command(exe, args...), err
	}
}

// program is the real binary with its cache filled and its quota used up: what
// is not cached is marked so and asked of nobody.
func program(h *harness, dir string) (*exec.Cmd, error) {
	if err := h.copyPrimed(dir); err != nil {
		return nil, err
	}
	return h.program(dir, toFile(dir)...), nil
}

// copyPrimed gives a run its own copy of the snapshot, which comes from an
// earlier stop.
func (h *harness) copyPrimed(dir string) error {
	return os.CopyFS(filepath.Join(dir, "data"), os.DirFS(h.primed))
}

func toFile(dir string) []string {
	return []string{"--output.file.path", filepath.Join(dir, "out", "events.ndjson"),
		"--output.file.compress=false"} // no peer does that; output/bench_test.go says what it costs
}

// toSearch is the program with the stand-in Elasticsearch for its output.
func toSearch(level string) func(*harness, string) (*exec.Cmd, error) {
	return func(h *harness, dir string) (*exec.Cmd, error) {
		if err := h.copyPrimed(dir); err != nil {
			return nil, err
		}
		return h.program(dir, h.search.flags("--output.elasticsearch.compression_level", level)...), nil
	}
}

// other is another build of the program, over the same cache.
func other(path string) func(*harness, string) (*exec.Cmd, error) {
	return func(h *harness, dir string) (*exec.Cmd, error) {
		one := *h
		one.sidecar = path
		return program(&one, dir)
	}
}

func (h *harness) program(dir string, output ...string) *exec.Cmd {
	return exec.Command(h.sidecar, append(output, "--input.address", "127.0.0.1:0", "--path.data", filepath.Join(dir, "data"),
		"--fields", "source.ip,destination.ip,dns.question.name:domain,url.full:url,file.hash:hash,process.hash:hash",
		"--vt.url", h.vt, "--vt.api_key", strings.Repeat("0", 64), "--vt.wait", "2m",
		"--vt.limit.minute", "0", "--vt.limit.day", strconv.Itoa(h.looked), "--vt.limit.month", "0",
		"--cache.max_entries", "50000", "--admin.address", "127.0.0.1:0")...)
}

// measurement is one process in one round.
type measurement struct {
	cpu  float64 // seconds per million events, user and system
	sys  float64 // the system's share of them
	out  float64 // bytes written an event
	rate float64 // events a second
	rss  int64   // peak, bytes
}

func (h *harness) run(ctx context.Context) error {
	if h.dir == "" {
		dir, err := os.MkdirTemp("", "vtsidecar-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		h.dir = dir
	}
	h.choose()
	h.load = load()
	wireBytes := 0
	for _, w := range h.load {
		wireBytes += len(w.wire)
		h.json += w.json
	}
	h.json /= distinct * windowSize
	fmt.Printf("load: %d connections, windows of %d, %d in flight, compression level 3; events of %d B, %d B on the wire; %.0f %% of values known\n",
		connections, windowSize, inFlight, h.json, wireBytes/(distinct*windowSize), 100*hitRate)

	stop, err := h.prime(ctx)
	if err != nil {
		return fmt.Errorf("fill the cache: %w", err)
	}
	defer stop()
	if h.mode != "" {
		return h.special(ctx)
	}
	if h.search, err = h.startSearch(ctx, ""); err != nil {
		return err
	}
	defer h.search.stop()

	h.results = make(map[string][]measurement)
	for round := range h.rounds {
		for i := range h.subjects {
			// In turns: whoever came last in this round comes first in the next.
			s := &h.subjects[(i+round)%len(h.subjects)]
			m, err := h.measure(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			h.results[s.name] = append(h.results[s.name], m)
			fmt.Fprintf(os.Stderr, "round %d of %d: %-56s %6.2f s/M\n", round+1, h.rounds, s.name, m.cpu)
		}
	}
	h.report()
	return nil
}

// prime lets the program look up every known value once and stops it, so that
// its folder holds them all. The stand-in stays for those who start later.
func (h *harness) prime(ctx context.Context) (stop func(), err error) {
	standIn, err := launch(ctx, exec.Command(h.standIn, "-address", "127.0.0.1:0", "-generate"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			standIn.stop()
		}
	}()
	h.vt = "http://" + standIn.address
	h.looked = perPool * pools
	dir := filepath.Join(h.dir, "prime")
	p, err := launch(ctx, h.program(dir, toFile(dir)...))
	if err != nil {
		return nil, err
	}
	err = send(p.address, known(), 1)
	if err = errors.Join(err, p.stop()); err != nil {
		return nil, err
	}
	h.primed = filepath.Join(dir, "data")
	return func() { standIn.stop() }, nil
}

// measure runs one process and feeds it.
func (h *harness) measure(ctx context.Context, s *subject) (m measurement, err error) {
	dir := filepath.Join(h.dir, "run")
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m, err
	}
	command, err := s.command(h, dir)
	if err != nil {
		return m, err
	}
	// What others have written, and the removal of it, is the disk's business
	// before the clock starts; else this one's fsyncs would pay for it.
	syscall.Sync()
	if s.search {
		if err := h.search.reset(); err != nil {
			return m, err
		}
	}
	p, err := launch(ctx, command)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()

	if err := send(p.address, h.load, warmup); err != nil {
		return m, err
	}
	total := h.windows / s.share
	before, err := p.cpu()
	if err != nil {
		return m, err
	}
	start := time.Now()
	if err := send(p.address, h.load, total); err != nil {
		return m, err
	}
	elapsed := time.Since(start)
	after, err := p.cpu()
	if err != nil {
		return m, err
	}
	if m.rss, err = p.peak(); err != nil {
		return m, err
	}
	events := float64(total * windowSize)
	m.cpu = (after.user + after.system - before.user - before.system).Seconds() / events * 1e6
	m.sys = (after.system - before.system).Seconds() / events * 1e6
	m.rate = events / elapsed.Seconds()
	if s.search {
		m.out, err = h.search.seen((warmup + total) * windowSize)
		return m, err
	}
	if s.output == "" {
		return m, nil
	}
	written, err := h.count(filepath.Join(dir, s.output), warmup, total)
	m.out = float64(written) / float64((warmup+total)*windowSize)
	return m, err
}

var offset = regexp.MustCompile(`"offset":([0-9]+)`)

// count holds what was written against what was sent: every event as often as
// its window was sent. It returns the size of it all.
func (h *harness) count(glob string, sends ...int) (size int64, err error) {
	names, err := filepath.Glob(glob)
	if err != nil {
		return 0, err
	}
	found := make([]int, distinct*windowSize)
	for _, name := range names {
		n, err := countFile(name, found)
		if err != nil {
			return 0, err
		}
		size += n
	}
	for i, got := range found {
		want := 0
		for _, total := range sends {
			want += total / distinct
			if i/windowSize < total%distinct {
				want++
			}
		}
		if got != want {
			return 0, fmt.Errorf("event %d was written %d times and sent %d times", i+1, got, want)
		}
	}
	return size, nil
}

func countFile(name string, found []int) (size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for r := bufio.NewReaderSize(f, 1<<20); ; {
		line, err := r.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			return size, nil
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		size += int64(len(line))
		match := offset.FindSubmatch(line)
		if match == nil || !bytes.Contains(line, []byte(`"arcanna":`)) {
			return 0, fmt.Errorf("%s: not one of our events, or not enriched: %.200s", name, line)
		}
		n, _ := strconv.Atoi(string(match[1])) // digits
		if n < 1 || n > len(found) {
			return 0, fmt.Errorf("%s: an event that nobody sent: %d", name, n)
		}
		found[n-1]++
	}
}

// report prints the table and the ratios with their targets.
func (h *harness) report() {
	base := h.results[h.subjects[0].name]
	fmt.Printf("\n%-58s %24s %6s %11s %8s %8s %7s\n", "", "CPU s/M (min to max)", "system", "k events/s", "RSS MiB", "B/event", "× floor")
	for _, s := range h.subjects {
		var cpu, sys, rate, rss, out, ratio []float64
		for i, m := range h.results[s.name] {
			cpu, sys, rate = append(cpu, m.cpu), append(sys, m.sys), append(rate, m.rate/1e3)
			rss, out, ratio = append(rss, float64(m.rss)/(1<<20)), append(out, m.out), append(ratio, m.cpu/base[i].cpu)
		}
		target := ""
		if s.target > 0 {
			target = fmt.Sprintf("  (target: at most %.1f)", s.target)
		}
		fmt.Printf("%-58s %6.2f (%6.2f to %6.2f) %6.2f %11.0f %8.0f %8.0f %7.2f%s\n", s.name,
			median(cpu), slices.Min(cpu), slices.Max(cpu), median(sys), median(rate), median(rss), median(out), median(ratio), target)
	}
	var ofPeer []float64
	for i, m := range h.results[aPeer] {
		if whole := h.results[wholePath]; len(whole) > i {
			ofPeer = append(ofPeer, whole[i].cpu/m.cpu)
		}
	}
	if len(ofPeer) > 0 {
		fmt.Printf("\nThe whole path costs %.2f of what the peer costs (target: at most 0.17).", median(ofPeer))
	}
	fmt.Printf("\nMedians of %d rounds; target for RSS of the whole path: at most 128 MiB. Every written event was counted.\nThe system's share of those that write depends on the disk: see -dir.\n", h.rounds)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}

// process is a server that is being measured.
type process struct {
	cmd     *exec.Cmd
	address string
	words   chan string // its last words, once it has ended
}

var addressed = regexp.MustCompile(`address=([0-9.]+:[0-9]+)`)

// launch starts a server and waits until it says where it listens.
func launch(ctx context.Context, cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, words: make(chan string, 1)}
	addresses := make(chan string, 1)
	go func() {
		last := ""
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			last = lines.Text()
			if match := addressed.FindStringSubmatch(last); match != nil {
				select {
				case addresses <- match[1]:
				default:
				}
			}
		}
		p.words <- last
	}()
	select {
	case p.address = <-addresses:
		return p, nil
	case words := <-p.words:
		return nil, errors.Join(fmt.Errorf("%s ended: %s", cmd.Path, words), cmd.Wait())
	case <-ctx.Done():
	case <-time.After(time.Minute):
	}
	_ = cmd.Process.Kill() // it may be gone
	<-p.words
	return nil, errors.Join(fmt.Errorf("%s does not listen", cmd.Path), cmd.Wait(), ctx.Err())
}

// stop ends the server as an operator would.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // Wait tells how it ended
	words := <-p.words
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, words)
	}
	return nil
}

// times is processor time.
type times struct{ user, system time.Duration }

// cpu is the processor time that the process has used.
func (p *process) cpu() (t times, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return t, err
	}
	// The command's name may hold blanks; the fields behind it start with the third.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3
	user, err1 := strconv.ParseInt(fields[utime], 10, 64)
	system, err2 := strconv.ParseInt(fields[stime], 10, 64)
	const tick = time.Second / 100 // USER_HZ, the same on all of Linux's common architectures
	return times{time.Duration(user) * tick, time.Duration(system) * tick}, errors.Join(err1, err2)
}

// peak is the most memory that the process has had resident.
func (p *process) peak() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("no VmHWM in /proc")
}
