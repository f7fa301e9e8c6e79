package main

import (
	"context"
	"errors"
	"io"

	"vtsidecar/enrich"
	"vtsidecar/internal/event"
)

// store keeps lines; nil means that they survive a power cut.
type store interface {
	Store(ctx context.Context, lines *event.Lines) error
}

// graveyard keeps the events that cannot be stored; nil means that they survive
// a power cut.
type graveyard interface {
	Store(ctx context.Context, letters []event.DeadLetter) error
}

// pipeline is the way of a batch from the wire to durability. It holds nothing
// between two batches, so the ack can be its return value.
type pipeline struct {
	enricher *enrich.Enricher
	output   store
	dead     graveyard
}

// Handle returns nil only when every event of the batch is durable: in the
// output or in the dead letter. Portions before a failed one are durable
// already; their events come again with the window, under the same identity.
func (p *pipeline) Handle(ctx context.Context, b *event.Batch) error {
	work := p.enricher.Enrich(b)
	defer work.Close()
	for {
		portion, err := work.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(portion.Dead) > 0 {
			if err := p.dead.Store(ctx, portion.Dead); err != nil {
				return err
			}
		}
		if len(portion.Lines.Index) > 0 {
			if err := p.output.Store(ctx, &portion.Lines); err != nil {
				return err
			}
		}
	}
}
