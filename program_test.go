package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/configs"
	"vtsidecar/internal/vtstandin"
)

// asProgram is set where the test's own binary is to be the program, so that a
// test can kill it.
const asProgram = "VTSIDECAR_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Unsetenv(asProgram)
		main()
	}
	goleak.VerifyTestMain(m)
}

// process starts the program as a process of its own, which ends with the test.
func process(t *testing.T, args ...string) (cmd *exec.Cmd, stderr *printed) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	stderr = newPrinted()
	cmd = exec.Command(self, args...)
	cmd.Env, cmd.Stderr = []string{asProgram + "=1"}, stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		_ = cmd.Wait()
	})
	return cmd, stderr
}

// patience is how long a test waits for something that is bound to happen.
const patience = 30 * time.Second

// nobody is an address at which nobody listens. A free port may be another test's
// a moment later.
const nobody = "127.0.0.1:1"

// printed collects what the program writes while it runs.
type printed struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{} // one token when something was written
}

func newPrinted() *printed { return &printed{more: make(chan struct{}, 1)} }

func (o *printed) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.buf.Write(p)
}

func (o *printed) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// program is one run of the program.
type program struct {
	stdout, stderr *printed
	stop           context.CancelFunc // as a first signal
	status         chan int
}

func start(t *testing.T, environ []string, stdin string, args ...string) *program {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &program{stdout: newPrinted(), stderr: newPrinted(), stop: stop, status: make(chan int, 1)}
	go func() {
		p.status <- run(ctx, env{
			args: append([]string{"vtsidecar"}, args...), environ: environ,
			stdin: strings.NewReader(stdin), stdout: p.stdout, stderr: p.stderr,
		})
	}()
	t.Cleanup(func() {
		stop()
		select {
		case s := <-p.status:
			p.status <- s
		case <-time.After(patience):
			t.Errorf("the program does not end; it said:\n%s", p.stderr)
		}
	})
	return p
}

// wait returns the exit status.
func (p *program) wait(t *testing.T) int {
	t.Helper()
	select {
	case s := <-p.status:
		p.status <- s
		return s
	case <-time.After(patience):
		require.FailNow(t, "the program does not end", "it said:\n%s", p.stderr)
		return -1
	}
}

// says waits until stderr matches and returns the first group.
func (p *program) says(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		if m := re.FindStringSubmatch(p.stderr.String()); m != nil {
			return m[len(m)-1]
		}
		select {
		case <-p.stderr.more:
		case s := <-p.status:
			p.status <- s
			if m := re.FindStringSubmatch(p.stderr.String()); m != nil {
				return m[len(m)-1]
			}
			require.FailNow(t, "the program ended", "status %d, looking for %s in:\n%s", s, pattern, p.stderr)
		case <-deadline:
			require.FailNow(t, "not said", "%s in:\n%s", pattern, p.stderr)
		}
	}
}

func (p *program) address(t *testing.T) string {
	t.Helper()
	return p.says(t, `address=(127\.0\.0\.1:[0-9]+)`)
}

// standIn is a VirusTotal with the table of the demonstration.
func standIn(t *testing.T) (*vtstandin.Server, string) {
	t.Helper()
	f, err := os.Open("examples/demo/virustotal.json")
	require.NoError(t, err)
	defer f.Close()
	objects, err := vtstandin.ReadTable(f)
	require.NoError(t, err)
	s, err := vtstandin.New(vtstandin.Config{Key: "right-key", Objects: objects})
	require.NoError(t, err)
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		h.Close()
		assert.Empty(t, s.Violations())
	})
	return s, h.URL
}

// startServer starts the server with settings that suit a test.
func startServer(t *testing.T, data, vt string, more ...string) *program {
	t.Helper()
	return start(t, nil, "", append([]string{
		"--input.address", "127.0.0.1:0", "--admin.address", "127.0.0.1:0", "--path.data", data,
		"--vt.url", vt, "--vt.api_key", "right-key", "--vt.limit.minute", "0", "--vt.wait", "20s",
	}, more...)...)
}

func sendEvents(t *testing.T, address, events string, more ...string) {
	t.Helper()
	p := start(t, nil, events, append([]string{"send", "--to", address}, more...)...)
	require.Zero(t, p.wait(t), p.stderr.String())
}

