package configs_test

import (
	"errors"
	"io/fs"
	"math"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/configs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files is a disk that has only what is put into it.
type files map[string]string

func (f files) read(path string) ([]byte, error) {
	if data, ok := f[path]; ok {
		return []byte(data), nil
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// sources makes Input of flags ("name=text"), variables and a file.
func sources(flags, env []string, yaml string, more files) configs.Input {
	disk := files{}
	for k, v := range more {
		disk[k] = v
	}
	in := configs.Input{Environ: env, ReadFile: disk.read}
	for _, f := range flags {
		name, text, _ := strings.Cut(f, "=")
		in.Flags = append(in.Flags, configs.Value{Name: name, Text: text})
	}
	if yaml != "" {
		disk["/etc/vtsidecar.yml"] = yaml
		in.Flags = append(in.Flags, configs.Value{Name: "config", Text: "/etc/vtsidecar.yml"})
	}
	return in
}

func load(t *testing.T, in configs.Input) *configs.Config {
	t.Helper()
	cfg, err := configs.Load(in)
	require.NoError(t, err)
	return cfg
}

// mistakes is what Load says, by line.
func mistakes(t *testing.T, in configs.Input) []string {
	t.Helper()
	cfg, err := configs.Load(in)
	require.Error(t, err)
	require.Nil(t, cfg)
	var all *configs.Errors
	require.ErrorAs(t, err, &all)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, len(all.Mistakes), "one line each")
	return lines
}

func TestDefaultsAreTheContract(t *testing.T) {
	c := load(t, configs.Input{})
	assert.Equal(t, "./data", c.DataDir)
	assert.Equal(t, "127.0.0.1:5044", c.Input.Address)
	assert.Nil(t, c.Input.TLS)
	assert.Equal(t, 2000, c.Input.MaxConnections)
	assert.Zero(t, c.Input.MaxPerAddress)
	assert.Empty(t, c.Input.AllowedNames)
	assert.EqualValues(t, 16<<20, c.Input.MaxEvent)
	assert.Equal(t, 10000, c.Input.MaxWindow)
	assert.EqualValues(t, 1<<30, c.Input.MaxWindowBytes)
	assert.EqualValues(t, 256<<20, c.Input.Memory)
	assert.Equal(t, 5*time.Second, c.Input.Keepalive)
	assert.Len(t, c.Fields, 12)
	assert.Equal(t, "winlog.event_data.Hashes:hash@high=sysmon.hash", c.Fields[3])
	assert.Equal(t, 64, c.FieldsMaxValues)
	assert.Equal(t, "hits", c.Details)
	assert.Equal(t, configs.ECS{Threat: true, Related: true, MatchedType: "indicator_match_rule"}, c.ECS)
	assert.Equal(t, configs.ID{Metadata: true}, c.ID)
	assert.Equal(t, configs.Skip{}, c.Skip)
	assert.True(t, c.VT.Enabled)
	assert.Empty(t, c.VT.APIKey)
	assert.Equal(t, "https://www.virustotal.com", c.VT.URL.String())
	assert.Equal(t, configs.Proxy{}, c.VT.Proxy)
	assert.Equal(t, 10*time.Second, c.VT.Timeout)
	assert.Equal(t, 2*time.Second, c.VT.Wait)
	auto := configs.LimitAuto
	assert.Equal(t, []configs.Limit{auto, auto, auto, auto}, []configs.Limit{c.VT.Minute, c.VT.Hour, c.VT.Day, c.VT.Month})
	assert.Equal(t, []string{"hash", "url", "domain", "ip"}, c.VT.Types)
	assert.Equal(t, "strip_query", c.VT.URLParts)
	assert.Equal(t, configs.PerType[int]{IP: 5, Domain: 5, URL: 5, Hash: 5}, c.VT.Malicious)
	assert.Equal(t, configs.PerType[int]{IP: 2, Domain: 2, URL: 2, Hash: 1}, c.VT.Suspicious)
	assert.Empty(t, c.VT.Engines)
	const day24 = 24 * time.Hour
	assert.Equal(t, configs.PerType[time.Duration]{IP: 90 * day24, Domain: 180 * day24, URL: 30 * day24}, c.VT.MaxAnalysisAge)
	assert.Equal(t, configs.Cache{MaxEntries: 10000, TTL: 7 * day24, TTLMalicious: 7 * day24, TTLNotFound: day24, Persist: true}, c.Cache)
	assert.Equal(t, configs.OutputFile{Path: "data/events.ndjson", RotateBytes: 100 << 20, Compress: true, Permissions: 0o600}, c.OutputFile)
	assert.EqualValues(t, 1<<30, c.DeadLetterBytes)
	assert.Equal(t, "127.0.0.1:5067", c.AdminAddress)
	assert.Equal(t, 30*time.Second, c.ShutdownTimeout)
	assert.Equal(t, "info", c.LogLevel)
	assert.Equal(t, "auto", c.LogFormat)
}

func TestPrecedence(t *testing.T) {
	yaml := "log: {level: error}\nvt.wait: 3s\ncache:\n  max_entries: 7\nskip.domains: [file.example.org]"
	env := []string{"VTSIDECAR_VT_WAIT=4s", "VTSIDECAR_CACHE_MAX_ENTRIES=8", "VTSIDECAR_SKIP_DOMAINS=env.example.org", "HOME=/root"}
	c := load(t, sources([]string{"cache.max_entries=9", "skip.domains=a.example.org,b.example.org", "skip.domains=c.example.org"}, env, yaml, nil))
	assert.Equal(t, "error", c.LogLevel, "file over default")
	assert.Equal(t, 4*time.Second, c.VT.Wait, "environment over file")
	assert.Equal(t, 9, c.Cache.MaxEntries, "flag over environment")
	assert.Equal(t, []string{"a.example.org", "b.example.org", "c.example.org"}, c.Skip.Domains, "repeated flags and commas add up, layers replace")

	from := map[string]configs.EffectiveSetting{}
	for _, e := range c.Effective() {
		from[e.Name] = e
	}
	assert.Equal(t, configs.EffectiveSetting{Name: "log.level", Text: "error", From: "vtsidecar.yml:1"}, from["log.level"])
	assert.Equal(t, configs.EffectiveSetting{Name: "vt.wait", Text: "4s", From: "environment variable VTSIDECAR_VT_WAIT"}, from["vt.wait"])
	assert.Equal(t, configs.EffectiveSetting{Name: "cache.max_entries", Text: "9", From: "flag"}, from["cache.max_entries"])
	assert.Equal(t, configs.EffectiveSetting{Name: "vt.timeout", Text: "10s", From: "default"}, from["vt.timeout"])
	assert.Len(t, c.Effective(), len(configs.Settings()))
}

func TestLastScalarFlagCounts(t *testing.T) {
	c := load(t, sources([]string{"vt.wait=1s", "vt.wait=9s"}, nil, "", nil))
	assert.Equal(t, 9*time.Second, c.VT.Wait)
}

// A per-type setting of a higher layer replaces the lower one's whole.
func TestLayersDoNotMix(t *testing.T) {
	c := load(t, sources([]string{"vt.suspicious=ip:7"}, nil, "vt.suspicious: hash:9", nil))
	assert.Equal(t, configs.PerType[int]{IP: 7, Domain: 2, URL: 2, Hash: 1}, c.VT.Suspicious)
}

func TestYAMLSpellings(t *testing.T) {
	for name, yaml := range map[string]string{
		"nested":  "vt:\n  limit:\n    minute: 9\n  types:\n    - ip\n    - url\n  malicious:\n    hash: 3\noutput:\n  file:\n    permissions: 0640\ncache:\n  ttl: 7d\n",
		"dotted":  "vt.limit.minute: 9\nvt.types: ip, url\nvt.malicious: hash:3\noutput.file.permissions: 0640\ncache.ttl: 7d\n",
		"mixed":   "vt.limit: {minute: 9}\nvt:\n  types: [ip, url]\n  malicious: [\"hash:3\"]\noutput:\n  file.permissions: 0640\ncache:\n  ttl: 7d\n",
		"quoted":  "vt:\n  limit.minute: '9'\n  types: \"ip,url\"\n  malicious: \"hash:3\"\noutput.file: {permissions: \"0640\"}\n\"cache.ttl\": \"7d\"\n",
		"aliased": "cache.ttl: &t 7d\ncache.ttl_malicious: *t\nvt:\n  limit.minute: 9\n  types: &x [ip, url]\n  malicious: hash:3\noutput.file.permissions: 0640\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := load(t, sources(nil, nil, yaml, nil))
			assert.EqualValues(t, 9, c.VT.Minute)
			assert.Equal(t, []string{"ip", "url"}, c.VT.Types)
			assert.Equal(t, configs.PerType[int]{IP: 5, Domain: 5, URL: 5, Hash: 3}, c.VT.Malicious)
			assert.Equal(t, fs.FileMode(0o640), c.OutputFile.Permissions, "the text 0640, not a number of YAML's")
			assert.Equal(t, 7*24*time.Hour, c.Cache.TTL)
		})
	}
	t.Run("nothing", func(t *testing.T) {
		for _, yaml := range []string{"# only words\n", "---\n", "~\n", "vt:\n", "vt:\n  wait:\nlog.level: null\n"} {
			c := load(t, sources(nil, nil, yaml, nil))
			assert.Equal(t, 2*time.Second, c.VT.Wait, "a key without value is the default")
			assert.Equal(t, "info", c.LogLevel)
		}
	})
	t.Run("elements are not cut", func(t *testing.T) {
		c := load(t, sources(nil, nil, "vt.engines_ignore: ['One, Two', Three]", nil))
		assert.Equal(t, []string{"One, Two", "Three"}, c.VT.EnginesIgnore)
	})
}

