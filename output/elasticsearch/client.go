package elasticsearch

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/klauspost/compress/gzip"
)

// maxAnswer bounds an answer after its decompression: to a request of maxItems, of
// which a part is refused, it is shorter. Events can be made so that the answer about
// them is far longer than they are; a request of those is sent in parts.
const maxAnswer = 16 << 20

// closeMost is more than Close ever takes.
const closeMost = 5 * time.Second

// maxKept bounds a compressed body whose memory is used again; what a giant took
// goes.
const maxKept = 16 << 20

// ClientConfig says how to reach a cluster. All but Hosts may be zero.
type ClientConfig struct {
	Hosts            []*url.URL // http or https, perhaps with a path before all others, perhaps with credentials
	Username         string     // with Password: basic authentication
	Password         string
	APIKey           string // base64 of id:key
	BearerToken      string
	TLS              func(host string) *tls.Config // nil: the system's authorities
	Proxy            *url.URL                      // nil and not Direct: as HTTPS_PROXY and its like say
	Direct           bool                          // no proxy
	Timeout          time.Duration                 // of a request with its answer; 0: 60 s
	CompressionLevel int                           // of request bodies, gzip's; 0: none
	UserAgent        string
	MaxAnswer        int64 // bytes; 0: 16 MiB
}

// Client sends requests to the hosts of a cluster in turns. One that cannot be
// reached, or has something before it that cannot (502, 503, 504), is rested for
// a minute at first, then longer, unless no other is left. Each request is made
// once. Its methods are safe for concurrent use.
type Client struct {
	cfg     ClientConfig
	hosts   map[string]*http.Transport // by HOST:PORT, since each has its own name in TLS
	tp      *elastictransport.Client
	writers sync.Pool
	buffers sync.Pool
}

// NewClient makes a client. Nothing is connected yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	if len(cfg.Hosts) == 0 {
		return nil, errors.New("output.elasticsearch.hosts: none is given")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 60 * time.Second
	}
	if cfg.MaxAnswer <= 0 {
		cfg.MaxAnswer = maxAnswer
	}
	c := &Client{cfg: cfg, hosts: map[string]*http.Transport{}}
	if level := cfg.CompressionLevel; level != 0 {
		if _, err := gzip.NewWriterLevel(io.Discard, level); err != nil {
			return nil, fmt.Errorf("output.elasticsearch.compression_level: %w", err)
		}
	}
	proxy := http.ProxyFromEnvironment
	switch {
	case cfg.Direct:
		proxy = nil
	case cfg.Proxy != nil:
		proxy = http.ProxyURL(cfg.Proxy)
	}
	for _, u := range cfg.Hosts {
		tp := &http.Transport{
			Proxy:               proxy,
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     90 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   false, // one connection a request serves bulk bodies best
		}
		if cfg.TLS != nil && u.Scheme == "https" {
			tp.TLSClientConfig = cfg.TLS(u.Hostname())
		}
		c.hosts[u.Host] = tp
	}
	// A host that fails is known by an error, so the answers that say as much are
	// made errors on the way through.
	opts := []elastictransport.Option{
		elastictransport.WithURLs(cfg.Hosts...), elastictransport.WithTransport(roundTripper(c.roundTrip)),
		elastictransport.WithDisableRetry(), elastictransport.WithUserAgent(cfg.UserAgent),
	}
	switch {
	case cfg.APIKey != "":
		// As Elasticsearch documents it: the library has another spelling, which is
		// the same to the cluster but not to every proxy.
		opts = append(opts, elastictransport.WithHeader(http.Header{"Authorization": {"ApiKey " + cfg.APIKey}}))
	case cfg.BearerToken != "":
		opts = append(opts, elastictransport.WithServiceToken(cfg.BearerToken))
	case cfg.Username != "":
		opts = append(opts, elastictransport.WithBasicAuth(cfg.Username, cfg.Password))
	}
	var err error
	if c.tp, err = elastictransport.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("output.elasticsearch: %w", err)
	}
	return c, nil
}

// Close ends what the client keeps open. It waits for no host, so it does its work
// also when ctx has ended.
func (c *Client) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeMost)
	defer cancel()
	for _, tp := range c.hosts {
		tp.CloseIdleConnections()
	}
	return c.tp.Close(ctx)
}

// Hosts are the hosts in words, without credentials.
func (c *Client) Hosts() []string {
	var names []string
	for _, u := range c.cfg.Hosts {
		names = append(names, hostOf(u))
	}
	slices.Sort(names)
	return names
}

func hostOf(u *url.URL) string { return u.Scheme + "://" + u.Host + u.Path }

// sick is an answer that says that its host cannot serve at present.
type sick struct{ *Response }

func (sick) Error() string { return "the host cannot serve at present" }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// asked is where the roundTripper says whom it asked.
type asked struct {
	host  string
	using sync.WaitGroup // bodies that a connection may still read
}

