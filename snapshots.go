package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"vtsidecar/cache"
	"vtsidecar/configs"
	"vtsidecar/enrich"
)

// snapshotEvery bounds what a crash forgets of the cache: of a public key's
// quota, 40 answers of a day's 500. A snapshot of 10,000 entries takes 12 ms, of
// a million less than a second, so it is a small part of that time either way.
const snapshotEvery = 10 * time.Minute

func snapshotPath(cfg *configs.Config) string { return filepath.Join(cfg.DataDir, "cache.snapshot") }

// openCache makes the cache and fills it from the last snapshot. A damaged
// snapshot costs quota, not events: it is set aside with one warning.
func openCache(cfg *configs.Config, log *slog.Logger) (*cache.Cache[*enrich.Answer], error) {
	answers := cache.New[*enrich.Answer](cache.Config{MaxEntries: cfg.Cache.MaxEntries})
	if !cfg.Cache.Persist {
		return answers, nil
	}
	n, err := answers.Load(snapshotPath(cfg), enrich.DecodeAnswer)
	var damaged *cache.DamagedError
	switch {
	case errors.As(err, &damaged):
		log.Warn("the cache's snapshot is damaged and was set aside", "error", damaged, "entries", n)
	case err != nil:
		return nil, fmt.Errorf("path.data: %w", err)
	case n > 0:
		log.Info("the cache was loaded", "entries", n)
	}
	return answers, nil
}

// snapshots saves the cache from time to time and at the end.
type snapshots struct {
	save func() error
	stop chan struct{}
	done chan struct{}
}

func newSnapshots(cfg *configs.Config, answers *cache.Cache[*enrich.Answer], log *slog.Logger) *snapshots {
	s := &snapshots{stop: make(chan struct{}), done: make(chan struct{})}
	s.save = func() error {
		if !cfg.Cache.Persist {
			return nil
		}
		return answers.Save(snapshotPath(cfg), enrich.AppendAnswer)
	}
	go func() {
		defer close(s.done)
		ticker := time.NewTicker(snapshotEvery)
		defer ticker.Stop()
		failing := false
		for {
			select {
			case <-s.stop:
				return
			case <-ticker.C:
			}
			err := s.save()
			if (err != nil) != failing {
				if failing = err != nil; failing {
					log.Warn("the cache could not be saved", "error", err)
				} else {
					log.Info("the cache is saved again")
				}
			}
		}
	}()
	return s
}

// close saves for the last time.
func (s *snapshots) close() error {
	close(s.stop)
	<-s.done
	return s.save()
}
