package elasticsearch_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/event"
	"vtsidecar/output/elasticsearch"
)

// listen serves on loopback until the test ends.
func listen(t *testing.T, h http.Handler) *url.URL {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	return u
}

func client(t *testing.T, cfg elasticsearch.ClientConfig) *elasticsearch.Client {
	t.Helper()
	cfg.Direct = true
	c, err := elasticsearch.NewClient(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return c
}

// over is an output before a stand-in with a network between them.
func over(t *testing.T, es *esstandin.Server, cfg elasticsearch.ClientConfig) *bench {
	t.Helper()
	t.Cleanup(es.Close)
	b := &bench{t: t, es: es, log: &bytes.Buffer{}, dead: &grave{t: t, es: es, letters: map[string][]event.DeadLetter{}}}
	out, err := elasticsearch.Open(elasticsearch.Config{Doer: client(t, cfg), Dead: b.dead, Index: "events"})
	require.NoError(t, err)
	b.out = out
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = out.Close(ctx) // it is closed, or the test has failed already
	})
	return b
}

// Every disturbance of a connection or an answer, through the real client: it
// costs one more request, and each event is stored once.
func TestClientFaults(t *testing.T) {
	for _, kind := range []string{
		"refused", "blackhole", "reset", "eof", "hang", "truncate", "truncate_json", "html", "garbage", "empty", "null_items",
		"few", "many", "wrong_id", "huge", "bomb", "redirect", "status", "status_html",
	} {
		for _, stored := range []bool{false, true} {
			for _, level := range []int{0, 1} {
				t.Run(fmt.Sprint(kind, " stored ", stored, " gzip ", level), func(t *testing.T) {
					const right = "elastic:secret"
					es := esstandin.New(esstandin.Config{Authorization: "Basic " + base64.StdEncoding.EncodeToString([]byte(right))})
					host := listen(t, es)
					cfg := elasticsearch.ClientConfig{
						Hosts: []*url.URL{host}, Username: "elastic", Password: "secret", CompressionLevel: level, MaxAnswer: 1 << 20,
					}
					if kind == "hang" || kind == "blackhole" {
						cfg.Timeout = 500 * time.Millisecond
					}
					b := over(t, es, cfg)
					require.NoError(t, es.SetFaults(esstandin.Fault{Kind: kind, Status: 503, Stored: stored, Times: 1}))
					events := some(0, 50)
					require.NoError(t, b.returned(b.store(t.Context(), events), patience))
					b.once(events)
					require.NoError(t, b.out.Ready())
					assert.NotContains(t, b.log.String(), "secret")
					b.close()
				})
			}
		}
	}
}

// patience is how long a test waits for something that is bound to happen.
const patience = 30 * time.Second

// Of several hosts the sick ones are passed over, whatever their sickness is.
func TestClientPassesSickHostsOver(t *testing.T) {
	refusing := &url.URL{Scheme: "http", Host: "127.0.0.1:1"} // nobody listens there; a free port may be another test's
	for _, status := range []int{0, 500, 502, 503, 504} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			es := esstandin.New(esstandin.Config{})
			asked := 0
			sick := refusing
			if status != 0 {
				sick = listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked++; w.WriteHeader(status) }))
			}
			b := over(t, es, elasticsearch.ClientConfig{Hosts: []*url.URL{sick, listen(t, es)}})
			for i := range 10 {
				events := some(10*i, 10*i+10)
				require.NoError(t, b.returned(b.store(t.Context(), events), patience))
				b.once(events)
			}
			require.NoError(t, b.out.Ready())
			if status >= 502 {
				assert.LessOrEqual(t, asked, 2, "a host that cannot serve is rested")
			}
			b.close()
		})
	}
}

