package virustotal

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/internal/metrics"
	"vtsidecar/internal/vtstandin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	key   = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	eicar = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"
)

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

func demoTable(t testing.TB) []vtstandin.Object {
	f, err := os.Open("../../examples/demo/virustotal.json")
	require.NoError(t, err)
	defer f.Close()
	objects, err := vtstandin.ReadTable(f)
	require.NoError(t, err)
	return objects
}

// standIn starts a stand-in and a source that asks it. At the end the stand-in
// must not have complained.
func standIn(t *testing.T, change func(*vtstandin.Config, *Config)) (*vtstandin.Server, *Source) {
	t.Helper()
	cfg := vtstandin.Config{Key: key, Objects: demoTable(t), Now: func() time.Time { return noon }}
	own := Config{APIKey: key, Now: func() time.Time { return noon }}
	if change != nil {
		change(&cfg, &own)
	}
	s, err := vtstandin.New(cfg)
	require.NoError(t, err)
	srv := httptest.NewServer(s)
	own.URL = srv.URL
	src, err := New(own)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.Empty(t, s.Violations())
		s.Close()
		require.NoError(t, src.Close())
		srv.Close()
	})
	return s, src
}

// handler is a source that asks a handler.
func handler(t *testing.T, h http.HandlerFunc, change ...func(*Config)) *Source {
	t.Helper()
	srv := httptest.NewServer(h)
	cfg := Config{APIKey: key, URL: srv.URL, Now: func() time.Time { return noon }}
	for _, c := range change {
		c(&cfg)
	}
	src, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, src.Close()); srv.Close() })
	return src
}

func ask(t *testing.T, s *Source, typ indicator.Type, value string) *enrich.Answer {
	t.Helper()
	a, err := s.Lookup(t.Context(), enrich.Indicator{Type: typ, Value: value})
	require.NoError(t, err)
	return a
}

// fails asks what cannot be answered, and looks for the key where it must not be.
func fails(t *testing.T, s *Source, typ indicator.Type, value string) *enrich.LookupError {
	t.Helper()
	a, err := s.Lookup(t.Context(), enrich.Indicator{Type: typ, Value: value})
	require.Nil(t, a)
	var e *enrich.LookupError
	require.ErrorAs(t, err, &e)
	for _, text := range []string{e.Error(), e.Reason, fmt.Sprintf("%+v", e)} {
		assert.NotContains(t, text, key)
		assert.NotContains(t, text, "127.0.0.1")
		assert.Less(t, len(text), 200)
	}
	return e
}

func count(a *enrich.Answer, c enrich.Category) (n int) {
	for _, e := range a.Engines {
		if e.Category == c {
			n++
		}
	}
	return n
}

// requests is how many requests the metrics count with a code.
func requests(t *testing.T, m *metrics.Set, code string) int {
	families, err := m.Registry.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != "vtsidecar_vt_requests_total" {
			continue
		}
		for _, metric := range f.GetMetric() {
			if metric.GetLabel()[0].GetValue() == code {
				return int(metric.GetCounter().GetValue())
			}
		}
	}
	return 0
}

