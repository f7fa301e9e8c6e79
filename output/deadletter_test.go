package output_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/crashfs"
	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
	"vtsidecar/output"
)

func openDeadLetter(t *testing.T, cfg output.DeadLetterConfig) *output.DeadLetter {
	t.Helper()
	d, err := output.OpenDeadLetter(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.Close(background)) })
	return d
}

func TestDeadLetterRecord(t *testing.T) {
	long := strings.Repeat("é", 50000) // 100,000 bytes
	sum := "5d4d"                      // given by the caller, so kept as it is
	for name, c := range map[string]struct {
		letter event.DeadLetter
		want   map[string]any
	}{
		"text": {
			event.DeadLetter{Reason: "malformed", Detail: "ends early", Event: []byte("{\"a<b>\":\u2028\n"), Length: 13},
			map[string]any{"reason": "malformed", "detail": "ends early", "event": "{\"a<b>\":\u2028\n", "event_length": 13.0},
		},
		"no text": {
			event.DeadLetter{Reason: "malformed", Event: []byte("{\xff"), Length: 2},
			map[string]any{"reason": "malformed", "event_base64": base64.StdEncoding.EncodeToString([]byte("{\xff")), "event_length": 2.0},
		},
		"empty": {
			event.DeadLetter{Reason: "malformed"},
			map[string]any{"reason": "malformed", "event": "", "event_length": 0.0},
		},
		"stub cut through a character": {
			event.DeadLetter{Reason: "oversize", Event: []byte("aé")[:2], Length: 1 << 30, SHA256: sum},
			map[string]any{"reason": "oversize", "event": "a", "event_length": float64(1 << 30), "event_sha256": sum},
		},
		"whole refused one": {
			event.DeadLetter{Reason: "refused", Event: []byte(long), Length: int64(len(long))},
			map[string]any{"reason": "refused", "event": long, "event_length": 100000.0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dead-letter")
			m := metrics.New("", "", "")
			now := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.FixedZone("", 3600))
			d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir, Metrics: m, Now: func() time.Time { return now }})
			require.NoError(t, d.Store(background, nil))
			require.NoError(t, d.Store(background, []event.DeadLetter{c.letter, c.letter}))
			assert.NoError(t, d.Ready())
			path := filepath.Join(dir, "dead-letter.ndjson")
			lines := strings.Split(text(t, path), "\n")
			require.Len(t, lines, 3)
			assert.Equal(t, lines[0], lines[1])
			var got map[string]any
			require.NoError(t, json.Unmarshal([]byte(lines[0]), &got))
			c.want["@timestamp"], c.want["output"], c.want["status"] = "2026-01-02T02:04:05.006Z", "file", 0.0
			assert.Equal(t, c.want, got)
			for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
				info, err := os.Stat(name)
				require.NoError(t, err)
				assert.Equal(t, want, info.Mode().Perm(), name)
			}
			assert.Equal(t, 2.0, figure(t, m, "vtsidecar_events_dead_lettered_total", c.letter.Reason))
			assert.Equal(t, float64(len(text(t, path))), figure(t, m, "vtsidecar_dead_letter_bytes", ""))
		})
	}
}

func malformed(size int) []event.DeadLetter {
	return []event.DeadLetter{{Reason: "malformed", Event: bytes.Repeat([]byte("x"), size)}}
}

