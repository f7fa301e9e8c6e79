//go:build real

package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// kill -9 keeps the page cache, so it says nothing about fsync; the kernel's
// side of the story does. What is checked, in the order in which the calls
// were made: when the write of an ack frame (A with a number other than 0)
// begins, the events acknowledged so far, this ack's included, are no more than
// the lines in the durable part of the output file. The durable part is what
// had been written when an fsync or fdatasync began that has returned 0 since.
// And the folder was synced after the file was made, before the first ack.
//
// With one connection and one window in flight that is exact: those lines can
// be no other's than the ack's window's and those of the windows before it. With
// four connections and two windows each, it shows the same of whole groups.
func TestFsyncBeforeAck(t *testing.T) {
	const count = 20_000
	log := filepath.Join(t.TempDir(), "app.log")
	appendLines(t, log, firstLine, count)
	vt := startStandIn(t)

	for _, c := range []struct{ name, output string }{
		{"one window in flight", "pipelining: 0"},
		{"groups of windows", "pipelining: 2\nworker: 4\nloadbalance: true\nbulk_max_size: 512"},
	} {
		t.Run(c.name, func(t *testing.T) {
			trace := filepath.Join(t.TempDir(), "trace")
			// -D: the program is our own child, and strace goes when it goes.
			s := startSidecar(t, vt, []string{"strace", "-D", "-f", "-tt", "-yy", "-s", "96", "-o", trace,
				"-e", "trace=write,writev,pwrite64,sendto,sendmsg,fsync,fdatasync"})
			f := startFilebeat(t, log, settings{output: c.output, once: true}, s.address)
			require.Zero(t, f.wait(t), "Filebeat's exit status")
			require.Zero(t, s.terminate(t), "the exit status on SIGTERM")

			outputs := s.outputs()
			require.Len(t, outputs, 1)
			acks, fsyncs := order(t, trace, outputs[0], s.address)
			require.Positive(t, acks)
			t.Logf("%d acks, %d fsyncs of the output, %d lines", acks, fsyncs, count)
		})
	}
}

var (
	// "4711 12:00:00.123456 write(9<TCP:[a->b]>, "2A\0\0\10\0", 6) = 6", or the same without
	// its end, which then comes as "4711 12:00:00.123457 <... write resumed>) = 6".
	entry   = regexp.MustCompile(`^(\d+) +\S+ (\w+)\(\d+<((?:->|[^>])*)>(?:, (.*))?`)
	resumed = regexp.MustCompile(`^(\d+) +\S+ <\.\.\. (\w+) resumed>`)
	result  = regexp.MustCompile(`\) += (-?\d+)`)
	framed  = regexp.MustCompile(`^"((?:[^"\\]|\\.)*)"`)
)

// order reads a trace and asserts what TestFsyncBeforeAck promises.
func order(t *testing.T, trace, output, address string) (acks, fsyncs int) {
	t.Helper()
	content, err := os.ReadFile(output)
	require.NoError(t, err)
	lines := func(size int64) int { return bytes.Count(content[:size], []byte("\n")) }

	type call struct {
		name, fd string
		written  int64 // when it began
	}
	var (
		pending      = make(map[string]call) // by thread
		written      int64                   // bytes of the output whose write has returned
		durable      int64                   // of them, those that an fsync covers
		durableLines int
		folder       bool // synced
		acknowledged int
	)
	begin := func(thread string, c call, arguments string) {
		c.written = written
		pending[thread] = c
		if !strings.HasPrefix(c.fd, "TCP:["+address+"->") {
			return
		}
		match := framed.FindStringSubmatch(arguments)
		if match == nil {
			return
		}
		for frame := unescape(match[1]); len(frame) >= 6; frame = frame[6:] {
			require.Equal(t, "2A", string(frame[:2]), "something other than acks went to the Beat")
			n := int(binary.BigEndian.Uint32(frame[2:6]))
			if n == 0 {
				continue // a keepalive promises nothing
			}
			acks++
			acknowledged += n // a Beat numbers each window from 1
			require.LessOrEqual(t, acknowledged, durableLines, "ack %d went out before its events were synced", acks)
			require.True(t, folder, "ack %d went out before the folder was synced", acks)
		}
	}
	end := func(thread string, code int64) {
		c := pending[thread]
		delete(pending, thread)
		switch {
		case code < 0:
		case c.fd == output && strings.Contains(c.name, "write"):
			written += code
		case c.fd == output: // fsync, fdatasync
			fsyncs++
			if c.written > durable {
				durable = c.written
				durableLines = lines(durable)
			}
		case c.fd == filepath.Dir(output):
			folder = true
		}
	}

	f, err := os.Open(trace)
	require.NoError(t, err)
	defer f.Close()
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		line := scanner.Text()
		if match := entry.FindStringSubmatch(line); match != nil {
			begin(match[1], call{name: match[2], fd: match[3]}, match[4])
		} else if match := resumed.FindStringSubmatch(line); match != nil {
			require.Equal(t, match[2], pending[match[1]].name, "%s", line)
		} else {
			continue // threads and signals
		}
		if code := result.FindAllStringSubmatch(line, -1); code != nil && !strings.HasSuffix(line, "<unfinished ...>") {
			n, err := strconv.ParseInt(code[len(code)-1][1], 10, 64)
			require.NoError(t, err)
			end(strings.Fields(line)[0], n)
		}
	}
	require.NoError(t, scanner.Err())
	assert.Equal(t, int64(len(content)), durable, "the trace does not account for the whole file")
	assert.Equal(t, durableLines, acknowledged, "events acknowledged and lines stored")
	return acks, fsyncs
}

// unescape undoes strace's escapes: C's, with octal numbers as short as they
// can be.
func unescape(s string) []byte {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		i++
		if at := strings.IndexByte("tnvfr", s[i]); at >= 0 {
			out = append(out, "\t\n\v\f\r"[at])
			continue
		}
		if s[i] < '0' || s[i] > '7' {
			out = append(out, s[i])
			continue
		}
		v := 0
		for end := min(i+3, len(s)); i < end && '0' <= s[i] && s[i] <= '7'; i++ {
			v = v<<3 | int(s[i]-'0')
		}
		i--
		out = append(out, byte(v))
	}
	return out
}
