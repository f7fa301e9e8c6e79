package logging_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/internal/logging"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines reads what was logged, each line one flat object.
func lines(t *testing.T, b *bytes.Buffer) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(b.String()) {
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &m), line)
		all = append(all, m)
	}
	return all
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	log, err := logging.New(&b, false, "info", "auto")
	require.NoError(t, err)
	log.Debug("not this")
	log.Warn("two\nlines \xff", "err", errors.New("it broke"), "took", 1500*time.Millisecond, "n", 3, "ok", true,
		slog.Group("client", "address", netip.MustParseAddr("192.0.2.1"), slog.Group("tls", "version", "1.3")),
		"when", time.Date(2026, 1, 2, 4, 4, 5, 678e6, time.FixedZone("", 3600)), "nan", math.NaN(), "list", []string{"a"}, "odd", func() {})
	got := lines(t, &b)
	require.Len(t, got, 1)
	m := got[0]
	at, err := time.Parse(time.RFC3339Nano, m["@timestamp"].(string))
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), at, time.Hour)
	assert.Regexp(t, `\.\d{3}Z$`, m["@timestamp"])
	delete(m, "@timestamp")
	assert.Regexp(t, "^0x", m["odd"])
	delete(m, "odd")
	assert.Equal(t, map[string]any{
		"log.level": "warn", "message": "two\nlines \ufffd", "ecs.version": logging.ECSVersion,
		"error.message": "it broke", "took": "1.5s", "n": 3., "ok": true, "client.address": "192.0.2.1", "client.tls.version": "1.3",
		"when": "2026-01-02T03:04:05.678Z", "nan": "NaN", "list": []any{"a"},
	}, m)
}

func TestAttributesOfALogger(t *testing.T) {
	var b bytes.Buffer
	log, err := logging.New(&b, true, "debug", "json")
	require.NoError(t, err)
	one := log.With("a", 1, "b", 2).WithGroup("g").With("c", 3)
	one.Debug("x", "d", 4, "error", fmt.Errorf("wrapped: %w", errors.New("in")))
	log.Error("y", "a", 1, "a", 2, "message", "mine", "log.level", "mine", "error", "a text", "p", (*nilError)(nil))
	got := lines(t, &b)
	require.Len(t, got, 2)
	delete(got[0], "@timestamp")
	delete(got[1], "@timestamp")
	assert.Equal(t, map[string]any{"log.level": "debug", "message": "x", "ecs.version": logging.ECSVersion,
		"a": 1., "b": 2., "g.c": 3., "g.d": 4., "g.error.message": "wrapped: in"}, got[0])
	assert.Equal(t, map[string]any{"log.level": "error", "message": "y", "ecs.version": logging.ECSVersion,
		"a": 2., "labels.message": "mine", "labels.log_level": "mine", "error.message": "a text", "p.message": "*logging_test.nilError that cannot be shown"}, got[1])
	assert.Equal(t, 1, strings.Count(b.String(), `"a":2`))
	assert.NotContains(t, b.String(), `"a":1,"a"`)
}

// Loggers that were made of one do not write into each other's attributes.
func TestLoggersOfOneLogger(t *testing.T) {
	var b bytes.Buffer
	log, err := logging.New(&b, false, "info", "json")
	require.NoError(t, err)
	for range 4 { // whatever capacity the parent's attributes have
		log = log.With("p", 1, "q", 2)
		one, two := log.With("only", "one"), log.With("only", "two")
		b.Reset()
		one.Info("", "own", 1)
		two.Info("", "own", 2)
		one.Info("", "own", 3)
		got := lines(t, &b)
		assert.Equal(t, []any{"one", "two", "one"}, []any{got[0]["only"], got[1]["only"], got[2]["only"]})
		assert.Equal(t, []any{1., 2., 3.}, []any{got[0]["own"], got[1]["own"], got[2]["own"]})
	}
}

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestFormats(t *testing.T) {
	for _, tt := range []struct {
		format   string
		terminal bool
		json     bool
	}{{"auto", true, false}, {"auto", false, true}, {"text", false, false}, {"json", true, true}} {
		var b bytes.Buffer
		log, err := logging.New(&b, tt.terminal, "warn", tt.format)
		require.NoError(t, err)
		log.Info("no")
		log.Warn("yes")
		assert.Equal(t, tt.json, strings.HasPrefix(b.String(), "{"), tt)
		assert.Equal(t, 1, strings.Count(b.String(), "\n"))

		b.Reset()
		require.NoError(t, logging.Announce(&b, tt.terminal, tt.format, "listening address=127.0.0.1:40000"))
		assert.Equal(t, 1, strings.Count(b.String(), "\n"))
		if tt.json {
			assert.Equal(t, "listening address=127.0.0.1:40000", lines(t, &b)[0]["message"])
		} else {
			assert.Equal(t, "listening address=127.0.0.1:40000\n", b.String())
		}
	}
	for _, bad := range [][2]string{{"loud", "auto"}, {"info", "xml"}, {"", ""}} {
		_, err := logging.New(&bytes.Buffer{}, false, bad[0], bad[1])
		assert.Error(t, err)
	}
	assert.Error(t, logging.Announce(&bytes.Buffer{}, false, "xml", "x"))
}

// torn writes records in two steps, as a pipe may, and so mixes up those that
// are not written one after the other.
type torn struct{ b bytes.Buffer }

func (w *torn) Write(p []byte) (int, error) {
	w.b.Write(p[:len(p)/2])
	w.b.Write(p[len(p)/2:])
	return len(p), nil
}

func TestRecordsStayWhole(t *testing.T) {
	w := &torn{}
	log, err := logging.New(w, false, "info", "json")
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			own := log.With("worker", i)
			for j := range 50 {
				own.Info("record", "j", j)
			}
		})
	}
	wg.Wait()
	assert.Len(t, lines(t, &w.b), 400)
}
