package enrich

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/scan"
)

// This file completes threat and related of events with hits, in ECS's words
// and in the shape in which Kibana reads them. Its rules: what the event has
// there stays; where ours would not fit beside it nothing is added, and that is
// counted; no event becomes one that its index refuses, as a list that mixes
// objects and strings would be.
//
// Most events have neither, and then both stand at the event's end. Those that
// have some are read once more, as lines.

// ECS says what hits add to their events beside arcanna.ioc.
type ECS struct {
	Threat      bool   // an element of threat.enrichments for each hit and field
	Related     bool   // the hits' values in related.ip, related.hash and related.hosts
	MatchedType string // matched.type; empty: "indicator_match_rule". Kibana shows no others but "investigation_time"
}

// maxEnrichments is how many elements threat.enrichments is filled up to.
const maxEnrichments = 20

// hit is a finding under a name.
type hit struct {
	finding uint32
	name    uint16
}

// insert is a text that goes into a line: scratch.ecs[from:to], before line[at].
type insert struct{ at, from, to int }

// completion renders what the event's hits add into scratch.ecs, as it stands
// at the end of an event that has neither threat nor related. In any other it
// takes no more room, but for a few brackets.
func (w *Work) completion(ctx context.Context) error {
	s := w.s
	s.ecs = s.ecs[:0]
	if w.e.cfg.ECS.Threat {
		if err := w.collectHits(ctx); err != nil {
			return err
		}
		if err := w.appendEnrichments(ctx, `,"threat":{"enrichments":[`, s.hits, "]}"); err != nil {
			return err
		}
	}
	if w.e.cfg.ECS.Related {
		r := w.relatedValues()
		n := 64
		for k := range relatedLists {
			for _, v := range r.values[k][:r.n[k]] {
				n += longest(len(v)) + 1
			}
		}
		if err := room(ctx, w, &s.ecs, n); err != nil {
			return err
		}
		s.ecs = append(s.ecs, `,"related":{`...)
		lists := 0
		for k, word := range relatedWords {
			if r.n[k] == 0 {
				continue
			}
			s.ecs = comma(s.ecs, &lists)
			s.ecs = appendList(s.ecs, word, r.values[k][:r.n[k]])
		}
		s.ecs = append(s.ecs, '}')
	}
	return nil
}

// collectHits lists the event's hits, each under each of its names, the worst
// first: so many of them as can become elements.
func (w *Work) collectHits(ctx context.Context) error {
	s := w.s
	s.hits = s.hits[:0]
	if err := room(ctx, w, &s.hits, maxEnrichments); err != nil {
		return err
	}
	for _, res := range [...]result{resultMalicious, resultSuspicious} {
		for i := range s.parts {
			pt := &s.parts[i]
			for _, r := range s.refs[pt.from:pt.to] {
				if len(s.hits) == maxEnrichments {
					return nil
				}
				if w.resultOf(r) == res {
					s.hits = append(s.hits, hit{r.finding, pt.name})
				}
			}
		}
	}
	return nil
}

// appendEnrichments appends hits as elements of threat.enrichments to
// scratch.ecs, between two texts.
func (w *Work) appendEnrichments(ctx context.Context, before string, hits []hit, behind string) error {
	s := w.s
	bound := len(before) + len(behind)
	for _, h := range hits {
		if err := w.prepareEnrichment(ctx, &s.findings[h.finding]); err != nil {
			return err
		}
		bound += w.enrichmentBound(&s.findings[h.finding]) + len(w.e.names[h.name].quoted)
	}
	if err := room(ctx, w, &s.ecs, bound); err != nil {
		return err
	}
	dst := append(s.ecs, before...)
	n := 0
	for _, h := range hits {
		dst = comma(dst, &n)
		if f := &s.findings[h.finding]; f.element.generation == s.bodiesOf {
			dst = append(dst, s.bodies[f.element.at:f.element.at+f.element.size]...)
		} else {
			dst = w.appendEnrichment(dst, f)
		}
		dst = append(dst, w.e.names[h.name].quoted...)
		dst = append(dst, "}}"...)
	}
	s.ecs = append(dst, behind...)
	return nil
}

// prepareEnrichment renders a finding's element ahead: it is the same in all
// events of the round, but for the field's name at its end.
func (w *Work) prepareEnrichment(ctx context.Context, f *finding) error {
	s := w.s
	if f.element.generation == s.bodiesOf {
		return nil
	}
	bound := w.enrichmentBound(f)
	if bound > maxBodies/8 {
		return nil // rendered where it stands
	}
	if err := w.roomForBody(ctx, bound); err != nil {
		return err
	}
	at := len(s.bodies)
	s.bodies = w.appendEnrichment(s.bodies, f)
	f.element = piece{s.bodiesOf, uint32(at), uint32(len(s.bodies) - at)}
	return nil
}

