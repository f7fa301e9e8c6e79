package lumber

import (
	"context"
	"fmt"
	"log/slog"
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
	reasonVersion       = "version"         // unknown, or not the window's
	reasonFrameType     = "frame_type"      // unknown, or an ack from a client
	reasonWrongFrame    = "wrong_frame"     // D in a v2 window, J in a v1 one
	reasonWindowSize    = "window_size"     // over input.max_window
	reasonWindowBytes   = "window_bytes"    // over input.max_window_bytes
	reasonWindowShort   = "window_short"    // W before the last window is full
	reasonSurplus       = "surplus"         // events beyond the window
	reasonNested        = "nested"          // W or C inside C
	reasonCutFrame      = "cut_frame"       // a frame cut by the end of its C
	reasonZlib          = "zlib"            // not one whole zlib stream
	reasonEventSize     = "event_size"      // over 128 MiB
	reasonPairs         = "pairs"           // v1 pairs over 10,000
	reasonTruncated     = "truncated"       // the connection ended inside a frame or window
	reasonNoData        = "no_data"         // the connection ended before its first byte
	reasonFirstByte     = "first_byte"      // none in time
	reasonStalled       = "stalled"         // no byte for too long inside a frame or window
	reasonSlow          = "slow"            // holds budget, others wait, and hardly sends
	reasonHTTP          = "http"            // an HTTP client
	reasonTLSUnexpected = "tls_unexpected"  // TLS to a plain port
	reasonTLSExpected   = "tls_expected"    // plain text to a TLS port
	reasonHandshake     = "handshake"       // TLS refused by one side
	reasonMaxConns      = "max_connections" // one connection too many
	reasonPanic         = "panic"           // a defect of this program
)

// complaints writes log lines about clients: at most linesPerMinute for each
// reason, with the number of those left out, so that a port scan or a sender
// that retries for ever cannot fill a disk.
type complaints struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	counts map[string]*complaintCount // one per reason
}

type complaintCount struct {
	since  time.Time
	lines  int
	silent int
}

const linesPerMinute = 10

func (c *complaints) write(level slog.Level, msg, reason string, attrs ...slog.Attr) {
	if !c.log.Enabled(context.Background(), level) {
		return
	}
	now := c.now()
	c.mu.Lock()
	n := c.counts[reason]
	if n == nil {
		n = &complaintCount{since: now}
		c.counts[reason] = n
	}
	if now.Sub(n.since) >= time.Minute {
		n.since, n.lines = now, 0
	}
	if n.lines >= linesPerMinute {
		n.silent++
		c.mu.Unlock()
		return
	}
	n.lines++
	silent := n.silent
	n.silent = 0
	c.mu.Unlock()

	attrs = append(attrs, slog.String("reason", reason))
	if silent > 0 {
		attrs = append(attrs, slog.Int("similar_left_out", silent))
	}
	c.log.LogAttrs(context.Background(), level, msg, attrs...)
}
