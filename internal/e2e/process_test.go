//go:build real

package e2e

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
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
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds every wait. It is far more than anything takes; nothing is
// asserted about time.
const patience = 3 * time.Minute

// process is a child whose standard error is kept. It is killed when its test
// ends, and by the kernel when the test's own process dies.
type process struct {
	name string
	cmd  *exec.Cmd

	mu     sync.Mutex
	lines  []string      // of standard error; guarded by mu
	more   chan struct{} // closed and replaced at each new line; guarded by mu
	exited chan struct{} // closed once code is set
	code   int           // exit status, -1 for a signal; read after exited
}

func start(t *testing.T, name, path string, args ...string) *process {
	t.Helper()
	require.NotEmpty(t, path, "the path of %s is not given; these tests are run by make test-real", name)
	p := &process{name: name, cmd: exec.Command(path, args...), more: make(chan struct{}), exited: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// What the caller's environment configures must not reach the program.
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir()}
	stderr, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start(), "start %s", name)
	go func() {
		for lines := bufio.NewReader(stderr); ; {
			line, err := lines.ReadString('\n')
			if line != "" {
				p.mu.Lock()
				p.lines = append(p.lines, strings.TrimSuffix(line, "\n"))
				close(p.more)
				p.more = make(chan struct{})
				p.mu.Unlock()
			}
			if err != nil {
				break
			}
		}
		_ = p.cmd.Wait() // the exit status says it
		p.code = p.cmd.ProcessState.ExitCode()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the last words of %s:\n%s", name, p.tail(30))
		}
	})
	return p
}

// kill ends the process with SIGKILL and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.exited
}

// terminate asks the process to end and returns its exit status.
func (p *process) terminate(t *testing.T) int {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM), "%s is gone already", p.name)
	return p.wait(t)
}

// wait returns the exit status of a process that ends by itself.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.code
	case <-time.After(patience):
		require.FailNow(t, p.name+" does not end")
		return 0
	}
}

// say waits until n lines of standard error match and returns the last match's
// groups.
func (p *process) say(t *testing.T, re *regexp.Regexp, n int) []string {
	t.Helper()
	deadline := time.After(patience)
	for from, seen := 0, 0; ; {
		p.mu.Lock()
		lines, more := p.lines[from:], p.more
		p.mu.Unlock()
		from += len(lines)
		for _, line := range lines {
			if match := re.FindStringSubmatch(line); match != nil {
				if seen++; seen == n {
					return match
				}
			}
		}
		select {
		case <-more:
		case <-p.exited:
			require.FailNow(t, fmt.Sprintf("%s ended (%d) before it said %s:\n%s", p.name, p.code, re, p.tail(30)))
		case <-deadline:
			require.FailNow(t, fmt.Sprintf("%s never said %s:\n%s", p.name, re, p.tail(30)))
		}
	}
}

// await waits until something is so, and for nothing once one of those that have
// to run for it has ended. What is waited for is looked at ten times a second.
func await(t *testing.T, what string, so func() bool, running ...*process) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !so(); <-tick.C {
		for _, p := range running {
			select {
			case <-p.exited:
				require.FailNow(t, fmt.Sprintf("%s ended (%d) before this: %s", p.name, p.code, what))
			default:
			}
		}
		require.True(t, time.Now().Before(deadline), "this never was so: %s", what)
	}
}

func (p *process) tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines[max(0, len(p.lines)-n):], "\n")
}

var address = regexp.MustCompile(`address=([0-9.]+:[0-9]+)`)

// sidecar is the program under test, which a test may kill and start anew over
// the same folder and address.
type sidecar struct {
	*process
	dir     string   // holds data/ and out/
	address string   // where Beats connect; the same after a restart
	args    []string // but for the address
	via     []string // a command that the program is run by, or nothing
}

