package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"vtsidecar/configs"
	"vtsidecar/internal/finding"
	"vtsidecar/output/elasticsearch"
)

func setupCommands(e *env, usage cli.OnUsageErrorFunc) []*cli.Command {
	return []*cli.Command{
		{
			Name: "setup", Usage: "installs the templates for the fields it adds in Elasticsearch or OpenSearch", OnUsageError: usage,
			Flags: append(configs.HiddenFlags(),
				&cli.BoolFlag{Name: "dry-run", Usage: "show what would change, and change nothing"},
				&cli.BoolFlag{Name: "json", Usage: "print the changes as JSON"}),
			UsageText:   "vtsidecar setup [--dry-run] [--json] [settings]",
			Description: "Takes the settings of the server, in the same places; see vtsidecar serve --help.\nIt touches its own two templates and no others; a second run changes nothing.",
			Action:      e.action(setupCommand),
		},
		{
			Name: "export", Usage: "export template, export config: prints what setup installs, or an annotated settings file", OnUsageError: usage,
			Subcommands: []*cli.Command{
				{
					Name: "template", Usage: "prints the component template, or with index the index template", OnUsageError: usage, Flags: configs.HiddenFlags(),
					UsageText:   "vtsidecar export template [component|index] [settings]",
					Description: "What it prints is the body of PUT _component_template/" + elasticsearch.ComponentName + ",\nor of PUT _index_template/" + elasticsearch.TemplateName + ".",
					Action:      e.action(exportTemplateCommand),
				},
				{
					Name: "config", Usage: "prints an annotated settings file with all defaults", OnUsageError: usage,
					UsageText: "vtsidecar export config > vtsidecar.yml",
					Action:    e.action(exportConfigCommand),
				},
			},
			Action: which("export", "vtsidecar export template, vtsidecar export config"),
		},
	}
}

// partNames are the names under which answers stand in events.
func partNames(cfg *configs.Config) ([]string, error) {
	specs, errs := parseFields(cfg.Fields)
	if len(errs) > 0 {
		return nil, usageError{errors.Join(errs...)}
	}
	var names []string
	for _, s := range specs {
		names = append(names, s.Name)
	}
	return names, nil
}

func setupCommand(c *cli.Context, e env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := load(c, e)
	if err != nil {
		return err
	}
	if cfg.Output != configs.OutputToElasticsearch {
		return usagef("setup is for Elasticsearch and OpenSearch: set output.elasticsearch.hosts")
	}
	parts, err := partNames(cfg)
	if err != nil {
		return err
	}
	client, err := newSearchClient(cfg)
	if err != nil {
		return err
	}
	err = setup(c, e, client, cfg, parts)
	return errors.Join(err, client.Close(context.WithoutCancel(c.Context)))
}

// setup installs the templates, or says what it would do, and looks what indices
// would be made from then.
func setup(c *cli.Context, e env, client elasticsearch.Doer, cfg *configs.Config, parts []string) error {
	ctx, dry := c.Context, c.Bool("dry-run")
	component, index := elasticsearch.Templates(parts)
	changes, err := elasticsearch.Plan(ctx, client, component, index)
	if err == nil && !dry {
		err = elasticsearch.Apply(ctx, client, changes, component, index)
	}
	if err != nil {
		if words := finding.Connection(err, "output.elasticsearch"); words != err.Error() {
			err = fmt.Errorf("%w: %s", err, words)
		}
		return err
	}
	if c.Bool("json") {
		if err := prettyTo(e.stdout).Encode(changes); err != nil {
			return err
		}
	} else {
		printChanges(e.stdout, changes, dry)
	}
	simulator := elasticsearch.NewSimulator(client, parts)
	for _, name := range elasticsearch.SampleNames(searchConfig(cfg)) {
		shape, err := simulator.Simulate(ctx, name)
		if err != nil {
			fmt.Fprintf(e.stderr, "vtsidecar: what %s would be made from could not be asked: %v\n", name, err)
			continue
		}
		if dry && shape.Awaits(name, changes) {
			continue // what is planned mends it, or shows in the next run
		}
		for _, p := range append(shape.Faults(), shape.Hint()) {
			if p != "" {
				fmt.Fprintf(e.stderr, "vtsidecar: an index named %s: %s\n", name, p)
			}
		}
	}
	return nil
}

func printChanges(w io.Writer, changes []elasticsearch.Change, dry bool) {
	words := map[string][2]string{
		"create": {"created", "would be created"},
		"update": {"updated", "would be updated"},
		"none":   {"is up to date", "is up to date"},
	}
	for _, c := range changes {
		word := words[c.Action][0]
		if dry {
			word = words[c.Action][1]
		}
		fmt.Fprintf(w, "%s/%s %s\n", c.Kind, c.Name, word)
		for _, line := range c.Diff {
			fmt.Fprintln(w, "  "+line)
		}
	}
}

func exportTemplateCommand(c *cli.Context, e env) error {
	cfg, err := load(c, e)
	if err != nil {
		return err
	}
	parts, err := partNames(cfg)
	if err != nil {
		return err
	}
	component, index := elasticsearch.Templates(parts)
	which := component
	switch what := c.Args().First(); {
	case c.Args().Len() > 1:
		return usagef("export template takes one of component, index")
	case what == "index":
		which = index
	case what != "" && what != "component":
		return usagef("export template takes component or index, not %q", what)
	}
	return prettyTo(e.stdout).Encode(which.Body)
}

func exportConfigCommand(c *cli.Context, e env) error {
	if err := errors.Join(noUnknownFlags(e), noArguments(c)); err != nil {
		return err
	}
	_, err := io.WriteString(e.stdout, configs.Annotated)
	return err
}
