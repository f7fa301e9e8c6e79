package output

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vtsidecar/internal/event"
	"vtsidecar/internal/wildcard"
)

// This file takes letters out of the dead letter again. Its rules:
//
//  1. Only closed files are written anew. The current one is closed first, by
//     the journal, so nobody who stores a letter waits for this.
//  2. A letter goes only after its event is durable elsewhere.
//  3. What stays of a file is written to a draft, synced, and put in the file's
//     place by one rename; then the folder is synced. Before that the file is as
//     it was, after it all is as it should be, and a crash leaves one of the two:
//     no letter is lost and none is there twice. A draft that is found was left
//     by a crash, and counts for nothing.
//  4. A file that was set aside after a failed write has a cut that may not be on
//     the disk. Its durable part is written anew before anything else, and then
//     its mark goes.

const draftSuffix = ".new"

// Bounds of what is sent at a time.
const (
	sendLetters = 500
	sendBytes   = 1 << 20 // of lines; one that is longer goes alone
)

// ErrEditing is returned while somebody else takes letters out.
var ErrEditing = errors.New("another replay or purge is under way; try again when it has ended")

// Filter chooses letters; the zero Filter chooses all.
type Filter struct {
	IDs      []string  `json:"ids,omitempty"` // or their beginnings
	Reasons  []string  `json:"reasons,omitempty"`
	Statuses []int     `json:"statuses,omitempty"`
	Indices  []string  `json:"indices,omitempty"` // with *
	Since    time.Time `json:"since,omitzero"`
}

// Match reports whether a letter is chosen.
func (f *Filter) Match(l *Letter) bool {
	if len(f.IDs) > 0 && !slices.ContainsFunc(f.IDs, func(id string) bool { return id != "" && strings.HasPrefix(l.ID, id) }) {
		return false
	}
	if len(f.Reasons) > 0 && !slices.Contains(f.Reasons, l.Reason) {
		return false
	}
	if len(f.Statuses) > 0 && !slices.Contains(f.Statuses, l.Status) {
		return false
	}
	if len(f.Indices) > 0 {
		if l.Target == nil || !slices.ContainsFunc(f.Indices, func(p string) bool { return wildcard.Match(p, l.Target.Index) }) {
			return false
		}
	}
	return f.Since.IsZero() || !l.Time.Before(f.Since)
}

// Sender stores the events of letters where they belong.
type Sender interface {
	// Send tries each letter, and has an outcome for each, in their order. An
	// error means that nothing is known of any of them.
	Send(ctx context.Context, letters []*Letter) ([]Outcome, error)
}

// Outcome is what became of a letter that was sent. The zero Outcome is that its
// event is durable where it belongs, and that the letter can go.
type Outcome struct {
	Refused  *event.DeadLetter // it was refused again; the letter says so from now on
	Obstacle string            // it could not even be tried, and why
}

// Tally is what a replay or a purge has done, or would do.
type Tally struct {
	Matched   int            `json:"matched"`   // letters that the filter chose
	Stored    int            `json:"stored"`    // are stored, and out of the dead letter
	Refused   int            `json:"refused"`   // were refused again, and stay
	Removed   int            `json:"removed"`   // were purged
	Kept      int            `json:"kept"`      // cannot be replayed, and stay
	Obstacles map[string]int `json:"obstacles"` // why, and how many
}

// Keep counts a letter that stays, and why.
func (t *Tally) Keep(obstacle string) {
	t.Kept++
	if t.Obstacles == nil {
		t.Obstacles = map[string]int{}
	}
	t.Obstacles[obstacle]++
}

// Edit says how letters are taken out. All but Most may be zero.
type Edit struct {
	Filter   Filter
	Most     int64       // bytes of a letter, see MaxLetter
	Progress func(Tally) // called now and then; what it is told may not be durable yet
}

func (e *Edit) progress(t *Tally) {
	if e.Progress != nil {
		now := *t
		now.Obstacles = maps.Clone(t.Obstacles)
		e.Progress(now)
	}
}

// Replay sends the letters that the filter chooses, oldest first, and takes out
// those whose events are durable. After an error, and after ctx has ended, what
// was stored until then is out as well.
func (d *DeadLetter) Replay(ctx context.Context, e Edit, to Sender) (Tally, error) {
	var t Tally
	err := d.edit(ctx, &e, func(batch []*picked) error {
		letters := make([]*Letter, len(batch))
		for i, p := range batch {
			letters[i] = &p.Letter
		}
		outcomes, err := to.Send(ctx, letters)
		if err == nil && len(outcomes) != len(batch) {
			err = fmt.Errorf("replay: %d outcomes of %d letters", len(outcomes), len(batch))
		}
		if err != nil {
			return err
		}
		for i, p := range batch {
			switch o := &outcomes[i]; {
			case o.Obstacle != "":
				t.Keep(o.Obstacle)
			case o.Refused != nil:
				p.line, err = d.renew(&p.Letter, o.Refused)
				if err != nil {
					return err
				}
				p.changed = true
				t.Refused++
			default:
				p.changed = true
				t.Stored++
			}
		}
		e.progress(&t)
		return nil
	}, func(l *Letter) bool {
		if !e.Filter.Match(l) {
			return false
		}
		t.Matched++
		if obstacle := l.Obstacle(); obstacle != "" {
			t.Keep(obstacle)
			return false
		}
		return true
	})
	return t, err
}

