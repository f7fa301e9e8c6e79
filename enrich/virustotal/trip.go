package virustotal

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

const (
	// maxBody bounds an answer, on the wire and inflated. Files with many names
	// and relations have been seen at some hundred KiB.
	maxBody = 8 << 20
)

// errTrip is what vt-go sees of a fault; the fault itself is in the trip.
var errTrip = errors.New("no answer")

// proxyRefusal is the status of a proxy that makes no connection.
type proxyRefusal int

func (proxyRefusal) Error() string { return "refused by the proxy" }

// connected judges a proxy's answer to CONNECT. Go's own error is its words alone.
func connected(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return proxyRefusal(resp.StatusCode)
	}
	return nil
}

// trip is the way of one request. vt-go knows no contexts, loses the status of
// an answer that is not JSON, inflates without a bound and reads until
// whenever: so all of that happens here, and vt-go gets a body in memory. It is
// used by one goroutine, for one request.
type trip struct {
	ctx  context.Context
	next http.RoundTripper

	status int         // 0: no answer came
	header http.Header // of the answer
	fault  string      // why there is nothing to read; stable words

	code, message string // what VirusTotal said instead of an object; a stranger's words
}

func (t *trip) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req.WithContext(t.ctx))
	if err != nil {
		t.fault = t.why(err)
		return nil, errTrip
	}
	t.status, t.header = resp.StatusCode, resp.Header
	body, fault := t.read(resp)
	// What is left of a body that is too long is not worth reading to save a connection.
	if err := resp.Body.Close(); err != nil && fault == "" {
		fault = t.why(err)
	}
	if fault == "" && resp.StatusCode >= 300 && resp.StatusCode < 400 {
		fault = "redirected"
	}
	if fault != "" {
		t.fault = fault
		return nil, errTrip
	}
	resp.Header = resp.Header.Clone()
	resp.Header.Del("Content-Encoding")
	resp.ContentLength = int64(len(body))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// read takes the whole body, inflated, within the bound.
func (t *trip) read(resp *http.Response) (body []byte, fault string) {
	wire := &io.LimitedReader{R: resp.Body, N: maxBody + 1}
	var r io.Reader = wire
	switch strings.ToLower(resp.Header.Get("Content-Encoding")) {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(wire)
		if errors.Is(err, io.EOF) && wire.N == maxBody+1 {
			return nil, "" // no body at all
		}
		if err != nil {
			return nil, t.why(err)
		}
		r = io.LimitReader(z, maxBody+1)
	default:
		return nil, "unknown content encoding"
	}
	body, err := io.ReadAll(r)
	switch {
	case len(body) > maxBody || wire.N <= 0:
		return nil, "answer too large"
	case err != nil:
		return nil, t.why(err)
	}
	return body, ""
}

// why is a fault in a few stable words. The error's own text would hold the
// address, a proxy's password, or whatever the other side sent.
func (t *trip) why(err error) string {
	var (
		netErr  net.Error
		dnsErr  *net.DNSError
		opErr   *net.OpError
		refusal proxyRefusal
		certErr *tls.CertificateVerificationError
		hostErr x509.HostnameError
		oldErr  x509.CertificateInvalidError
		recErr  tls.RecordHeaderError
		alert   tls.AlertError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(t.ctx.Err(), context.DeadlineExceeded):
		return "timed out"
	case t.ctx.Err() != nil:
		return "cancelled"
	case errors.As(err, &refusal):
		return fmt.Sprintf("proxy answered HTTP %d", int(refusal))
	case errors.As(err, &opErr) && opErr.Op == "proxyconnect":
		return "proxy not reached"
	case errors.As(err, &hostErr):
		return "certificate of another host"
	case errors.As(err, &oldErr) && oldErr.Reason == x509.Expired:
		return "certificate expired"
	case errors.As(err, &certErr):
		return "certificate not trusted"
	case errors.As(err, &recErr), errors.As(err, &alert):
		return "TLS failed"
	case errors.As(err, &dnsErr):
		return "host name not resolved"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &netErr) && netErr.Timeout():
		return "timed out"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "answer cut short"
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum):
		return "answer damaged"
	default:
		return "connection failed"
	}
}
