package output

import (
	"cmp"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Names of what stands beside the file <stem><ext>. A name that differs from
// these in anything is somebody else's and is never touched.
//
//	<stem>-<stamp>-<n><ext>              a closed file
//	<stem>-<stamp>-<n><ext>.gz           the same, compressed
//	<stem>-<stamp>-<n><ext>.gz.tmp       on its way there
//	<stem>-<stamp>-<n><ext>.cut-<length> the mark of one that was set aside
//	<stem>-<stamp>-<n><ext>.new          what is to replace a file of dead letters
//
// Closed files sort, by stamp and then by n as a number, in the order in which
// they were closed, whatever the clock does: where it is set back, the stamp
// stays and n goes on.
const (
	stampLayout = "20060102T150405" // UTC
	gzSuffix    = ".gz"
	tmpSuffix   = ".gz.tmp"
	cutInfix    = ".cut-"
)

// closedName is the name of a closed file, or of something beside it.
type closedName struct {
	base   string // <stem>-<stamp>-<n><ext>
	stamp  string
	number int64
	suffix string // "", gzSuffix, tmpSuffix, or cutInfix with the length
	cut    int64  // the length; 0: it is no mark
}

// compare tells which one was closed first.
func (n closedName) compare(m closedName) int {
	return cmp.Or(strings.Compare(n.stamp, m.stamp), cmp.Compare(n.number, m.number))
}

// parseName takes a name apart; ok is false where it is not ours.
func parseName(name, stem, ext string) (n closedName, ok bool) {
	rest, ok := strings.CutPrefix(name, stem+"-")
	if !ok || len(rest) < len(stampLayout) {
		return n, false
	}
	n.stamp, rest = rest[:len(stampLayout)], rest[len(stampLayout):]
	if t, err := time.Parse(stampLayout, n.stamp); err != nil || t.Format(stampLayout) != n.stamp {
		return n, false
	}
	rest, ok = strings.CutPrefix(rest, "-")
	if !ok {
		return n, false
	}
	digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
	number, rest := rest[:digits], rest[digits:]
	if n.number, ok = positive(number); !ok {
		return n, false
	}
	n.suffix, ok = strings.CutPrefix(rest, ext)
	if !ok {
		return n, false
	}
	n.base = strings.TrimSuffix(name, n.suffix)
	switch n.suffix {
	case "", gzSuffix, tmpSuffix:
		return n, true
	}
	length, ok := strings.CutPrefix(n.suffix, cutInfix)
	if ok {
		n.cut, ok = positive(length)
	}
	return n, ok
}

// positive reads a number as strconv writes it, and as no overflow can reach.
func positive(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n > 0 && n < 1<<62 && s == strconv.FormatInt(n, 10)
}

// rotatedName is the path of the next closed file. Each call gives another one.
func (j *journal) rotatedName() string {
	if stamp := j.now().UTC().Format(stampLayout); stamp > j.last.stamp {
		j.last = closedName{stamp: stamp}
	}
	j.last.number++
	return filepath.Join(j.dir, j.stem+"-"+j.last.stamp+"-"+strconv.FormatInt(j.last.number, 10)+j.ext)
}

// cutMark is the path of the mark that tells where a file was cut.
func (f *appendFile) cutMark(name string) string {
	return name + cutInfix + strconv.FormatInt(f.durable, 10)
}
