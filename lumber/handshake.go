package lumber

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"time"
)

// handshake makes the connection one of TLS, where Config says so.
func (c *conn) handshake() error {
	if c.s.cfg.TLS == nil {
		return nil
	}
	// TLS costs memory and its errors do not tell who said nothing from who broke
	// off, so it begins with the first byte.
	var first [1]byte
	if _, err := c.receive(first[:]); err != nil {
		return err
	}
	if err := c.raw.SetReadDeadline(time.Time{}); err != nil {
		return &goneError{cause: err}
	}
	c.deadline = false
	t := tls.Server(&records{Conn: c.raw, first: first[:]}, c.s.cfg.TLS)
	c.nc = t
	ctx, cancel := context.WithTimeout(c.reading, c.s.cfg.Handshake)
	defer cancel()
	err := t.HandshakeContext(ctx)
	var plain tls.RecordHeaderError
	switch {
	case err == nil:
		return nil
	case c.reading.Err() != nil:
		return errStopped
	case ctx.Err() != nil:
		return violation(reasonHandshake, "no TLS handshake within %v", c.s.cfg.Handshake)
	case errors.As(err, &plain) && plain.Conn != nil:
		return violation(reasonTLSExpected, "the client does not speak TLS and this port does: set ssl in the sender (%v)", err)
	default:
		reason, mend := handshakeFailure(err)
		return violation(reason, "TLS handshake failed: %v%s", err, mend)
	}
}

// records is a connection from which no read goes beyond the TLS record that it
// is in. crypto/tls never gives its buffer back, and lets it grow to 40 KiB when a
// record of 16 KiB begins anywhere but at its start; so it stays at 18.
type records struct {
	net.Conn
	first []byte // read before, to be read again
	head  [5]byte
	held  int // bytes of head that have been read
	left  int // of the record behind it
}

func (r *records) Read(p []byte) (n int, err error) {
	if r.left > 0 {
		n, err = r.Conn.Read(p[:min(len(p), r.left)])
		r.left -= n
		return n, err
	}
	p = p[:min(len(p), len(r.head)-r.held)]
	if n = copy(p, r.first); n > 0 {
		r.first = nil
	} else {
		n, err = r.Conn.Read(p)
	}
	copy(r.head[r.held:], p[:n])
	if r.held += n; r.held == len(r.head) {
		r.held, r.left = 0, int(binary.BigEndian.Uint16(r.head[3:]))
	}
	return n, err
}

// handshakeFailure says which kind of failure it is, and what helps.
func handshakeFailure(err error) (reason, mend string) {
	var name *nameError
	var refused *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	var remote *net.OpError
	switch {
	case errors.As(err, &name):
		return reasonCertName, "; add one to it, or give the sender another certificate"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return reasonCertExpired, "; give the sender a certificate that is valid now (its ssl.certificate), and see that both clocks are right"
	case errors.As(err, &refused):
		return reasonCertAuthority, "; put the authority that signed the sender's certificate into input.ssl.certificate_authorities"
	case strings.Contains(err.Error(), "didn't provide a certificate"): // crypto/tls has no type for it
		return reasonCertMissing, "; set ssl.certificate and ssl.key in the sender, or input.ssl.client_authentication to optional"
	case errors.As(err, &remote) && remote.Op == "remote error":
		return reasonHandshake, "; the sender refuses: see that its ssl.certificate_authorities hold the authority of input.ssl.certificate, and that this names the host it connects to"
	default:
		return reasonHandshake, ""
	}
}
