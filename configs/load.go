package configs

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Value is a setting as it was given by a flag.
type Value struct{ Name, Text string }

// Input is everything that settings are made of. Nothing else is consulted, so
// equal inputs make equal settings.
type Input struct {
	Flags   []Value  // in the order they were given; see FromContext
	Environ []string // as os.Environ gives it

	// ReadFile reads the files that settings name; nil: from disk, at most 16 MiB.
	ReadFile func(string) ([]byte, error)

	// CheckFields says what is wrong with the elements of fields. It is given
	// by the caller because only the enrichment knows what a field is. nil: no check.
	CheckFields func([]string) []error

	// CheckOutput says what is wrong with the names that events are to be stored
	// under, for the same reason: mistakes with a setting's name and the mend. nil:
	// no check.
	CheckOutput func(*Elasticsearch) []Mistake
}

// EffectiveSetting is what holds for one setting, and why.
type EffectiveSetting struct {
	Name string
	Text string // would be taken again as it stands; secrets are xxxxx
	From string // "flag", "environment variable …", "FILE:LINE", "default"
}

// Effective is every setting with the value that holds, in the order of the
// documentation.
func (c *Config) Effective() []EffectiveSetting { return slices.Clone(c.effective) }

const (
	hidden = "xxxxx"
	notYet = "is not in this version: take it out"
)

// layer is where a value came from; a higher one wins.
type layer int

const (
	layerDefault layer = iota
	layerFile
	layerCommonEnv // VT_API_KEY, which is not only ours
	layerEnv
	layerFlag
	layers
)

// given is one value of one setting in one layer.
type given struct {
	texts []string
	where string
}

// loader is one run of Load.
type loader struct {
	in       Input
	cfg      *Config
	mistakes []Mistake
	// values has the layers of each setting of the table, by index.
	values [][layers]*given
	// bad are settings with a mistake; rules that involve one stay silent.
	bad map[string]bool
}

// Load makes the settings out of everything that was given: flags, then
// environment, then the file, then defaults. The files that settings name are
// read here; nothing is opened to be kept. The error is an *Errors with every
// mistake that could be found.
func Load(in Input) (*Config, error) {
	if in.ReadFile == nil {
		in.ReadFile = readFile
	}
	l := &loader{in: in, cfg: &Config{}, values: make([][layers]*given, len(table)), bad: map[string]bool{}}
	l.flags()
	l.environment()
	l.file()
	l.parse()
	l.secrets()
	l.cfg.derive()
	l.output()
	l.listing()
	l.contradictions()
	l.files()
	l.checkOutput()
	l.checkFields()
	if len(l.mistakes) > 0 {
		return nil, &Errors{Mistakes: l.mistakes}
	}
	return l.cfg, nil
}

// derive fills in what follows from other settings.
func (c *Config) derive() {
	if c.OutputFile.Path == "" {
		c.OutputFile.Path = filepath.Join(c.DataDir, "events.ndjson")
	}
}

func (l *loader) mistake(name, where, text string) {
	l.bad[name] = true
	l.mistakes = append(l.mistakes, Mistake{Name: name, Where: where, Text: text})
}

// wrong is a mistake in the value that holds for a setting.
func (l *loader) wrong(name, text string) { l.mistake(name, l.where(name), text) }

// unknown is the mend for a name that nobody knows. spell writes a setting's
// name as it would stand there.
func unknown(name string, spell func(string) string) string {
	if n := nearest(name); n != "" {
		return "is not known: did you mean " + spell(n) + "?"
	}
	return "is not known: take it out, or see vtsidecar serve --help"
}

func index(name string) int {
	return slices.IndexFunc(table, func(s setting) bool { return s.name == name })
}

// flags sorts the flags to their settings. Repeated lists add up, of anything
// else the last one counts.
func (l *loader) flags() {
	for _, v := range l.in.Flags {
		i := index(v.Name)
		switch {
		case i < 0 && isLater(v.Name):
			l.mistake(safeName(v.Name), "flag", notYet)
		case i < 0:
			l.mistake("--"+safeName(v.Name), "flag", unknown(v.Name, func(n string) string { return "--" + n }))
		case table[i].list:
			if l.values[i][layerFlag] == nil {
				l.values[i][layerFlag] = &given{where: "flag"}
			}
			g := l.values[i][layerFlag]
			g.texts = append(g.texts, splitList(v.Text)...)
		default:
			l.values[i][layerFlag] = &given{texts: []string{v.Text}, where: "flag"}
		}
	}
}

