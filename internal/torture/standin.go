package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"vtsidecar/internal/vtstandin"
)

// virusTotal is a stand-in VirusTotal on a port of its own. It knows every value.
type virusTotal struct {
	*vtstandin.Server
	url  string
	http *http.Server
}

func startVirusTotal() (*virusTotal, error) {
	s, err := vtstandin.New(vtstandin.Config{Generate: true})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	v := &virusTotal{Server: s, url: "http://" + l.Addr().String(), http: &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}}
	go func() { _ = v.http.Serve(l) }() // until stop
	return v, nil
}

func (v *virusTotal) stop() error {
	v.Close() // first: what hangs would hold the shutdown
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := v.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = v.http.Close()
	}
	return err
}

// settings are the flags that every sidecar here has.
func (v *virusTotal) settings() []string {
	return []string{"--vt.url", v.url, "--vt.api_key", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		"--vt.limit.minute", "0", "--vt.limit.day", "0", "--vt.limit.month", "0"}
}