func TestAnswers(t *testing.T) {
	m := metrics.New("", "", "")
	s, src := standIn(t, func(_ *vtstandin.Config, c *Config) { c.Metrics = m })
	assert.Equal(t, "virustotal", src.Name())

	a := ask(t, src, indicator.IP, "203.0.113.7")
	assert.True(t, a.Found)
	assert.Equal(t, []int{0, 14, 1, 50, 25}, []int{count(a, enrich.CategoryOther), count(a, enrich.CategoryMalicious), count(a, enrich.CategorySuspicious), count(a, enrich.CategoryHarmless), count(a, enrich.CategoryUndetected)})
	assert.True(t, sort.SliceIsSorted(a.Engines, func(i, j int) bool { return a.Engines[i].Engine < a.Engines[j].Engine }))
	assert.Equal(t, noon.Add(-72*time.Hour), a.LastAnalysis)
	assert.Equal(t, noon, a.FetchedAt)
	assert.Equal(t, -12, a.Reputation)
	assert.Equal(t, "NL", a.Country)
	assert.Equal(t, "Example Hosting B.V.", a.ASOwner)
	assert.EqualValues(t, 64500, a.ASN)
	assert.Equal(t, []string{"c2"}, a.Tags)
	assert.Equal(t, "https://www.virustotal.com/gui/ip-address/203.0.113.7", a.Link)
	b := ask(t, src, indicator.IP, "203.0.113.7")
	assert.Equal(t, unsafe.StringData(a.Engines[3].Engine), unsafe.StringData(b.Engines[3].Engine), "names are shared")

	a = ask(t, src, indicator.IP, "2606:4700:4700::1111")
	assert.True(t, a.Found)
	assert.Equal(t, "https://www.virustotal.com/gui/ip-address/2606:4700:4700::1111", a.Link)

	a = ask(t, src, indicator.Domain, "evil-updates.net")
	assert.Equal(t, 21, count(a, enrich.CategoryMalicious))
	assert.Equal(t, "https://www.virustotal.com/gui/domain/evil-updates.net", a.Link)

	for _, hash := range []string{eicar, "3395856ce81f2b7382dee72602f798b642f14140", "44d88612fea8a8f36de82e1278abb02f"} {
		a = ask(t, src, indicator.Hash, hash)
		assert.Equal(t, 66, count(a, enrich.CategoryMalicious))
		assert.Equal(t, 1, count(a, enrich.CategoryOther), "a time-out is no opinion")
		assert.Equal(t, "virus.eicar/test", a.ThreatLabel)
		assert.Equal(t, eicar, a.SHA256)
		assert.Equal(t, "3395856ce81f2b7382dee72602f798b642f14140", a.SHA1)
		assert.Equal(t, "44d88612fea8a8f36de82e1278abb02f", a.MD5)
		assert.Equal(t, "https://www.virustotal.com/gui/file/"+eicar, a.Link)
	}

	a = ask(t, src, indicator.URL, "http://evil-updates.net/payload.exe")
	assert.Equal(t, 17, count(a, enrich.CategoryMalicious))
	assert.Regexp(t, `^https://www\.virustotal\.com/gui/url/[0-9a-f]{64}$`, a.Link)
	a = ask(t, src, indicator.URL, "https://www.example.org") // VirusTotal adds the slash
	assert.True(t, a.Found)

	a = ask(t, src, indicator.Domain, "nobody.example.net")
	assert.Equal(t, &enrich.Answer{FetchedAt: noon}, a)

	assert.Equal(t, 10, s.Stats().Total)
	assert.Equal(t, 9, requests(t, m, "200"))
	assert.Equal(t, 1, requests(t, m, "404"))
}

func TestNothingUnsafeIsAsked(t *testing.T) {
	s, src := standIn(t, nil)
	for _, ind := range []enrich.Indicator{
		{Type: indicator.Hash, Value: "../users/me"},
		{Type: indicator.Hash, Value: strings.Repeat("A", 64)},
		{Type: indicator.Hash, Value: "abc"},
		{Type: indicator.IP, Value: "1.2.3"},
		{Type: indicator.IP, Value: "fe80::1%eth0"},
		{Type: indicator.Domain, Value: "evil.net/../../users"},
		{Type: indicator.Domain, Value: "evil.net?x"},
		{Type: indicator.Domain, Value: ".."},
		{Type: indicator.Domain, Value: "%2e"},
		{Type: indicator.Domain, Value: ""},
		{Type: indicator.Domain, Value: strings.Repeat("a", 254)},
		{Type: indicator.URL, Value: "no url"},
		{Type: indicator.URL, Value: "http://a.net/" + strings.Repeat("a", maxURL)},
		{Type: indicator.URL, Value: "http://a.net/%zz\x7f"},
		{Type: indicator.None, Value: "x"},
	} {
		e := fails(t, src, ind.Type, ind.Value)
		assert.Equal(t, enrich.Unanswerable, e.Decision, "%q", ind.Value)
	}
	assert.Zero(t, s.Stats().Total)
}

