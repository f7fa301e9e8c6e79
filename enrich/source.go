// Package enrich finds the indicators of compromise in events, learns what is
// known about them and writes it into the events as arcanna.ioc.
//
// Promise: every event comes out once, as one valid line, otherwise byte for
// byte what was sent, or as a dead letter; no source delays a batch beyond
// vt.wait, and none makes an event fail.
//
// Where to look: enricher.go has the settings and puts everything together. A batch's
// way is work.go, step by step in gather.go (scan and identity), collect.go (values
// to findings), answers.go (cache and look-ups) and write.go (lines), which renders
// by document.go (arcanna.ioc), threat.go and related.go (ECS) and json.go. Its memory
// is scratch.go, table.go and pool.go; facts.go is what the next batch need not find
// out again. queue.go makes the requests of a source, rules.go says what an answer
// means, answer_codec.go is an answer on disk.
package enrich

import (
	"context"
	"fmt"
	"time"

	"vtsidecar/enrich/indicator"
)

// Source answers what is known about one indicator. VirusTotal is the first.
type Source interface {
	// Name is the word that stands as "provider" in documents.
	Name() string
	// Lookup asks for one indicator, with one request at most. An indicator that
	// the source does not know is an Answer with Found false and no error. An
	// error is a *LookupError, which carries what to do next. Lookup returns
	// soon after ctx is done. It is called concurrently.
	Lookup(ctx context.Context, ind Indicator) (*Answer, error)
}

// Indicator is a canonical indicator, as made by the indicator package.
type Indicator struct {
	Type  indicator.Type
	Value string // canonical; for a URL already reduced to what may leave (vt.url_parts)
}

// Category is an engine's word.
type Category uint8

const (
	CategoryOther Category = iota // timeout, failure, type-unsupported, …: does not count
	CategoryMalicious
	CategorySuspicious
	CategoryHarmless
	CategoryUndetected
)

// EngineVerdict is what one engine says. Engine strings are interned by the
// source, since 10,000 answers name the same 90 engines (InternEngine). Engine
// is empty where an answer counts an engine without naming it: such a verdict
// counts, but there is nothing to show.
type EngineVerdict struct {
	Engine   string
	Category Category
}

// Answer is what a source knows about one indicator. It is raw: thresholds are
// applied when it is read, so that changing them needs no new look-up. An
// Answer is never changed after it was returned. All strings are bounded by the
// source (256 bytes each, Tags at most 20, Engines at most 256).
type Answer struct {
	// tally is what the rules counted in Engines, kept here by them; only
	// through sync/atomic. It stands first for its alignment on 32-bit machines.
	tally uint64

	Found        bool
	Engines      []EngineVerdict // sorted by Engine
	LastAnalysis time.Time       // zero: never analysed
	Reputation   int             // community score
	Tags         []string
	Country      string
	ASOwner      string
	ASN          int64
	ThreatLabel  string // popular_threat_classification.suggested_threat_label
	Assessment   string // gti_assessment verdict: "malicious", "suspicious", "benign", "undetected"; empty without a licence
	MD5          string // files: the hashes that the answer itself names
	SHA1         string
	SHA256       string
	Link         string // public page
	FetchedAt    time.Time

	// When the source was given it first and last (files, URLs), and last
	// changed what it knows; zero: not said. They only describe.
	FirstSubmission, LastSubmission, LastModification time.Time
}

// Decision is what a failed look-up means for those to come.
type Decision uint8

const (
	// Retry: a passing fault (5xx, time-out, garbage, refused connection). Not
	// cached; several in a row open the breaker for a while.
	Retry Decision = iota
	// PauseMinute: too many requests; no request until Until.
	PauseMinute
	// Exhausted: the day's or month's quota is used up; no request until Until.
	Exhausted
	// Refused: the key is wrong or not allowed (401, 403); no request until the
	// program is started anew, bar a probe every Until.
	Refused
	// Unanswerable: the source takes this value for no indicator (400); others
	// go on. Treated as not found for a short while.
	Unanswerable
)

// LookupError is a look-up without an answer. Its text never holds a key, a
// URL or an answer's body.
type LookupError struct {
	Decision Decision
	Until    time.Time // PauseMinute, Exhausted, Refused: when to try again
	Reason   string    // a few words, stable, for logs: "HTTP 503", "timed out"
}

func (e *LookupError) Error() string { return fmt.Sprintf("look-up failed: %s", e.Reason) }
