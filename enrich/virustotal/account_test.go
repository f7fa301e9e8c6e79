package virustotal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/quota"
	"vtsidecar/internal/metrics"
	"vtsidecar/internal/vtstandin"
)

// noAccount reads an account that cannot be read, and looks for the key where
// it must not be.
func noAccount(t *testing.T, s *Source) *enrich.LookupError {
	t.Helper()
	a, err := s.Account(t.Context())
	require.Zero(t, a)
	var e *enrich.LookupError
	require.ErrorAs(t, err, &e)
	for _, text := range []string{e.Error(), fmt.Sprintf("%+v", e)} {
		assert.NotContains(t, text, key)
		assert.NotContains(t, text, "127.0.0.1")
		assert.Less(t, len(text), 200)
	}
	return e
}

func TestAccount(t *testing.T) {
	m := metrics.New("", "", "")
	s, src := standIn(t, func(c *vtstandin.Config, own *Config) {
		c.Minute, c.Day, c.Month = 4, 500, 15500
		own.Metrics = m
	})
	s.Use(10)
	ask(t, src, indicator.IP, "203.0.113.7")
	a, err := src.Account(t.Context())
	require.NoError(t, err)
	assert.Equal(t, quota.Account{
		Asked: noon, Hour: quota.Usage{Allowed: 240, Used: 11}, Day: quota.Usage{Allowed: 500, Used: 11}, Month: quota.Usage{Allowed: 15500, Used: 11},
	}, a)
	assert.Equal(t, 1, s.Stats().Accounts)
	assert.Equal(t, 1, requests(t, m, "200"), "it is no look-up")
}

func TestAccountIsNotReadable(t *testing.T) {
	s, src := standIn(t, func(c *vtstandin.Config, own *Config) { own.Timeout = time.Second })
	for _, tc := range []struct {
		fault    vtstandin.Fault
		decision enrich.Decision
		reason   string
	}{
		{vtstandin.Fault{Kind: "status", Status: 403}, enrich.Refused, "HTTP 403 ForbiddenError"},
		{vtstandin.Fault{Kind: "status", Status: 401}, enrich.Refused, "HTTP 401 WrongCredentialsError"},
		{vtstandin.Fault{Kind: "status", Status: 404}, enrich.Unanswerable, "HTTP 404 NotFoundError"},
		{vtstandin.Fault{Kind: "status_html", Status: 404}, enrich.Unanswerable, "HTTP 404"},
		{vtstandin.Fault{Kind: "status", Status: 503}, enrich.Retry, "HTTP 503 TransientError"},
		{vtstandin.Fault{Kind: "status", Status: 429}, enrich.PauseMinute, "HTTP 429 TooManyRequestsError"},
		{vtstandin.Fault{Kind: "html"}, enrich.Retry, "garbage: not JSON"},
		{vtstandin.Fault{Kind: "empty"}, enrich.Retry, "garbage: not an account"},
		{vtstandin.Fault{Kind: "redirect"}, enrich.Retry, "redirected"},
		{vtstandin.Fault{Kind: "echo"}, enrich.Retry, "HTTP 502"},
		{vtstandin.Fault{Kind: "reset"}, enrich.Retry, "connection failed"},
		{vtstandin.Fault{Kind: "hang"}, enrich.Retry, "timed out"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			tc.fault.Match = vtstandin.AccountFault
			require.NoError(t, s.SetFault(tc.fault))
			e := noAccount(t, src)
			assert.Equal(t, tc.decision, e.Decision)
			assert.Equal(t, tc.reason, e.Reason)
			ask(t, src, indicator.IP, "203.0.113.7") // look-ups are another matter
		})
	}
}

func TestKeyThatIsNoPath(t *testing.T) {
	for _, odd := range []string{"..", "a/b", "a?b", "a%2fb", "a#b", "a.b"} {
		src := handler(t, func(http.ResponseWriter, *http.Request) { t.Error("asked all the same") }, func(c *Config) { c.APIKey = odd })
		assert.Equal(t, enrich.Unanswerable, noAccount(t, src).Decision, odd)
	}
}

