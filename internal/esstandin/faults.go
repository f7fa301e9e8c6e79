package esstandin

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"

	"vtsidecar/internal/standin"
)

// Fault is a disturbance of bulks. The zero value is none.
type Fault struct {
	// Kind is one of
	//	status       an error answer with Status (and Type)
	//	status_html  Status with a page, as a proxy gives
	//	html         200 with a page
	//	refused      no connection (over a network: reset)
	//	blackhole    the body is never read, nothing is answered
	//	reset        the connection ends before the body is read
	//	eof          the connection ends behind the body, without an answer
	//	hang         the body is read, nothing is answered
	//	truncate     the connection ends in the middle of the answer
	//	truncate_json  an answer that is whole as HTTP and half as JSON
	//	garbage      200 with JSON of another shape
	//	empty        200 without a body
	//	null_items   200 with "items": null
	//	few, many    one item too little or too many
	//	order        the items in reverse
	//	wrong_id     the items under other identities
	//	wrong_op     the items under another operation
	//	no_id        the items under none; one_no_id: the first of them
	//	no_status    the items without a status
	//	huge         an answer of 64 MiB
	//	bomb         1 GiB of spaces in a gzip
	//	redirect     307 to the same path under another host name
	Kind   string `json:"kind"`
	Status int    `json:"status,omitempty"` // of status, status_html
	Type   string `json:"type,omitempty"`   // of status: the error's type
	Stored bool   `json:"stored,omitempty"` // the documents are stored all the same
	Times  int    `json:"times,omitempty"`  // so many bulks; 0: until it is changed
	// RetryAfter is sent as the header of that name with status.
	RetryAfter string `json:"retry_after,omitempty"`
}

var faultKinds = map[string]bool{
	"": true, "status": true, "status_html": true, "html": true, "refused": true, "blackhole": true, "reset": true, "eof": true, "hang": true,
	"truncate": true, "truncate_json": true, "garbage": true, "empty": true, "null_items": true, "few": true, "many": true, "order": true,
	"wrong_id": true, "wrong_op": true, "no_id": true, "one_no_id": true, "no_status": true, "huge": true, "bomb": true, "redirect": true,
}

// Rule is an answer about some documents. The first of several that match is in
// force.
type Rule struct {
	Match  string `json:"match,omitempty"`  // stands in the document or its identity; empty: all
	Status int    `json:"status"`           //
	Type   string `json:"type,omitempty"`   // empty: the usual one
	Reason string `json:"reason,omitempty"` // empty: one that quotes the document, as the real servers do
	Times  int    `json:"times,omitempty"`  // so many tries of each document; 0: until it is changed
	Stored bool   `json:"stored,omitempty"` // the document is stored all the same
	// FailureStore: it goes to the failure store of its data stream, under another
	// identity each time; Status is then without meaning.
	FailureStore bool `json:"failure_store,omitempty"`
}

