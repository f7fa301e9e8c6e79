package vtstandin

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type caller struct {
	t   *testing.T
	s   *Server
	url string
	c   *http.Client
}

func start(t *testing.T, cfg Config) *caller {
	s, err := New(cfg)
	require.NoError(t, err)
	srv := httptest.NewServer(s)
	c := &caller{t: t, s: s, url: srv.URL, c: srv.Client()}
	c.c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Cleanup(func() { s.Close(); c.c.CloseIdleConnections(); srv.Close() })
	return c
}

func (c *caller) do(method, path, key, body string) (int, []byte) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	require.NoError(c.t, err)
	if key != "" {
		req.Header.Set("X-Apikey", key)
	}
	resp, err := c.c.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return -resp.StatusCode, b
	}
	return resp.StatusCode, b
}

func (c *caller) get(path string) (int, map[string]any) {
	c.t.Helper()
	code, b := c.do(http.MethodGet, path, "k", "")
	var v map[string]any
	require.NoError(c.t, json.Unmarshal(b, &v), "%s", b)
	return code, v
}

func demoTable(t *testing.T) []Object {
	f, err := os.Open("../../examples/demo/virustotal.json")
	require.NoError(t, err)
	defer f.Close()
	objects, err := ReadTable(f)
	require.NoError(t, err)
	return objects
}

func id64(u string) string { return base64.RawURLEncoding.EncodeToString([]byte(u)) }

func TestDemoTable(t *testing.T) {
	c := start(t, Config{Objects: demoTable(t)})
	eicar := "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"
	for _, tt := range []struct{ path, typ, value, result string }{
		{"ip_addresses/203.0.113.7", IP, "203.0.113.7", "malicious"},
		{"ip_addresses/198.51.100.23", IP, "198.51.100.23", "suspicious"},
		{"ip_addresses/8.8.8.8", IP, "8.8.8.8", "harmless"},
		{"ip_addresses/1.1.1.1", IP, "1.1.1.1", "harmless"},
		{"ip_addresses/2606:4700:4700::1111", IP, "2606:4700:4700::1111", "harmless"},
		{"domains/evil-updates.net", Domain, "evil-updates.net", "malicious"},
		{"domains/www.example.org", Domain, "www.example.org", "harmless"},
		{"urls/" + id64("http://evil-updates.net/payload.exe"), URL, "http://evil-updates.net/payload.exe", "malicious"},
		{"urls/" + id64("https://www.example.org"), URL, "https://www.example.org", "harmless"},
		{"files/" + eicar, Hash, eicar, "malicious"},
		{"files/44d88612fea8a8f36de82e1278abb02f", Hash, "44d88612fea8a8f36de82e1278abb02f", "malicious"},
	} {
		o, ok := c.s.Expected(tt.typ, tt.value)
		require.True(t, ok, tt.value)
		assert.Equal(t, tt.result, o.Result(), tt.value)
		code, v := c.get("/api/v3/" + tt.path)
		require.Equal(t, 200, code)
		attributes := v["data"].(map[string]any)["attributes"].(map[string]any)
		stats := attributes["last_analysis_stats"].(map[string]any)
		assert.EqualValues(t, o.Malicious, stats["malicious"])
		sum := 0.0
		for _, n := range stats {
			sum += n.(float64)
		}
		assert.Len(t, attributes["last_analysis_results"], int(sum))
	}
	_, v := c.get("/api/v3/ip_addresses/203.0.113.7")
	assert.Len(t, v["data"].(map[string]any)["attributes"].(map[string]any)["last_analysis_results"], 90)
	code, v := c.get("/api/v3/domains/nobody.example.net")
	assert.Equal(t, 404, code)
	assert.Equal(t, "NotFoundError", v["error"].(map[string]any)["code"])
	assert.Empty(t, c.s.Violations())
	assert.Equal(t, 2, c.s.Requests()["ip 203.0.113.7"])
}

func TestEveryEngineNameOnce(t *testing.T) {
	for _, typ := range []string{IP, Hash} {
		n := len(engineNames(typ))
		assert.Greater(t, n, 70)
		assert.NotZero(t, n%13, "the step in engineWords")
		o := Object{Type: typ, Value: "x", Undetected: n}
		assert.Len(t, o.engineWords(), n)
	}
}

func TestGeneratedTable(t *testing.T) {
	count := map[string]int{}
	for i := range 2000 {
		for _, typ := range []string{IP, Domain, URL, Hash} {
			o, ok := Expected(typ, fmt.Sprint(i))
			again, _ := Expected(typ, fmt.Sprint(i))
			require.Equal(t, o, again)
			if !ok {
				count["not found"]++
				continue
			}
			require.NoError(t, o.check())
			count[o.Result()]++
		}
	}
	assert.InDelta(t, 400, count["malicious"], 100)
	assert.InDelta(t, 400, count["suspicious"], 100)
	assert.InDelta(t, 1600, count["not found"], 200)
	assert.Zero(t, count["unknown"])

	c := start(t, Config{Generate: true, Objects: demoTable(t)})
	for i := range 100 {
		v := fmt.Sprintf("h%d.example.net", i)
		o, ok := Expected(Domain, v)
		code, body := c.get("/api/v3/domains/" + v)
		if !ok {
			require.Equal(t, 404, code)
			continue
		}
		require.Equal(t, 200, code)
		stats := body["data"].(map[string]any)["attributes"].(map[string]any)["last_analysis_stats"].(map[string]any)
		assert.EqualValues(t, o.Malicious, stats["malicious"])
	}
	o, _ := c.s.Expected(IP, "203.0.113.7")
	assert.Equal(t, 14, o.Malicious, "the table goes first")
}

