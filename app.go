package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"vtsidecar/configs"
	"vtsidecar/enrich/indicator"
)

// env is everything that a run takes from its process, so that a test can start
// the program as a value.
type env struct {
	args     []string // with the program's name first
	environ  []string
	stdin    io.Reader
	stdout   io.Writer // data
	stderr   io.Writer // words
	terminal bool      // stderr is one

	unknown []configs.Value // flags that nobody knows; run fills it in
}

// Exit statuses that scripts rely on.
const (
	exitDone  = 0
	exitFail  = 1 // it failed while running
	exitUsage = 2 // usage or settings; nothing was opened
)

// usageError is a mistake of the caller's: exit status 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// saidError is an error that stands in the log already: who reads JSON there gets
// nothing else.
type saidError struct{ error }

func (e saidError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// notYet are the commands that users may know from the documentation and that
// this version does not have. They are refused by name.
var notYet = []string{"lookup", "enrich", "backfill", "cache"}

// appHelp and serveHelp are templates of urfave/cli. The program's help fits on
// a screen; that of serve is the reference.
func appHelp() string {
	return `vtsidecar {{.Usage}}.

Usage: vtsidecar [settings] [command]

Commands:
{{range .VisibleCommands}}  {{.Name}}{{"\t"}}{{.Usage}}
{{end}}
The settings that are needed most; vtsidecar serve --help has all of them:

` + configs.Help("config", "path.data", "input.address", "vt.api_key_file", "vt.wait", "output.file.path", "admin.address", "log.level")
}

func serveHelp() string {
	return `vtsidecar serve: {{.Usage}}.

Usage: vtsidecar [serve] [settings]

Each setting is a flag (--vt.wait 3s), an environment variable
(VTSIDECAR_VT_WAIT=3s) and a path in the file named by --config
(vt: {wait: 3s}). Flags win over the environment, that over the file. Sizes are
64KiB or 10MB, times 30s or 7d; VALUE,… is a list: commas, or the flag again.

` + configs.Help()
}

// run is the program: arguments in, exit status out. It ends soon after ctx.
func run(ctx context.Context, e env) int {
	app := newApp(&e)
	rest, taken := configs.TakeUnknown(app, e.args[1:])
	e.unknown = taken
	err := app.RunContext(ctx, append(e.args[:1:1], rest...))
	if err == nil {
		return exitDone
	}
	var said saidError
	if !errors.As(err, &said) {
		fmt.Fprintln(e.stderr, "vtsidecar: "+report(err))
	}
	var usage usageError
	var helpless cli.ExitCoder // help for a command that does not exist
	if errors.As(err, &usage) || errors.As(err, &helpless) {
		return exitUsage
	}
	return exitFail
}

// report is an error for people. Many mistakes in the settings stand below one
// another, none of them behind the program's name.
func report(err error) string {
	var mistakes *configs.Errors
	if !errors.As(err, &mistakes) || len(mistakes.Mistakes) == 1 {
		return err.Error()
	}
	return fmt.Sprintf("%d mistakes in the settings:\n  %s", len(mistakes.Mistakes), strings.ReplaceAll(err.Error(), "\n", "\n  "))
}

func newApp(e *env) *cli.App {
	usage := func(_ *cli.Context, err error, _ bool) error { return usagef("%w; see vtsidecar --help", err) }
	app := &cli.App{
		Name:                      "vtsidecar",
		Usage:                     "enriches events of Beats with VirusTotal's verdicts on their way",
		CustomAppHelpTemplate:     appHelp(),
		HideVersion:               true,
		Flags:                     append(configs.Flags(), &cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "what was built"}),
		DisableSliceFlagSeparator: true,
		EnableBashCompletion:      true,
		Reader:                    e.stdin,
		Writer:                    e.stdout,
		ErrWriter:                 e.stderr,
		OnUsageError:              usage,
		ExitErrHandler:            func(*cli.Context, error) {}, // run decides
		Action: func(c *cli.Context) error {
			if c.Bool("version") {
				return versionCommand(c, *e)
			}
			return serveCommand(c, *e)
		},
		Commands: []*cli.Command{
			{
				Name: "serve", Usage: "the server; also what runs without a command", Flags: configs.Flags(), OnUsageError: usage,
				CustomHelpTemplate: serveHelp(),
				Action:             e.action(serveCommand),
			},
			sendCommand(e, usage),
			dlqCommand(e, usage),
			{
				Name: "test", Usage: "test config: the settings and what is in force; test output: where events go; test virustotal: the key, its quota and its terms", Flags: configs.HiddenFlags(), OnUsageError: usage,
				Subcommands: []*cli.Command{
					{
						Name: "config", Usage: "checks the settings and prints those in force", Flags: configs.HiddenFlags(), OnUsageError: usage,
						UsageText:   "vtsidecar test config [settings]",
						Description: "Takes the settings of the server, in the same places; see vtsidecar serve --help.\nWhat it prints can be used as a --config file; secrets are shown as xxxxx.",
						Action:      e.action(testConfigCommand),
					},
					{
						Name: "output", Usage: "tries the output and says what is wrong with it", OnUsageError: usage,
						Flags:       append(configs.HiddenFlags(), &cli.BoolFlag{Name: "json", Usage: "print the findings as JSON"}),
						UsageText:   "vtsidecar test output [--json] [settings]",
						Description: "Takes the settings of the server, in the same places; see vtsidecar serve --help.\nNo event is stored.",
						Action:      e.action(testOutputCommand),
					},
					{
						Name: "virustotal", Usage: "tries the key and says what is left of its quota", OnUsageError: usage,
						Flags:       append(configs.HiddenFlags(), &cli.BoolFlag{Name: "json", Usage: "print the findings as JSON"}),
						UsageText:   "vtsidecar test virustotal [--json] [settings]",
						Description: "Takes the settings of the server, in the same places; see vtsidecar serve --help.\nIt reads the account of the key, which costs no quota. Where the key may not do\nthat, it makes one look-up of something that everybody knows, and says so.",
						Action:      e.action(testVirusTotalCommand),
					},
				},
				Action: which("test", "vtsidecar test config, vtsidecar test output, vtsidecar test virustotal"),
			},
			{
				Name: "version", Usage: "what was built", OnUsageError: usage,
				Action: e.action(versionCommand),
			},
		},
	}
	app.Commands = append(app.Commands, setupCommands(e, usage)...)
	for _, name := range notYet { // so that no flag of theirs hides why
		app.Commands = append(app.Commands, &cli.Command{
			Name: name, Hidden: true, SkipFlagParsing: true,
			CustomHelpTemplate: "vtsidecar " + name + " is not in this version.\n",
			Action:             func(*cli.Context) error { return usagef("the command %q is not in this version", name) },
		})
	}
	return app
}

