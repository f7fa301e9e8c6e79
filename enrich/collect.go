package enrich

import (
	"context"
	"slices"

	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/scan"
)

const (
	taken = -1 // as Value.Group: it went into an indicator, with others of its object

	// maxBetween is how many other values may stand among the hashes of one object,
	// all together, as they do where dotted keys spell it. It bounds what an event of
	// many groups costs.
	maxBetween = 64
)

// collect turns the values of the scanned event into refs to findings.
func (w *Work) collect(ctx context.Context, p *planned) error {
	s := w.s
	values := s.result.Values
	w.asked = 0
	w.lookAhead(values)
	for i := 0; i < len(values); i++ {
		v := &values[i]
		f := w.e.fields[v.Field]
		switch {
		case v.Group == taken:
		case v.Group != 0:
			s.members = s.members[:0]
			group, between := v.Group, 0
			for j := i; j < len(values) && between <= maxBetween; j++ {
				m := &values[j]
				if m.Group != group || m.Field != v.Field {
					between++
					continue
				}
				if err := room(ctx, w, &s.members, 1); err != nil {
					return err
				}
				s.members = append(s.members, indicator.Member{Key: m.Key, Value: m.Text})
				m.Group = taken
			}
			if len(s.members) == 1 && string(s.members[0].Key) == "sha256" { // as most objects of hashes are
				if err := w.add(ctx, p, kindSHA256, s.members[0].Value, f.name, w.hashAhead(i)); err != nil {
					return err
				}
				continue
			}
			if err := room(ctx, w, &s.text, 256); err != nil {
				return err
			}
			at, before := len(s.text), bytesOf(s.text)
			var found indicator.Found
			s.text, found = w.e.parser.AppendHashes(s.text, s.members)
			if err := settle(ctx, w, s.text, before); err != nil {
				return err
			}
			n, err := w.finding(ctx, at, found)
			if err != nil {
				return err
			}
			if err := w.refer(ctx, p, n, f.name); err != nil {
				return err
			}
		case f.kind == indicator.KindScan:
			if err := w.collectText(ctx, p, v.Text, f.name); err != nil {
				return err
			}
		default:
			if err := w.add(ctx, p, f.kind, v.Text, f.name, w.hashAhead(i)); err != nil {
				return err
			}
		}
	}
	// By name, and within a name as they came.
	refs := s.refs[p.from:]
	if len(refs) <= 24 {
		for i := 1; i < len(refs); i++ {
			for j := i; j > 0 && refs[j].name < refs[j-1].name; j-- {
				refs[j], refs[j-1] = refs[j-1], refs[j]
			}
		}
		return nil
	}
	slices.SortStableFunc(refs, func(a, b ref) int { return int(a.name) - int(b.name) })
	return nil
}

// lookAhead asks for what the event's values will need, of all of them at once:
// it lies far apart and in no near cache, and to wait for each piece of it in
// turn took longer than much of the work. Nothing but the hashes comes of it.
func (w *Work) lookAhead(values []scan.Value) {
	s := w.s
	values = values[:min(len(values), len(w.hashes))]
	for i := range values {
		v := &values[i]
		kind := w.e.fields[v.Field].kind
		if v.Group != 0 {
			kind = kindSHA256
		}
		w.hashes[i] = 0
		if len(v.Text) <= maxMemo && kind != indicator.KindScan {
			w.hashes[i] = hashOf(w.e.seed, uint8(kind), v.Text)
		}
	}
	if len(s.memo.slots) == 0 || len(values) < 2 {
		return
	}
	var numbers [len(w.hashes)]uint32
	for i := range values {
		numbers[i] = s.memo.likely(uint32(w.hashes[i]))
	}
	touched := uint32(0)
	for i, number := range numbers[:len(values)] {
		if number == 0 {
			touched |= w.e.facts.set(w.hashes[i]).tags[0].Load()
		} else if m := &s.memos[number-1]; m.size > 0 {
			touched |= uint32(s.text[m.at]) | s.findings[m.finding].event
		}
	}
	w.touched = touched
}

