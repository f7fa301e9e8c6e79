package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/enrich/indicator"
	"vtsidecar/enrich/quota"
	"vtsidecar/enrich/virustotal"
	"vtsidecar/internal/datadir"
	"vtsidecar/internal/logging"
)

// keyReport is what `test virustotal` finds, as --json prints it.
type keyReport struct {
	URL     string      `json:"url"`
	Key     string      `json:"key"`             // "public", "not public", "unknown"
	Terms   string      `json:"terms,omitempty"` // of a key that is public, or may be
	Cost    int         `json:"cost"`            // look-ups that the test took from the quota
	UsedUp  string      `json:"used_up,omitempty"`
	Windows []keyWindow `json:"windows"`

	left  map[string]int // by the server's count, where it was asked
	notes []string       // for people
}

// keyWindow is one window of the quota; what is not known is left out.
type keyWindow struct {
	Window  string `json:"window"`
	Limit   *int   `json:"limit"` // of this program; null: unlimited
	Origin  string `json:"origin"`
	Allowed *int64 `json:"allowed,omitempty"` // to the key, for all programs together
	Used    *int64 `json:"used,omitempty"`
	Left    *int64 `json:"left,omitempty"`
}

// testVirusTotalCommand says what the key is, what is left and under which
// terms. That costs nothing where the account can be read, and else one look-up.
func testVirusTotalCommand(c *cli.Context, e env) error {
	if err := noArguments(c); err != nil {
		return err
	}
	cfg, err := load(c, e)
	if err != nil {
		return err
	}
	if cfg.VT.APIKey == "" {
		return usagef("there is no API key to test: set vt.api_key_file, vt.api_key or VT_API_KEY")
	}
	log, err := logging.New(e.stderr, e.terminal, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return usageError{err}
	}
	for _, warning := range cfg.Warnings {
		log.Warn(warning)
	}
	source, err := newSource(cfg, nil, log)
	if err != nil {
		return err
	}
	defer source.Close() // closes idle connections; never fails

	fmt.Fprintln(e.stderr, "Asking "+cfg.VT.URL.Redacted()+" for the account of the key; that costs no quota.")
	r := &keyReport{URL: cfg.VT.URL.Redacted()}
	account, err := source.Account(c.Context)
	var failed *enrich.LookupError
	switch {
	case err == nil:
		r.Key = "not public"
		if virustotal.IsPublic(account) {
			r.Key, r.Terms = "public", virustotal.PublicTerms
		}
	case !errors.As(err, &failed):
		return err
	case failed.Decision == enrich.Retry || strings.HasPrefix(failed.Reason, "HTTP 401"):
		return keyTrouble(c.Context, cfg, failed.Reason)
	default:
		r.Key, r.Terms = "unknown", virustotal.PublicTerms
		fmt.Fprintf(e.stderr, "The account cannot be read (%s): one look-up is made instead, which costs one request.\n", failed.Reason)
		if err := r.lookup(c.Context, cfg, source); err != nil {
			return err
		}
	}
	r.fill(&cfg.VT, account)
	if !cfg.VT.Enabled {
		r.notes = append(r.notes, "vt.enabled is false: the server does not use the key.")
	}
	if c.Bool("json") {
		return jsonTo(e.stdout).Encode(r)
	}
	return r.print(e)
}

// fill adds the limits that are in force with this account.
func (r *keyReport) fill(vt *configs.VT, account quota.Account) {
	usages := map[string]quota.Usage{quota.Hour: account.Hour, quota.Day: account.Day, quota.Month: account.Month}
	_, _, all := limits(vt, account)
	for _, l := range all {
		w := keyWindow{Window: l.window, Origin: l.origin}
		if l.n > 0 {
			w.Limit = &l.n
		}
		if u := usages[l.window]; u.Allowed > 0 {
			left := max(u.Allowed-u.Used, 0)
			w.Allowed, w.Used, w.Left = &u.Allowed, &u.Used, &left
			if left == 0 {
				r.UsedUp = l.window
			}
		} else if n, ok := r.left[l.window]; ok {
			left := int64(n)
			w.Left = &left
		}
		r.Windows = append(r.Windows, w)
	}
}