func TestKeysAndQuotas(t *testing.T) {
	now := time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)
	c := start(t, Config{Key: "k", Minute: 2, Day: 3, Generate: true, Now: func() time.Time { return now }})
	code, body := c.do("GET", "/api/v3/ip_addresses/9.9.9.9", "wrong", "")
	assert.Equal(t, 401, code)
	assert.Contains(t, string(body), "WrongCredentialsError")
	for _, want := range []string{"", "", "TooManyRequestsError", "minute over", "", "QuotaExceededError", "day over", ""} {
		switch want {
		case "minute over":
			now = now.Add(time.Minute)
			continue
		case "day over":
			now = now.Add(24 * time.Hour)
			continue
		}
		code, v := c.get("/api/v3/domains/known.example.com")
		if want == "" {
			require.Contains(t, []int{200, 404}, code)
		} else {
			require.Equal(t, 429, code)
			require.Equal(t, want, v["error"].(map[string]any)["code"])
		}
	}
	assert.Equal(t, 2, c.s.Stats().OverQuota)
	_, v := c.get("/api/v3/users/k/overall_quotas")
	assert.EqualValues(t, 3, v["data"].(map[string]any)["api_requests_daily"].(map[string]any)["user"].(map[string]any)["allowed"])
	assert.Empty(t, c.s.Violations())
}

func TestComplains(t *testing.T) {
	for path, want := range map[string]string{
		"/api/v3/ip_addresses/10.1.2.3":                "private",
		"/api/v3/ip_addresses/::ffff:192.168.0.1":      "private",
		"/api/v3/ip_addresses/1.2.3.4:80":              "not an IP",
		"/api/v3/ip_addresses/2001:DB8::1":             "not canonical",
		"/api/v3/domains/evil.net/../../files":         "not escaped",
		"/api/v3/domains/Evil.NET":                     "not canonical",
		"/api/v3/domains/evil.net.":                    "not canonical",
		"/api/v3/domains/fileserver":                   "internal name",
		"/api/v3/domains/db.corp":                      "internal name",
		"/api/v3/domains/evil.net?x=1":                 "not escaped",
		"/api/v3/files/":                               "not escaped",
		"/api/v3/files/xyz":                            "not a hash",
		"/api/v3/files/" + strings.Repeat("A", 32):     "not canonical",
		"/api/v3/urls/aHR0cDovL2EuYi8=":                "base64",
		"/api/v3/urls/http%3A%2F%2Fevil.net%2F":        "base64",
		"/api/v3/urls/" + id64("http://u:p@evil.net/"): "user info",
		"/api/v3/urls/" + id64("http://evil.net/#f"):   "fragment",
		"/api/v3/urls/" + id64("http://192.168.1.1/"):  "private",
		"/api/v3/urls/" + id64("http://intranet/"):     "internal name",
		"/api/v3/urls/" + id64("no url at all"):        "not a URL",
		"/api/v3/widgets/1":                            "widgets",
		"/redirected/api/v3/domains/evil.net":          "key was sent",
		"/elsewhere":                                   "outside the API",
	} {
		t.Run(path, func(t *testing.T) {
			c := start(t, Config{Generate: true})
			code, _ := c.do("GET", path, "k", "")
			assert.GreaterOrEqual(t, code, 400)
			require.NotEmpty(t, c.s.Violations())
			assert.Contains(t, c.s.Violations()[0], want)
		})
	}
	c := start(t, Config{Generate: true})
	code, _ := c.do("GET", "/api/v3/domains/evil.net", "", "")
	assert.Equal(t, 401, code)
	code, _ = c.do("POST", "/api/v3/domains/evil.net", "k", "")
	assert.Equal(t, 400, code)
	assert.Len(t, c.s.Violations(), 2)
	code, _ = c.do("POST", "/_standin/reset", "", "")
	assert.Equal(t, 204, code)
	assert.Empty(t, c.s.Violations())
}

func TestTwiceAtOnceAndTooMany(t *testing.T) {
	c := start(t, Config{Generate: true, MaxInFlight: 1, Latency: time.Hour})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { c.do("GET", "/api/v3/domains/evil.net", "k", "") })
	}
	require.Eventually(t, func() bool { return c.s.Stats().MaxInFlight == 4 }, 10*time.Second, time.Millisecond)
	c.s.Close()
	wg.Wait()
	all := strings.Join(c.s.Violations(), "\n")
	assert.Contains(t, all, "asked twice at once: domain evil.net")
	assert.Contains(t, all, "more than 1 requests at once")
}

