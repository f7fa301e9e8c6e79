package lumber

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// protocolError is why a connection was closed because of what its client sent
// or did not send. The reasons are the fixed set that metrics carry.
type protocolError struct {
	reason string
	text   string // in words, with the mend where there is one
	level  slog.Level
}

func (e *protocolError) Error() string { return e.text }

func violation(reason, format string, args ...any) *protocolError {
	return &protocolError{reason: reason, text: fmt.Sprintf(format, args...), level: slog.LevelWarn}
}

// Reasons, as they stand in vtsidecar_protocol_errors_total.
const (
	reasonVersion       = "version"        // unknown, or not the window's
	reasonFrameType     = "frame_type"     // unknown, or an ack from a client
	reasonWrongFrame    = "wrong_frame"    // D in a v2 window, J in a v1 one
	reasonWindowSize    = "window_size"    // over input.max_window
	reasonWindowBytes   = "window_bytes"   // over input.max_window_bytes
	reasonWindowShort   = "window_short"   // W before the last window is full
	reasonSurplus       = "surplus"        // events beyond the window
	reasonNested        = "nested"         // W or C inside C
	reasonCutFrame      = "cut_frame"      // a frame cut by the end of its C
	reasonZlib          = "zlib"           // not one whole zlib stream
	reasonEventSize     = "event_size"     // over 128 MiB
	reasonPairs         = "pairs"          // v1 pairs over 10,000
	reasonTruncated     = "truncated"      // the connection ended inside a frame or window
	reasonFirstByte     = "first_byte"     // none in time
	reasonStalled       = "stalled"        // no byte for too long inside a frame or window
	reasonSlow          = "slow"           // holds budget, others wait, and hardly sends
	reasonHTTP          = "http"           // an HTTP client
	reasonTLSUnexpected = "tls_unexpected" // TLS to a plain port
	reasonTLSExpected   = "tls_expected"   // plain text to a TLS port
	reasonHandshake     = "handshake"      // TLS failed for another reason than those that follow
	reasonCertMissing   = "certificate_missing"
	reasonCertExpired   = "certificate_expired"   // or not valid yet
	reasonCertAuthority = "certificate_authority" // not of input.ssl.certificate_authorities, or not for clients
	reasonCertName      = "certificate_name"      // none of input.ssl.allowed_names
	reasonMaxConns      = "max_connections"       // one connection too many
	reasonMaxPerAddress = "max_connections_per_address"
	reasonPanic         = "panic" // a defect of this program
)

// protocolReasons are all of them: an alert on increase() does not see a series
// that begins at 1.
var protocolReasons = []string{
	reasonVersion, reasonFrameType, reasonWrongFrame, reasonWindowSize, reasonWindowBytes,
	reasonWindowShort, reasonSurplus, reasonNested, reasonCutFrame, reasonZlib, reasonEventSize,
	reasonPairs, reasonTruncated, reasonFirstByte, reasonStalled, reasonSlow, reasonHTTP,
	reasonTLSUnexpected, reasonTLSExpected, reasonHandshake, reasonCertMissing, reasonCertExpired,
	reasonCertAuthority, reasonCertName, reasonMaxConns, reasonMaxPerAddress, reasonPanic,
}

// What else is in log lines.
const (
	reasonNoData  = "no_data" // the connection ended before its first byte
	reasonHandler = "handler" // a window was not stored
	reasonStuck   = "stuck"   // nothing was stored for too long
	reasonClosing = "closing" // a new connection while the server stops; not logged
)

// complaints writes log lines about clients: for each reason at most one a
// minute about an address and linesPerMinute in all, each with the number of
// those left out before it, so that neither a sender that retries for ever nor a
// port scan can fill a disk. Reasons are few and only addresses with a line are
// remembered, for a minute, so it stays small whoever connects.
type complaints struct {
	log *slog.Logger

	mu      sync.Mutex
	reasons map[string]*complaint
}

type complaint struct {
	since   time.Time    // beginning of the minute
	told    []netip.Addr // who had a line in it; at most linesPerMinute
	leftOut int          // since the last line
}

const linesPerMinute = 10

func (c *complaints) write(level slog.Level, msg, reason string, about *conn, attrs ...slog.Attr) {
	if !c.log.Enabled(context.Background(), level) {
		return
	}
	leftOut, ok := c.take(reason, about.addr, time.Now())
	if !ok {
		return
	}
	attrs = append(attrs, slog.String("remote", about.remote), slog.String("reason", reason))
	if leftOut > 0 {
		attrs = append(attrs, slog.Int("similar_left_out", leftOut))
	}
	c.log.LogAttrs(context.Background(), level, msg, attrs...)
}

// take reports whether there may be a line now, and how many there were not
// since the last one.
func (c *complaints) take(reason string, addr netip.Addr, now time.Time) (leftOut int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.reasons[reason]
	if r == nil {
		r = &complaint{}
		c.reasons[reason] = r
	}
	if now.Sub(r.since) >= time.Minute {
		r.since, r.told = now, r.told[:0]
	}
	if len(r.told) >= linesPerMinute || slices.Contains(r.told, addr) {
		r.leftOut++
		return 0, false
	}
	r.told = append(r.told, addr)
	leftOut, r.leftOut = r.leftOut, 0
	return leftOut, true
}