func TestFaults(t *testing.T) {
	m := metrics.New("", "", "")
	s, src := standIn(t, func(_ *vtstandin.Config, c *Config) { c.Metrics = m })
	tomorrow := time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		fault  vtstandin.Fault
		want   enrich.Decision
		reason string
		until  time.Time
	}{
		{vtstandin.Fault{Kind: "status", Status: 400}, enrich.Unanswerable, "HTTP 400 BadRequestError", time.Time{}},
		{vtstandin.Fault{Kind: "status", Status: 400, Code: "NotAvailableYet"}, enrich.Retry, "HTTP 400 NotAvailableYet", time.Time{}},
		{vtstandin.Fault{Kind: "status", Status: 401}, enrich.Refused, "HTTP 401 WrongCredentialsError", noon.Add(refusedFor)},
		{vtstandin.Fault{Kind: "status", Status: 403}, enrich.Refused, "HTTP 403 ForbiddenError", noon.Add(refusedFor)},
		{vtstandin.Fault{Kind: "status", Status: 429}, enrich.PauseMinute, "HTTP 429 TooManyRequestsError", noon.Add(time.Minute)},
		{vtstandin.Fault{Kind: "status", Status: 429, RetryAfter: "20"}, enrich.PauseMinute, "HTTP 429 TooManyRequestsError", noon.Add(20 * time.Second)},
		{vtstandin.Fault{Kind: "status", Status: 429, RetryAfter: "0"}, enrich.PauseMinute, "HTTP 429 TooManyRequestsError", noon.Add(time.Second)},
		{vtstandin.Fault{Kind: "status", Status: 429, RetryAfter: "4000000000"}, enrich.PauseMinute, "HTTP 429 TooManyRequestsError", noon.Add(longestPause)},
		{vtstandin.Fault{Kind: "status", Status: 429, RetryAfter: "soon"}, enrich.PauseMinute, "HTTP 429 TooManyRequestsError", noon.Add(time.Minute)},
		{vtstandin.Fault{Kind: "status", Status: 429, RetryAfter: "Sat, 14 Mar 2026 12:02:00 GMT"}, enrich.PauseMinute, "HTTP 429 TooManyRequestsError", noon.Add(2 * time.Minute)},
		{vtstandin.Fault{Kind: "status", Status: 429, Code: "QuotaExceededError"}, enrich.Exhausted, "HTTP 429 QuotaExceededError", tomorrow},
		{vtstandin.Fault{Kind: "status", Status: 429, Code: "QuotaExceededError", RetryAfter: "3600"}, enrich.Exhausted, "HTTP 429 QuotaExceededError", noon.Add(time.Hour)},
		{vtstandin.Fault{Kind: "status", Status: 429, Code: "SomethingNew"}, enrich.PauseMinute, "HTTP 429", noon.Add(time.Minute)},
		{vtstandin.Fault{Kind: "status", Status: 404, Code: "SomethingNew"}, enrich.Retry, "HTTP 404", time.Time{}},
		{vtstandin.Fault{Kind: "status", Status: 500, Code: "SomethingNew"}, enrich.Retry, "HTTP 500", time.Time{}},
		{vtstandin.Fault{Kind: "status", Status: 503}, enrich.Retry, "HTTP 503 TransientError", time.Time{}},
		{vtstandin.Fault{Kind: "status", Status: 504}, enrich.Retry, "HTTP 504 DeadlineExceededError", time.Time{}},
		{vtstandin.Fault{Kind: "status", Status: 418}, enrich.Retry, "HTTP 418", time.Time{}},
		{vtstandin.Fault{Kind: "html"}, enrich.Retry, "garbage: not JSON", time.Time{}},
		{vtstandin.Fault{Kind: "status_html", Status: 404}, enrich.Retry, "HTTP 404", time.Time{}},
		{vtstandin.Fault{Kind: "status_html", Status: 400}, enrich.Retry, "HTTP 400", time.Time{}},
		{vtstandin.Fault{Kind: "status_html", Status: 403}, enrich.Refused, "HTTP 403", noon.Add(refusedFor)},
		{vtstandin.Fault{Kind: "status_html", Status: 502}, enrich.Retry, "HTTP 502", time.Time{}},
		{vtstandin.Fault{Kind: "truncate"}, enrich.Retry, "answer cut short", time.Time{}},
		{vtstandin.Fault{Kind: "reset"}, enrich.Retry, "connection failed", time.Time{}},
		{vtstandin.Fault{Kind: "redirect"}, enrich.Retry, "redirected", time.Time{}},
		{vtstandin.Fault{Kind: "huge"}, enrich.Retry, "answer too large", time.Time{}},
		{vtstandin.Fault{Kind: "bomb"}, enrich.Retry, "answer too large", time.Time{}},
		{vtstandin.Fault{Kind: "empty"}, enrich.Retry, "garbage: no object", time.Time{}},
		{vtstandin.Fault{Kind: "wrong_object"}, enrich.Retry, "garbage: another object than asked for", time.Time{}},
		{vtstandin.Fault{Kind: "wrong_types"}, enrich.Retry, "garbage: not in the documented shape", time.Time{}},
		{vtstandin.Fault{Kind: "echo"}, enrich.Retry, "HTTP 502", time.Time{}},
	} {
		t.Run(fmt.Sprintf("%+v", tt.fault), func(t *testing.T) {
			require.NoError(t, s.SetFault(tt.fault))
			e := fails(t, src, indicator.IP, "203.0.113.7")
			assert.Equal(t, &enrich.LookupError{Decision: tt.want, Reason: tt.reason, Until: tt.until}, e)
		})
	}
	for typ, v := range map[indicator.Type]string{indicator.Domain: "evil-updates.net", indicator.URL: "http://evil-updates.net/payload.exe", indicator.Hash: eicar} {
		require.NoError(t, s.SetFault(vtstandin.Fault{Kind: "wrong_object"}))
		assert.Equal(t, "garbage: another object than asked for", fails(t, src, typ, v).Reason)
	}
	require.NoError(t, s.SetFault(vtstandin.Fault{}))
	assert.True(t, ask(t, src, indicator.IP, "203.0.113.7").Found, "nothing of it sticks")
	assert.Positive(t, requests(t, m, "error"))
}

