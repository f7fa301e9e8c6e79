package main

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What torture itself does is tested by make torture and make defects. Here is
// what both rest on: that the accounts miss nothing.

func TestEveryRowIsTried(t *testing.T) {
	table := rows()
	require.Greater(t, len(table), tableRows)
	for i, row := range table {
		assert.NotEmpty(t, row.input)
		assert.NotEmpty(t, row.outcome)
		assert.NotEmpty(t, row.trials, "row %d: %s", i+1, row.input)
		seen := map[string]bool{}
		plain, secure := false, false
		for _, tr := range row.trials {
			name := fmt.Sprint(tr.sent, tr.over)
			assert.False(t, seen[name], "row %d tries %q twice", i+1, tr.sent)
			seen[name] = true
			assert.NotEqual(t, tr.run == nil, tr.alone == nil, "row %d, %q: either run or alone", i+1, tr.sent)
			plain = plain || tr.run != nil && tr.over != tlsOnly
			secure = secure || tr.run != nil && tr.over != plainOnly
		}
		assert.Equal(t, plain, secure, "row %d is tried over one transport only", i+1)
	}
}

func TestSpans(t *testing.T) {
	var s spans
	for _, step := range []struct {
		from, to uint64
		fresh    bool
		want     spans
	}{
		{5, 8, true, spans{{5, 8}}},
		{10, 12, true, spans{{5, 8}, {10, 12}}},
		{8, 10, true, spans{{5, 12}}},
		{6, 7, false, spans{{5, 12}}},
		{1, 2, true, spans{{1, 2}, {5, 12}}},
		{3, 4, true, spans{{1, 2}, {3, 4}, {5, 12}}},
		{20, 21, true, spans{{1, 2}, {3, 4}, {5, 12}, {20, 21}}},
		{2, 6, false, spans{{1, 12}, {20, 21}}},
		{0, 30, false, spans{{0, 30}}},
		{7, 7, true, spans{{0, 30}}},
	} {
		assert.Equal(t, step.fresh, s.add(step.from, step.to), "add %d to %d", step.from, step.to)
		require.Equal(t, step.want, s)
	}
	assert.EqualValues(t, 30, s.size())
}

func TestMissing(t *testing.T) {
	for _, c := range []struct {
		s, other spans
		n, first uint64
	}{
		{nil, nil, 0, 0},
		{spans{{1, 5}}, nil, 4, 1},
		{spans{{1, 5}}, spans{{1, 5}}, 0, 0},
		{spans{{1, 5}}, spans{{0, 9}}, 0, 0},
		{spans{{1, 5}}, spans{{2, 3}}, 3, 1},
		{spans{{1, 5}, {7, 9}}, spans{{1, 8}}, 1, 8},
		{spans{{4, 6}}, spans{{1, 2}, {4, 5}, {5, 6}}, 0, 0},
	} {
		n, first := c.s.missing(c.other)
		assert.Equal(t, [2]uint64{c.n, c.first}, [2]uint64{n, first}, "%v without %v", c.s, c.other)
	}
}

// enriched is the line that becomes of an event.
func enriched(m *maker, name string, n uint64) []byte {
	return append(m.body(nil, name, n), `,"arcanna":{"ioc":{"event_id":"0123"}}}`...)
}

// buriedAs is the dead letter that becomes of an event.
func buriedAs(t *testing.T, raw []byte) []byte {
	b, err := json.Marshal(map[string]any{"reason": "malformed", "event": string(raw)})
	require.NoError(t, err)
	return b
}

func TestEventsAreWhatTheyShouldBe(t *testing.T) {
	m := &maker{malformed: 3, fresh: 2}
	for n := uint64(1); n < 20; n++ {
		assert.Equal(t, !m.bad(n), json.Valid(m.event(nil, "a", n)), "event %d", n)
		name, number, ok := author(m.event(nil, "a", n))
		assert.True(t, ok)
		assert.Equal(t, "a", name)
		assert.Equal(t, n, number)
	}
}

