package esstandin

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/klauspost/compress/gzip"

	"vtsidecar/internal/standin"
)

// work is what one bulk needs with Discard, reused.
type work struct {
	body, answer []byte
	unzip        gzip.Reader
}

var works = sync.Pool{New: func() any { return new(work) }}

// discard answers a bulk as if all of it had been created. It looks for no more
// than what it must echo.
func (s *Server) discard(w http.ResponseWriter, r *http.Request, target string) {
	k := works.Get().(*work)
	defer works.Put(k)
	body, err := k.read(r)
	if err != nil {
		s.failure(w, http.StatusBadRequest, "parse_exception", "Failed to read the body")
		return
	}
	if !standin.Pause(r.Context(), s.done, s.cfg.Delay) {
		panic(http.ErrAbortHandler)
	}
	out, n, ok := appendCreated(k.answer[:0], body)
	k.answer = out
	if !ok {
		s.complain("a bulk that ends in the middle")
		s.failure(w, http.StatusBadRequest, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
		return
	}
	s.lines.Add(int64(n))
	s.bytes.Add(max(r.ContentLength, 0))
	s.bulks.Add(1)
	h := w.Header()
	s.product(h, http.StatusOK)
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(out)))
	_, _ = w.Write(out) // a client that went away is its own business
}

// read reads a body whole into memory that is reused.
func (k *work) read(r *http.Request) ([]byte, error) {
	var from io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		if err := k.unzip.Reset(r.Body); err != nil {
			return nil, err
		}
		from = &k.unzip
	} else if n := int(r.ContentLength); n > cap(k.body) {
		k.body = make([]byte, 0, n+1) // one more to see the end with
	}
	b := k.body[:0]
	for {
		if len(b) == cap(b) {
			b = append(b, make([]byte, max(64<<10, cap(b)))...)[:len(b)]
		}
		n, err := from.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		k.body = b
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// appendCreated appends the answer for a body; n is the number of documents.
func appendCreated(out, body []byte) (_ []byte, n int, ok bool) {
	out = append(out, `{"errors":false,"items":[`...)
	for len(body) > 0 {
		end := bytes.IndexByte(body, '\n')
		if end < 0 {
			return out, n, false
		}
		action := body[:end]
		body = body[end+1:]
		if end = bytes.IndexByte(body, '\n'); end < 0 {
			return out, n, false
		}
		body = body[end+1:]
		if n > 0 {
			out = append(out, ',')
		}
		op := `{"create":{"_index":"`
		if bytes.HasPrefix(action, []byte(`{"index"`)) {
			op = `{"index":{"_index":"`
		}
		out = append(out, op...)
		out = append(out, quoted(action, `"_index":"`)...)
		out = append(out, `","_id":"`...)
		out = append(out, quoted(action, `"_id":"`)...)
		out = append(out, `","status":201}}`...)
		n++
	}
	return append(out, "]}\n"...), n, true
}

// quoted is the text behind a key, escaped as it was.
func quoted(b []byte, key string) []byte {
	i := bytes.Index(b, []byte(key))
	if i < 0 {
		return nil
	}
	b = b[i+len(key):]
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return b[:i]
		}
	}
	return nil
}
