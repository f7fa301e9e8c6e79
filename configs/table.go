package configs

import (
	"math"
	"slices"
	"strings"
	"time"
)

// This file has one rule: a setting is one entry of the table, and whatever
// else knows about settings (flags, variables, YAML keys, help, README,
// `test config`) is made from that entry.

// setting is one declaration.
type setting struct {
	name  string
	def   string // default, parsed like any other value
	shown string // the default in words, where def alone would not tell it
	doc   string // one line
	parser
	secret bool
}

// defaults are the texts of the default.
func (s *setting) defaults() []string {
	if s.list {
		return splitList(s.def)
	}
	return []string{s.def}
}

// maxEventLimit is the longest event that can be configured, and the longest
// that is read and skipped; beyond it the connection is closed.
const maxEventLimit = 128 << 20

const defaultFields = `process.hash:hash@high, file.hash:hash@high, email.attachments.file.hash:hash@high, ` +
	`winlog.event_data.Hashes:hash@high=sysmon.hash, url.full:url, dns.question.name:domain, ` +
	`winlog.event_data.QueryName:domain=dns.question.name, tls.client.server_name:domain, ` +
	`destination.ip:ip, winlog.event_data.DestinationIp:ip=destination.ip, source.ip:ip@low, winlog.event_data.IpAddress:ip@low=source.ip`

// table is every setting of this version, in the order of the documentation.
// It is never changed.
var table = slices.Concat(beforeOutputs, outputSettings(), behindOutputs)

