package elasticsearch

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// This file compares what a cluster has with what it should have. Its rule: what
// servers write otherwise and mean the same, such as "false" for false, is no
// difference.

// diff is what is different between two JSON values, one line for each place.
func diff(path string, have, want any, out *[]string) {
	if hl, ok := have.([]any); ok {
		if wl, ok := want.([]any); ok {
			diffLists(path, hl, wl, out)
			return
		}
	}
	h, hok := have.(object)
	w, wok := want.(object)
	if !hok || !wok {
		if a, b := line(have), line(want); a != b {
			*out = append(*out, "- "+path+": "+readable(a, maxDiff), "+ "+path+": "+readable(b, maxDiff))
		}
		return
	}
	keys := map[string]bool{}
	for k := range h {
		keys[k] = true
	}
	for k := range w {
		keys[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		hv, there := h[k]
		wv, asked := w[k]
		switch at := strings.TrimPrefix(path+"."+k, "."); {
		case !there:
			*out = append(*out, "+ "+at+": "+readable(line(wv), maxDiff))
		case !asked:
			*out = append(*out, "- "+at+": "+readable(line(hv), maxDiff))
		default:
			diff(at, hv, wv, out)
		}
	}
}

// diffLists is diff for lists: what is only in one of them, else their order,
// which decides among dynamic templates. Elements of one key, as those are, are
// told apart by it.
func diffLists(path string, have, want []any, out *[]string) {
	key := func(x any) string {
		if o, ok := x.(object); ok && len(o) == 1 {
			for k := range o {
				return k
			}
		}
		return line(x)
	}
	named := func(list []any) (map[string]any, []string) {
		of, order := map[string]any{}, []string{}
		for _, x := range list {
			if k := key(x); of[k] == nil {
				of[k] = x
				order = append(order, k)
			}
		}
		return of, order
	}
	h, hOrder := named(have)
	w, wOrder := named(want)
	before := len(*out)
	for _, k := range hOrder {
		if w[k] == nil {
			*out = append(*out, "- "+path+": "+readable(line(h[k]), maxDiff))
		}
	}
	for _, k := range wOrder {
		switch hv := h[k]; {
		case hv == nil:
			*out = append(*out, "+ "+path+": "+readable(line(w[k]), maxDiff))
		default:
			diff(path, hv, w[k], out)
		}
	}
	if len(*out) == before && (!slices.Equal(hOrder, wOrder) || len(have) != len(want)) {
		*out = append(*out, "- "+path+": in another order")
	}
}

// maxDiff bounds what a line of a difference shows of a value.
const maxDiff = 500

// line is a value on one line.
func line(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// plain is v as JSON that came from a server: lists and objects of any, all
// scalars as text, since servers answer "false" for false.
func plain(v any) any {
	text, _ := json.Marshal(v)
	var out any
	json.Unmarshal(text, &out) // it was just written
	return texts(out)
}

func texts(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = texts(x)
		}
		return v
	case []any:
		for i, x := range v {
			v[i] = texts(x)
		}
		return v
	case float64, bool:
		return fmt.Sprint(v)
	}
	return v
}
