package main

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"

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
