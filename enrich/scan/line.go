package scan

import "vtsidecar/internal/event"

// AppendLine appends the event that r describes as one line, ended by "\n":
// without @metadata, without an incoming arcanna.ioc, with CR and LF between
// tokens as spaces, and with ioc (a JSON object on one line) as arcanna.ioc: in
// the event's arcanna object (its last one), else at the event's end. White space
// around the event goes. With an empty ioc nothing is put in.
// raw is the slice that was scanned.
func (r *Result) AppendLine(dst, raw, ioc []byte) []byte {
	at, filled, name, close := r.end-1, r.filled, `"arcanna":{"ioc":`, "}"
	switch r.site {
	case siteObject:
		at, filled, name, close = r.siteAt, r.siteFilled, `"ioc":`, ""
	case siteDotted:
		name, close = `"arcanna.ioc":`, ""
	}
	dst, cuts := r.appendPart(dst, raw, r.begin, at, r.cuts)
	if len(ioc) > 0 {
		if filled {
			dst = append(dst, ',')
		}
		dst = append(dst, name...)
		dst = append(dst, ioc...)
		dst = append(dst, close...)
	}
	dst, _ = r.appendPart(dst, raw, at, r.end, cuts)
	return append(dst, '\n')
}

// AppendLineKeepingVerdict is AppendLine for a trusted event that brought its
// own arcanna.ioc: that stays as it is.
func (r *Result) AppendLineKeepingVerdict(dst, raw []byte) []byte {
	dst, _ = r.appendPart(dst, raw, r.begin, r.end, r.metaCuts)
	return append(dst, '\n')
}

// appendPart appends raw[from:to] less the cuts that begin in it, which it
// returns the rest of, with line breaks as spaces.
func (r *Result) appendPart(dst, raw []byte, from, to int, cuts []span) ([]byte, []span) {
	begin := len(dst)
	for len(cuts) > 0 && cuts[0].from < to {
		dst = append(dst, raw[from:cuts[0].from]...)
		from = cuts[0].to
		cuts = cuts[1:]
	}
	dst = append(dst, raw[from:to]...)
	if r.breaks {
		// Strings cannot hold a raw CR or LF, so all of them are between tokens.
		for i, c := range dst[begin:] {
			if c == '\n' || c == '\r' {
				dst[begin+i] = ' '
			}
		}
	}
	return dst, cuts
}

// spare is how much scratch a Result keeps whatever the events are like.
const spare = 64 << 10

// reset makes r ready for an event of n bytes. Scratch that is out of all
// proportion to it goes, so that one large event does not cost its memory for
// ever; small amounts stay, so that a mix of sizes does not allocate.
func (r *Result) reset(n int) {
	if r.Size() > max(spare, 32*n) {
		*r = Result{}
	}
	r.Values, r.Dropped = r.Values[:0], 0
	r.HasPosition, r.MetadataID, r.HadVerdict, r.HasSite = false, nil, false, false
	r.breaks, r.cuts, r.metaCuts = false, r.cuts[:0], r.metaCuts[:0]
	r.site, r.siteAt, r.siteFilled = siteEnd, 0, false
	r.meta = span{}
	r.text, r.virtual, r.groups = r.text[:0], r.virtual[:0], 0
}

// Sizes of elements in bytes, on 64-bit machines.
const (
	valueSize   = 64
	spanSize    = 16
	sliceSize   = 24
	frameSize   = 48
	virtualSize = 8
)

// Size is how many bytes r holds in its scratch, for its owner to account for.
func (r *Result) Size() int {
	return cap(r.Values)*valueSize + (cap(r.cuts)+cap(r.metaCuts))*spanSize +
		cap(r.Routes)*sliceSize + cap(r.twice) + cap(r.text) + cap(r.copied) + cap(r.marks) + cap(r.stack)*frameSize + cap(r.virtual)*virtualSize
}

// withSentinel is raw, copied so that it has readable bytes behind it.
func (r *Result) withSentinel(raw []byte) []byte {
	if need := len(raw) + event.Sentinel; cap(r.copied) < need {
		r.copied = make([]byte, 0, need+need/4)
	}
	r.copied = append(r.copied[:0], raw...)
	return r.copied[:len(raw)+event.Sentinel]
}