// Variables that Kubernetes puts into every container of a namespace in which a
// service is called vtsidecar. They are no settings. The short form counts only
// with its URL as value: VTSIDECAR_PORT=5044 is somebody's mistake.
var (
	serviceLink      = regexp.MustCompile(`^VTSIDECAR_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	serviceLinkShort = regexp.MustCompile(`^VTSIDECAR_([A-Z0-9_]+_)?PORT$`)
)

func isServiceLink(name, text string) bool {
	return serviceLink.MatchString(name) || serviceLinkShort.MatchString(name) && strings.Contains(text, "://")
}

// environment sorts variables to their settings. An empty variable is one that
// is not set: compose files and manifests pass unset ones on as empty.
func (l *loader) environment() {
	byEnv := map[string]int{}
	for i := range table {
		byEnv[envName(table[i].name)] = i
	}
	vars := map[string]string{}
	for _, e := range l.in.Environ {
		if name, text, ok := strings.Cut(e, "="); ok {
			vars[name] = text
		}
	}
	for _, n := range slices.Sorted(maps.Keys(vars)) {
		text := vars[n]
		i, known := byEnv[n]
		switch {
		case n == "VT_API_KEY" && text != "":
			l.values[index("vt.api_key")][layerCommonEnv] = &given{texts: []string{text}, where: "environment variable VT_API_KEY"}
		case !strings.HasPrefix(n, envPrefix):
		case known && text != "":
			texts := []string{text}
			if table[i].list {
				texts = splitList(text)
			}
			l.values[i][layerEnv] = &given{texts: texts, where: "environment variable " + n}
		case known || isServiceLink(n, text):
		case envIsLater(n):
			l.mistake(n, "environment", notYet)
		default:
			wrong := strings.ToLower(strings.TrimPrefix(n, envPrefix))
			l.mistake(n, "environment", unknown(wrong, envName))
		}
	}
}

// envIsLater says the same of a variable as isLater of a name.
func envIsLater(variable string) bool {
	return slices.ContainsFunc(later, func(name string) bool { return variable == envName(name) }) ||
		slices.ContainsFunc(laterSections, func(s string) bool { return strings.HasPrefix(variable, envName(s)+"_") })
}

// file reads the YAML file, if there is one.
func (l *loader) file() {
	i := index("config")
	g := l.values[i][layerFlag]
	if g == nil {
		g = l.values[i][layerEnv]
	}
	if g == nil || g.texts[0] == "" {
		return
	}
	data, ok := l.read("config", g.where, g.texts[0], 1<<20)
	if !ok {
		return
	}
	base := filepath.Base(g.texts[0])
	for _, f := range readYAML(base, data, l.mistake) {
		i := index(f.name)
		texts := f.texts
		if table[i].list && !f.sequence {
			texts = splitList(f.texts[0])
		}
		l.values[i][layerFile] = &given{texts: texts, where: fmt.Sprintf("%s:%d", base, f.line)}
	}
}

// winner is the highest layer that has a value.
func (l *loader) winner(i int) layer {
	for y := layers - 1; y > layerDefault; y-- {
		if l.values[i][y] != nil {
			return y
		}
	}
	return layerDefault
}

func (l *loader) where(name string) string {
	i := index(name)
	if i < 0 {
		return ""
	}
	if y := l.winner(i); y != layerDefault {
		return l.values[i][y].where
	}
	return "default"
}

// parse gives each setting its default and then the value that wins. Values
// that lose are parsed too: a mistake does not become right by being hidden,
// it waits for the day the flag above it goes.
func (l *loader) parse() {
	for i := range table {
		s := &table[i]
		set := func(c *Config, g *given) {
			if err := s.set(c, g.texts); err != nil {
				for _, e := range each(err) {
					l.mistake(s.name, g.where, e.Error())
				}
			}
		}
		// A setting whose default stands in words keeps its zero value.
		if s.def != "" {
			set(l.cfg, &given{texts: s.defaults(), where: "default"})
		}
		win := l.winner(i)
		for y := layerDefault + 1; y < layers; y++ {
			g := l.values[i][y]
			switch {
			case g == nil:
			case y == win:
				set(l.cfg, g)
			default:
				var scratch Config
				set(&scratch, g)
			}
		}
	}
}

// each takes joined errors apart.
func each(err error) []error {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	return []error{err}
}

// ownFiles are what the program keeps in path.data beside the output file; a
// test of root's holds them to what a server leaves there.
var ownFiles = []string{"lock", "control.sock", "quota", "cache.snapshot", "dead-letter"}

// contradictions are values that are right alone and wrong together.
func (l *loader) contradictions() {
	c, in := l.cfg, &l.cfg.Input
	rule := func(broken bool, text string, name string, others ...string) {
		if !broken || l.bad[name] || slices.ContainsFunc(others, func(o string) bool { return l.bad[o] }) {
			return
		}
		// The one that somebody wrote is the one to complain of.
		for _, o := range others {
			if l.where(name) == "default" && l.where(o) != "default" {
				name = o
			}
		}
		l.wrong(name, text)
	}
	rule(in.Memory < 2*in.MaxEvent,
		fmt.Sprintf("input.memory is %s and input.max_event %s: the budget has to hold two events, so use an input.memory of at least %s", formatSize(in.Memory), formatSize(in.MaxEvent), formatSize(2*in.MaxEvent)),
		"input.memory", "input.max_event")
	rule(in.MaxWindowBytes < in.MaxEvent,
		fmt.Sprintf("input.max_window_bytes is %s and input.max_event %s: a window has to hold an event, so use at least that", formatSize(in.MaxWindowBytes), formatSize(in.MaxEvent)),
		"input.max_window_bytes", "input.max_event")
	rule(in.Key != "" && in.Certificate == "",
		"is given without input.ssl.certificate: name the certificate too, or take the key out", "input.ssl.key", "input.ssl.certificate")
	rule(in.Certificate != "" && in.Key == "",
		"is given without input.ssl.key: name the key too, or take the certificate out", "input.ssl.certificate", "input.ssl.key")
	rule(in.ClientAuth != "none" && len(in.CAs) == 0,
		"is "+in.ClientAuth+" without input.ssl.certificate_authorities: name the authorities that sign the senders' certificates",
		"input.ssl.client_authentication", "input.ssl.certificate_authorities")
	rule(len(in.CAs) > 0 && l.where("input.ssl.client_authentication") == "default",
		"is given and no sender would be checked against it: set input.ssl.client_authentication to required (or optional, or none on purpose)",
		"input.ssl.certificate_authorities")
	rule(in.ClientAuth != "none" && len(in.CAs) > 0 && in.Certificate == "",
		"is "+in.ClientAuth+" and TLS is off: set input.ssl.certificate and input.ssl.key",
		"input.ssl.client_authentication", "input.ssl.certificate", "input.ssl.certificate_authorities")
	rule(len(in.AllowedNames) > 0 && in.ClientAuth == "none",
		"is given and no sender is asked for a certificate: set input.ssl.client_authentication to required, or take the names out",
		"input.ssl.allowed_names", "input.ssl.client_authentication")
	if in.TrustVerdicts && in.ClientAuth != "required" && !l.bad["input.trust_verdicts"] {
		c.Warnings = append(c.Warnings, "input.trust_verdicts is true and senders need no certificate: anybody who reaches input.address can acquit his own events; set input.ssl.client_authentication to required")
	}
	data, err1 := filepath.Abs(c.DataDir)
	file, err2 := filepath.Abs(c.OutputFile.Path)
	if rel, err := filepath.Rel(data, file); errors.Join(err1, err2, err) == nil && c.OutputFile.Path != "" {
		first, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		rule(slices.Contains(ownFiles, first), quote(c.OutputFile.Path)+" is the program's own, in path.data: name another file, like events.ndjson there",
			"output.file.path", "path.data")
	}
	if c.AdminAddress != "" && c.AdminAddress == in.Address && !strings.HasSuffix(in.Address, ":0") {
		rule(true, "input.address and admin.address are both "+in.Address+": give each an address of its own", "admin.address", "input.address")
	}
}

// checkFields asks those who know what a field is.
func (l *loader) checkFields() {
	if l.in.CheckFields != nil && !l.bad["fields"] {
		for _, err := range l.in.CheckFields(slices.Clone(l.cfg.Fields)) {
			l.wrong("fields", err.Error())
		}
	}
}

// listing keeps what holds, for `test config`.
func (l *loader) listing() {
	for i := range table {
		s := &table[i]
		e := EffectiveSetting{Name: s.name, Text: s.def, From: "default"}
		if g := l.values[i][l.winner(i)]; g != nil {
			e.Text, e.From = strings.Join(g.texts, ""), g.where
			if s.list {
				e.Text = joinList(g.texts)
			}
		}
		switch s.name {
		case "vt.api_key":
			if e.Text == "" && l.cfg.VT.APIKey != "" {
				e.Text, e.From = hidden, l.where("vt.api_key_file")
			}
		case "vt.proxy_url":
			if p := l.cfg.VT.Proxy.URL; p != nil {
				e.Text = shownURL(p)
			}
		case "output.elasticsearch.proxy_url":
			if p := l.cfg.Elasticsearch.Proxy.URL; p != nil {
				e.Text = shownURL(p)
			}
		case "output.elasticsearch.hosts":
			if l.cfg.Elasticsearch.CloudID == "" {
				var shown []string
				for _, u := range l.cfg.Elasticsearch.Hosts {
					shown = append(shown, shownURL(u))
				}
				e.Text = joinList(shown)
			}
		case "output.file.path":
			if e.Text = ""; l.cfg.Output == OutputToFile { // or it would be a second output
				e.Text = l.cfg.OutputFile.Path
			}
		}
		if s.secret && e.Text != "" {
			e.Text = hidden
		}
		l.cfg.effective = append(l.cfg.effective, e)
	}
}
