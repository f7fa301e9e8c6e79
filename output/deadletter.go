package output

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
)

// ErrDeadLetterFull is returned at once when there is no room: waiting for an
// operator would hold the sender's memory for as long.
var ErrDeadLetterFull = errors.New("the dead letter is full")

const (
	pieceSize = 256 << 10 // bytes, as leastSize counts them, that are rendered at once
	maxPieces = 4         // that are rendered and wait for the disk at a time

	tellEvery = 10 * time.Minute // between two lines of the log about letters of one reason
	lapse     = 2 * time.Minute  // how long a window that can never fit counts: longer than its sender pauses
)

// DeadLetterConfig says where events go that cannot be stored. All but Dir may
// be zero.
type DeadLetterConfig struct {
	Dir      string           // path.data/dead-letter
	MaxBytes int64            // dead_letter.max_bytes of all files in Dir; 0: 1 GiB
	Output   string           // the name of the output that the events were meant for; "": file
	FS       FS               // nil: the real one
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: none
	Metrics  *metrics.Set     // nil: none
}

// DeadLetter keeps events that cannot be stored where they should go, as NDJSON
// that an operator can read. Its methods are safe for concurrent use.
type DeadLetter struct {
	cfg    DeadLetterConfig
	j      *journal
	pieces chan struct{} // one for each piece that is rendered

	editing sync.Mutex // held by the one who takes letters out

	mu      sync.Mutex
	stored  int64     // bytes in Dir
	coming  int64     // bytes on their way there
	unsure  bool      // stored must be counted again
	missing int64     // bytes that the largest letters refused needed; 0: it is not full
	never   error     // why a window cannot even fit into an empty folder; nil: none came lately
	neverAt time.Time // when such a window came last
	told    map[string]*told
}

// told is what the log says of letters of one reason.
type told struct {
	at time.Time // of the last line; zero: none yet
	n  int       // letters since
}

