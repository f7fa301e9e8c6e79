package indicator

import (
	"fmt"
	"slices"
	"strings"
)

// Priority says how much a field's indicators are worth where look-ups are
// scarce. The zero value is normal.
type Priority int8

const (
	PriorityLow    Priority = -1
	PriorityNormal Priority = 0
	PriorityHigh   Priority = 1
)

// FieldSpec is one entry of the setting fields.
type FieldSpec struct {
	Path     string // where the values stand in the event, dotted
	Kind     Kind
	Priority Priority
	Name     string // where the part stands under arcanna.ioc, dotted; several paths may share one
}

// kinds and priorities are the words of the setting.
var (
	kinds = map[string]Kind{
		"auto": KindAuto, "ip": KindIP, "domain": KindDomain, "url": KindURL, "hash": KindHash, "scan": KindScan,
	}
	priorities = map[string]Priority{"low": PriorityLow, "normal": PriorityNormal, "high": PriorityHigh}
)

// reserved are the words of arcanna.ioc that no part may be named after.
var reserved = []string{"global", "event_id", "schema", "is_malicious", "indicators"}

// ParseField parses PATH[:ip|domain|url|hash|auto|scan][@low|@normal|@high][=NAME].
// Without a kind it is auto, without a NAME the PATH; without a priority normal,
// but low for free text, in which most of what is found matters least. A key
// that begins with @, as in @timestamp, is no priority.
func ParseField(s string) (FieldSpec, error) {
	bad := func(format string, args ...any) (FieldSpec, error) {
		return FieldSpec{}, fmt.Errorf("%q: %s", s, fmt.Sprintf(format, args...))
	}
	rest, name, named := strings.Cut(strings.TrimSpace(s), "=")
	f := FieldSpec{Path: rest, Kind: KindAuto, Name: name}
	ranked := false
	if i := strings.LastIndexByte(rest, '@'); i > 0 && rest[i-1] != '.' {
		p, ok := priorities[rest[i+1:]]
		if !ok {
			if word, kind, _ := strings.Cut(rest[i+1:], ":"); kind != "" {
				return bad("the kind stands before the importance: use %s:%s@%s", rest[:i], kind, word)
			}
			return bad("unknown importance %q: use @low, @normal or @high", rest[i+1:])
		}
		f.Priority, f.Path, ranked = p, rest[:i], true
	}
	if i := strings.LastIndexByte(f.Path, ':'); i >= 0 {
		k, ok := kinds[f.Path[i+1:]]
		if !ok {
			return bad("unknown kind %q: use ip, domain, url, hash, auto or scan", f.Path[i+1:])
		}
		f.Kind, f.Path = k, f.Path[:i]
		if _, again := kinds[f.Path[strings.LastIndexByte(f.Path, ':')+1:]]; again && strings.Contains(f.Path, ":") {
			return bad("two kinds: use one")
		}
	}
	if f.Kind == KindScan && !ranked {
		f.Priority = PriorityLow
	}
	if !named {
		f.Name = f.Path
	}
	if reason := f.wrong(); reason != "" {
		return bad("%s", reason)
	}
	return f, nil
}

// wrong says what is wrong with one field alone, with the mend.
func (f FieldSpec) wrong() string {
	for _, part := range []struct{ what, text string }{{"path", f.Path}, {"name", f.Name}} {
		what, text := part.what, part.text
		switch {
		case text == "":
			return fmt.Sprintf("the %s is empty: give a dotted one such as source.ip", what)
		case strings.Contains(text, "*"):
			return fmt.Sprintf("the %s %q holds a *: write each out", what, text)
		case slices.ContainsFunc(strings.Split(text, "."), func(s string) bool { return strings.TrimSpace(s) == "" }):
			return fmt.Sprintf("the %s %q has an empty part: take the extra dot out", what, text)
		case strings.TrimSpace(text) != text:
			return fmt.Sprintf("the %s %q begins or ends with a space: take it out", what, text)
		case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }):
			return fmt.Sprintf("the %s %q holds a character that no field has: take it out", what, text)
		}
	}
	for _, gone := range []string{"@metadata", "arcanna.ioc"} {
		if f.Path == gone || strings.HasPrefix(f.Path, gone+".") {
			return fmt.Sprintf("the path %q lies in %s, which is taken out of an event and never looked at: have the Beat put the value elsewhere", f.Path, gone)
		}
	}
	if first, _, _ := strings.Cut(f.Name, "."); slices.Contains(reserved, first) {
		return fmt.Sprintf("the name %q begins with %q, which arcanna.ioc uses itself: give another with =NAME", f.Name, first)
	}
	return ""
}

// CheckFields says all that is wrong with fields, of each alone and together.
func CheckFields(fields []FieldSpec) []error {
	var errs []error
	names := make(map[string]bool, len(fields))
	for _, f := range fields {
		if reason := f.wrong(); reason != "" {
			errs = append(errs, fmt.Errorf("%q: %s", f.Path, reason))
			continue
		}
		names[f.Name] = true
	}
	said := make(map[[2]string]bool)
	for _, f := range fields {
		if !names[f.Name] {
			continue
		}
		for i := range f.Name {
			if f.Name[i] != '.' || !names[f.Name[:i]] {
				continue
			}
			pair := [2]string{f.Name[:i], f.Name}
			if said[pair] {
				continue
			}
			said[pair] = true
			errs = append(errs, fmt.Errorf("%q: the name %q lies within the name %q, and a part cannot hold another: give one of them another with =NAME", f.Path, pair[1], pair[0]))
		}
	}
	return errs
}
