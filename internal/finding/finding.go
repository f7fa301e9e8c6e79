// Package finding says what a test of an output found, in words for people and
// for --json: what was looked at, how it is, and the mend.
//
// Promise: what must be mended is said with the setting or the host, and the mend;
// what could not be looked at is called unknown, never right.
package finding

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// Results.
const (
	OK      = "ok"
	Wrong   = "wrong"   // events wait, or are refused, until it is mended
	Warning = "warning" // events are stored all the same
	Unknown = "unknown" // it could not be looked at
)

// Finding is one thing that was looked at.
type Finding struct {
	What   string `json:"what"`
	Result string `json:"result"`
	Detail string `json:"detail"`
}

// List is what was found, in the order of looking.
type List []Finding

func (l *List) add(what, result, format string, args []any) {
	*l = append(*l, Finding{What: what, Result: result, Detail: fmt.Sprintf(format, args...)})
}

// OK adds that something is right.
func (l *List) OK(what, format string, args ...any) { l.add(what, OK, format, args) }

// Wrong adds that something must be mended.
func (l *List) Wrong(what, format string, args ...any) { l.add(what, Wrong, format, args) }

// Warn adds that something is not as it should be.
func (l *List) Warn(what, format string, args ...any) { l.add(what, Warning, format, args) }

// Unknown adds that something could not be looked at.
func (l *List) Unknown(what, format string, args ...any) { l.add(what, Unknown, format, args) }

// Count is how many have a result.
func (l List) Count(result string) (n int) {
	for _, f := range l {
		if f.Result == result {
			n++
		}
	}
	return n
}

// ProxyCredentials says that a proxy wants to know who asks it, and the mend.
// output is as for Connection.
func ProxyCredentials(output string) string {
	return "the proxy wants a user and a password: write them into " + output + ".proxy_url as http://USER:PASSWORD@HOST:PORT"
}

// Connection says why a connection came to nothing, and the mend. output is the
// name before the settings of the output: "output.elasticsearch".
func Connection(err error, output string) string {
	var (
		dns     *net.DNSError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
		op      *net.OpError
		timeout net.Error
		text    = err.Error()
	)
	proxy := errors.As(err, &op) && op.Op == "proxyconnect"
	switch {
	case strings.Contains(text, "Proxy Authentication Required"):
		return ProxyCredentials(output)
	case proxy:
		return "the proxy cannot be reached (" + text + "): mend " + output + ".proxy_url or the environment's HTTPS_PROXY, or write none"
	case errors.As(err, &dns):
		return "the name " + dns.Name + " cannot be resolved: mend " + output + ".hosts, or this machine's DNS"
	case errors.As(err, &unknown):
		return "its certificate is signed by an authority that is not trusted here: name the authority in " + output + ".ssl.certificate_authorities or .ssl.ca_trusted_fingerprint"
	case errors.As(err, &name):
		return "its certificate is for another name (" + name.Error() + "): use a name that stands in it in " + output + ".hosts"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not valid yet (" + invalid.Detail + "): renew it, or mend this machine's clock"
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return "it speaks no TLS on this port: use the port that does, or take TLS out of " + output
	case strings.Contains(text, "remote error: tls: ") && strings.Contains(text, "certificate"):
		return "it refuses this client's certificate, or the lack of one (" + text + "): mend " + output + ".ssl.certificate and .ssl.key"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens there (connection refused): is it started, and is this its port?"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time: is it overloaded, or a firewall on the way?"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "it closes the connection without an answer: is this its port?"
	}
	return text
}

// SpeaksTLS reports whether somebody answers at HOST:PORT in TLS. Nothing is
// told to whoever that is.
func SpeaksTLS(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	// Nobody is trusted: the connection ends with the handshake.
	err = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
	return err == nil || strings.Contains(err.Error(), "remote error: tls: ")
}