func TestLedger(t *testing.T) {
	m := &maker{malformed: 4}
	for name, c := range map[string]struct {
		do   func(l *ledger)
		want string // "": all is well
	}{
		"all there": {func(l *ledger) {}, ""},
		"one repeated": {func(l *ledger) {
			l.line(enriched(m, "a", 2))
			assert.EqualValues(t, 1, l.repeats)
		}, ""},
		"more stored than acknowledged": {func(l *ledger) { l.line(enriched(m, "a", 9)) }, ""},
		"one lost":                      {func(l *ledger) { l.acked("a", 5, 7) }, "LOST: 2 acknowledged events of a are stored nowhere, the first is 5"},
		"a byte altered":                {func(l *ledger) { l.line(bytes.Replace(enriched(m, "a", 2), []byte("1.10"), []byte("1.1"), 1)) }, "altered"},
		"not enriched":                  {func(l *ledger) { l.line(append(m.body(nil, "a", 2), `,"a":1}`...)) }, "not enriched"},
		"metadata kept": {func(l *ledger) {
			l.line(append(enriched(m, "a", 2)[:len(enriched(m, "a", 2))-1], `,"@metadata":{}}`...))
		}, "@metadata"},
		"malformed and stored": {func(l *ledger) { l.line(enriched(m, "a", 4)) }, "malformed and stands in the output"},
		"sound and buried": {func(l *ledger) {
			_, err := l.buried(buriedAs(t, m.event(nil, "a", 2)))
			assert.NoError(t, err)
		}, "sound and stands in the dead letter"},
		"altered and buried": {func(l *ledger) {
			_, err := l.buried(buriedAs(t, append(m.event(nil, "a", 4), ' ')))
			assert.NoError(t, err)
		}, "altered in the dead letter"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(m)
			l.acked("a", 1, 5)
			for n := uint64(1); n < 4; n++ {
				assert.True(t, l.line(enriched(m, "a", n)))
			}
			mine, err := l.buried(buriedAs(t, m.event(nil, "a", 4)))
			require.NoError(t, err)
			assert.True(t, mine)
			c.do(l)
			if err := l.settle(); c.want == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, c.want)
			}
		})
	}
	assert.False(t, newLedger(m).line([]byte(`{"somebody":"else"}`)))
}

func TestClosedFiles(t *testing.T) {
	dir := t.TempDir()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, "compressed\n")
	require.NoError(t, z.Close())
	for name, content := range map[string]string{
		"events.ndjson":                             "open\n",
		"events-20260102T030405-2.ndjson":           "second\n",
		"events-20260102T030405-10.ndjson":          "tenth\nand torn",
		"events-20260102T030405-10.ndjson.cut-6":    "",
		"events-20260102T030405-1.ndjson":           "first\n",
		"events-20260102T030405-1.ndjson.gz":        "half of it",
		"events-20260101T000000-1.ndjson.gz":        zipped.String(),
		"events.torn-20260102T030405-1.ndjson":      "torn",
		"events-20260102T030405-3.ndjson.gz.partly": "",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	names, err := closedFiles(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"events-20260101T000000-1.ndjson.gz", "events-20260102T030405-1.ndjson", "events-20260102T030405-2.ndjson", "events-20260102T030405-10.ndjson"}, names)
	var lines []string
	for _, name := range names {
		require.NoError(t, readOutput(filepath.Join(dir, name), func(b []byte) error {
			lines = append(lines, string(b))
			return nil
		}))
	}
	assert.Equal(t, []string{"compressed", "first", "second", "tenth"}, lines)
	torn := filepath.Join(dir, "events.torn-20260102T030405-1.ndjson")
	assert.ErrorContains(t, readOutput(torn, func([]byte) error { return nil }), "has no end")
}

func TestFollowerOverRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	w := &follower{path: path}
	defer w.close()
	var lines []string
	read := func(want ...string) {
		t.Helper()
		lines = nil
		require.NoError(t, w.read(func(b []byte) error {
			lines = append(lines, string(b))
			return nil
		}))
		assert.Equal(t, want, lines)
	}
	read() // not there yet
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	_, _ = f.WriteString("one\ntw")
	read("one")
	_, _ = f.WriteString("o\nthree\n")
	require.NoError(t, os.Rename(path, path+".1"))
	read("two", "three")
	require.NoError(t, os.WriteFile(path, []byte("four\n"), 0o600))
	read("four")
	read()
}

// A peer that is told what it should not be told says so.
func TestPeer(t *testing.T) {
	for name, c := range map[string]struct {
		server string // what the server says before it closes
		expect func(p *peer)
		want   string
	}{
		"acks":                {"2A\x00\x00\x00\x00" + "2A\x00\x00\x00\x03", func(p *peer) { p.ack('2', 3); p.closed() }, ""},
		"zero is asked for":   {"2A\x00\x00\x00\x00", func(p *peer) { p.ack('2', 0); p.closed() }, ""},
		"another number":      {"2A\x00\x00\x00\x02", func(p *peer) { p.ack('2', 3) }, "ack 2 in place of 3"},
		"another version":     {"1A\x00\x00\x00\x03", func(p *peer) { p.ack('2', 3) }, "version"},
		"no ack":              {"", func(p *peer) { p.ack('2', 3) }, "no ack 3"},
		"a keepalive in v1":   {"1A\x00\x00\x00\x00", func(p *peer) { p.ack('1', 3) }, "ack 0 in place of 3"},
		"ack, not the end":    {"2A\x00\x00\x00\x03", func(p *peer) { p.closed() }, "in place of a closed connection"},
		"another frame":       {"2J\x00\x00\x00\x03", func(p *peer) { p.ack('2', 3) }, "no ack"},
		"the first one stays": {"2A\x00\x00\x00\x02", func(p *peer) { p.ack('2', 3); p.closed() }, "ack 2 in place of 3"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer ours.Close()
			go func() {
				_, _ = io.WriteString(theirs, c.server)
				_ = theirs.Close()
			}()
			p := newPeer(ours, nil)
			c.expect(p)
			if c.want == "" {
				assert.NoError(t, p.err)
			} else {
				assert.ErrorContains(t, p.err, c.want)
			}
		})
	}
	silent, _ := net.Pipe()
	p := newPeer(silent, nil)
	p.within(time.Millisecond)
	p.closed()
	assert.ErrorContains(t, p.err, "not closed")
}

// A C that is itself broken would be refused for that.
func TestNestedIsSound(t *testing.T) {
	b, depth := nested(), 0
	for b[1] == 'C' {
		z, err := zlib.NewReader(bytes.NewReader(b[6:]))
		require.NoError(t, err)
		b, err = io.ReadAll(z)
		require.NoError(t, err)
		depth++
	}
	assert.Equal(t, 4000, depth)
	assert.Equal(t, jsonFrame(1, `{"deep":true}`), b)
}

func TestStoredByteForByte(t *testing.T) {
	const body, ioc = `{"mark":"m","a":1}`, `,"arcanna":{"ioc":{"event_id":"x"}}}`
	line := body[:len(body)-1] + ioc
	assert.NoError(t, same([]string{line}, []string{body}))
	assert.NoError(t, same([]string{line, line}, []string{body, body}))
	for _, wrong := range []string{body, `{"mark":"m","a":1.0` + ioc, `{"mark":"m","a":1,"@metadata":{}` + ioc, line + ","} {
		assert.Error(t, same([]string{wrong}, []string{body}), wrong)
	}
	assert.Error(t, same(nil, []string{body}))
	assert.Error(t, same([]string{line, line}, []string{body}))
}
