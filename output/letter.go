package output

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
	"unicode/utf8"

	"vtsidecar/internal/event"
	"vtsidecar/internal/jsonwalk"
)

// This file is how letters are written and read. Its rules: a letter is one line
// and says all that it takes to store its event again; what does not read as a
// letter, such as the line that is just being written, is nobody's error; and no
// more than one letter is in memory at a time.

const letterStem, letterExt = "dead-letter", ".ndjson"

// Unreadable is the Reason of a line that is no letter.
const Unreadable = "unreadable"

// letter is one line of a dead-letter file.
type letter struct {
	Timestamp   time.Time     `json:"@timestamp"`
	Output      string        `json:"output"`
	Status      int           `json:"status"` // the output's answer; 0: it was never asked
	Reason      string        `json:"reason"`
	Detail      string        `json:"detail,omitempty"`
	Target      *event.Target `json:"target,omitempty"`      // where the output was told to store it
	Replayed    *time.Time    `json:"replayed_at,omitempty"` // when it was refused again, the last time
	Event       *string       `json:"event,omitempty"`
	EventBase64 []byte        `json:"event_base64,omitempty"`
	Length      int64         `json:"event_length"`
	SHA256      string        `json:"event_sha256,omitempty"`
}

// render writes letters as lines.
func (d *DeadLetter) render(letters []event.DeadLetter) ([]byte, []event.Line, error) {
	var buf bytes.Buffer
	index := make([]event.Line, 0, len(letters))
	now := d.cfg.Now().UTC()
	for _, l := range letters {
		r := letter{
			Timestamp: now, Output: d.cfg.Output,
			Reason: l.Reason, Detail: l.Detail,
			Length: l.Length, SHA256: l.SHA256,
			Status: l.Status, Target: l.Target,
		}
		r.keep(l)
		if err := r.write(&buf); err != nil {
			return nil, nil, err
		}
		index = append(index, event.Line{End: buf.Len()})
	}
	return buf.Bytes(), index, nil
}

// write writes the letter's line.
func (r *letter) write(to *bytes.Buffer) error {
	enc := json.NewEncoder(to)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("dead letter: encode: %w", err)
	}
	return nil
}

// keep puts the event, or its beginning, into the letter: as text where it is
// text.
func (r *letter) keep(l event.DeadLetter) {
	raw := l.Event
	r.Length = max(r.Length, int64(len(raw)))
	text := raw
	if int64(len(raw)) < r.Length {
		text = dropTornRune(raw)
	}
	if utf8.Valid(text) {
		s := string(text)
		r.Event = &s
		return
	}
	r.EventBase64 = raw
}

// dropTornRune takes off the character that a cut went through.
func dropTornRune(b []byte) []byte {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return b[:len(b)-n]
			}
			break
		}
	}
	return b
}

// MaxLetter is as long as a letter's line gets where input.max_event is n: each
// byte of an event can take six, and enriching it makes it longer.
func MaxLetter(n int64) int64 { return 6*n + 32<<20 }

// Letter is a letter that was read.
type Letter struct {
	ID       string // 16 hexadecimal digits that stay the same as long as the event lies here; of copies too
	Time     time.Time
	Output   string
	Status   int
	Reason   string // Unreadable: all but ID, File, Offset and Size is empty
	Detail   string // may quote the event
	Target   *event.Target
	Replayed time.Time // zero: never
	Length   int64     // of the whole event
	SHA256   string

	File   string // its name
	Offset int64  // in it
	Size   int64  // of the line, with its end

	Line []byte // without its end; valid until the next letter is read. nil: it is longer than any letter

	text, base64 []byte // the event as it is spelled in Line
	sum          [sha256.Size]byte
}

// Event is the letter's event, or its beginning. whole: it is all of it.
func (l *Letter) Event() (b []byte, whole bool) {
	switch {
	case l.text != nil:
		var s string
		if json.Unmarshal(l.text, &s) != nil {
			return nil, false
		}
		b = []byte(s)
	case l.base64 != nil:
		raw := bytes.Trim(l.base64, `"`)
		b = make([]byte, base64.StdEncoding.DecodedLen(len(raw)))
		n, err := base64.StdEncoding.Decode(b, raw)
		if err != nil {
			return nil, false
		}
		b = b[:n]
	}
	return b, b != nil && int64(len(b)) == l.Length
}

