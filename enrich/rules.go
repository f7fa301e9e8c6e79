package enrich

import (
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"vtsidecar/enrich/indicator"
)

// PerType has one value for each type of indicator.
type PerType[T any] struct{ IP, Domain, URL, Hash T }

func (p *PerType[T]) of(t indicator.Type) (v T) {
	switch t {
	case indicator.IP:
		return p.IP
	case indicator.Domain:
		return p.Domain
	case indicator.URL:
		return p.URL
	case indicator.Hash:
		return p.Hash
	}
	return v
}

// Rules say what an answer means. Votes and reputation never decide.
type Rules struct {
	Malicious      PerType[int]           // engines that say malicious; 0: 5
	Suspicious     PerType[int]           // engines that say malicious or suspicious; 0: 1 for hashes, else 2
	Engines        []string               // those that count, in any case of letters; empty: all
	EnginesIgnore  []string               // those that do not
	MaxAnalysisAge PerType[time.Duration] // 0: no limit
}

// opinionFloor is how many engines must count for an opinion, where all may.
const opinionFloor = 10

// result is the word of one indicator, one part or one event. The order is the
// order of what is worse, so that the worst is the maximum.
type result uint8

const (
	resultNone result = iota
	resultHarmless
	resultUnknown
	resultPending // for late verdicts; this version never says it
	resultSuspicious
	resultMalicious
	results
)

var resultWords = [results]string{"none", "harmless", "unknown", "pending", "suspicious", "malicious"}

func (r result) String() string { return resultWords[r] }

// ground is why a verdict is what it is; for the explanation.
type ground uint8

const (
	byCounts     ground = iota
	byAssessment        // of a licensed key
	tooFew              // fewer engines than the floor
	neverAnalysed
)

// verdict is what the rules make of one found answer.
type verdict struct {
	counts
	result  result
	ground  ground
	tooOld  bool  // the age changed the result
	ageDays int32 // -1: not known
}

// counts are the engines that count, by their word.
type counts struct{ malicious, suspicious, harmless, undetected uint16 }

func (c counts) total() int {
	return int(c.malicious) + int(c.suspicious) + int(c.harmless) + int(c.undetected)
}

// judge is Rules, compiled. It is immutable and safe for concurrent use.
type judge struct {
	rules Rules
	stamp uint64 // marks counts that these rules made; never 0
}

func newJudge(rules Rules) *judge {
	for _, p := range []*int{&rules.Malicious.IP, &rules.Malicious.Domain, &rules.Malicious.URL, &rules.Malicious.Hash} {
		orDefault(p, 5)
	}
	for _, p := range []*int{&rules.Suspicious.IP, &rules.Suspicious.Domain, &rules.Suspicious.URL} {
		orDefault(p, 2)
	}
	orDefault(&rules.Suspicious.Hash, 1)
	return &judge{rules: rules, stamp: rand.Uint64()<<tallyBits | 1<<(tallyBits-1)}
}

// tallyBits of Answer.tally are four counts of nine bits, since an answer names
// at most 256 engines, and one bit that is always set; above them is the stamp.
const tallyBits = 4*9 + 1

// count counts the engines of a. An answer is read far more often than it is
// fetched, so the counts are kept in it; they are a function of the rules and
// the answer, so it does not matter who of several writes them.
func (j *judge) count(a *Answer) counts {
	const mask = 1<<9 - 1
	if t := atomic.LoadUint64(&a.tally); t>>(tallyBits-1) == j.stamp>>(tallyBits-1) {
		return counts{uint16(t & mask), uint16(t >> 9 & mask), uint16(t >> 18 & mask), uint16(t >> 27 & mask)}
	}
	var n [CategoryUndetected + 1]uint16
	for i := range a.Engines[:min(len(a.Engines), 256)] {
		e := &a.Engines[i]
		if e.Category > CategoryUndetected || !j.takes(e.Engine) {
			continue
		}
		n[e.Category]++
	}
	c := counts{n[CategoryMalicious], n[CategorySuspicious], n[CategoryHarmless], n[CategoryUndetected]}
	atomic.StoreUint64(&a.tally, j.stamp|uint64(c.malicious)|uint64(c.suspicious)<<9|uint64(c.harmless)<<18|uint64(c.undetected)<<27)
	return c
}

// takes says whether an engine counts. The lists are short, and what they say
// about an answer is kept with it.
func (j *judge) takes(engine string) bool {
	in := func(list []string) bool {
		for _, name := range list {
			if strings.EqualFold(name, engine) {
				return true
			}
		}
		return false
	}
	return (len(j.rules.Engines) == 0 || in(j.rules.Engines)) && !in(j.rules.EnginesIgnore)
}

// until is when a verdict that was made at now, on a, may change for no other
// reason than the answer's age: at most a day later.
func (j *judge) until(a *Answer, t indicator.Type, now time.Time) time.Time {
	const day = 24 * time.Hour
	end := now.Add(day)
	if a.LastAnalysis.IsZero() {
		return end
	}
	age := max(now.Sub(a.LastAnalysis), 0)
	for _, change := range []time.Time{
		a.LastAnalysis.Add(age.Truncate(day) + day),             // a day older
		a.LastAnalysis.Add(j.rules.MaxAnalysisAge.of(t)).Add(1), // too old
	} {
		if change.After(now) && change.Before(end) {
			end = change
		}
	}
	return end
}

// verdict applies the rules to a found answer about an indicator of type t.
func (j *judge) verdict(a *Answer, t indicator.Type, now time.Time) verdict {
	v := verdict{counts: j.count(a), ageDays: -1}
	limit := j.rules.MaxAnalysisAge.of(t)
	// An answer that counts engines and does not say when they looked cannot be
	// shown to be young enough.
	tooOld := limit > 0
	if !a.LastAnalysis.IsZero() {
		age := max(now.Sub(a.LastAnalysis), 0)
		v.ageDays = int32(age / (24 * time.Hour))
		tooOld = limit > 0 && age > limit
	}
	switch a.Assessment {
	case "malicious":
		v.ground, v.result = byAssessment, resultMalicious
		return v
	case "suspicious":
		v.ground, v.result = byAssessment, resultSuspicious
		return v
	case "benign", "undetected":
		v.ground, v.result = byAssessment, resultHarmless
		return v
	}
	total := v.total()
	switch {
	case len(a.Engines) == 0 && a.LastAnalysis.IsZero():
		v.ground, v.result = neverAnalysed, resultUnknown
	case total == 0 || total < opinionFloor && len(j.rules.Engines) == 0:
		v.ground, v.result = tooFew, resultUnknown
	case int(v.malicious) >= j.rules.Malicious.of(t):
		v.result = resultMalicious
		if tooOld {
			v.tooOld, v.result = true, resultSuspicious
		}
	case int(v.malicious)+int(v.suspicious) >= j.rules.Suspicious.of(t):
		v.result = resultSuspicious
	case tooOld:
		v.tooOld, v.result = true, resultUnknown
	default:
		v.result = resultHarmless
	}
	return v
}
