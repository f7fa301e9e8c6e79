package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
	"vtsidecar/internal/vtstandin"
)

const secretKey = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// limited is a VirusTotal with quotas.
func limited(t *testing.T, cfg vtstandin.Config) (*vtstandin.Server, string) {
	t.Helper()
	cfg.Key = secretKey
	s, err := vtstandin.New(cfg)
	require.NoError(t, err)
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		h.Close()
	})
	return s, h.URL
}

// testKey runs the command; no output may hold the key.
func testKey(t *testing.T, data, url string, more ...string) (status int, stdout, stderr string) {
	t.Helper()
	args := append([]string{"test", "virustotal", "--path.data", data, "--vt.url", url, "--vt.proxy_url", "none"}, more...)
	environ := []string{"VTSIDECAR_VT_API_KEY=" + secretKey}
	if slices.Contains(more, "--vt.api_key_file") {
		environ = nil
	}
	p := start(t, environ, "", args...)
	status = p.wait(t)
	stdout, stderr = p.stdout.String(), p.stderr.String()
	assert.NotContains(t, stdout+stderr, secretKey)
	assert.NotContains(t, stderr, "goroutine ")
	return status, stdout, stderr
}

func TestVirusTotalKeyOfThePublic(t *testing.T) {
	s, url := limited(t, vtstandin.Config{Minute: 4, Day: 500, Month: 15500})
	s.Use(100)
	data := filepath.Join(t.TempDir(), "data")
	status, stdout, stderr := testKey(t, data, url)
	require.Zero(t, status, stderr)
	for _, want := range []string{
		"accepts the key", "VirusTotal's public limits", "must not be used in commercial products, services or business workflows",
		"4 (account)", "500 (account)", "400", "140", "cost nothing",
	} {
		assert.Contains(t, stdout, want)
	}
	assert.Contains(t, stderr, "costs no quota")
	assert.Zero(t, s.Stats().Total, "no look-up was made")
	assert.NoDirExists(t, data)

	status, stdout, _ = testKey(t, data, url, "--json", "--vt.limit.day", "50", "--vt.limit.month", "0")
	require.Zero(t, status)
	assert.JSONEq(t, `{"url": "`+url+`", "key": "public", "cost": 0,
		"terms": "a public key must not be used in commercial products, services or business workflows",
		"windows": [
			{"window": "minute", "limit": 4, "origin": "account"},
			{"window": "hour", "limit": 240, "origin": "account", "allowed": 240, "used": 100, "left": 140},
			{"window": "day", "limit": 50, "origin": "setting", "allowed": 500, "used": 100, "left": 400},
			{"window": "month", "limit": null, "origin": "setting", "allowed": 15500, "used": 100, "left": 15400}]}`, stdout)

	s.Use(400)
	status, stdout, _ = testKey(t, data, url, "--vt.enabled", "false")
	require.Zero(t, status)
	assert.Contains(t, stdout, "Nothing is left of the day")
	assert.Contains(t, stdout, "vt.enabled is false")
}

func TestVirusTotalKeyOfACustomer(t *testing.T) {
	_, url := limited(t, vtstandin.Config{Hour: 60_000, Day: 1000, Month: 30_000})
	status, stdout, stderr := testKey(t, t.TempDir(), url)
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "more than VirusTotal's public limits")
	assert.NotContains(t, stdout, "Terms")
	assert.Contains(t, stdout, "1000 (account)")
}

func TestVirusTotalKeyThatMayNotReadItsAccount(t *testing.T) {
	s, url := limited(t, vtstandin.Config{Objects: []vtstandin.Object{{Type: vtstandin.Domain, Value: "virustotal.com"}, {Type: vtstandin.IP, Value: "8.8.8.8"}}})
	forbid := func() {
		require.NoError(t, s.SetFault(vtstandin.Fault{Kind: "status", Status: 403, Match: vtstandin.AccountFault}))
	}
	forbid()
	data := filepath.Join(t.TempDir(), "data")
	status, stdout, stderr := testKey(t, data, url)
	require.Zero(t, status, stderr)
	assert.Contains(t, stderr, "costs one request")
	assert.Contains(t, stdout, "is not known")
	assert.Contains(t, stdout, "business workflows")
	assert.Contains(t, stdout, "counted nowhere")
	assert.Contains(t, stdout, "cost one look-up")
	assert.NoDirExists(t, data, "a server's folder is the server's to make")
	assert.Equal(t, map[string]int{"domain virustotal.com": 1}, s.Requests())

	// While a server runs.
	p := start(t, []string{"VTSIDECAR_VT_API_KEY=" + secretKey}, "", "--path.data", data, "--vt.url", url, "--vt.proxy_url", "none",
		"--input.address", "127.0.0.1:0", "--admin.address", "off")
	p.address(t)
	p.says(t, "requests to VirusTotal are limited")
	status, stdout, stderr = testKey(t, data, url, "--vt.types", "ip")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "A server runs in path.data "+data)
	assert.Equal(t, 1, s.Requests()["ip 8.8.8.8"], "as vt.types says")
	p.stop()
	require.Zero(t, p.wait(t), p.stderr.String())

	// Where it ran, the look-up is counted.
	status, stdout, stderr = testKey(t, data, url, "--vt.limit.day", "2", "--json")
	require.Zero(t, status, stderr)
	var r struct {
		Cost    int
		Windows []struct {
			Window string
			Left   *int
		}
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &r))
	assert.Equal(t, 1, r.Cost)
	require.NotNil(t, r.Windows[2].Left)
	assert.Equal(t, 1, *r.Windows[2].Left)
	asked := s.Stats().Total
	status, _, _ = testKey(t, data, url, "--vt.limit.day", "2")
	require.Zero(t, status)
	status, _, stderr = testKey(t, data, url, "--vt.limit.day", "2")
	require.Equal(t, 1, status)
	assert.Contains(t, stderr, "vt.limit.day")
	assert.Equal(t, asked+1, s.Stats().Total, "nothing is asked that the limits do not allow")

	require.NoError(t, s.SetFault(vtstandin.Fault{Kind: "status", Status: 429, Code: "QuotaExceededError"}))
	status, stdout, _ = testKey(t, filepath.Join(t.TempDir(), "data"), url)
	require.Zero(t, status)
	assert.Contains(t, stdout, "Nothing is left of the day")
}