// Identity is the same each time that the letter is read, and another one for
// each event.
func (l *Letter) Identity() event.ID { return event.ID(l.sum[16:]) }

// Obstacle says in words why a letter can never be stored; empty: it can.
func (l *Letter) Obstacle() string {
	switch l.Reason {
	case Unreadable:
		return "what is written there is no letter"
	case event.ReasonMalformed:
		return "it is no JSON object"
	case event.ReasonOversize:
		return "it was longer than input.max_event, and only its beginning was kept"
	}
	return ""
}

// letterAt is the letter of a line that stands there.
func letterAt(line []byte, file string, offset, size int64) Letter {
	l := readLetter(line)
	l.File, l.Offset, l.Size = file, offset, size
	if line == nil {
		l.sum = sha256.Sum256(fmt.Appendf(nil, "%s %d", file, offset))
		l.ID = hex.EncodeToString(l.sum[:8])
	}
	return l
}

// readLetter takes a line apart.
func readLetter(line []byte) Letter {
	l := Letter{Line: line}
	if err := l.read(line); err != nil {
		sum := sha256.Sum256(line)
		return Letter{Line: line, Reason: Unreadable, sum: sum, ID: hex.EncodeToString(sum[:8])}
	}
	return l
}

var errNoLetter = errors.New("no letter")

// read leaves the event as it is spelled: it may be large, and few want it.
func (l *Letter) read(line []byte) error {
	var at []byte
	c := jsonwalk.New(line)
	err := c.Object(func(key []byte) error {
		value, err := c.Value()
		if err != nil {
			return err
		}
		var into any
		switch string(key) { // ours are never escaped
		case "event", "event_base64":
			if value[0] != '"' {
				return errNoLetter
			}
			if string(key) == "event" {
				l.text = value
			} else {
				l.base64 = value
			}
			return nil
		case "@timestamp":
			at, into = value, &l.Time
		case "output":
			into = &l.Output
		case "status":
			into = &l.Status
		case "reason":
			into = &l.Reason
		case "detail":
			into = &l.Detail
		case "target":
			into = &l.Target
		case "replayed_at":
			into = &l.Replayed
		case "event_length":
			into = &l.Length
		case "event_sha256":
			into = &l.SHA256
		default:
			return nil
		}
		return json.Unmarshal(value, into)
	})
	if err := cmp.Or(err, c.End()); err != nil {
		return err
	}
	if at == nil || l.Reason == "" || l.Reason == Unreadable || l.text == nil && l.base64 == nil {
		return errNoLetter
	}
	sum := sha256.New()
	for _, part := range [][]byte{at, l.text, l.base64} {
		sum.Write(part)
		sum.Write([]byte{'\n'})
	}
	if t := l.Target; t != nil {
		fmt.Fprintf(sum, "%q %q", t.Index, t.ID)
	}
	sum.Sum(l.sum[:0])
	l.ID = hex.EncodeToString(l.sum[:8])
	return nil
}

// lineReader hands out the lines of a file. Its memory is that of the longest.
type lineReader struct {
	r        io.ReaderAt
	end      int64 // of what is read
	most     int64 // bytes of a line; 0: any
	at       int64 // where buf[used:] stands in the file
	buf      []byte
	used     int
	searched int // bytes of buf[used:] without an end of line
}

// next is the next line, without its end, and how many bytes of the file it
// takes. whole: its end is there. A line of more than most bytes is nil. io.EOF:
// there is none. The line is valid until the next call.
func (r *lineReader) next() (line []byte, size int64, whole bool, err error) {
	for {
		rest := r.buf[r.used:]
		if i := bytes.IndexByte(rest[r.searched:], '\n'); i >= 0 {
			line = rest[:r.searched+i]
			size = int64(len(line)) + 1
			r.pass(size)
			return line, size, true, nil
		}
		r.searched = len(rest)
		behind := r.at + int64(len(rest))
		if behind >= r.end {
			if len(rest) == 0 {
				return nil, 0, false, io.EOF
			}
			r.pass(int64(len(rest)))
			return rest, int64(len(rest)), false, nil
		}
		if r.most > 0 && int64(len(rest)) > r.most {
			return r.skip(behind)
		}
		r.buf = append(r.buf[:0], rest...)
		r.used = 0
		n := int(min(max(256<<10, int64(len(r.buf))), r.end-behind))
		r.buf = slices.Grow(r.buf, n)
		got, err := r.r.ReadAt(r.buf[len(r.buf):len(r.buf)+n], behind)
		r.buf = r.buf[:len(r.buf)+got]
		if got < n && (err == nil || errors.Is(err, io.EOF)) {
			r.end = behind + int64(got) // it was cut meanwhile
		} else if got < n {
			return nil, 0, false, err
		}
	}
}