// body is a request's body that says when nobody reads it any more. A connection
// may still be sending when its answer is there already, or when the time is up;
// bytes that are used for something else by then would reach the cluster.
type body struct {
	io.ReadCloser
	done func()
}

func (a *asked) body(r io.ReadCloser) *body {
	a.using.Add(1)
	return &body{ReadCloser: r, done: sync.OnceFunc(a.using.Done)}
}

func (b *body) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}

type askedKey struct{}

// roundTrip is a request to the host that was chosen for it. It never follows
// redirections: nobody does who is no http.Client.
func (c *Client) roundTrip(r *http.Request) (*http.Response, error) {
	tp := c.hosts[r.URL.Host]
	if tp == nil {
		return nil, errors.New("a host that is not configured")
	}
	if a, ok := r.Context().Value(askedKey{}).(*asked); ok {
		a.host = r.URL.Scheme + "://" + r.URL.Host
		if r.Body != nil && r.Body != http.NoBody {
			again := r.GetBody
			r = r.WithContext(r.Context()) // a copy
			r.Body = a.body(r.Body)
			r.GetBody = func() (io.ReadCloser, error) { // for a connection that had ended before it was used
				b, err := again()
				if err != nil {
					return nil, err
				}
				return a.body(b), nil
			}
		}
	}
	resp, err := tp.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		defer resp.Body.Close()
		body, err := c.readAll(resp.Body)
		if err != nil {
			return nil, err
		}
		return nil, sick{&Response{Status: resp.StatusCode, Header: resp.Header, Body: body}}
	}
	return resp, nil
}

// Do implements Doer.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	whom := &asked{}
	ctx = context.WithValue(ctx, askedKey{}, whom)
	body, compressed := r.Body, (*bytes.Buffer)(nil)
	defer func() {
		cancel()
		whom.using.Wait() // then the bytes are free
		if compressed != nil && compressed.Cap() <= maxKept {
			c.buffers.Put(compressed)
		}
	}()
	if c.cfg.CompressionLevel != 0 && len(body) > 1<<10 {
		compressed = c.compress(body)
		body = compressed.Bytes()
	}
	var reader io.Reader
	if len(body) > 0 {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.Path, reader)
	if err != nil {
		return nil, fmt.Errorf("output.elasticsearch: %w", err)
	}
	if len(body) > 0 {
		kind := r.ContentType
		if kind == "" {
			kind = "application/json"
		}
		req.Header.Set("Content-Type", kind)
	}
	if compressed != nil {
		req.Header.Set("Content-Encoding", "gzip")
	}
	if r.Mark != "" {
		req.Header.Set(markHeader, r.Mark)
	}
	resp, err := c.tp.Perform(req)
	var s sick
	switch {
	case errors.As(err, &s):
		s.Host = whom.host
		return s.Response, nil
	case err != nil && whom.host != "":
		return nil, fmt.Errorf("%s: %w", whom.host, unquoted(err))
	case err != nil:
		return nil, unquoted(err)
	}
	defer resp.Body.Close()
	data, err := c.readAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", whom.host, unquoted(err))
	}
	return &Response{Status: resp.StatusCode, Header: resp.Header, Body: data, Host: whom.host}, nil
}

// unquotedError has less text than the error that it wraps.
type unquotedError struct {
	error
	text string
}

func (e unquotedError) Error() string { return e.text }
func (e unquotedError) Unwrap() error { return e.error }

// unquoted is an error that quotes no answer: what is no HTTP may hold anything,
// such as what was sent, with the credentials. Certificates may be quoted.
func unquoted(err error) error {
	const most = 300
	text := err.Error()
	var cert *tls.CertificateVerificationError
	if !errors.As(err, &cert) {
		// net/textproto quotes some things without quotes.
		for _, mark := range []string{`"`, "malformed MIME header"} {
			if at := strings.Index(text, mark); at >= 0 {
				text = strings.TrimSuffix(text[:at+len(mark)], `"`) + "…"
			}
		}
	}
	return unquotedError{err, readable(text, most)}
}

// readAll reads an answer, which the transport has decompressed, within bounds.
func (c *Client) readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, c.cfg.MaxAnswer+1))
	if int64(len(data)) > c.cfg.MaxAnswer {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrAnswerTooLong, c.cfg.MaxAnswer)
	}
	return data, err
}

func (c *Client) compress(body []byte) *bytes.Buffer {
	buf, ok := c.buffers.Get().(*bytes.Buffer)
	if !ok {
		buf = &bytes.Buffer{}
	}
	buf.Reset()
	w, ok := c.writers.Get().(*gzip.Writer)
	if !ok {
		w, _ = gzip.NewWriterLevel(buf, c.cfg.CompressionLevel) // the level was tried
	}
	w.Reset(buf)
	w.Write(body) // a buffer takes everything
	w.Close()
	c.writers.Put(w)
	return buf
}
