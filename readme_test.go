package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"
)

// The README names every command. Those that are several things have a row for
// each, or name them all in one: dlq list|show.
func TestReadmeHasEveryCommand(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	var look func(before string, commands []*cli.Command)
	look = func(before string, commands []*cli.Command) {
		for _, c := range commands {
			switch {
			case c.Hidden || c.Name == "help":
			case len(c.Subcommands) > 0:
				look(before+c.Name+" ", c.Subcommands)
			default:
				assert.Regexp(t, "\\| `vtsidecar "+before+"[^`]*\\b"+c.Name+"\\b", string(readme), before+c.Name)
			}
		}
	}
	commands := newApp(&env{}).Commands
	require.NotEmpty(t, commands)
	look("", commands)
}
