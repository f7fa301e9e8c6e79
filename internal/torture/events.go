package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// maker makes the events of healthy senders out of nothing but the sender's
// name and a number, so that what was stored can be made again and compared.
// The zero value makes events whose indicators come from small pools.
type maker struct {
	fresh     uint64 // one event in so many asks for a name that nobody asked for yet; 0: none
	malformed uint64 // one event in so many is no JSON; 0: none
}

// bad is whether the event belongs into the dead letter.
func (m *maker) bad(n uint64) bool { return m.malformed > 0 && n%m.malformed == 0 }

// metadata stands last in an event, and is what the output has no trace of.
const metadata = `,"@metadata":{"beat":"filebeat","type":"_doc","version":"7.17.29"}}`

// event is the event as it is sent. Its first part, up to metadata, is what must
// begin the line that is stored.
func (m *maker) event(dst []byte, name string, n uint64) []byte {
	dst = m.body(dst, name, n)
	if m.bad(n) {
		dst = append(dst, ',')
	}
	return append(dst, metadata...)
}

func (m *maker) body(dst []byte, name string, n uint64) []byte {
	put := func(parts ...string) {
		for _, p := range parts {
			dst = append(dst, p...)
		}
	}
	number := func(n uint64) { dst = strconv.AppendUint(dst, n, 10) }
	put(opening, name, `","n":`)
	number(n)
	// The position in a source is what makes a resend the same event.
	put(`,"@timestamp":"2026-01-02T03:04:05.678Z","log":{"offset":`)
	number(n * 100)
	put(`,"file":{"path":"/var/log/`, name, `.log"}},"input":{"type":"log"},"ecs":{"version":"1.12.0"}`)
	put(`,"agent":{"type":"filebeat","id":"`, name, `","version":"7.17.29","name":"`, name, `"},"host":{"name":"`, name, `.example.com"}`)
	put(`,"source":{"ip":"203.0.113.`)
	number(n % 250)
	put(`"},"dns":{"question":{"type":"A","name":"`)
	if m.fresh > 0 && n%m.fresh == 0 {
		put("host")
		number(n)
		put(".", name)
	} else {
		put("host")
		number(n / 3 % 500)
	}
	put(`.zone.example.net"}},"odd":{"big":9007199254740993,"scale":1.10,"zero":-0,"text":"a\u00e9\\b \"c\" é"}`)
	put(`,"message":"request `)
	number(n * 2654435761 % 1e9)
	put(` of user `)
	number(n % 5000)
	put(` served in 12 ms"`)
	return dst
}

const opening = `{"client":"`

// author says whose event a stored line is, and which.
func author(line []byte) (name string, n uint64, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(opening))
	if !ok {
		return "", 0, false
	}
	who, rest, ok := bytes.Cut(rest, []byte(`","n":`))
	if !ok || len(who) > 32 {
		return "", 0, false
	}
	for len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' {
		n = n*10 + uint64(rest[0]-'0')
		rest = rest[1:]
	}
	return string(who), n, true
}

var errAltered = errors.New("altered")

// held compares a stored line with the event that it must hold: the event's own
// bytes first, then what was added, one JSON object in all.
func (m *maker) held(line []byte, name string, n uint64) error {
	want := m.body(nil, name, n)
	rest, ok := bytes.CutPrefix(line, want)
	if !ok || !bytes.HasPrefix(rest, []byte(",")) || !bytes.HasSuffix(rest, []byte("}")) {
		return fmt.Errorf("%w: sent %s, stored %s", errAltered, want, line)
	}
	if !bytes.Contains(rest, []byte(`"arcanna":{"ioc":{"event_id":"`)) {
		return fmt.Errorf("not enriched: %s", line)
	}
	if bytes.Contains(rest, []byte("@metadata")) {
		return fmt.Errorf("%w: @metadata was stored: %s", errAltered, line)
	}
	return nil
}