// action is what a command does with what the run takes from its process.
func (e *env) action(do func(*cli.Context, env) error) cli.ActionFunc {
	return func(c *cli.Context) error { return do(c, *e) }
}

// which is the action of a command that only has others below it.
func which(command, try string) cli.ActionFunc {
	return func(c *cli.Context) error {
		if what := c.Args().First(); what != "" {
			return usagef("unknown command %q; try: %s", command+" "+what, try)
		}
		return usagef("%s what? Try: %s", command, try)
	}
}

// load reads the settings from the flags before and behind the command, the
// environment and the file.
func load(c *cli.Context, e env) (*configs.Config, error) {
	cfg, err := configs.Load(configs.Input{
		Flags:       append(configs.FromContext(c), e.unknown...),
		Environ:     e.environ,
		CheckFields: checkFields,
		CheckOutput: checkOutput,
	})
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

// noUnknownFlags is for commands that take no settings; load does it for others.
func noUnknownFlags(e env) error {
	if err := configs.CheckNames(e.unknown); err != nil {
		return usageError{err}
	}
	return nil
}

// checkFields says what is wrong with the setting fields, all of it.
func checkFields(texts []string) []error {
	specs, errs := parseFields(texts)
	return append(errs, indicator.CheckFields(specs)...)
}

func parseFields(texts []string) (specs []indicator.FieldSpec, errs []error) {
	for _, text := range texts {
		spec, err := indicator.ParseField(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		specs = append(specs, spec)
	}
	return specs, errs
}

// noArguments refuses words behind a command that takes none: most often a
// mistyped command or a flag without its dashes.
func noArguments(c *cli.Context) error {
	if !c.Args().Present() {
		return nil
	}
	word := c.Args().First()
	if slices.Contains(notYet, word) {
		return usagef("the command %q is not in this version", word)
	}
	return usagef("unknown command or argument %q; see vtsidecar --help", word)
}

// jsonTo writes JSON for people and programs: nothing in it goes into a page.
func jsonTo(w io.Writer) *json.Encoder {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc
}

// prettyTo is jsonTo with a line for each member.
func prettyTo(w io.Writer) *json.Encoder {
	enc := jsonTo(w)
	enc.SetIndent("", "  ")
	return enc
}
