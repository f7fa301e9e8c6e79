package vtstandin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"vtsidecar/internal/standin"
)

// takeFault is the disturbance of one request, of those set at from.
func (s *Server) takeFault(from *Fault, value string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := *from
	if f.Kind == "" || f.Match != "" && f.Match != value {
		return Fault{}
	}
	if f.Times > 0 {
		if from.Times--; from.Times == 0 {
			*from = Fault{}
		}
	}
	return f
}

var usualCodes = map[int]string{
	400: "BadRequestError", 401: "WrongCredentialsError", 403: "ForbiddenError", 404: "NotFoundError",
	429: "TooManyRequestsError", 503: "TransientError", 504: "DeadlineExceededError",
}

const page = "<!doctype html><html><head><title>Gateway</title></head><body>Please sign in</body></html>\n"

// faultBeforeAnswer answers in place of VirusTotal where the fault says so.
func (s *Server) faultBeforeAnswer(w http.ResponseWriter, r *http.Request, f Fault) bool {
	h := w.Header()
	switch f.Kind {
	case "status":
		code := f.Code
		if code == "" {
			code = usualCodes[f.Status]
		}
		if f.RetryAfter != "" {
			h.Set("Retry-After", f.RetryAfter)
		}
		writeError(w, f.Status, code, "as the fault says")
	case "html", "status_html":
		h.Set("Content-Type", "text/html; charset=utf-8")
		if f.Kind == "html" {
			f.Status = http.StatusOK
		}
		w.WriteHeader(f.Status)
		_, _ = fmt.Fprint(w, page)
	case "hang":
		standin.Hang(r, s.done)
	case "reset":
		panic(http.ErrAbortHandler)
	case "redirect":
		host := r.Host
		if name, port, err := net.SplitHostPort(host); err == nil && name == "127.0.0.1" {
			host = net.JoinHostPort("localhost", port) // another host to a client, the same listener
		}
		h.Set("Location", "http://"+host+redirected+r.URL.EscapedPath())
		h.Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusFound)
		_, _ = fmt.Fprint(w, "{}")
	case "huge":
		h.Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		spaces := bytes.Repeat([]byte(" "), 1<<20)
		for range 64 {
			if _, err := w.Write(spaces); err != nil {
				break
			}
		}
	case "bomb":
		h.Set("Content-Type", "application/json")
		h.Set("Content-Encoding", "gzip")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(bomb())
	case "empty":
		h.Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
	case "echo":
		writeError(w, http.StatusBadGateway, r.Header.Get("X-Apikey"), fmt.Sprint(r.RequestURI, " ", r.Header))
	default:
		return false
	}
	return true
}

// bomb is 1 GiB of spaces in about 1 MiB: a gzip may have many members.
var bomb = sync.OnceValue(func() []byte {
	member := zip(bytes.Repeat([]byte(" "), 4<<20))
	return bytes.Repeat(member, 1<<30/(4<<20))
})

// admin lets scripts drive a stand-in:
//
//	GET  /_standin/requests                 Stats
//	GET  /_standin/expected?type=T&value=V  what is answered about a value
//	POST /_standin/faults                   a Fault, and "latency" as a Go duration
//	POST /_standin/objects                  one Object into the table
//	POST /_standin/use?requests=N           N requests of another program with the key
//	POST /_standin/reset                    forget what was seen and used up
func (s *Server) admin(w http.ResponseWriter, r *http.Request) {
	body := http.MaxBytesReader(w, r.Body, 1<<20)
	switch r.Method + " " + strings.TrimPrefix(r.URL.Path, "/_standin/") {
	case "GET requests":
		writeJSON(w, http.StatusOK, s.Stats())
	case "GET expected":
		q := r.URL.Query()
		o, ok := s.Expected(q.Get("type"), q.Get("value"))
		result := "unknown"
		if ok {
			result = o.Result()
		}
		writeJSON(w, http.StatusOK, map[string]any{"found": ok, "result": result, "object": o})
	case "POST faults":
		var in struct {
			Fault
			Latency *string `json:"latency"`
		}
		d := json.NewDecoder(body)
		d.DisallowUnknownFields()
		err := d.Decode(&in)
		var latency time.Duration
		if err == nil && in.Latency != nil {
			latency, err = time.ParseDuration(*in.Latency)
		}
		if err == nil {
			err = s.SetFault(in.Fault)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if in.Latency != nil {
			s.SetLatency(latency)
		}
		w.WriteHeader(http.StatusNoContent)
	case "POST objects":
		var o Object
		d := json.NewDecoder(body)
		d.DisallowUnknownFields()
		err := d.Decode(&o)
		if err == nil {
			err = s.Add(o)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case "POST use":
		n, err := strconv.Atoi(r.URL.Query().Get("requests"))
		if err != nil || n < 0 {
			http.Error(w, "requests must be a number", http.StatusBadRequest)
			return
		}
		s.Use(n)
		w.WriteHeader(http.StatusNoContent)
	case "POST reset":
		s.Reset()
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "no such thing", http.StatusNotFound)
	}
}
