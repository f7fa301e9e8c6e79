package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"vtsidecar/configs"
	"vtsidecar/output/elasticsearch"
)

// check is one thing that was looked at.
type check struct {
	What   string `json:"what"`
	Result string `json:"result"` // "ok", "wrong", "unknown"
	Detail string `json:"detail,omitempty"`
}

const (
	checkOK      = "ok"
	checkWrong   = "wrong"
	checkUnknown = "unknown" // it could not be looked at
)

// checks are collected and printed in their order.
type checks []check

func (c *checks) ok(what, format string, args ...any) {
	*c = append(*c, check{what, checkOK, fmt.Sprintf(format, args...)})
}
func (c *checks) wrong(what, format string, args ...any) {
	*c = append(*c, check{what, checkWrong, fmt.Sprintf(format, args...)})
}
func (c *checks) unknown(what, format string, args ...any) {
	*c = append(*c, check{what, checkUnknown, fmt.Sprintf(format, args...)})
}

// testOutputCommand tries the output without storing anything in it.
func testOutputCommand(c *cli.Context, e env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := load(c, e)
	if err != nil {
		return err
	}
	var found checks
	switch cfg.Output {
	case configs.OutputToElasticsearch:
		err = checkElasticsearch(c.Context, cfg, &found)
	case configs.OutputToLogstash:
		checkLogstash(c.Context, cfg, &found)
	default:
		checkFile(cfg.OutputFile.Path, &found)
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(found); err != nil {
			return err
		}
	} else {
		for _, x := range found {
			fmt.Fprintf(e.stdout, "%-8s %s: %s\n", x.Result, x.What, x.Detail)
		}
	}
	wrong := 0
	for _, x := range found {
		if x.Result == checkWrong {
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("test output: %d of %d checks found something wrong", wrong, len(found))
	}
	return nil
}

// checkFile looks whether files can be made beside the output file.
func checkFile(path string, found *checks) {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		found.unknown("output.file.path", "%s does not exist yet; serve makes it", dir)
		return
	case err != nil:
		found.wrong("output.file.path", "%v", err)
		return
	case !info.IsDir():
		found.wrong("output.file.path", "%s is no folder", dir)
		return
	}
	f, err := os.CreateTemp(dir, ".vtsidecar-test-")
	if err != nil {
		found.wrong("output.file.path", "no file can be made in %s: %v", dir, err)
		return
	}
	_, err = f.WriteString("test\n")
	err = errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	if err != nil {
		found.wrong("output.file.path", "a file in %s: %v", dir, err)
		return
	}
	found.ok("output.file.path", "files can be written in %s", dir)
}

// checkLogstash connects to each host and sends it an empty window, which a
// server of the protocol acknowledges.
func checkLogstash(ctx context.Context, cfg *configs.Config, found *checks) {
	for _, host := range cfg.Logstash.Hosts {
		if err := sendNothing(ctx, cfg, host); err != nil {
			found.wrong(host, "%s", connectWords(err, cfg.Logstash.SSL.Enabled))
			continue
		}
		secure := ""
		if cfg.Logstash.SSL.Enabled {
			secure = " over TLS"
		}
		found.ok(host, "answers%s as a beats input does", secure)
	}
}

var errNoProtocol = errors.New("it does not answer as a beats input does")

func sendNothing(ctx context.Context, cfg *configs.Config, host string) error {
	ctx, cancel := context.WithTimeout(ctx, min(cfg.Logstash.Timeout, 10*time.Second))
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	defer func() { conn.Close() }()
	name, _, _ := net.SplitHostPort(host)
	if conf := cfg.Logstash.SSL.For(name); conf != nil {
		secure := tls.Client(conn, conf)
		if err := secure.HandshakeContext(ctx); err != nil {
			return err
		}
		conn = secure
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte("2W"), 0)); err != nil {
		return err
	}
	answer := make([]byte, 6)
	if _, err := io.ReadFull(bufio.NewReader(conn), answer); err != nil || string(answer[:2]) != "2A" {
		return errNoProtocol
	}
	return nil
}

