package elasticsearch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"vtsidecar/internal/event"
	"vtsidecar/internal/jsonwalk"
	"vtsidecar/internal/wildcard"
)

// This file decides where an event goes: its index, its pipeline, its _id. Its
// rule: an event may propose a name, the settings dispose. A name that is not
// what the settings allow sends the event to the fallback index, and is counted;
// it never fails an event.

const (
	// DefaultIndex is Logstash's convention, in force where no index is set.
	DefaultIndex = "%{[@metadata][beat]}-%{[@metadata][version]}"
	// DefaultFallback takes the events whose own name cannot be used.
	DefaultFallback = "logs-vtsidecar-fallback"
	// DefaultPipeline is what Beats users expect of @metadata.pipeline.
	DefaultPipeline = "%{[@metadata][pipeline]}"
)

// DefaultAllowed are the names that events may choose.
var DefaultAllowed = []string{"*beat-*", "logs-*-*"}

const (
	timestamp = "@timestamp"
	metadata  = "@metadata"
	maxName   = 255      // bytes of an index name (Elasticsearch's limit)
	maxID     = 512      // bytes of an _id (Elasticsearch's limit)
	maxMeta   = 64 << 10 // bytes of an @metadata that is read; Beats send a hundred
	maxRoutes = 1024     // that a router remembers
)

// CheckIndex says what is wrong with an index setting, before anything is opened:
// also where it is well-formed, but no name that it makes for an event could be
// used, so that all of them would go to the fallback index. allowed are the
// patterns of names that events may choose.
func CheckIndex(text string, allowed []string) error {
	t, err := parseFormat(text)
	switch {
	case err != nil:
		return err
	case text == "":
		return errors.New("is empty: name an index, or leave the setting out")
	}
	// Every date is as good as another, and every value of a field as any other
	// that an index may be named by.
	var sample, pattern strings.Builder
	for _, p := range t.parts {
		switch {
		case p.date != nil:
			sample.Write(appendDate(nil, p.date, time.Unix(0, 0).UTC()))
			pattern.WriteByte('*')
		case p.path != nil:
			sample.WriteByte('x')
			pattern.WriteByte('*')
		default:
			sample.WriteString(p.text)
			pattern.WriteString(p.text)
		}
	}
	if !t.fields() {
		return CheckName(sample.String())
	}
	if why := illegal(sample.String()); why != "" {
		return fmt.Errorf("%q makes no index, whatever stands in an event: %s", text, why)
	}
	if strings.HasPrefix(text, ".") {
		return fmt.Errorf("%q makes no index for events: names that begin with a dot are the cluster's own", text)
	}
	if !slices.ContainsFunc(allowed, func(p string) bool { return wildcard.Meet(p, pattern.String()) }) {
		return fmt.Errorf("%q makes no name that output.elasticsearch.allowed_indices (%s) allows: add %q there", text, strings.Join(allowed, ", "), pattern.String())
	}
	return nil
}

// CheckPipeline says what is wrong with a pipeline setting.
func CheckPipeline(text string) error {
	_, err := parseFormat(text)
	return err
}

// CheckName says why a name can be no index.
func CheckName(name string) error {
	if why := illegal(name); why != "" {
		return fmt.Errorf("%q can be no index: %s", name, why)
	}
	if strings.HasPrefix(name, ".") {
		return fmt.Errorf("%q can be no index for events: names that begin with a dot are the cluster's own", name)
	}
	return nil
}

// CheckPattern says why a pattern of names can match none that an event may choose.
func CheckPattern(pattern string) error {
	if err := CheckName(strings.ReplaceAll(pattern, "*", "x")); err != nil {
		return fmt.Errorf("%q matches no index that an event may choose: write a name, with * for any part of it", pattern)
	}
	return nil
}

// illegal is why Elasticsearch takes no index of that name; empty: it does.
func illegal(name string) string {
	switch {
	case name == "":
		return "it is empty"
	case len(name) > maxName:
		return "it is longer than 255 bytes"
	case name == "." || name == "..":
		return "it is . or .."
	case strings.ContainsAny(name[:1], "-_+"):
		return "it begins with -, _ or +"
	case !utf8.ValidString(name):
		return "it is not valid UTF-8"
	case strings.ToLower(name) != name:
		return "it has upper-case letters"
	case strings.Contains(name, "%{"): // Elasticsearch would; nobody means it
		return "it holds %{, which stands for nothing here"
	}
	for _, c := range name {
		if c <= ' ' || c == 0x7f || strings.ContainsRune(`\/*?"<>|,#:`, c) {
			return `it holds a space, a control character or one of \ / * ? " < > | , # :`
		}
	}
	return ""
}

