// Command bench measures this program beside a floor and its peers: whole
// server processes over the same load, one after the other in turns, so that a
// busy machine is busy for all of them.
//
// Promise: every figure is the processor time (user and system) of a server
// process, and every claim a ratio to the floor measured in the same round;
// medians of several rounds are shown. Nothing is asserted about time. What was
// written is counted, event by event.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// run is the harness, or with a server's name as the first argument that
// server, until ctx ends.
func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "floor":
			return floor(ctx)
		case "floor-file":
			return floorFile(ctx, args[1])
		case "go-lumber":
			return goLumber(ctx)
		case "wire":
			return wire(ctx)
		case "peer":
			return peer(ctx, args[1])
		}
	}
	var h harness
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.IntVar(&h.rounds, "rounds", 5, "`N` rounds; each measures every server once")
	fs.IntVar(&h.windows, "windows", 300, "`N` windows of 2048 events to each server and round")
	fs.StringVar(&h.sidecar, "vtsidecar", "bin/vtsidecar", "the program's binary")
	fs.StringVar(&h.standIn, "vtstandin", "bin/vtstandin", "the stand-in VirusTotal's binary")
	fs.StringVar(&h.searchStandIn, "esstandin", "bin/esstandin", "the stand-in Elasticsearch's binary")
	fs.StringVar(&h.mode, "mode", "", "instead of that: `outage`, 1,000 clients while Elasticsearch is away for two minutes; slow, one that takes 500 ms a bulk")
	fs.StringVar(&h.beside, "beside", "", "another `BINARY` of the program, measured beside it")
	only := fs.String("only", "", "`REGEXP` of what is measured besides the floor; default: everything")
	fs.StringVar(&h.dir, "dir", "", "`FOLDER` for what is written, on the disk to measure; default: a temporary one")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *only != "" {
		var err error
		if h.only, err = regexp.Compile(*only); err != nil {
			return fmt.Errorf("-only: %w", err)
		}
	}
	return h.run(ctx)
}
