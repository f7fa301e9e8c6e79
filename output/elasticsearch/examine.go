package elasticsearch

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"vtsidecar/internal/finding"
	"vtsidecar/internal/wildcard"
)

// This file looks at a cluster for reasons why events would wait there, or be
// refused. Its rules: nothing is written; what the credentials may not see is
// said to be unknown, never right; and only what a write would meet counts: that
// old indices of a stream are closed or read-only is how streams age.

const (
	examineTimeout = 10 * time.Second // of a request
	examineMost    = 200              // templates that are tried
	examineNamed   = 5                // names that are told of many
)

// Examination says what to look at.
type Examination struct {
	Client ClientConfig
	Config Config   // without Doer and Dead
	Parts  []string // names under which answers stand in events
}

// Examine looks at every host, and then at what the cluster would do with events.
func Examine(ctx context.Context, x Examination) (finding.List, error) {
	x.Client.Timeout = min(x.Client.Timeout, examineTimeout)
	if x.Client.Timeout <= 0 {
		x.Client.Timeout = examineTimeout
	}
	x.Config.setDefaults()
	e := &examiner{Examination: x}
	var well []*url.URL
	clusters := map[string]string{}
	for _, host := range x.Client.Hosts {
		one := x.Client
		one.Hosts = []*url.URL{host}
		client, err := NewClient(one)
		if err != nil {
			return nil, err
		}
		cluster, ok := e.host(ctx, host, client)
		if err := client.Close(ctx); err != nil {
			return nil, err
		}
		if ok {
			well = append(well, host)
		}
		if cluster != "" && cluster != "_na_" {
			clusters[cluster] = hostOf(host)
		}
	}
	if len(clusters) > 1 {
		e.found.Wrong("output.elasticsearch.hosts", "they are of different clusters (%s): events would be scattered over them; name the hosts of one", strings.Join(slices.Sorted(maps.Values(clusters)), ", "))
	}
	if len(well) == 0 {
		return e.found, nil
	}
	x.Client.Hosts = well
	client, err := NewClient(x.Client)
	if err != nil {
		return nil, err
	}
	e.doer, e.simulator = client, NewSimulator(client, x.Parts)
	e.cluster(ctx)
	e.privileges(ctx)
	if name := x.Config.Pipeline; !strings.Contains(name, "%{") {
		e.pipeline(ctx, "output.elasticsearch.pipeline", name)
	}
	names := e.fixed()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		e.place(ctx, name, names[name])
	}
	e.chosen(ctx, names)
	return e.found, client.Close(ctx)
}

type examiner struct {
	Examination
	found     finding.List
	doer      Doer
	simulator *Simulator
}

// host asks one host what it is, and says whether it can be asked more.
func (e *examiner) host(ctx context.Context, host *url.URL, client Doer) (cluster string, ok bool) {
	what := hostOf(host)
	resp, err := client.Do(ctx, &Request{Method: http.MethodGet, Path: "/"})
	var is struct {
		UUID    string `json:"cluster_uuid"`
		Version struct{ Number, Distribution string }
	}
	readable := err == nil && json.Unmarshal(resp.Body, &is) == nil && is.Version.Number != ""
	// A TLS port may close the connection, or answer 400 in plain text.
	if (err != nil || !readable && resp.Status == http.StatusBadRequest) && host.Scheme == "http" && e.Client.Proxy == nil && finding.SpeaksTLS(ctx, host.Host) {
		e.found.Wrong(what, "it speaks TLS on this port: write https:// in output.elasticsearch.hosts")
		return "", false
	}
	switch {
	case err != nil:
		e.found.Wrong(what, "%s", finding.Connection(err, "output.elasticsearch"))
		return "", false
	case resp.Status == http.StatusUnauthorized:
		e.found.Wrong(what, "the credentials are wrong or missing (401): mend output.elasticsearch.api_key, .username and .password, or .bearer_token")
		return "", false
	case resp.Status == http.StatusProxyAuthRequired:
		e.found.Wrong(what, "%s", finding.ProxyCredentials("output.elasticsearch"))
		return "", false
	case resp.Status == http.StatusForbidden && !explained(resp.Body):
		e.found.Wrong(what, "answers 403, and not in the words of Elasticsearch or OpenSearch: a proxy or a firewall before it lets nothing pass; mend that, or output.elasticsearch.hosts")
		return "", false
	case resp.Status == http.StatusForbidden:
		e.found.OK(what, "answers and takes the credentials; which version it is they may not ask (403: cluster privilege monitor)")
		return "", true
	case resp.Status >= 300 && resp.Status < 400:
		e.found.Wrong(what, "sends elsewhere (%d), where nothing is sent to: a page to sign in, or http:// for https://; mend output.elasticsearch.hosts", resp.Status)
		return "", false
	case resp.Status == http.StatusTooManyRequests || resp.Status >= 500:
		e.found.Wrong(what, "has trouble of its own (%d): it is starting, has no master node, or a proxy before it reaches nobody", resp.Status)
		return "", false
	case resp.Status != http.StatusOK || !readable:
		e.found.Wrong(what, "answers %d, and not as Elasticsearch or OpenSearch does: check host, port and path in output.elasticsearch.hosts", resp.Status)
		return "", false
	}
	product := "Elasticsearch"
	if is.Version.Distribution == "opensearch" {
		product = "OpenSearch"
	}
	var major, minor int
	if _, err := fmt.Sscanf(is.Version.Number, "%d.%d", &major, &minor); err == nil && product == "Elasticsearch" && (major < 7 || major == 7 && minor < 9) {
		e.found.Warn(what, "%s %s: before 7.9 there are no data streams: only plain indices can be written to", product, is.Version.Number)
		return is.UUID, true
	}
	e.found.OK(what, "%s %s", product, is.Version.Number)
	return is.UUID, true
}