// connectWords says why a connection failed, and the mend.
func connectWords(err error, secure bool) string {
	var (
		dns      *net.DNSError
		unknown  x509.UnknownAuthorityError
		name     x509.HostnameError
		invalid  x509.CertificateInvalidError
		record   tls.RecordHeaderError
		timeout  net.Error
		answered = strings.Contains(err.Error(), "HTTP response to HTTPS client")
	)
	switch {
	case errors.As(err, &dns):
		return "the name cannot be resolved: mend the host, or the DNS"
	case errors.As(err, &unknown):
		return "its certificate is signed by an authority that is not trusted here: name it in ssl.certificate_authorities or ssl.ca_trusted_fingerprint"
	case errors.As(err, &name):
		return "its certificate is not for this name: use a name that stands in it (" + name.Error() + ")"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not valid yet"
	case answered || errors.As(err, &record):
		return "it speaks no TLS on this port: write http:// or leave ssl out, or use the port with TLS"
	case errors.Is(err, errNoProtocol):
		if secure {
			return errNoProtocol.Error()
		}
		return errNoProtocol.Error() + ", or it wants TLS"
	case strings.Contains(err.Error(), "connection refused"):
		return "nobody listens there: is it started, and is this its port?"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time: is a firewall on the way?"
	case strings.Contains(err.Error(), "malformed HTTP") || strings.Contains(err.Error(), "EOF"):
		return "it closes the connection or speaks no HTTP: does the port want https://?"
	}
	return err.Error()
}

// checkElasticsearch asks the cluster what it is and what it would do with
// events; nothing is stored.
func checkElasticsearch(ctx context.Context, cfg *configs.Config, found *checks) error {
	es := cfg.Elasticsearch
	reached := 0
	for _, host := range es.Hosts {
		one := *cfg
		one.Elasticsearch.Hosts = []*url.URL{host}
		one.Elasticsearch.Timeout = min(es.Timeout, 10*time.Second)
		client, err := newSearchClient(&one)
		if err != nil {
			return err
		}
		if checkHost(ctx, client, found) {
			reached++
		}
		if err := client.Close(ctx); err != nil {
			return err
		}
	}
	if reached == 0 {
		return nil
	}
	client, err := newSearchClient(cfg)
	if err != nil {
		return err
	}
	parts, err := partNames(cfg)
	if err != nil {
		return err
	}
	checkPrivileges(ctx, client, cfg, found)
	checkIndices(ctx, client, cfg, found)
	checkPipeline(ctx, client, "output.elasticsearch.pipeline", literal(es.Pipeline), found)
	for _, name := range sampleNames(cfg) {
		shape, err := elasticsearch.Simulate(ctx, client, name, parts)
		if err != nil {
			found.unknown("index "+name, "what it would be made from could not be asked: %v", err)
			continue
		}
		problems := shapeProblems(name, shape)
		for _, p := range problems {
			if shape.Missing && len(shape.Problems) == 0 {
				found.unknown("index "+name, "%s", strings.TrimPrefix(p, "index "+name+": "))
			} else {
				found.wrong("index "+name, "%s", strings.TrimPrefix(p, "index "+name+": "))
			}
		}
		if len(problems) == 0 {
			found.ok("index "+name, "would be made with the mapping of what is added (template %q)", shape.Template)
		}
		checkPipeline(ctx, client, "index.default_pipeline of "+name, shape.Pipeline, found)
	}
	return client.Close(ctx)
}

// checkHost asks one host what it is.
func checkHost(ctx context.Context, client *elasticsearch.Client, found *checks) bool {
	host := client.Hosts()[0]
	resp, err := client.Do(ctx, &elasticsearch.Request{Method: "GET", Path: "/"})
	if err != nil {
		found.wrong(host, "%s", connectWords(err, strings.HasPrefix(host, "https")))
		return false
	}
	var is struct {
		Version struct{ Number, Distribution string }
	}
	switch {
	case resp.Status == 401:
		found.wrong(host, "the credentials are wrong or missing (401): mend output.elasticsearch.api_key, .username and .password or .bearer_token")
		return false
	case resp.Status == 403:
		found.unknown(host, "the credentials may not ask what it is (403)")
		return true
	case resp.Status != 200 || json.Unmarshal(resp.Body, &is) != nil || is.Version.Number == "":
		found.wrong(host, "answers %d, and not as Elasticsearch or OpenSearch does", resp.Status)
		return false
	}
	product := "Elasticsearch"
	if is.Version.Distribution == "opensearch" {
		product = "OpenSearch"
	}
	major, _, _ := strings.Cut(is.Version.Number, ".")
	if product == "Elasticsearch" && (major < "7" && len(major) == 1) {
		found.wrong(host, "%s %s: versions before 7.8 know no component templates", product, is.Version.Number)
		return true
	}
	found.ok(host, "%s %s", product, is.Version.Number)
	return true
}

// literal is a name that the settings fix; empty where events have a say in it.
func literal(template string) string {
	if strings.Contains(template, "%{") {
		return ""
	}
	return template
}

