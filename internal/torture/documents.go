package main

// Trials of what is within an event: JSON that is none, odd JSON that is kept, and
// what an event is known by.

import (
	"errors"
	"fmt"
	"strings"
)

func malformed() []trial {
	bad := func(sent string, doc func(m string) string, shared string) trial {
		return trial{sent: sent, run: func(t *target) (string, error) {
			m, first, last := t.newMark(), t.newMark(), t.newMark()
			raw := doc(m)
			p := t.connect()
			defer p.close()
			p.send(windowOf(marked(first, ""), raw, marked(last, "")))
			p.ack('2', 3)
			if p.err != nil {
				return "", p.err
			}
			err := errors.Join(t.found(first, marked(first, "")), t.found(last, marked(last, "")))
			if err != nil {
				return "", fmt.Errorf("a neighbour: %w", err)
			}
			var d letter
			if shared != "" {
				d, err = t.tail.takeOne(shared)
			} else {
				var lines []string
				var letters []letter
				lines, letters, err = t.tail.take(m)
				if err == nil && (len(letters) != 1 || len(lines) > 0) {
					err = fmt.Errorf("%d dead letters, %d lines", len(letters), len(lines))
				}
				if err == nil {
					d = letters[0]
				}
			}
			if kept := raw[:min(len(raw), 64<<10)]; err == nil && d.raw() != kept {
				err = fmt.Errorf("the dead letter holds other bytes: %.200q", d.raw())
			}
			return "dead letter, neighbours stored, ack 3", errors.Join(err, lettered(d, "malformed", int64(len(raw))))
		}}
	}
	of := func(format string) func(string) string {
		return func(m string) string { return fmt.Sprintf(format, m) }
	}
	deep := func(n int) func(string) string { // n levels in all
		return func(m string) string {
			return marked(m, `,"deep":`+strings.Repeat("[", n-1)+strings.Repeat("]", n-1))
		}
	}
	return []trial{
		bad("a string", of(`"%s"`), ""),
		bad("a number", func(string) string { return "42" }, "42"),
		bad("an array", of(`["%s"]`), ""),
		bad("null", func(string) string { return "null" }, "null"),
		bad("a BOM before the object", of("\ufeff{\"mark\":\"%s\"}"), ""),
		bad("invalid UTF-8", of("{\"mark\":\"%s\",\"a\":\"\xff\xfe\"}"), ""),
		bad("an overlong encoding", of("{\"mark\":\"%s\",\"a\":\"\xc0\xaf\"}"), ""),
		bad("1,001 levels", deep(1001), ""),
		bad("100,000 levels", deep(100_000), ""),
		accepted("1,000 levels", []uint32{1}, 1, func(m string) []byte { return windowOf(deep(1000)(m)) }),
		bad("two values", of(`{"mark":"%s"}{"b":1}`), ""),
		bad("a trailing comma", of(`{"mark":"%s",}`), ""),
		bad("NaN", of(`{"mark":"%s","a":NaN}`), ""),
		bad("a raw control character", of("{\"mark\":\"%s\",\"a\":\"\x01\"}"), ""),
		bad("a raw line break in a string", of("{\"mark\":\"%s\",\"a\":\"x\ny\"}"), ""),
		bad("an object without its end", of(`{"mark":"%s","a":{`), ""),
		bad("blanks only", func(string) string { return "   " }, "   "),
	}
}

// stored sends one event and expects its bytes back.
func stored(sent string, doc, want func(m string) string) trial {
	return trial{sent: sent, run: func(t *target) (string, error) {
		m := t.newMark()
		p := t.connect()
		defer p.close()
		p.send(windowOf(doc(m)))
		p.ack('2', 1)
		if p.err != nil {
			return "", p.err
		}
		return "ack 1, stored as it must be", t.found(m, want(m))
	}}
}

func verbatim() []trial {
	same := func(sent, more string) trial {
		doc := func(m string) string { return marked(m, more) }
		return stored(sent, doc, doc)
	}
	var keys strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&keys, `,"%x":0`, i)
	}
	return []trial{
		same("lone surrogate escapes", `,"a":"\ud800","b":"\udc00\ud800x","\udfff":1`),
		same("duplicate keys", `,"a":1,"a":2,"source":{"ip":"203.0.113.9"},"source":{"ip":"203.0.113.8"}`),
		same("100,000 keys", keys.String()),
		same("2^53+1, 2^64-1, 1e400", `,"a":9007199254740993,"b":18446744073709551615,"c":1e400,"d":-0,"e":1.10,"f":1E+2`),
		same("odd @timestamp", `,"@timestamp":"yesterday, about noon"`),
		same("@timestamp as an object", `,"@timestamp":{"$date":0}`),
		same("escaped keys", `,"sour\u0063e":{"\u0069p":"203.0.113.9"}`),
		same("blanks between tokens", ` , "a" : [ 1 , 2 ] `),
	}
}