func TestCommasInLists(t *testing.T) {
	c := load(t, sources([]string{`vt.engines_ignore=One\, Two, C:\dir\x, back\\, last `}, nil, "", nil))
	assert.Equal(t, []string{"One, Two", `C:\dir\x`, `back\`, "last"}, c.VT.EnginesIgnore)
	for _, e := range c.Effective() {
		if e.Name == "vt.engines_ignore" {
			again := load(t, sources([]string{"vt.engines_ignore=" + e.Text}, nil, "", nil))
			assert.Equal(t, c.VT.EnginesIgnore, again.VT.EnginesIgnore, "what is shown can be given again")
		}
	}
}

func TestEmptyValues(t *testing.T) {
	c := load(t, sources(nil, []string{"VTSIDECAR_VT_WAIT=", "VTSIDECAR_SKIP_DOMAINS=", "VTSIDECAR_PATH_DATA=", "VT_API_KEY="}, "skip.domains: [a.example.org]", nil))
	assert.Equal(t, 2*time.Second, c.VT.Wait, "an empty variable is not set")
	assert.Equal(t, []string{"a.example.org"}, c.Skip.Domains)

	c = load(t, sources([]string{"skip.domains=", "vt.api_key="}, []string{"VT_API_KEY=k"}, "skip.domains: [a.example.org]", nil))
	assert.Empty(t, c.Skip.Domains, "an empty flag empties")
	assert.Empty(t, c.VT.APIKey)

	for _, name := range []string{"path.data", "vt.wait", "vt.types", "vt.engines", "vt.malicious", "input.address", "log.level", "admin.address", "vt.url", "cache.max_entries", "input.memory", "output.file.permissions", "vt.enabled"} {
		if name == "output.file.path" {
			continue
		}
		lines := mistakes(t, sources([]string{name + "="}, nil, "", nil))
		assert.Len(t, lines, 1)
		assert.Contains(t, lines[0], name+" (flag): ")
	}
}

func TestValues(t *testing.T) {
	type check func(*configs.Config) any
	tests := []struct {
		name string
		get  check
		good map[string]any
		bad  map[string]string // text to a part of the error
	}{
		{"input.memory", func(c *configs.Config) any { return c.Input.Memory },
			map[string]any{"64MiB": int64(64 << 20), "64mib": int64(64 << 20), "100MB": int64(1e8), "1 GiB": int64(1 << 30), "67108864": int64(64 << 20), "67108864B": int64(64 << 20), "1TB": int64(1e12)},
			map[string]string{"1e9": "no size", "0x10": "no size", "-1": "no size", "1.5GiB": "no size", "10 apples": "no size", "MiB": "no size", "99999999999999999999": "too large", "9999999999TiB": "too large", "1": "too small", "1M": "no size"}},
		{"output.file.rotate_bytes", func(c *configs.Config) any { return c.OutputFile.RotateBytes }, map[string]any{"0": int64(0), "1KB": int64(1000)}, nil},
		{"cache.ttl", func(c *configs.Config) any { return c.Cache.TTL },
			map[string]any{"7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "90m": 90 * time.Minute, "1h30m": 90 * time.Minute, "36500d": 36500 * 24 * time.Hour},
			map[string]string{"0": "above 0", "0s": "above 0", "-1h": "above 0", "-1d": "above 0", "30": `"30s"`, "1w": "no duration", "d": "no duration", "1d-1h": "no duration", "+1d": "no duration", "1.5d": "no duration", "36501d": "too long", "9223372036854775807d": "too long", "1d1d": "no duration"}},
		{"vt.wait", func(c *configs.Config) any { return c.VT.Wait }, map[string]any{"0": time.Duration(0), "250ms": 250 * time.Millisecond}, map[string]string{"-1s": "negative", "2h": "at most 1h"}},
		{"input.keepalive", func(c *configs.Config) any { return c.Input.Keepalive }, map[string]any{"10s": 10 * time.Second}, map[string]string{"11s": "at most 10s", "0": "above 0"}},
		{"vt.enabled", func(c *configs.Config) any { return c.VT.Enabled }, map[string]any{"true": true, "false": false, "True": true, "FALSE": false}, map[string]string{"yes": "use true or false", "1": "neither", "t": "neither"}},
		{"output.file.rotate_every", func(c *configs.Config) any { return c.OutputFile.RotateEvery },
			map[string]any{"none": time.Duration(0), "0": time.Duration(0), "1s": time.Second, "7d": 7 * 24 * time.Hour}, map[string]string{"500ms": "at least 1s", "-1h": "negative", "often": "duration"}},
		{"output.file.keep", func(c *configs.Config) any { return c.OutputFile.Keep }, map[string]any{"0": 0, "30": 30}, map[string]string{"-1": ""}},
		{"output.file.compress", func(c *configs.Config) any { return c.OutputFile.Compress }, map[string]any{"false": false}, map[string]string{"1": "true"}},
		{"output.file.permissions", func(c *configs.Config) any { return c.OutputFile.Permissions },
			map[string]any{"0640": fs.FileMode(0o640), "640": fs.FileMode(0o640), "0o644": fs.FileMode(0o644)},
			map[string]string{"0800": "octal", "rw": "octal", "01777": "at most 0777", "0400": "at least 0600", "420": "at least 0600"}},
		{"input.address", func(c *configs.Config) any { return c.Input.Address },
			map[string]any{":5044": ":5044", "[::1]:0": "[::1]:0", "localhost:5044": "localhost:5044", "0.0.0.0:1": "0.0.0.0:1"},
			map[string]string{"5044": "HOST:PORT", "127.0.0.1": "HOST:PORT", "::1:5044": "HOST:PORT", "127.0.0.1:http": "bad port", "127.0.0.1:65536": "bad port", "127.0.0.1:": "bad port", "a b:1": "bad host", "127.0.0.1:05": "bad port", "http://x:1": "HOST:PORT"}},
		{"admin.address", func(c *configs.Config) any { return c.AdminAddress }, map[string]any{"off": "", "127.0.0.1:0": "127.0.0.1:0"}, map[string]string{"on": "or off"}},
		{"skip.networks", func(c *configs.Config) any { return c.Skip.Networks },
			map[string]any{"192.0.2.1/24, 2001:db8::/32,198.51.100.7": []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("198.51.100.7/32")}},
			map[string]string{"10.0.0.0/33": "CIDR", "example.org": "CIDR", "10.0.0": "CIDR", "fe80::1%eth0": "CIDR"}},
		{"skip.domains", func(c *configs.Config) any { return c.Skip.Domains },
			map[string]any{"Example.ORG., *.a.example, bücher.example, _dmarc.example": []string{"example.org", "a.example", "xn--bcher-kva.example", "_dmarc.example"}},
			map[string]string{"http://x.example": "no domain", "10.0.0.1": "skip.networks", "a b": "no domain", ".": "no domain", "a..b": "no domain"}},
		{"skip.hashes", func(c *configs.Config) any { return c.Skip.Hashes },
			map[string]any{"D41D8CD98F00B204E9800998ECF8427E": []string{"d41d8cd98f00b204e9800998ecf8427e"}}, map[string]string{"abc": "no hash", "zz1d8cd98f00b204e9800998ecf8427e": "no hash"}},
		{"vt.limit.day", func(c *configs.Config) any { return c.VT.Day }, map[string]any{"auto": configs.LimitAuto, "0": configs.Limit(0), "20": configs.Limit(20)}, map[string]string{"-1": "or auto", "many": "or auto"}},
		{"vt.malicious", func(c *configs.Config) any { return c.VT.Malicious },
			map[string]any{"3": configs.PerType[int]{IP: 3, Domain: 3, URL: 3, Hash: 3}, "hash:1, URL: 2": configs.PerType[int]{IP: 5, Domain: 5, URL: 2, Hash: 1}},
			map[string]string{"0": "use 1 to", "hash:x": "whole number", "file:1": "names no type", "hash:1,hash:2": "beside another", "1,hash:2": "beside another"}},
		{"vt.max_analysis_age", func(c *configs.Config) any { return c.VT.MaxAnalysisAge.IP }, map[string]any{"ip:0": time.Duration(0), "1d": 24 * time.Hour, "url:3d": 90 * 24 * time.Hour}, map[string]string{"ip:90": "no unit", "ip:-1d": "negative"}},
		{"vt.engines", func(c *configs.Config) any { return c.VT.Engines }, map[string]any{"all": []string(nil), "A,B": []string{"A", "B"}}, map[string]string{"all,A": "one or the other"}},
		{"vt.types", func(c *configs.Config) any { return c.VT.Types }, map[string]any{"IP": []string{"ip"}, "ip,ip": []string{"ip"}}, map[string]string{"file": "use one of hash"}},
		{"vt.url", func(c *configs.Config) any { return c.VT.URL.String() }, map[string]any{"http://127.0.0.1:8080/x": "http://127.0.0.1:8080/x"},
			map[string]string{"127.0.0.1:80": "usable URL", "ftp://x": "usable URL", "https://": "usable URL", "https://u@x": "user info", "https://x?y": "query", "https://x:99999": "bad port"}},
		{"vt.proxy_url", func(c *configs.Config) any { return c.VT.Proxy.Direct }, map[string]any{"none": true, "environment": false, "socks5://x:1": false}, map[string]string{"x:1": "usable URL"}},
		{"log.level", func(c *configs.Config) any { return c.LogLevel }, map[string]any{"WARNING": "warn", "debug": "debug"}, map[string]string{"loud": "use one of debug"}},
		{"input.max_connections", func(c *configs.Config) any { return c.Input.MaxConnections }, map[string]any{"0": 0}, map[string]string{"-1": "at least 0", "+5": "whole number", "1_000": "whole number", "99999999999999999999": "out of range"}},
		{"input.max_connections_per_address", func(c *configs.Config) any { return c.Input.MaxPerAddress }, map[string]any{"0": 0, "16": 16}, map[string]string{"-1": "at least 0"}},
		{"cache.max_entries", func(c *configs.Config) any { return c.Cache.MaxEntries }, map[string]any{"1": 1}, map[string]string{"0": "at least 1"}},
		{"fields_max_values", func(c *configs.Config) any { return c.FieldsMaxValues }, map[string]any{"4096": 4096}, map[string]string{"4097": "use 1 to 4096", "0": "use 1 to 4096"}},
		{"input.max_event", func(c *configs.Config) any { return c.Input.MaxEvent }, map[string]any{"128MiB": int64(128 << 20), "1000": int64(1000)}, map[string]string{"129MiB": "at most 128MiB", "0": "at least 1"}},
		{"output.file.path", func(c *configs.Config) any { return c.OutputFile.Path }, map[string]any{"/x/y": "/x/y"}, map[string]string{"/x/": "folder", "a\nb": "line break"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for text, want := range tt.good {
				cfg, err := configs.Load(sources([]string{tt.name + "=" + text}, nil, "", nil))
				if assert.NoError(t, err, text) {
					assert.Equal(t, want, tt.get(cfg), text)
				}
			}
			for text, part := range tt.bad {
				lines := mistakes(t, sources([]string{tt.name + "=" + text}, nil, "", nil))
				require.NotEmpty(t, lines)
				assert.Contains(t, lines[0], tt.name+" (flag): ", text)
				assert.Contains(t, lines[0], part, text)
			}
		})
	}
}

func TestAllMistakesInOneGo(t *testing.T) {
	yaml := `input:
  adress: 127.0.0.1:5044
  keepalive: 1m
  max_event: lots
cache.ttl: 0s
cache:
  max_entries: 0
  redis:
    url: redis://x
output:
  elasticsearch:
    hosts: [ftp://user:not-to-be-shown@a]
    op_type: delete
log.level: info
log:
  level: debug
whatever: {deep: {deeper: 1}}
`
	lines := mistakes(t, sources(
		[]string{"late.enabled=true", "vt.wiat=1s", "fields_max_values=none"},
		[]string{"VTSIDECAR_VT_BYPASS=true", "VTSIDECAR_INPUT_ADRESS=x", "VTSIDECAR_SKIP_FILE=/nowhere", "VTSIDECAR_OTI_FEEDS=a"}, yaml, nil))
	assert.ElementsMatch(t, []string{
		`late.enabled (flag): is not in this version: take it out`,
		`--vt.wiat (flag): is not known: did you mean --vt.wait?`,
		`fields_max_values (flag): "none" is no whole number: use digits alone, like 10`,
		`VTSIDECAR_VT_BYPASS (environment): is not in this version: take it out`,
		`VTSIDECAR_OTI_FEEDS (environment): is not in this version: take it out`,
		`VTSIDECAR_INPUT_ADRESS (environment): is not known: did you mean VTSIDECAR_INPUT_ADDRESS?`,
		`skip.file (environment variable VTSIDECAR_SKIP_FILE): "/nowhere" does not exist: name a file that does`,
		`input.adress (vtsidecar.yml:2): is not known: did you mean input.address?`,
		`input.keepalive (vtsidecar.yml:3): "1m" is too long: use at most 10s`,
		`input.max_event (vtsidecar.yml:4): "lots" is no size: use a whole number and a unit, like 512B, 64KiB, 10MB, 1GiB`,
		`cache.ttl (vtsidecar.yml:5): "0s" is too short: use a duration above 0, at least 1ms`,
		`cache.max_entries (vtsidecar.yml:7): "0" is out of range: use at least 1`,
		`cache.redis.url (vtsidecar.yml:9): is not in this version: take it out`,
		`output.elasticsearch.hosts (vtsidecar.yml:12): is no usable URL: write it as http:// or https://HOST[:PORT]`,
		`output.elasticsearch.op_type (vtsidecar.yml:13): "delete" is not known here: use one of create, index`,
		`log.level (vtsidecar.yml:16): stands here again, first on line 14: keep one`,
		`whatever (vtsidecar.yml:17): is not known: take it out, or see vtsidecar serve --help`,
	}, lines)
}

func TestWrongYAML(t *testing.T) {
	for yaml, part := range map[string]string{
		"a: [":                               "config (vtsidecar.yml): is not valid YAML",
		"- a\n- b":                           "config (vtsidecar.yml:1): holds no settings",
		"just text":                          "holds no settings",
		"vt: 5":                              "vt (vtsidecar.yml:1): is a section",
		"vt:\n  - wait":                      "vt (vtsidecar.yml:1): is a section",
		"vt.wait: [1s]":                      "vt.wait (vtsidecar.yml:1): takes one value",
		"vt.wait: {a: b}":                    "vt.wait (vtsidecar.yml:1): takes one value",
		"vt.types:\n  - ip\n  - [a]":         "vt.types (vtsidecar.yml:3): has an element that is no text",
		"vt.types: [~]":                      "has an element that is no text",
		"vt.types: {ip: 1}":                  "holds further names",
		"log.level: info\n---\nlog.level: x": "holds a second YAML document",
		"log:\n  level: info\nlog:\n  format: json": "log (vtsidecar.yml:3): stands here again, first on line 1",
		"config: x":               "config (vtsidecar.yml:1): cannot stand in the file itself",
		"[a, b]: c":               "config (vtsidecar.yml:1): has a key that is no name",
		"x: &a {b: c}\n<<: *a":    "merges another mapping",
		"vt.wait: *nowhere":       "unknown anchor",
		"a: &a [*a]":              "is not known",
		"vt: &v\n  vt: *v":        "vt.vt (vtsidecar.yml:2): is not known",
		"api_key: x":              "did you mean vt.api_key?",
		"redis: x":                "redis (vtsidecar.yml:1): is not known",
		"vt.bypass: true":         "vt.bypass (vtsidecar.yml:1): is not in this version",
		"oti: ~":                  "oti (vtsidecar.yml:1): is not in this version",
		"output.kafka.hosts: [a]": "output.kafka.hosts (vtsidecar.yml:1): is not known",
	} {
		lines := mistakes(t, sources(nil, nil, yaml, nil))
		assert.Contains(t, strings.Join(lines, "\n"), part, yaml)
	}
}

// A section that stands twice is one mistake, and what is wrong in it is others.
func TestWrongInARepeatedSection(t *testing.T) {
	lines := mistakes(t, sources(nil, nil, "vt:\n  wait: 1s\nvt:\n  timeout: soon\n  bypas: true\n", nil))
	require.Len(t, lines, 3, lines)
	assert.Contains(t, lines[0], "vt (vtsidecar.yml:3): stands here again, first on line 1")
	assert.Contains(t, lines[1], "vt.bypas (vtsidecar.yml:5): is not known")
	assert.Contains(t, lines[2], `vt.timeout (vtsidecar.yml:4): "soon" is no duration`)
}

func TestYAMLIsBounded(t *testing.T) {
	deep := "late: &d\n"
	for i := range 40 {
		deep += strings.Repeat(" ", i+1) + "a:\n"
	}
	lines := mistakes(t, sources(nil, nil, deep+strings.Repeat(" ", 42)+"b: c", nil))
	assert.Contains(t, strings.Join(lines, "\n"), "too large or too deep")

	bomb := "late.x: &a {k1: v, k2: v, k3: v, k4: v, k5: v, k6: v, k7: v, k8: v}\n"
	for i, c := 0, 'a'; i < 12; i, c = i+1, c+1 {
		bomb += "late." + string(c) + ": &" + string(c+1) + " {"
		for k := range 8 {
			bomb += "k" + string(rune('1'+k)) + ": *" + string(c) + ", "
		}
		bomb += "}\n"
	}
	lines = mistakes(t, sources(nil, nil, bomb, nil))
	assert.Contains(t, strings.Join(lines, "\n"), "too large or too deep")

	lines = mistakes(t, sources(nil, nil, "# "+strings.Repeat("x", 1<<20), nil))
	assert.Contains(t, lines[0], "larger than 1MiB")
}

func TestContradictions(t *testing.T) {
	absolute, err := filepath.Abs("data/quota")
	require.NoError(t, err)
	tests := []struct {
		flags []string
		want  string
	}{
		{[]string{"input.memory=31MiB"}, "input.memory (flag): input.memory is 31MiB and input.max_event 16MiB: the budget has to hold two events, so use an input.memory of at least 32MiB"},
		{[]string{"input.max_event=128MiB", "input.memory=200MiB"}, "input.memory (flag): "},
		{[]string{"input.max_event=100MiB", "input.max_window_bytes=64MiB"}, "input.max_window_bytes (flag): "},
		{[]string{"input.ssl.client_authentication=required"}, "input.ssl.client_authentication (flag): is required without input.ssl.certificate_authorities"},
		{[]string{"admin.address=127.0.0.1:5044"}, "admin.address (flag): input.address and admin.address are both"},
		{[]string{"output.file.path=data/quota"}, `output.file.path (flag): "data/quota" is the program's own, in path.data`},
		{[]string{"output.file.path=" + absolute}, `is the program's own, in path.data`},
		{[]string{"path.data=/d/", "output.file.path=/d/x/../dead-letter/e.ndjson"}, "output.file.path (flag): "},
		{[]string{"vt.api_key=a", "vt.api_key_file=/key"}, "vt.api_key_file (flag): is given beside vt.api_key (flag)"},
	}
	for _, tt := range tests {
		lines := mistakes(t, sources(tt.flags, nil, "", files{"/key": "k"}))
		require.Len(t, lines, 1, tt.flags)
		assert.Contains(t, lines[0], tt.want)
	}
	lines := mistakes(t, sources([]string{"input.max_event=128MiB", "input.max_window_bytes=1MiB", "input.memory=1GiB"}, nil, "", nil))
	require.Len(t, lines, 1)
	// The default of one and the written value of the other: the written one is named.
	lines = mistakes(t, sources(nil, nil, "input.max_window_bytes: 8MiB", nil))
	assert.Contains(t, lines[0], "input.max_window_bytes (vtsidecar.yml:1)")
	lines = mistakes(t, sources(nil, []string{"VTSIDECAR_INPUT_MAX_EVENT=128MiB", "VTSIDECAR_INPUT_MEMORY=255MiB"}, "", nil))
	assert.Contains(t, lines[0], "input.memory (environment variable VTSIDECAR_INPUT_MEMORY)")
}

func TestSecretAndItsFile(t *testing.T) {
	disk := files{"/key": "\ufefffrom-file\r\n", "/empty": "\n", "/odd": "two words"}
	tests := []struct {
		name       string
		flags, env []string
		yaml, want string
	}{
		{"flag", []string{"vt.api_key=k"}, nil, "", "k"},
		{"file", nil, nil, "vt.api_key_file: /key", "from-file"},
		{"common variable", nil, []string{"VT_API_KEY=k"}, "", "k"},
		{"common variable over file", nil, []string{"VT_API_KEY=k"}, "vt.api_key_file: /key", "k"},
		{"own variable over common", nil, []string{"VT_API_KEY=k", "VTSIDECAR_VT_API_KEY=own"}, "", "own"},
		{"own file variable over common", nil, []string{"VT_API_KEY=k", "VTSIDECAR_VT_API_KEY_FILE=/key"}, "", "from-file"},
		{"flag file over variable", []string{"vt.api_key_file=/key"}, []string{"VTSIDECAR_VT_API_KEY=own"}, "", "from-file"},
		{"variable over the config's file", nil, []string{"VTSIDECAR_VT_API_KEY=own"}, "vt.api_key_file: /does/not/exist", "own"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := load(t, sources(tt.flags, tt.env, tt.yaml, disk))
			assert.Equal(t, tt.want, c.VT.APIKey)
			for _, e := range c.Effective() {
				assert.NotEqual(t, tt.want, e.Text, e.Name)
				if e.Name == "vt.api_key" {
					assert.Equal(t, "xxxxx", e.Text)
					assert.NotEqual(t, "default", e.From)
				}
			}
		})
	}
	for path, part := range map[string]string{"/empty": "is empty", "/odd": "is no API key", "/nowhere": "does not exist", strings.Repeat("ab", 32): "looks like a key itself"} {
		lines := mistakes(t, sources([]string{"vt.api_key_file=" + path}, nil, "", disk))
		require.Len(t, lines, 1)
		assert.Contains(t, lines[0], part)
		assert.NotContains(t, lines[0], "two words")
		assert.NotContains(t, lines[0], strings.Repeat("ab", 32))
	}
}

