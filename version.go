package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = ""

// build says what was built: the version, the commit and Go's version.
func build() (v, revision, goVersion string) {
	v, revision = version, "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	if v == "" || v == "(devel)" {
		v = "dev"
	}
	return v, revision, runtime.Version()
}

func versionCommand(c *cli.Context, e env) error {
	if err := errors.Join(noUnknownFlags(e), noArguments(c)); err != nil {
		return err
	}
	v, revision, goVersion := build()
	_, err := fmt.Fprintf(e.stdout, "vtsidecar %s (commit %s, %s, %s/%s)\n", v, revision, goVersion, runtime.GOOS, runtime.GOARCH)
	return err
}