// routing is what the settings say about where events go. It is constant.
type routing struct {
	index      *format
	streams    bool // the event's data_stream.* comes before index
	indexFixed bool // only the settings, and the date, make the name
	pipeline   *format
	op         string
	fallback   string
	allowed    []string
	paths      []string // of the events' values, in the order of Routing.Values
	byID       bool     // a name is made with the event's own _id
}

var streamPaths = []string{"data_stream.type", "data_stream.dataset", "data_stream.namespace"}

func newRouting(cfg *Config) (*routing, error) {
	r := &routing{op: cfg.OpType, fallback: cfg.FallbackIndex, allowed: cfg.AllowedIndices, streams: cfg.Index == ""}
	index := cfg.Index
	var err error
	if r.streams {
		index = DefaultIndex // what the settings allow may be for data_stream.* alone
	} else if err = CheckIndex(index, cfg.AllowedIndices); err != nil {
		return nil, fmt.Errorf("output.elasticsearch.index: %w", err)
	}
	r.index, _ = parseFormat(index)
	r.indexFixed = !r.index.fields()
	if r.pipeline, err = parseFormat(cfg.Pipeline); err != nil {
		return nil, fmt.Errorf("output.elasticsearch.pipeline: %w", err)
	}
	if err = CheckName(r.fallback); err != nil {
		return nil, fmt.Errorf("output.elasticsearch.fallback_index: %w", err)
	}
	r.byID = r.index.byID() || r.pipeline.byID()
	r.paths = slices.Concat(r.index.paths(), r.pipeline.paths())
	if r.streams {
		r.paths = append(r.paths, streamPaths...)
	}
	slices.Sort(r.paths)
	r.paths = slices.Compact(r.paths)
	return r, nil
}

// Why an event goes to the fallback index: labels of a metric.
const (
	fallbackUnresolved = "unresolved"
	fallbackIllegal    = "illegal"
	fallbackHidden     = "hidden"
	fallbackForbidden  = "not_allowed"
)

var fallbackReasons = []string{fallbackUnresolved, fallbackIllegal, fallbackHidden, fallbackForbidden}

// route is where an event goes. It is constant once made.
type route struct {
	event.Target           // without its ID
	action          []byte // the action line up to the _id
	indexSetting    string // the setting that fixes the index; empty: the event chose it
	pipelineSetting string // the same of the pipeline
	fallback        string // why it is the fallback index; empty: it is not
	opIgnored       bool   // the event asked for another operation
}

func newRoute(t event.Target) *route {
	r := &route{Target: t}
	r.action = append(r.action, `{"`...)
	r.action = append(r.action, t.Op...)
	r.action = append(r.action, `":{"_index":`...)
	r.action = appendQuoted(r.action, t.Index)
	if t.Pipeline != "" {
		r.action = append(r.action, `,"pipeline":`...)
		r.action = appendQuoted(r.action, t.Pipeline)
	}
	r.action = append(r.action, `,"_id":"`...)
	return r
}

// router finds the routes of events and remembers them. It belongs to one
// goroutine.
type router struct {
	*routing
	known map[string]*route // by what the event says
	made  map[string]*route // by what comes of it
	key   []byte
}

func newRouter(r *routing) *router {
	return &router{routing: r, known: map[string]*route{}, made: map[string]*route{}}
}

// of is the route of an event.
func (r *router) of(e *event.Routing) *route {
	if len(e.Meta) > maxMeta {
		return r.find(e)
	}
	key := r.key[:0]
	if r.byID {
		key = append(key, e.Meta...)
	} else {
		key = appendWithoutID(key, e.Meta)
	}
	for i, path := range r.paths {
		v := value(e, i)
		if path == timestamp {
			v = minuteOf(v)
		}
		key = binary.AppendUvarint(append(key, 0), uint64(len(v)))
		key = append(key, v...)
	}
	r.key = key
	if found := r.known[string(key)]; found != nil {
		return found
	}
	found := r.find(e)
	if len(key) <= 1<<10 { // what is longer does not come again
		if len(r.known) >= maxRoutes {
			clear(r.known)
		}
		r.known[string(key)] = found
	}
	return found
}

// appendWithoutID appends an @metadata less the text of its _id, which is another
// one in each event and says nothing about where that goes.
func appendWithoutID(key, meta []byte) []byte {
	const name = "_id"
	if !bytes.Contains(meta, []byte(name)) {
		return append(key, meta...)
	}
	c := jsonwalk.New(meta)
	from, to := 0, 0 // of the text
	_ = c.Object(func(k []byte) error {
		v, err := c.Value()
		if to == 0 && err == nil && string(k) == name && v[0] == '"' {
			to = c.Offset() - 1
			from = to - len(v) + 2
		}
		return err
	})
	return append(append(key, meta[:from]...), meta[to:]...)
}