// hashAhead is what lookAhead has made of the value with this number, or 0.
func (w *Work) hashAhead(value int) uint64 {
	if value < len(w.hashes) {
		return w.hashes[value]
	}
	return 0
}

// add turns a value into a ref of the event. It is parsed only where neither the
// round has seen it yet nor a fact is known about it. hash is what lookAhead has
// made of it; 0: nothing.
func (w *Work) add(ctx context.Context, p *planned, kind indicator.Kind, value []byte, name int, hash uint64) error {
	s := w.s
	if len(value) > maxMemo {
		n, err := w.parse(ctx, kind, value)
		if err != nil {
			return err
		}
		return w.refer(ctx, p, n, name)
	}
	if err := w.roomInTable(ctx, &s.memo); err != nil {
		return err
	}
	if hash == 0 {
		hash = hashOf(w.e.seed, uint8(kind), value)
	}
	number, place := s.memo.find(uint32(hash), func(n int) bool {
		m := &s.memos[n]
		return m.kind == kind && string(s.text[m.at:m.at+m.size]) == string(value)
	})
	if number >= 0 {
		return w.refer(ctx, p, s.memos[number].finding, name)
	}
	var n uint32
	var err error
	before := len(s.findings)
	if x := w.e.facts.find(hash, kind, value); x != nil {
		n, err = w.known(ctx, x)
	} else {
		n, err = w.parse(ctx, kind, value)
	}
	if err != nil {
		return err
	}
	m := memo{kind: kind, finding: n, size: uint32(len(value))}
	if f := &s.findings[n]; string(s.text[f.at:f.at+f.size]) == string(value) {
		m.at = f.at // canonical as it was sent
	} else {
		if err := room(ctx, w, &s.text, len(value)); err != nil {
			return err
		}
		m.at = uint32(len(s.text))
		s.text = append(s.text, value...)
	}
	if err := room(ctx, w, &s.memos, 1); err != nil {
		return err
	}
	s.memos = append(s.memos, m)
	s.memo.put(place, uint32(hash), len(s.memos)-1)
	if err := w.refer(ctx, p, n, name); err != nil {
		return err
	}
	if int(n) == before { // else it is perhaps about another spelling, of which something else was left out
		w.learn(hash, kind, value, n)
	}
	return nil
}

// known returns the finding that a fact is about.
func (w *Work) known(ctx context.Context, x *fact) (uint32, error) {
	s := w.s
	if err := room(ctx, w, &s.text, len(x.value)); err != nil {
		return 0, err
	}
	at, before := len(s.text), len(s.findings)
	s.text = append(s.text, x.value...)
	n, err := w.finding(ctx, at, indicator.Found{Canonical: s.text[at:], Type: x.typ, Skip: x.skip, LeftOut: x.leftOut})
	if err == nil && int(n) == before {
		s.findings[n].trust(x) // a new one, for which nobody has asked yet
	}
	return n, err
}

// kindSHA256 is, for add and parse, the only member of scratch.members.
const kindSHA256 indicator.Kind = 0xff

// parse makes a value canonical.
func (w *Work) parse(ctx context.Context, kind indicator.Kind, value []byte) (uint32, error) {
	s := w.s
	if len(value) > 4*maxValue { // a list of hashes may be longer than its best one
		return w.finding(ctx, len(s.text), indicator.Found{Skip: indicator.Invalid})
	}
	if err := room(ctx, w, &s.text, 4*len(value)+256); err != nil {
		return 0, err
	}
	at, before := len(s.text), bytesOf(s.text)
	var found indicator.Found
	if kind == kindSHA256 {
		s.text, found = w.e.parser.AppendHashes(s.text, s.members)
	} else {
		s.text, found = w.e.parser.Append(s.text, kind, value)
	}
	if err := settle(ctx, w, s.text, before); err != nil {
		return 0, err
	}
	return w.finding(ctx, at, found)
}

