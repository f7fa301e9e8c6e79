package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	lumber "github.com/elastic/go-lumber/client/v2"
	"github.com/urfave/cli/v2"
)

// maxLine bounds a line of send: the longest event that a server reads at all.
const maxLine = 128 << 20

// sendCommand sends events as a Beat would: windows of lumberjack v2, each
// waited for. It exists to try a server, ours or another, without a Beat.
func sendCommand(e *env, usage cli.OnUsageErrorFunc) *cli.Command {
	return &cli.Command{
		Name:         "send",
		Usage:        "sends NDJSON from files or standard input as a Beat would, and waits for the acks",
		UsageText:    "vtsidecar send --to HOST:PORT [FILE…]",
		OnUsageError: usage,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "`HOST:PORT` of the server"},
			&cli.IntFlag{Name: "bulk_max_size", Value: 2048, Usage: "events a window"},
			&cli.IntFlag{Name: "compression_level", Value: 3, Usage: "0 (none) to 9"},
			&cli.DurationFlag{Name: "timeout", Value: 30 * time.Second, Usage: "how long to wait for an ack without a sign of life"},
			&cli.StringFlag{Name: "ssl.certificate_authorities", Usage: "speak TLS and trust the authorities in this PEM `FILE`"},
			&cli.StringFlag{Name: "ssl.certificate", Usage: "client certificate, a PEM `FILE`"},
			&cli.StringFlag{Name: "ssl.key", Usage: "the certificate's key, a PEM `FILE`"},
		},
		Action: e.action(send),
	}
}

func send(c *cli.Context, e env) error {
	if err := noUnknownFlags(e); err != nil {
		return err
	}
	to := c.String("to")
	if to == "" {
		return usagef("send needs --to HOST:PORT")
	}
	if _, _, err := net.SplitHostPort(to); err != nil {
		return usagef("--to %s: not HOST:PORT", to)
	}
	window, level := c.Int("bulk_max_size"), c.Int("compression_level")
	if window < 1 {
		return usagef("--bulk_max_size %d: must be at least 1", window)
	}
	if level < 0 || level > 9 {
		return usagef("--compression_level %d: must be from 0 to 9", level)
	}
	tlsConfig, err := sendTLS(c, to)
	if err != nil {
		return usageError{err}
	}

	client, err := dial(c.Context, to, tlsConfig, lumber.CompressionLevel(level), lumber.Timeout(c.Duration("timeout")),
		lumber.JSONEncoder(func(v any) ([]byte, error) { return v.([]byte), nil }))
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("connect to %s: %w; start the server first, or see its address=", to, err)
	}
	if err != nil {
		return fmt.Errorf("connect to %s: %w", to, err)
	}
	defer client.Close()
	// The client blocks in reads and writes; closing it is what ends them early.
	defer context.AfterFunc(c.Context, func() { client.Close() })()

	s := sender{client: client, window: window}
	if err := s.files(c.Args().Slice(), e.stdin); err != nil {
		if c.Context.Err() != nil {
			err = errors.New("interrupted")
		}
		return fmt.Errorf("%w (%d events were acknowledged before)", err, s.acked)
	}
	fmt.Fprintf(e.stderr, "%d events sent and acknowledged.\n", s.acked)
	return nil
}

// dial connects within ctx; go-lumber's own dialler knows no context and no TLS.
func dial(ctx context.Context, to string, tlsConfig *tls.Config, opts ...lumber.Option) (*lumber.SyncClient, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	if tlsConfig != nil {
		t := tls.Client(conn, tlsConfig)
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = t
	}
	client, err := lumber.NewSyncClientWithConn(conn, opts...)
	if err != nil {
		conn.Close()
	}
	return client, err
}

func sendTLS(c *cli.Context, to string) (*tls.Config, error) {
	cas, cert, key := c.String("ssl.certificate_authorities"), c.String("ssl.certificate"), c.String("ssl.key")
	if cas == "" && cert == "" && key == "" {
		return nil, nil
	}
	host, _, _ := net.SplitHostPort(to)
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if cas != "" {
		pem, err := os.ReadFile(cas)
		if err != nil {
			return nil, fmt.Errorf("--ssl.certificate_authorities: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ssl.certificate_authorities %s: no PEM certificate in it", cas)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("--ssl.certificate and --ssl.key go together")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("--ssl.certificate %s, --ssl.key %s: %w", cert, key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// sender gathers lines into windows.
type sender struct {
	client *lumber.SyncClient
	window int   // events a window, at least 1
	events []any // the window that is being filled
	acked  int
}

func (s *sender) files(names []string, stdin io.Reader) error {
	if len(names) == 0 {
		names = []string{"-"}
	}
	for _, name := range names {
		if err := s.file(name, stdin); err != nil {
			return err
		}
	}
	return s.flush()
}

func (s *sender) file(name string, stdin io.Reader) error {
	in := stdin
	if name == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		if line[0] != '{' || !json.Valid(line) {
			return fmt.Errorf("%s:%d: not a JSON object; a Beat sends nothing else", name, n)
		}
		if s.events = append(s.events, bytes.Clone(line)); len(s.events) == s.window {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func (s *sender) flush() error {
	for len(s.events) > 0 {
		n, err := s.client.Send(s.events)
		s.acked += n
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		s.events = s.events[n:]
	}
	s.events = s.events[:0]
	return nil
}
