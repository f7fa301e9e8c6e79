package configs_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"vtsidecar/configs"
)

// FuzzSettings gives arbitrary text to every door at once, with a secret in
// every layer. It must come out as settings or as errors that name something
// and do not hold the secret.
func FuzzSettings(f *testing.F) {
	sample, err := os.ReadFile("vtsidecar.yml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(sample), "VTSIDECAR_VT_WAIT=1s", "vt.wait", "2s")
	f.Add("vt: {limit: {minute: 1}}\nvt.types: [ip, hash]", "VTSIDECAR_PORT=tcp://x", "fields", `a\,b,c:ip@low=x`)
	f.Add("a: &a [*a, *a]", "VTSIDECAR_OTI_X=1", "vt.malicious", "hash:1,url:2")
	f.Add("vt.max_analysis_age: {ip: 1d, url: 90}", "=", "skip.networks", "10.0.0.0/8,::1")
	f.Add("? [a]\n: b", "VTSIDECAR_", "input.memory", "9223372036854775807TiB")
	f.Add("vt: {api_key: {SECRET: 1}}", "VT_API_KEY=SECRET", "vt.proxy_url", "http://u:SECRET@h:1")
	f.Add("vt: {api_key:SECRET}\nvt.api_key: *SECRET", "VTSIDECAR_VT_API_KEY=SECRET\n", "vt.api_key", "SECRET\x00")
	f.Add("<<: {a: b}\n--- \n...", "VTSIDECAR_INPUT_SSL_KEY=/file", "input.ssl.certificate", "/file")

	const secret = "5ecret5ecret5ecret5ecret5ecret5ecret5ecret5ecret"
	f.Fuzz(func(t *testing.T, yaml, env, name, text string) {
		// The secret stands where secrets stand; the fuzzer breaks what is around it.
		yaml = strings.ReplaceAll(yaml, "SECRET", secret)
		env = strings.ReplaceAll(env, "SECRET", secret)
		text = strings.ReplaceAll(text, "SECRET", secret)
		secretInPlace := strings.Contains(text, secret) && (name == "vt.api_key" || name == "vt.proxy_url") ||
			strings.HasPrefix(env, "VT_API_KEY=") || strings.HasPrefix(env, "VTSIDECAR_VT_API_KEY=")

		disk := files{"/c.yml": yaml, "/file": text}
		cfg, err := configs.Load(configs.Input{
			Flags:    []configs.Value{{Name: "config", Text: "/c.yml"}, {Name: name, Text: text}},
			Environ:  []string{env, "VT_API_KEY=" + secret},
			ReadFile: disk.read,
		})
		if err == nil {
			if cfg == nil {
				t.Fatal("neither settings nor an error")
			}
			for _, e := range cfg.Effective() {
				if (e.Name == "vt.api_key" || e.Name == "vt.proxy_url") && strings.Contains(e.Text, secret) {
					t.Fatalf("%s shows a secret", e.Name)
				}
			}
			printed := files{"/c.yml": cfg.YAML(), "/file": text}
			if _, err := configs.Load(configs.Input{Flags: []configs.Value{{Name: "config", Text: "/c.yml"}}, ReadFile: printed.read}); err != nil {
				t.Fatalf("what is printed cannot be loaded: %v\n%s", err, cfg.YAML())
			}
			return
		}
		var all *configs.Errors
		if !errors.As(err, &all) || len(all.Mistakes) == 0 {
			t.Fatalf("%T without mistakes", err)
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != len(all.Mistakes) {
			t.Fatalf("%d lines for %d mistakes", len(lines), len(all.Mistakes))
		}
		for _, m := range all.Mistakes {
			if m.Name == "" || m.Text == "" {
				t.Fatalf("a mistake without name or text: %+v", m)
			}
		}
		if secretInPlace && !strings.Contains(yaml, secret) && strings.Contains(err.Error(), secret) {
			t.Fatal("an error shows a secret")
		}
	})
}