// enrichmentBound is how long an element can become, without its field's name.
func (w *Work) enrichmentBound(f *finding) int {
	a := f.answer
	n := 2048 + 3*longest(int(f.size)) + longest(maxShown) + len(w.e.matched) + 3*len(w.e.provider)
	for _, t := range [...]string{a.Country, a.ASOwner, a.Assessment, a.Link, a.MD5, a.SHA1, a.SHA256} {
		n += longest(len(t))
	}
	return n
}

// appendEnrichment appends a hit's element of threat.enrichments up to the name
// of its field.
func (w *Work) appendEnrichment(dst []byte, f *finding) []byte {
	text := func(name, s string) {
		if s != "" {
			dst = append(dst, name...)
			dst = appendString(dst, s)
		}
	}
	value := w.value(f)
	a, v := f.answer, &f.verdict
	dst = append(dst, `{"indicator":{"type":"`...)
	switch f.typ {
	case indicator.IP:
		if bytes.IndexByte(value, ':') >= 0 {
			dst = append(dst, `ipv6-addr","ip":`...)
		} else {
			dst = append(dst, `ipv4-addr","ip":`...)
		}
		dst = appendString(dst, value)
	case indicator.Domain:
		dst = append(dst, `domain-name","url":{"domain":`...)
		dst = appendString(dst, value)
		dst = append(dst, '}')
	case indicator.URL:
		dst = append(dst, `url","url":{"full":`...)
		dst = appendString(dst, value)
		dst = append(dst, '}')
	case indicator.Hash:
		dst = append(dst, `file","file":{"hash":{`...)
		n := 0
		for _, h := range [...]struct {
			name, sum string
			size      int
		}{{`"md5":`, a.MD5, 32}, {`"sha1":`, a.SHA1, 40}, {`"sha256":`, a.SHA256, 64}} {
			switch {
			case len(value) == h.size: // what was asked for
				dst = comma(dst, &n)
				dst = append(dst, h.name...)
				dst = appendString(dst, value)
			case h.sum != "":
				dst = comma(dst, &n)
				text(h.name, h.sum)
			}
		}
		dst = append(dst, "}}"...)
	}
	dst = append(dst, `,"provider":"`...)
	dst = append(dst, w.e.provider...)
	dst = append(dst, `","confidence":"`...)
	dst = append(dst, w.confidence(f)...)
	dst = append(dst, '"')
	if v.total() > 0 {
		dst = append(dst, `,"scanner_stats":`...)
		dst = appendInt(dst, int(v.malicious))
	}
	text(`,"reference":`, a.Link)
	dst = append(dst, `,"description":"`...)
	dst = w.appendSentence(dst, f)
	dst = append(dst, '"')
	lastSeen := a.LastSubmission
	if lastSeen.IsZero() {
		lastSeen = a.LastAnalysis
	}
	if !a.FirstSubmission.IsZero() {
		dst = append(dst, `,"first_seen":`...)
		dst = appendTime(dst, a.FirstSubmission)
	}
	if !lastSeen.IsZero() {
		dst = append(dst, `,"last_seen":`...)
		dst = appendTime(dst, lastSeen)
	}
	if !a.LastModification.IsZero() {
		dst = append(dst, `,"modified_at":`...)
		dst = appendTime(dst, a.LastModification)
	}
	if a.ASN > 0 || a.ASOwner != "" {
		n := 0
		dst = append(dst, `,"as":{`...)
		if a.ASN > 0 {
			dst = comma(dst, &n)
			dst = append(dst, `"number":`...)
			dst = appendInt(dst, int(a.ASN))
		}
		if a.ASOwner != "" {
			dst = comma(dst, &n)
			text(`"organization":{"name":`, a.ASOwner)
			dst = append(dst, '}')
		}
		dst = append(dst, '}')
	}
	if a.Country != "" {
		text(`,"geo":{"country_iso_code":`, a.Country)
		dst = append(dst, '}')
	}
	dst = append(dst, `},"feed":{"name":"`...)
	dst = append(dst, w.e.provider...)
	dst = append(dst, `"},"matched":{"atomic":`...)
	dst = appendString(dst, value)
	dst = append(dst, `,"id":"`...)
	dst = w.appendMatchID(dst, f)
	dst = append(dst, `","type":`...)
	dst = append(dst, w.e.matched...)
	dst = append(dst, `,"occurred":`...)
	dst = append(dst, w.s.stamp...)
	return append(dst, `,"field":`...)
}

// appendMatchID appends matched.id: the SHA-256 of provider, type and value,
// joined by colons. dst has room for those.
func (w *Work) appendMatchID(dst []byte, f *finding) []byte {
	at := len(dst)
	dst = append(dst, w.e.provider...)
	dst = append(dst, ':')
	dst = append(dst, f.typ.String()...)
	dst = append(dst, ':')
	dst = append(dst, w.value(f)...)
	sum := sha256.Sum256(dst[at:])
	return hex.AppendEncode(dst[:at], sum[:])
}

// confidence is how sure a hit is, in the words that ECS has for it. One or two
// engines are often wrong, and they copy from each other.
func (w *Work) confidence(f *finding) string {
	v := &f.verdict
	switch {
	case f.result == resultMalicious && (v.ground == byAssessment || int(v.malicious) >= 2*w.e.judge.rules.Malicious.of(f.typ)):
		return "High"
	case f.result == resultMalicious || v.ground == byAssessment || v.tooOld:
		return "Medium"
	}
	return "Low"
}