// print writes the report for people.
func (r *keyReport) print(e env) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s accepts the key.\n", r.URL)
	switch r.Key {
	case "public":
		b.WriteString("The key has VirusTotal's public limits.\n")
	case "not public":
		b.WriteString("The key has more than VirusTotal's public limits.\n")
	default:
		b.WriteString("Whether the key has VirusTotal's public limits is not known.\n")
	}
	if r.Terms != "" {
		fmt.Fprintf(&b, "Terms: %s.\n", r.Terms)
	}
	b.WriteByte('\n')
	table := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	number := func(n *int64) string {
		if n == nil {
			return "?"
		}
		return fmt.Sprint(*n)
	}
	fmt.Fprintln(table, "window\tlimit in force\tallowed to the key\tused\tleft")
	for _, w := range r.Windows {
		limit := limit{origin: w.Origin}
		if w.Limit != nil {
			limit.n = *w.Limit
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", w.Window, limit, number(w.Allowed), number(w.Used), number(w.Left))
	}
	table.Flush() // into memory
	b.WriteByte('\n')
	if r.UsedUp != "" {
		fmt.Fprintf(&b, "Nothing is left of the %s: until it ends, nothing new is looked up.\n", r.UsedUp)
	}
	for _, note := range r.notes {
		b.WriteString(note + "\n")
	}
	cost := "nothing"
	if r.Cost > 0 {
		cost = "one look-up"
	}
	fmt.Fprintf(&b, "This test cost %s.\n", cost)
	_, err := fmt.Fprint(e.stdout, b.String())
	return err
}

// lookup tries the key at something that everybody knows, and counts that.
func (r *keyReport) lookup(ctx context.Context, cfg *configs.Config, source *virustotal.Source) error {
	left, note, err := countOne(cfg)
	if err != nil {
		return err
	}
	r.left, r.Cost = left, 1
	if note != "" {
		r.notes = append(r.notes, note)
	}
	ind := wellKnown(cfg.VT.Types)
	answer, err := source.Lookup(ctx, ind)
	var failed *enrich.LookupError
	switch {
	case err == nil && !answer.Found && strings.Contains(cfg.VT.URL.Path, "/api"):
		return keyTrouble(ctx, cfg, "nothing is found")
	case err == nil && !answer.Found:
		r.notes = append(r.notes, "It does not know "+ind.Value+", as VirusTotal does: check vt.url.")
		return nil
	case err == nil:
		return nil
	case !errors.As(err, &failed):
		return err
	case failed.Decision == enrich.PauseMinute || failed.Decision == enrich.Exhausted:
		// It is asked for a key that is accepted only.
		r.Cost, r.UsedUp = 0, quota.Minute
		if failed.Decision == enrich.Exhausted {
			r.UsedUp = quota.Day
		}
		return nil
	}
	return keyTrouble(ctx, cfg, failed.Reason)
}

// wellKnown is an indicator that tells nobody anything, of a type that may leave
// the house.
func wellKnown(types []string) enrich.Indicator {
	for _, i := range []enrich.Indicator{
		{Type: indicator.Domain, Value: "virustotal.com"},
		{Type: indicator.IP, Value: "8.8.8.8"},
		{Type: indicator.URL, Value: "https://www.virustotal.com/"},
	} {
		if slices.Contains(types, i.Type.String()) {
			return i
		}
	}
	// The test file that every engine finds.
	return enrich.Indicator{Type: indicator.Hash, Value: "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"}
}

// countOne counts one look-up where the server does. A folder that no server has
// used yet is left alone: what is made in it here might not be the server's. left
// is what the server may do after that; note says why the look-up is not counted.
func countOne(cfg *configs.Config) (left map[string]int, note string, err error) {
	if _, err := os.Stat(quotaPath(cfg)); err != nil {
		return nil, "The look-up is counted nowhere: no server has counted requests in path.data " + cfg.DataDir + " yet.", nil
	}
	dir, err := datadir.Open(cfg.DataDir)
	var inUse *datadir.InUseError
	if errors.As(err, &inUse) {
		// The test is most often about that server's key, so it goes on.
		return nil, fmt.Sprintf("A server runs in path.data %s (%s); the look-up is not in its count.", inUse.Path, inUse.By), nil
	}
	if err != nil {
		return nil, "The look-up is not in the server's count: " + err.Error() + ".", nil
	}
	defer dir.Close() // the lock ends with the process at the latest
	counts, damaged, err := openQuota(cfg)
	if err != nil {
		return nil, "", fmt.Errorf("path.data: count the look-up: %w", err)
	}
	if damaged != nil {
		note = damaged.Error() + "."
	}
	ok, until, window, err := counts.Take()
	left = counts.Left()
	err = errors.Join(err, counts.Close())
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("path.data: count the look-up: %w", err)
	case !ok:
		return nil, "", fmt.Errorf("the key was not tried: by the counts in path.data %s nothing is left of vt.limit.%s until %s",
			cfg.DataDir, window, until.UTC().Format("2006-01-02 15:04:05 MST"))
	}
	return left, note, nil
}

