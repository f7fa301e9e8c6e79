package elasticsearch

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"vtsidecar/internal/jsonwalk"
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
	c := jsonwalk.New(body)
	var a answer
	n, seen := 0, false
	err := c.Object(func(key []byte) error {
		if string(key) != "items" {
			return c.Skip()
		}
		if seen {
			return errAnswer
		}
		seen = true
		return c.Array(func() error {
			a = answer{}
			ops := 0
			if err := c.Object(func(op []byte) error {
				ops++
				a.op = op
				return a.read(&c)
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
	if err == nil && !seen {
		err = errAnswer
	}
	return cmp.Or(err, c.End())
}

func (a *answer) read(c *jsonwalk.Walker) (err error) {
	return c.Object(func(key []byte) error {
		switch string(key) {
		case "_id":
			a.id, err = c.Text()
		case "_index":
			a.index, err = c.Text()
		case "status":
			a.status, err = c.Small()
		case "error":
			err = a.fault(c)
		case "failure_store":
			var used []byte
			used, err = c.Text()
			a.failed = string(used) == "used"
		default:
			err = c.Skip()
		}
		return err
	})
}

// fault reads an error: an object, or a text as old versions send it.
func (a *answer) fault(c *jsonwalk.Walker) error {
	raw, err := c.Value()
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
	return jsonwalk.Unquote(a) == jsonwalk.Unquote(b)
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
