package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vtsidecar/enrich"
	"vtsidecar/internal/event"
	"vtsidecar/output"
	"vtsidecar/output/elasticsearch"
)

// replayPatience is how long a replay waits for an output that takes nothing.
const replayPatience = time.Minute

// resender sends letters to the output: those that it refused as they were, those
// over which the program itself failed through the whole pipeline.
type resender struct {
	out      *destination
	enricher func() (*enrich.Enricher, error) // the first call may open it
}

func (r *resender) Send(ctx context.Context, letters []*output.Letter) ([]output.Outcome, error) {
	within, cancel := context.WithTimeout(ctx, replayPatience)
	defer cancel()
	outcomes, err := r.send(within, letters)
	if err != nil && ctx.Err() == nil && within.Err() != nil {
		why := r.out.ready()
		if why == nil {
			why = errors.New("it does not answer in time")
		}
		err = fmt.Errorf("the output takes some of these events from nobody at present; replay again when it does, or leave them out with filters: %w", why)
	}
	return outcomes, err
}

func (r *resender) send(ctx context.Context, letters []*output.Letter) ([]output.Outcome, error) {
	outcomes := make([]output.Outcome, len(letters))
	var again []event.DeadLetter
	var at []int
	for i, l := range letters {
		o := &outcomes[i]
		raw, whole := l.Event()
		d := event.DeadLetter{Reason: l.Reason, Detail: l.Detail, Event: raw, Length: l.Length, SHA256: l.SHA256, Status: l.Status, Target: l.Target}
		switch {
		case !whole:
			o.Obstacle = "it does not have its event whole"
		case l.Reason == event.ReasonInternal:
			refused, err := r.handle(ctx, l, raw)
			if err != nil {
				return nil, err
			}
			o.Refused = refused
		case r.out.replay == nil:
			o.Obstacle = "it was refused by " + l.Output + ", which is not the output now"
		default:
			if o.Obstacle = elasticsearch.CanReplay(&d); o.Obstacle == "" {
				again, at = append(again, d), append(at, i)
			}
		}
	}
	if len(again) == 0 {
		return outcomes, nil
	}
	refused, err := r.out.replay(ctx, again)
	if err != nil {
		return nil, err
	}
	for n, l := range refused {
		outcomes[at[n]].Refused = l
	}
	return outcomes, nil
}

// handle takes an event through the pipeline, as a batch of its own. An identity
// that is left to chance would be another one each time, so the letter's is used.
func (r *resender) handle(ctx context.Context, l *output.Letter, raw []byte) (*event.DeadLetter, error) {
	enricher, err := r.enricher()
	if err != nil {
		return nil, err
	}
	var refused held
	p := &pipeline{enricher: enricher, output: storeWith{r.out, &refused}, dead: &refused}
	err = p.Handle(ctx, &event.Batch{
		Events:   []event.Event{{Raw: slices.Grow(raw, event.Sentinel), Receipt: l.Identity()}},
		Received: time.Now(), Remote: "dlq replay", Budget: event.Unlimited{},
	})
	if err != nil || len(refused) == 0 {
		return nil, err
	}
	return &refused[0], nil
}

// storeWith is an output that buries elsewhere.
type storeWith struct {
	out  *destination
	dead *held
}

func (s storeWith) Store(ctx context.Context, lines *event.Lines) error {
	if s.out.storeOr == nil {
		return s.out.Store(ctx, lines)
	}
	return s.out.storeOr(ctx, lines, s.dead)
}

// held is a graveyard in memory.
type held []event.DeadLetter

func (h *held) Store(_ context.Context, letters []event.DeadLetter) error {
	for _, l := range letters {
		l.Event = slices.Clone(l.Event)
		*h = append(*h, l)
	}
	return nil
}
