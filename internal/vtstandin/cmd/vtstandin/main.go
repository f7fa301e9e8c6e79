// Command vtstandin runs a stand-in VirusTotal for demonstrations, benchmarks
// and end-to-end runs. It prints one line that holds address=HOST:PORT to
// standard error when it listens, and ends on SIGTERM or SIGINT.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"vtsidecar/internal/standin"
	"vtsidecar/internal/vtstandin"
)

func main() { standin.Run("vtstandin", run) }

func run(ctx context.Context, args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("vtstandin", flag.ContinueOnError)
	fs.SetOutput(stderr)
	address := fs.String("address", "127.0.0.1:0", "`HOST:PORT` to listen on")
	table := fs.String("table", "", "JSON `FILE` of known objects")
	key := fs.String("key", "", "the only `KEY` that is right; empty: any")
	minute := fs.Int("minute", 0, "requests a minute; 0: no limit")
	hour := fs.Int("hour", 0, "requests an hour; 0: no limit")
	day := fs.Int("day", 0, "requests a day; 0: no limit")
	month := fs.Int("month", 0, "requests a month; 0: no limit")
	latency := fs.Duration("latency", 0, "how long an answer takes")
	inFlight := fs.Int("in-flight", 0, "more requests at once are a violation; 0: any number")
	generate := fs.Bool("generate", false, "know every value, by a rule")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	cfg := vtstandin.Config{
		Key: *key, Minute: *minute, Hour: *hour, Day: *day, Month: *month, Latency: *latency, MaxInFlight: *inFlight, Generate: *generate,
		Log: slog.New(slog.NewTextHandler(stderr, nil)),
	}
	if *table != "" {
		objects, err := readTable(*table)
		if err != nil {
			return err
		}
		cfg.Objects = objects
	}
	s, err := vtstandin.New(cfg)
	if err != nil {
		return err
	}
	return standin.Serve(ctx, "vtstandin", *address, s, stderr)
}

func readTable(path string) ([]vtstandin.Object, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	objects, err := vtstandin.ReadTable(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return objects, nil
}
