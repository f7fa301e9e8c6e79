//go:build real

package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// adminPassword is what scripts/search-node.sh gives the user admin, who may do
// everything.
const adminPassword = "swordfish-of-tests"

// Passwords that OpenSearch takes, which are like no user's name.
const (
	right = "Swordfish-4711-right"
	wrong = "Swordfish-4711-wrong"
)

// startSecured is startNode with security: TLS, and nothing without credentials.
func startSecured(t *testing.T, engine string, settings ...string) *node {
	t.Helper()
	n := &node{engine: engine, settings: settings, secured: true}
	n.begin(t)
	return n
}

// authority is the file with the certificate that the node's own is signed with.
func (n *node) authority() string { return filepath.Join(n.dir, "ca.crt") }

func (n *node) trust(t *testing.T) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(n.authority())
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(text))
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// role makes a role, or makes it another, from what the engine's API takes.
func (n *node) role(t *testing.T, name, body string) {
	t.Helper()
	path := "/_security/role/"
	if n.engine == "os" {
		path = "/_plugins/_security/api/roles/"
	}
	n.grant(t, path+name, body)
}

// grant changes who may do what. OpenSearch has all roles in one document, and all
// users: of two changes side by side it refuses one.
func (n *node) grant(t *testing.T, path, body string) {
	t.Helper()
	await(t, "the node takes PUT "+path, func() bool {
		status, answer := n.ask(t, "PUT", path, body)
		if n.engine == "os" && status == http.StatusConflict {
			return false
		}
		require.Less(t, status, 300, "PUT %s: %v", path, answer)
		return true
	})
}

// user makes a user of one role, or gives it another password.
func (n *node) user(t *testing.T, name, password, role string) {
	t.Helper()
	if n.engine == "os" {
		n.grant(t, "/_plugins/_security/api/internalusers/"+name, `{"password":"`+password+`","opendistro_security_roles":["`+role+`"]}`)
		return
	}
	n.grant(t, "/_security/user/"+name, `{"password":"`+password+`","roles":["`+role+`"]}`)
}

// apiKey makes a key that may do what a role in JSON says, and returns it as the
// settings take it.
func (n *node) apiKey(t *testing.T, role string) (key, id string) {
	t.Helper()
	made := n.do(t, "POST", "/_security/api_key", `{"name":"vtsidecar","role_descriptors":{"vtsidecar":`+role+`}}`)
	return made["encoded"].(string), made["id"].(string)
}

func asUser(name, password string) []string {
	return []string{"--output.elasticsearch.username", name, "--output.elasticsearch.password", password}
}

// startSecurely starts the program with a secured node as its output. Told to end
// it does not wait for long for what waits.
func (n *node) startSecurely(t *testing.T, vt, index string, credentials ...string) *sidecar {
	t.Helper()
	return startStoring(t, vt, n, append([]string{
		"--output.elasticsearch.index", index, "--output.elasticsearch.ssl.certificate_authorities", n.authority(),
		"--shutdown.timeout", "1s",
	}, credentials...)...)
}

// writer is a role in JSON that may store in some indices, and nothing else.
func (n *node) writer(names ...string) string {
	text, _ := json.Marshal(names) // strings always can be
	if n.engine == "os" {
		return `{"cluster_permissions":["cluster_composite_ops"],"index_permissions":[{"index_patterns":` + string(text) + `,
			"allowed_actions":["write","create_index","indices:admin/auto_create","indices:admin/mapping/auto_put"]}]}`
	}
	return `{"cluster":["monitor"],"indices":[{"names":` + string(text) + `,"privileges":["create_doc","auto_configure"]}]}`
}