// keyTrouble is a failed request in words that name the setting and the mend.
// reason is a LookupError's, whose words are stable.
func keyTrouble(ctx context.Context, cfg *configs.Config, reason string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	host := cfg.VT.URL.Host
	key := "vt.api_key"
	if cfg.VT.APIKeyFile != "" {
		key = "vt.api_key_file " + cfg.VT.APIKeyFile
	}
	proxy := proxyInUse(cfg)
	by, orProxy := "", ", or name the proxy that leads there in vt.proxy_url"
	if proxy != "" {
		by, orProxy = " by way of the proxy ("+proxy+")", ""
	}
	is := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(reason, w) })
	}
	switch {
	case is("HTTP 401 UserNotActiveError"):
		return fmt.Errorf("%s: VirusTotal knows the key, but its account is not active (%s): finish the registration at VirusTotal", key, reason)
	case is("HTTP 401"):
		return fmt.Errorf("%s: the key is refused (%s): copy it anew from the account's page at VirusTotal", key, reason)
	case is("HTTP 403"):
		return fmt.Errorf("%s: the key may not look anything up (%s): ask VirusTotal what its account is allowed", key, reason)
	case is("HTTP 407", "proxy answered HTTP 407"):
		return fmt.Errorf("%s: the proxy wants a user and a password (%s): write them as http://USER:PASSWORD@HOST:PORT", orWord(proxy, "vt.proxy_url"), reason)
	case is("proxy"):
		return fmt.Errorf("%s: %s: check that address, that the proxy runs, and that it lets %s through; or set vt.proxy_url: none", orWord(proxy, "vt.proxy_url"), reason, host)
	case is("host name not resolved"):
		return fmt.Errorf("vt.url: the name of %s cannot be resolved%s: check its spelling and this machine's DNS%s", host, by, orProxy)
	case is("timed out"):
		return fmt.Errorf("vt.url: %s does not answer within vt.timeout (%v)%s: check that the firewall lets it through%s", host, cfg.VT.Timeout, by, orProxy)
	case is("connection", "answer cut short"):
		return fmt.Errorf("vt.url: no connection to %s%s (%s): check host and port, and that the firewall lets them through%s", host, by, reason, orProxy)
	case is("certificate expired"):
		return fmt.Errorf("vt.url: the certificate that %s shows%s has expired: check this machine's clock, and who answers there", host, by)
	case is("certificate of another host"):
		return fmt.Errorf("vt.url: the certificate that %s shows%s is of another host: check the name, and who answers there", host, by)
	case is("certificate"):
		return fmt.Errorf("vt.url: the certificate that %s shows%s is not trusted: where a proxy opens TLS, add its authority to this machine's, or name its file in SSL_CERT_FILE", host, by)
	case is("TLS"):
		return fmt.Errorf("vt.url: %s does not speak TLS%s: check the port, and https:// or http://", host, by)
	case is("redirected"):
		return fmt.Errorf("vt.url: %s sends elsewhere%s: a page to sign in, or not VirusTotal's API; check vt.url, and what stands in between", host, by)
	case is("HTTP 5"):
		return fmt.Errorf("vt.url: %s has trouble of its own (%s): try again later", host, reason)
	default: // what is not VirusTotal's
		return fmt.Errorf("vt.url: what answers at %s%s is not VirusTotal's API (%s): check vt.url, which stands without /api/v3, and what stands in between", host, by, reason)
	}
}

func orWord(word, other string) string {
	if word == "" {
		return other
	}
	return word
}

// proxyInUse names the setting or the variable that leads to VirusTotal, without
// what it holds: that may be a password.
func proxyInUse(cfg *configs.Config) string {
	switch {
	case cfg.VT.Proxy.Direct:
		return ""
	case cfg.VT.Proxy.URL != nil:
		return "vt.proxy_url " + (&url.URL{Scheme: cfg.VT.Proxy.URL.Scheme, Host: cfg.VT.Proxy.URL.Host}).String()
	}
	if u, err := http.ProxyFromEnvironment(&http.Request{URL: cfg.VT.URL}); err == nil && u == nil {
		return ""
	}
	if cfg.VT.URL.Scheme == "http" {
		return "the environment's HTTP_PROXY"
	}
	return "the environment's HTTPS_PROXY"
}