// explained reports whether a cluster says itself why it refuses a request.
func explained(body []byte) bool {
	typ, _ := requestError(body)
	return typ != ""
}

// get asks; status is 0 where there is no answer, and of is nil without one in JSON.
func (e *examiner) get(ctx context.Context, path string, of any) (status int, why string) {
	return e.do(ctx, &Request{Method: http.MethodGet, Path: path}, of)
}

func (e *examiner) do(ctx context.Context, r *Request, of any) (status int, why string) {
	resp, err := e.doer.Do(ctx, r)
	switch {
	case err != nil:
		return 0, finding.Connection(err, "output.elasticsearch")
	case resp.Status != http.StatusOK:
		return resp.Status, refusal(resp).Error()
	}
	if err := json.Unmarshal(resp.Body, of); err != nil {
		return 0, "an answer that is not JSON"
	}
	return resp.Status, ""
}

// cluster looks for what stops writes everywhere.
func (e *examiner) cluster(ctx context.Context) {
	var settings map[string]object
	if status, _ := e.get(ctx, "/_cluster/settings?flat_settings=true", &settings); status == http.StatusOK {
		for _, level := range []string{"persistent", "transient"} {
			for _, block := range []string{"cluster.blocks.read_only", "cluster.blocks.read_only_allow_delete"} {
				if isTrue(settings[level][block]) {
					e.found.Wrong("cluster", "it is read-only (%s setting %s): set that to null", level, block)
				}
			}
		}
	}
	var health struct{ Status string }
	if status, _ := e.get(ctx, "/_cluster/health", &health); status == http.StatusOK && health.Status == "red" {
		e.found.Warn("cluster", "its health is red: some of what is stored is not to be had, and events for it wait")
	}
}

func isTrue(v any) bool { return v == true || v == "true" }

// privileges asks whether the credentials may write. Only Elasticsearch with
// security tells.
func (e *examiner) privileges(ctx context.Context) {
	const what = "privileges"
	write := "create_doc"
	if e.Config.OpType == "index" {
		write = "index"
	}
	fixed := e.fixed()
	names := slices.Sorted(maps.Keys(fixed))
	for _, pattern := range e.Config.AllowedIndices {
		if _, ok := fixed[pattern]; !ok {
			names = append(names, pattern)
		}
	}
	body, err := json.Marshal(object{"index": []any{object{"names": names, "privileges": []string{write, "auto_configure", "create_index"}}}})
	if err != nil {
		e.found.Unknown(what, "%v", err)
		return
	}
	var has struct{ Index map[string]map[string]bool }
	if status, why := e.do(ctx, &Request{Method: http.MethodPost, Path: "/_security/user/_has_privileges", Body: body}, &has); status != http.StatusOK {
		switch status {
		case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
			why = "it has no security, or is OpenSearch"
		}
		e.found.Unknown(what, "whether events may be written the cluster does not tell without one being written: %s", why)
		return
	}
	right := true
	for _, name := range names {
		have := has.Index[name]
		report, mend := e.found.Wrong, "give the user or key a role with it"
		if _, ok := fixed[name]; !ok {
			report, mend = e.found.Warn, "give the user or key a role with it, or narrow output.elasticsearch.allowed_indices: events that choose such an index wait"
		}
		switch {
		case !have[write]:
			report(what, "%s is missing on %s: %s", write, name, mend)
			right = false
		case !have["auto_configure"] && !have["create_index"]:
			e.found.Warn(what, "auto_configure is missing on %s: an index that is not there yet cannot be made", name)
			right = false
		}
	}
	if right {
		e.found.OK(what, "events may be stored in %s", strings.Join(names, ", "))
	}
}