// roleOfThePage is a role in JSON of docs/elasticsearch.md.
func roleOfThePage(t *testing.T, engine string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "elasticsearch.md"))
	require.NoError(t, err)
	mark := map[string]string{"es": "<!-- role elasticsearch -->", "os": "<!-- role opensearch -->"}[engine]
	_, after, ok := strings.Cut(string(page), mark)
	require.True(t, ok, "%s", mark)
	_, after, ok = strings.Cut(after, "```json\n")
	require.True(t, ok, "after %s", mark)
	role, _, ok := strings.Cut(after, "```")
	require.True(t, ok, "after %s", mark)
	return role
}

// finding is what test output found, of one thing.
type finding struct{ What, Result, Detail string }

// examine returns what test output finds, and whether it is content.
func examine(t *testing.T, settings []string) (found []finding, content bool) {
	t.Helper()
	out, code := command(t, settings, "test", "output", "--json")
	require.NoError(t, json.Unmarshal([]byte(out), &found), "%s", out)
	require.NotEmpty(t, found)
	return found, code == 0
}

// TestSearchSecured stores in real nodes that want TLS and credentials.
func TestSearchSecured(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"es", "os"} {
		t.Run(engine, func(t *testing.T) {
			n := startSecured(t, engine)
			vt := startStandIn(t)
			require.True(t, t.Run("roles of the page", func(t *testing.T) { rolesOfThePage(t, n, vt) }), "it runs setup")
			for _, c := range []struct {
				name string
				test func(*testing.T, *node, string)
			}{
				{"authorities", authorities},
				{"wrong password", wrongPassword},
				{"password changed and changed back", passwordChanged},
				{"API key withdrawn", keyWithdrawn},
				{"index without the privilege", withoutPrivilege},
			} {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel() // some wait for half a minute
					c.test(t, n, vt)
				})
			}
		})
	}
}

// The role that the page prints is enough for all that the page says: setup, test
// output, and the server, in a plain index and in a data stream.
func rolesOfThePage(t *testing.T, n *node, vt string) {
	const count = 500
	role := roleOfThePage(t, n.engine)
	n.role(t, "of-the-page", role)
	n.user(t, "page", right, "of-the-page")
	ways := map[string][]string{"user": asUser("page", right)}
	if n.engine == "es" {
		key, _ := n.apiKey(t, role)
		ways["api key"] = []string{"--output.elasticsearch.api_key", key}
	}
	for _, way := range []string{"user", "api key"} {
		credentials, ok := ways[way]
		if !ok {
			continue
		}
		t.Run(way, func(t *testing.T) {
			settings := append(surroundings(t.TempDir(), vt), "--output.elasticsearch.hosts", n.url, "--output.elasticsearch.ssl.certificate_authorities", n.authority())
			settings = append(settings, credentials...)
			_, code := command(t, settings, "setup")
			require.Zero(t, code, "the exit status of setup")
			second, code := command(t, settings, "setup")
			require.Zero(t, code)
			require.Equal(t, 2, strings.Count(second, "is up to date"), "%s", second)

			n.do(t, "PUT", "/_index_template/beats", `{"index_patterns":["filebeat-*"],"composed_of":["vtsidecar@mappings"],"priority":300}`)
			index := "filebeat-" + strings.ReplaceAll(way, " ", "-")
			for _, index := range []string{index, "logs-vtsidecar-" + index} {
				s := n.startSecurely(t, vt, index, credentials...)
				n.nothingWrong(t, s.args)
				require.Zero(t, s.send(t, firstLine, count, searchLine).wait(t), "the sender's exit status")
				n.nothingWrong(t, s.args) // of what is there now
				require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
				n.verify(t, index, span{firstLine, count})
			}
		})
	}
}

// nothingWrong holds test output to it that it looked at everything and found
// nothing to mend. OpenSearch has no question for privileges.
func (n *node) nothingWrong(t *testing.T, settings []string) {
	t.Helper()
	found, content := examine(t, settings)
	require.True(t, content, "the exit status of test output")
	for _, f := range found {
		if n.engine == "os" && f.What == "privileges" {
			require.Equal(t, "unknown", f.Result)
			continue
		}
		require.NotContains(t, []string{"wrong", "unknown"}, f.Result, "%s: %s", f.What, f.Detail)
	}
}