func TestWrongKeyAndQuota(t *testing.T) {
	_, src := standIn(t, func(v *vtstandin.Config, _ *Config) { v.Key = "another" })
	assert.Equal(t, enrich.Refused, fails(t, src, indicator.IP, "203.0.113.7").Decision)

	_, src = standIn(t, func(v *vtstandin.Config, _ *Config) { v.Minute = 1 })
	ask(t, src, indicator.IP, "203.0.113.7")
	assert.Equal(t, enrich.PauseMinute, fails(t, src, indicator.IP, "203.0.113.7").Decision)

	_, src = standIn(t, func(v *vtstandin.Config, _ *Config) { v.Day = 1 })
	ask(t, src, indicator.IP, "203.0.113.7")
	assert.Equal(t, enrich.Exhausted, fails(t, src, indicator.IP, "203.0.113.7").Decision)
}

func TestMonthIsUsedUp(t *testing.T) {
	assert.Equal(t, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), nextWindow(time.Date(2026, 12, 5, 1, 0, 0, 0, time.UTC), "Monthly quota exceeded"))
	assert.Equal(t, time.Date(2026, 12, 6, 0, 0, 0, 0, time.UTC), nextWindow(time.Date(2026, 12, 6, 8, 0, 0, 0, time.FixedZone("", 9*3600)), "Quota exceeded"))
}

