package lumber

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// Who measures the memory of connections must not be at both of their ends: the
// clients are a process of their own, which is this one with crowdVariable set.
const crowdVariable = "LUMBER_TEST_CROWD"

func TestMain(m *testing.M) {
	if order := os.Getenv(crowdVariable); order != "" {
		if err := beCrowd(order); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// crowd is what the process of clients is told.
type crowd struct {
	Address string
	N       int
	TLS     bool
	Roots   []byte // of the server, DER
	Chain   [][]byte
	Key     []byte // PKCS #8
}

// beCrowd opens connections, sends two windows on each, says so and holds them
// until stdin ends.
func beCrowd(order string) error {
	var c crowd
	if err := json.Unmarshal([]byte(order), &c); err != nil {
		return err
	}
	var secure *tls.Config
	if c.TLS {
		root, err := x509.ParseCertificate(c.Roots)
		if err != nil {
			return err
		}
		key, err := x509.ParsePKCS8PrivateKey(c.Key)
		if err != nil {
			return err
		}
		// Records as large as they may be: what they leave behind is largest too.
		secure = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1", DynamicRecordSizingDisabled: true,
			Certificates: []tls.Certificate{{Certificate: c.Chain, PrivateKey: key}}}
		secure.RootCAs.AddCert(root)
	}
	large := bytes.Repeat(jsonFrame(4, string(bytes.Repeat([]byte{'x'}, 20_000))), 4)
	windows := join(windowFrame('2', 4), large, three)
	open := make([]net.Conn, c.N) // else the collector would close them
	one := func(i int) error {
		conn, err := net.Dial("tcp", c.Address)
		if err != nil {
			return err
		}
		open[i] = conn
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if secure != nil {
			conn = tls.Client(conn, secure)
		}
		if _, err := conn.Write(windows); err != nil {
			return err
		}
		_, err = io.ReadFull(conn, make([]byte, 2*headerSize))
		return err
	}
	var all sync.WaitGroup
	errs := make(chan error, c.N)
	places := make(chan struct{}, 8)
	for i := range c.N {
		places <- struct{}{}
		all.Go(func() {
			errs <- one(i)
			<-places
		})
	}
	all.Wait()
	for range c.N {
		if err := <-errs; err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(open)
	return nil
}

// gather starts a crowd and returns when all of it is idle; leave ends it.
func gather(t *testing.T, c crowd) (leave func()) {
	t.Helper()
	order, err := json.Marshal(c)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crowdVariable+"="+string(order))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	return func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	}
}

// live is what the heap and the stacks of this process hold.
func live() int64 {
	runtime.GC()
	runtime.GC() // stacks shrink in one, are counted as free in the next
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() + samples[1].Value.Uint64())
}

// 2,000 connections between their windows cost what the design says: they hold
// no buffer.
func TestIdleConnectionsAreCheap(t *testing.T) {
	n := 2000
	if testing.Short() || underRace {
		n = 200
	}
	ca := newAuthority(t)
	until := time.Now().Add(time.Hour)
	client := ca.issue(until)
	key, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
	require.NoError(t, err)
	mutual := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.issue(until)},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool, SessionTicketsDisabled: true}
	for _, tt := range []struct {
		name string
		tls  *tls.Config
		most int64
	}{
		{"plain", nil, 8 << 10},
		{"mutual TLS", mutual, 40 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, Config{TLS: tt.tls}, discard{})
			of := func(n int) crowd {
				return crowd{Address: s.addr, N: n, TLS: tt.tls != nil, Roots: ca.cert.Raw, Chain: client.Certificate, Key: key}
			}
			gone := func() {
				require.Eventually(t, func() bool { return s.Stats().Connections == 0 }, patience, time.Millisecond)
			}
			gather(t, of(100))() // the pools are no connection's
			gone()
			before := live()
			leave := gather(t, of(n))
			require.Equal(t, n, s.Stats().Connections)
			// An ack may reach the client before its window has given back what it held.
			require.Eventually(t, func() bool { return s.held() == 0 }, patience, time.Millisecond)
			each := (live() - before) / int64(n)
			t.Logf("%d bytes for each of %d connections", each, n)
			if !underRace {
				assert.LessOrEqual(t, each, tt.most)
			}
			leave()
			gone()
		})
	}
}
