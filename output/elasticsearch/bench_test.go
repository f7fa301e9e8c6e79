package elasticsearch

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
)

// echo takes every document, at no cost: its answers are made beforehand.
type echo struct{ answers map[int][]byte }

func (d *echo) Do(_ context.Context, r *Request) (*Response, error) {
	body := d.answers[bytes.Count(r.Body, []byte{'\n'})/2]
	if body == nil {
		return nil, fmt.Errorf("a request of %d bytes that was not foreseen", len(r.Body))
	}
	return &Response{Status: http.StatusOK, Body: body}, nil
}

type noGrave struct{}

func (noGrave) Store(context.Context, []event.DeadLetter) error { return nil }

// benchLines are n events of a Winlogbeat.
func benchLines(n int, routes []string, ownIDs bool) (*event.Lines, []byte) {
	l := &event.Lines{}
	answer := []byte(`{"items":[`)
	for i := range n {
		l.Buf = append(l.Buf, `{"@timestamp":"2026-01-02T03:04:05.678Z","message":"`...)
		l.Buf = append(l.Buf, bytes.Repeat([]byte("an event "), 120)...)
		l.Buf = append(l.Buf, "\"}\n"...)
		line := event.Line{End: len(l.Buf)}
		line.ID[0], line.ID[1], line.ID[2] = byte(i), byte(i>>8), byte(i>>16)
		r := event.Routing{Meta: []byte(`{"beat":"winlogbeat","type":"_doc","version":"8.19.1"}`), Values: make([][]byte, len(routes))}
		id := line.ID.String()
		if ownIDs {
			id = "own-" + strconv.Itoa(i)
			r.ID = []byte(id)
			r.Meta = []byte(`{"beat":"winlogbeat","type":"_doc","version":"8.19.1","_id":"` + id + `"}`)
		}
		for at, path := range routes {
			if path == timestamp {
				r.Values[at] = []byte("2026-01-02T03:04:05.678Z")
			}
		}
		l.Index, l.Routing = append(l.Index, line), append(l.Routing, r)
		if i > 0 {
			answer = append(answer, ',')
		}
		answer = append(answer, `{"create":{"_index":".ds-winlogbeat-8.19.1-2026.01.02-000001","_id":"`+id+`","status":201}}`...)
	}
	return l, append(answer, `]}`...)
}

// BenchmarkStore is the way of an event into a request's body, and its answer's
// into the books: allocs/event is the figure to watch.
func BenchmarkStore(b *testing.B) {
	const events = 8000 // of one request
	for _, bb := range []struct {
		name, index string
		ownIDs      bool
	}{
		{name: "data_streams"},
		{name: "dated", index: DefaultIndex + "-%{+yyyy.MM.dd}"},
		{name: "own_ids", ownIDs: true},
	} {
		b.Run(bb.name, func(b *testing.B) {
			doer := &echo{answers: map[int][]byte{}}
			out, err := Open(Config{Doer: doer, Dead: noGrave{}, Index: bb.index, Workers: 1, BulkMaxBytes: 64 << 20})
			require.NoError(b, err)
			lines, answer := benchLines(events, out.Routes(), bb.ownIDs)
			doer.answers[events] = answer
			b.SetBytes(int64(len(lines.Buf)) / events)
			b.ReportAllocs()
			require.NoError(b, out.Store(b.Context(), lines)) // buffers grow
			b.ResetTimer()
			for n := 0; n < b.N; n += events {
				if err := out.Store(b.Context(), lines); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			require.NoError(b, out.Close(b.Context()))
		})
	}
}
