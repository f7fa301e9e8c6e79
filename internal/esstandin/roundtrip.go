package esstandin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"syscall"
)

// RoundTrip answers a request without a network, on the caller's goroutine, so
// that a test may run on a clock of its own (testing/synctest). What would end a
// connection is an error here, or an answer that ends too early.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r = r.Clone(r.Context())
		r.Body = http.NoBody
	}
	defer r.Body.Close()
	rec := &memory{header: http.Header{}}
	if err := s.serve(rec, r); err != nil {
		return nil, err
	}
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	body := io.Reader(&rec.body)
	length := int64(rec.body.Len())
	if n, err := strconv.ParseInt(rec.header.Get("Content-Length"), 10, 64); err == nil && n > length {
		body, length = io.MultiReader(body, broken{}), n
	} else if rec.cut {
		body, length = io.MultiReader(body, broken{}), -1
	}
	return &http.Response{
		Status: http.StatusText(rec.status), StatusCode: rec.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: rec.header, Body: io.NopCloser(body), ContentLength: length, Request: r,
	}, nil
}

// serve turns the end of a connection into an error.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) (err error) {
	s.mu.Lock()
	refused := len(s.faults) > 0 && s.faults[0].Kind == "refused" && !s.faults[0].Stored
	s.mu.Unlock()
	defer func() {
		switch p := recover(); {
		case p == nil:
		case !errors.Is(asError(p), http.ErrAbortHandler):
			panic(p)
		case r.Context().Err() != nil:
			err = context.Cause(r.Context())
		case refused:
			err = syscall.ECONNREFUSED
		default:
			err = io.EOF
		}
	}()
	s.ServeHTTP(w, r)
	return nil
}

func asError(p any) error {
	err, _ := p.(error)
	return err
}

// maxMemory bounds an answer that is made whole before it is read; behind it the
// connection ends.
const maxMemory = 4 << 20

// memory is an answer in memory.
type memory struct {
	header http.Header
	status int
	body   bytes.Buffer
	cut    bool
}

func (m *memory) Header() http.Header { return m.header }

func (m *memory) WriteHeader(status int) {
	if m.status == 0 {
		m.status = status
	}
}

func (m *memory) Write(p []byte) (int, error) {
	m.WriteHeader(http.StatusOK)
	if m.body.Len()+len(p) > maxMemory {
		m.cut = true
		return 0, io.ErrShortWrite
	}
	return m.body.Write(p)
}

// broken is where a connection ended.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
