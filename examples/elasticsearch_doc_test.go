package examples_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"vtsidecar/configs"
	"vtsidecar/output/elasticsearch"
)

// docs/elasticsearch.md names settings, variables, templates and metrics that
// exist, and its JSON is JSON.
func TestElasticsearchDocument(t *testing.T) {
	data, err := os.ReadFile("../docs/elasticsearch.md")
	require.NoError(t, err)
	doc := string(data)

	blocks := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(doc, -1)
	require.Len(t, blocks, 3)
	for _, b := range blocks {
		assert.True(t, json.Valid([]byte(b[1])), "no JSON: %s", b[1])
	}
	for _, pattern := range elasticsearch.DefaultAllowed {
		for _, role := range blocks[1:] {
			assert.Contains(t, role[1], `"`+pattern+`"`, "the roles are for the default names")
		}
	}

	var tree yaml.Node
	require.NoError(t, yaml.Unmarshal([]byte(configs.Annotated), &tree))
	settings := map[string]bool{}
	names(tree.Content[0], "", settings)
	// Those without a default stand in comments there.
	commented := regexp.MustCompile(`(?m)^\s*#(\w+):`)
	known := func(name string) bool {
		if settings[name] {
			return true
		}
		for _, m := range commented.FindAllStringSubmatch(configs.Annotated, -1) {
			if name[strings.LastIndex(name, ".")+1:] == m[1] {
				return true
			}
		}
		return false
	}
	found := 0
	for _, m := range regexp.MustCompile("`((?:output|input|dead_letter|id)\\.[a-z_.]+)`").FindAllStringSubmatch(doc, -1) {
		assert.True(t, known(m[1]), "no such setting: %s", m[1])
		found++
	}
	assert.Greater(t, found, 8)

	variable := regexp.MustCompile(`export (VTSIDECAR_\w+)=(\S+)`)
	cert, _ := certificate(t)
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("ca.crt", []byte(cert), 0o600))
	require.NoError(t, os.WriteFile("es.key", []byte("id:key\n"), 0o600))
	var environ []string
	for _, m := range variable.FindAllStringSubmatch(doc, -1) {
		environ = append(environ, m[1]+"="+m[2])
	}
	require.Len(t, environ, 3)
	cfg, err := configs.Load(configs.Input{Environ: environ})
	require.NoError(t, err)
	assert.Equal(t, configs.OutputToElasticsearch, cfg.Output)
	assert.Equal(t, "https://es-1.example.com:9200", cfg.Elasticsearch.Hosts[0].String())
	assert.NotEmpty(t, cfg.Elasticsearch.APIKey)

	for _, name := range []string{elasticsearch.ComponentName, elasticsearch.TemplateName, elasticsearch.DefaultFallback, elasticsearch.DefaultPipeline, elasticsearch.DefaultIndex} {
		assert.Contains(t, doc, name)
	}
}

// names are the settings of a file, dotted.
func names(n *yaml.Node, prefix string, into map[string]bool) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := prefix + n.Content[i].Value
		into[name] = true
		if v := n.Content[i+1]; v.Kind == yaml.MappingNode {
			names(v, name+".", into)
		}
	}
}