// Purge takes out the letters that the filter chooses, for good.
func (d *DeadLetter) Purge(ctx context.Context, e Edit) (Tally, error) {
	var t Tally
	err := d.edit(ctx, &e, func(batch []*picked) error {
		for _, p := range batch {
			p.changed = true
		}
		t.Removed += len(batch)
		e.progress(&t)
		return nil
	}, func(l *Letter) bool {
		if !e.Filter.Match(l) {
			return false
		}
		t.Matched++
		return true
	})
	return t, err
}

// renew is the line of a letter that was refused again. It keeps its time.
func (d *DeadLetter) renew(l *Letter, again *event.DeadLetter) ([]byte, error) {
	now := d.cfg.Now().UTC()
	r := letter{
		Timestamp: l.Time, Output: d.cfg.Output, Status: again.Status, Reason: again.Reason, Detail: again.Detail,
		Target: again.Target, Replayed: &now, Length: again.Length, SHA256: again.SHA256,
	}
	r.keep(*again)
	var buf bytes.Buffer
	err := r.write(&buf)
	return buf.Bytes(), err
}

// picked is a letter that was chosen, and what becomes of it.
type picked struct {
	Letter
	changed bool
	line    []byte // in its place, with its end; nil: nothing
}

// edit goes through all letters. Those that pick chooses come to settle, in
// batches, and what that decides is made durable file by file.
func (d *DeadLetter) edit(ctx context.Context, e *Edit, settle func([]*picked) error, pick func(*Letter) bool) error {
	if !d.editing.TryLock() {
		return ErrEditing
	}
	defer d.editing.Unlock()
	if err := d.j.turn(ctx); err != nil {
		return err
	}
	if err := d.dropDrafts(); err != nil {
		return d.j.words(err)
	}
	files, err := closedLetters(d.j.fs, d.j.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // an operator has removed all of it
	}
	if err == nil {
		// A name that is not durable yet must not come to be beside what replaces it.
		err = d.j.fs.SyncDir(d.j.dir)
	}
	if err != nil {
		return d.j.words(err)
	}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := d.editFile(ctx, f, e, settle, pick)
		d.recount()
		if err != nil {
			return err
		}
	}
	return nil
}