func TestTimeOutAndCancel(t *testing.T) {
	s, src := standIn(t, func(_ *vtstandin.Config, c *Config) { c.Timeout = 20 * time.Millisecond })
	require.NoError(t, s.SetFault(vtstandin.Fault{Kind: "hang"}))
	e := fails(t, src, indicator.IP, "203.0.113.7")
	assert.Equal(t, &enrich.LookupError{Decision: enrich.Retry, Reason: "timed out"}, e)

	asked := make(chan struct{})
	src = handler(t, func(_ http.ResponseWriter, r *http.Request) { close(asked); <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := src.Lookup(ctx, enrich.Indicator{Type: indicator.IP, Value: "1.1.1.1"})
	var le *enrich.LookupError
	require.ErrorAs(t, err, &le)
	assert.Equal(t, "cancelled", le.Reason)

	// A body that drips does not outlast the time-out either.
	src = handler(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(200)
		_, _ = io.WriteString(w, `{"data":`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, func(c *Config) { c.Timeout = 20 * time.Millisecond })
	assert.Equal(t, "timed out", fails(t, src, indicator.IP, "1.1.1.1").Reason)
}

// nobody is an address at which nobody listens. A free port may be another test's
// a moment later.
const nobody = "127.0.0.1:1"

func TestNobodyThere(t *testing.T) {
	src, err := New(Config{APIKey: key, URL: "http://" + nobody})
	require.NoError(t, err)
	assert.Equal(t, "connection refused", fails(t, src, indicator.IP, "1.1.1.1").Reason)

	srv := httptest.NewTLSServer(http.NotFoundHandler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	defer srv.Close()
	src, err = New(Config{APIKey: key, URL: srv.URL})
	require.NoError(t, err)
	defer src.Close()
	assert.Equal(t, "certificate not trusted", fails(t, src, indicator.IP, "1.1.1.1").Reason)
	src, err = New(Config{APIKey: key, URL: "https://" + nobody})
	require.NoError(t, err)
	assert.Equal(t, "connection refused", fails(t, src, indicator.IP, "1.1.1.1").Reason)
}

func TestMemoryOfABombIsBounded(t *testing.T) {
	s, src := standIn(t, nil)
	require.NoError(t, s.SetFault(vtstandin.Fault{Kind: "bomb"}))
	fails(t, src, indicator.IP, "203.0.113.7") // the stand-in has made its bomb
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fails(t, src, indicator.IP, "203.0.113.7")
	runtime.ReadMemStats(&after)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8*maxBody), "of 1 GiB")
}

func TestWhatIsSent(t *testing.T) {
	var got *http.Request
	src := handler(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(404)
		_, _ = io.WriteString(w, `{"error":{"code":"NotFoundError"}}`)
	}, func(c *Config) { c.URL += "/relay/vt/"; c.UserAgent = "house 1.0" })
	assert.False(t, ask(t, src, indicator.IP, "2001:db8::1").Found)
	assert.Equal(t, "/relay/vt/api/v3/ip_addresses/2001:db8::1", got.RequestURI)
	assert.Equal(t, key, got.Header.Get("X-Apikey"))
	assert.True(t, strings.HasPrefix(got.UserAgent(), "house 1.0"), got.UserAgent())
	assert.False(t, ask(t, src, indicator.URL, "http://a.net/?a=b&c=>>>???").Found)
	assert.Regexp(t, `^/relay/vt/api/v3/urls/[A-Za-z0-9_-]+$`, got.RequestURI)
}

func TestProxy(t *testing.T) {
	var asked string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(404)
		_, _ = io.WriteString(w, `{"error":{"code":"NotFoundError"}}`)
	}))
	defer proxy.Close()
	src, err := New(Config{APIKey: key, URL: "http://vt.example.net", ProxyURL: proxy.URL})
	require.NoError(t, err)
	defer src.Close()
	ask(t, src, indicator.IP, "1.1.1.1")
	assert.Equal(t, "http://vt.example.net/api/v3/ip_addresses/1.1.1.1", asked)
}

func TestNewRefuses(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{APIKey: "a b"},
		{APIKey: "secret\n"},
		{APIKey: "secrét"},
		{APIKey: "secret", URL: "ftp://x"},
		{APIKey: "secret", URL: "https://"},
		{APIKey: "secret", URL: "virustotal.com"},
		{APIKey: "secret", URL: "https://u:secret@x"},
		{APIKey: "secret", URL: "https://x/?secret"},
		{APIKey: "secret", URL: "https://x/#secret"},
		{APIKey: "secret", URL: "https://x/%zz secret"},
		{APIKey: "secret", ProxyURL: "://u:secret@x"},
		{APIKey: "secret", ProxyURL: "u:secret@x"},
		{APIKey: "secret", ProxyURL: "gopher://u:secret@x"},
		{APIKey: "secret", Timeout: -1},
	} {
		_, err := New(cfg)
		require.Error(t, err, "%+v", cfg)
		assert.NotContains(t, err.Error(), "secr")
	}
}

