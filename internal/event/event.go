// Package event holds what travels between the rooms: events as they came off
// the wire, and the lines that will be stored.
//
// Promise: nothing here does I/O or keeps state of its own; it is the shape of
// the hand-over from receipt to durability, so that an ack can be the return
// value of one call.
package event

import (
	"context"
	"encoding/hex"
	"time"
)

// ID is an event's identity: 128 bits that two sends of one event share and no
// two different events do.
type ID [16]byte

// String is the identity as it stands in arcanna.ioc.event_id: 32 lower-case
// hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Event is one event of a window, as it was sent.
type Event struct {
	// Raw is the event's JSON document. It aliases a pooled buffer of the
	// connection and is valid until Handle returns. The byte slice has at least
	// Sentinel bytes of readable capacity behind it that are not part of it.
	// For an oversized event it holds the first bytes only (see Oversize).
	Raw []byte

	// Receipt is the identity of an event that has none of its own, where this
	// receipt of it may be handled more than once; zero: chance.
	Receipt ID

	// Oversize is set when the event was longer than input.max_event (or empty)
	// and was skipped on the wire: such an event can only go to the dead letter.
	Oversize *Oversize
}

// Oversize describes an event of which only the beginning was kept.
type Oversize struct {
	Length int64    // bytes announced and read, of which Raw holds the first MaxStub at most
	SHA256 [32]byte // of all Length bytes
}

// MaxStub is how many bytes are kept of an event that can never be stored.
const MaxStub = 64 << 10

// Sentinel is how many bytes may be read (never trusted, never written) behind Event.Raw.
const Sentinel = 16

// Budget is the share of input.memory that one window holds. Everything that is
// allocated for a batch beyond a small constant is reserved here first, so that
// memory stays bounded whatever clients send. It is larger than an interface
// should be: who may reserve must be able to release, and to know who waits.
type Budget interface {
	// Reserve blocks until n more bytes are granted, or returns ctx's error.
	// The oldest unfinished window of the server is always granted.
	Reserve(ctx context.Context, n int64) error
	// Release gives n reserved bytes back.
	Release(n int64)
	// Wanted reports whether others wait for what this window holds: memory, or
	// its place among the batches that are handled.
	Wanted() bool
}

// Batch is a window, or a part of a large one, on its way to durability.
type Batch struct {
	Events   []Event
	Received time.Time // when its last byte arrived
	Remote   string    // the sender's address, for logs
	Budget   Budget    // never nil
}

// Lines is a portion of a batch, ready to be stored: whole events, each one
// JSON object on one line.
type Lines struct {
	// Buf holds the lines back to back, each ended by "\n", and nothing else.
	Buf []byte
	// Index has one element per line, in the order of Buf.
	Index []Line
	// Routing has one element per line for an output that asked for it; else it
	// is empty.
	Routing []Routing
	// Wanted is that of the batch's Budget; nil: never.
	Wanted func() bool
	// Placed, where it is set, is told the index that holds a line, which is what a
	// later write to its document has to name: of a data stream the backing index. It
	// is called once for a line that is stored, or was already, before the store
	// returns, perhaps by several goroutines. Only an output of indices calls it.
	// It must return at once and not call the output. index is empty where the answer does not say it.
	Placed func(line int, index string)
}

// Routing is what an event says about where it should go. Its slices alias the
// event and are valid as long as the Lines.
type Routing struct {
	// ID is the event's @metadata._id, unescaped, where that is its identity;
	// nil: Line.ID as text is.
	ID []byte
	// Meta is the event's @metadata as it was sent, of whatever JSON type; nil:
	// there is none. Where there are several it is the last one.
	Meta []byte
	// Values are what stands at the paths that the output asked for, in their
	// order: a string's contents, a number's or a boolean's spelling; nil: nothing,
	// null, an object, or more than one value.
	Values [][]byte
}

// Line is one event of Lines.
type Line struct {
	ID  ID
	End int // offset in Lines.Buf behind the line's "\n"
}

// Why an event goes to the dead letter before any output has seen it.
const (
	ReasonMalformed = "malformed"      // it is no JSON object
	ReasonOversize  = "oversize"       // longer than input.max_event
	ReasonInternal  = "internal_error" // the program panicked over it
)

// Reasons are all of them.
var Reasons = []string{ReasonMalformed, ReasonOversize, ReasonInternal}

// DeadLetter is an event that cannot be stored where it should go.
type DeadLetter struct {
	Reason string // one of Reasons, or the output's; a metric label, so from a small fixed set
	Detail string // the same in words; the output's may quote the event, so it is never logged
	Event  []byte // the event's bytes, at most MaxStub of a malformed or oversized one
	Length int64  // the event's whole length in bytes
	SHA256 string // of the whole event in hex; empty where Event is whole

	Status int     // the output's answer; 0: it was never asked
	Target *Target // where the output was told to store it; nil: it was never asked
}

// Target is what it takes to store a line again as it was tried first. An empty
// field was not sent.
type Target struct {
	ID       string `json:"id,omitempty"`
	Index    string `json:"index,omitempty"`
	Pipeline string `json:"pipeline,omitempty"`
	Op       string `json:"op,omitempty"` // "create" or "index"
}

// Unlimited is a Budget that grants everything: for callers without a wire.
type Unlimited struct{}

func (Unlimited) Reserve(context.Context, int64) error { return nil }
func (Unlimited) Release(int64)                        {}
func (Unlimited) Wanted() bool                         { return false }