// SetFaults sets what happens to the next bulks: the first fault as often as it
// says, then the second, and so on. None: all is well again.
func (s *Server) SetFaults(faults ...Fault) error {
	for _, f := range faults {
		if !faultKinds[f.Kind] {
			return fmt.Errorf("no fault is called %q", f.Kind)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append([]Fault(nil), faults...)
	return nil
}

// SetRules sets the answers about some documents.
func (s *Server) SetRules(rules ...Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append([]Rule(nil), rules...)
	clear(s.tries)
}

// takeFault is the disturbance of one bulk.
func (s *Server) takeFault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 {
		return Fault{}
	}
	f := s.faults[0]
	if f.Times > 0 {
		if s.faults[0].Times--; s.faults[0].Times == 0 {
			s.faults = s.faults[1:]
		}
	}
	return f
}

// rule is the answer that is set for a document; nil: none. With mu.
func (s *Server) rule(a action) *Rule {
	for i := range s.rules {
		r := &s.rules[i]
		if r.Match != "" && a.id != r.Match && !bytes.Contains(a.source, []byte(r.Match)) {
			continue
		}
		key := fmt.Sprint(i, " ", a.id)
		if r.Times > 0 && s.tries[key] >= r.Times {
			continue
		}
		s.tries[key]++
		return r
	}
	return nil
}

func (r *Rule) errType(openSearch bool) string {
	switch {
	case r.Type != "":
		return r.Type
	case r.Status == http.StatusTooManyRequests && openSearch:
		return "rejected_execution_exception"
	case r.Status == http.StatusTooManyRequests:
		return "es_rejected_execution_exception"
	case r.Status == http.StatusForbidden:
		return "security_exception"
	case r.Status == http.StatusBadRequest && openSearch:
		return "mapper_parsing_exception"
	case r.Status == http.StatusBadRequest:
		return "document_parsing_exception"
	case r.Status == http.StatusConflict:
		return conflict
	case r.Status == http.StatusServiceUnavailable:
		return "unavailable_shards_exception"
	default:
		return "exception"
	}
}

func (r *Rule) reason(a action) string {
	if r.Reason != "" {
		return r.Reason
	}
	return fmt.Sprintf("failed to parse field [message] of type [long] in document with id '%s'. Preview of field's value: '%s'", a.id, a.source[:min(len(a.source), 60)])
}

// faultBeforeBody disturbs a bulk that was not read; false: there is no more to
// do.
func (s *Server) faultBeforeBody(r *http.Request, f Fault) bool {
	if f.Stored {
		return true // it must be read for that
	}
	switch f.Kind {
	case "refused", "reset":
		panic(http.ErrAbortHandler)
	case "blackhole":
		standin.Hang(r, s.done)
	}
	return true
}

const page = "<!doctype html><html><head><title>Gateway</title></head><body>Please sign in</body></html>\n"

// redirected marks the path that a redirect leads to, where nobody should go.
const redirected = "/redirected"

// faultyAnswer answers a bulk that was read as the fault says.
func (s *Server) faultyAnswer(w http.ResponseWriter, r *http.Request, f Fault, items []item) {
	h := w.Header()
	send := func(status int, kind, body string) {
		s.product(h, status)
		h.Set("Content-Type", kind)
		s.count(status)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body)) // a client that went away is its own business
	}
	switch f.Kind {
	case "status":
		if f.RetryAfter != "" {
			h.Set("Retry-After", f.RetryAfter)
		}
		switch {
		case f.Status == http.StatusRequestEntityTooLarge:
			s.answer(w, f.Status, nil)
		case f.Type != "":
			s.failure(w, f.Status, f.Type, "as the fault says")
		default:
			s.failure(w, f.Status, usualType(f.Status), "as the fault says")
		}
	case "status_html":
		send(f.Status, "text/html; charset=utf-8", page)
	case "html":
		send(http.StatusOK, "text/html; charset=utf-8", page)
	case "garbage":
		send(http.StatusOK, "application/json", `{"took":1,"errors":"no","items":{"create":[201]}}`)
	case "null_items":
		send(http.StatusOK, "application/json", `{"took":1,"errors":false,"items":null}`)
	case "empty":
		send(http.StatusOK, "application/json", "")
	case "refused", "reset", "eof":
		panic(http.ErrAbortHandler)
	case "hang", "blackhole":
		standin.Hang(r, s.done)
	case "redirect":
		host := r.Host
		if name, port, err := net.SplitHostPort(host); err == nil && name == "127.0.0.1" {
			host = net.JoinHostPort("localhost", port) // another host to a client, the same listener
		}
		h.Set("Location", "http://"+host+redirected+r.URL.RequestURI())
		send(http.StatusTemporaryRedirect, "application/json", "{}")
	case "huge":
		s.product(h, http.StatusOK)
		h.Set("Content-Type", "application/json")
		s.count(http.StatusOK)
		spaces := bytes.Repeat([]byte(" "), 1<<20)
		for range 64 {
			if _, err := w.Write(spaces); err != nil {
				break
			}
		}
	case "bomb":
		h.Set("Content-Encoding", "gzip")
		send(http.StatusOK, "application/json", bomb())
	case "few":
		s.answerItems(w, r, items[:len(items)-1])
	case "many":
		s.answerItems(w, r, append(items, items[len(items)-1]))
	case "order":
		back := make([]item, 0, len(items))
		for i := range items {
			back = append(back, items[len(items)-1-i])
		}
		s.answerItems(w, r, back)
	case "wrong_id":
		for i := range items {
			items[i].id = strings.Repeat("7", 32)
		}
		s.answerItems(w, r, items)
	case "no_id", "one_no_id":
		for i := range items {
			if i == 0 || f.Kind == "no_id" {
				items[i].id = ""
			}
		}
		s.answerItems(w, r, items)
	case "wrong_op":
		for i := range items {
			items[i].op = "delete"
		}
		s.answerItems(w, r, items)
	case "no_status":
		var list []any
		for _, it := range items {
			list = append(list, map[string]any{it.op: map[string]any{"_index": it.index, "_id": it.id}})
		}
		s.answer(w, http.StatusOK, map[string]any{"took": 1, "errors": false, "items": list})
	case "truncate", "truncate_json":
		var list []any
		for _, it := range items {
			list = append(list, it.render())
		}
		body, _ := json.Marshal(filtered(r, map[string]any{"took": 1, "errors": false, "items": list})) // maps of strings and numbers
		if f.Kind == "truncate" {
			h.Set("Content-Length", fmt.Sprint(len(body))) // net/http then closes the connection
		}
		send(http.StatusOK, "application/json", string(body[:len(body)-len(body)/3-1]))
	}
}

func usualType(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "security_exception"
	case http.StatusTooManyRequests:
		return "es_rejected_execution_exception"
	case http.StatusServiceUnavailable:
		return "cluster_block_exception"
	case http.StatusBadRequest:
		return "illegal_argument_exception"
	default:
		return "exception"
	}
}

// bomb is 1 GiB of spaces in about 1 MiB: a gzip may have many members.
var bomb = sync.OnceValue(func() string {
	return strings.Repeat(string(zip(bytes.Repeat([]byte(" "), 4<<20))), 1<<30/(4<<20))
})

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b) // into memory
	_ = z.Close()
	return out.Bytes()
}