// dropDrafts removes what a process left that was killed while it wrote a file
// anew.
func (d *DeadLetter) dropDrafts() error {
	entries, err := d.j.fs.ReadDir(d.j.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), draftSuffix)
		if !ok {
			continue
		}
		if name, ok := parseName(base, letterStem, letterExt); !ok || name.suffix != "" {
			continue
		}
		if err := d.j.removeIfThere(filepath.Join(d.j.dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// recount tells those who wait for room that there may be some.
func (d *DeadLetter) recount() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unsure = true
	// If it cannot be counted now, that is tried again with the next letter.
	if d.missing > 0 {
		_ = d.room(d.missing)
	} else {
		_ = d.count()
	}
}

func (d *DeadLetter) editFile(ctx context.Context, f closedFile, e *Edit, settle func([]*picked) error, pick func(*Letter) bool) error {
	path := filepath.Join(d.j.dir, f.base)
	if f.mark != "" {
		if err := d.heal(path, f); err != nil {
			return d.j.words(err)
		}
	}
	from, err := viewLetters(d.j.fs, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // just removed
	}
	if err != nil {
		return d.j.words(err)
	}
	w := &rewriter{j: d.j, path: path, from: from, size: from.info.Size()}
	defer w.close()
	stopped, err := d.decide(ctx, w, f.base, e, settle, pick)
	if err == nil && w.changed {
		err = w.commit()
	}
	if err != nil {
		return d.j.words(err)
	}
	return stopped
}

// decide reads a file and hands what becomes of its letters to w. stopped is why
// not all were looked at; the rest stays as it is.
func (d *DeadLetter) decide(ctx context.Context, w *rewriter, name string, e *Edit, settle func([]*picked) error, pick func(*Letter) bool) (stopped, err error) {
	var batch []*picked
	held := int64(0) // bytes of its lines
	send := func() error {
		if len(batch) == 0 {
			return nil
		}
		stopped = settle(batch)
		if stopped != nil {
			return nil // whatever was decided of some is not known to be so
		}
		for _, p := range batch {
			if !p.changed {
				continue
			}
			if err := w.put(p.Offset, p.Offset+p.Size, p.line); err != nil {
				return err
			}
		}
		batch, held = batch[:0], 0
		return nil
	}
	lines := lineReader{r: w.from, end: w.size, most: e.Most}
	for stopped == nil {
		at := lines.at
		line, n, _, err := lines.next()
		if errors.Is(err, io.EOF) {
			return stopped, send()
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if line != nil && len(line) == 0 {
			continue
		}
		if stopped = ctx.Err(); stopped != nil {
			break
		}
		l := letterAt(line, name, at, n)
		if !pick(&l) {
			continue
		}
		if len(batch) > 0 && (len(batch) == sendLetters || held+n > sendBytes) {
			if err := send(); err != nil || stopped != nil {
				return stopped, err
			}
		}
		if held+n <= sendBytes {
			l = l.clone() // the line is read over
		}
		batch, held = append(batch, &picked{Letter: l}), held+n
		if held > sendBytes {
			if err := send(); err != nil {
				return nil, err
			}
		}
	}
	return stopped, nil
}

// clone is the letter with a line of its own.
func (l *Letter) clone() Letter {
	if l.Line == nil {
		return *l
	}
	c := *l
	c.Line = slices.Clone(l.Line)
	if l.Reason != Unreadable {
		again := readLetter(c.Line)
		c.text, c.base64 = again.text, again.base64
	}
	return c
}

// heal writes the durable part of a file anew that was set aside, and takes its
// mark away.
func (d *DeadLetter) heal(path string, f closedFile) error {
	from, err := viewLetters(d.j.fs, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	w := &rewriter{j: d.j, path: path, from: from, size: f.size(from.info)}
	defer w.close()
	if err := w.commit(); err != nil {
		return err
	}
	return d.j.removeIfThere(filepath.Join(d.j.dir, f.mark))
}

// rewriter writes a file anew.
type rewriter struct {
	j       *journal
	path    string
	from    *letterFile
	size    int64 // of what counts of it
	changed bool

	upTo  int64  // what stands before has been decided
	draft Handle // nil: nothing stays so far
	out   *bufio.Writer
	done  bool
}

// put writes line in the place of what stands between two offsets; all before
// stays as it is.
func (w *rewriter) put(from, to int64, line []byte) error {
	w.changed = true
	if err := w.copy(from); err != nil {
		return err
	}
	w.upTo = to
	if len(line) == 0 {
		return nil
	}
	if err := w.begin(); err != nil {
		return err
	}
	_, err := w.out.Write(line)
	return err
}

// copy takes over what is undecided, up to an offset.
func (w *rewriter) copy(to int64) error {
	if w.upTo == to {
		return nil
	}
	if err := w.begin(); err != nil {
		return err
	}
	n, err := io.Copy(w.out, io.NewSectionReader(w.from, w.upTo, to-w.upTo))
	if err == nil && n < to-w.upTo {
		err = fmt.Errorf("read %s: %w", w.path, io.ErrUnexpectedEOF)
	}
	w.upTo = to
	return err
}

func (w *rewriter) begin() error {
	if w.draft != nil {
		return nil
	}
	draft, err := w.j.fs.Create(w.path+draftSuffix, w.j.perm)
	if err != nil {
		return err
	}
	w.draft = draft
	w.out = bufio.NewWriterSize(appender{draft}, 256<<10)
	return nil
}

// commit puts what was written in the file's place, durably.
func (w *rewriter) commit() error {
	if err := w.copy(w.size); err != nil {
		return err
	}
	if w.draft != nil {
		if err := w.out.Flush(); err != nil {
			return err
		}
		if err := w.draft.Sync(); err != nil {
			return err
		}
	}
	at, err := w.j.fs.Lstat(w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // an operator has removed it, and it must not come back
	}
	if err != nil {
		return err
	}
	if !w.j.fs.SameFile(at, w.from.info) || at.Size() != w.from.info.Size() {
		return fmt.Errorf("%s was changed by someone else meanwhile", w.path)
	}
	if w.draft == nil {
		err = w.j.fs.Remove(w.path)
	} else {
		err = w.j.fs.Replace(w.path+draftSuffix, w.path)
		w.done = err == nil
	}
	if err != nil {
		return err
	}
	return w.j.fs.SyncDir(w.j.dir)
}

// close lets go of the files; a draft that is not in place goes.
func (w *rewriter) close() {
	w.from.Close() // it was read only
	if w.draft == nil {
		return
	}
	w.draft.Close() // it is synced, or not needed
	if !w.done {
		_ = w.j.fs.Remove(w.path + draftSuffix) // else the next edit does it
	}
}
