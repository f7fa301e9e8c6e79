package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"
)

// searchNode is the stand-in Elasticsearch: it reads and answers every bulk, and
// keeps nothing. What it costs is nobody's.
type searchNode struct {
	*process
	url string
}

// startSearch starts one; address may be empty.
func (h *harness) startSearch(ctx context.Context, address string, flags ...string) (*searchNode, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	p, err := launch(ctx, exec.Command(h.searchStandIn, append([]string{"-address", address, "-discard"}, flags...)...))
	if err != nil {
		return nil, err
	}
	return &searchNode{p, "http://" + p.address}, nil
}

// flags are the program's settings for it.
func (n *searchNode) flags(more ...string) []string {
	return append(more, "--output.elasticsearch.hosts", n.url)
}

// reset makes it forget what it has seen.
func (n *searchNode) reset() error {
	resp, err := http.Post(n.url+"/_standin/reset", "application/json", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

type searchStats struct {
	Requests   map[string]int
	Lines      int
	Bytes      int64
	Complaints []string
}

func (n *searchNode) stats() (s searchStats, err error) {
	resp, err := http.Get(n.url + "/_standin/stats")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// seen holds what it has seen against what was sent, and returns the bytes of a
// document, with its action, on the wire.
func (n *searchNode) seen(events int) (float64, error) {
	s, err := n.stats()
	if err != nil {
		return 0, err
	}
	if s.Lines != events || len(s.Complaints) > 0 {
		return 0, fmt.Errorf("the stand-in Elasticsearch saw %d documents of %d, and says %q", s.Lines, events, s.Complaints)
	}
	return float64(s.Bytes) / float64(events), nil
}

// Of the special modes.
const (
	manyClients = 1000
	away        = 2 * time.Minute
	slowBulk    = 500 * time.Millisecond
	bulkBytes   = 10 << 20 // output.elasticsearch.bulk_max_bytes
	workers     = 2        // output.elasticsearch.workers
)

// special runs one of the modes in which time counts and not the processor.
func (h *harness) special(ctx context.Context) error {
	switch h.mode {
	case "outage":
		return h.outage(ctx)
	case "slow":
		return h.slow(ctx)
	}
	return fmt.Errorf("-mode %s is not known: use outage or slow", h.mode)
}

// toNode starts the program with a node for its output.
func (h *harness) toNode(ctx context.Context, n *searchNode) (*process, error) {
	dir := filepath.Join(h.dir, "run")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, err
	}
	if err := h.copyPrimed(dir); err != nil {
		return nil, err
	}
	return launch(ctx, h.program(dir, n.flags("--output.elasticsearch.compression_level", "0",
		"--output.elasticsearch.workers", strconv.Itoa(workers), "--output.elasticsearch.bulk_max_bytes", strconv.Itoa(bulkBytes))...))
}

// outage measures how fast many clients are served, takes the cluster away for
// two minutes while each of them sends as much again, and measures how fast that
// is stored once the cluster is back, from the first document on.
func (h *harness) outage(ctx context.Context) error {
	node, err := h.startSearch(ctx, "")
	if err != nil {
		return err
	}
	defer func() { node.stop() }()
	p, err := h.toNode(ctx, node)
	if err != nil {
		return err
	}
	defer p.stop()
	const windows, events = manyClients, manyClients * windowSize

	if err := sendOver(connections, p.address, h.load, warmup); err != nil {
		return err
	}
	began := time.Now()
	if err := sendOver(manyClients, p.address, h.load, windows); err != nil {
		return err
	}
	normal := events / time.Since(began).Seconds()
	rss, err := p.peak()
	if err != nil {
		return err
	}
	fmt.Printf("normal: %d clients, a window each: %.0f k events/s, RSS %d MiB at most\n", manyClients, normal/1e3, rss>>20)

	address := node.address
	if err := node.stop(); err != nil {
		return err
	}
	sent := make(chan error, 1)
	var all atomic.Bool
	go func() {
		err := sendOver(manyClients, p.address, h.load, windows)
		all.Store(true)
		sent <- err
	}()
	select {
	case <-time.After(away):
	case <-ctx.Done():
		return ctx.Err()
	}
	if all.Load() {
		return fmt.Errorf("windows were acknowledged while the cluster was away, or failed: %w", <-sent)
	}
	if rss, err = p.peak(); err != nil {
		return err
	}
	fmt.Printf("away for %s: RSS %d MiB at most (target: at most 512)\n", away, rss>>20)

	back := time.Now()
	if node, err = h.startSearch(ctx, address); err != nil {
		return err
	}
	for {
		s, err := node.stats()
		if err != nil {
			return err
		}
		if s.Lines > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	first := time.Now()
	if err := <-sent; err != nil {
		return err
	}
	drained := events / time.Since(first).Seconds()
	if rss, err = p.peak(); err != nil {
		return err
	}
	if _, err := node.seen(events); err != nil {
		return err
	}
	fmt.Printf("back: the first document after %.1f s; the backlog at %.0f k events/s, %.0f %% of normal (target: at least 80 %%); RSS %d MiB at most\n",
		first.Sub(back).Seconds(), drained/1e3, 100*drained/normal, rss>>20)
	return nil
}

// slow measures how many events a second pass to a cluster that takes its time,
// beside what the requests allow.
func (h *harness) slow(ctx context.Context) error {
	node, err := h.startSearch(ctx, "", "-delay", slowBulk.String())
	if err != nil {
		return err
	}
	defer node.stop()
	fmt.Printf("a cluster that takes %s a bulk; %d workers, %d MiB a bulk\n", slowBulk, workers, bulkBytes>>20)
	for _, clients := range []int{1, 4, 16} {
		p, err := h.toNode(ctx, node)
		if err != nil {
			return err
		}
		if err := errors.Join(sendOver(clients, p.address, h.load, clients), node.reset()); err != nil {
			return errors.Join(err, p.stop())
		}
		windows := max(64, 16*clients) // so many that the first and the last bulks, which are not full, count little
		began := time.Now()
		if err := sendOver(clients, p.address, h.load, windows); err != nil {
			return errors.Join(err, p.stop())
		}
		took := time.Since(began)
		size, err := node.seen(windows * windowSize)
		s, statErr := node.stats()
		if err := errors.Join(err, statErr, p.stop()); err != nil {
			return err
		}
		rate, bound := float64(windows*windowSize)/took.Seconds(), workers*bulkBytes/size/slowBulk.Seconds()
		fmt.Printf("%3d clients: %5.1f k events/s, %3.0f %% of what %d workers with full bulks take (%.1f k); %d bulks of %.1f MiB\n",
			clients, rate/1e3, 100*rate/bound, workers, bound/1e3, s.Requests["POST /_bulk"], float64(s.Bytes)/float64(s.Requests["POST /_bulk"])/(1<<20))
	}
	return nil
}