func TestVirusTotalTrouble(t *testing.T) {
	s, url := limited(t, vtstandin.Config{})
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusNotFound)
	}))
	defer page.Close()
	overTLS := httptest.NewUnstartedServer(http.NotFoundHandler())
	overTLS.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	overTLS.StartTLS()
	defer overTLS.Close()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
	defer proxy.Close()
	keyFile := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(keyFile, []byte("another-key\n"), 0o600))

	for _, tc := range []struct {
		name  string
		fault vtstandin.Fault
		args  []string
		says  []string
	}{
		{"wrong key", vtstandin.Fault{}, []string{"--vt.api_key", "wrong"}, []string{"vt.api_key:", "refused", "401"}},
		{"wrong key in a file", vtstandin.Fault{}, []string{"--vt.api_key_file", keyFile}, []string{"vt.api_key_file " + keyFile, "401"}},
		{"key of a sleeping account", vtstandin.Fault{Kind: "status", Status: 401, Code: "UserNotActiveError"}, nil, []string{"not active"}},
		{"nobody there", vtstandin.Fault{}, []string{"--vt.url", "http://" + nobody}, []string{"vt.url", "no connection", "firewall", "vt.proxy_url"}},
		{"too slow", vtstandin.Fault{Kind: "hang"}, []string{"--vt.timeout", "50ms"}, []string{"vt.timeout (50ms)"}},
		{"a page", vtstandin.Fault{Kind: "html"}, nil, []string{"vt.url", "not VirusTotal's API"}},
		{"a redirect", vtstandin.Fault{Kind: "redirect"}, nil, []string{"vt.url", "sends elsewhere"}},
		{"trouble there", vtstandin.Fault{Kind: "status", Status: 503}, nil, []string{"trouble of its own", "try again"}},
		{"an echo", vtstandin.Fault{Kind: "echo"}, nil, []string{"HTTP 502"}},
		{"another server", vtstandin.Fault{}, []string{"--vt.url", page.URL}, []string{"vt.url", "not VirusTotal's API", "/api/v3"}},
		{"too much of a URL", vtstandin.Fault{}, []string{"--vt.url", url + "/api/v3"}, []string{"without /api/v3"}},
		{"unknown authority", vtstandin.Fault{}, []string{"--vt.url", overTLS.URL}, []string{"vt.url", "not trusted", "SSL_CERT_FILE"}},
		{"no TLS", vtstandin.Fault{}, []string{"--vt.url", strings.Replace(url, "http", "https", 1)}, []string{"vt.url", "does not speak TLS"}},
		{"no proxy", vtstandin.Fault{}, []string{"--vt.proxy_url", "http://" + nobody}, []string{"vt.proxy_url " + "http://" + nobody, "not reached"}},
		{"proxy with a password", vtstandin.Fault{}, []string{"--vt.proxy_url", strings.Replace(proxy.URL, "//", "//me:secret@", 1), "--vt.url", "https://192.0.2.1"},
			[]string{"vt.proxy_url " + proxy.URL, "a user and a password"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.fault.Match = vtstandin.AccountFault
			require.NoError(t, s.SetFault(tc.fault))
			status, stdout, stderr := testKey(t, filepath.Join(t.TempDir(), "data"), url, tc.args...)
			assert.Equal(t, 1, status)
			assert.Empty(t, stdout)
			for _, want := range tc.says {
				assert.Contains(t, stderr, want)
			}
			assert.NotContains(t, stderr, "secret")
			assert.LessOrEqual(t, strings.Count(stderr, "\n"), 3, stderr)
		})
	}
}

// The reasons that a test cannot bring about on loopback.
func TestKeyTrouble(t *testing.T) {
	u, err := url.Parse("https://vt.example.com")
	require.NoError(t, err)
	cfg := &configs.Config{VT: configs.VT{URL: u, Proxy: configs.Proxy{Direct: true}}}
	for reason, want := range map[string]string{
		"host name not resolved":      "vt.url: the name of vt.example.com cannot be resolved: check its spelling and this machine's DNS, or name",
		"certificate expired":         "has expired: check this machine's clock",
		"certificate of another host": "is of another host",
		"HTTP 403 ForbiddenError":     "vt.api_key: the key may not look anything up",
		"HTTP 407":                    "vt.proxy_url: the proxy wants a user and a password",
		"proxy answered HTTP 502":     "vt.proxy_url: proxy answered HTTP 502",
		"answer cut short":            "no connection to vt.example.com (answer cut short)",
		"something new":               "is not VirusTotal's API (something new)",
	} {
		assert.Contains(t, keyTrouble(t.Context(), cfg, reason).Error(), want)
	}
	cfg.VT.Proxy = configs.Proxy{URL: &url.URL{Scheme: "http", Host: "proxy:3128", User: url.UserPassword("me", "secret")}}
	text := keyTrouble(t.Context(), cfg, "timed out").Error()
	assert.Contains(t, text, "by way of the proxy (vt.proxy_url http://proxy:3128)")
	assert.NotContains(t, text, "secret")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, keyTrouble(ctx, cfg, "cancelled"), context.Canceled)
}