// stored reads the output file: an event a line, by their field "n".
func stored(t *testing.T, path string) map[string]map[string]any {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	events := map[string]map[string]any{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 32<<20)
	for lines.Scan() {
		var e map[string]any
		require.NoError(t, json.Unmarshal(lines.Bytes(), &e), lines.Text())
		events[fmt.Sprint(e["n"])] = e
	}
	require.NoError(t, lines.Err())
	return events
}

// at follows a dotted path through objects.
func at(event map[string]any, path string) any {
	var v any = event
	for _, key := range strings.Split(path, ".") {
		o, _ := v.(map[string]any)
		v = o[key]
	}
	return v
}

func TestEventsArriveEnriched(t *testing.T) {
	vt, url := standIn(t)
	data := t.TempDir()
	p := startServer(t, data, url)
	sendEvents(t, p.address(t), `
{"@metadata":{"beat":"filebeat"},"n":1,"source":{"ip":"203.0.113.7"},"big":9007199254740993}
{"n":2,"source.ip":"8.8.8.8"}
{"n":3,"source":{"ip":"10.1.2.3"}}
{"n":4,"message":"nothing to look up"}
{"n":5,"source":{"ip":"192.0.2.99"},"arcanna":{"ioc":{"is_malicious":false},"other":1}}
`)
	p.stop()
	require.Zero(t, p.wait(t), p.stderr.String())

	events := stored(t, filepath.Join(data, "events.ndjson"))
	require.Len(t, events, 5)
	assert.Equal(t, true, at(events["1"], "arcanna.ioc.is_malicious"))
	assert.Equal(t, "malicious", at(events["1"], "arcanna.ioc.global.result"))
	assert.Equal(t, 14., at(events["1"], "arcanna.ioc.source.ip.positives"))
	assert.Nil(t, events["1"]["@metadata"])
	assert.Equal(t, false, at(events["2"], "arcanna.ioc.is_malicious"))
	assert.Equal(t, "private", at(events["3"], "arcanna.ioc.source.ip.skip_reason"))
	assert.Equal(t, "none", at(events["4"], "arcanna.ioc.global.status"))
	assert.Equal(t, "not_found", at(events["5"], "arcanna.ioc.source.ip.status"))
	assert.Nil(t, at(events["5"], "arcanna.ioc.is_malicious"), "a log line must not acquit itself")
	assert.Equal(t, 1., at(events["5"], "arcanna.other"))
	assert.Equal(t, 3, vt.Stats().Total)

	// The cache outlives a restart: nothing is asked again.
	p = startServer(t, data, url)
	sendEvents(t, p.address(t), `{"n":6,"source":{"ip":"203.0.113.7"}}`)
	p.stop()
	require.Zero(t, p.wait(t), p.stderr.String())
	events = stored(t, filepath.Join(data, "events.ndjson"))
	require.Len(t, events, 6, "a restart appends")
	assert.Equal(t, true, at(events["6"], "arcanna.ioc.is_malicious"))
	assert.Equal(t, 3, vt.Stats().Total)
}

func TestMalformedAndOversizedEventsGoToTheDeadLetterAlone(t *testing.T) {
	_, url := standIn(t)
	data := t.TempDir()
	p := startServer(t, data, url, "--input.max_event", "1KiB")
	window(t, p.address(t), `{"n":1}`, `{"n":2`, `[3]`, `{"n":4,"pad":"`+strings.Repeat("x", 2000)+`"}`, "", `{"n":5}`)
	p.stop()
	require.Zero(t, p.wait(t), p.stderr.String())

	assert.Len(t, stored(t, filepath.Join(data, "events.ndjson")), 2)
	files, err := filepath.Glob(filepath.Join(data, "dead-letter", "*.ndjson"))
	require.NoError(t, err)
	var reasons []string
	for _, name := range files {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		for line := range strings.Lines(string(b)) {
			var l struct{ Reason, Event, Output string }
			require.NoError(t, json.Unmarshal([]byte(line), &l))
			reasons = append(reasons, l.Reason)
		}
	}
	assert.ElementsMatch(t, []string{"malformed", "malformed", "oversize", "malformed"}, reasons)
	assert.NotContains(t, p.stderr.String(), "xxxxxxxxxx", "payloads never reach the log")
}

