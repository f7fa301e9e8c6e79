// Package virustotal asks VirusTotal, through vt-go, what it knows about an
// indicator.
//
// Promise: one look-up is one request at most, ends soon after its context or
// its time-out, and reads no more than a bounded answer; what comes back is
// either an answer about the very object that was asked for or a
// *enrich.LookupError, never a guess; and the key goes to the configured host
// alone and into no error and no log.
package virustotal

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	vt "github.com/VirusTotal/vt-go"

	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/internal/metrics"
)

// DefaultURL is VirusTotal itself.
const DefaultURL = "https://www.virustotal.com"

const (
	defaultTimeout = 10 * time.Second
	// gui is where a person finds the object. It is VirusTotal's even where
	// Config.URL is a relay of the house.
	gui = "https://www.virustotal.com/gui/"
	// maxURL bounds what a request line is made of.
	maxURL = 8192
)

// Config says whom to ask and how. The zero values of all but APIKey are usable.
type Config struct {
	APIKey    string           // must not be empty
	URL       string           // vt.url; empty: DefaultURL. May have a path of its own
	ProxyURL  string           // vt.proxy_url; empty: HTTPS_PROXY and its like
	Direct    bool             // no proxy, whatever the environment says
	Timeout   time.Duration    // vt.timeout, of one look-up; 0: 10 s
	UserAgent string           // empty: vtsidecar
	Log       *slog.Logger     // nil: silent
	Metrics   *metrics.Set     // nil: none
	Now       func() time.Time // nil: time.Now
}

// getter is the one thing that is needed of vt-go's client: a GET of a URL that
// is complete and escaped. It returns what the answer's envelope holds, or a
// vt.Error where VirusTotal itself says no. Any other error's text may hold the
// URL or worse, so it is never shown: what happened is read from the trip.
type getter interface {
	Get(url *url.URL, options ...vt.RequestOption) (*vt.Response, error)
}

// Source is VirusTotal as an enrich.Source. It is safe for concurrent use.
type Source struct {
	base      *url.URL
	user      string // the key as part of a path, so a secret; empty: it cannot be one
	timeout   time.Duration
	transport http.RoundTripper
	idle      func() // closes connections that are not in use
	client    func(http.RoundTripper) getter
	metrics   *metrics.Set // may be nil
	now       func() time.Time
}

var _ enrich.Source = (*Source)(nil)

