package main

// The table of outcomes: what must be tried against a lumberjack server, and
// what must come of it. Each row stands here with both, and with the trials that
// try it; main_test.go holds that no row is without one.

// row is one row of the table.
type row struct {
	input   string // what is sent
	outcome string // what must come of it
	trials  []trial
}

// transport is over what a trial is tried.
type transport int

const (
	both transport = iota
	plainOnly
	tlsOnly
)

// trial is one thing that is tried.
type trial struct {
	sent string // in words
	over transport
	// slow: it takes a time that the server waits; it runs beside the others, once.
	slow bool
	// heavy: it is not repeated when everything comes at once.
	heavy bool
	// run tries it on a target that others use too, and says what came of it.
	run func(t *target) (outcome string, err error)
	// alone, in place of run, tries it with a process of its own.
	alone func(l *life) (outcome string, err error)
}

// rows is the table, with its rows in the reference's order and those of the
// contract behind them.
func rows() []row {
	return []row{
		{
			input: "window 0", outcome: "A 0 at once",
			trials: zeroWindows(),
		},
		{
			input: "window over the cap; W before the last window is full; events beyond it; A from a client; unknown type or version; " +
				"D in a v2 window, J in a v1 one; W or C inside C; a frame cut by the end of its C; truncated zlib, bad Adler-32, " +
				"preset dictionary, junk after the stream; v1 pairs over 10,000",
			outcome: "closed, unacked, counted by reason; nothing allocated for what is only announced",
			trials:  violations(),
		},
		{
			input: "events of a window spread over several C and J; empty C", outcome: "one window; passed over",
			trials: spreads(),
		},
		{
			input: "J of length 0, over max_event, up to 128 MiB", outcome: "one malformed event: dead-lettered, window goes on",
			trials: sizes(),
		},
		{
			input: "J of 2^31-1, 2^31, 2^32-1; a window that inflates beyond max_window_bytes", outcome: "closed",
			trials: giants(),
		},
		{
			input: "seq 0, gaps, descending, never reset, rolling over", outcome: "ack the last event's number",
			trials: sequences(),
		},
		{
			input: "every frame split at every byte; a byte at a time; several windows in one packet", outcome: "acked in order",
			trials: splits(),
		},
		{
			input: "v1: empty or duplicate keys, NUL bytes, invalid UTF-8", outcome: "acked; what cannot be JSON is dead-lettered",
			trials: pairs(),
		},
		{
			input:   "JSON scalar, array, null, BOM, invalid UTF-8, deeper than 1,000, two values, trailing comma, NaN, raw control characters",
			outcome: "dead-lettered alone, neighbours stored, window acked",
			trials:  malformed(),
		},
		{
			input:   "lone surrogate escapes, duplicate keys, 100,000 keys, 2^53+1, 2^64-1, 1e400, odd @timestamp, escaped keys (sour\\u0063e)",
			outcome: "stored byte for byte",
			trials:  verbatim(),
		},
		{
			input: "CR/LF between tokens", outcome: "stored as one line",
			trials: lineBreaks(),
		},
		{
			input: "@metadata as a string, twice, first, last", outcome: "gone; routing falls back",
			trials: metadataPlaces(),
		},
		{
			input: "stall at handshake, first byte, header, body", outcome: "closed after 10 s, 10 s, 30 s without a byte; others never notice",
			trials: stalls(),
		},
		{
			input:   "never reads acks; slow reader; half-close after a window",
			outcome: "acks wait or come; memory bounded; half-close gets all its acks",
			trials:  readers(),
		},
		{
			input: "RST mid-window; connect and close; HTTP; TLS to plaintext and the reverse; random bytes", outcome: "closed, counted",
			trials: strangersAtTheDoor(),
		},
		{
			input: "the same window again while its first copy is in flight", outcome: "both acked; one identity where events have a position or _id",
			trials: repeats(),
		},
		{
			input: "expired, wrong-CA, rotating certificates", outcome: "refused with the reason; new ones served without a restart",
			trials: certificates(),
		},
		{
			input:   "EMFILE, SIGSTOP for 60 s, SIGKILL at each step before the ack, SIGTERM during an outage, two SIGTERMs",
			outcome: "goes on; nothing acked is lost",
			trials:  lives(),
		},
		{
			input: "the output away, with a window that was read", outcome: "no ack, A 0 at least every 10 s, readiness false; the ack when it is back (contract: Ack, Keepalive)",
			trials: outages(),
		},
		{
			input: "one connection too many; memory held while others wait for it", outcome: "refused; must deliver 64 KiB/s or is closed (contract: settings, Flow)",
			trials: shortages(),
		},
	}
}

const tableRows = 18 // of the reference; those behind are the contract's