func TestParseAccount(t *testing.T) {
	for _, tc := range []struct{ data, want string }{
		{`{"api_requests_daily": {"user": {"allowed": 500, "used": 3}}}`, "{0 0} {500 3} {0 0}"},
		{`{"api_requests_daily": {"user": {"allowed": 500, "used": 3}, "group": {"allowed": 900, "used": 600, "inherited_from": "us"}}}`, "{0 0} {900 600} {0 0}"},
		{`{"api_requests_daily": {"user": {"allowed": 500, "used": 300}, "group": {"allowed": 900, "used": 600}}}`, "{0 0} {500 300} {0 0}"},
		{`{"api_requests_daily": {"user": {"allowed": 0, "used": 0}, "group": {"allowed": 900, "used": 600}}}`, "{0 0} {900 600} {0 0}"},
		{`{"api_requests_daily": {"user": null, "group": {"allowed": 9}}}`, "{0 0} {9 0} {0 0}"},
		{`{"api_requests_hourly": {"user": {"allowed": 1e9, "used": 1.5}}, "api_requests_monthly": {"user": {"allowed": 1e300, "used": -4}}}`, "{1000000000 1} {0 0} {2147483647 0}"},
		{`{"api_requests_hourly": {"user": {"allowed": "many"}}, "api_requests_daily": {"user": {"allowed": 7, "used": 9}}}`, "{0 0} {7 9} {0 0}"},
		{`{"api_requests_hourly": [], "api_requests_daily": {"user": {"allowed": 7}}, "intelligence_searches_monthly": {"user": {"allowed": 1}}}`, "{0 0} {7 0} {0 0}"},
		{`{}`, "an account without limits"},
		{`{"api_requests_daily": {"user": {"allowed": 0, "used": 0}}}`, "an account without limits"},
		{`[]`, "not an account"}, {`null`, "an account without limits"}, {``, "not an account"},
	} {
		a, why := parseAccount([]byte(tc.data))
		got := why
		if why == "" {
			got = fmt.Sprint(a.Hour, a.Day, a.Month)
		}
		assert.Equal(t, tc.want, strings.ReplaceAll(strings.ReplaceAll(got, "&", ""), "  ", " "), "%s", tc.data)
	}
}

func FuzzAccount(f *testing.F) {
	f.Add([]byte(`{"api_requests_hourly": {"user": {"allowed": 240, "used": 1}}, "api_requests_daily": {"group": {"allowed": 1e3, "used": null}}}`))
	f.Add([]byte(`{"api_requests_monthly": {"user": {"allowed": -1}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, why := parseAccount(data)
		if (why == "") != (a.Hour.Allowed > 0 || a.Day.Allowed > 0 || a.Month.Allowed > 0) {
			t.Fatal("an account without figures, or figures of none")
		}
		for _, u := range []quota.Usage{a.Hour, a.Day, a.Month} {
			if u.Allowed < 0 || u.Used < 0 || u.Allowed > 1<<31 || u.Used > 1<<31 || u.Allowed == 0 && u.Used > 0 {
				t.Fatalf("%+v", u)
			}
		}
		if !json.Valid(data) && why == "" {
			t.Fatal("read from what is no JSON")
		}
	})
}

// What a proxy does wrong is told apart from what VirusTotal does.
func TestProxyTroubleIsNamed(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, http.MethodConnect, r.Method)
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer refusing.Close()
	for _, tc := range []struct{ proxy, reason string }{
		{refusing.URL, "proxy answered HTTP 407"},
		{"http://" + nobody, "proxy not reached"},
	} {
		src, err := New(Config{APIKey: key, URL: "https://192.0.2.1", ProxyURL: tc.proxy})
		require.NoError(t, err)
		assert.Equal(t, tc.reason, noAccount(t, src).Reason)
		require.NoError(t, src.Close())
	}
}

func TestCertificateTroubleIsNamed(t *testing.T) {
	srv := httptest.NewUnstartedServer(nil)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	src, err := New(Config{APIKey: key, URL: srv.URL, Direct: true})
	require.NoError(t, err)
	assert.Equal(t, "certificate not trusted", noAccount(t, src).Reason)
	require.NoError(t, src.Close())
	u, err := url.Parse(srv.URL)
	require.NoError(t, err)
	u.Scheme = "http"
	src, err = New(Config{APIKey: key, URL: u.String(), Direct: true})
	require.NoError(t, err)
	assert.Equal(t, "HTTP 400", noAccount(t, src).Reason)
	require.NoError(t, src.Close())
}

func TestAccountEndsWithItsContext(t *testing.T) {
	s, src := standIn(t, nil)
	require.NoError(t, s.SetFault(vtstandin.Fault{Kind: "hang", Match: vtstandin.AccountFault}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := src.Account(ctx)
	var e *enrich.LookupError
	require.True(t, errors.As(err, &e))
	assert.Equal(t, "cancelled", e.Reason)
}
