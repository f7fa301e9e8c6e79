package virustotal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
)

// object is what is read of an answer. What decides a verdict must be of its
// documented type, or the answer is garbage; what only describes is left out
// where it is not (the lenient types). Anything may be missing or null.
type object struct {
	ID         string `json:"id"`
	Type       string `json:"type"`
	Attributes struct {
		Results map[string]struct {
			Category string `json:"category"`
		} `json:"last_analysis_results"`
		Stats    map[string]json.RawMessage `json:"last_analysis_stats"`
		Analysed unixTime                   `json:"last_analysis_date"`
		GTI      struct {
			Verdict struct {
				Value string `json:"value"`
			} `json:"verdict"`
		} `json:"gti_assessment"`

		MD5    string `json:"md5"`
		SHA1   string `json:"sha1"`
		SHA256 string `json:"sha256"`
		URL    string `json:"url"`

		Reputation lenientInt     `json:"reputation"`
		Tags       lenientStrings `json:"tags"`
		Country    lenientString  `json:"country"`
		ASOwner    lenientString  `json:"as_owner"`
		ASN        lenientInt     `json:"asn"`
		Threat     lenientThreat  `json:"popular_threat_classification"`
		First      lenientTime    `json:"first_submission_date"`
		Last       lenientTime    `json:"last_submission_date"`
		Modified   lenientTime    `json:"last_modification_date"`
	} `json:"attributes"`
}

// parse reads the data of an answer about ind; why says why it is none.
func parse(data []byte, ind enrich.Indicator) (_ *enrich.Answer, why string) {
	var o object
	if len(data) == 0 || bytes.Equal(data, []byte("null")) {
		return nil, "no object"
	}
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, "not in the documented shape"
	}
	at := &o.Attributes
	a := &enrich.Answer{
		Found:        true,
		LastAnalysis: at.Analysed.Time,
		Reputation:   int(at.Reputation),
		Country:      enrich.CutString(string(at.Country)),
		ASOwner:      enrich.CutString(string(at.ASOwner)),
		ASN:          int64(at.ASN),
		ThreatLabel:  enrich.CutString(string(at.Threat)),
		Assessment:   assessments[at.GTI.Verdict.Value],

		FirstSubmission:  at.First.Time,
		LastSubmission:   at.Last.Time,
		LastModification: at.Modified.Time,
	}
	page, ok := o.identify(ind, a)
	if !ok {
		return nil, "another object than asked for"
	}
	a.Link = enrich.CutString(gui + page)
	for _, tag := range at.Tags {
		if tag != "" && len(a.Tags) < enrich.MaxAnswerTags {
			a.Tags = append(a.Tags, enrich.CutString(tag))
		}
	}
	if a.Engines, ok = o.engines(); !ok {
		return nil, "impossible engines"
	}
	return a, ""
}

var assessments = map[string]string{
	"VERDICT_MALICIOUS":  "malicious",
	"VERDICT_SUSPICIOUS": "suspicious",
	"VERDICT_BENIGN":     "benign",
	"VERDICT_HARMLESS":   "benign",
	"VERDICT_UNDETECTED": "undetected",
}

// identify checks that o is what was asked for, notes a file's hashes in a, and
// returns the path of the object's page.
func (o *object) identify(ind enrich.Indicator, a *enrich.Answer) (page string, ok bool) {
	id := strings.ToLower(o.ID)
	switch ind.Type {
	case indicator.Hash:
		if o.Type != "file" {
			return "", false
		}
		at := &o.Attributes
		for _, h := range [...]struct {
			from string
			to   *string
			size int
		}{{at.MD5, &a.MD5, 32}, {at.SHA1, &a.SHA1, 40}, {at.SHA256, &a.SHA256, 64}} {
			if v := strings.ToLower(h.from); len(v) == h.size && isHash(v) {
				*h.to = v
			} else if v != "" {
				return "", false
			}
		}
		if len(id) != 64 || !isHash(id) || a.SHA256 != "" && a.SHA256 != id {
			return "", false
		}
		a.SHA256 = id
		return "file/" + id, ind.Value == a.SHA256 || ind.Value == a.SHA1 || ind.Value == a.MD5
	case indicator.IP:
		asked, err1 := netip.ParseAddr(ind.Value)
		got, err2 := netip.ParseAddr(o.ID)
		return "ip-address/" + ind.Value, o.Type == "ip_address" && err1 == nil && err2 == nil && asked == got
	case indicator.Domain:
		return "domain/" + ind.Value, o.Type == "domain" && strings.TrimSuffix(id, ".") == ind.Value
	case indicator.URL:
		if o.Type != "url" {
			return "", false
		}
		sum := sha256.Sum256([]byte(ind.Value))
		switch {
		case o.ID == urlID(ind.Value):
			return "url/" + o.ID, true
		case len(id) != 64 || !isHash(id):
			return "", false
		case id == hex.EncodeToString(sum[:]):
			return "url/" + id, true
		}
		// VirusTotal canonicalises URLs by rules of its own, so the name that it
		// gives one cannot be foretold; but it does not change the host.
		return "url/" + id, sameHost(ind.Value, o.Attributes.URL)
	default:
		return "", false
	}
}

