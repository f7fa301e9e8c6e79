package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for something that takes no time of its own.
const patience = 60 * time.Second

// sidecar is the program under test as a child process, which may be killed and
// started anew over the same folder and address. Its methods are safe for
// concurrent use, but one at a time starts or ends it.
type sidecar struct {
	binary string
	dir    string // holds data/, out/ and vtsidecar.log
	args   []string

	asking sync.Mutex // held while metrics are read: only so many may at a time

	mu      sync.Mutex // guards all below
	address string     // where senders connect; the same after a restart
	admin   string
	pid     int
	exited  chan struct{} // closed when the process is gone and state is set
	state   *os.ProcessState
}

var (
	listensOn = regexp.MustCompile(`"message":"[^"]*[ ,]address=([0-9.]+:[0-9]+)`)
	adminOn   = regexp.MustCompile(`"admin\.url":"http://([^"]+)"`)
)

// startSidecar starts the binary over a folder of its own and waits until it
// listens.
func startSidecar(ctx context.Context, binary, dir string, args ...string) (*sidecar, error) {
	s := &sidecar{binary: binary, dir: dir, address: "127.0.0.1:0", args: append([]string{
		"--path.data", filepath.Join(dir, "data"),
		"--output.file.path", filepath.Join(dir, "out", "events.ndjson"),
		"--admin.address", "127.0.0.1:0", "--log.format", "json",
	}, args...)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return s, s.start(ctx)
}

func (s *sidecar) start(ctx context.Context) error {
	cmd := exec.Command(s.binary, append([]string{"--input.address", s.at()}, s.args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// What the caller's environment configures must not reach the program.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir}
	log, err := os.OpenFile(s.logName(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, log.Close())
	}
	exited, listening := make(chan struct{}), make(chan struct{})
	s.mu.Lock()
	s.pid, s.exited, s.state = cmd.Process.Pid, exited, nil
	s.mu.Unlock()
	go func() {
		defer close(exited)
		defer log.Close()
		s.listen(stderr, log, listening)
		_ = cmd.Wait() // the state says it
		s.mu.Lock()
		s.state = cmd.ProcessState
		s.mu.Unlock()
	}()
	select {
	case <-listening:
		return nil
	case <-exited:
		return fmt.Errorf("vtsidecar ended at its start (%v):\n%s", s.end(), s.words())
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(patience):
		err = errors.New("vtsidecar does not listen")
	}
	s.kill()
	return fmt.Errorf("%w:\n%s", err, s.words())
}

// listen keeps the log and learns the addresses from it.
func (s *sidecar) listen(stderr io.Reader, log io.Writer, listening chan struct{}) {
	for lines := bufio.NewReader(stderr); ; {
		line, err := lines.ReadString('\n')
		_, _ = io.WriteString(log, line) // the log is for people; nothing rests on it
		if match := adminOn.FindStringSubmatch(line); match != nil {
			s.mu.Lock()
			s.admin = match[1]
			s.mu.Unlock()
		}
		if match := listensOn.FindStringSubmatch(line); match != nil && listening != nil {
			s.mu.Lock()
			s.address = match[1]
			s.mu.Unlock()
			close(listening)
			listening = nil
		}
		if err != nil {
			return
		}
	}
}

func (s *sidecar) logName() string { return filepath.Join(s.dir, "vtsidecar.log") }

// words are the last lines of the log.
func (s *sidecar) words() string {
	b, err := os.ReadFile(s.logName())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

func (s *sidecar) at() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.address
}

func (s *sidecar) now() (pid int, admin string, exited chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid, s.admin, s.exited
}

// end says how the process ended; nil while it runs.
func (s *sidecar) end() *os.ProcessState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// running is false once the process is gone.
func (s *sidecar) running() bool {
	_, _, exited := s.now()
	select {
	case <-exited:
		return false
	default:
		return true
	}
}

func (s *sidecar) signal(sig syscall.Signal) error {
	if !s.running() {
		return fmt.Errorf("vtsidecar is gone (%v) before its %v", s.end(), sig)
	}
	pid, _, _ := s.now()
	return syscall.Kill(pid, sig)
}

// kill ends the process with SIGKILL and waits until it is gone.
func (s *sidecar) kill() {
	_ = s.signal(syscall.SIGKILL) // it may be gone already
	_, _, exited := s.now()
	<-exited
}

// wait waits until the process is gone, however it ends.
func (s *sidecar) wait(most time.Duration) (*os.ProcessState, error) {
	_, _, exited := s.now()
	select {
	case <-exited:
		return s.end(), nil
	case <-time.After(most):
		return nil, fmt.Errorf("vtsidecar has not ended after %v", most)
	}
}

// terminate asks the process to end; anything but exit status 0 is an error.
func (s *sidecar) terminate() error {
	if err := s.signal(syscall.SIGTERM); err != nil {
		return err
	}
	state, err := s.wait(patience)
	if err == nil && !state.Success() {
		err = fmt.Errorf("SIGTERM: %v:\n%s", state, s.words())
	}
	return err
}

// limit sets one of the running process's soft limits and returns the old one.
func (s *sidecar) limit(resource int, soft uint64) (old uint64, err error) {
	pid, _, _ := s.now()
	var was unix.Rlimit
	if err := unix.Prlimit(pid, resource, nil, &was); err != nil {
		return 0, fmt.Errorf("prlimit: %w", err)
	}
	if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: min(soft, was.Max), Max: was.Max}, nil); err != nil {
		return 0, fmt.Errorf("prlimit: %w", err)
	}
	return was.Cur, nil
}

// figures are metrics by their names with labels, as they are printed.
type figures map[string]float64

var admin = &http.Client{Timeout: 10 * time.Second}

func (s *sidecar) metrics() (figures, error) {
	_, addr, _ := s.now()
	s.asking.Lock()
	defer s.asking.Unlock()
	res, err := admin.Get("http://" + addr + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/metrics: %s", res.Status)
	}
	f := figures{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, ok := cutLast(lines.Text(), ' ')
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if f[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return f, nil
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// refused are the connections that were closed for a reason.
func (f figures) refused(reason string) int {
	return int(f[`vtsidecar_protocol_errors_total{reason="`+reason+`"}`])
}

// ready asks /readyz; the text says what is not.
func (s *sidecar) ready() (bool, string, error) {
	_, addr, _ := s.now()
	res, err := admin.Get("http://" + addr + "/readyz")
	if err != nil {
		return false, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode == http.StatusOK, strings.TrimSpace(string(text)), err
}

// footprint is what a process takes of the machine at a moment.
type footprint struct {
	rss, peak   int64 // bytes resident, now and at most
	goroutines  int
	descriptors int
	connections int // of senders
}

func (s *sidecar) footprint() (p footprint, err error) {
	pid, _, _ := s.now()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(status)) {
		for name, to := range map[string]*int64{"VmRSS:": &p.rss, "VmHWM:": &p.peak} {
			if kib, ok := strings.CutPrefix(line, name); ok {
				n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
				if err != nil {
					return p, fmt.Errorf("/proc: %w", err)
				}
				*to = n << 10
			}
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return p, err
	}
	p.descriptors = len(fds)
	f, err := s.metrics()
	p.goroutines, p.connections = int(f["go_goroutines"]), int(f["vtsidecar_connections"])
	return p, err
}

func mib(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