func TestWarnsOfAKeyInClear(t *testing.T) {
	var log bytes.Buffer
	for _, u := range []string{"https://x.example.net", "http://127.0.0.1:1", "http://localhost"} {
		_, err := New(Config{APIKey: key, URL: u, Log: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
	}
	assert.Empty(t, log.String())
	_, err := New(Config{APIKey: key, URL: "http://x.example.net", Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	assert.Equal(t, 1, strings.Count(log.String(), "\n"))
	assert.NotContains(t, log.String(), key)
}

func parseIP(t testing.TB, attributes string) (*enrich.Answer, string) {
	t.Helper()
	return parse([]byte(`{"id":"1.1.1.1","type":"ip_address","attributes":`+attributes+`}`), enrich.Indicator{Type: indicator.IP, Value: "1.1.1.1"})
}

func TestOddAttributes(t *testing.T) {
	for name, attributes := range map[string]string{
		"results a list":      `{"last_analysis_results":[]}`,
		"engine no object":    `{"last_analysis_results":{"A":"malicious"}}`,
		"category a number":   `{"last_analysis_results":{"A":{"category":1}}}`,
		"date a string":       `{"last_analysis_date":"1700000000"}`,
		"date negative":       `{"last_analysis_date":-5}`,
		"date a fraction":     `{"last_analysis_date":1.5}`,
		"date far away":       `{"last_analysis_date":99999999999999}`,
		"assessment a string": `{"gti_assessment":"VERDICT_MALICIOUS"}`,
		"counts as strings":   `{"last_analysis_stats":{"malicious":"14"}}`,
		"counts negative":     `{"last_analysis_stats":{"malicious":-1}}`,
		"counts endless":      `{"last_analysis_stats":{"malicious":200,"harmless":200}}`,
		"attributes a list":   `[]`,
	} {
		a, why := parseIP(t, attributes)
		assert.NotEmpty(t, why, name)
		assert.Nil(t, a, name)
	}
	many := map[string]any{}
	for i := range enrich.MaxAnswerEngines + 1 {
		many[fmt.Sprint(i)] = map[string]string{"category": "malicious"}
	}
	b, err := json.Marshal(map[string]any{"last_analysis_results": many})
	require.NoError(t, err)
	_, why := parseIP(t, string(b))
	assert.Equal(t, "impossible engines", why)

	for name, attributes := range map[string]string{
		"nothing":            `{}`,
		"nulls":              `{"last_analysis_results":null,"last_analysis_stats":null,"last_analysis_date":null,"gti_assessment":null,"reputation":null,"tags":null,"country":null,"asn":null,"popular_threat_classification":null}`,
		"never analysed":     `{"last_analysis_results":{},"last_analysis_stats":{"malicious":0},"last_analysis_date":0}`,
		"others of no type":  `{"reputation":"x","tags":"x","country":5,"as_owner":{},"asn":"64500","first_submission_date":"x","last_submission_date":-1,"last_modification_date":[],"popular_threat_classification":[]}`,
		"others out of type": `{"reputation":1e99,"tags":[1,null,{}],"popular_threat_classification":{"suggested_threat_label":5}}`,
	} {
		a, why := parseIP(t, attributes)
		require.Empty(t, why, name)
		assert.Equal(t, &enrich.Answer{Found: true, Link: gui + "ip-address/1.1.1.1"}, a, name)
	}

	long := strings.Repeat("é", 4000)
	a, why := parseIP(t, `{"as_owner":"`+long+`","tags":[`+strings.Repeat(`"`+long+`",`, 30)+`"x"],"last_analysis_results":{"`+long+`":{"category":"malicious"}}}`)
	require.Empty(t, why)
	assert.Len(t, a.ASOwner, enrich.MaxAnswerString)
	assert.Len(t, a.Tags, enrich.MaxAnswerTags)
	assert.Len(t, a.Engines[0].Engine, enrich.MaxAnswerString)

	a, why = parseIP(t, `{"last_analysis_stats":{"malicious":14,"suspicious":1,"harmless":50,"undetected":25,"timeout":3}}`)
	require.Empty(t, why)
	assert.Len(t, a.Engines, 90, "counted, though not named")
	assert.Equal(t, 14, count(a, enrich.CategoryMalicious))
	a, why = parseIP(t, `{"first_submission_date":1,"last_submission_date":2,"last_modification_date":3}`)
	require.Empty(t, why)
	assert.Equal(t, []int64{1, 2, 3}, []int64{a.FirstSubmission.Unix(), a.LastSubmission.Unix(), a.LastModification.Unix()})
	for word, want := range assessments {
		a, _ := parseIP(t, `{"gti_assessment":{"verdict":{"value":"`+word+`"}}}`)
		assert.Equal(t, want, a.Assessment)
	}
}

func TestIdentity(t *testing.T) {
	md5, sha1 := strings.Repeat("a", 32), strings.Repeat("b", 40)
	sha, other := strings.Repeat("c", 64), strings.Repeat("d", 64)
	u := "http://evil.net/a"
	for _, tt := range []struct {
		typ   indicator.Type
		value string
		data  string
		ok    bool
	}{
		{indicator.Hash, sha, `{"type":"file","id":"` + sha + `"}`, true},
		{indicator.Hash, sha, `{"type":"file","id":"` + strings.ToUpper(sha) + `"}`, true},
		{indicator.Hash, sha, `{"type":"file","id":"` + other + `"}`, false},
		{indicator.Hash, sha, `{"type":"file","id":"` + other + `","attributes":{"sha256":"` + sha + `"}}`, false},
		{indicator.Hash, sha, `{"type":"file","id":"` + sha + `","attributes":{"md5":"zz"}}`, false},
		{indicator.Hash, sha, `{"type":"url","id":"` + sha + `"}`, false},
		{indicator.Hash, sha, `{"type":"file"}`, false},
		{indicator.Hash, md5, `{"type":"file","id":"` + sha + `"}`, false},
		{indicator.Hash, md5, `{"type":"file","id":"` + sha + `","attributes":{"md5":"` + md5 + `"}}`, true},
		{indicator.Hash, sha1, `{"type":"file","id":"` + sha + `","attributes":{"md5":"` + md5 + `"}}`, false},
		{indicator.Hash, sha1, `{"type":"file","id":"` + sha + `","attributes":{"sha1":"` + sha1 + `"}}`, true},
		{indicator.Hash, sha1, `{"type":"file","id":"` + sha + `","attributes":{"sha1":7}}`, false},
		{indicator.IP, "1.1.1.1", `{"type":"ip_address","id":"1.1.1.1"}`, true},
		{indicator.IP, "1.1.1.1", `{"type":"ip_address","id":"1.1.1.2"}`, false},
		{indicator.IP, "1.1.1.1", `{"type":"domain","id":"1.1.1.1"}`, false},
		{indicator.IP, "2001:db8::1", `{"type":"ip_address","id":"2001:0DB8:0::1"}`, true},
		{indicator.IP, "1.1.1.1", `{"type":"ip_address","id":11}`, false},
		{indicator.Domain, "evil.net", `{"type":"domain","id":"evil.net"}`, true},
		{indicator.Domain, "evil.net", `{"type":"domain","id":"Evil.NET."}`, true},
		{indicator.Domain, "evil.net", `{"type":"domain","id":"www.evil.net"}`, false},
		{indicator.URL, u, `{"type":"url","id":"` + urlID(u) + `"}`, true},
		{indicator.URL, u, `{"type":"url","id":"` + other + `"}`, true},
		{indicator.URL, u, `{"type":"url","id":"` + other + `","attributes":{"url":"http://EVIL.net/a"}}`, true},
		{indicator.URL, u, `{"type":"url","id":"` + other + `","attributes":{"url":"http://good.net/a"}}`, false},
		{indicator.URL, "http://3627734792/", `{"type":"url","id":"` + other + `","attributes":{"url":"http://216.58.211.8/"}}`, true},
		{indicator.URL, u, `{"type":"url","id":"abc"}`, false},
		{indicator.URL, u, `{"type":"file","id":"` + other + `"}`, false},
		{indicator.URL, u, `[]`, false},
		{indicator.URL, u, `null`, false},
	} {
		a, why := parse([]byte(tt.data), enrich.Indicator{Type: tt.typ, Value: tt.value})
		assert.Equal(t, tt.ok, why == "", "%s asked, %s: %s", tt.value, tt.data, why)
		assert.Equal(t, tt.ok, a != nil)
	}
}

// canned is a transport that always answers the same.
type canned struct {
	status   int
	encoding string
	body     []byte
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	h := http.Header{"Content-Type": {"application/json"}}
	if c.encoding != "" {
		h.Set("Content-Encoding", c.encoding)
	}
	return &http.Response{StatusCode: c.status, Header: h, Body: io.NopCloser(bytes.NewReader(c.body)), ContentLength: -1, Request: r}, nil
}

func FuzzAnswer(f *testing.F) {
	s, err := vtstandin.New(vtstandin.Config{Objects: demoTable(f), Now: func() time.Time { return noon }})
	require.NoError(f, err)
	questions := []enrich.Indicator{
		{Type: indicator.IP, Value: "203.0.113.7"}, {Type: indicator.Domain, Value: "evil-updates.net"},
		{Type: indicator.URL, Value: "http://evil-updates.net/payload.exe"}, {Type: indicator.Hash, Value: eicar},
	}
	for i, q := range questions {
		path, _ := objectPath(q)
		r := httptest.NewRequest("GET", "/api/v3/"+path, nil)
		r.Header.Set("X-Apikey", key)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		f.Add(uint16(w.Code), false, uint8(i), w.Body.Bytes())
		var z bytes.Buffer
		zw := gzip.NewWriter(&z)
		_, _ = zw.Write(w.Body.Bytes())
		_ = zw.Close()
		f.Add(uint16(w.Code), true, uint8(i), z.Bytes())
	}
	f.Add(uint16(429), false, uint8(0), []byte(`{"error":{"code":"QuotaExceededError","message":"`+key+`"}}`))
	f.Add(uint16(404), false, uint8(0), []byte(`{"error":{"code":"NotFoundError","message":""}}`))
	f.Add(uint16(404), false, uint8(0), []byte(`<html>`))
	f.Add(uint16(200), false, uint8(0), []byte(nil))
	f.Fuzz(func(t *testing.T, status uint16, zipped bool, question uint8, body []byte) {
		src, err := New(Config{APIKey: key, Now: func() time.Time { return noon }})
		require.NoError(t, err)
		c := canned{status: int(status), body: body}
		if zipped {
			c.encoding = "gzip"
		}
		src.transport = c
		ind := questions[int(question)%len(questions)]
		a, err := src.Lookup(t.Context(), ind)
		if err != nil {
			var e *enrich.LookupError
			if !errors.As(err, &e) || a != nil {
				t.Fatalf("error %v beside answer %v", err, a)
			}
			if strings.Contains(e.Reason, key) || len(e.Reason) > 100 {
				t.Fatal("a reason that is not stable")
			}
			if later := e.Until.Sub(noon); !e.Until.IsZero() && (later <= 0 || later > longestSpent) {
				t.Fatalf("until %v", e.Until)
			}
			return
		}
		if a.Found != (status == 200) || !a.Found && status != 404 {
			t.Fatalf("found %v with status %d", a.Found, status)
		}
		if len(a.Engines) > enrich.MaxAnswerEngines || len(a.Tags) > enrich.MaxAnswerTags {
			t.Fatal("out of bounds")
		}
		if a.Found && ind.Type == indicator.Hash && a.SHA256 != eicar {
			t.Fatal("another file")
		}
		// The snapshot must hold whatever comes out, unchanged.
		again, err := enrich.DecodeAnswer(enrich.AppendAnswer(nil, a))
		if err != nil || !assert.ObjectsAreEqual(a, again) {
			t.Fatalf("does not survive a restart: %v\n%+v\n%+v", err, a, again)
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	s, err := vtstandin.New(vtstandin.Config{Objects: demoTable(b)})
	require.NoError(b, err)
	r := httptest.NewRequest("GET", "/api/v3/ip_addresses/203.0.113.7", nil)
	r.Header.Set("X-Apikey", key)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	src, err := New(Config{APIKey: key})
	require.NoError(b, err)
	src.transport = canned{status: 200, body: w.Body.Bytes()}
	b.ReportAllocs()
	for b.Loop() {
		_, err := src.Lookup(b.Context(), enrich.Indicator{Type: indicator.IP, Value: "203.0.113.7"})
		require.NoError(b, err)
	}
}
