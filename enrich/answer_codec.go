package enrich

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"
)

// An answer on disk is
//
//	version | flags | LastAnalysis, seconds | FetchedAt, nanoseconds |
//	FirstSubmission LastSubmission LastModification, seconds | Reputation | ASN |
//	Country ASOwner ThreatLabel Assessment MD5 SHA1 SHA256 Link |
//	number of tags, tags | number of engines, (category, name)…
//
// Numbers are varints, strings a length and UTF-8. Whoever changes this changes
// the version: an old snapshot is then not read, which costs look-ups, never
// a wrong verdict.
const answerVersion = 2

const (
	answerFound = 1 << iota
	answerAnalysed
	answerFetched
	answerFirst
	answerLast
	answerModified
	answerFlags // first bit that means nothing
)

// The bounds of an Answer.
const (
	MaxAnswerString  = 256 // bytes
	MaxAnswerTags    = 20
	MaxAnswerEngines = 256
)

var errAnswer = errors.New("not an answer")

// AppendAnswer appends a as bytes that DecodeAnswer reads. What is beyond the
// bounds of an Answer is cut off.
func AppendAnswer(dst []byte, a *Answer) []byte {
	flags := byte(0)
	var fetched int64
	if a.Found {
		flags |= answerFound
	}
	seconds := func(t time.Time, flag byte) int64 {
		if t.IsZero() {
			return 0
		}
		flags |= flag
		return t.Unix()
	}
	analysed := seconds(a.LastAnalysis, answerAnalysed)
	first, last := seconds(a.FirstSubmission, answerFirst), seconds(a.LastSubmission, answerLast)
	modified := seconds(a.LastModification, answerModified)
	if !a.FetchedAt.IsZero() {
		flags |= answerFetched
		fetched = a.FetchedAt.UnixNano()
	}
	dst = append(dst, answerVersion, flags)
	for _, n := range [...]int64{analysed, fetched, first, last, modified, int64(a.Reputation), a.ASN} {
		dst = binary.AppendVarint(dst, n)
	}
	for _, s := range [...]string{a.Country, a.ASOwner, a.ThreatLabel, a.Assessment, a.MD5, a.SHA1, a.SHA256, a.Link} {
		dst = appendBounded(dst, s)
	}
	tags := a.Tags[:min(len(a.Tags), MaxAnswerTags)]
	dst = append(dst, byte(len(tags)))
	for _, s := range tags {
		dst = appendBounded(dst, s)
	}
	engines := a.Engines[:min(len(a.Engines), MaxAnswerEngines)]
	dst = binary.AppendUvarint(dst, uint64(len(engines)))
	for _, e := range engines {
		dst = append(dst, byte(e.Category))
		dst = appendBounded(dst, e.Engine)
	}
	return dst
}

func appendBounded(dst []byte, s string) []byte {
	s = CutString(s)
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// CutString is s, cut to what an Answer may hold, between two characters.
func CutString(s string) string {
	if len(s) <= MaxAnswerString {
		return s
	}
	n := MaxAnswerString
	for n > MaxAnswerString-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// DecodeAnswer reads what AppendAnswer wrote, all of b. Whatever b holds, the
// answer is within the bounds, and the error does not quote it.
func DecodeAnswer(b []byte) (*Answer, error) {
	r := answerReader{b: b}
	if v := r.byte(); r.bad || v != answerVersion {
		return nil, fmt.Errorf("decode answer: version %d: %w", v, errAnswer)
	}
	flags := r.byte()
	if flags >= answerFlags {
		r.bad = true
	}
	a := &Answer{Found: flags&answerFound != 0}
	seconds := func(to *time.Time, flag byte) {
		if n := r.varint(); flags&flag != 0 {
			*to = time.Unix(n, 0).UTC()
		}
	}
	seconds(&a.LastAnalysis, answerAnalysed)
	if n := r.varint(); flags&answerFetched != 0 {
		a.FetchedAt = time.Unix(0, n).UTC()
	}
	seconds(&a.FirstSubmission, answerFirst)
	seconds(&a.LastSubmission, answerLast)
	seconds(&a.LastModification, answerModified)
	a.Reputation = int(r.varint())
	a.ASN = r.varint()
	for _, s := range [...]*string{&a.Country, &a.ASOwner, &a.ThreatLabel, &a.Assessment, &a.MD5, &a.SHA1, &a.SHA256, &a.Link} {
		*s = string(r.bytes())
	}
	if n := r.count(MaxAnswerTags); n > 0 {
		a.Tags = make([]string, n)
		for i := range a.Tags {
			a.Tags[i] = string(r.bytes())
		}
	}
	if n := r.count(MaxAnswerEngines); n > 0 {
		a.Engines = make([]EngineVerdict, n)
		for i := range a.Engines {
			e := EngineVerdict{Category: Category(r.byte())}
			e.Engine = InternEngine(r.bytes())
			if e.Category > CategoryUndetected || i > 0 && e.Engine < a.Engines[i-1].Engine {
				r.bad = true
			}
			a.Engines[i] = e
		}
	}
	if r.bad || len(r.b) > 0 {
		return nil, fmt.Errorf("decode answer: %w", errAnswer)
	}
	return a, nil
}

// answerReader takes values off b; once something is wrong it gives zeros.
type answerReader struct {
	b   []byte
	bad bool
}

func (r *answerReader) byte() byte {
	if r.bad || len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *answerReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads a number of things, each at least a byte long.
func (r *answerReader) count(most int) int {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 || v > uint64(most) || v > uint64(len(r.b)-n) {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return int(v)
}

func (r *answerReader) bytes() []byte {
	n := r.count(MaxAnswerString)
	v := r.b[:n]
	if r.bad || !utf8.Valid(v) {
		r.bad = true
		return nil
	}
	r.b = r.b[n:]
	return v
}

// maxInterned bounds the table of engine names: several times as many as there
// are engines, few enough that a source that makes names up fills little.
const maxInterned = 1024

// engineNames holds each engine's name once for the whole program: 10,000
// answers name the same 90, and those of a snapshot and of a source must be the
// same strings. It is a memo: that it is shared changes no outcome.
var engineNames = struct {
	sync.RWMutex
	m map[string]string
}{m: make(map[string]string, 128)}

// InternEngine is name as a string that is shared with all other answers that
// hold it.
func InternEngine(name []byte) string {
	engineNames.RLock()
	s, ok := engineNames.m[string(name)]
	engineNames.RUnlock()
	if ok {
		return s
	}
	engineNames.Lock()
	defer engineNames.Unlock()
	if s, ok := engineNames.m[string(name)]; ok {
		return s
	}
	s = string(name)
	if len(engineNames.m) < maxInterned {
		engineNames.m[s] = s
	}
	return s
}
