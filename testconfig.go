package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
)

// testConfigCommand checks the settings as serve would and prints those in
// force, as YAML, with secrets as xxxxx.
func testConfigCommand(c *cli.Context, e env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := load(c, e)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(e.stdout, cfg.YAML()); err != nil {
		return err
	}
	for _, warning := range cfg.Warnings {
		fmt.Fprintln(e.stderr, "warning: "+warning)
	}
	fmt.Fprintln(e.stderr, "The settings are valid.")
	return nil
}
