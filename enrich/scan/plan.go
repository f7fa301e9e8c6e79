package scan

// Plan is what AppendLine and AppendLineKeepingVerdict need of a Result, and
// nothing else: for a caller that scans many events before it writes the first,
// and for which a Result for each would be too much memory.
type Plan struct {
	begin, end, siteAt int
	site               site
	filled             bool
	breaks, siteFilled bool
	cuts, metaCuts     int32
	few                [2]span // the cuts and then the metaCuts, where they are so few
	more               []span  // the same, where they are not
}

// Plan copies what is needed to write the event that was scanned last.
func (r *Result) Plan() Plan {
	p := Plan{
		begin: r.begin, end: r.end, siteAt: r.siteAt, site: r.site,
		filled: r.filled, breaks: r.breaks, siteFilled: r.siteFilled,
		cuts: int32(len(r.cuts)), metaCuts: int32(len(r.metaCuts)),
	}
	if n := len(r.cuts) + len(r.metaCuts); n > len(p.few) {
		p.more = append(append(make([]span, 0, n), r.cuts...), r.metaCuts...)
		return p
	}
	n := copy(p.few[:], r.cuts)
	copy(p.few[n:], r.metaCuts)
	return p
}

// Size is how many bytes p holds beside itself.
func (p *Plan) Size() int { return cap(p.more) * spanSize }

// AppendLine is Result.AppendLine.
func (p *Plan) AppendLine(dst, raw, ioc []byte) []byte {
	r := p.result()
	return r.AppendLine(dst, raw, ioc)
}

// AppendLineKeepingVerdict is Result.AppendLineKeepingVerdict.
func (p *Plan) AppendLineKeepingVerdict(dst, raw []byte) []byte {
	r := p.result()
	return r.AppendLineKeepingVerdict(dst, raw)
}

func (p *Plan) result() Result {
	spans := p.more
	if spans == nil {
		spans = p.few[:]
	}
	return Result{
		begin: p.begin, end: p.end, siteAt: p.siteAt, site: p.site,
		filled: p.filled, breaks: p.breaks, siteFilled: p.siteFilled,
		cuts: spans[:p.cuts], metaCuts: spans[p.cuts : p.cuts+p.metaCuts],
	}
}