func (r *lineReader) pass(n int64) {
	r.used += int(n)
	r.at += n
	r.searched = 0
}

// skip passes over a line that is too long; its beginning is known up to at.
func (r *lineReader) skip(at int64) (line []byte, size int64, whole bool, err error) {
	buf := make([]byte, 256<<10)
	from := r.at
	r.buf, r.used, r.searched = nil, 0, 0
	for at < r.end {
		n, err := r.r.ReadAt(buf[:min(int64(len(buf)), r.end-at)], at)
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			r.at = at + int64(i) + 1
			return nil, r.at - from, true, nil
		}
		if at += int64(n); n == 0 && err != nil {
			if !errors.Is(err, io.EOF) {
				return nil, 0, false, err
			}
			break
		}
	}
	r.at, r.end = at, at
	return nil, at - from, false, nil
}

// LettersConfig says where letters lie. All but Dir may be zero.
type LettersConfig struct {
	Dir  string // path.data/dead-letter
	Most int64  // bytes of a line, see MaxLetter; longer ones are unreadable. 0: any
	FS   FS     // nil: the real one
}

// ReadLetters calls each for every letter, oldest file first, until it returns
// an error. A server may write meanwhile: each letter comes that was there at
// the beginning and was not taken out since.
func ReadLetters(cfg LettersConfig, each func(*Letter) error) error {
	if cfg.FS == nil {
		cfg.FS = osFS{}
	}
	current, err := viewLetters(cfg.FS, filepath.Join(cfg.Dir, letterStem+letterExt))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("path.data: %w", err)
	}
	if current != nil {
		defer current.Close()
	}
	files, err := closedLetters(cfg.FS, cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		files, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("path.data: %w", err)
	}
	for _, f := range files {
		if err := cfg.readClosed(f, current, each); err != nil {
			return err
		}
	}
	if current == nil {
		return nil
	}
	return cfg.read(current, letterStem+letterExt, current.info.Size(), false, each)
}

func (cfg LettersConfig) readClosed(f closedFile, current *letterFile, each func(*Letter) error) error {
	h, err := viewLetters(cfg.FS, filepath.Join(cfg.Dir, f.base))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // just removed
	}
	if err != nil {
		return fmt.Errorf("path.data: %w", err)
	}
	defer h.Close()
	if current != nil && cfg.FS.SameFile(h.info, current.info) {
		return nil // just closed: it comes at the end
	}
	return cfg.read(h, f.base, f.size(h.info), true, each)
}

func (cfg LettersConfig) read(h io.ReaderAt, name string, size int64, closed bool, each func(*Letter) error) error {
	lines := lineReader{r: h, end: size, most: cfg.Most}
	for {
		at := lines.at
		line, n, whole, err := lines.next()
		if errors.Is(err, io.EOF) || err == nil && !whole && !closed {
			return nil // its end is being written
		}
		if err != nil {
			return fmt.Errorf("path.data: read %s: %w", name, err)
		}
		if line != nil && len(line) == 0 {
			continue
		}
		l := letterAt(line, name, at, n)
		if err := each(&l); err != nil {
			return err
		}
	}
}

// letterFile is a file that is open for reading.
type letterFile struct {
	View
	info fs.FileInfo
}

func viewLetters(fsys FS, path string) (*letterFile, error) {
	at, err := fsys.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !at.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	h, err := fsys.View(path)
	if err != nil {
		return nil, err
	}
	info, err := h.Stat()
	if err != nil {
		h.Close()
		return nil, err
	}
	return &letterFile{h, info}, nil
}

// closedLetters are the closed files, oldest first.
func closedLetters(fsys FS, dir string) ([]closedFile, error) {
	all, err := listClosed(fsys, dir, letterStem, letterExt)
	return slices.DeleteFunc(all, func(f closedFile) bool { return !f.plain }), err
}

// size is how much of a plain file counts: what stands behind the mark of one
// that was set aside never did.
func (f closedFile) size(info fs.FileInfo) int64 {
	if f.mark != "" {
		return min(info.Size(), f.markCut)
	}
	return info.Size()
}
