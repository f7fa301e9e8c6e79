package enrich

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"vtsidecar/enrich/scan"
	"vtsidecar/internal/event"
)

// gather scans the events of a round.
func (w *Work) gather(ctx context.Context) error {
	s := w.s
	s.forgetRound()
	s.refs, s.text, s.memos = s.refs[:0], s.text[:0], s.memos[:0]
	s.known.reset()
	s.memo.reset()
	s.bodies = s.bodies[:0]
	s.bodiesOf++
	w.written, w.rendered, w.now = 0, 0, w.e.cfg.Now()
	s.stamp = appendTime(s.stamp[:0], w.now)
	for w.next < len(w.batch.Events) &&
		len(s.refs) < maxRoundRefs && len(s.findings) < maxFindings && len(s.planned)+len(s.dead) < w.most {
		if w.next%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		w.at = w.next
		if err := w.scan(ctx, &w.batch.Events[w.next]); err != nil {
			return err
		}
		w.next++
	}
	w.at = -1
	return nil
}

// scan reads one event.
func (w *Work) scan(ctx context.Context, ev *event.Event) error {
	s := w.s
	if w.next == w.blamed || ev.Oversize != nil || len(ev.Raw) == 0 {
		return w.bury(ctx, ev, nil)
	}
	// What unescaping may take is known beforehand, and the rest of a Result is bounded.
	if need := len(ev.Raw) + len(ev.Raw)/4 + 64; need > s.scanned {
		if err := w.reserve(ctx, need-s.scanned); err != nil {
			return err
		}
		s.scanned = need
	}
	err := w.e.scanner.Scan(ev.Raw, &s.result)
	if n := s.result.Size(); n > s.scanned {
		if err := w.reserve(ctx, n-s.scanned); err != nil {
			return err
		}
		s.scanned = n
	}
	if err != nil {
		return w.bury(ctx, ev, err)
	}

	if err := room(ctx, w, &s.planned, 1); err != nil {
		return err
	}
	r := &s.result
	from := uint32(len(s.refs))
	s.planned = append(s.planned, planned{plan: r.Plan(), index: int32(w.next), from: from, dropped: int32(min(r.Dropped, 1<<30)), hasSite: r.HasSite})
	p := &s.planned[len(s.planned)-1]
	if err := w.reserve(ctx, p.plan.Size()); err != nil { // rarely anything; until Close
		return err
	}
	if err := w.identify(ctx, p); err != nil {
		return err
	}
	if w.e.cfg.Routing {
		if err := w.remember(ctx, ev.Raw); err != nil {
			return err
		}
	}
	if r.HadVerdict && w.e.cfg.TrustVerdicts {
		p.kept = true
	} else {
		if r.HadVerdict {
			w.e.cfg.Metrics.VerdictsRemoved.Inc()
		}
		if err := w.collect(ctx, p); err != nil {
			return err
		}
	}
	p.to = uint32(len(s.refs))
	return nil
}

// bury sets an event aside that cannot be stored. The letter has the event's
// own bytes, which stay as long as the batch.
func (w *Work) bury(ctx context.Context, ev *event.Event, err error) error {
	if w.next < w.buried && w.next != w.blamed {
		return nil // in a portion already
	}
	s := w.s
	if err := room(ctx, w, &s.dead, 1); err != nil {
		return err
	}
	d := event.DeadLetter{Reason: event.ReasonMalformed, Event: ev.Raw, Length: int64(len(ev.Raw))}
	var malformed *scan.Malformed
	switch {
	case ev.Oversize != nil && ev.Oversize.Length > 0:
		d.Reason, d.Detail = event.ReasonOversize, "longer than input.max_event"
		d.Length, d.SHA256 = ev.Oversize.Length, hex.EncodeToString(ev.Oversize.SHA256[:])
	case w.next == w.blamed:
		// Nothing is wrong with it as far as is known, so it is kept whole.
		d.Reason, d.Detail = event.ReasonInternal, "enriching it panicked; the log has the stack"
	case err == nil:
		d.Detail, d.Length = "empty event", 0
	case errors.As(err, &malformed):
		d.Detail = fmt.Sprintf("%s at byte %d", malformed.Reason, malformed.Offset)
	default:
		d.Detail = "not an event"
	}
	if len(d.Event) > event.MaxStub && w.next != w.blamed {
		if d.SHA256 == "" {
			sum := sha256.Sum256(ev.Raw)
			d.SHA256 = hex.EncodeToString(sum[:])
		}
		d.Event = d.Event[:event.MaxStub]
	}
	s.dead = append(s.dead, d)
	return nil
}