// window sends one uncompressed window and waits for its ack.
func window(t *testing.T, address string, events ...string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	number := func(n int) []byte { return []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }
	b := append([]byte("2W"), number(len(events))...)
	for i, e := range events {
		b = append(append(append(append(b, "2J"...), number(i+1)...), number(len(e))...), e...)
	}
	_, err = conn.Write(b)
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	for {
		var ack [6]byte
		_, err := io.ReadFull(conn, ack[:])
		require.NoError(t, err)
		require.Equal(t, "2A", string(ack[:2]))
		if [4]byte(ack[2:]) != [4]byte{} {
			require.Equal(t, number(len(events)), ack[2:])
			return
		}
	}
}

func TestNoVirusTotalTroubleStopsTheFlow(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  vtstandin.Fault
		status string
		more   []string
	}{
		{name: "wrong key", status: "unavailable", more: []string{"--vt.api_key", "wrong-key"}},
		{name: "forbidden", fault: vtstandin.Fault{Kind: "status", Status: 403}, status: "unavailable"},
		{name: "server error", fault: vtstandin.Fault{Kind: "status", Status: 503}, status: "unavailable"},
		{name: "page", fault: vtstandin.Fault{Kind: "html"}, status: "unavailable"},
		{name: "hang", fault: vtstandin.Fault{Kind: "hang"}, status: "pending", more: []string{"--vt.wait", "50ms"}},
		{name: "quota", fault: vtstandin.Fault{Kind: "status", Status: 429, Code: "QuotaExceededError"}, status: "quota"},
		{name: "switched off", status: "unavailable", more: []string{"--vt.enabled=false"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			vt, url := standIn(t)
			require.NoError(t, vt.SetFault(c.fault))
			data := t.TempDir()
			p := startServer(t, data, url, c.more...)
			sendEvents(t, p.address(t), `{"n":1,"source":{"ip":"203.0.113.7"}}`)
			p.stop()
			require.Zero(t, p.wait(t), p.stderr.String())
			e := stored(t, filepath.Join(data, "events.ndjson"))["1"]
			assert.Equal(t, c.status, at(e, "arcanna.ioc.source.ip.status"))
			assert.Equal(t, "unknown", at(e, "arcanna.ioc.source.ip.result"))
			assert.Nil(t, at(e, "arcanna.ioc.is_malicious"))
			assert.NotContains(t, p.stderr.String(), "-key\"", "keys never reach the log")
		})
	}
}

func TestWithoutAKey(t *testing.T) {
	data := t.TempDir()
	p := start(t, nil, "", "--input.address", "127.0.0.1:0", "--admin.address", "off", "--path.data", data, "serve", "--log.format", "text")
	sendEvents(t, p.address(t), `{"n":1,"source":{"ip":"203.0.113.7"}}`)
	p.stop()
	require.Zero(t, p.wait(t), p.stderr.String())
	assert.Equal(t, "unavailable", at(stored(t, filepath.Join(data, "events.ndjson"))["1"], "arcanna.ioc.global.status"))
	assert.Equal(t, 1, strings.Count(p.stderr.String(), "vt.api_key_file"), "one warning: %s", p.stderr)
}

