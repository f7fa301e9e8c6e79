package configs_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"

	"vtsidecar/configs"
)

// program is shaped as the real one is: settings on the program and on its
// commands, a command below a command, and a command with flags of its own.
func program(got *[]configs.Value, ran *string) *cli.App {
	run := func(c *cli.Context) error {
		*got = configs.FromContext(c)
		*ran = c.Command.FullName()
		return nil
	}
	return &cli.App{
		Name: "vtsidecar", Flags: configs.Flags(), Action: run, Writer: &bytes.Buffer{}, ErrWriter: &bytes.Buffer{},
		Commands: []*cli.Command{
			{Name: "serve", Flags: configs.Flags(), Action: run},
			{Name: "send", Flags: append(configs.HiddenFlags(), &cli.StringFlag{Name: "to"}, &cli.BoolFlag{Name: "json"}), Action: run},
			{Name: "plain", Subcommands: []*cli.Command{{Name: "below", Action: run}}},
			{Name: "test", Flags: configs.HiddenFlags(), Subcommands: []*cli.Command{
				{Name: "config", Flags: configs.HiddenFlags(), Action: run},
			}},
		},
	}
}

func parse(t *testing.T, args ...string) (values, unknown []configs.Value, ran string) {
	t.Helper()
	app := program(&values, &ran)
	rest, unknown := configs.TakeUnknown(app, args)
	require.NoError(t, app.Run(append([]string{"vtsidecar"}, rest...)))
	return values, unknown, ran
}

func v(name, text string) configs.Value { return configs.Value{Name: name, Text: text} }

func TestFlagsBeforeAndAfterTheCommand(t *testing.T) {
	want := []configs.Value{v("vt.enabled", "false"), v("vt.wait", "1s")}
	for _, args := range [][]string{
		{"--vt.wait", "1s", "--vt.enabled=false"},
		{"-vt.wait=1s", "--vt.enabled", "false"},
		{"serve", "--vt.wait", "1s", "--vt.enabled=false"},
		{"--vt.wait=1s", "serve", "--vt.enabled=false"},
		{"--vt.enabled=false", "serve", "--vt.wait=1s"},
		{"--vt.enabled", "false", "test", "--vt.wait", "1s", "config"},
		{"test", "config", "--vt.enabled=false", "--vt.wait=1s"},
		{"--vt.wait=1s", "test", "config", "--vt.enabled=false"},
		{"send", "--vt.enabled", "false", "--to", "x", "file", "--vt.wait", "1s"},
		{"plain", "--vt.wait=1s", "below", "--vt.enabled=false"}, // declares none of them
		{"plain", "below", "argument", "--vt.wait=1s", "--vt.enabled=false"},
	} {
		values, unknown, _ := parse(t, args...)
		assert.ElementsMatch(t, want, values, args)
		assert.Empty(t, unknown)
	}
}

func TestFlagValues(t *testing.T) {
	values, _, ran := parse(t, "--vt.enabled", "serve", "--fields", "a.b:ip,c", `--fields=x\,y`, "--skip.domains=")
	assert.Equal(t, "serve", ran)
	assert.ElementsMatch(t, []configs.Value{v("vt.enabled", "true"), v("fields", "a.b:ip,c"), v("fields", `x\,y`), v("skip.domains", "")}, values)

	// Lists add up over both places, in the order of reading; scalars: the later one.
	values, _, _ = parse(t, "--skip.domains=a.example", "--log.level=debug", "serve", "--skip.domains=b.example", "--log.level=error")
	c := load(t, configs.Input{Flags: values})
	assert.Equal(t, []string{"a.example", "b.example"}, c.Skip.Domains)
	assert.Equal(t, "error", c.LogLevel)
}

