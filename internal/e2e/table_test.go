//go:build real

package e2e

import "vtsidecar/internal/vtstandin"

// expected is what an indicator's part must say, by the stand-in's rule.
func expected(w wanted) part {
	p := part{Value: w.value, Type: w.typ}
	if w.typ == "" {
		p.Type, p.Result, p.Status, p.SkipReason = "ip", "none", "skipped", "private"
		return p
	}
	object, known := vtstandin.Expected(w.typ, w.value)
	if !known {
		p.Result, p.Status = "unknown", "not_found"
		return p
	}
	p.Result, p.Status, p.Positives = object.Result(), "found", &object.Malicious
	p.IsMalicious = opinion(p.Result)
	return p
}

// opinion is the boolean that goes with a result that is complete, or nil.
func opinion(result string) *bool {
	yes := result == "malicious"
	if !yes && result != "harmless" && result != "suspicious" {
		return nil
	}
	return &yes
}
