package elasticsearch

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
)

// oddMetas are @metadata of which each says something else, but for an _id.
var oddMetas = []string{
	`{"_id":"a","index":"logs-a-a"}`, `{"_id":"a","index":"logs-a-b"}`, `{"index":"logs-a-c","_id":"a"}`, `{ "_id" : "a\"","index":"logs-a-d" }`,
	`{"_id":"a","_id":"b","index":"logs-a-e"}`, `{"x":{"_id":"a"},"index":"logs-a-f"}`, `{"x":["_id",{"_id":"a"}],"index":"logs-a-g"}`,
	`{"x":"_id","index":"logs-a-h"}`, `{"x":"\"_id\":\"","index":"logs-a-i"}`, `{"_id":{"x":"a"},"index":"logs-a-j"}`, `{"_id":7,"index":"logs-a-k"}`,
	`{"_id":"","index":"logs-a-l"}`, `{"\u005fid":"a","index":"logs-a-m"}`, `{"_id":null,"index":"logs-a-n"}`, `{"_id":["a"],"index":"logs-a-o"}`,
	`{"_id":"a","pipeline":"p"}`, `{"_id":"a","beat":"filebeat","version":"1"}`, `{"_id":"a"}`, `{"_id":"b"}`, `{"x":{"_id":"a"}}`, `{"x":{"_id":"b"}}`, `"_id"`, `["_id","a"]`, `{}`, ``, `{"_id":"`, `{"_id":`, `{"_id"`, `{"_id`,
}

// What is remembered of an event's route is what a fresh look at it finds.
func FuzzRemembered(f *testing.F) {
	for _, a := range oddMetas {
		for _, b := range oddMetas {
			f.Add(a, b)
		}
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, index := range []string{"", "logs-%{[@metadata][_id]}-x", "logs-%{[@metadata][x][_id]}-x"} {
			r, err := newRouting(&Config{Index: index, Pipeline: DefaultPipeline, OpType: "create", AllowedIndices: DefaultAllowed, FallbackIndex: DefaultFallback})
			require.NoError(t, err)
			router := newRouter(r)
			for _, meta := range []string{a, b, a} {
				e := &event.Routing{Meta: []byte(meta), Values: make([][]byte, len(r.paths))}
				assert.Equal(t, newRouter(r).find(e), router.of(e), "%q behind %q", meta, a)
			}
		}
	})
}

// Events that differ in their _id alone have one route, which is found once.
func TestRoutesAreRememberedWithoutTheID(t *testing.T) {
	r, err := newRouting(&Config{Pipeline: DefaultPipeline, OpType: "create", AllowedIndices: DefaultAllowed, FallbackIndex: DefaultFallback})
	require.NoError(t, err)
	router := newRouter(r)
	for i := range 100 {
		for _, meta := range []string{`{"_id":"%d","beat":"filebeat","version":"1"}`, `{"beat":"filebeat", "_id" : "\"%d"}`} {
			router.of(&event.Routing{Meta: fmt.Appendf(nil, meta, i), Values: make([][]byte, len(r.paths))})
		}
	}
	assert.Len(t, router.known, 2)
}

// What is remembered is bounded, whatever events say.
func TestFewRoutesAreRemembered(t *testing.T) {
	r, err := newRouting(&Config{Pipeline: DefaultPipeline, OpType: "create", AllowedIndices: DefaultAllowed, FallbackIndex: DefaultFallback})
	require.NoError(t, err)
	router := newRouter(r)
	for i := range 5 * maxRoutes {
		router.of(&event.Routing{Meta: fmt.Appendf(nil, `{"beat":"filebeat","version":"%d"}`, i)})
		assert.LessOrEqual(t, max(len(router.known), len(router.made)), maxRoutes)
	}
	known := len(router.known)
	router.of(&event.Routing{Meta: fmt.Appendf(nil, `{"beat":"filebeat","version":"1","x":"%01024d"}`, 1)})
	assert.Len(t, router.known, known, "what is long does not come again")
}