func TestSecretsStayHidden(t *testing.T) {
	const secret = "S3CR3T-0123456789abcdef0123456789abcdef0123456789abcdef"
	for name, in := range map[string]configs.Input{
		"control character": sources([]string{"vt.api_key=" + secret + "\n"}, nil, "", nil),
		"environment":       sources(nil, []string{"VT_API_KEY=" + secret + " "}, "", nil),
		"wrong name":        sources([]string{"vt.apikey=" + secret}, []string{"VTSIDECAR_VT_APIKEY=" + secret}, "vt.api_kay: "+secret, nil),
		"nested":            sources(nil, nil, "vt: {api_key: {"+secret+": x}}", nil),
		"list":              sources(nil, nil, "vt: {api_key: ["+secret+"]}", nil),
		"missing space":     sources(nil, nil, "vt: {api_key:"+secret+"}", nil),
		"missing space 2":   sources(nil, nil, "vt:\n  api_key:"+secret, nil),
		"anchor":            sources(nil, nil, "vt.api_key: *"+strings.ReplaceAll(secret, "-", "_"), nil),
		"twice":             sources(nil, nil, "vt.api_key: "+secret+"\nvt: {api_key: "+secret+"}", nil),
		"proxy":             sources([]string{"vt.proxy_url=htp://u:" + secret + "@h:1"}, nil, "", nil),
		"proxy port":        sources([]string{"vt.proxy_url=http://u:" + secret + "@h:99999"}, nil, "", nil),
		"url":               sources([]string{"vt.url=http://u:" + secret + "@h:1"}, nil, "", nil),
		"as a flag":         sources([]string{secret}, nil, "", nil),
		"PEM":               sources([]string{"input.ssl.key=-----BEGIN PRIVATE KEY----- " + secret, "input.ssl.certificate=/x"}, nil, "", nil),
		"later":             sources([]string{"late.password=" + secret}, []string{"VTSIDECAR_OTI_API_KEY=" + secret}, "cache.redis: {token: "+secret+"}", nil),
		"for nobody":        sources([]string{"output.elasticsearch.password=" + secret}, []string{"VTSIDECAR_OUTPUT_ELASTICSEARCH_API_KEY=" + secret}, "output.elasticsearch: {bearer_token: "+secret+"}", nil),
		"in a host":         sources([]string{"output.elasticsearch.hosts=http://u:" + secret + "@h:99999"}, nil, "", nil),
		"of two kinds":      sources([]string{"output.elasticsearch.hosts=http://u:" + secret + "@h", "output.elasticsearch.api_key=" + secret}, nil, "", nil),
		"broken YAML":       sources(nil, nil, "vt.api_key: \""+secret+"\nlog: [", nil),
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Join(mistakes(t, in), "\n")
			assert.NotContains(t, text, "S3CR3T")
			assert.NotContains(t, text, "0123456789abcdef01234567")
		})
	}
	// A short one too, where the space behind the colon was forgotten.
	text := strings.Join(mistakes(t, sources(nil, nil, "vt: {api_key:hunter2}", nil)), "\n")
	assert.Equal(t, "vt.api_key… (vtsidecar.yml:1): is not known: did you mean vt.api_key?", text)
	c := load(t, sources([]string{"vt.proxy_url=http://user:" + secret + "@proxy.example:3128"}, nil, "", nil))
	assert.Equal(t, "proxy.example:3128", c.VT.Proxy.URL.Host)
	for _, e := range c.Effective() {
		assert.NotContains(t, e.Text, secret)
		if e.Name == "vt.proxy_url" {
			assert.Equal(t, "http://xxxxx@proxy.example:3128", e.Text)
		}
	}
}