// startSidecar starts the built binary with its default settings, but for
// what names the surroundings and lifts the limits of a public key. Verdicts
// are waited for without end, so that every line can be compared with the table.
func startSidecar(t *testing.T, vt string, via []string, args ...string) *sidecar {
	t.Helper()
	dir := t.TempDir()
	s := &sidecar{dir: dir, address: "127.0.0.1:0", via: via, args: append(surroundings(dir, vt), args...)}
	s.args = append(s.args, "--output.file.path", filepath.Join(dir, "out", "events.ndjson"), "--output.file.compress=false")
	s.start(t)
	return s
}

func surroundings(dir, vt string) []string {
	return []string{
		"--path.data", filepath.Join(dir, "data"),
		"--vt.url", vt, "--vt.api_key", vtKey, "--vt.wait", "2m",
		"--vt.limit.minute", "0", "--vt.limit.day", "0", "--vt.limit.month", "0",
		"--admin.address", "127.0.0.1:0",
	}
}

func (s *sidecar) start(t *testing.T) {
	t.Helper()
	command := append(append([]string{}, s.via...), os.Getenv("VTSIDECAR"), "--input.address", s.address)
	command = append(command, s.args...)
	s.process = start(t, "vtsidecar", command[0], command[1:]...)
	s.address = s.say(t, address, 1)[1]
}

// crash kills the program with SIGKILL and starts it again on its address.
func (s *sidecar) crash(t *testing.T) {
	t.Helper()
	s.kill()
	s.start(t)
}

// size is how many bytes the output files hold, before any compression.
func (s *sidecar) size() int64 {
	var sum int64
	for _, name := range s.outputs() {
		if n, err := plainSize(name); err == nil { // rotation may rename it meanwhile
			sum += n
		}
	}
	return sum
}

func plainSize(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !strings.HasSuffix(name, ".gz") {
		return info.Size(), err
	}
	var trailer [4]byte // gzip ends with the length, modulo 2^32
	_, err = f.ReadAt(trailer[:], info.Size()-int64(len(trailer)))
	return int64(binary.LittleEndian.Uint32(trailer[:])), err
}

// outputs are the output files, the closed ones plain or compressed; late verdicts
// have a file of their own.
func (s *sidecar) outputs() []string {
	var kept []string
	entries, _ := os.ReadDir(filepath.Join(s.dir, "out")) // not there yet, at first
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		there[e.Name()] = true
	}
	for name := range there {
		base := strings.TrimSuffix(name, ".gz")
		switch {
		case !strings.HasPrefix(name, "events") || !strings.HasSuffix(base, ".ndjson"):
		case name == "events.late.ndjson":
		case name != base && there[base]: // the plain file goes last
		default:
			kept = append(kept, filepath.Join(s.dir, "out", name))
		}
	}
	return kept
}

// openOutput opens an output file for reading.
func openOutput(t *testing.T, name string) io.Reader {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	if !strings.HasSuffix(name, ".gz") {
		return f
	}
	z, err := gzip.NewReader(f)
	require.NoError(t, err, "%s", name)
	return z
}

// listens is what the program says of its admin server.
var listens = regexp.MustCompile(`"admin\.url":"http://([0-9.]+:[0-9]+)"`)

// metric is the sum of a metric's series at this moment, or one series with its labels.
func (s *sidecar) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := c.Get("http://" + s.say(t, listens, 1)[1] + "/metrics")
	require.NoError(t, err)
	defer answer.Body.Close()
	found := false
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if base, _, _ := strings.Cut(series, "{"); base != name && series != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		require.NoError(t, err, "%s", lines.Text())
		sum += v
		found = true
	}
	require.True(t, found, "there is no %s", name)
	return sum
}

const vtKey = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// startStandIn starts VirusTotal's stand-in and returns its URL.
func startStandIn(t *testing.T, args ...string) string {
	t.Helper()
	p := start(t, "vtstandin", os.Getenv("VTSTANDIN"), append([]string{"-address", "127.0.0.1:0", "-generate", "-key", vtKey}, args...)...)
	return "http://" + p.say(t, address, 1)[1]
}
