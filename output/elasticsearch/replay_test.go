package elasticsearch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/event"
	"vtsidecar/output/elasticsearch"
)

// TestReplay: letters go where their Targets say, whatever the settings and the
// event say now; what is refused again comes back, each by its place, also twins.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.Index = "elsewhere" })
		b.es.PutPipeline("mended")
		letter := func(n int, target event.Target) event.DeadLetter {
			e := some(n, n+1)[0]
			return event.DeadLetter{Reason: "refused", Event: []byte(e.line), Length: int64(len(e.line)), Status: 400, Target: &target}
		}
		letters := []event.DeadLetter{
			letter(0, event.Target{ID: `a"\é`, Index: "logs-a-b", Pipeline: "mended", Op: "create"}),
			letter(1, event.Target{ID: "bad", Index: "events", Op: "create"}),
			letter(1, event.Target{ID: "bad", Index: "events", Op: "create"}),
			letter(2, event.Target{ID: "c", Index: "events", Op: "index"}),
			letter(3, event.Target{ID: "d", Index: "events", Pipeline: "missing", Op: "create"}),
		}
		for i := range letters {
			require.Empty(t, elasticsearch.CanReplay(&letters[i]))
		}
		b.es.SetRules(esstandin.Rule{Match: "bad", Status: 400})
		refused, err := b.out.Replay(t.Context(), letters)
		require.NoError(t, err)
		require.Len(t, refused, 5)
		assert.Nil(t, refused[0])
		assert.Nil(t, refused[3])
		for _, i := range []int{1, 2, 4} {
			require.NotNil(t, refused[i], i)
			assert.Equal(t, 400, refused[i].Status)
			assert.NotEmpty(t, refused[i].Detail)
			assert.Equal(t, letters[i].Target, refused[i].Target)
			assert.Equal(t, letters[i].Event, refused[i].Event)
		}
		assert.Equal(t, "refused", refused[1].Reason)
		assert.Equal(t, "pipeline", refused[4].Reason)
		doc := b.es.Find(`a"\é`)
		require.Len(t, doc, 1)
		assert.Contains(t, doc[0].Index, "logs-a-b")
		assert.Equal(t, "mended", doc[0].Pipeline)
		assert.Empty(t, b.dead.letters, "what is refused again is the caller's")

		// After the mend, and with what is stored already: once.
		b.es.SetRules()
		b.es.PutPipeline("missing")
		refused, err = b.out.Replay(t.Context(), letters[:2])
		require.NoError(t, err)
		assert.Equal(t, []*event.DeadLetter{nil, nil}, refused)
		assert.EqualValues(t, 1, b.es.Find(`a"\é`)[0].Version)
		require.Len(t, b.es.Find("bad"), 1)

		// While nothing is taken it waits, as long as it may.
		require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "refused"}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = b.out.Replay(ctx, letters[4:])
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, b.es.SetFaults())
		require.NoError(t, b.out.Close(t.Context()))
		b.es.Close()
	})
}

func TestWhatCannotBeReplayed(t *testing.T) {
	whole := event.DeadLetter{Event: []byte(`{}`), Length: 2, Target: &event.Target{ID: "a", Index: "b", Op: "create"}}
	require.Empty(t, elasticsearch.CanReplay(&whole))
	for name, change := range map[string]func(*event.DeadLetter){
		"no target":    func(l *event.DeadLetter) { l.Target = nil },
		"no id":        func(l *event.DeadLetter) { l.Target = &event.Target{Index: "b", Op: "create"} },
		"another op":   func(l *event.DeadLetter) { l.Target = &event.Target{ID: "a", Index: "b", Op: "delete"} },
		"a part only":  func(l *event.DeadLetter) { l.Length = 3 },
		"several rows": func(l *event.DeadLetter) { l.Event, l.Length = []byte("{\n}"), 3 },
		"nothing":      func(l *event.DeadLetter) { l.Event, l.Length = nil, 0 },
	} {
		l := whole
		change(&l)
		assert.NotEmpty(t, elasticsearch.CanReplay(&l), name)
	}
}

// TestStoreOr: what is refused goes to the dead letter of that call.
func TestStoreOr(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 400})
		other := graveyard{}
		lines := linesOf(b.out, some(0, 5))
		require.NoError(t, b.out.StoreOr(t.Context(), lines, &other))
		clear(lines.Buf)
		require.Len(t, other, 1)
		assert.Contains(t, string(other[0].Event), word(3), "it is its own")
		assert.Empty(t, b.dead.letters)
		b.close()
	})
}

type graveyard []event.DeadLetter

func (g *graveyard) Store(_ context.Context, letters []event.DeadLetter) error {
	*g = append(*g, letters...)
	return nil
}
