package elasticsearch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/event"
	"vtsidecar/output/elasticsearch"
)

// first answers one bulk with a body of its own, storing nothing; behind it all
// is well.
type first struct {
	body []byte
	then elasticsearch.Doer
	used bool
}

func (d *first) Do(ctx context.Context, r *elasticsearch.Request) (*elasticsearch.Response, error) {
	if d.used {
		return d.then.Do(ctx, r)
	}
	d.used = true
	return &elasticsearch.Response{Status: http.StatusOK, Body: d.body}, nil
}

// An answer behind whose end there is more is two that were mixed up, or worse.
func TestAnswerWithMoreBehindIt(t *testing.T) {
	for _, more := range []string{"x", "{}", "]", "\x00", `,"items":[]`} {
		synctest.Test(t, func(t *testing.T) {
			d := &first{body: []byte(`{"items":[{"create":{"_id":"` + some(0, 1)[0].id + `","status":201}}]}` + more)}
			b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { d.then, c.Doer = c.Doer, d })
			require.NoError(t, b.returned(b.store(t.Context(), some(0, 1)), longest))
			b.once(some(0, 1))
			b.close()
		})
	}
}

// FuzzAnswers holds the reading of answers against encoding/json: an event of
// which a strict reader would not read that it is stored or refused, in an
// answer that is whole, must be sent again.
func FuzzAnswers(f *testing.F) {
	ids := some(0, 2)
	item := func(op, id, rest string) string {
		return `{"` + op + `":{"_index":"events","_id":"` + id + `"` + rest + `}}`
	}
	for _, s := range []string{
		`{"items":[` + item("create", ids[0].id, `,"status":201`) + `,` + item("create", ids[1].id, `,"status":201`) + `]}`,
		`{"took":1,"errors":true,"items":[` + item("create", ids[0].id, `,"status":409,"error":{"type":"version_conflict_engine_exception","reason":"x"}`) + `,` + item("create", ids[1].id, `,"status":400,"error":{"type":"mapper_parsing_exception","reason":"\""}`) + `]}`,
		`{"items":[` + item("create", ids[0].id, `,"status":201,"status":429`) + `,` + item("create", ids[1].id, `,"status":201.0`) + `]}`,
		`{"items":[` + item("create", ids[0].id, `,"status":2e2`) + `,` + item("create", ids[1].id, `,"status":201,"error":null`) + `]}`,
		`{"items":[` + item("create", ids[0].id, `,"status":201`) + `,` + item("create", ids[1].id, `,"status":201,"error":{"type":"x"}`) + `]}`,
		`{"items":[` + item("create", ids[0].id, `,"status":201`) + `,` + item("create", ids[1].id, `,"status":100`) + `]}`,
		`{"items":[` + item("create", ids[0].id, `,"status":201`) + `,` + item("create", ids[1].id, `,"status":201`) + `],"items":[]}`,
		`{"items":[` + item("create", ids[1].id, `,"status":400,"error":{"type":"x"}`) + `,` + item("create", ids[0].id, `,"status":201`) + `]}`,
		`{"items":[{"create":{"status":201}},{"create":{"status":400,"error":{"type":"x"}}}]}`, `{"items":[{"create":{"status":201}},` + item("create", ids[1].id, `,"status":201`) + `]}`,
		`{"items":[` + item("create", ids[0].id, `,"status":201`) + `,` + item("create", ids[1].id, `,"status":201`) + `]}}`,
		`{"items":[` + item("create", ids[0].id, `,"status":201`) + `,` + item("create", ids[1].id, `,"status":201`), `{}`, `null`, ``, `[]`,
	} {
		f.Add([]byte(s), uint16(0))
		f.Add([]byte(s), uint16(1))
	}
	f.Fuzz(func(t *testing.T, body []byte, cut uint16) {
		// The reader believes a little more than it should of what it skips, but
		// nothing of an answer that ends too early.
		if body = bytes.TrimSpace(body); !json.Valid(body) {
			return
		}
		body = body[:max(0, len(body)-int(cut))]
		synctest.Test(t, func(t *testing.T) {
			es := esstandin.New(esstandin.Config{})
			dead := &grave{t: t, es: es, letters: map[string][]event.DeadLetter{}}
			for _, e := range ids {
				dead.allow(e.id) // what the body says of it is all that is known
			}
			out, err := elasticsearch.Open(elasticsearch.Config{Doer: &first{body: body, then: wire{es}}, Dead: dead, Index: "events"})
			require.NoError(t, err)
			done := make(chan error, 1)
			go func() { done <- out.Store(t.Context(), linesOf(out, ids)) }()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(5 * time.Minute): // of the bubble's clock
				require.FailNow(t, "Store does not return")
			}
			require.NoError(t, out.Close(t.Context()))
			said := strictly(body, ids)
			for i, e := range ids {
				stored, buried := len(es.Find(e.id)) == 1, len(dead.of(e.line)) == 1
				if !stored {
					assert.NotZero(t, said[i], "lost: event %d by %q", i, body)
				}
				if buried {
					assert.True(t, said[i] >= 400 && said[i] < 500, "buried: event %d by %q", i, body)
				}
			}
			assert.Empty(t, es.Complaints())
		})
	})
}

// strictly is the status of each event in an answer, where it settles the
// event; 0: it does not, or the answer as a whole is not right.
func strictly(body []byte, events []one) []int {
	none := make([]int, len(events))
	var answer map[string]any
	if json.Unmarshal(body, &answer) != nil {
		return none
	}
	items, _ := answer["items"].([]any)
	if len(items) != len(events) {
		return none
	}
	out, seen, named := make([]int, len(events)), make([]bool, len(events)), 0
	for i, item := range items { // known by their _ids, or by their order where none has one
		ops, _ := item.(map[string]any)
		got, _ := ops["create"].(map[string]any)
		status, _ := got["status"].(float64)
		if id, is := got["_id"]; is && id != "" {
			named++
			i = slices.IndexFunc(events, func(e one) bool { return e.id == id })
		}
		if len(ops) != 1 || i < 0 || seen[i] || status < 200 {
			return none
		}
		seen[i] = true
		if s := int(status); s < 300 && got["error"] == nil || s >= 400 && s < 500 && s != http.StatusTooManyRequests {
			out[i] = s
		}
	}
	if named > 0 && named < len(events) {
		return none
	}
	return out
}