// OpenDeadLetter opens or makes the folder and its newest file.
func OpenDeadLetter(cfg DeadLetterConfig) (*DeadLetter, error) {
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.New("", "", "")
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 1 << 30
	}
	if cfg.Output == "" {
		cfg.Output = "file"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &DeadLetter{cfg: cfg, pieces: make(chan struct{}, maxPieces), told: map[string]*told{}}
	j, err := openJournal(journalConfig{
		setting: "path.data",
		what:    "dead letter",
		path:    filepath.Join(cfg.Dir, letterStem+letterExt),
		// An operator makes room by removing whole files.
		rotate: min(max(cfg.MaxBytes/16, 1), 64<<20),
		perm:   0o600,
		fs:     cfg.FS,
		now:    cfg.Now,
		log:    cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	d.j = j
	d.mu.Lock()
	err = d.count()
	d.mu.Unlock()
	if err == nil {
		err = d.dropDrafts() // of a process that was killed
	}
	if err != nil {
		j.close(context.Background()) // nothing is queued
		return nil, j.words(err)
	}
	return d, nil
}

// Store returns nil when every letter is durable, and ErrDeadLetterFull at once
// when there is no room for them. A sick disk is waited for, as File does. After
// an error some of the letters may be stored.
//
// A letter can be six times as long as its event and hundreds of times as long
// as a tiny one, and a sender can make a window of nothing else. So letters are
// rendered and stored in pieces, a few pieces at a time.
func (d *DeadLetter) Store(ctx context.Context, letters []event.DeadLetter) error {
	if err := d.expect(letters); err != nil {
		return err
	}
	for len(letters) > 0 {
		n := firstPiece(letters)
		select {
		case d.pieces <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := d.storePiece(ctx, letters[:n])
		<-d.pieces
		if err != nil {
			return err
		}
		letters = letters[n:]
	}
	return nil
}

// expect refuses letters that cannot all fit, before the first is stored.
func (d *DeadLetter) expect(letters []event.DeadLetter) error {
	var least int64
	for i := range letters {
		least += leastSize(&letters[i])
	}
	if least == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.room(least)
}

// firstPiece is how many letters, at least one, are rendered at once.
func firstPiece(letters []event.DeadLetter) int {
	var size int64
	for i := range letters {
		if size += leastSize(&letters[i]); size > pieceSize && i > 0 {
			return i
		}
	}
	return len(letters)
}

// leastSize is less than what a letter takes as a line.
func leastSize(l *event.DeadLetter) int64 {
	const frame = 96
	return int64(len(l.Event)) + frame
}

func (d *DeadLetter) storePiece(ctx context.Context, letters []event.DeadLetter) error {
	buf, index, err := d.render(letters)
	if err != nil {
		return err
	}
	if err := d.reserve(int64(len(buf))); err != nil {
		return err
	}
	err = d.j.store(ctx, buf, index)
	d.settle(int64(len(buf)), err == nil)
	if err != nil {
		return err
	}
	for i := range letters {
		d.cfg.Metrics.EventsDeadLettered.WithLabelValues(letters[i].Reason).Inc()
	}
	d.tell(letters)
	return nil
}

// tell logs that letters have come, now and again: acks go on and readiness is
// fine, so nothing else would tell who does not watch the metrics.
func (d *DeadLetter) tell(letters []event.DeadLetter) {
	now := d.cfg.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range letters {
		t := d.told[letters[i].Reason]
		if t == nil {
			t = &told{}
			d.told[letters[i].Reason] = t
		}
		t.n++
	}
	for reason, t := range d.told {
		if t.n == 0 || !t.at.IsZero() && now.Sub(t.at) < tellEvery {
			continue
		}
		d.cfg.Log.Warn("events went to the dead letter; vtsidecar dlq list and show say which and why", "reason", reason, "events", t.n)
		t.at, t.n = now, 0
	}
}

// Ready returns nil, or in words why no letter can be stored at present.
func (d *DeadLetter) Ready() error {
	if err := d.j.ready(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.never != nil && d.cfg.Now().Sub(d.neverAt) >= lapse {
		d.never = nil // nobody sends it any more, and no room would have made this true
		d.cfg.Log.Info("no window comes any more that the dead letter can never hold")
	}
	if d.missing == 0 || d.never != nil {
		return d.never
	}
	return d.room(d.missing)
}

// Close waits for what is being stored until ctx ends, and closes the file.
func (d *DeadLetter) Close(ctx context.Context) error { return d.j.close(ctx) }

// reserve finds room for n bytes, or refuses.
func (d *DeadLetter) reserve(n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.room(n); err != nil {
		return err
	}
	d.coming += n
	return nil
}

// settle gives a reservation back.
func (d *DeadLetter) settle(n int64, durable bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.coming -= n
	if durable {
		d.stored += n
		d.cfg.Metrics.DeadLetterBytes.Set(float64(d.stored))
	} else {
		d.unsure = true // part of it may be there
	}
}

// room is nil when n more bytes fit. Before it says no it looks whether an
// operator has removed files. The caller holds mu.
func (d *DeadLetter) room(n int64) error {
	if n > d.cfg.MaxBytes {
		return d.neverFits(n)
	}
	fits := func() bool { return d.stored+d.coming+n <= d.cfg.MaxBytes }
	if d.unsure || d.missing > 0 || !fits() {
		if err := d.count(); err != nil {
			return d.j.words(err)
		}
	}
	if fits() {
		if d.missing > 0 && d.stored+d.coming+d.missing <= d.cfg.MaxBytes {
			d.missing = 0
			d.cfg.Log.Info("the dead letter has room again", "path", d.j.dir, "bytes", d.stored)
		}
		return nil
	}
	if d.missing == 0 {
		d.cfg.Log.Error("the dead letter is full; windows that need it are not acknowledged",
			"path", d.j.dir, "bytes", d.stored, "dead_letter.max_bytes", d.cfg.MaxBytes)
	}
	d.missing = max(d.missing, n)
	return fmt.Errorf("dead_letter.max_bytes: %w: %d of %d bytes in %s; replay or remove files there", ErrDeadLetterFull, d.stored, d.cfg.MaxBytes, d.j.dir)
}

// neverFits says that no room is enough for n bytes. The caller holds mu.
func (d *DeadLetter) neverFits(n int64) error {
	if now := d.cfg.Now(); d.never == nil || now.Sub(d.neverAt) >= lapse {
		d.cfg.Log.Error("a window needs more than the dead letter may hold; it is not acknowledged", "path", d.j.dir, "needed", n, "dead_letter.max_bytes", d.cfg.MaxBytes)
	}
	d.neverAt = d.cfg.Now()
	d.never = fmt.Errorf("dead_letter.max_bytes: a window needs %d bytes, and the dead letter may hold %d: raise it (%w for it)", n, d.cfg.MaxBytes, ErrDeadLetterFull)
	return d.never
}

// count adds up the folder. The caller holds mu.
func (d *DeadLetter) count() error {
	entries, err := d.j.fs.ReadDir(d.j.dir)
	if errors.Is(err, fs.ErrNotExist) {
		entries, err = nil, nil // removed whole; the next letter makes it anew
	}
	if err != nil {
		return err
	}
	var sum int64
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), draftSuffix) {
			continue // its letters stand elsewhere too, for as long as it is there
		}
		info, err := d.j.fs.Lstat(filepath.Join(d.j.dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // just removed
		}
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			sum += info.Size()
		}
	}
	d.stored, d.unsure = sum, false
	d.cfg.Metrics.DeadLetterBytes.Set(float64(sum))
	return nil
}