// sampleNames are indices that events would go to: those that the settings fix,
// and one for each pattern that events may choose.
func sampleNames(cfg *configs.Config) []string {
	es := &cfg.Elasticsearch
	names := []string{es.FallbackIndex}
	if name := literal(es.Index); name != "" {
		return append(names, name)
	}
	for _, pattern := range es.AllowedIndices {
		name := strings.ReplaceAll(strings.Replace(pattern, "*beat", "filebeat", 1), "*", "sample")
		names = append(names, name)
	}
	return names
}

// indexPatterns are the indices that events would go to, with *.
func indexPatterns(cfg *configs.Config) []string {
	es := &cfg.Elasticsearch
	if name := literal(es.Index); name != "" {
		return []string{name, es.FallbackIndex}
	}
	return append([]string{es.FallbackIndex}, es.AllowedIndices...)
}

// checkPrivileges asks whether the credentials may write. Only Elasticsearch
// with security can be asked.
func checkPrivileges(ctx context.Context, client elasticsearch.Doer, cfg *configs.Config, found *checks) {
	const what = "privileges"
	body, err := json.Marshal(map[string]any{"index": []any{map[string]any{"names": indexPatterns(cfg), "privileges": []string{"create_doc", "auto_configure"}}}})
	if err != nil {
		found.unknown(what, "%v", err)
		return
	}
	resp, err := client.Do(ctx, &elasticsearch.Request{Method: "POST", Path: "/_security/user/_has_privileges", Body: body})
	if err != nil {
		found.unknown(what, "%v", err)
		return
	}
	var has struct {
		All   bool `json:"has_all_requested"`
		Index map[string]map[string]bool
	}
	if resp.Status != 200 || json.Unmarshal(resp.Body, &has) != nil {
		found.unknown(what, "the cluster cannot be asked (%d): it has no security, or is OpenSearch", resp.Status)
		return
	}
	if has.All {
		found.ok(what, "events may be stored in %s", strings.Join(indexPatterns(cfg), ", "))
		return
	}
	for _, index := range indexPatterns(cfg) {
		var missing []string
		for _, p := range []string{"create_doc", "auto_configure"} {
			if !has.Index[index][p] {
				missing = append(missing, p)
			}
		}
		if len(missing) > 0 {
			found.wrong(what, "missing on index %s: %s; give the user or key a role with them", index, strings.Join(missing, ", "))
		}
	}
}

// checkIndices looks for indices that take nothing: blocked or closed ones.
func checkIndices(ctx context.Context, client elasticsearch.Doer, cfg *configs.Config, found *checks) {
	const what = "blocks"
	path := "/" + url.PathEscape(strings.Join(indexPatterns(cfg), ",")) + "/_settings?flat_settings=true&ignore_unavailable=true&allow_no_indices=true&expand_wildcards=all"
	resp, err := client.Do(ctx, &elasticsearch.Request{Method: "GET", Path: path})
	if err != nil {
		found.unknown(what, "%v", err)
		return
	}
	var indices map[string]struct{ Settings map[string]any }
	if resp.Status != 200 || json.Unmarshal(resp.Body, &indices) != nil {
		found.unknown(what, "the settings of the indices cannot be read (%d)", resp.Status)
		return
	}
	blocked := 0
	for name, index := range indices {
		for _, block := range []string{"index.blocks.read_only", "index.blocks.read_only_allow_delete", "index.blocks.write"} {
			if index.Settings[block] == "true" || index.Settings[block] == true {
				blocked++
				found.wrong(what, "index %s has %s: lift it, or make room on the cluster's disks", name, block)
			}
		}
		if index.Settings["index.verified_before_close"] == "true" {
			blocked++
			found.wrong(what, "index %s is closed: open it", name)
		}
	}
	if blocked == 0 {
		found.ok(what, "none on the %d indices that events may go to", len(indices))
	}
}

// checkPipeline looks for a pipeline that is named and does not exist.
func checkPipeline(ctx context.Context, client elasticsearch.Doer, what, name string, found *checks) {
	if name == "" || name == "_none" {
		return
	}
	resp, err := client.Do(ctx, &elasticsearch.Request{Method: "GET", Path: "/_ingest/pipeline/" + url.PathEscape(name)})
	switch {
	case err != nil:
		found.unknown(what, "%v", err)
	case resp.Status == 404:
		found.wrong(what, "there is no pipeline %q: make it, or mend the setting", name)
	case resp.Status != 200:
		found.unknown(what, "pipeline %q cannot be read (%d)", name, resp.Status)
	default:
		found.ok(what, "pipeline %q exists", name)
	}
}
