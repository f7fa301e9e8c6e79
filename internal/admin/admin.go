// Package admin serves what an operator and an orchestrator ask: is it alive,
// is it ready, what are its figures.
//
// Promise: nothing here changes anything, whatever is sent; a browser that was
// lured by a strange name gets nothing; and no check that breaks takes the
// server or the program with it.
package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one part of readiness.
type Check struct {
	// Name is the part, as it stands before the reason: "output".
	Name string
	// Ready is nil where the part is ready, else the reason in a few words. It
	// is called at each question, concurrently, and must answer at once from
	// what it knows: it does no I/O and takes no lock that is held over any.
	Ready func() error
}

// Config says what is served. Its zero value serves /livez, and /readyz that is
// always ready.
type Config struct {
	// Host is the host of admin.address as it was written; requests may name it.
	// Empty: only addresses and localhost.
	Host     string
	Gatherer prometheus.Gatherer // nil: no /metrics
	Checks   []Check             // all have to be ready
	Version  string              // shown on the page
	Log      *slog.Logger        // nil: silent
}

// Server is the admin server. It is safe for concurrent use.
type Server struct {
	cfg  Config
	http *http.Server
}

const page = `<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>vtsidecar</title></head>
<body>
<h1>vtsidecar %s</h1>
<ul>
<li><a href="/livez">/livez</a>: the process answers</li>
<li><a href="/readyz">/readyz</a>: it takes events; if not, why</li>
<li><a href="/metrics">/metrics</a>: figures for Prometheus</li>
</ul>
</body>
</html>
`

// New makes a server; Serve starts it.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("/readyz", s.ready)
	mux.HandleFunc("/{$}", s.page)
	if cfg.Gatherer != nil {
		mux.Handle("/metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{
			// Scrapes share the program's two cores with its work.
			MaxRequestsInFlight: 4,
			ErrorHandling:       promhttp.ContinueOnError,
		}))
	}
	s.http = &http.Server{
		Handler:           s.guard(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers on l until Shutdown, and closes it. It returns nil after Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admin.address: %w", err)
	}
	return nil
}

// Shutdown stops listening, lets requests finish until ctx is done and then
// ends them.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("stop the admin server: %w", err), s.http.Close())
	}
	return nil
}

// guard is before everything: methods, the Host header, panics.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.cfg.Log.Error("The admin server could not answer", "url.path", r.URL.Path, "error", fmt.Errorf("panic: %v", p))
				text(w, http.StatusInternalServerError, "internal error\n")
			}
		}()
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		if !s.hostAllowed(r) {
			text(w, http.StatusForbidden, "this name is not served here: use an address, or the host that admin.address names\n")
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			text(w, http.StatusMethodNotAllowed, "only GET and HEAD\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostAllowed protects against DNS rebinding: a page of a stranger's name that
// resolves to this address must not be able to read it. A name is allowed when
// it is loopback's or was configured; an address always, since a page whose
// origin is an address was served there. It need not be one of this machine's:
// a container knows nothing of the one it is published on.
func (s *Server) hostAllowed(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), "."))
	if host == "localhost" || host != "" && strings.EqualFold(host, s.cfg.Host) {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && !addr.Unmap().IsUnspecified() // browsers take that for loopback's name
}

// ready is 200, or 503 with a line for each part that is not.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	var failing bytes.Buffer
	for _, c := range s.cfg.Checks {
		if err := s.ask(c); err != nil {
			fmt.Fprintf(&failing, "%s: %s\n", c.Name, strings.Join(strings.Fields(err.Error()), " "))
		}
	}
	if failing.Len() > 0 {
		text(w, http.StatusServiceUnavailable, failing.String())
		return
	}
	text(w, http.StatusOK, "ok\n")
}

// ask runs a check. One that panics is not ready, and the others still answer.
func (s *Server) ask(c Check) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("A readiness check broke", "part", c.Name, "error", fmt.Errorf("panic: %v", p))
			err = errors.New("its check broke")
		}
	}()
	return c.Ready()
}

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	version := strings.NewReplacer("<", "", ">", "", "&", "").Replace(s.cfg.Version)
	// The reader may be gone; there is nobody to tell.
	_, _ = fmt.Fprintf(w, page, version)
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}