// TestDeadLetterFull: the bound holds over restarts and over all files, is told
// at once, and ends when an operator makes room.
func TestDeadLetterFull(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dead-letter")
	m := metrics.New("", "", "")
	var log bytes.Buffer
	cfg := output.DeadLetterConfig{Dir: dir, MaxBytes: 20000, Metrics: m, Log: slog.New(slog.NewTextHandler(&log, nil))}
	for range 3 {
		d, err := output.OpenDeadLetter(cfg)
		require.NoError(t, err)
		require.NoError(t, d.Store(background, malformed(5000)))
		require.NoError(t, d.Close(background))
	}
	d := openDeadLetter(t, cfg)
	before := figure(t, m, "vtsidecar_dead_letter_bytes", "")
	assert.Greater(t, before, 15000.0)
	for range 3 {
		assert.ErrorIs(t, d.Store(background, malformed(5000)), output.ErrDeadLetterFull)
		assert.ErrorIs(t, d.Ready(), output.ErrDeadLetterFull)
	}
	assert.Equal(t, 1, strings.Count(log.String(), `msg="the dead letter `), log.String())
	assert.Equal(t, before, figure(t, m, "vtsidecar_dead_letter_bytes", ""), "nothing was stored")
	require.NoError(t, d.Store(background, malformed(100)), "what fits is stored")
	assert.ErrorIs(t, d.Ready(), output.ErrDeadLetterFull, "and that is no room")

	old := names(t, dir, "dead-letter-*.ndjson")
	require.NotEmpty(t, old, "nothing could be removed one by one")
	require.NoError(t, os.Remove(old[0]))
	assert.NoError(t, d.Ready())
	require.NoError(t, d.Store(background, malformed(5000)))
	assert.Equal(t, 2, strings.Count(log.String(), `msg="the dead letter `), log.String())

	// All of it, with the folder.
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, d.Store(background, malformed(9000)))
	require.NoError(t, d.Store(background, malformed(9000)))

	require.NoError(t, os.RemoveAll(dir))
	assert.NoError(t, d.Ready())
}

// What even an empty one could not hold is not acknowledged, and readiness says so
// for as long as somebody sends it, whatever room is made; then it is forgotten.
func TestDeadLetterCannotHoldIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dead-letter")
	var log bytes.Buffer
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir, MaxBytes: 20000, Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 5 {
		err := d.Store(background, malformed(30000))
		require.ErrorIs(t, err, output.ErrDeadLetterFull)
		assert.ErrorContains(t, err, "raise it")
		for range 2 {
			assert.ErrorIs(t, d.Ready(), output.ErrDeadLetterFull)
		}
		require.NoError(t, d.Store(background, malformed(100)), "what fits is stored")
		now = now.Add(time.Minute)
	}
	assert.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), log.String())
	assert.NotContains(t, log.String(), "can never hold")
	now = now.Add(time.Minute)
	assert.NoError(t, d.Ready())
	assert.Equal(t, 1, strings.Count(log.String(), "can never hold"), log.String())
	require.ErrorIs(t, d.Store(background, malformed(30000)), output.ErrDeadLetterFull)
	assert.ErrorIs(t, d.Ready(), output.ErrDeadLetterFull)
	assert.Equal(t, 2, strings.Count(log.String(), "level=ERROR"), log.String())
}

// A letter that is only too long as it is written, with its quotes escaped, is
// refused as well: nothing is dropped.
func TestDeadLetterFullAsItIsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dead-letter")
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: dir, MaxBytes: 20000})
	require.NoError(t, d.Store(background, malformed(5000)))
	before := text(t, filepath.Join(dir, "dead-letter.ndjson"))
	quotes := bytes.Repeat([]byte{'"'}, 9000)
	letters := []event.DeadLetter{{Reason: "malformed", Event: quotes, Length: int64(len(quotes))}}
	require.ErrorIs(t, d.Store(background, letters), output.ErrDeadLetterFull)
	require.ErrorIs(t, d.Ready(), output.ErrDeadLetterFull)
	assert.Equal(t, before, text(t, filepath.Join(dir, "dead-letter.ndjson")))
	letters[0].Event, letters[0].Length = quotes[:4000], 4000
	require.NoError(t, d.Store(background, letters), "what fits is stored")
}