// collectText finds the indicators in free text.
func (w *Work) collectText(ctx context.Context, p *planned, text []byte, name int) (err error) {
	s := w.s
	// What is found is copied to the text of the round, so the parser's own
	// output goes into memory that is used again for each value.
	s.found = s.found[:0]
	if err := room(ctx, w, &s.found, 4*min(len(text), maxValue)+256); err != nil {
		return err
	}
	before := bytesOf(s.found)
	s.found = w.e.parser.AppendText(s.found, text, func(found indicator.Found) bool {
		if len(s.refs)-int(p.from) >= maxEventRefs {
			p.dropped++
			return false
		}
		at := len(s.text)
		if err = room(ctx, w, &s.text, len(found.Canonical)); err != nil {
			return false
		}
		s.text = append(s.text, found.Canonical...)
		found.Canonical = s.text[at:]
		var n uint32
		if n, err = w.finding(ctx, at, found); err != nil {
			return false
		}
		err = w.refer(ctx, p, n, name)
		return err == nil
	})
	if err != nil {
		return err
	}
	return settle(ctx, w, s.found, before)
}

// finding returns the number of the finding whose value is text from at on. The
// text goes again where it is known.
func (w *Work) finding(ctx context.Context, at int, found indicator.Found) (uint32, error) {
	s := w.s
	if len(found.Canonical) > maxValue {
		found = indicator.Found{Type: found.Type, Skip: indicator.Invalid}
	}
	value := found.Canonical
	if err := w.roomInTable(ctx, &s.known); err != nil {
		return 0, err
	}
	hash := uint32(hashOf(w.e.seed, uint8(found.Type), value))
	number, place := s.known.find(hash, func(n int) bool {
		f := &s.findings[n]
		return f.typ == found.Type && f.skip == found.Skip && string(s.text[f.at:f.at+f.size]) == string(value)
	})
	if number >= 0 {
		s.text = s.text[:at]
		return uint32(number), nil
	}
	// The parser appends the value, and perhaps more; only the value stays.
	size := copy(s.text[at:cap(s.text)], value)
	s.text = s.text[:at+size]
	if err := room(ctx, w, &s.findings, 1); err != nil {
		return 0, err
	}
	f := finding{at: uint32(at), size: uint32(size), typ: found.Type, skip: found.Skip, leftOut: found.LeftOut}
	if f.skip != indicator.Lookup {
		f.status = statusSkipped
	}
	s.findings = append(s.findings, f)
	s.known.put(place, hash, len(s.findings)-1)
	return uint32(len(s.findings) - 1), nil
}

// refer notes that the event has the finding under a name.
func (w *Work) refer(ctx context.Context, p *planned, n uint32, name int) error {
	s := w.s
	serial := uint32(len(s.planned))
	f := &s.findings[n]
	bit := uint64(0)
	if name < 64 {
		bit = 1 << name
	}
	if f.event != serial {
		f.event, f.names = serial, 0
		f.chosen = f.skip == indicator.Lookup && w.asked < w.e.cfg.MaxValues
		if f.chosen {
			w.asked++
			if !f.asked {
				f.asked = true
				if err := w.recall(ctx, n); err != nil {
					return err
				}
				f = &s.findings[n]
			}
		}
	} else if bit != 0 && f.names&bit != 0 || bit == 0 && slices.ContainsFunc(s.refs[p.from:], func(r ref) bool {
		return r.finding == n && int(r.name) == name
	}) {
		return nil
	}
	f.names |= bit
	if err := room(ctx, w, &s.refs, 1); err != nil {
		return err
	}
	s.refs = append(s.refs, ref{finding: n, name: uint16(name), tooMany: f.skip == indicator.Lookup && !f.chosen})
	return nil
}