func TestKubernetesServiceLinksAreNoSettings(t *testing.T) {
	load(t, sources(nil, []string{
		"VTSIDECAR_SERVICE_HOST=10.0.0.1", "VTSIDECAR_SERVICE_PORT=5044", "VTSIDECAR_SERVICE_PORT_BEATS=5044", "VTSIDECAR_PORT=tcp://10.0.0.1:5044",
		"VTSIDECAR_PORT_5044_TCP=tcp://10.0.0.1:5044", "VTSIDECAR_PORT_5044_TCP_PROTO=tcp", "VTSIDECAR_PORT_5044_TCP_PORT=5044", "VTSIDECAR_PORT_5044_TCP_ADDR=10.0.0.1",
		"VTSIDECAR_ADMIN_SERVICE_HOST=10.0.0.1", "VTSIDECAR_ADMIN_PORT=tcp://10.0.0.1:1",
	}, "", nil))
	assert.Len(t, mistakes(t, sources(nil, []string{"VTSIDECAR_PORT=5044"}, "", nil)), 1)
	link := regexp.MustCompile(`_PORT$|_SERVICE_|_PORT_\d`)
	for _, s := range configs.Settings() {
		assert.NotRegexp(t, link, s.Env, "would be taken for a service link")
	}
}

func TestSkipFile(t *testing.T) {
	disk := files{"/skip": "\ufeff# ours\r\n192.0.2.0/24 # lab\nExample.org\r\n\nD41D8CD98F00B204E9800998ECF8427E\n", "/bad": "ok.example\nnot ok\n" + strings.Repeat("a,b\n", 2)}
	c := load(t, sources([]string{"skip.file=/skip", "skip.domains=a.example"}, nil, "", disk))
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, c.Skip.Networks)
	assert.Equal(t, []string{"a.example", "example.org"}, c.Skip.Domains)
	assert.Equal(t, []string{"d41d8cd98f00b204e9800998ecf8427e"}, c.Skip.Hashes)
	lines := mistakes(t, sources([]string{"skip.file=/bad"}, nil, "", disk))
	assert.Equal(t, []string{
		`skip.file (flag): "/bad" line 2 is no network, domain or hash: "not ok"`,
		`skip.file (flag): "/bad" line 3 is no network, domain or hash: "a,b"`,
	}, lines)
}

