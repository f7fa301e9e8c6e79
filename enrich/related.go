package enrich

import (
	"bytes"
	"context"
	"net/netip"
	"slices"

	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/scan"
)

// This file is about related: what hits add to its lists, by the rules of threat.go.

// The lists of related, in the order in which they are added.
const (
	relatedIP = iota
	relatedHash
	relatedHosts
	relatedLists
)

// related is what hits of an event add to its lists: values in scratch.text.
type related struct {
	values [relatedLists][maxList][]byte
	n      [relatedLists]int
}

var relatedWords = [relatedLists]string{"ip", "hash", "hosts"}

// relatedValues are the values of the event's hits, the worst first, each once.
func (w *Work) relatedValues() (r related) {
	s := w.s
	for _, res := range [...]result{resultMalicious, resultSuspicious} {
		for _, d := range s.distinct {
			f := &s.findings[d]
			if f.result != res {
				continue
			}
			list, v := relatedHosts, w.value(f)
			switch f.typ {
			case indicator.IP:
				list = relatedIP
			case indicator.Hash:
				list = relatedHash
			case indicator.URL:
				var ip bool
				if v, ip = hostOf(v); ip {
					list = relatedIP
				}
			}
			have := r.values[list][:r.n[list]]
			if len(v) > 0 && len(have) < maxList && !slices.ContainsFunc(have, func(h []byte) bool { return bytes.Equal(h, v) }) {
				r.values[list][len(have)] = v
				r.n[list]++
			}
		}
	}
	return r
}

// hostOf is the host of a canonical URL, and whether it is an address.
func hostOf(url []byte) (host []byte, ip bool) {
	_, host, _ = bytes.Cut(url, []byte("://"))
	if i := bytes.IndexAny(host, "/?#"); i >= 0 {
		host = host[:i]
	}
	host = host[bytes.LastIndexByte(host, '@')+1:]
	if len(host) > 0 && host[0] == '[' {
		host, _, _ = bytes.Cut(host[1:], []byte{']'})
		return host, true
	}
	host, _, _ = bytes.Cut(host, []byte{':'})
	last := host[bytes.LastIndexByte(host, '.')+1:]
	for _, c := range last {
		if c < '0' || c > '9' {
			return host, false
		}
	}
	return host, len(last) > 0
}

// appendList appends a member of related to dst.
func appendList(dst []byte, word string, values [][]byte) []byte {
	dst = append(dst, '"')
	dst = append(dst, word...)
	dst = append(dst, `":[`...)
	dst = appendValues(dst, values)
	return append(dst, ']')
}

func appendValues(dst []byte, values [][]byte) []byte {
	n := 0
	for _, v := range values {
		dst = comma(dst, &n)
		dst = appendString(dst, v)
	}
	return dst
}

// addRelated adds the hits' values to an event that has a threat or a related.
func (w *Work) addRelated(ctx context.Context, line []byte) error {
	s := w.s
	r := w.relatedValues()
	refused := false
	end, ended, members := len(line)-len("}\n"), false, 0
	for k, word := range relatedWords {
		values := r.values[k][:r.n[k]]
		if len(values) == 0 {
			continue
		}
		site := scan.Find(line, 0, "related."+word)
		v := site.Value
		ok := !site.Blocked
		known := func(e scan.Span) {
			if ok = ok && line[e.From] == '"'; ok {
				have := line[e.From+1 : e.To-1]
				values = slices.DeleteFunc(values, func(ours []byte) bool { return sameValue(have, ours, k) })
			}
		}
		switch {
		case v.To == 0:
		case line[v.From] == '[':
			for e := range scan.Elements(line, v.From) {
				if known(e); !ok {
					break
				}
			}
		default:
			known(v)
		}
		if !ok {
			refused = true
			continue
		}
		if len(values) == 0 {
			continue
		}
		need := 64
		for _, v := range values {
			need += longest(len(v)) + 1
		}
		if err := room(ctx, w, &s.ecs, need); err != nil {
			return err
		}
		n := len(s.ecs)
		switch {
		case v.To > 0 && line[v.From] == '[':
			if !scan.Empty(line, v.From) {
				s.ecs = append(s.ecs, ',')
			}
			s.ecs = appendValues(s.ecs, values)
			s.put(v.To-1, n)
		case v.To > 0:
			s.ecs = append(s.ecs, '[')
			s.put(v.From, n)
			n = len(s.ecs)
			s.ecs = append(s.ecs, ',')
			s.ecs = append(appendValues(s.ecs, values), ']')
			s.put(v.To, n)
		case site.Object.To > 0:
			if members > 0 || !scan.Empty(line, site.Object.From) {
				s.ecs = append(s.ecs, ',')
			}
			members++
			s.ecs = appendList(s.ecs, word, values)
			s.put(site.Object.To-1, n)
		default:
			if !ended {
				s.ecs = append(s.ecs, `,"related":{`...)
			} else {
				s.ecs = append(s.ecs, ',')
			}
			ended = true
			s.ecs = appendList(s.ecs, word, values)
			s.put(end, n)
		}
	}
	if ended {
		if err := room(ctx, w, &s.ecs, 1); err != nil {
			return err
		}
		n := len(s.ecs)
		s.ecs = append(s.ecs, '}')
		s.put(end, n)
	}
	if refused {
		w.e.cfg.Metrics.ECSRefused.WithLabelValues("related").Inc()
	}
	return nil
}

// sameValue says whether a list of related, the kth, has one of our values
// already, as it is spelled there. Ours are canonical.
func sameValue(have, ours []byte, k int) bool {
	if bytes.EqualFold(have, ours) {
		return true
	}
	if k != relatedIP || bytes.IndexByte(have, ':') < 0 || len(have) > 64 {
		return false
	}
	a, err := netip.ParseAddr(string(have))
	return err == nil && a.String() == string(ours)
}