// Without the node's authority nothing is sent, and test output says so. It may be
// named by its file or by its fingerprint.
func authorities(t *testing.T, n *node, vt string) {
	admin := append(surroundings(t.TempDir(), vt), asUser("admin", adminPassword)...)
	refused := func(why string, settings ...string) {
		t.Helper()
		found, content := examine(t, append(append([]string{}, admin...), settings...))
		require.False(t, content)
		require.Len(t, found, 1)
		require.Equal(t, "wrong", found[0].Result)
		require.Contains(t, found[0].Detail, why)
	}
	refused("an authority that is not trusted here", "--output.elasticsearch.hosts", n.url)
	refused("an authority that is not trusted here", "--output.elasticsearch.hosts", n.url, "--output.elasticsearch.ssl.ca_trusted_fingerprint", strings.Repeat("0a", sha256.Size))
	other := put(t, t.TempDir(), "other.pem", newAuthority(t, "other").pem)
	refused("an authority that is not trusted here", "--output.elasticsearch.hosts", n.url, "--output.elasticsearch.ssl.certificate_authorities", other)
	refused("it speaks TLS on this port: write https://", "--output.elasticsearch.hosts", strings.Replace(n.url, "https:", "http:", 1))

	text, err := os.ReadFile(n.authority())
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	require.NotNil(t, block)
	sum := sha256.Sum256(block.Bytes)

	// A server that does not trust the node keeps its windows.
	const index, count = "logs-vtsidecar-authorities", 500
	s := startStoring(t, vt, n, append(asUser("admin", adminPassword), "--output.elasticsearch.index", index, "--shutdown.timeout", "1s")...)
	sent := s.send(t, firstLine, count, searchLine)
	s.unready(t, "output.elasticsearch", "certificate")
	sent = s.restart(t, sent, "--output.elasticsearch.ssl.ca_trusted_fingerprint", hex.EncodeToString(sum[:]))
	require.Zero(t, sent.wait(t), "the sender's exit status")
	s.stored(t, n, index, span{firstLine, count})
}

// restart ends the program while a sender waits for it, and starts it with other
// settings beside those it had; the last of one name wins. The sender sends all
// again, as a Beat would.
func (s *sidecar) restart(t *testing.T, sent *process, settings ...string) *process {
	t.Helper()
	s.terminate(t)
	require.NotZero(t, sent.wait(t), "a sender whose windows waited has an ack")
	s.args = append(s.args, settings...)
	s.start(t)
	return start(t, sent.name, sent.cmd.Path, sent.cmd.Args[1:]...)
}

// stored ends the program and holds an index against the lines, none of which
// was refused.
func (s *sidecar) stored(t *testing.T, n *node, index string, lines span) {
	t.Helper()
	require.Zero(t, s.metric(t, "vtsidecar_events_dead_lettered_total"))
	require.Zero(t, s.terminate(t), "the exit status on SIGTERM")
	require.Empty(t, s.letters(t))
	n.verify(t, index, lines)
}

// With a wrong password windows wait, and readiness and test output say why. With
// the right one all is stored, once.
func wrongPassword(t *testing.T, n *node, vt string) {
	const index, count = "logs-vtsidecar-password", 1_000
	n.role(t, "password", n.writer("logs-vtsidecar-*"))
	n.user(t, "password", right, "password")
	s := n.startSecurely(t, vt, index, asUser("password", wrong)...)
	sent := s.send(t, firstLine, count, searchLine)
	s.unready(t, "output.elasticsearch", "401", "the credentials are wrong", ".password")
	found, content := examine(t, s.args)
	require.False(t, content)
	require.Len(t, found, 1)
	require.Contains(t, found[0].Detail, "the credentials are wrong or missing (401)")
	require.Zero(t, n.count(t, index+"*"))

	sent = s.restart(t, sent, asUser("password", right)...)
	require.Zero(t, sent.wait(t), "the sender's exit status")
	s.stored(t, n, index, span{firstLine, count})
}

