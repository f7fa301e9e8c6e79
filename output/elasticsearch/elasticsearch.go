// Package elasticsearch stores events in Elasticsearch or OpenSearch.
//
// Promise: Store returns nil only when the cluster has answered for every line
// that it holds the document (2xx, or 409 on the event's own identity), or when
// the dead letter holds it durably. A cluster that is away, throttles, blocks or
// answers nonsense is waited for; only a document's own fault sends that
// document, alone, to the dead letter; and an event never chooses an index
// outside of those that the settings allow.
package elasticsearch

import (
	"context"
	"net/http"

	"vtsidecar/internal/event"
)

// Graveyard keeps events that the cluster refuses for their own sake; nil means
// that they survive a power cut.
type Graveyard interface {
	Store(ctx context.Context, letters []event.DeadLetter) error
}

// Doer sends one request to one host of the cluster. Client is the real one.
type Doer interface {
	// Do returns the answer whatever its status is. An error means that there is
	// none, and says nothing about whether the request had an effect. Every call
	// chooses a host anew, a healthy one where there is one.
	Do(ctx context.Context, r *Request) (*Response, error)
}

// Request is a request without its host.
type Request struct {
	Method      string
	Path        string // with the query; begins with a slash
	Body        []byte // not changed, not used after Do has returned
	ContentType string // empty: application/json where there is a body
}

// Response is an answer, read whole and bounded.
type Response struct {
	Status int
	Header http.Header
	Body   []byte // after any Content-Encoding; at most the caller's bound
	Host   string // who answered, for words: no credentials in it
}