// pipeline looks whether one exists that is named.
func (e *examiner) pipeline(ctx context.Context, what, name string) {
	if name == "" || name == "_none" {
		return
	}
	var any object
	switch status, why := e.get(ctx, "/_ingest/pipeline/"+url.PathEscape(name), &any); status {
	case http.StatusOK:
		e.found.OK(what, "pipeline %q exists", name)
	case http.StatusNotFound:
		e.found.Wrong(what, "there is no pipeline %q: make it, or mend the setting; until then events wait", name)
	default:
		e.found.Unknown(what, "whether pipeline %q exists cannot be seen: %s", name, why)
	}
}

// fixed are the names that the settings make, with the setting.
func (e *examiner) fixed() map[string]string {
	names := map[string]string{e.Config.FallbackIndex: "output.elasticsearch.fallback_index"}
	if t, err := parseFormat(e.Config.Index); err == nil && e.Config.Index != "" && !t.fields() {
		name, _ := t.render(nil, func(string) (time.Time, bool) { return time.Now().UTC(), true }, nil)
		names[string(name)] = "output.elasticsearch.index"
	}
	return names
}

// SampleNames are indices that events would go to: those that the settings fix,
// and one for each pattern that events may choose from.
func SampleNames(cfg Config) []string {
	names := (&examiner{Examination: Examination{Config: cfg}}).fixed()
	for _, pattern := range cfg.AllowedIndices {
		names[sampleOf(pattern)] = ""
	}
	return slices.Sorted(maps.Keys(names))
}

func sampleOf(pattern string) string {
	return strings.ReplaceAll(strings.Replace(pattern, "*beat", "filebeat", 1), "*", "sample")
}

// resolved is what stands behind names.
type resolved struct {
	Indices []struct {
		Name       string   `json:"name"`
		Attributes []string `json:"attributes"`
		DataStream string   `json:"data_stream"`
	} `json:"indices"`
	Aliases []struct {
		Name    string `json:"name"`
		Indices names  `json:"indices"`
	} `json:"aliases"`
	Streams []struct {
		Name    string `json:"name"`
		Backing names  `json:"backing_indices"`
	} `json:"data_streams"`
}

// names is one name or a list: servers write either.
type names []string

func (n *names) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*n = names{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(n))
}

func (e *examiner) resolve(ctx context.Context, patterns ...string) (*resolved, int, string) {
	var r resolved
	status, why := e.get(ctx, "/_resolve/index/"+escaped(patterns)+"?expand_wildcards=all", &r)
	return &r, status, why
}

func escaped(patterns []string) string {
	var all []string
	for _, p := range patterns {
		all = append(all, url.PathEscape(p))
	}
	return strings.Join(all, ",")
}

// place looks at one index, data stream or alias that the settings name.
func (e *examiner) place(ctx context.Context, name, setting string) {
	what := fmt.Sprintf("%s (%s)", name, setting)
	r, status, why := e.resolve(ctx, name)
	target := ""
	switch {
	case status != http.StatusOK && status != http.StatusNotFound:
		e.found.Unknown(what, "whether it is there cannot be seen (index privilege view_index_metadata): %s", why)
	case len(r.Streams) > 0:
		if e.Config.OpType == "index" && setting == "output.elasticsearch.index" {
			e.found.Wrong(what, "it is a data stream, which takes no op_type index: set output.elasticsearch.op_type to create")
		}
		if backing := r.Streams[0].Backing; len(backing) > 0 {
			target = backing[len(backing)-1] // as they are written to, one after the other
		}
	case len(r.Aliases) > 0:
		target = e.writeIndex(ctx, what, name, r.Aliases[0].Indices)
	case len(r.Indices) > 0:
		target = name
		if slices.Contains(r.Indices[0].Attributes, "closed") {
			e.found.Wrong(what, "the index is closed: open it (POST /%s/_open); until then events wait", name)
			return
		}
	}
	if target != "" {
		e.target(ctx, what, name, target)
	}
	e.shape(ctx, what, name, target != "")
}