// New checks cfg; it opens nothing. Its errors do not quote the key.
func New(cfg Config) (*Source, error) {
	if cfg.APIKey == "" {
		return nil, errors.New("virustotal: no API key")
	}
	for _, c := range []byte(cfg.APIKey) {
		if c <= ' ' || c >= 0x7f {
			return nil, errors.New("virustotal: the API key holds characters that no key has, such as a space or a line's end")
		}
	}
	if cfg.URL == "" {
		cfg.URL = DefaultURL
	}
	base, err := baseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	proxy := http.ProxyFromEnvironment
	switch {
	case cfg.Direct:
		proxy = nil
	case cfg.ProxyURL != "":
		u, err := url.Parse(cfg.ProxyURL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
			// The text of err would quote a password.
			return nil, errors.New("virustotal: the proxy's URL must be http://, https:// or socks5:// and a host")
		}
		proxy = http.ProxyURL(u)
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("virustotal: the time-out is negative")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "vtsidecar"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log != nil && base.Scheme == "http" && !loopback(base.Hostname()) {
		cfg.Log.Warn("vt.url is not https: the API key is sent in clear", "host", base.Hostname())
	}
	transport := &http.Transport{
		Proxy:                  proxy,
		OnProxyConnectResponse: connected,
		DialContext:            (&net.Dialer{Timeout: cfg.Timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    cfg.Timeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // the trip inflates, within bounds
	}
	return &Source{
		base:      base,
		user:      userPath(cfg.APIKey),
		timeout:   cfg.Timeout,
		transport: transport,
		idle:      transport.CloseIdleConnections,
		client: func(rt http.RoundTripper) getter {
			c := vt.NewClient(cfg.APIKey, vt.WithHTTPClient(&http.Client{
				Transport: rt,
				// The trip refuses redirects already; Go's client would take the key along.
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			}))
			c.Agent = cfg.UserAgent
			return c
		},
		metrics: cfg.Metrics,
		now:     cfg.Now,
	}, nil
}

func baseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", u.Opaque != "":
		return nil, errors.New("virustotal: the URL must be https:// (or http://) and a host")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("virustotal: the URL must have no user, query or fragment")
	}
	return u.JoinPath("api/v3"), nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Name is the word that stands as "provider" in documents.
func (s *Source) Name() string { return "virustotal" }

// Close closes the connections that are kept open between requests. Look-ups
// must have ended.
func (s *Source) Close() error {
	s.idle()
	return nil
}

// Lookup asks for one indicator, with one request, or none where the value is
// nothing that VirusTotal could know.
func (s *Source) Lookup(ctx context.Context, ind enrich.Indicator) (*enrich.Answer, error) {
	path, ok := objectPath(ind)
	if !ok {
		return nil, &enrich.LookupError{Decision: enrich.Unanswerable, Reason: "not a canonical " + ind.Type.String()}
	}
	start := time.Now()
	t, data, err := s.get(ctx, path)
	s.observe(t, time.Since(start))
	switch {
	case err != nil:
		return nil, err
	case t.status == http.StatusNotFound && t.code == "NotFoundError":
		return &enrich.Answer{FetchedAt: s.now()}, nil
	case t.status != http.StatusOK:
		return nil, s.refused(t)
	}
	a, why := parse(data, ind)
	if why != "" {
		return nil, garbage(why)
	}
	a.FetchedAt = s.now()
	return a, nil
}

// get asks for a path below /api/v3. Without an error there is an answer: data,
// or a status and a code that say no.
func (s *Source) get(ctx context.Context, path string) (t *trip, data []byte, _ error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	t = &trip{ctx: ctx, next: s.transport}
	resp, err := s.client(t).Get(s.base.JoinPath(path))
	if t.fault == "" && t.status == 0 {
		t.fault = "no request made" // vt-go refused; nothing is known to make it
	}
	if t.fault != "" {
		return t, nil, &enrich.LookupError{Decision: enrich.Retry, Reason: t.fault}
	}
	var apiErr vt.Error
	switch {
	case errors.As(err, &apiErr):
		t.code, t.message = apiErr.Code, apiErr.Message
		if t.status == http.StatusOK {
			return t, nil, garbage("an error with status 200")
		}
	case t.status != http.StatusOK:
	case err != nil || resp == nil:
		return t, nil, garbage("not JSON")
	default:
		data = resp.Data
	}
	return t, data, nil
}

func (s *Source) observe(t *trip, took time.Duration) {
	if s.metrics == nil {
		return
	}
	code := "error"
	if t.status >= 100 && t.status <= 599 {
		code = strconv.Itoa(t.status)
	}
	s.metrics.VTRequests.WithLabelValues(code).Inc()
	s.metrics.VTRequestDuration.Observe(took.Seconds())
}

func garbage(why string) *enrich.LookupError {
	return &enrich.LookupError{Decision: enrich.Retry, Reason: "garbage: " + why}
}

// How long to stay away where VirusTotal does not say, and the bounds of what
// it may say.
const (
	refusedFor   = 30 * time.Minute
	pauseFor     = time.Minute
	leastPause   = time.Second
	longestPause = 15 * time.Minute
	longestSpent = 32 * 24 * time.Hour
)

// refused is what an answer that is no object means. The code is VirusTotal's
// own word; without one something else answered in its place, so that nothing is
// concluded about the object.
func (s *Source) refused(t *trip) *enrich.LookupError {
	now, code := s.now(), t.code
	reason := fmt.Sprintf("HTTP %d", t.status)
	if known[code] {
		reason += " " + code
	}
	e := &enrich.LookupError{Decision: enrich.Retry, Reason: reason}
	switch t.status {
	case http.StatusBadRequest:
		if code != "" && code != "NotAvailableYet" {
			e.Decision = enrich.Unanswerable
		}
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Decision, e.Until = enrich.Refused, now.Add(refusedFor)
	case http.StatusTooManyRequests:
		after, said := retryAfter(t.header.Get("Retry-After"), now)
		if code == "QuotaExceededError" {
			e.Decision, e.Until = enrich.Exhausted, nextWindow(now, t.message)
			if said {
				e.Until = now.Add(min(max(after, leastPause), longestSpent))
			}
			break
		}
		if !said {
			after = pauseFor
		}
		e.Decision, e.Until = enrich.PauseMinute, now.Add(min(max(after, leastPause), longestPause))
	}
	return e
}

// known are the words of VirusTotal's documentation. Others are not repeated:
// a reason is a stable text, and a stranger's words may hold anything.
var known = map[string]bool{
	"BadRequestError": true, "InvalidArgumentError": true, "NotAvailableYet": true, "UnselectiveContentQueryError": true,
	"UnsupportedContentQueryError": true, "AuthenticationRequiredError": true, "UserNotActiveError": true,
	"WrongCredentialsError": true, "ForbiddenError": true, "NotFoundError": true, "AlreadyExistsError": true,
	"FailedDependencyError": true, "QuotaExceededError": true, "TooManyRequestsError": true,
	"TransientError": true, "DeadlineExceededError": true,
}

// nextWindow is when a quota that is used up begins anew: the day's, or the
// month's or hour's where the message names it.
func nextWindow(now time.Time, message string) time.Time {
	y, m, d := now.UTC().Date()
	switch message = strings.ToLower(message); {
	case strings.Contains(message, "month"):
		return time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
	case strings.Contains(message, "hour"):
		return now.UTC().Truncate(time.Hour).Add(time.Hour)
	}
	return time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC)
}

// retryAfter reads the header in both its forms.
func retryAfter(v string, now time.Time) (time.Duration, bool) {
	if v == "" {
		return 0, false
	}
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return time.Duration(n) * time.Second, true
	}
	if at, err := http.ParseTime(v); err == nil {
		return at.Sub(now), true
	}
	return 0, false
}

// objectPath is the escaped path of an indicator's object below /api/v3. It is
// false for what cannot be put there safely: the indicator package lets no
// such thing out, but a path is no place to rely on that.
func objectPath(ind enrich.Indicator) (string, bool) {
	v := ind.Value
	switch ind.Type {
	case indicator.Hash:
		if !isHash(v) {
			return "", false
		}
		return "files/" + v, true
	case indicator.IP:
		ip, err := netip.ParseAddr(v)
		if err != nil || ip.Zone() != "" {
			return "", false
		}
		return "ip_addresses/" + url.PathEscape(ip.String()), true
	case indicator.Domain:
		if !isDomain(v) {
			return "", false
		}
		return "domains/" + v, true
	case indicator.URL:
		u, err := url.Parse(v)
		if err != nil || len(v) > maxURL || u.Host == "" {
			return "", false
		}
		return "urls/" + urlID(v), true
	default:
		return "", false
	}
}

// urlID is VirusTotal's name for a URL that has not been canonicalised by it.
func urlID(u string) string { return base64.RawURLEncoding.EncodeToString([]byte(u)) }

// isHash: a lower-case MD5, SHA-1 or SHA-256.
func isHash(s string) bool {
	if len(s) != 32 && len(s) != 40 && len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isDomain(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '.' || strings.Contains(s, "..") {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return true
}