// sameHost is false where two URLs surely name different hosts. Numbers and
// international names have several spellings: there it believes.
func sameHost(asked, got string) bool {
	if got == "" {
		return true
	}
	a, err1 := url.Parse(asked)
	b, err2 := url.Parse(got)
	if err1 != nil || err2 != nil {
		return true
	}
	x, y := strings.TrimSuffix(a.Hostname(), "."), strings.TrimSuffix(b.Hostname(), ".")
	return strings.EqualFold(x, y) || !plainName(x) || !plainName(y)
}

func plainName(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	return isDomain(strings.ToLower(host)) && !strings.Contains(host, "xn--") && last != "" && (last[0] < '0' || last[0] > '9')
}

// engines is every engine's word, by name.
func (o *object) engines() ([]enrich.EngineVerdict, bool) {
	at := &o.Attributes
	if len(at.Results) > enrich.MaxAnswerEngines {
		return nil, false
	}
	if len(at.Results) == 0 {
		return unnamedEngines(at.Stats)
	}
	out := make([]enrich.EngineVerdict, 0, len(at.Results))
	for name, r := range at.Results {
		out = append(out, enrich.EngineVerdict{Engine: enrich.InternEngine([]byte(enrich.CutString(name))), Category: category(r.Category)})
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].Engine < out[j].Engine || out[i].Engine == out[j].Engine && out[i].Category < out[j].Category
	})
	return out, true
}

// unnamedEngines is what the counts say where no engine is named: a relay that
// shortens answers must not turn a malicious object into an unknown one.
func unnamedEngines(stats map[string]json.RawMessage) (out []enrich.EngineVerdict, ok bool) {
	for _, c := range [...]string{"malicious", "suspicious", "harmless", "undetected"} {
		s, there := stats[c]
		if !there || string(s) == "null" {
			continue
		}
		n, err := strconv.ParseUint(string(s), 10, 16)
		if err != nil || len(out)+int(n) > enrich.MaxAnswerEngines {
			return nil, false
		}
		for range n {
			out = append(out, enrich.EngineVerdict{Category: category(c)})
		}
	}
	return out, true
}

func category(word string) enrich.Category {
	switch word {
	case "malicious":
		return enrich.CategoryMalicious
	case "suspicious":
		return enrich.CategorySuspicious
	case "harmless":
		return enrich.CategoryHarmless
	case "undetected":
		return enrich.CategoryUndetected
	default:
		return enrich.CategoryOther
	}
}

// unixTime is a whole number of seconds since 1970 up to the year 9999; 0 and
// null are no time.
type unixTime struct{ time.Time }

func (t *unixTime) UnmarshalJSON(b []byte) error {
	const year9999 = 253402300799
	if string(b) == "null" || string(b) == "0" {
		return nil
	}
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil || n > year9999 {
		return errShape
	}
	t.Time = time.Unix(int64(n), 0).UTC()
	return nil
}

type shapeError struct{}

func (shapeError) Error() string { return "not in the documented shape" }

var errShape = shapeError{}

// The lenient types take what is of their kind and leave out the rest.
type (
	lenientString  string
	lenientInt     int64
	lenientStrings []string
	lenientThreat  string
	lenientTime    struct{ unixTime }
)

func (t *lenientTime) UnmarshalJSON(b []byte) error {
	if t.unixTime.UnmarshalJSON(b) != nil {
		t.Time = time.Time{}
	}
	return nil
}

func (s *lenientString) UnmarshalJSON(b []byte) error {
	var v string
	if json.Unmarshal(b, &v) == nil {
		*s = lenientString(v)
	}
	return nil
}

func (n *lenientInt) UnmarshalJSON(b []byte) error {
	var v int64
	if json.Unmarshal(b, &v) == nil {
		*n = lenientInt(v)
	}
	return nil
}

func (l *lenientStrings) UnmarshalJSON(b []byte) error {
	var v []lenientString
	if json.Unmarshal(b, &v) == nil {
		for _, s := range v {
			*l = append(*l, string(s))
		}
	}
	return nil
}

func (s *lenientThreat) UnmarshalJSON(b []byte) error {
	var v struct {
		Label string `json:"suggested_threat_label"`
	}
	if json.Unmarshal(b, &v) == nil {
		*s = lenientThreat(v.Label)
	}
	return nil
}