func TestAdmin(t *testing.T) {
	_, url := standIn(t)
	p := startServer(t, t.TempDir(), url, "--vt.limit.hour", "100", "--vt.limit.day", "500")
	sendEvents(t, p.address(t), `{"n":1,"source":{"ip":"203.0.113.7"}}`)
	admin := "http://" + p.says(t, `"admin\.url":"http://(127\.0\.0\.1:[0-9]+)"`)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	get := func(path string) (int, string) {
		resp, err := client.Get(admin + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(body)
	}
	status, _ := get("/livez")
	assert.Equal(t, 200, status)
	status, body := get("/readyz")
	assert.Equal(t, 200, status, body)
	// The connection that send has closed gives its last memory back by itself.
	require.Eventually(t, func() bool {
		_, body = get("/metrics")
		return strings.Contains(body, "\nvtsidecar_inflight_bytes 0\n") && strings.Contains(body, "\nvtsidecar_connections 0\n")
	}, patience, 10*time.Millisecond)
	for _, line := range []string{
		"vtsidecar_events_received_total 1", "vtsidecar_events_stored_total 1", "vtsidecar_windows_acked_total 1", "vtsidecar_output_up 1",
		`vtsidecar_indicators_total{result="malicious",type="ip"} 1`, `vtsidecar_cache_requests_total{result="miss"} 1`,
		`vtsidecar_vt_requests_total{code="200"} 1`, "vtsidecar_cache_entries 1", "vtsidecar_build_info{", "go_goroutines",
		`vtsidecar_vt_quota_remaining{window="hour"} 99`, `vtsidecar_vt_quota_remaining{window="day"} 499`, "vtsidecar_vt_queue_length 0", "vtsidecar_batch_duration_seconds_count 1",
		"vtsidecar_vt_request_duration_seconds_count 1",
	} {
		assert.Contains(t, body, line)
	}
}

// Who starts the server on a free port looks for address= on stderr, and must find
// one line, whatever the log is like.
func TestOneLineNamesTheAddress(t *testing.T) {
	_, url := standIn(t)
	for _, format := range []string{"text", "json"} {
		p := startServer(t, t.TempDir(), url, "--log.level", "debug", "--log.format", format)
		p.address(t)
		p.stop()
		require.Zero(t, p.wait(t), p.stderr)
		assert.Contains(t, p.stderr.String(), "the admin server listens")
		assert.Equal(t, 1, strings.Count(p.stderr.String(), "address="), p.stderr)
	}
}

// Dashboards and alerts find every series before anything has happened, whatever
// the output is: increase() does not see one that begins at 1.
func TestMetricsFromTheStart(t *testing.T) {
	_, url := standIn(t)
	for _, output := range []string{"--output.file.rotate_bytes=1MiB", "--output.elasticsearch.hosts=http://127.0.0.1:9", "--output.logstash.hosts=127.0.0.1:9"} {
		p := startServer(t, t.TempDir(), url, "--vt.limit.hour", "100", output)
		admin := "http://" + p.says(t, `"admin\.url":"http://(127\.0\.0\.1:[0-9]+)"`)
		p.address(t)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
		var body string
		require.EventuallyWithT(t, func(c *assert.CollectT) { // the account is asked first
			resp, err := client.Get(admin + "/metrics")
			if !assert.NoError(c, err) {
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			assert.NoError(c, err)
			assert.Contains(c, string(b), `vtsidecar_vt_quota_remaining{window="hour"} 100`)
			body = string(b)
		}, patience, 10*time.Millisecond)
		for _, series := range []string{
			"vtsidecar_build_info{", "vtsidecar_connections ", "vtsidecar_events_received_total ", "vtsidecar_events_stored_total ", "vtsidecar_events_dead_lettered_total{reason=",
			"vtsidecar_windows_acked_total ", "vtsidecar_protocol_errors_total{reason=", "vtsidecar_inflight_bytes ", "vtsidecar_batch_duration_seconds_bucket{",
			"vtsidecar_indicators_total{", "vtsidecar_cache_requests_total{result=", "vtsidecar_cache_entries ",
			"vtsidecar_vt_requests_total{code=", "vtsidecar_vt_request_duration_seconds_bucket{", "vtsidecar_vt_queue_length ",
			"vtsidecar_output_retries_total{reason=", "vtsidecar_output_files_deleted_total ", "vtsidecar_output_up ", "go_goroutines ", "process_open_fds ",
		} {
			assert.Contains(t, body, "\n"+series, output)
		}
	}
}

func TestExitStatuses(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	bad := filepath.Join(t.TempDir(), "bad.ndjson")
	require.NoError(t, os.WriteFile(bad, []byte("{}\n{\"a\":\n"), 0o600))

	for _, c := range []struct {
		args   string
		status int
		says   []string
	}{
		{"version", 0, nil},
		{"test config", 0, []string{"valid"}},
		{"--help", 0, nil},
		{"--version", 0, nil},
		{"help frobnicate", 2, []string{"frobnicate"}},
		{"--vt.wait", 2, []string{"vt.wait", "--help"}},
		{"-x", 2, []string{"-x", "--help"}},
		{"frobnicate", 2, []string{"frobnicate"}},
		{"lookup 1.2.3.4", 2, []string{`"lookup" is not in this version`}},
		{"cache", 2, []string{"not in this version"}},
		{"lookup --json 1.2.3.4", 2, []string{`"lookup" is not in this version`}},
		{"--json backfill --index x -y --vt.wait 1s", 2, []string{`"backfill" is not in this version`}},
		{"serve lookup", 2, []string{`"lookup" is not in this version`}},
		{"setup", 2, []string{"output.elasticsearch.hosts"}},
		{"export", 2, []string{"export template"}},
		{"export template nothing", 2, []string{"component"}},
		{"test output now", 2, []string{"now"}},
		{"test virustotal", 2, []string{"vt.api_key_file"}},
		{"test virustotal now --vt.api_key k", 2, []string{"now"}},
		{"test", 2, []string{"test config"}},
		{"--no.such.flag=1", 2, []string{"no.such.flag"}},
		{"test config --vt.wait 3 --input.memory 1MiB", 2, []string{"vt.wait", "input.memory"}},
		{"test config --late.enabled", 2, []string{"late.enabled", "not in this version"}},
		{"test config --late.enabled true --vt.wait 3", 2, []string{"late.enabled", "not in this version", "vt.wait"}},
		{"test config --fields a:ipv4,global.x --fields b..c", 2, []string{"a:ipv4", "global", "b..c"}},
		{"--input.address " + busy.Addr().String(), 1, []string{"input.address", busy.Addr().String()}},
		{"--input.address 127.0.0.1:0 --admin.address " + busy.Addr().String(), 1, []string{"admin.address"}},
		{"--path.data " + file, 1, []string{"path.data", file}},
		{"--output.file.path " + file + "/x/y.ndjson", 1, []string{"output.file.path", file}},
		{"send", 2, []string{"--to"}},
		{"send --to nowhere", 2, []string{"nowhere"}},
		{"send --to 127.0.0.1:1 --compression_level 10", 2, []string{"compression_level"}},
		{"send --to " + nobody, 1, []string{"start the server first"}},
		{"send --to " + busy.Addr().String() + " " + bad, 1, []string{"bad.ndjson:2"}},
		{"send --to " + busy.Addr().String() + " " + bad + ".missing", 1, []string{"missing"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			environ := []string{"VTSIDECAR_PATH_DATA=" + filepath.Join(t.TempDir(), "data"), "VTSIDECAR_ADMIN_ADDRESS=off"}
			p := start(t, environ, "", strings.Fields(c.args)...)
			require.Equal(t, c.status, p.wait(t), p.stderr.String())
			for _, word := range c.says {
				assert.Contains(t, p.stderr.String(), word)
			}
			if c.status == 0 {
				assert.NotEmpty(t, p.stdout.String()+p.stderr.String())
			}
			assert.NotContains(t, p.stderr.String(), "goroutine ", "no stack traces")
		})
	}
}

func TestHelp(t *testing.T) {
	help := func(args ...string) string {
		p := start(t, nil, "", args...)
		require.Zero(t, p.wait(t), p.stderr.String())
		return p.stdout.String()
	}
	short := help("--help")
	assert.LessOrEqual(t, strings.Count(short, "\n"), 40, "it fits on a screen:\n%s", short)
	for _, want := range []string{"serve", "send", "test config", "version", "--config", "vtsidecar serve --help"} {
		assert.Contains(t, short, want)
	}
	assert.Equal(t, short, help("help"))
	assert.Contains(t, help("serve", "--help"), configs.Help())
	assert.NotContains(t, help("send", "--help"), "--vt.wait")
}

func TestManyMistakesStandBelowOneAnother(t *testing.T) {
	p := start(t, nil, "", "--vt.wait=x", "--log.level=y")
	require.Equal(t, 2, p.wait(t))
	lines := strings.Split(strings.TrimSuffix(p.stderr.String(), "\n"), "\n")
	require.Len(t, lines, 3)
	assert.Equal(t, "vtsidecar: 2 mistakes in the settings:", lines[0])
	assert.True(t, strings.HasPrefix(lines[1], "  vt.wait (flag): "), lines[1])
	assert.True(t, strings.HasPrefix(lines[2], "  log.level (flag): "), lines[2])
}

func TestSettingsFromAllPlaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "v.yml")
	require.NoError(t, os.WriteFile(file, []byte("vt: {wait: 3s, timeout: 4s, api_key: in-the-file}\nlog.level: warn\n"), 0o600))
	p := start(t, []string{"VTSIDECAR_VT_TIMEOUT=5s", "VTSIDECAR_LOG_LEVEL=error"}, "", "--config", file, "test", "config", "--log.level", "debug")
	require.Zero(t, p.wait(t), p.stderr.String())
	for _, line := range []string{"wait: 3s", "timeout: 5s", "level: debug", "api_key: xxxxx"} {
		assert.Contains(t, p.stdout.String(), line)
	}
	assert.NotContains(t, p.stdout.String()+p.stderr.String(), "in-the-file")
}

