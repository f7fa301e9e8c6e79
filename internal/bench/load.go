package main

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"vtsidecar/internal/vtstandin"
)

// The load: what a few busy Filebeats send.
const (
	connections = 4
	windowSize  = 2048
	inFlight    = 2  // windows of a connection
	distinct    = 32 // windows that are made; they are sent over and over
	perPool     = 1500
	hitRate     = 0.95 // of values that come from the pools
)

// The pools of values that the cache knows: two fields of addresses share one.
const (
	poolIP = iota
	poolDomain
	poolURL
	poolFile
	poolProcess
	pools
)

// window is a window as it goes over the wire: a W frame and a C frame with
// all its events.
type window struct {
	wire   []byte
	events int
	json   int // bytes of JSON
}

// generator makes events that look like Filebeat's over JSON logs: its own
// fields around six that hold indicators, keys in random order as libbeat
// sends them, values as often as they are met in the world (few very often,
// most hardly ever).
type generator struct {
	rnd    *rand.Rand
	zipf   *rand.Zipf
	known  [pools][perPool]string
	unseen int // values outside the pools so far
	offset int // of the last event; tells events apart
}

func newGenerator() *generator {
	rnd := rand.New(rand.NewPCG(7, 42))
	g := &generator{rnd: rnd, zipf: rand.NewZipf(rnd, 1.02, 4, perPool-1)}
	for pool := range pools {
		for i := range perPool {
			g.known[pool][i] = value(pool, i)
		}
	}
	return g
}

// typeOf is the type of a pool's values, in the stand-in's words.
var typeOf = [pools]string{vtstandin.IP, vtstandin.Domain, vtstandin.URL, vtstandin.Hash, vtstandin.Hash}

// value is number i of a pool; beyond perPool it is one that nobody has met.
//
// The stand-in calls one value in ten malicious or suspicious. In the world hits
// are rare, and an event that is none is shorter; so one in a hundred is kept.
func value(pool, i int) string {
	for salt := 0; ; salt++ {
		v := spell(pool, i, salt)
		if i >= perPool || i%100 == 93 {
			return v
		}
		if o, _ := vtstandin.Expected(typeOf[pool], v); o.Malicious+o.Suspicious == 0 {
			return v
		}
	}
}

func spell(pool, i, salt int) string {
	switch pool {
	case poolIP:
		return fmt.Sprintf("%d.%d.%d.%d", 20+i%60, i/60%250, i/15000%250, 1+salt)
	case poolDomain:
		return fmt.Sprintf("host%d.zone%d.example.com", i, salt)
	case poolURL:
		return fmt.Sprintf("https://www%d.example.net/login/%d", i, salt)
	default:
		r := rand.New(rand.NewPCG(uint64(pool)<<32|uint64(salt), uint64(i)))
		return fmt.Sprintf("%016x%016x%016x%016x", r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64())
	}
}

func (g *generator) pick(pool int) string {
	if g.rnd.Float64() < hitRate {
		return g.known[pool][g.zipf.Uint64()]
	}
	g.unseen++
	return value(pool, perPool+g.unseen)
}

// object writes members in random order.
func (g *generator) object(members ...string) string {
	g.rnd.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return "{" + strings.Join(members, ",") + "}"
}

func (g *generator) event() []byte {
	g.offset++
	return g.render(g.pick(poolIP), g.pick(poolIP), g.pick(poolDomain), g.pick(poolURL), g.pick(poolFile), g.pick(poolProcess))
}

func (g *generator) render(source, destination, domain, url, file, process string) []byte {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(g.offset) * time.Millisecond).Format("2006-01-02T15:04:05.000Z")
	return []byte(g.object(
		`"@timestamp":"`+at+`"`,
		`"@metadata":`+g.object(`"beat":"filebeat"`, `"type":"_doc"`, `"version":"7.17.29"`),
		`"log":`+g.object(fmt.Sprintf(`"offset":%d`, g.offset), `"file":{"path":"/var/log/gateway/access.json"}`),
		`"input":{"type":"log"}`,
		`"ecs":{"version":"1.12.0"}`,
		`"host":{"name":"gateway-07.dc2.example.com"}`,
		`"agent":`+g.object(`"id":"6f2b0c1e-8d57-4f0e-9f43-0f0a7a3b9c11"`, `"ephemeral_id":"b3d1c7aa-52e4-4c1b-8d8e-2b9a6f5e7d20"`,
			`"name":"gateway-07"`, `"hostname":"gateway-07.dc2.example.com"`, `"type":"filebeat"`, `"version":"7.17.29"`),
		`"source":`+g.object(`"ip":"`+source+`"`, `"port":51544`),
		`"destination":`+g.object(`"ip":"`+destination+`"`, `"port":443`),
		`"dns":{"question":`+g.object(`"name":"`+domain+`"`, `"type":"A"`)+`}`,
		`"url":{"full":"`+url+`"}`,
		`"file":{"hash":{"sha256":"`+file+`"}}`,
		`"process":`+g.object(`"hash":{"sha256":"`+process+`"}`, `"name":"proxy"`),
		`"http":`+g.object(`"request":{"method":"GET"}`, `"response":`+g.object(`"status_code":200`, fmt.Sprintf(`"body":{"bytes":%d}`, 500+g.rnd.IntN(40000)))),
		fmt.Sprintf(`"message":"request %016x%04x of user%d served in %d ms"`, g.rnd.Uint64(), g.rnd.IntN(1<<16), g.rnd.IntN(5000), g.rnd.IntN(900)),
	))
}

