package configs_test

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"vtsidecar/configs"
)

var update = flag.Bool("update", false, "write the table of settings into the README")

const readme = "../README.md"

// The table in the README is the declaration's.
func TestReadmeTable(t *testing.T) {
	data, err := os.ReadFile(readme)
	if os.IsNotExist(err) {
		t.Skip("no README yet")
	}
	require.NoError(t, err)
	const begin, end = "<!-- settings -->\n", "<!-- /settings -->"
	head, rest, found := strings.Cut(string(data), begin)
	if !found {
		t.Skip("the README has no place for the table yet")
	}
	table, tail, found := strings.Cut(rest, end)
	require.True(t, found, "the README's table has no end")
	want := "\n" + configs.MarkdownTable() + "\n"
	if *update && table != want {
		require.NoError(t, os.WriteFile(readme, []byte(head+begin+want+end+tail), 0o644))
		return
	}
	require.True(t, table == want, "the README's table of settings is old; run: go test ./configs -run TestReadmeTable -update")
}

func TestMarkdownTable(t *testing.T) {
	rows := strings.Split(strings.TrimSuffix(configs.MarkdownTable(), "\n"), "\n")
	require.Len(t, rows, 2+len(configs.Settings()))
	bar := regexp.MustCompile(`(^|[^\\])\|`)
	for _, r := range rows {
		assert.Len(t, bar.FindAllString(r, -1), 4, r)
	}
}

// The annotated file says what holds without it, and misses no setting.
func TestAnnotatedFile(t *testing.T) {
	data, err := os.ReadFile("vtsidecar.yml")
	require.NoError(t, err)

	plain := load(t, configs.Input{})
	c := load(t, sources(nil, nil, string(data), nil))
	for i, e := range c.Effective() {
		if e.Name == "config" {
			continue
		}
		d := plain.Effective()[i]
		assert.Equal(t, normal(d.Text), normal(e.Text), e.Name)
	}
	c.File = ""
	c.Warnings, plain.Warnings = nil, nil
	assert.Equal(t, settingsOnly(plain), settingsOnly(c), "the file's values are the defaults")

	// With the commented examples taken in, every setting is there.
	uncommented := regexp.MustCompile(`(?m)^(\s*)#([a-z_]+:)`).ReplaceAllString(string(data), "$1$2")
	var tree map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(uncommented), &tree))
	there := map[string]bool{}
	flatten("", tree, there)
	known := map[string]bool{"config": true}
	for _, s := range configs.Settings() {
		known[s.Name] = true
		if s.Name != "config" {
			assert.True(t, there[s.Name], "%s is not in the annotated file", s.Name)
		}
	}
	for name := range there {
		ok := known[name]
		for k := range known {
			ok = ok || strings.HasPrefix(k, name+".") || strings.HasPrefix(name, k+".")
		}
		assert.True(t, ok, "%s is no setting", name)
	}

	// The examples are right too, apart from the files that they name.
	uncommented = strings.Replace(uncommented, "  api_key: 0123456789abcdef\n", "", 1)
	for _, one := range []string{ // of several that exclude one another
		"path: /var/lib/vtsidecar/events.ndjson", "cloud_id: .*", "username: vtsidecar", "password: .*", "password_file: .*", "api_key: \"id:key\"", "bearer_token: .*", "bearer_token_file: .*",
		"hosts: .logstash.example.com:5044.", "certificate_authorities: ./etc/vtsidecar/logstash-ca.crt.", "certificate: /etc/vtsidecar/logstash-client.crt", "key: /etc/vtsidecar/logstash-client.key",
	} {
		re := regexp.MustCompile(`(?m)^\s+` + one + `\n`)
		require.Regexp(t, re, uncommented)
		uncommented = re.ReplaceAllString(uncommented, "")
	}
	last := strings.LastIndex(uncommented, "      ca_trusted_fingerprint:")
	uncommented = uncommented[:last] + strings.SplitN(uncommented[last:], "\n", 2)[1]
	uncommented = strings.Replace(uncommented, "client_authentication: none", "client_authentication: required", 1)
	cert, key := pair(t, time.Now().Add(time.Hour))
	disk := files{"/etc/vtsidecar/server.crt": cert, "/etc/vtsidecar/server.key": key, "/etc/vtsidecar/ca.crt": cert,
		"/etc/vtsidecar/skip.txt": "example.net\n", "/etc/vtsidecar/api_key": "0123\n",
		"/etc/vtsidecar/es_api_key": "id:key\n", "/etc/vtsidecar/es-ca.crt": cert, "/etc/vtsidecar/es-client.crt": cert, "/etc/vtsidecar/es-client.key": key}
	c = load(t, sources(nil, nil, uncommented, disk))
	assert.Equal(t, "0123", c.VT.APIKey)
	assert.NotNil(t, c.Input.TLS)
	assert.Equal(t, configs.OutputToElasticsearch, c.Output)
	assert.Equal(t, "aWQ6a2V5", c.Elasticsearch.APIKey)
	assert.NotNil(t, c.Elasticsearch.SSL.For("es-1.example.com"))
}

func flatten(prefix string, tree map[string]any, into map[string]bool) {
	for k, v := range tree {
		into[prefix+k] = true
		if below, ok := v.(map[string]any); ok {
			flatten(prefix+k+".", below, into)
		}
	}
}

// normal takes away what lists may differ in.
func normal(s string) string { return strings.ReplaceAll(s, " ", "") }

// settingsOnly is a copy without where things came from.
func settingsOnly(c *configs.Config) configs.Config {
	return configs.Config{
		DataDir: c.DataDir, Input: c.Input, Fields: c.Fields, FieldsMaxValues: c.FieldsMaxValues, Details: c.Details, ECS: c.ECS, ID: c.ID, Skip: c.Skip,
		VT: c.VT, Cache: c.Cache, OutputFile: c.OutputFile, Output: c.Output, Elasticsearch: c.Elasticsearch, Logstash: c.Logstash, DeadLetterBytes: c.DeadLetterBytes, AdminAddress: c.AdminAddress,
		LogLevel: c.LogLevel, LogFormat: c.LogFormat, ShutdownTimeout: c.ShutdownTimeout,
	}
}

// What `test config` prints can be used as a file, and holds no secret.
func TestPrintedSettingsLoadAgain(t *testing.T) {
	flags := []string{"vt.engines_ignore=*odd\\, one,#two,x: y", "vt.malicious=hash:3,url:7", "output.file.permissions=0640", "vt.proxy_url=none", "vt.wait=250ms",
		"skip.networks=::1/128,192.0.2.0/24", "log.level=debug", "vt.api_key=topsecret", "input.address=[::1]:0", "output.file.path=/a b/c#d.ndjson", "path.data=~", "admin.address=off", "vt.enabled=false"}
	c := load(t, sources(flags, nil, "cache.ttl: 3d", nil))
	text := c.YAML()
	assert.NotContains(t, text, "topsecret")
	assert.Contains(t, text, "vt.api_key: xxxxx # flag\n")
	assert.Contains(t, text, "output.file.permissions: 0640 # flag\n")
	assert.Contains(t, text, "cache.ttl: 3d # vtsidecar.yml:1\n")
	assert.Contains(t, text, "vt.timeout: 10s\n")

	again := load(t, sources(nil, nil, text, nil))
	c.File, again.File = "", ""
	again.VT.APIKey = c.VT.APIKey
	assert.Equal(t, settingsOnly(c), settingsOnly(again), text)
}