func TestUnknownFlagsAreAllReported(t *testing.T) {
	values, unknown, ran := parse(t, "--input.adress", "127.0.0.1:1", "--what", "serve", "--vt.enbled", "--cache.ttl=0", "--late.enabled", "true", "--output.elasticsearch.foo=x", "--vt.wait", "1s")
	assert.Equal(t, "serve", ran)
	_, err := configs.Load(configs.Input{Flags: append(values, unknown...)})
	require.Error(t, err)
	assert.ElementsMatch(t, []string{
		"--input.adress (flag): is not known: did you mean --input.address?",
		"--what (flag): is not known: take it out, or see vtsidecar serve --help",
		"--vt.enbled (flag): is not known: did you mean --vt.enabled?",
		`cache.ttl (flag): "0" is too short: use a duration above 0, at least 1ms`,
		"late.enabled (flag): is not in this version: take it out",
		"--output.elasticsearch.foo (flag): is not known: did you mean --output.elasticsearch.hosts?",
	}, strings.Split(err.Error(), "\n"))
	assert.Error(t, configs.CheckNames(unknown))
	assert.NoError(t, configs.CheckNames([]configs.Value{v("vt.wait", "nonsense")}))
}

func TestOtherFlagsAreLeftAlone(t *testing.T) {
	app := program(new([]configs.Value), new(string))
	for _, args := range [][]string{
		{"send", "--to", "--odd-value", "--json", "-", "file"},
		{"--help"}, {"-h"}, {"--version"}, {"send", "--", "--unknown"}, {"send", "-x"}, {"--to"},
		{"", "-", "---", "file"},
	} {
		rest, taken := configs.TakeUnknown(app, args)
		assert.Equal(t, args, rest)
		assert.Empty(t, taken)
	}
}

func TestFlagsBehindArguments(t *testing.T) {
	app := program(new([]configs.Value), new(string))
	for _, c := range []struct{ given, want []string }{
		{[]string{"send", "file", "--to", "x", "-"}, []string{"send", "--to", "x", "file", "-"}},
		{[]string{"send", "file", "--vt.wait", "1s", "--json"}, []string{"--vt.wait", "1s", "send", "--json", "file"}},
		{[]string{"send", "file", "--json", "--", "--to", "x"}, []string{"send", "--json", "file", "--", "--to", "x"}},
		{[]string{"plain", "below", "below", "--json"}, []string{"plain", "below", "--json", "below"}},
		{[]string{"--json", "--to", "x", "send", "file"}, []string{"send", "--json", "--to", "x", "file"}},
		{[]string{"--help", "send"}, []string{"--help", "send"}},
		{[]string{"--version", "serve", "-x"}, []string{"--version", "serve", "-x"}},
		// A value that is missing is not made of what stands elsewhere.
		{[]string{"test", "config", "--vt.wait"}, []string{"test", "config", "--vt.wait"}},
		{[]string{"send", "file", "--to"}, []string{"send", "file", "--to"}},
		{[]string{"send", "file", "--generate-bash-completion"}, []string{"send", "file", "--generate-bash-completion"}},
	} {
		rest, taken := configs.TakeUnknown(app, c.given)
		assert.Equal(t, c.want, rest)
		assert.Empty(t, taken)
	}
}

func TestHelpShowsEverySetting(t *testing.T) {
	help := func(args ...string) string {
		app := program(new([]configs.Value), new(string))
		out := &bytes.Buffer{}
		app.Writer = out
		require.NoError(t, app.Run(append([]string{"vtsidecar"}, args...)))
		return out.String()
	}
	text := help("--help")
	for _, s := range configs.Settings() {
		assert.Contains(t, text, "--"+s.Name+" ")
		if s.Name != "fields" {
			assert.Contains(t, text, "default: "+s.Default+")", s.Name)
		}
	}
	assert.NotContains(t, text, "late.window")
	assert.NotContains(t, text, "`")
	assert.Contains(t, help("serve", "--help"), "--vt.wait")
	assert.NotContains(t, help("send", "--help"), "--vt.wait")
}