func TestSecondServerOnOneFolder(t *testing.T) {
	_, url := standIn(t)
	data := t.TempDir()
	first := startServer(t, data, url)
	first.address(t)
	second := startServer(t, data, url)
	require.Equal(t, 1, second.wait(t))
	assert.Contains(t, second.stderr.String(), "path.data")
	assert.Contains(t, second.stderr.String(), fmt.Sprint(os.Getpid()))
	// Why it ends is said in the form of the log, once.
	for line := range strings.Lines(second.stderr.String()) {
		assert.True(t, json.Valid([]byte(line)), line)
	}
	assert.Equal(t, 1, strings.Count(second.stderr.String(), `"message":"vtsidecar: path.data `), second.stderr)
	third := startServer(t, data, url, "--log.format=text")
	require.Equal(t, 1, third.wait(t))
	assert.Equal(t, 1, strings.Count(third.stderr.String(), "\nvtsidecar: path.data "), third.stderr)
}

// The drain: a window that is downstream when the signal comes is finished and
// acknowledged, and the exit status says so.
func TestDrain(t *testing.T) {
	vt, url := standIn(t)
	require.NoError(t, vt.SetFault(vtstandin.Fault{Kind: "hang", Times: 1}))
	data := t.TempDir()
	p := startServer(t, data, url, "--vt.wait", "1s")
	address := p.address(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		window(t, address, `{"n":1,"source":{"ip":"203.0.113.7"}}`)
	}()
	require.Eventually(t, func() bool { return vt.Stats().Total == 1 }, patience, time.Millisecond, "the look-up begins")
	p.stop()
	select {
	case <-done:
	case <-time.After(patience):
		require.FailNow(t, "no ack", p.stderr.String())
	}
	require.Zero(t, p.wait(t), p.stderr.String())
	assert.Len(t, stored(t, filepath.Join(data, "events.ndjson")), 1)
}