// minuteOf is a timestamp without what no date letter shows, where it is
// written in UTC as Beats do it; so the routes of a minute are one.
func minuteOf(v []byte) []byte {
	const minute = len("2006-01-02T15:04")
	if len(v) > minute && v[len(v)-1] == 'Z' {
		if _, ok := parseTime(v); ok {
			return v[:minute]
		}
	}
	return v
}

func value(e *event.Routing, i int) []byte {
	if i < len(e.Values) {
		return e.Values[i]
	}
	return nil
}

func parseTime(v []byte) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339Nano, string(v))
	return t.UTC(), err == nil && t.Year() > 0 && t.UTC().Year() < 10_000
}

// find works a route out.
func (r *router) find(e *event.Routing) *route {
	meta := readMeta(e.Meta)
	of := func(path string) []byte {
		i, ok := slices.BinarySearch(r.paths, path)
		if !ok {
			return nil
		}
		return value(e, i)
	}
	at := func(path string) (time.Time, bool) { return parseTime(of(path)) }

	t := event.Target{Op: r.op}
	var indexSetting, pipelineSetting, fallback string
	var stream bool
	t.Index, stream, indexSetting, fallback = r.indexOf(meta, of, at)
	if stream {
		t.Op = "create" // the only one that a data stream takes
	}
	if name, ok := r.pipeline.render(of, at, meta); ok {
		t.Pipeline = strings.ToLower(string(name)) // as Beats do
		if !r.pipeline.fields() && t.Pipeline != "" {
			pipelineSetting = "output.elasticsearch.pipeline"
		}
	}
	op, _ := metaText(meta, []string{"op_type"})
	opIgnored := op != "" && op != t.Op

	key := strings.Join([]string{t.Op, t.Index, t.Pipeline, indexSetting, fallback, fmt.Sprint(opIgnored)}, "\x00")
	if known := r.made[key]; known != nil {
		return known
	}
	found := newRoute(t)
	found.indexSetting, found.pipelineSetting, found.fallback, found.opIgnored = indexSetting, pipelineSetting, fallback, opIgnored
	if len(r.made) >= maxRoutes {
		clear(r.made)
	}
	r.made[key] = found
	return found
}

// indexOf is the index, whether it is a data stream by its kind (one that
// data_stream.* names, or the fallback), the setting that fixes it, and why it is
// the fallback.
func (r *router) indexOf(meta map[string]any, of func(string) []byte, at func(string) (time.Time, bool)) (name string, stream bool, setting, fallback string) {
	resolved, fixed := false, false
	for _, key := range []string{"alias", "index", "raw_index"} {
		if s, ok := meta[key].(string); ok && s != "" {
			name, resolved = s, true
			break
		}
	}
	if !resolved && r.streams {
		kind, set, space := of(streamPaths[0]), of(streamPaths[1]), of(streamPaths[2])
		if len(kind) > 0 && len(set) > 0 && len(space) > 0 {
			name, resolved, stream = string(kind)+"-"+string(set)+"-"+string(space), true, true
		}
	}
	if !resolved {
		var b []byte
		if b, resolved = r.index.render(of, at, meta); resolved {
			name, fixed = string(b), r.indexFixed
		}
	}
	switch {
	case !resolved, !fixed && strings.Contains(name, "%{"): // a sender may not have resolved it either
		fallback = fallbackUnresolved
	case fixed:
		return name, false, "output.elasticsearch.index", ""
	case name == r.fallback:
		return name, true, "output.elasticsearch.fallback_index", ""
	case strings.HasPrefix(name, ".") && illegal(name) == "":
		fallback = fallbackHidden
	case illegal(name) != "":
		fallback = fallbackIllegal
	case !slices.ContainsFunc(r.allowed, func(pattern string) bool { return wildcard.Match(pattern, name) }):
		fallback = fallbackForbidden
	default:
		return name, stream, "", ""
	}
	return r.fallback, true, "output.elasticsearch.fallback_index", fallback
}

// readMeta is @metadata as far as it is an object of a size that Beats send.
func readMeta(raw []byte) map[string]any {
	if len(raw) == 0 || len(raw) > maxMeta || raw[0] != '{' {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var m map[string]any
	if dec.Decode(&m) != nil {
		return nil
	}
	return m
}

// appendQuoted appends s as a JSON string.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	b = appendEscaped(b, s)
	return append(b, '"')
}

// appendEscaped appends s as the inside of a JSON string. What is not UTF-8
// becomes U+FFFD.
func appendEscaped[T string | []byte](b []byte, s T) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			b = utf8.AppendRune(b, r)
			i += size - 1
		default:
			b = append(b, c)
		}
	}
	return b
}