func TestClientCredentials(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		cfg        elasticsearch.ClientConfig
		user       *url.Userinfo
	}{
		{name: "basic", want: "Basic dTpw", cfg: elasticsearch.ClientConfig{Username: "u", Password: "p"}},
		{name: "in the host", want: "Basic dTpw", user: url.UserPassword("u", "p")},
		{name: "API key", want: "ApiKey aWQ6a2V5", cfg: elasticsearch.ClientConfig{APIKey: "aWQ6a2V5"}},
		{name: "bearer", want: "Bearer token", cfg: elasticsearch.ClientConfig{BearerToken: "token"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			es := esstandin.New(esstandin.Config{Authorization: tt.want})
			defer es.Close()
			host := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, tt.want, r.Header.Get("Authorization"))
				es.ServeHTTP(w, r)
			}))
			host.User = tt.user
			tt.cfg.Hosts = []*url.URL{host}
			c := client(t, tt.cfg)
			resp, err := c.Do(t.Context(), &elasticsearch.Request{Method: http.MethodGet, Path: "/"})
			require.NoError(t, err)
			assert.Equal(t, 200, resp.Status)
			assert.Equal(t, "http://"+host.Host, resp.Host)
			assert.NotContains(t, fmt.Sprint(c.Hosts()), "p@")
		})
	}
}

// A body belongs to its owner again when Do has returned, also where the server
// answered before it had read it, or never did.
func TestClientLeavesBodiesAlone(t *testing.T) {
	for _, tt := range []struct {
		name  string
		times int
		serve func(http.ResponseWriter, *http.Request)
	}{
		{"answered early", 200, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) }},
		{"answered early, then read", 200, func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex() // HTTP/1 can
			w.Header().Set("Content-Length", "2")
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			_, _ = w.Write([]byte("no"))
			_ = rc.Flush()
			_, _ = io.Copy(io.Discard, r.Body)
		}},
		{"never read", 3, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	} {
		for _, level := range []int{0, 1} {
			t.Run(fmt.Sprint(tt.name, " gzip ", level), func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				host := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { tt.serve(w, r.WithContext(ctx)) }))
				t.Cleanup(cancel) // before the server is closed
				c := client(t, elasticsearch.ClientConfig{Hosts: []*url.URL{host}, CompressionLevel: level, Timeout: 50 * time.Millisecond})
				noise, body := make([]byte, 1<<20), make([]byte, 1<<20)
				_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // never fails
				for range tt.times {
					copy(body, noise) // the race detector sees who reads the bytes still
					_, _ = c.Do(ctx, &elasticsearch.Request{Method: http.MethodPost, Path: "/_bulk", Body: body, ContentType: "application/x-ndjson"})
				}
			})
		}
	}
}

// What it has to do at the end it does, however late it is.
func TestClientClosesAfterTheDeadline(t *testing.T) {
	for range 20 { // whether it waits for ctx is left to chance
		c, err := elasticsearch.NewClient(elasticsearch.ClientConfig{Hosts: []*url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}, Direct: true})
		require.NoError(t, err)
		require.NoError(t, c.Close(canceled(t)))
	}
}

func TestNewClientRefuses(t *testing.T) {
	_, err := elasticsearch.NewClient(elasticsearch.ClientConfig{})
	require.ErrorContains(t, err, "output.elasticsearch.hosts")
	_, err = elasticsearch.NewClient(elasticsearch.ClientConfig{Hosts: []*url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}, CompressionLevel: 10})
	require.ErrorContains(t, err, "output.elasticsearch.compression_level")
}

// What answers in no HTTP may send anything back, and none of that is for a log.
func TestClientQuotesNoAnswer(t *testing.T) {
	log.SetOutput(io.Discard) // net/http's, as in main
	defer log.SetOutput(os.Stderr)
	for _, answer := range []string{
		"%s", "HTTP/1.1 %s", "HTTP/%s 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n%s\r\n\r\n", "HTTP/1.1 200 OK\r\nx%s\r\n y: z\r\n\r\n",
		"HTTP/1.1 200 OK\r\n %s\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: %s\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 12\r\n\r\n%s",
	} {
		for _, n := range []int{3, 1000} {
			t.Run(fmt.Sprintf("%q %d", answer, n), func(t *testing.T) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				defer l.Close()
				go func() {
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						_, _ = conn.Read(make([]byte, 4<<10)) // what comes is known
						fmt.Fprintf(conn, answer, strings.Repeat("needle ", n))
						conn.Close()
					}
				}()
				c := client(t, elasticsearch.ClientConfig{Hosts: []*url.URL{{Scheme: "http", Host: l.Addr().String()}}})
				_, err = c.Do(t.Context(), &elasticsearch.Request{Method: http.MethodPost, Path: "/_bulk", Body: []byte("{}\n")})
				require.Error(t, err)
				assert.NotContains(t, err.Error(), "needle")
				assert.Less(t, len(err.Error()), 500)
			})
		}
	}
}
