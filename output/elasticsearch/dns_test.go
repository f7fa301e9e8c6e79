package elasticsearch_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"vtsidecar/internal/esstandin"
	"vtsidecar/output/elasticsearch"
)

// names is a DNS server that knows one address for all names.
type names struct {
	address atomic.Pointer[netip.Addr]
	asked   atomic.Int64
}

// resolver asks n and nobody else.
func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go n.serve(theirs)
		return ours, nil
	}}
}

// serve answers over a stream, until it ends.
func (n *names) serve(conn net.Conn) {
	defer conn.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(query) != nil || len(m.Questions) != 1 {
			return
		}
		m.Response, m.Additionals = true, nil
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
			n.asked.Add(1)
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 3600}, // nobody here has to care
				Body:   &dnsmessage.AResource{A: n.address.Load().As4()},
			}}
		}
		answer, err := m.AppendPack(make([]byte, 2))
		if err != nil {
			return
		}
		binary.BigEndian.PutUint16(answer, uint16(len(answer)-2))
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// A cluster that moves to another address under the same name is found there,
// without a restart.
func TestAddressOfANameChanges(t *testing.T) {
	begin := func(address string, es *esstandin.Server) *httptest.Server {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("another address of this machine is needed: %v", err)
		}
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: es}}
		s.Start()
		t.Cleanup(func() { es.Close(); s.Close() })
		return s
	}
	first, second := esstandin.New(esstandin.Config{}), esstandin.New(esstandin.Config{})
	from := begin("127.0.0.1:0", first)
	at := netip.MustParseAddrPort(from.Listener.Addr().String())
	begin(fmt.Sprint("127.0.0.2:", at.Port()), second)

	dns := &names{}
	known := func(a string) { addr := netip.MustParseAddr(a); dns.address.Store(&addr) }
	known("127.0.0.1")
	was := net.DefaultResolver
	net.DefaultResolver = dns.resolver()
	defer func() { net.DefaultResolver = was }()

	b := over(t, first, elasticsearch.ClientConfig{Hosts: []*url.URL{{Scheme: "http", Host: fmt.Sprint("es.example:", at.Port())}}})
	require.NoError(t, b.returned(b.store(t.Context(), some(0, 10)), patience))
	b.once(some(0, 10))

	known("127.0.0.2")
	from.Close()
	b.es, b.dead.es = second, second
	require.NoError(t, b.returned(b.store(t.Context(), some(10, 20)), patience))
	b.once(some(10, 20))
	assert.GreaterOrEqual(t, dns.asked.Load(), int64(2))
	b.close()
}
