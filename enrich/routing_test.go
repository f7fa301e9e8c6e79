package enrich_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/enrich"
	"vtsidecar/internal/event"
)

// What an output that routes is told of each line, over portions and rounds.
func TestRouting(t *testing.T) {
	b := newBench(t, enrich.Config{Routing: true, Routes: []string{"@timestamp", "app.name"}, IDMetadata: true, PortionBytes: 2048}, nil, nil)
	defer b.close()
	var events []string
	for i := range 50 {
		switch i % 5 {
		case 0:
			events = append(events, `{"@timestamp":"2026-01-02T03:04:05Z","app":{"name":"na\u006de"},"@metadata":{"beat":"filebeat"}}`)
		case 1:
			events = append(events, `{"app.name":7,"@metadata":{"_id":"own\"id"},"source":{"ip":"203.0.113.1"}}`)
		case 2:
			events = append(events, `{"@metadata":"text","app":{"name":["x"]}}`)
		case 3:
			events = append(events, `{"no":"`+strings.Repeat("x", 1000)+`"}`)
		case 4:
			events = append(events, `not an event`)
		}
	}
	portions, lines := 0, 0
	require.NoError(t, b.drain(t.Context(), batch(&fakeBudget{t: t}, events...), func(p enrich.Portion) {
		portions++
		require.Len(t, p.Lines.Routing, len(p.Lines.Index))
		begin := 0
		for i, l := range p.Lines.Index {
			line := string(p.Lines.Buf[begin:l.End])
			begin = l.End
			says := p.Lines.Routing[i]
			require.Len(t, says.Values, 2)
			lines++
			switch {
			case strings.Contains(line, `"na\u006d`):
				assert.Equal(t, event.Routing{Meta: []byte(`{"beat":"filebeat"}`), Values: [][]byte{[]byte("2026-01-02T03:04:05Z"), []byte("name")}}, says)
			case strings.Contains(line, `"app.name"`):
				assert.Equal(t, event.Routing{ID: []byte(`own"id`), Meta: []byte(`{"_id":"own\"id"}`), Values: [][]byte{nil, []byte("7")}}, says)
			case strings.Contains(line, `["x"]`):
				assert.Equal(t, event.Routing{Meta: []byte(`"text"`), Values: [][]byte{nil, nil}}, says)
			default:
				assert.Equal(t, event.Routing{Values: [][]byte{nil, nil}}, says)
			}
			assert.NotContains(t, line, "@metadata")
		}
	}))
	assert.Equal(t, 40, lines)
	assert.Greater(t, portions, 5)
}

// A flood of values of other fields does not hide where an event goes.
func TestRoutesAreNoValues(t *testing.T) {
	b := newBench(t, enrich.Config{Routing: true, Routes: []string{"app"}, Fields: specs("source.ip:ip")}, nil, nil)
	defer b.close()
	flood := `{"source":{"ip":[` + strings.Repeat(`"203.0.113.9",`, 10_000) + `"x"]},"app":"here"}`
	require.NoError(t, b.drain(t.Context(), batch(&fakeBudget{t: t}, flood), func(p enrich.Portion) {
		for _, says := range p.Lines.Routing {
			assert.Equal(t, "here", string(says.Values[0]))
		}
	}))
}

// With KeepMetadata the line says itself under which identity it is to be stored.
func TestLinesWithMetadata(t *testing.T) {
	b := newBench(t, enrich.Config{KeepMetadata: true, IDMetadata: true, TrustVerdicts: true}, nil, nil)
	defer b.close()
	for in, id := range map[string]string{
		`{"a":1}`: "",
		`{"@metadata":{"_id":"own\"id","beat":"x"},"a":1}`:                      `own"id`,
		`{"@metadata":{"beat":"x"},"arcanna":{"ioc":{"event_id":"first\"id"}}}`: `first"id`,
	} {
		out, err := b.run(t.Context(), batch(&fakeBudget{t: t}, in))
		require.NoError(t, err)
		var got struct {
			Meta    map[string]string `json:"@metadata"`
			Arcanna struct {
				IOC struct {
					ID string `json:"event_id"`
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(out.lines[0]), &got))
		assert.Equal(t, got.Arcanna.IOC.ID, got.Meta["_id"], in)
		if id != "" {
			assert.Equal(t, id, got.Meta["_id"], in)
		}
		if strings.Contains(in, "beat") {
			assert.Equal(t, "x", got.Meta["beat"], in)
		}
	}
}

// Who handles one receipt more than once says so, and the event is the same each time.
func TestReceiptIsAnIdentityWhereThereIsNoOther(t *testing.T) {
	b := newBench(t, enrich.Config{IDMetadata: true}, nil, nil)
	defer b.close()
	in := batch(&fakeBudget{t: t}, `{"a":1}`, `{"a":1}`, `{"@metadata":{"_id":"own"}}`, `{"log":{"offset":1,"file":{"path":"/x"}},"host":{"name":"h"}}`)
	receipt := event.ID{1, 2, 3}
	for i := range in.Events {
		in.Events[i].Receipt = receipt
	}
	in.Events[1].Receipt = event.ID{}
	out, err := b.run(t.Context(), in)
	require.NoError(t, err)
	assert.Equal(t, receipt, out.ids[0])
	for _, id := range out.ids[1:] {
		assert.NotEqual(t, receipt, id)
	}
}