// complete puts what completion has rendered into the line that begins at from,
// the last one in scratch.lines.
func (w *Work) complete(ctx context.Context, p *planned, from int) error {
	s := w.s
	if p.hasSite {
		return w.completeBeside(ctx, from)
	}
	buf := s.lines.Buf[:len(s.lines.Buf)-len("}\n")]
	buf = append(buf, s.ecs...)
	s.lines.Buf = append(buf, "}\n"...)
	return nil
}

// completeBeside is complete for an event with a threat or a related of its own.
func (w *Work) completeBeside(ctx context.Context, from int) error {
	s := w.s
	line := s.lines.Buf[from:]
	s.ecs, s.inserts = s.ecs[:0], s.inserts[:0]
	if err := room(ctx, w, &s.inserts, 2+2*relatedLists); err != nil {
		return err
	}
	if w.e.cfg.ECS.Threat {
		if err := w.addThreat(ctx, line); err != nil {
			return err
		}
	}
	if w.e.cfg.ECS.Related {
		if err := w.addRelated(ctx, line); err != nil {
			return err
		}
	}
	slices.SortStableFunc(s.inserts, func(a, b insert) int { return a.at - b.at })
	if err := room(ctx, w, &s.lines.Buf, len(s.ecs)); err != nil {
		return err
	}
	// From behind, so that everything is moved once.
	end := len(s.lines.Buf)
	s.lines.Buf = s.lines.Buf[:end+len(s.ecs)]
	to := len(s.lines.Buf)
	for i := len(s.inserts) - 1; i >= 0; i-- {
		in := s.inserts[i]
		at := from + in.at
		to -= copy(s.lines.Buf[to-(end-at):], s.lines.Buf[at:end])
		to -= copy(s.lines.Buf[to-(in.to-in.from):], s.ecs[in.from:in.to])
		end = at
	}
	return nil
}

// put notes that what was appended to scratch.ecs since from goes in before
// line[at].
func (s *scratch) put(at, from int) { s.inserts = append(s.inserts, insert{at, from, len(s.ecs)}) }

// addThreat adds the hits to an event that has a threat or a related.
func (w *Work) addThreat(ctx context.Context, line []byte) error {
	s := w.s
	site := scan.Find(line, 0, "threat.enrichments")
	end := len(line) - len("}\n")
	hits, n, ok := s.hits, len(s.ecs), !site.Blocked
	switch v := site.Value; {
	case !ok:
	case v.To == 0 && site.Object.To == 0:
		if err := w.appendEnrichments(ctx, `,"threat":{"enrichments":[`, hits, "]}"); err != nil {
			return err
		}
		s.put(end, n)
	case v.To == 0:
		before := `,"enrichments":[`
		if scan.Empty(line, site.Object.From) {
			before = before[1:]
		}
		if err := w.appendEnrichments(ctx, before, hits, "]"); err != nil {
			return err
		}
		s.put(site.Object.To-1, n)
	case line[v.From] == '{':
		hits = w.newHits(line, v, hits)
		if hits = hits[:min(len(hits), maxEnrichments-1)]; len(hits) == 0 {
			break
		}
		s.ecs = append(s.ecs, '[')
		s.put(v.From, n)
		n = len(s.ecs)
		if err := w.appendEnrichments(ctx, ",", hits, "]"); err != nil {
			return err
		}
		s.put(v.To, n)
	case line[v.From] == '[':
		have := 0
		for e := range scan.Elements(line, v.From) {
			if ok = line[e.From] == '{'; !ok {
				break
			}
			if have++; have == maxEnrichments {
				break
			}
			hits = w.newHits(line, e, hits)
		}
		if hits = hits[:min(len(hits), maxEnrichments-have)]; !ok || len(hits) == 0 {
			break
		}
		before := ","
		if have == 0 {
			before = ""
		}
		if err := w.appendEnrichments(ctx, before, hits, ""); err != nil {
			return err
		}
		s.put(v.To-1, n)
	default:
		ok = false
	}
	if !ok {
		w.e.cfg.Metrics.ECSRefused.WithLabelValues("threat").Inc()
	}
	return nil
}

// newHits is hits less the one that an element of threat.enrichments is about
// already: an event that comes from another server has them.
func (w *Work) newHits(line []byte, element scan.Span, hits []hit) []hit {
	id, field := scan.Find(line, element.From, "matched.id").Value, scan.Find(line, element.From, "matched.field").Value
	if id.To-id.From != 2+2*sha256.Size {
		return hits
	}
	return slices.DeleteFunc(hits, func(h hit) bool {
		if string(line[field.From:field.To]) != w.e.names[h.name].quoted {
			return false
		}
		f := &w.s.findings[h.finding]
		var room [2*sha256.Size + 64 + 512]byte
		return string(w.appendMatchID(room[:0], f)) == string(line[id.From+1:id.To-1])
	})
}
