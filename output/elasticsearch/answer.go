package elasticsearch

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// This file reads what the cluster answers to a bulk request. Its rule: an
// answer counts only when it is whole and speaks of just the items that were
// sent, each by its operation and _id. Anything else is no answer, whatever its
// status says; then nothing is known, and all is sent again.
//
// A pipeline may give an event another _id, and so does a failure store. Such an
// answer counts where the cluster gives the request's mark back: so it is known to
// be about this request, and what has another _id is known by its order. So are all
// where the answer says no _id of any.

var (
	errAnswer = errors.New("the answer to a bulk request is not what the request asked for")
	errOther  = errors.New("the answer to a bulk request is about other documents than were sent")
)

// answer is what was said of one item. Its slices alias the body.
type answer struct {
	op     []byte
	id     []byte // as it is spelled in JSON, without quotes
	index  []byte // the same: the one that holds the document
	status int
	failed bool   // it is in the data stream's failure store
	typ    string // of the error; empty: none
	reason string // may quote the document: never for a log
}

// bulkFilter asks for what readAnswers reads, and nothing else.
const bulkFilter = "items.*._id,items.*._index,items.*.status,items.*.failure_store,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"

// readAnswers calls each for every item, in order. An error means that the whole
// body is no answer, also where each was called before.
func readAnswers(body []byte, each func(i int, a *answer) error) error {
	c := cursor{b: body}
	var a answer
	n, seen := 0, false
	err := c.object(func(key []byte) error {
		if string(key) != "items" {
			return c.skip()
		}
		if seen {
			return errAnswer
		}
		seen = true
		return c.array(func() error {
			a = answer{}
			ops := 0
			if err := c.object(func(op []byte) error {
				ops++
				a.op = op
				return c.item(&a)
			}); err != nil {
				return err
			}
			if ops != 1 || a.status < 200 || a.status > 599 {
				return errAnswer
			}
			n++
			return each(n-1, &a)
		})
	})
	if err != nil {
		return err
	}
	if c.blank(); c.p != len(c.b) || !seen {
		return errAnswer
	}
	return nil
}

func (c *cursor) item(a *answer) error {
	return c.object(func(key []byte) error {
		switch string(key) {
		case "_id":
			return c.text(&a.id)
		case "_index":
			return c.text(&a.index)
		case "status":
			return c.small(&a.status)
		case "error":
			return c.fault(a)
		case "failure_store":
			var used []byte
			err := c.text(&used)
			a.failed = string(used) == "used"
			return err
		}
		return c.skip()
	})
}

// fault reads an error: an object, or a text as old versions send it.
func (c *cursor) fault(a *answer) error {
	raw, err := c.value()
	if err != nil {
		return err
	}
	var e struct {
		Type     string
		Reason   string
		CausedBy struct {
			Reason string
		} `json:"caused_by"`
	}
	var text string
	switch {
	case json.Unmarshal(raw, &e) == nil:
		a.typ, a.reason = e.Type, e.Reason
		if e.CausedBy.Reason != "" {
			a.reason += ": " + e.CausedBy.Reason
		}
	case json.Unmarshal(raw, &text) == nil:
		a.reason = text
	default:
		return errAnswer
	}
	if a.typ == "" {
		a.typ = "unknown"
	}
	return nil
}

// sameText reports whether two insides of JSON strings say the same.
func sameText(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return false
	}
	return unquote(a) == unquote(b)
}

func unquote(inside []byte) string {
	var s string
	quoted := append(append([]byte{'"'}, inside...), '"')
	if json.Unmarshal(quoted, &s) != nil {
		return ""
	}
	return s
}

// requestError is the error that a whole request was answered with; its reason
// may quote an event. Other bodies, such as a proxy's page, give none.
func requestError(body []byte) (typ, reason string) {
	var e struct {
		Error struct{ Type, Reason string }
	}
	if json.Unmarshal(body, &e) != nil {
		return "", ""
	}
	return e.Error.Type, e.Error.Reason
}

// cursor walks over JSON without copying it. It finds where things end; of what
// it skips it believes a little more than it should.
type cursor struct {
	b     []byte
	p     int
	depth int
}

func (c *cursor) blank() {
	for c.p < len(c.b) {
		switch c.b[c.p] {
		case ' ', '\t', '\n', '\r':
			c.p++
		default:
			return
		}
	}
}

// take passes over one byte if it is next.
func (c *cursor) take(want byte) bool {
	if c.blank(); c.p < len(c.b) && c.b[c.p] == want {
		c.p++
		return true
	}
	return false
}

func (c *cursor) object(member func(key []byte) error) error {
	if !c.take('{') {
		return errAnswer
	}
	if c.take('}') {
		return nil
	}
	for {
		var key []byte
		if err := c.text(&key); err != nil {
			return err
		}
		if !c.take(':') {
			return errAnswer
		}
		if err := member(key); err != nil {
			return err
		}
		if c.take('}') {
			return nil
		}
		if !c.take(',') {
			return errAnswer
		}
	}
}

func (c *cursor) array(element func() error) error {
	if !c.take('[') {
		return errAnswer
	}
	if c.take(']') {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if c.take(']') {
			return nil
		}
		if !c.take(',') {
			return errAnswer
		}
	}
}

// text reads a string as it is spelled.
func (c *cursor) text(into *[]byte) error {
	if !c.take('"') {
		return errAnswer
	}
	from := c.p
	for {
		end := bytes.IndexByte(c.b[c.p:], '"')
		if end < 0 {
			return errAnswer
		}
		c.p += end + 1
		slashes := 0
		for i := c.p - 2; i >= from && c.b[i] == '\\'; i-- {
			slashes++
		}
		if slashes%2 == 0 {
			*into = c.b[from : c.p-1]
			return nil
		}
	}
}

// small reads a whole number of at most four digits.
func (c *cursor) small(into *int) error {
	c.blank()
	n, digits := 0, 0
	for ; c.p < len(c.b) && c.b[c.p]-'0' < 10 && digits < 5; c.p++ {
		n = 10*n + int(c.b[c.p]-'0')
		digits++
	}
	if digits == 0 || digits > 4 {
		return errAnswer
	}
	*into = n
	return nil
}

// value returns the bytes of the value that is next.
func (c *cursor) value() ([]byte, error) {
	c.blank()
	from := c.p
	if err := c.skip(); err != nil {
		return nil, err
	}
	return c.b[from:c.p], nil
}

// skip passes over the value that is next.
func (c *cursor) skip() error {
	if c.blank(); c.p >= len(c.b) {
		return errAnswer
	}
	const deepest = 64 // an answer's values are flat
	if c.depth++; c.depth > deepest {
		return errAnswer
	}
	defer func() { c.depth-- }()
	switch c.b[c.p] {
	case '{':
		return c.object(func([]byte) error { return c.skip() })
	case '[':
		return c.array(c.skip)
	case '"':
		var s []byte
		return c.text(&s)
	}
	from := c.p
	for c.p < len(c.b) && (c.b[c.p] >= '0' && c.b[c.p] <= '9' || c.b[c.p] >= 'a' && c.b[c.p] <= 'z' || c.b[c.p] == '-' || c.b[c.p] == '+' || c.b[c.p] == '.' || c.b[c.p] == 'E') {
		c.p++
	}
	if c.p == from {
		return errAnswer
	}
	return nil
}

// readable cuts a text to n bytes of valid UTF-8.
func readable(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
