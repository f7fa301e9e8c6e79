package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
)

// What an output holds of its own is part of what the collector works against.
func TestOutputMemory(t *testing.T) {
	cfg := &configs.Config{Output: configs.OutputToFile}
	base := memoryLimit(cfg, 1000)
	cfg.Output = configs.OutputToElasticsearch
	cfg.Elasticsearch = configs.Elasticsearch{Hosts: []*url.URL{{}}, Workers: 2, BulkMaxBytes: 10 << 20}
	assert.EqualValues(t, 40<<20, memoryLimit(cfg, 1000)-base)
	cfg.Output = configs.OutputToLogstash
	cfg.Logstash.Hosts = []string{"a:1", "b:1"}
	assert.EqualValues(t, 2*8*3<<20, memoryLimit(cfg, 1000)-base)
	assert.Less(t, memoryLimit(cfg, 1000), memoryLimit(cfg, 2000))
}

// Where events go is asked how it is before there is one: who sends only where it
// is ready would never send.
func TestReadyWithoutEvents(t *testing.T) {
	cluster := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer cluster.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for setting, tt := range map[string]struct{ value, says string }{
		"output.elasticsearch.hosts": {cluster.URL, "answers 503"},
		"output.logstash.hosts":      {nobody, nobody + ": dial tcp"},
	} {
		t.Run(setting, func(t *testing.T) {
			p := start(t, nil, "",
				"--input.address", "127.0.0.1:0", "--admin.address", "127.0.0.1:0", "--path.data", t.TempDir(), "--vt.enabled=false", "--"+setting, tt.value)
			admin := "http://" + p.says(t, `"admin\.url":"http://(127\.0\.0\.1:[0-9]+)"`)
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				resp, err := client.Get(admin + "/readyz")
				if !assert.NoError(c, err) {
					return
				}
				defer resp.Body.Close()
				words, err := io.ReadAll(resp.Body)
				assert.NoError(c, err)
				assert.Equal(c, http.StatusServiceUnavailable, resp.StatusCode)
				assert.Contains(c, string(words), tt.says)
			}, patience, 10*time.Millisecond)
		})
	}
}