var beforeOutputs = []setting{
	{name: "config", shown: "none", doc: "YAML file with settings; as flag or variable only",
		parser: textOf(func(c *Config) *string { return &c.File }, "a file's path", nil)},
	{name: "path.data", def: "./data", doc: "folder for everything this program keeps",
		parser: textOf(func(c *Config) *string { return &c.DataDir }, "a folder's path", notEmpty)},

	{name: "input.address", def: "127.0.0.1:5044", doc: "where Beats connect; port 0 takes a free one",
		parser: textOf(func(c *Config) *string { return &c.Input.Address }, "HOST:PORT", hostPort)},
	{name: "input.ssl.certificate", shown: "off", doc: "PEM file with the server's certificate and its chain; with it the listener speaks TLS 1.2 and 1.3 only",
		parser: textOf(func(c *Config) *string { return &c.Input.Certificate }, "a file's path", nil)},
	{name: "input.ssl.key", shown: "none", doc: "PEM file with the certificate's private key, not encrypted",
		parser: textOf(func(c *Config) *string { return &c.Input.Key }, "a file's path", nil)},
	{name: "input.ssl.certificate_authorities", shown: "none", doc: "PEM files with the authorities that sign senders' certificates",
		parser: listOf(func(c *Config) *[]string { return &c.Input.CAs }, "files' paths", keep(notEmpty))},
	{name: "input.ssl.client_authentication", def: "none", doc: "whether senders must show a certificate: `none`, `optional`, `required`",
		parser: wordOf(func(c *Config) *string { return &c.Input.ClientAuth }, "none", "optional", "required")},
	{name: "input.ssl.allowed_names", shown: "any", doc: "names (DNS, IP, e-mail, URI) of which a sender's certificate must carry one as subject alternative name; the common name is none",
		parser: listOf(func(c *Config) *[]string { return &c.Input.AllowedNames }, "list of names", certificateName)},
	{name: "input.trust_verdicts", def: "false", doc: "keep an incoming `arcanna.ioc` instead of replacing it; only for chained servers behind mutual TLS",
		parser: boolOf(func(c *Config) *bool { return &c.Input.TrustVerdicts })},
	{name: "input.max_connections", def: "2000", doc: "most connections at a time; 0: unlimited",
		parser: intOf(func(c *Config) *int { return &c.Input.MaxConnections }, 0, math.MaxInt32)},
	{name: "input.max_connections_per_address", def: "0", doc: "most connections at a time from one IP address; 0: unlimited",
		parser: intOf(func(c *Config) *int { return &c.Input.MaxPerAddress }, 0, math.MaxInt32)},
	{name: "input.max_event", def: "16MiB", doc: "longest event; a longer one is skipped and dead-lettered as a stub; at most 128MiB",
		parser: sizeOf(func(c *Config) *int64 { return &c.Input.MaxEvent }, 1, maxEventLimit)},
	{name: "input.max_window", def: "10000", doc: "most events in a window; more closes the connection (the sender's `bulk_max_size` is too large)",
		parser: intOf(func(c *Config) *int { return &c.Input.MaxWindow }, 1, math.MaxInt32)},
	{name: "input.max_window_bytes", def: "1GiB", doc: "most bytes in a window, inflated; more closes the connection; at least `input.max_event`",
		parser: sizeOf(func(c *Config) *int64 { return &c.Input.MaxWindowBytes }, 1, math.MaxInt64)},
	{name: "input.memory", def: "256MiB", doc: "budget of bytes in flight over all connections; at least 2 × `input.max_event`",
		parser: sizeOf(func(c *Config) *int64 { return &c.Input.Memory }, 2, math.MaxInt64/4)},
	{name: "input.keepalive", def: "5s", doc: "pause between keepalives while a window is worked on; at most 10s, and under half of the senders' `timeout`",
		parser: durationOf(func(c *Config) *time.Duration { return &c.Input.Keepalive }, time.Millisecond, 10*time.Second)},

	{name: "fields", def: defaultFields, doc: "where indicators are: `PATH[:ip|domain|url|hash|auto|scan][@low|@normal|@high][=NAME]`",
		parser: listOf(func(c *Config) *[]string { return &c.Fields }, "list of fields", keep(notEmpty))},
	{name: "fields_max_values", def: "64", doc: "most distinct indicators of one event that are looked up; at most 4096",
		parser: intOf(func(c *Config) *int { return &c.FieldsMaxValues }, 1, 4096)}, // the enrichment looks at no more values
	{name: "document.details", def: "hits", doc: "which indicators get their detail in `arcanna.ioc.indicators`: `hits`, `all`, `none`",
		parser: wordOf(func(c *Config) *string { return &c.Details }, "hits", "all", "none")},
	{name: "ecs.threat", def: "true", doc: "whether hits add an element to their event's `threat.enrichments`, as Kibana shows them",
		parser: boolOf(func(c *Config) *bool { return &c.ECS.Threat })},
	{name: "ecs.related", def: "true", doc: "whether hits add their values to their event's `related.ip`, `.hash` and `.hosts`",
		parser: boolOf(func(c *Config) *bool { return &c.ECS.Related })},
	{name: "ecs.matched_type", def: "indicator_match_rule", doc: "`threat.enrichments.matched.type`; Kibana shows `indicator_match_rule` and `investigation_time` only",
		parser: textOf(func(c *Config) *string { return &c.ECS.MatchedType }, "a word", notEmpty)},
	{name: "id.from_content", def: "false", doc: "identify events that have neither a source position nor an `_id` by their content alone",
		parser: boolOf(func(c *Config) *bool { return &c.ID.FromContent })},
	{name: "id.metadata", def: "true", doc: "use `@metadata._id` where a Beat set it",
		parser: boolOf(func(c *Config) *bool { return &c.ID.Metadata })},

	{name: "skip.networks", shown: "built-in rules", doc: "more networks that are never looked up, beside private and reserved ones",
		parser: networksOf(func(c *Config) *Skip { return &c.Skip })},
	{name: "skip.domains", shown: "built-in rules", doc: "more domains that are never looked up, each with everything below it",
		parser: listOf(func(c *Config) *[]string { return &c.Skip.Domains }, "list of domains", domainName)},
	{name: "skip.hashes", shown: "built-in rules", doc: "more hashes (MD5, SHA-1, SHA-256) that are never looked up",
		parser: listOf(func(c *Config) *[]string { return &c.Skip.Hashes }, "list of hashes", hexHash)},
	{name: "skip.file", shown: "none", doc: "file with more networks, domains and hashes, one a line; `#` begins a comment",
		parser: textOf(func(c *Config) *string { return &c.Skip.File }, "a file's path", nil)},

	{name: "vt.enabled", def: "true", doc: "whether VirusTotal is asked at all",
		parser: boolOf(func(c *Config) *bool { return &c.VT.Enabled })},
	{name: "vt.api_key", shown: "none", doc: "VirusTotal's API key; the variable `VT_API_KEY` works too", secret: true,
		parser: secretOf(func(c *Config) *string { return &c.VT.APIKey }, apiKey)},
	{name: "vt.api_key_file", shown: "none", doc: "file that holds the API key and nothing else",
		parser: textOf(func(c *Config) *string { return &c.VT.APIKeyFile }, "a file's path", nil)},
	{name: "vt.url", def: "https://www.virustotal.com", doc: "where the API is",
		parser: urlOf(func(c *Config) *VT { return &c.VT })},
	{name: "vt.proxy_url", def: "environment", doc: "proxy on the way there: a URL, `none`, or `environment` for `HTTPS_PROXY` and its like",
		parser: proxyOf(func(c *Config) *Proxy { return &c.VT.Proxy })},
	{name: "vt.timeout", def: "10s", doc: "longest that one request may take",
		parser: durationOf(func(c *Config) *time.Duration { return &c.VT.Timeout }, time.Millisecond, time.Hour)},
	{name: "vt.wait", def: "2s", doc: "longest that a batch waits for answers that are on their way",
		parser: durationOf(func(c *Config) *time.Duration { return &c.VT.Wait }, 0, time.Hour)},
	{name: "vt.limit.minute", def: "auto", doc: "most requests in a minute; `auto`: a 60th of what the account allows in an hour, else 4; 0: unlimited",
		parser: limitOf(func(c *Config) *Limit { return &c.VT.Minute })},
	{name: "vt.limit.hour", def: "auto", doc: "most requests in an hour; `auto`: from the account, else none; 0: unlimited",
		parser: limitOf(func(c *Config) *Limit { return &c.VT.Hour })},
	{name: "vt.limit.day", def: "auto", doc: "most requests in a day (UTC); `auto`: from the account, else 500; 0: unlimited",
		parser: limitOf(func(c *Config) *Limit { return &c.VT.Day })},
	{name: "vt.limit.month", def: "auto", doc: "most requests in a month (UTC); `auto`: from the account, else 15500; 0: unlimited",
		parser: limitOf(func(c *Config) *Limit { return &c.VT.Month })},
	{name: "vt.types", def: "hash, url, domain, ip", doc: "types of indicators that may leave the house",
		parser: wordsOf(func(c *Config) *[]string { return &c.VT.Types }, "hash", "url", "domain", "ip")},
	{name: "vt.url_parts", def: "strip_query", doc: "what of a URL may leave: `full`, `strip_query`, `host`; user info and fragments never do",
		parser: wordOf(func(c *Config) *string { return &c.VT.URLParts }, "full", "strip_query", "host")},
	{name: "vt.malicious", def: "5", doc: "engines needed for malicious: a number, or one per type (`hash:3, url:5`)",
		parser: perTypeOf(func(c *Config) *PerType[int] { return &c.VT.Malicious }, "a number, or TYPE:NUMBER", threshold)},
	{name: "vt.suspicious", def: "hash:1, url:2, domain:2, ip:2", doc: "engines needed for suspicious: a number, or one per type",
		parser: perTypeOf(func(c *Config) *PerType[int] { return &c.VT.Suspicious }, "a number, or TYPE:NUMBER", threshold)},
	{name: "vt.engines", def: "all", doc: "engines that count, by name; `all` asks for at least 10 of them before there is an opinion",
		parser: enginesOf(func(c *Config) *[]string { return &c.VT.Engines })},
	{name: "vt.engines_ignore", shown: "none", doc: "engines that do not count, by name",
		parser: listOf(func(c *Config) *[]string { return &c.VT.EnginesIgnore }, "list of engines", keep(notEmpty))},
	{name: "vt.max_analysis_age", def: "ip:90d, url:30d, domain:180d", doc: "an older analysis counts less: a duration, or one per type; 0: no limit",
		parser: perTypeOf(func(c *Config) *PerType[time.Duration] { return &c.VT.MaxAnalysisAge }, "a duration, or TYPE:DURATION", age)},

	{name: "cache.max_entries", def: "10000", doc: "most answers kept",
		parser: intOf(func(c *Config) *int { return &c.Cache.MaxEntries }, 1, 1<<30)},
	{name: "cache.ttl", def: "7d", doc: "lifetime of an answer",
		parser: durationOf(func(c *Config) *time.Duration { return &c.Cache.TTL }, time.Millisecond, maxDuration)},
	{name: "cache.ttl_malicious", def: "7d", doc: "lifetime of a malicious answer",
		parser: durationOf(func(c *Config) *time.Duration { return &c.Cache.TTLMalicious }, time.Millisecond, maxDuration)},
	{name: "cache.ttl_not_found", def: "1d", doc: "lifetime of the answer that an indicator is not known",
		parser: durationOf(func(c *Config) *time.Duration { return &c.Cache.TTLNotFound }, time.Millisecond, maxDuration)},
	{name: "cache.persist", def: "true", doc: "keep the cache under `path.data` over a restart",
		parser: boolOf(func(c *Config) *bool { return &c.Cache.Persist })},

	{name: "output.file.path", shown: "<path.data>/events.ndjson", doc: "the file that events are stored in, one JSON object a line",
		parser: textOf(func(c *Config) *string { return &c.OutputFile.Path }, "a file's path", filePath)},
	{name: "output.file.rotate_bytes", def: "100MiB", doc: "a file of this size is closed and a new one begun; 0: never",
		parser: sizeOf(func(c *Config) *int64 { return &c.OutputFile.RotateBytes }, 0, math.MaxInt64)},
	{name: "output.file.rotate_every", def: "none", doc: "a file is closed when the hour (`1h`), day (`1d`), week (`7d`) of its first event ends, in UTC; at least 1s; `none`: never",
		parser: rotateEveryOf(func(c *Config) *time.Duration { return &c.OutputFile.RotateEvery })},
	{name: "output.file.keep", def: "0", doc: "how many closed files stay; the oldest beyond them are deleted; 0: nothing is ever deleted",
		parser: intOf(func(c *Config) *int { return &c.OutputFile.Keep }, 0, math.MaxInt32)},
	{name: "output.file.compress", def: "true", doc: "closed files are compressed to `.gz`, in the background",
		parser: boolOf(func(c *Config) *bool { return &c.OutputFile.Compress })},
	{name: "output.file.permissions", def: "0600", doc: "of new files, in octal",
		parser: permissionsOf(func(c *Config) *OutputFile { return &c.OutputFile })},
}

