package enrich

import (
	"context"
	"encoding/hex"

	"vtsidecar/enrich/scan"
	"vtsidecar/internal/event"
)

// clearLines empties the lines and makes room for those that are left of the round,
// as far as they go into one portion.
func (w *Work) clearLines(ctx context.Context) error {
	s := w.s
	portion := w.e.cfg.PortionBytes
	if cap(s.lines.Buf) > 2*portion { // a giant event came before
		w.release(bytesOf(s.lines.Buf))
		s.lines.Buf = nil
	}
	s.lines.Buf, s.lines.Index = s.lines.Buf[:0], s.lines.Index[:0]
	s.lines.Routing, s.values = s.lines.Routing[:0], s.values[:0]
	s.lines.Wanted = w.batch.Budget.Wanted
	left := len(s.planned) - w.written
	if left == 0 {
		return nil
	}
	if err := room(ctx, w, &s.lines.Index, left); err != nil {
		return err
	}
	if w.e.cfg.Routing {
		if err := room(ctx, w, &s.lines.Routing, left); err != nil {
			return err
		}
		if err := room(ctx, w, &s.values, left*len(w.e.cfg.Routes)); err != nil {
			return err
		}
	}
	if cap(s.lines.Buf) < portion {
		estimate := 0
		for i := range s.planned[w.written:] {
			estimate += len(w.batch.Events[s.planned[w.written+i].index].Raw) + 1024
		}
		if estimate = min(estimate, portion); estimate > cap(s.lines.Buf) {
			return resize(ctx, w, &s.lines.Buf, estimate)
		}
	}
	return nil
}

// write renders the next portion of the round.
func (w *Work) write(ctx context.Context) error {
	s := w.s
	portion := w.e.cfg.PortionBytes
	if err := w.clearLines(ctx); err != nil {
		return err
	}
	for w.written < len(s.planned) {
		p := &s.planned[w.written]
		w.at = int(p.index)
		raw := w.batch.Events[p.index].Raw
		need := len(raw) + 64
		if !p.kept {
			if err := w.document(ctx, p); err != nil {
				return err
			}
			need += len(s.doc)
			s.ecs = s.ecs[:0]
			if s.hit && (w.e.cfg.ECS.Threat || w.e.cfg.ECS.Related) {
				if err := w.completion(ctx); err != nil {
					return err
				}
				need += len(s.ecs)
			}
		}
		if w.e.cfg.KeepMetadata {
			s.name = s.name[:0]
			if err := room(ctx, w, &s.name, max(2*len(p.id), longest(int(p.idLen)))); err != nil {
				return err
			}
			s.name = s.appendID(s.name, p)
			need += scan.LenMetadataID(s.name)
		}
		if len(s.lines.Buf) > 0 && len(s.lines.Buf)+need > portion {
			return nil // its document is rendered again; that is once in a megabyte at most
		}
		if need > cap(s.lines.Buf)-len(s.lines.Buf) {
			// As much as the rest will need if it is like what came so far.
			done := len(s.lines.Index)
			rest := (len(s.lines.Buf) + need) / (done + 1) * (len(s.planned) - w.written) / 16 * 17
			if err := resize(ctx, w, &s.lines.Buf, max(len(s.lines.Buf)+need, min(len(s.lines.Buf)+need+rest, portion))); err != nil {
				return err
			}
		}
		from := len(s.lines.Buf)
		if p.kept {
			s.lines.Buf = p.plan.AppendLineKeepingVerdict(s.lines.Buf, raw)
		} else {
			s.lines.Buf = p.plan.AppendLine(s.lines.Buf, raw, s.doc)
			if len(s.ecs) > 0 {
				if err := w.complete(ctx, p, from); err != nil {
					return err
				}
			}
			w.tallyEvent()
		}
		if w.e.cfg.KeepMetadata {
			s.lines.Buf = scan.SetMetadataID(s.lines.Buf, from, s.name)
		}
		if w.e.cfg.Routing {
			w.say(p, raw)
		}
		s.lines.Index = append(s.lines.Index, event.Line{ID: p.id, End: len(s.lines.Buf)})
		w.written++
		if w.written%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// say adds what a planned event says about where it should go to the lines. It
// has room for that.
func (w *Work) say(p *planned, raw []byte) {
	s := w.s
	says := event.Routing{}
	if p.idLen > 0 {
		says.ID = s.text[p.idAt : p.idAt+p.idLen]
	}
	if meta := s.metas[w.written]; meta.To > 0 {
		says.Meta = raw[meta.From:meta.To]
	}
	n := len(w.e.cfg.Routes)
	from := len(s.values)
	for _, r := range s.routes[n*w.written : n*(w.written+1)] {
		var v []byte
		if r.there {
			v = s.text[r.at : r.at+r.size : r.at+r.size]
		}
		s.values = append(s.values, v)
	}
	says.Values = s.values[from:len(s.values):len(s.values)]
	s.lines.Routing = append(s.lines.Routing, says)
}

// appendID appends an event's identity as the inside of a JSON string.
func (s *scratch) appendID(b []byte, p *planned) []byte {
	if p.idLen == 0 {
		return hex.AppendEncode(b, p.id[:])
	}
	quoted := appendString(b, s.text[p.idAt:p.idAt+p.idLen])
	return append(b, quoted[len(b)+1:len(quoted)-1]...) // one to the left
}

// tallyEvent counts the indicators of the event that was written last.
func (w *Work) tallyEvent() {
	for _, n := range w.s.distinct {
		f := &w.s.findings[n]
		w.tally[f.typ][f.result]++
	}
	for t, n := range w.s.skipped {
		w.tally[t][resultNone] += n
	}
}