// pack makes a window of events as libbeat does, at compression level 3.
func pack(events [][]byte) window {
	var body bytes.Buffer
	z, _ := zlib.NewWriterLevel(&body, 3) // 3 is a level
	size := 0
	for i, e := range events {
		head := [10]byte{'2', 'J'}
		binary.BigEndian.PutUint32(head[2:], uint32(i+1))
		binary.BigEndian.PutUint32(head[6:], uint32(len(e)))
		_, _ = z.Write(head[:]) // a bytes.Buffer takes everything
		_, _ = z.Write(e)
		size += len(e)
	}
	_ = z.Close()
	wire := []byte{'2', 'W'}
	wire = binary.BigEndian.AppendUint32(wire, uint32(len(events)))
	wire = append(wire, '2', 'C')
	wire = binary.BigEndian.AppendUint32(wire, uint32(body.Len()))
	return window{wire: append(wire, body.Bytes()...), events: len(events), json: size}
}

// load are the windows of the benchmark.
func load() []window {
	g := newGenerator()
	windows := make([]window, distinct)
	for w := range windows {
		events := make([][]byte, windowSize)
		for i := range events {
			events[i] = g.event()
		}
		windows[w] = pack(events)
	}
	return windows
}

// known is one window or more that hold every value of the pools: what the
// cache is filled with before anything is measured.
func known() []window {
	g := &generator{rnd: rand.New(rand.NewPCG(1, 1)), offset: 1 << 30}
	var events [][]byte
	for i := range perPool {
		g.offset++
		events = append(events, g.render(value(poolIP, i), value(poolIP, i), value(poolDomain, i), value(poolURL, i), value(poolFile, i), value(poolProcess, i)))
	}
	return []window{pack(events)}
}

// send sends total windows over the connections, windows in turn, and returns
// when the last is acknowledged.
func send(address string, windows []window, total int) error {
	return sendOver(connections, address, windows, total)
}

func sendOver(connections int, address string, windows []window, total int) error {
	var g errgroup.Group
	for c := range min(connections, total) {
		g.Go(func() error {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				return err
			}
			defer conn.Close()
			return talk(conn, windows, c, connections, total)
		})
	}
	return g.Wait()
}

// talk sends every window whose number is first and then each one that is
// connections further on, two at a time in flight.
func talk(conn net.Conn, windows []window, first, connections, total int) error {
	var g errgroup.Group
	slots := make(chan int, inFlight) // the sizes of the windows in flight, which are their acks
	g.Go(func() error {
		defer close(slots)
		for n := first; n < total; n += connections {
			w := windows[n%len(windows)]
			slots <- w.events
			if _, err := conn.Write(w.wire); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		// Taking a slot out before its ack came would let a third window go; so
		// the ack is read first.
		r := bufio.NewReader(conn)
		for n := first; n < total; n += connections {
			seq, err := readAck(r)
			if err == nil {
				if want := <-slots; seq != want {
					err = fmt.Errorf("ack %d instead of %d", seq, want)
				}
			}
			if err != nil {
				conn.Close() // ends the writer
				for range slots {
				}
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// readAck is the next ack that is not a keepalive.
func readAck(r io.Reader) (int, error) {
	for {
		var frame [6]byte
		if _, err := io.ReadFull(r, frame[:]); err != nil {
			return 0, fmt.Errorf("read ack: %w", err)
		}
		if string(frame[:2]) != "2A" {
			return 0, fmt.Errorf("a frame %q instead of an ack", frame[:2])
		}
		if seq := binary.BigEndian.Uint32(frame[2:]); seq > 0 {
			return int(seq), nil
		}
	}
}
