//go:build real

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	s := &sidecar{dir: dir, address: "127.0.0.1:0", via: via, args: append([]string{
		"--path.data", filepath.Join(dir, "data"),
		"--output.file.path", filepath.Join(dir, "out", "events.ndjson"), "--output.file.compress=false",
		"--vt.url", vt, "--vt.api_key", vtKey, "--vt.wait", "2m",
		"--vt.limit.minute", "0", "--vt.limit.day", "0", "--vt.limit.month", "0",
		"--admin.address", "127.0.0.1:0",
	}, args...)}
	s.start(t)
	return s
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

// size is how many bytes the output files hold.
func (s *sidecar) size(t *testing.T) int64 {
	t.Helper()
	var sum int64
	for _, name := range s.outputs(t) {
		if info, err := os.Stat(name); err == nil { // rotation may rename it meanwhile
			sum += info.Size()
		}
	}
	return sum
}

// outputs are the output files; late verdicts have a file of their own.
func (s *sidecar) outputs(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.dir, "out", "events*.ndjson"))
	require.NoError(t, err)
	kept := names[:0]
	for _, name := range names {
		if !strings.HasSuffix(name, "events.late.ndjson") {
			kept = append(kept, name)
		}
	}
	return kept
}

const vtKey = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// startStandIn starts VirusTotal's stand-in and returns its URL.
func startStandIn(t *testing.T) string {
	t.Helper()
	p := start(t, "vtstandin", os.Getenv("VTSTANDIN"), "-address", "127.0.0.1:0", "-generate", "-key", vtKey)
	return "http://" + p.say(t, address, 1)[1]
}
