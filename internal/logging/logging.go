// Package logging makes the program's log: text for people, ECS JSON for
// machines that read it.
//
// Promise: every record is one line; in JSON it is one object with flat ECS
// names that Elasticsearch takes as it is. The one line that scripts wait for,
// the bound address, comes at every level.
package logging

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// ECSVersion is the version of the schema that the records follow.
const ECSVersion = "8.11.0"

const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// New makes a logger that writes to w. level is "debug", "info", "warn" or
// "error"; format is "text", "json", or "auto": text where w is a terminal.
func New(w io.Writer, isTerminal bool, level, format string) (*slog.Logger, error) {
	var min slog.Level
	if err := min.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", level)
	}
	switch {
	case IsJSON(isTerminal, format):
		return slog.New(&ecsHandler{w: &lockedWriter{w: w}, min: min}), nil
	case format == "text" || format == "auto":
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: min})), nil
	}
	return nil, fmt.Errorf("log format %q: use auto, text or json", format)
}

// IsJSON reports whether New would choose JSON.
func IsJSON(isTerminal bool, format string) bool {
	return format == "json" || format == "auto" && !isTerminal
}

// Announce writes msg as one record of the form that New would choose, at
// whatever level: scripts that start the program with port 0 wait for it.
func Announce(w io.Writer, isTerminal bool, format, msg string) error {
	log, err := New(w, isTerminal, "info", format)
	if err != nil {
		return err
	}
	if _, ok := log.Handler().(*ecsHandler); !ok {
		// As it is: slog's text handler would put msg into quotes and escape it.
		_, err = fmt.Fprintln(w, strings.ReplaceAll(msg, "\n", " "))
		return err
	}
	record := slog.NewRecord(time.Now(), slog.LevelInfo, msg, 0)
	return log.Handler().Handle(context.Background(), record)
}

// lockedWriter keeps records whole. All handlers made of one New share it.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

// ecsHandler writes ECS JSON. It is immutable; WithAttrs and WithGroup copy it.
type ecsHandler struct {
	w      *lockedWriter
	min    slog.Level
	attrs  []field // of WithAttrs, already flat
	prefix string  // of WithGroup, with its dot
}

// field is one flat attribute.
type field struct {
	name  string
	value any
}

// reserved are the names that the handler writes itself. An attribute of such a
// name is moved, for a record with one key twice is not read the same everywhere.
var reserved = map[string]bool{"@timestamp": true, "log.level": true, "message": true, "ecs.version": true}

func (h *ecsHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.min }

func (h *ecsHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.attrs = h.attrs[:len(h.attrs):len(h.attrs)]
	for _, a := range attrs {
		next.attrs = flatten(next.attrs, h.prefix, a)
	}
	return &next
}

func (h *ecsHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.prefix = h.prefix + name + "."
	return &next
}

func (h *ecsHandler) Handle(_ context.Context, r slog.Record) error {
	fields := h.attrs[:len(h.attrs):len(h.attrs)]
	r.Attrs(func(a slog.Attr) bool {
		fields = flatten(fields, h.prefix, a)
		return true
	})
	when := r.Time
	if when.IsZero() {
		when = time.Now()
	}
	line := append([]byte(`{"@timestamp":"`), when.UTC().AppendFormat(nil, timeLayout)...)
	line = append(line, `","log.level":"`...)
	line = append(line, strings.ToLower(r.Level.String())...)
	line = append(line, `","message":`...)
	line = appendJSON(line, r.Message)
	line = append(line, `,"ecs.version":"`+ECSVersion+`"`...)
	for i, f := range fields {
		if overwritten(fields[i+1:], f.name) {
			continue
		}
		line = append(line, ',')
		line = appendJSON(line, f.name)
		line = append(line, ':')
		line = appendJSON(line, f.value)
	}
	line = append(line, "}\n"...)
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	_, err := h.w.w.Write(line)
	return err
}

// overwritten says whether a later attribute has the name: the later one counts.
func overwritten(rest []field, name string) bool {
	for _, f := range rest {
		if f.name == name {
			return true
		}
	}
	return false
}

// flatten appends an attribute with dotted names. Values are resolved here, so
// that a value that changes later is logged as it was.
func flatten(to []field, prefix string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, m := range v.Group() {
			to = flatten(to, prefix, m)
		}
		return to
	}
	if a.Key == "" && v.Equal(slog.Value{}) {
		return to
	}
	name := prefix + a.Key
	var value any
	switch v.Kind() {
	case slog.KindDuration:
		value = v.Duration().String()
	case slog.KindTime:
		value = v.Time().UTC().Format(timeLayout)
	case slog.KindFloat64:
		value = v.Float64()
		if f := v.Float64(); math.IsNaN(f) || math.IsInf(f, 0) { // no JSON number
			value = v.String()
		}
	case slog.KindAny:
		value = v.Any()
		if err, ok := value.(error); ok {
			value = errorText(err)
			if name == "error" || name == "err" {
				name = "error.message"
			} else {
				name += ".message"
			}
		} else if s, ok := value.(fmt.Stringer); ok {
			value = stringerText(s)
		}
	default:
		value = v.Any()
	}
	// "error" is an object in ECS; a text under that name would clash with it.
	if name == "error" || name == "err" {
		name = "error.message"
	}
	if reserved[name] {
		name = "labels." + strings.TrimPrefix(strings.ReplaceAll(name, ".", "_"), "@")
	}
	return append(to, field{name, value})
}

// A nil pointer in an interface panics in its method; that must not end a
// program for the sake of a log line.
func errorText(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T that cannot be shown", err)
		}
	}()
	return err.Error()
}

func stringerText(s fmt.Stringer) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T that cannot be shown", s)
		}
	}()
	return s.String()
}

// appendJSON appends a value that always is one JSON value on one line.
func appendJSON(line []byte, v any) []byte {
	if s, ok := v.(string); ok && !utf8.ValidString(s) {
		v = strings.ToValidUTF8(s, "\uFFFD")
	}
	data, err := json.Marshal(v)
	if err != nil {
		data, _ = json.Marshal(fmt.Sprintf("%+v", v))
	}
	return append(line, data...)
}
