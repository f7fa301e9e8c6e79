// Command torture stands before the built program as an open port does: with
// senders that are careless, broken, slow, many and hostile, and a few healthy
// ones among them.
//
//	torture         every row of the table of outcomes (rows.go), then all at once
//	torture soak    hours of ordinary days, with memory watched and every event counted
//
// Promise: each row is tried on the real binary, over plain TCP and TLS, and is
// held against what comes back on the wire, what stands in the files and what
// the metrics say; every event of a healthy sender is accounted for afterwards,
// byte for byte. The last line is "torture: passed", or what failed.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		return
	}
	fmt.Println("torture: passed")
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "soak" {
		return soakCommand(ctx, args[1:], out)
	}
	return tortureCommand(ctx, args, out)
}

// parse reads flags; nothing but flags may stand there.
func parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return nil
}
