package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
)

// tail reads what a running sidecar stores, as it is stored: lines of healthy
// senders go to the ledger, all others are kept until a trial asks for them. Its
// methods are safe for concurrent use.
type tail struct {
	ledger *ledger

	mu      sync.Mutex // guards all below
	output  follower
	dead    follower
	stored  map[string][]string // by mark
	letters map[string][]letter // by mark, or by their reason and text where they cannot have one
}

// mark is in every event of a trial that can hold it.
var mark = regexp.MustCompile(`mark-[a-z]+-[0-9]+-`)

func newTail(s *sidecar, l *ledger) *tail {
	return &tail{
		ledger:  l,
		output:  follower{path: filepath.Join(s.dir, "out", "events.ndjson")},
		dead:    follower{path: filepath.Join(s.dir, "data", "dead-letter", "dead-letter.ndjson")},
		stored:  map[string][]string{},
		letters: map[string][]letter{},
	}
}

func (t *tail) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.output.close()
	t.dead.close()
}

// sync reads up to what is there at this moment. Whatever was acknowledged
// before is there.
func (t *tail) sync() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.output.read(func(line []byte) error {
		if !t.ledger.line(line) {
			m := string(mark.Find(line))
			t.stored[m] = append(t.stored[m], string(line))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.dead.read(func(line []byte) error {
		mine, err := t.ledger.buried(line)
		if err != nil || mine {
			return err
		}
		var d letter
		if err := json.Unmarshal(line, &d); err != nil {
			return err
		}
		m := mark.FindString(d.raw())
		if m == "" {
			m = unmarked(d.Detail, d.raw())
		}
		t.letters[m] = append(t.letters[m], d)
		return nil
	})
}

// unmarked is the name of a dead letter in which no mark can be.
func unmarked(detail, raw string) string {
	if raw == "" {
		return detail
	}
	return raw[:min(len(raw), 64)]
}

// take returns what was stored under a mark, and forgets it.
func (t *tail) take(m string) (lines []string, letters []letter, err error) {
	if err := t.sync(); err != nil {
		return nil, nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	lines, letters = t.stored[m], t.letters[m]
	delete(t.stored, m)
	delete(t.letters, m)
	return lines, letters, nil
}

// takeOne takes one letter out of those of a name that trials share.
func (t *tail) takeOne(name string) (letter, error) {
	if err := t.sync(); err != nil {
		return letter{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.letters[name]
	if len(of) == 0 {
		return letter{}, fmt.Errorf("no dead letter %q", name)
	}
	t.letters[name] = of[1:]
	return of[0], nil
}

// follower reads a file as it grows, over rotations.
type follower struct {
	path string
	f    *os.File
	rest []byte // a line without its end yet
	buf  []byte
}

func (w *follower) close() {
	if w.f != nil {
		_ = w.f.Close()
		w.f = nil
	}
}

// read calls do for every line that has come.
func (w *follower) read(do func([]byte) error) error {
	for {
		if w.f == nil {
			f, err := os.Open(w.path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // not made yet, or between two names
			}
			if err != nil {
				return err
			}
			w.f = f
		}
		// Who stands at the path is asked before the end is read: a file that was
		// renamed meanwhile gets no more lines.
		own, err := w.f.Stat()
		if err != nil {
			return err
		}
		now, err := os.Stat(w.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		same := err == nil && os.SameFile(own, now)
		if err := w.toEnd(do); err != nil {
			return fmt.Errorf("%s: %w", w.path, err)
		}
		if same {
			return nil
		}
		if len(w.rest) > 0 {
			return fmt.Errorf("%s: the last line of a closed file has no end: %.100s", w.path, w.rest)
		}
		w.close()
		if err != nil {
			return nil
		}
	}
}

func (w *follower) toEnd(do func([]byte) error) error {
	if w.buf == nil {
		w.buf = make([]byte, 1<<20)
	}
	for {
		n, err := w.f.Read(w.buf)
		for chunk := w.buf[:n]; len(chunk) > 0; {
			line, more, ended := bytes.Cut(chunk, []byte("\n"))
			w.rest = append(w.rest, line...)
			if !ended {
				break
			}
			if err := do(w.rest); err != nil {
				return err
			}
			w.rest, chunk = w.rest[:0], more
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