// A sender can make windows of nothing but dead letters, and letters are longer
// than their events: they are rendered a piece at a time.
func TestDeadLetterRendersInPieces(t *testing.T) {
	disk := crashfs.New()
	longest := 0
	disk.SetHook(func(op crashfs.Op) crashfs.Fault {
		longest = max(longest, op.Size)
		return crashfs.Fault{}
	})
	d := openDeadLetter(t, output.DeadLetterConfig{Dir: "/d", FS: diskFS{disk}})
	stubs := make([]event.DeadLetter, 0, 200)
	for range cap(stubs) { // as large as stubs are, and every byte takes six
		stubs = append(stubs, event.DeadLetter{Reason: "malformed", Event: bytes.Repeat([]byte{1}, 64<<10), Length: 64 << 10})
	}
	tiny := make([]event.DeadLetter, 10_000)
	for i := range tiny {
		tiny[i] = event.DeadLetter{Reason: "malformed", Event: []byte("x"), Length: 1}
	}
	require.NoError(t, d.Store(background, stubs))
	assert.Less(t, longest, 3<<20, "of 79 MB")
	longest = 0
	require.NoError(t, d.Store(background, tiny))
	assert.Less(t, longest, 1<<20, "of 1.2 MB")
	assert.Greater(t, longest, 100<<10, "not one by one")
}

// TestDeadLetterOnAFullDisk waits, as the file does.
func TestDeadLetterOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := crashfs.New()
		m := metrics.New("", "", "")
		d := openDeadLetter(t, output.DeadLetterConfig{Dir: "/d", FS: diskFS{disk}, Metrics: m})
		disk.SetLimit(1)
		ctx, cancel := context.WithTimeout(background, time.Minute)
		defer cancel()
		assert.ErrorIs(t, d.Store(ctx, malformed(10)), context.DeadlineExceeded)
		assert.ErrorIs(t, d.Ready(), syscall.ENOSPC)
		assert.Contains(t, d.Ready().Error(), "path.data")
		disk.SetLimit(0)
		require.NoError(t, d.Store(background, malformed(10)))
		assert.NoError(t, d.Ready())
		assert.Equal(t, 1.0, figure(t, m, "vtsidecar_events_dead_lettered_total", "malformed"))
		assert.Zero(t, figure(t, m, "vtsidecar_output_retries_total", "no_space"), "the dead letter is not the output")
	})
}

func TestDeadLetterRefusesAFileForAFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dead-letter")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := output.OpenDeadLetter(output.DeadLetterConfig{Dir: file})
	require.ErrorContains(t, err, "path.data: ")
	assert.ErrorContains(t, err, file)
}

// The log tells at once that letters come, and then how many every ten minutes at
// most, for each reason, with no word of theirs.
func TestDeadLetterTellsTheLog(t *testing.T) {
	log, now := &bytes.Buffer{}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d := openDeadLetter(t, output.DeadLetterConfig{
		Dir: t.TempDir(), Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	store := func(reasons ...string) string {
		letters := make([]event.DeadLetter, 0, len(reasons))
		for _, r := range reasons {
			letters = append(letters, event.DeadLetter{Reason: r, Detail: "quotes a secret", Event: []byte("secret")})
		}
		log.Reset()
		require.NoError(t, d.Store(background, letters))
		assert.NotContains(t, log.String(), "secret")
		return log.String()
	}
	said := store("refused", "refused")
	assert.Equal(t, 1, strings.Count(said, "\n"), said)
	assert.Contains(t, said, "level=WARN msg=\"events went to the dead letter; vtsidecar dlq list and show say which and why\" reason=refused events=2")
	now = now.Add(9 * time.Minute)
	assert.Empty(t, store("refused", "refused", "refused"))
	said = store("malformed", "refused")
	assert.Contains(t, said, "reason=malformed events=1")
	assert.NotContains(t, said, "reason=refused")
	now = now.Add(time.Minute)
	said = store("malformed")
	assert.Contains(t, said, "reason=refused events=4")
	assert.NotContains(t, said, "reason=malformed")
}
