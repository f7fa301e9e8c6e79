// Package configs turns flags, environment variables and a YAML file into one
// checked Config.
//
// Promise: a value is text until it is parsed once, here; every setting is
// declared once, and its flag, variable, YAML key and documentation are made
// from that; all mistakes are reported in one go, each with its name, where it
// stands and the mend; and no secret ever appears in an error or a listing.
//
// Where to look: table.go declares the settings, outputs.go those of outputs; parse.go
// says what a value may be; load.go puts together what flags.go and yaml.go read;
// files.go and tls.go read what settings name; errors.go is how mistakes are said,
// help.go, print.go and annotated.go how settings are shown.
package configs

import (
	"crypto/sha256"
	"crypto/tls"
	"io/fs"
	"net/netip"
	"net/url"
	"time"
)

// Config is everything the program was told. Load makes it and nobody changes
// it afterwards. Each room has a configuration of its own, which root fills
// from this one; a zero value means here what the comment beside it says.
type Config struct {
	File    string // config: the YAML file that was read; empty: none
	DataDir string // path.data; never empty

	Input           Listener
	Fields          []string // texts of fields; what they mean is the enrichment's affair. Empty: nothing is looked up
	FieldsMaxValues int      // at least 1, at most 4096
	Details         string   // document.details: "hits", "all", "none"
	ECS             ECS
	ID              ID
	Skip            Skip
	VT              VT
	Cache           Cache
	Output          string // "file", "elasticsearch" or "logstash"
	OutputFile      OutputFile
	Elasticsearch   Elasticsearch
	Logstash        Logstash
	DeadLetterBytes int64  // dead_letter.max_bytes; at least 1
	AdminAddress    string // empty: no admin server
	LogLevel        string // "debug", "info", "warn", "error"
	LogFormat       string // "auto", "text", "json"

	// ShutdownTimeout is the drain deadline. 0: windows in flight are given up at once.
	ShutdownTimeout time.Duration

	// Warnings are findings that forbid nothing, for the log, one line each.
	Warnings []string

	effective []EffectiveSetting
}

// Listener is what the listener allows.
type Listener struct {
	Address        string
	TLS            *tls.Config // nil: plain TCP
	TrustVerdicts  bool
	MaxConnections int           // 0: unlimited
	MaxPerAddress  int           // 0: unlimited
	MaxEvent       int64         // bytes; at least 1, at most 128 MiB
	MaxWindow      int           // events; at least 1
	MaxWindowBytes int64         // at least MaxEvent
	Memory         int64         // bytes; at least 2 × MaxEvent
	Keepalive      time.Duration // above 0, at most 10s
	Certificate    string        // the files that TLS was made of
	Key            string
	CAs            []string
	ClientAuth     string   // "none", "optional", "required"
	AllowedNames   []string // empty: any name will do; else ClientAuth is not "none"

	// ReadTLS reads the files again. The sum is equal where all of them hold the
	// same; settings makes of that moment's content what TLS was made of the first,
	// with the same errors and warnings. Nil where TLS is nil.
	ReadTLS func() (sum [sha256.Size]byte, settings func() (*tls.Config, []string, error))
}

// ECS is what hits add to their events beside arcanna.ioc.
type ECS struct {
	Threat      bool
	Related     bool
	MatchedType string // never empty
}

// ID is how events are identified.
type ID struct {
	FromContent bool
	Metadata    bool
}

// Skip is what is never looked up, beside the built-in rules. Entries of
// skip.file are included. Empty: only the built-in rules.
type Skip struct {
	Networks []netip.Prefix // masked
	Domains  []string       // lower case, without dots at either end; each means the name and all below it
	Hashes   []string       // lower case hexadecimal: MD5, SHA-1 or SHA-256
	File     string         // empty: none
}

// VT is the VirusTotal integration.
type VT struct {
	Enabled        bool
	APIKey         string // secret; empty: none
	APIKeyFile     string // where APIKey was read; empty: it was given itself, or there is none
	URL            *url.URL
	Proxy          Proxy
	Timeout        time.Duration // above 0
	Wait           time.Duration // 0: a batch waits for no answer
	Minute         Limit
	Hour           Limit
	Day            Limit
	Month          Limit
	Types          []string // "hash", "url", "domain", "ip"; never empty
	URLParts       string   // "full", "strip_query", "host"
	Malicious      PerType[int]
	Suspicious     PerType[int]
	Engines        []string               // empty: all
	EnginesIgnore  []string               // empty: none
	MaxAnalysisAge PerType[time.Duration] // 0: no limit
}

// Proxy is the way to VirusTotal.
type Proxy struct {
	Direct bool     // no proxy, whatever the environment says
	URL    *url.URL // may hold a password. nil and not Direct: as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say
}

// Limit is a number of requests. LimitAuto stands for what the account allows,
// or a public key where that cannot be read; 0 is unlimited.
type Limit int

// LimitAuto is `auto`.
const LimitAuto Limit = -1

// PerType has one value for each type of indicator.
type PerType[T any] struct{ IP, Domain, URL, Hash T }

// Cache bounds what is remembered.
type Cache struct {
	MaxEntries   int           // at least 1
	TTL          time.Duration // above 0, as the next two
	TTLMalicious time.Duration
	TTLNotFound  time.Duration
	Persist      bool
}

// OutputFile is the file that events are stored in.
type OutputFile struct {
	Path        string        // never empty
	RotateBytes int64         // 0: not rotated by size
	RotateEvery time.Duration // 0: not rotated by age; else at least 1s
	Keep        int           // closed files that stay; 0: all
	Compress    bool          // closed files
	Permissions fs.FileMode   // permission bits only; the owner can always read and write
}