func lineBreaks() []trial {
	return []trial{
		stored("LF between tokens", func(m string) string { return "{\n  \"mark\": \"" + m + "\",\n  \"a\": [1,\n2]\n}" },
			func(m string) string { return "{   \"mark\": \"" + m + "\",   \"a\": [1, 2] }" }),
		stored("CR LF between tokens", func(m string) string { return "{\r\n\"mark\":\"" + m + "\",\r\n\"a\":\r1}\r\n" },
			func(m string) string { return "{  \"mark\":\"" + m + "\",  \"a\": 1}" }),
	}
}

func metadataPlaces() []trial {
	plain := func(m string) string { return marked(m, `,"a":1`) }
	return []trial{
		stored("@metadata first", func(m string) string { return `{"@metadata":{"beat":"x"},"mark":"` + m + `","a":1}` }, plain),
		stored("@metadata last", func(m string) string { return marked(m, `,"a":1,"@metadata":{"beat":"x","raw_index":"y"}`) }, plain),
		stored("@metadata between", func(m string) string { return marked(m, `,"@metadata":{"_id":null},"a":1`) }, plain),
		stored("@metadata as a string", func(m string) string { return marked(m, `,"@metadata":"beat","a":1`) }, plain),
		stored("@metadata twice", func(m string) string {
			return `{"@metadata":{"beat":"x"},"mark":"` + m + `","a":1,"@metadata":[1,2]}`
		}, plain),
		stored("@metadata alone beside the mark", func(m string) string { return `{"@metadata":{},"mark":"` + m + `"}` },
			func(m string) string { return marked(m, "") }),
	}
}

func repeats() []trial {
	repeat := func(sent string, doc func(m string) string, one bool) trial {
		return trial{sent: sent, run: func(t *target) (string, error) {
			m := t.newMark()
			// A name that nobody knows yet takes VirusTotal a moment, so both are in flight.
			wire := windowOf(doc(m))
			a, b := t.connect(), t.connect()
			defer a.close()
			defer b.close()
			a.send(wire)
			b.send(wire)
			a.ack('2', 1)
			b.ack('2', 1)
			if err := errors.Join(a.err, b.err); err != nil {
				return "", err
			}
			lines, _, err := t.tail.take(m)
			if err != nil {
				return "", err
			}
			if len(lines) != 2 {
				return "", fmt.Errorf("%d lines", len(lines))
			}
			ids := [2]string{identity(lines[0]), identity(lines[1])}
			switch {
			case len(ids[0]) != 32 && !strings.HasPrefix(ids[0], "id-"):
				return "", fmt.Errorf("no identity: %q", ids[0])
			case one && ids[0] != ids[1]:
				return "", fmt.Errorf("two identities: %s and %s", ids[0], ids[1])
			case !one && ids[0] == ids[1]:
				return "", fmt.Errorf("one identity of events without a position: %s", ids[0])
			case one:
				return "both acked, one identity", nil
			}
			return "both acked, an identity each", nil
		}}
	}
	name := func(m string) string {
		return `,"dns":{"question":{"name":"` + strings.TrimSuffix(m, "-") + `.example.org"}}`
	}
	return []trial{
		repeat("a position", func(m string) string {
			return marked(m, name(m)+`,"log":{"offset":7,"file":{"path":"/x"}},"input":{"type":"log"},"agent":{"id":"a"},"host":{"name":"h"}`)
		}, true),
		repeat("an _id", func(m string) string { return marked(m, name(m)+`,"@metadata":{"_id":"id-`+m+`"}`) }, true),
		repeat("neither", func(m string) string { return marked(m, name(m)) }, false),
	}
}

// identity is the event_id of a stored line.
func identity(line string) string {
	_, rest, _ := strings.Cut(line, `"event_id":"`)
	id, _, _ := strings.Cut(rest, `"`)
	return id
}