func TestFieldsAreCheckedByTheCaller(t *testing.T) {
	in := sources([]string{"fields=a:what,b"}, nil, "cache.ttl: nonsense", nil)
	in.CheckFields = func(fields []string) []error {
		assert.Equal(t, []string{"a:what", "b"}, fields)
		return []error{errors.New("one"), errors.New("two")}
	}
	lines := mistakes(t, in)
	require.Len(t, lines, 3)
	assert.Contains(t, lines, "fields (flag): one")
	assert.Contains(t, lines, "fields (flag): two")
}

// A mistake in a value that a higher layer hides is still one.
func TestHiddenMistakesAreFound(t *testing.T) {
	lines := mistakes(t, sources([]string{"vt.wait=1s"}, nil, "vt.wait: soon", nil))
	require.Len(t, lines, 1)
	assert.Contains(t, lines[0], "vt.wait (vtsidecar.yml:1): ")
}

func TestSettingsTable(t *testing.T) {
	envs := map[string]string{}
	for _, s := range configs.Settings() {
		assert.NotEmpty(t, s.Default, s.Name)
		assert.NotEmpty(t, s.Takes, s.Name)
		assert.NotContains(t, s.Doc, "\n", s.Name)
		assert.Less(t, len(s.Doc), 140, s.Name)
		assert.Empty(t, envs[s.Env], "%s and %s share a variable", s.Name, envs[s.Env])
		envs[s.Env] = s.Name
	}
	assert.Equal(t, "VTSIDECAR_INPUT_SSL_CERTIFICATE_AUTHORITIES", func() string {
		for _, s := range configs.Settings() {
			if s.Name == "input.ssl.certificate_authorities" {
				return s.Env
			}
		}
		return ""
	}())
}

func TestHugeSizesDoNotOverflow(t *testing.T) {
	lines := mistakes(t, sources([]string{"input.memory=9223372036854775807"}, nil, "", nil))
	assert.Contains(t, lines[0], "too large")
	c := load(t, sources([]string{"dead_letter.max_bytes=9223372036854775807"}, nil, "", nil))
	assert.EqualValues(t, math.MaxInt64, c.DeadLetterBytes)
}