// Whatever asks the process to end, it ends as it should. A closed terminal does.
func TestSignals(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no signals can be sent there")
	}
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if signal.Ignored(sig) { // as below nohup, and then by the program too
			continue
		}
		cmd, stderr := process(t, "--input.address=127.0.0.1:0", "--admin.address=off", "--vt.enabled=false", "--path.data", t.TempDir())
		require.Eventually(t, func() bool { return strings.Contains(stderr.String(), "address=127.0.0.1:") }, patience, time.Millisecond)
		require.NoError(t, cmd.Process.Signal(sig))
		require.NoError(t, cmd.Wait(), "%v: %s", sig, stderr)
		assert.Contains(t, stderr.String(), "all that was in flight was settled")
	}
}

// Addresses that cannot be listened on are named by their setting, with the mend.
func TestAddressTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for setting, other := range map[string]string{"input.address": "admin.address", "admin.address": "input.address"} {
		p := start(t, nil, "", "--path.data", t.TempDir(), "--vt.enabled", "false", "--"+setting, taken.Addr().String(), "--"+other, "127.0.0.1:0")
		assert.Equal(t, 1, p.wait(t))
		assert.Contains(t, p.stderr.String(), "vtsidecar: "+setting+": ")
		assert.Contains(t, p.stderr.String(), "stop what listens there, or take another address")
	}
}