func TestFaults(t *testing.T) {
	c := start(t, Config{Generate: true, Objects: demoTable(t)})
	path := "/api/v3/ip_addresses/203.0.113.7"
	fault := func(f string) {
		t.Helper()
		code, body := c.do("POST", "/_standin/faults", "", f)
		require.Equal(t, 204, code, "%s", body)
	}
	for _, tt := range []struct {
		fault string
		code  int
		body  string
	}{
		{`{"kind":"status","status":503}`, 503, "TransientError"},
		{`{"kind":"html"}`, 200, "<!doctype"},
		{`{"kind":"status_html","status":403}`, 403, "<!doctype"},
		{`{"kind":"truncate"}`, -200, ""},
		{`{"kind":"reset"}`, 0, ""},
		{`{"kind":"redirect"}`, 302, ""},
		{`{"kind":"empty"}`, 200, ""},
		{`{"kind":"wrong_object"}`, 200, "192.0.2.99"},
		{`{"kind":"wrong_types"}`, 200, `"last_analysis_results":["none"]`},
		{`{"kind":"echo"}`, 502, `"code":"k"`},
		{`{"kind":"none"}`, 200, "203.0.113.7"},
	} {
		fault(tt.fault)
		code, body := c.do("GET", path, "k", "")
		assert.Equal(t, tt.code, code, tt.fault)
		assert.Contains(t, string(body), tt.body)
	}
	fault(`{"kind":"status","status":500,"times":1,"match":"203.0.113.7","latency":"1ms"}`)
	code, _ := c.do("GET", "/api/v3/ip_addresses/8.8.8.8", "k", "")
	assert.Equal(t, 200, code)
	code, _ = c.do("GET", path, "k", "")
	assert.Equal(t, 500, code)
	code, _ = c.do("GET", path, "k", "")
	assert.Equal(t, 200, code)

	for _, f := range []string{`{"kind":"sulk"}`, `{"kind":"status","status":200}`, `{"latency":"soon"}`, `{"colour":"red"}`, `[`} {
		code, _ := c.do("POST", "/_standin/faults", "", f)
		assert.Equal(t, 400, code, f)
	}

	fault(`{"kind":"hang"}`)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", c.url+path, nil)
	require.NoError(t, err)
	req.Header.Set("X-Apikey", "k")
	go cancel()
	_, err = c.c.Do(req)
	require.ErrorIs(t, err, context.Canceled)
}

func TestAdmin(t *testing.T) {
	c := start(t, Config{})
	code, _ := c.do("POST", "/_standin/objects", "", `{"type":"domain","value":"new.example.com","malicious":9,"harmless":70,"engines":{"House":"malicious"}}`)
	require.Equal(t, 204, code)
	_, v := c.get("/_standin/expected?type=domain&value=new.example.com")
	assert.Equal(t, "malicious", v["result"])
	c.get("/api/v3/domains/new.example.com")
	_, v = c.get("/_standin/requests")
	assert.EqualValues(t, 1, v["total"])
	assert.EqualValues(t, 1, v["objects"].(map[string]any)["domain new.example.com"])
	assert.EqualValues(t, 1, v["by_code"].(map[string]any)["200"])
	assert.Empty(t, v["violations"])
	for _, bad := range []string{`{"type":"smell","value":"x"}`, `{"type":"ip"}`, `{"type":"ip","value":"1.1.1.1","harmless":500}`, `{"type":"ip","value":"1.1.1.1","harmless":-1}`} {
		code, _ := c.do("POST", "/_standin/objects", "", bad)
		assert.Equal(t, 400, code)
	}
	code, _ = c.do("GET", "/_standin/nonsense", "", "")
	assert.Equal(t, 404, code)
}

func TestReadTableRefuses(t *testing.T) {
	for _, bad := range []string{"", "[]", `{"objects":[{"type":"ip"}]}`, `{"objects":[{"typ":"ip"}]}`} {
		_, err := ReadTable(bytes.NewBufferString(bad))
		require.Error(t, err, bad)
	}
}

func TestResult(t *testing.T) {
	for _, tt := range []struct {
		o    Object
		want string
	}{
		{Object{Type: IP, Harmless: 9}, "unknown"},
		{Object{Type: IP, Harmless: 10}, "harmless"},
		{Object{Type: IP, Malicious: 1, Harmless: 10}, "harmless"},
		{Object{Type: Hash, Malicious: 1, Undetected: 10}, "suspicious"},
		{Object{Type: IP, Malicious: 5, Harmless: 10}, "malicious"},
		{Object{Type: IP, Malicious: 5, Harmless: 10, AnalysedDaysAgo: 91}, "suspicious"},
		{Object{Type: IP, Harmless: 10, AnalysedDaysAgo: 91}, "unknown"},
		{Object{Type: Hash, Undetected: 10, AnalysedDaysAgo: 9000}, "harmless"},
		{Object{Type: IP, Harmless: 90, NeverAnalysed: true}, "unknown"},
	} {
		assert.Equal(t, tt.want, tt.o.Result(), "%+v", tt.o)
	}
}