var behindOutputs = []setting{
	{name: "dead_letter.max_bytes", def: "1GiB", doc: "bound of the dead letter; when it is full, windows that need it get no ack",
		parser: sizeOf(func(c *Config) *int64 { return &c.DeadLetterBytes }, 1, math.MaxInt64)},

	{name: "admin.address", def: "127.0.0.1:5067", doc: "where `/livez`, `/readyz` and `/metrics` are served; `off`: nowhere",
		parser: adminOf(func(c *Config) *string { return &c.AdminAddress })},
	{name: "shutdown.timeout", def: "30s", doc: "how long windows in flight may take to finish when the program is told to stop",
		parser: durationOf(func(c *Config) *time.Duration { return &c.ShutdownTimeout }, 0, time.Hour)},
	{name: "log.level", def: "info", doc: "`debug`, `info`, `warn`, `error`",
		parser: wordOf(func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error")},
	{name: "log.format", def: "auto", doc: "`text`, `json` (ECS), or `auto`: text on a terminal, else JSON; always on stderr",
		parser: wordOf(func(c *Config) *string { return &c.LogFormat }, "auto", "text", "json")},
}

// later are settings that are planned and do nothing yet. To accept and ignore
// one would be a lie about what the program does.
var later = []string{
	"vt.bypass",
	"late.enabled", "late.window", "late.max_bytes", "late.alerts",
}

// laterSections are parts of the tree of names that are planned as a whole.
var laterSections = []string{"oti", "late", "cache.redis"}

// isLater says whether a name is, or is below, something planned.
func isLater(name string) bool {
	return slices.Contains(later, name) ||
		slices.ContainsFunc(laterSections, func(s string) bool { return name == s || strings.HasPrefix(name, s+".") })
}

// find is the declaration of a name, or nil.
func find(name string) *setting {
	for i := range table {
		if table[i].name == name {
			return &table[i]
		}
	}
	return nil
}

// isSection says whether names of the table begin with name and a dot.
func isSection(name string) bool {
	for i := range table {
		if strings.HasPrefix(table[i].name, name+".") {
			return true
		}
	}
	return false
}

const envPrefix = "VTSIDECAR_"

// envName is the variable of a setting.
func envName(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
}

// Setting is what others may know of a declaration.
type Setting struct {
	Name    string
	Env     string // its environment variable
	Default string // in words where there is no default value
	Doc     string // one line
	Takes   string // what a value looks like
	List    bool   // flags may be repeated, values hold commas
	Bool    bool   // its flag needs no value
	Secret  bool
}

// Settings are all settings of this version, in the order of the documentation.
func Settings() []Setting {
	all := make([]Setting, 0, len(table))
	for i := range table {
		all = append(all, table[i].public())
	}
	return all
}

func (s *setting) public() Setting {
	d := s.shown
	if d == "" {
		d = s.def
	}
	return Setting{
		Name: s.name, Env: envName(s.name), Default: d, Doc: s.doc, Takes: s.takes,
		List: s.list, Bool: s.boolean, Secret: s.secret,
	}
}
