package elasticsearch

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// This file reads format strings, of which the settings make names of indices and
// pipelines: texts with %{field}, %{[a][b]} and %{+yyyy.MM.dd} in them, as Beats and
// Logstash have them.

// format is a parsed format string.
type format struct{ parts []part }

// part is a piece of a format string: a text, a field or a date.
type part struct {
	text string
	path []string // a field; below @metadata without that
	meta bool     // the field is below @metadata
	date []part   // texts, and dates as their letters
	unit string   // within date: yyyy, MM, …
}

// parseFormat reads text with %{field}, %{[a][b]} and %{+yyyy.MM.dd} in it.
func parseFormat(text string) (*format, error) {
	f := &format{}
	for text != "" {
		before, rest, found := strings.Cut(text, "%{")
		if before != "" {
			f.parts = append(f.parts, part{text: before})
		}
		if !found {
			break
		}
		inside, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, errors.New("%{ has no }: write %{[a][b]}, %{field} or %{+yyyy.MM.dd}")
		}
		p, err := parsePart(inside)
		if err != nil {
			return nil, err
		}
		f.parts = append(f.parts, p)
		text = after
	}
	return f, nil
}

func parsePart(inside string) (part, error) {
	if pattern, ok := strings.CutPrefix(inside, "+"); ok {
		date, err := parseDate(pattern)
		return part{date: date}, err
	}
	var path []string
	if strings.HasPrefix(inside, "[") {
		if !strings.HasSuffix(inside, "]") {
			return part{}, fmt.Errorf("%%{%s} is no field: write %%{[a][b]}", inside)
		}
		path = strings.Split(inside[1:len(inside)-1], "][")
	} else {
		path = strings.Split(inside, ".")
	}
	for _, s := range path {
		if s == "" || strings.ContainsAny(s, "[]") {
			return part{}, fmt.Errorf("%%{%s} is no field: write %%{[a][b]}", inside)
		}
	}
	if path[0] != metadata {
		// Names joined by dots mean the same, nested or dotted.
		return part{path: strings.Split(strings.Join(path, "."), ".")}, nil
	}
	if path = path[1:]; len(path) == 0 {
		return part{}, errors.New("%{[@metadata]} is no name: say which key of it")
	}
	return part{path: path, meta: true}, nil
}

// units are the date letters that are known, the longest first.
var units = []string{"yyyy", "YYYY", "xxxx", "DDD", "MM", "dd", "HH", "mm", "ww"}

func parseDate(pattern string) ([]part, error) {
	var date []part
	for p := pattern; p != ""; {
		if i := slices.IndexFunc(units, func(u string) bool { return strings.HasPrefix(p, u) }); i >= 0 {
			date, p = append(date, part{unit: units[i]}), p[len(units[i]):]
			continue
		}
		if c := p[0]; 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '\'' {
			return nil, fmt.Errorf("%%{+%s} has a date letter that is not known: use yyyy, MM, dd, HH, mm, xxxx, ww, DDD", pattern)
		}
		date, p = append(date, part{text: p[:1]}), p[1:]
	}
	if date == nil {
		return nil, errors.New("%{+} names no date: write %{+yyyy.MM.dd}")
	}
	return date, nil
}

// fields reports whether an event's own values are in the format string.
func (f *format) fields() bool {
	return slices.ContainsFunc(f.parts, func(p part) bool { return p.path != nil })
}

// byID reports whether the event's @metadata._id is in the format string.
func (f *format) byID() bool {
	return slices.ContainsFunc(f.parts, func(p part) bool { return p.meta && p.path[0] == "_id" })
}

// paths are those of the event, beside @metadata, that the format string needs.
func (f *format) paths() []string {
	var all []string
	for _, p := range f.parts {
		switch {
		case p.date != nil:
			all = append(all, timestamp)
		case p.path != nil && !p.meta:
			all = append(all, strings.Join(p.path, "."))
		}
	}
	return all
}

// render makes the name; false: something in it stands nowhere.
func (f *format) render(value func(path string) []byte, at func(path string) (time.Time, bool), meta map[string]any) ([]byte, bool) {
	var out []byte
	for _, p := range f.parts {
		switch {
		case p.date != nil:
			when, ok := at(timestamp)
			if !ok {
				return nil, false
			}
			out = appendDate(out, p.date, when)
		case p.meta:
			text, ok := metaText(meta, p.path)
			if !ok || text == "" {
				return nil, false
			}
			out = append(out, text...)
		case p.path != nil:
			v := value(strings.Join(p.path, "."))
			if len(v) == 0 {
				return nil, false
			}
			out = append(out, v...)
		default:
			out = append(out, p.text...)
		}
		if len(out) > 1<<10 { // longer than any name can be
			return nil, false
		}
	}
	return out, true
}

func appendDate(out []byte, date []part, t time.Time) []byte {
	for _, p := range date {
		switch p.unit {
		case "":
			out = append(out, p.text...)
		case "yyyy", "YYYY":
			out = fmt.Appendf(out, "%04d", t.Year())
		case "xxxx":
			year, _ := t.ISOWeek()
			out = fmt.Appendf(out, "%04d", year)
		case "ww":
			_, week := t.ISOWeek()
			out = fmt.Appendf(out, "%02d", week)
		case "DDD":
			out = fmt.Appendf(out, "%03d", t.YearDay())
		case "MM":
			out = fmt.Appendf(out, "%02d", t.Month())
		case "dd":
			out = fmt.Appendf(out, "%02d", t.Day())
		case "HH":
			out = fmt.Appendf(out, "%02d", t.Hour())
		case "mm":
			out = fmt.Appendf(out, "%02d", t.Minute())
		}
	}
	return out
}

// metaText is the string or number at a path of @metadata; keys may be dotted.
func metaText(meta map[string]any, path []string) (string, bool) {
	for n := len(path); n > 0; n-- {
		v, ok := meta[strings.Join(path[:n], ".")]
		if !ok {
			continue
		}
		if n < len(path) {
			below, ok := v.(map[string]any)
			if !ok {
				continue
			}
			return metaText(below, path[n:])
		}
		switch v := v.(type) {
		case string:
			return v, true
		case json.Number:
			return v.String(), true
		}
	}
	return "", false
}
