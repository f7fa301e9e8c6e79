package configs

import (
	"flag"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// This file is the only one that knows of urfave/cli. Its own flag types split
// lists at every comma and keep their state in the declaration, so that one
// declaration cannot stand on the program and on a command; this one leaves
// values as text and its state in the flag set.

// Flags are the flags of all settings, for the program and for the commands
// that show them in their help.
func Flags() []cli.Flag { return makeFlags(false) }

// HiddenFlags are the same flags for commands whose help would drown in them.
func HiddenFlags() []cli.Flag { return makeFlags(true) }

func makeFlags(hide bool) []cli.Flag {
	// Planned settings are no flags, or the shell would complete them. They are
	// refused like other unknown names, in words of their own.
	flags := make([]cli.Flag, 0, len(table))
	for i := range table {
		flags = append(flags, &settingFlag{Setting: table[i].public(), hidden: hide})
	}
	return flags
}

// settingFlag declares one flag. It has no state.
type settingFlag struct {
	Setting
	hidden bool
}

var (
	_ cli.DocGenerationSliceFlag = (*settingFlag)(nil)
	_ cli.CategorizableFlag      = (*settingFlag)(nil)
)

func (f *settingFlag) Apply(set *flag.FlagSet) error {
	set.Var(&flagValue{boolean: f.Bool}, f.Name, f.Doc)
	return nil
}
func (f *settingFlag) Names() []string        { return []string{f.Name} }
func (f *settingFlag) IsSet() bool            { return false } // the flag set knows
func (f *settingFlag) IsVisible() bool        { return !f.hidden }
func (f *settingFlag) TakesValue() bool       { return !f.Bool }
func (f *settingFlag) IsSliceFlag() bool      { return f.List }
func (f *settingFlag) GetUsage() string       { return strings.ReplaceAll(f.Doc, "`", "") }
func (f *settingFlag) GetValue() string       { return f.Default }
func (f *settingFlag) GetDefaultText() string { return f.Default }
func (f *settingFlag) GetEnvVars() []string   { return nil } // one rule names them all
func (f *settingFlag) String() string         { return cli.FlagStringer(f) }

func (f *settingFlag) GetCategory() string {
	section, _, dotted := strings.Cut(f.Name, ".")
	if !dotted {
		return ""
	}
	return section
}

// flagValue collects what one flag set is given for one flag.
type flagValue struct {
	boolean bool
	texts   []string
}

func (v *flagValue) Set(text string) error { v.texts = append(v.texts, text); return nil }
func (v *flagValue) Get() any              { return v.texts }
func (v *flagValue) IsBoolFlag() bool      { return v.boolean }
func (v *flagValue) String() string        { return strings.Join(v.texts, ",") }

// FromContext is what the flags gave: those before the command first, then
// those after it.
func FromContext(c *cli.Context) []Value {
	var values []Value
	lineage := c.Lineage()
	for i := len(lineage) - 1; i >= 0; i-- {
		ctx := lineage[i]
		if ctx.Command == nil { // the background above the program
			continue
		}
		for _, name := range ctx.LocalFlagNames() {
			texts, ok := ctx.Value(name).([]string)
			if !ok || find(name) == nil {
				continue
			}
			for _, t := range texts {
				values = append(values, Value{Name: name, Text: t})
			}
		}
	}
	return values
}

// TakeUnknown takes flags that neither the program nor one of its commands
// knows out of the arguments, so that they can be reported with everything
// else, where the flag package would stop at the first. Append what it took to
// FromContext's values. It also joins "--vt.enabled false" to one argument,
// which the flag package would take for a flag and a command, and puts flags
// where that package looks for them, which stops at the first word that is
// none: settings to the front, since all commands take them anywhere, and a
// command's own flags before its arguments.
func TakeUnknown(app *cli.App, args []string) (rest []string, taken []Value) {
	takesValue := maps.Clone(programFlags)
	for n := range takesValue {
		takesValue[n] = false
	}
	collect := func(flags []cli.Flag) {
		for _, f := range flags {
			doc, ok := f.(cli.DocGenerationFlag)
			for _, n := range f.Names() {
				takesValue[n] = takesValue[n] || ok && doc.TakesValue()
			}
		}
	}
	commands := map[string]bool{}
	var walk func([]*cli.Command)
	walk = func(cmds []*cli.Command) {
		for _, c := range cmds {
			for _, n := range c.Names() {
				commands[n] = true
			}
			collect(c.Flags)
			walk(c.Subcommands)
		}
	}
	collect(app.Flags)
	walk(app.Commands)

	var o order
	for i := 0; i < len(args); i++ {
		arg := args[i]
		name := strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
		if arg == "--" {
			o.end = args[i:]
			break
		}
		if name == arg || name == "" || strings.HasPrefix(name, "-") {
			o.words = append(o.words, arg)
			continue
		}
		name, text, inline := strings.Cut(name, "=")
		value, known := takesValue[name]
		next := ""
		if i+1 < len(args) {
			next = args[i+1]
		}
		switch {
		case known && i+1 == len(args) && (value && !inline || name == "generate-bash-completion"):
			o.end = args[i:] // there is no value, and the completion is asked for last
		case known && !inline && value:
			o.flag(name, arg, next)
			i++
		case known && !inline && isBoolSetting(name) && isBool(next):
			o.flag(name, arg+"="+next)
			i++
		case known:
			o.flag(name, arg)
		case len(name) == 1 && !strings.HasPrefix(arg, "--"):
			o.flag(name, arg) // a short flag is no setting; the command line explains it
		default:
			// Nothing runs with an unknown flag, so guessing which argument is its
			// value can only change which further mistakes are seen.
			if !inline && next != "" && !strings.HasPrefix(next, "-") && !commands[next] && (isBool(next) || !isBoolSetting(nearest(name))) {
				text = next
				i++
			}
			taken = append(taken, Value{Name: name, Text: text})
		}
	}
	return o.args(app.Commands), taken
}

// programFlags mean something else, or nothing, behind a command.
var programFlags = map[string]bool{"help": true, "h": true, "version": true, "v": true, "generate-bash-completion": true}

// order is arguments on their way to where they are looked for.
type order struct {
	settings []string // flags with their values
	first    []string // the program's own flags, where they stand before the first word
	own      []string // other flags, which are the command's
	words    []string // the command, then its arguments
	end      []string // what stays last
}

func (o *order) flag(name string, args ...string) {
	switch {
	case find(name) != nil:
		o.settings = append(o.settings, args...)
	case len(o.words) == 0 && programFlags[name]:
		o.first = append(o.first, args...)
	default:
		o.own = append(o.own, args...)
	}
}

func (o *order) args(commands []*cli.Command) []string {
	n := 0
	for ; n < len(o.words); n++ {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(o.words[n]) })
		if i < 0 {
			break
		}
		commands = commands[i].Subcommands
	}
	return slices.Concat(o.settings, o.first, o.words[:n], o.own, o.words[n:], o.end)
}

func isBool(text string) bool {
	return strings.EqualFold(text, "true") || strings.EqualFold(text, "false")
}

func isBoolSetting(name string) bool {
	s := find(name)
	return s != nil && s.boolean
}

// CheckNames is the error for flags that are no settings of this version, or
// nil: for commands that need no settings and so never call Load.
func CheckNames(values []Value) error {
	l := &loader{in: Input{Flags: values}, values: make([][layers]*given, len(table)), bad: map[string]bool{}}
	l.flags()
	if len(l.mistakes) > 0 {
		return &Errors{Mistakes: l.mistakes}
	}
	return nil
}
