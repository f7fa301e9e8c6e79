package virustotal

import (
	"context"
	"encoding/json"
	"math"
	"net/http"

	"vtsidecar/enrich"
	"vtsidecar/enrich/quota"
)

// Account reads what VirusTotal allows the key and how much of it was used, by
// whatever programs. It costs no quota. The tighter of the user's figures and
// those of a group counts. The error is an *enrich.LookupError; its decision is
// Refused or Unanswerable where the key may not read its account or there is
// nothing to read, so that asking again soon is pointless.
//
// VirusTotal names the account by the key, so here the key stands in the path
// of a request too.
func (s *Source) Account(ctx context.Context) (quota.Account, error) {
	if s.user == "" {
		return quota.Account{}, &enrich.LookupError{Decision: enrich.Unanswerable, Reason: "the key's characters cannot stand in a path"}
	}
	asked := s.now()
	t, data, err := s.get(ctx, "users/"+s.user+"/overall_quotas")
	switch {
	case err != nil:
		return quota.Account{}, err
	case t.status == http.StatusNotFound:
		e := s.refused(t)
		e.Decision = enrich.Unanswerable
		return quota.Account{}, e
	case t.status != http.StatusOK:
		return quota.Account{}, s.refused(t)
	}
	a, why := parseAccount(data)
	if why != "" {
		return quota.Account{}, garbage(why)
	}
	a.Asked = asked
	return a, nil
}

// userPath is the key as part of a path, or nothing where its characters would
// have a meaning there: keys are hexadecimal.
func userPath(key string) string {
	for _, c := range []byte(key) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_':
		default:
			return ""
		}
	}
	return key
}

// parseAccount reads overall_quotas; why says why it is none. A window that is
// not told, or not as documented, is unknown.
func parseAccount(data []byte) (a quota.Account, why string) {
	var windows struct {
		Hour  json.RawMessage `json:"api_requests_hourly"`
		Day   json.RawMessage `json:"api_requests_daily"`
		Month json.RawMessage `json:"api_requests_monthly"`
	}
	if err := json.Unmarshal(data, &windows); err != nil {
		return a, "not an account"
	}
	a.Hour, a.Day, a.Month = parseUsage(windows.Hour), parseUsage(windows.Day), parseUsage(windows.Month)
	if a.Hour.Allowed == 0 && a.Day.Allowed == 0 && a.Month.Allowed == 0 {
		return a, "an account without limits"
	}
	return a, ""
}

// parseUsage reads one window. 0 allowed is what stands where a quota comes from
// elsewhere; whoever really may nothing is told so with each request.
func parseUsage(data []byte) (tightest quota.Usage) {
	var levels map[string]struct {
		Allowed float64 `json:"allowed"`
		Used    float64 `json:"used"`
	}
	if len(data) == 0 || json.Unmarshal(data, &levels) != nil {
		return quota.Usage{}
	}
	for _, level := range []string{"user", "group"} {
		l := levels[level]
		if l.Allowed < 1 {
			continue
		}
		u := quota.Usage{Allowed: figure(l.Allowed), Used: figure(l.Used)}
		if tightest.Allowed == 0 || u.Allowed-u.Used < tightest.Allowed-tightest.Used {
			tightest = u
		}
	}
	return tightest
}

func figure(f float64) int64 { return int64(min(max(f, 0), math.MaxInt32)) }

// What a public key is granted, and under which terms.
const (
	PublicMinute = 4
	PublicDay    = 500
	PublicMonth  = 15500

	PublicTerms = "a public key must not be used in commercial products, services or business workflows"
)

// IsPublic says whether an account allows no more than a public key's. Some are
// allowed far less.
func IsPublic(a quota.Account) bool {
	return a.Hour.Allowed <= 60*PublicMinute && a.Day.Allowed <= PublicDay && a.Month.Allowed <= PublicMonth
}