// A password is changed while events come: what comes then waits, until it is
// changed back.
func passwordChanged(t *testing.T, n *node, vt string) {
	const index, count = "logs-vtsidecar-changed", 1_000
	n.role(t, "changed", n.writer("logs-vtsidecar-*"))
	n.user(t, "changed", right, "changed")
	s := n.startSecurely(t, vt, index, asUser("changed", right)...)
	require.Zero(t, s.send(t, firstLine, count, searchLine).wait(t), "the sender's exit status")
	n.user(t, "changed", wrong, "changed")
	sent := s.send(t, firstLine+count, count, searchLine)
	s.unready(t, "output.elasticsearch", "401")
	n.user(t, "changed", right, "changed")
	require.Zero(t, sent.wait(t), "the sender's exit status")
	s.recovered(t)
	s.stored(t, n, index, span{firstLine, 2 * count})
}

// An API key is withdrawn while events come: what comes then waits, for a server
// with another key.
func keyWithdrawn(t *testing.T, n *node, vt string) {
	if n.engine == "os" {
		t.Skip("OpenSearch has no API keys")
	}
	const index, count = "logs-vtsidecar-key", 1_000
	first, id := n.apiKey(t, n.writer("logs-vtsidecar-*"))
	s := n.startSecurely(t, vt, index, "--output.elasticsearch.api_key", first)
	require.Zero(t, s.send(t, firstLine, count, searchLine).wait(t), "the sender's exit status")
	n.do(t, "DELETE", "/_security/api_key", `{"ids":["`+id+`"]}`)
	sent := s.send(t, firstLine+count, count, searchLine)
	s.unready(t, "output.elasticsearch", "401", "api_key")
	second, _ := n.apiKey(t, n.writer("logs-vtsidecar-*"))
	sent = s.restart(t, sent, "--output.elasticsearch.api_key", second)
	require.Zero(t, sent.wait(t), "the sender's exit status")
	s.stored(t, n, index, span{firstLine, 2 * count})
}

// An index that the credentials may not write to is an outage of that index alone:
// its events wait, those of another are stored, and test output names the
// privilege. It ends when the role has it.
func withoutPrivilege(t *testing.T, n *node, vt string) {
	const open, closed, count = "logs-vtsidecar-open", "logs-vtsidecar-closed", 1_000
	n.role(t, "narrow", n.writer(open))
	n.user(t, "narrow", right, "narrow")
	s := n.startSecurely(t, vt, closed, asUser("narrow", right)...)
	sent := s.send(t, firstLine, count, searchLine)
	s.unready(t, "output.elasticsearch", closed, "the credentials may not write to it")
	require.Zero(t, s.send(t, firstLine+count, count, func(n int) string {
		return strings.Replace(searchLine(n), "{", `{"@metadata":{"index":"`+open+`"},`, 1)
	}).wait(t), "the sender's exit status")

	found, content := examine(t, s.args)
	if n.engine == "es" {
		require.False(t, content)
		require.Contains(t, found, finding{"privileges", "wrong", "create_doc is missing on " + closed + ": give the user or key a role with it"})
	}
	n.role(t, "narrow", n.writer(open, closed))
	require.Zero(t, sent.wait(t), "the sender's exit status")
	s.recovered(t)
	s.stored(t, n, closed, span{firstLine, count})
	n.verify(t, open, span{firstLine + count, count})
}

// recovered waits until the program says that it is ready.
func (s *sidecar) recovered(t *testing.T) {
	t.Helper()
	var body string
	require.Eventually(t, func() (ok bool) {
		ok, body = s.ready(t)
		return ok
	}, patience, 50*time.Millisecond, "not ready: %s", body)
}
