//go:build real

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// beat is a run of real Filebeat over one log file and its rotated forms.
type beat struct {
	*process
	home string
}

// settings of one run of Filebeat.
type settings struct {
	output string // lines under output.logstash, beside hosts
	input  string // lines of the input, beside what is set there
	raw    bool   // keep the line in message, and decode it beside that; else Filebeat's json.keys_under_root
	once   bool   // end when everything was read and acknowledged
}

// startFilebeat reads the log at path, and path.N, and sends to hosts.
func startFilebeat(t *testing.T, path string, s settings, hosts ...string) *beat {
	t.Helper()
	home := t.TempDir()
	var c strings.Builder
	// Only how often files are looked at is set: it shortens the test.
	fmt.Fprintf(&c, `
filebeat.inputs:
- type: log
  paths: [%q, %q]
  scan_frequency: 1s
  max_backoff: 1s
  close_eof: %t
`, path, path+".*", s.once)
	for line := range strings.Lines(s.input) {
		fmt.Fprintf(&c, "  %s", line)
	}
	if s.raw {
		c.WriteString("processors: [{decode_json_fields: {fields: [message], target: \"\"}}]\n")
	} else {
		c.WriteString("  json.keys_under_root: true\n")
	}
	fmt.Fprintf(&c, "output.logstash:\n  hosts: [%s]\n", strings.Join(hosts, ", "))
	for line := range strings.Lines(s.output) {
		fmt.Fprintf(&c, "  %s", line)
	}
	config := filepath.Join(home, "filebeat.yml")
	require.NoError(t, os.WriteFile(config, []byte(c.String()), 0o600))

	args := []string{"run", "-e", "-c", config, "--path.home", home, "--strict.perms=false"}
	if s.once {
		args = append(args, "--once")
	}
	return &beat{process: start(t, "filebeat", os.Getenv("FILEBEAT"), args...), home: home}
}

// truncated is what Filebeat says when it finds a file shorter than what it has
// read.
var truncated = regexp.MustCompile(`File was truncated`)

// acked waits until Filebeat's registry has the end of the file: everything in
// it was read, sent and acknowledged. It may take as long as it goes on. Others
// that have to run for it may be named.
func (b *beat) acked(t *testing.T, path string, others ...*process) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	stat := info.Sys().(*syscall.Stat_t)
	file := fmt.Sprintf("::%d-%d", stat.Ino, stat.Dev)
	for offset := b.offset(file); offset != info.Size(); {
		was := offset
		await(t, fmt.Sprintf("Filebeat's acks go on from byte %d of %d in %s", was, info.Size(), path), func() bool {
			offset = b.offset(file)
			return offset != was
		}, append(others, b.process)...)
	}
}

// offset is the last one in the registry's log for a file, named by inode and
// device.
func (b *beat) offset(file string) int64 {
	log, _ := os.ReadFile(filepath.Join(b.home, "data/registry/filebeat/log.json")) // not there yet, at first
	offset := int64(-1)
	for line := range bytes.Lines(log) {
		var entry struct {
			K string
			V struct{ Offset *int64 }
		}
		// Each change is two lines, the operation and its values; the last may be torn.
		if json.Unmarshal(line, &entry) == nil && strings.HasSuffix(entry.K, file) && entry.V.Offset != nil {
			offset = *entry.V.Offset
		}
	}
	return offset
}