// identify finds the event's identity.
func (w *Work) identify(ctx context.Context, p *planned) error {
	s := w.s
	r := &s.result
	if r.HadVerdict && w.e.cfg.TrustVerdicts {
		if kept, err := w.keptID(ctx, p); kept || err != nil {
			return err
		}
	}
	switch {
	case w.e.cfg.IDMetadata && len(r.MetadataID) > 0:
		return w.named(ctx, p, r.MetadataID)
	case r.HasPosition || w.e.cfg.IDFromContent:
		p.id = r.Digest
	case w.batch.Events[w.next].Receipt != event.ID{}:
		p.id = w.batch.Events[w.next].Receipt
	default:
		if s.fresh < len(p.id) {
			rand.Read(s.random[:]) // never fails
			s.fresh = len(s.random)
		}
		s.fresh -= len(p.id)
		copy(p.id[:], s.random[s.fresh:])
	}
	return nil
}

// keptID takes the identity over from the event's own verdict, which stays: two
// identities in one event would be one too many, and the first server knew the
// event before it had anything added.
func (w *Work) keptID(ctx context.Context, p *planned) (bool, error) {
	raw := w.batch.Events[w.next].Raw
	v := w.s.result.Find(raw, "arcanna.ioc.event_id").Value
	if v.To-v.From <= len(`""`) || v.To-v.From > longest(maxID) || raw[v.From] != '"' {
		return false, nil
	}
	var id string
	if json.Unmarshal(raw[v.From:v.To], &id) != nil {
		return false, nil
	}
	if n, err := hex.Decode(p.id[:], []byte(id)[:min(len(id), 2*len(p.id))]); err == nil && n == len(p.id) && len(id) == 2*n {
		return true, nil
	}
	return true, w.named(ctx, p, []byte(id)) // it was an @metadata._id
}

// named takes a name that a sender gave an event for its identity. It may be
// chosen with care, hence a digest in which nobody finds two of a kind.
func (w *Work) named(ctx context.Context, p *planned, id []byte) error {
	s := w.s
	sum := sha256.Sum256(id)
	copy(p.id[:], sum[:])
	if len(id) > maxID {
		return nil
	}
	if err := room(ctx, w, &s.text, len(id)); err != nil {
		return err
	}
	p.idAt, p.idLen = uint32(len(s.text)), uint32(len(id))
	s.text = append(s.text, id...)
	return nil
}

// remember notes what the scanned event says about where it should go.
func (w *Work) remember(ctx context.Context, raw []byte) error {
	s := w.s
	if err := room(ctx, w, &s.metas, 1); err != nil {
		return err
	}
	s.metas = append(s.metas, s.result.Metadata(raw))
	if err := room(ctx, w, &s.routes, len(s.result.Routes)); err != nil {
		return err
	}
	for _, v := range s.result.Routes {
		if v == nil || len(v) > maxRouteValue {
			s.routes = append(s.routes, route{})
			continue
		}
		if err := room(ctx, w, &s.text, len(v)); err != nil {
			return err
		}
		s.routes = append(s.routes, route{at: uint32(len(s.text)), size: uint32(len(v)), there: true})
		s.text = append(s.text, v...)
	}
	return nil
}
