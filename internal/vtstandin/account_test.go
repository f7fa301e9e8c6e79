package vtstandin

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (c *caller) account() map[string][2]int {
	c.t.Helper()
	code, v := c.get("/api/v3/users/k/overall_quotas")
	require.Equal(c.t, http.StatusOK, code)
	out := map[string][2]int{}
	for name, w := range v["data"].(map[string]any) {
		u := w.(map[string]any)["user"].(map[string]any)
		out[name] = [2]int{int(u["allowed"].(float64)), int(u["used"].(float64))}
	}
	return out
}

func TestAccountCounts(t *testing.T) {
	now := time.Date(2026, 3, 31, 22, 30, 0, 0, time.UTC)
	c := start(t, Config{Generate: true, Hour: 3, Day: 5, Month: 7, Now: func() time.Time { return now }})
	ask := func(want string) {
		t.Helper()
		code, v := c.get("/api/v3/ip_addresses/203.0.113.7")
		if want == "" {
			require.Contains(t, []int{200, 404}, code)
			return
		}
		require.Equal(t, 429, code)
		require.Equal(t, want, v["error"].(map[string]any)["message"])
	}
	figures := func(hour, day, month int) map[string][2]int {
		return map[string][2]int{"api_requests_hourly": {3, hour}, "api_requests_daily": {5, day}, "api_requests_monthly": {7, month}}
	}
	ask("")
	c.s.Use(2)
	assert.Equal(t, figures(3, 3, 3), c.account())
	ask("Hourly quota exceeded")
	now = now.Add(time.Hour)
	code, _ := c.do(http.MethodPost, "/_standin/use?requests=2", "k", "")
	require.Equal(t, http.StatusNoContent, code)
	assert.Equal(t, figures(2, 5, 5), c.account(), "what was refused does not count")
	ask("Quota exceeded")
	now = now.Add(time.Hour)
	assert.Equal(t, figures(0, 0, 0), c.account(), "a day and a month later")
	c.s.Use(7)
	now = now.Add(24 * time.Hour)
	ask("Monthly quota exceeded")
	assert.Equal(t, 3, c.s.Stats().Accounts)
	assert.Equal(t, 4, c.s.Stats().Total)
	for _, bad := range []string{"", "x", "-1"} {
		code, _ = c.do(http.MethodPost, "/_standin/use?requests="+bad, "k", "")
		assert.Equal(t, http.StatusBadRequest, code)
	}
	assert.Empty(t, c.s.Violations())
}

func TestAccountFaultsStandApart(t *testing.T) {
	c := start(t, Config{Generate: true})
	require.NoError(t, c.s.SetFault(Fault{Kind: "status", Status: 403, Match: AccountFault, Times: 1}))
	require.NoError(t, c.s.SetFault(Fault{Kind: "status", Status: 503, Times: 1}))
	code, _ := c.get("/api/v3/users/k/overall_quotas")
	assert.Equal(t, 403, code)
	c.account()
	code, _ = c.get("/api/v3/ip_addresses/203.0.113.7")
	assert.Equal(t, 503, code)
	require.NoError(t, c.s.SetFault(Fault{Kind: "html", Match: AccountFault}))
	code, _ = c.do(http.MethodGet, "/api/v3/users/k/overall_quotas", "k", "")
	assert.Equal(t, 200, code)
	require.NoError(t, c.s.SetFault(Fault{}))
	c.account()
	code, _ = c.get("/api/v3/users/another/overall_quotas")
	assert.Equal(t, 403, code)
}