func (e *examiner) writeIndex(ctx context.Context, what, alias string, indices []string) string {
	if len(indices) == 1 {
		return indices[0]
	}
	var of map[string]struct {
		Aliases map[string]struct {
			Write bool `json:"is_write_index"`
		}
	}
	if status, why := e.get(ctx, "/_alias/"+url.PathEscape(alias), &of); status != http.StatusOK {
		e.found.Unknown(what, "which of the alias's indices is written to cannot be seen: %s", why)
		return ""
	}
	for index, a := range of {
		if a.Aliases[alias].Write {
			return index
		}
	}
	e.found.Wrong(what, "it is an alias of %d indices, none of which is its write index: set is_write_index on one", len(indices))
	return ""
}

// settingsOf are the flat settings of indices.
func (e *examiner) settingsOf(ctx context.Context, path string) (map[string]object, int, string) {
	var raw map[string]struct{ Settings object }
	status, why := e.get(ctx, path, &raw)
	all := map[string]object{}
	for name, index := range raw {
		flat := object{}
		flattenInto(flat, "", index.Settings)
		all[name] = flat
	}
	return all, status, why
}

func flattenInto(flat object, prefix string, v object) {
	for key, value := range v {
		if below, ok := value.(object); ok {
			flattenInto(flat, prefix+key+".", below)
			continue
		}
		flat[prefix+key] = value
	}
}

// blocks are what stops writes to an index, with the mend.
func blocks(settings object) (found []string) {
	for _, b := range []struct{ name, mend string }{
		{"index.blocks.read_only_allow_delete", "make room on the cluster's disks, then set it to null"},
		{"index.blocks.read_only", "set it to null"}, {"index.blocks.write", "set it to null"},
	} {
		if isTrue(settings[b.name]) {
			found = append(found, b.name+" is set: "+b.mend)
		}
	}
	return found
}

// target looks at the index that a write meets.
func (e *examiner) target(ctx context.Context, what, name, index string) {
	of := ""
	if index != name {
		of = ", written to as " + index + ","
	}
	settings, status, why := e.settingsOf(ctx, "/"+url.PathEscape(index)+"/_settings?flat_settings=true")
	if status != http.StatusOK {
		e.found.Unknown(what, "its settings cannot be read: %s", why)
	} else if s := settings[index]; true {
		for _, b := range blocks(s) {
			e.found.Wrong(what, "it%s takes nothing: %s; until then events wait", of, b)
		}
		for _, p := range []string{"index.default_pipeline", "index.final_pipeline"} {
			pipeline, _ := s[p].(string)
			e.pipeline(ctx, what+" "+p, pipeline)
		}
	}
	var raw map[string]struct{ Mappings object }
	if status, why := e.get(ctx, "/"+url.PathEscape(index)+"/_mapping", &raw); status != http.StatusOK {
		e.found.Unknown(what, "its mapping cannot be read: %s", why)
		return
	}
	problems, _ := conflicts(raw[index].Mappings, e.Parts)
	for _, p := range problems {
		e.found.Wrong(what, "in what is there already%s %s: mend the template and begin a new index (a data stream's: POST /%s/_rollover)", of, p, name)
	}
	if len(problems) == 0 && status == http.StatusOK && len(blocks(settings[index])) == 0 {
		e.found.OK(what, "it is there%s and its mapping takes what is added", of)
	}
}

// shape looks at what the next index of that name would be made from.
func (e *examiner) shape(ctx context.Context, what, name string, exists bool) {
	s, err := e.simulator.Simulate(ctx, name)
	if err != nil {
		e.found.Unknown(what, "what a new index is made from cannot be asked (cluster privilege manage_index_templates): %v", err)
		return
	}
	for _, p := range s.Faults() {
		e.found.Wrong(what, "%s", p)
	}
	switch hint := s.Hint(); {
	case hint != "":
		e.found.Warn(what, "%s", hint)
	case len(s.Problems) == 0 && !exists:
		e.found.OK(what, "it would be made by index template %q, with the mapping of what is added", s.Template)
	}
	if !exists {
		e.pipeline(ctx, what+" index.default_pipeline", s.Pipeline)
	}
}

