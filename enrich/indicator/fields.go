package indicator

import (
	"fmt"
	"slices"
	"strings"
)

// Priority is how much a look-up for a field is worth when quota is scarce.
type Priority uint8

const (
	PriorityNormal Priority = iota
	PriorityLow
	PriorityHigh
)

// FieldSpec is one entry of the setting fields.
type FieldSpec struct {
	Path     string // dotted; where the value is in events
	Kind     Kind
	Priority Priority
	Name     string // dotted; where the part stands under arcanna.ioc
}

var (
	kinds      = map[string]Kind{"auto": KindAuto, "ip": KindIP, "domain": KindDomain, "url": KindURL, "hash": KindHash, "scan": KindScan}
	priorities = map[string]Priority{"low": PriorityLow, "normal": PriorityNormal, "high": PriorityHigh}

	// reserved are the names that arcanna.ioc itself uses.
	reserved = []string{"global", "event_id", "schema", "is_malicious", "indicators"}
)

const fieldSyntax = "PATH[:ip|domain|url|hash|auto|scan][@low|@normal|@high][=NAME]"

// ParseField reads one entry of the setting fields:
// PATH[:ip|domain|url|hash|auto|scan][@low|@normal|@high][=NAME].
// Without them the kind is auto, the priority normal, the name the path.
func ParseField(text string) (FieldSpec, error) {
	text = strings.TrimSpace(text)
	rest, name, named := strings.Cut(text, "=")
	rest, priority, prioritised := strings.Cut(rest, "@")
	path, kind, kinded := strings.Cut(rest, ":")
	if strings.HasPrefix(text, "@") { // @metadata and its like: the sign belongs to the path
		return FieldSpec{}, fmt.Errorf("field %q: paths under @metadata are not looked at; name a field of the event", text)
	}

	f := FieldSpec{Path: path, Name: name}
	if !named {
		f.Name = path
	}
	if err := checkPath(path); err != nil {
		return FieldSpec{}, fmt.Errorf("field %q: the path %w; write %s", text, err, fieldSyntax)
	}
	if err := checkPath(f.Name); err != nil {
		return FieldSpec{}, fmt.Errorf("field %q: the name %w; write %s", text, err, fieldSyntax)
	}
	if kinded {
		var ok bool
		if f.Kind, ok = kinds[kind]; !ok {
			return FieldSpec{}, fmt.Errorf("field %q: %q is no type; use ip, domain, url, hash, auto or scan", text, kind)
		}
	}
	if prioritised {
		var ok bool
		if f.Priority, ok = priorities[priority]; !ok {
			return FieldSpec{}, fmt.Errorf("field %q: %q is no priority; use low, normal or high", text, priority)
		}
	}
	return f, nil
}

// checkPath says what is wrong with a dotted path, as the rest of a sentence.
func checkPath(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("is empty")
	case strings.Contains(path, "*"):
		return fmt.Errorf("holds *, and there are no wildcards")
	case slices.Contains(strings.Split(path, "."), ""):
		return fmt.Errorf("has an empty part between its dots")
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("holds characters that no field name has")
	}
	return nil
}

// CheckFields says what is wrong with the fields together, all of it: names
// that arcanna.ioc uses itself, and names of which one would have to be a part
// and an object of parts at once. Names may be shared; their values join.
func CheckFields(specs []FieldSpec) (errs []error) {
	names := make(map[string]bool, len(specs))
	for _, f := range specs {
		names[f.Name] = true
	}
	seen := make(map[string]bool, len(names))
	for _, f := range specs {
		if seen[f.Name] {
			continue
		}
		seen[f.Name] = true
		if first, _, _ := strings.Cut(f.Name, "."); slices.Contains(reserved, first) {
			errs = append(errs, fmt.Errorf("field %q: the name %q begins with %q, which arcanna.ioc uses itself; give it another name with =NAME", f.Path, f.Name, first))
		}
		for i := range len(f.Name) {
			if f.Name[i] == '.' && names[f.Name[:i]] {
				errs = append(errs, fmt.Errorf("field %q: the name %q lies below another field's name %q; give one of them another name with =NAME", f.Path, f.Name, f.Name[:i]))
			}
		}
	}
	return errs
}