// chosen looks at the names that events may choose: what is there, and what the
// templates would make.
func (e *examiner) chosen(ctx context.Context, fixed map[string]string) {
	const what = "output.elasticsearch.allowed_indices"
	if len(e.Config.AllowedIndices) == 0 {
		return
	}
	r, status, why := e.resolve(ctx, e.Config.AllowedIndices...)
	if status != http.StatusOK && status != http.StatusNotFound {
		e.found.Unknown(what, "what is there cannot be seen (index privilege view_index_metadata): %s", why)
	}
	written := map[string]bool{} // of streams
	for _, s := range r.Streams {
		if n := len(s.Backing); n > 0 {
			written[s.Backing[n-1]] = true
		}
	}
	var stopped []string
	settings, status, _ := e.settingsOf(ctx, "/"+escaped(e.Config.AllowedIndices)+"/_settings?flat_settings=true&expand_wildcards=open,hidden&ignore_unavailable=true&allow_no_indices=true")
	for _, index := range slices.Sorted(maps.Keys(settings)) {
		_, named := fixed[index]
		full := isTrue(settings[index]["index.blocks.read_only_allow_delete"])
		// An index that is old may well be read-only; which of the plain ones are
		// old, nobody can tell.
		if b := blocks(settings[index]); !named && len(b) > 0 && (written[index] || full) {
			stopped = append(stopped, index+": "+b[0])
		}
	}
	if len(stopped) > 0 {
		e.found.Wrong(what, "events for these wait: %s", some(stopped))
	} else if status == http.StatusOK {
		e.found.OK(what, "none of the indices that are written to is blocked")
	}
	e.templates(ctx, what, fixed)
}

func some(all []string) string {
	if more := len(all) - examineNamed; more > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(all[:examineNamed], "; "), more)
	}
	return strings.Join(all, "; ")
}

// templates tries every index template by which an index would be made that
// events may choose.
func (e *examiner) templates(ctx context.Context, what string, fixed map[string]string) {
	var answer struct {
		All []struct {
			Name string `json:"name"`
			Is   struct {
				Patterns names `json:"index_patterns"`
			} `json:"index_template"`
		} `json:"index_templates"`
	}
	if status, why := e.get(ctx, "/_index_template?filter_path=index_templates.name,index_templates.index_template.index_patterns", &answer); status != http.StatusOK {
		e.found.Unknown(what, "the index templates cannot be read (cluster privilege manage_index_templates): %s", why)
		return
	}
	samples := map[string]bool{}
	for _, pattern := range e.Config.AllowedIndices {
		samples[sampleOf(pattern)] = true
	}
	for _, t := range answer.All {
		for _, p := range t.Is.Patterns {
			name := sampleOf(p)
			if slices.ContainsFunc(e.Config.AllowedIndices, func(allowed string) bool { return wildcard.Match(allowed, name) }) {
				samples[name] = true
			}
		}
	}
	var unmapped, bare []string // by a template, and without one
	tried := map[string]bool{}  // templates
	for i, name := range slices.Sorted(maps.Keys(samples)) {
		if _, named := fixed[name]; named {
			continue
		}
		if i == examineMost {
			e.found.Unknown(what, "of %d names only %d were tried", len(samples), examineMost)
			break
		}
		s, err := e.simulator.Simulate(ctx, name)
		if err != nil {
			e.found.Unknown(what, "what %s would be made from cannot be asked (cluster privilege manage_index_templates): %v", name, err)
			return
		}
		if s.Template != "" && tried[s.Template] {
			continue
		}
		tried[s.Template] = true
		for _, f := range s.Faults() {
			e.found.Wrong("an index such as "+name, "%s", f)
		}
		switch {
		case !s.Missing || len(s.Problems) > 0:
		case s.Template == "":
			bare = append(bare, name)
		default:
			unmapped = append(unmapped, name+" by "+s.Template)
		}
	}
	const guessed = "in indices such as these what is added is mapped by guess: %s; "
	if len(unmapped) > 0 {
		e.found.Warn(what, guessed+"add %q to composed_of in their templates", some(unmapped), ComponentName)
	}
	if len(bare) > 0 {
		e.found.Warn(what, guessed+"no index template applies to them: make one with %q in its composed_of", some(bare), ComponentName)
	}
}
