package elasticsearch

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/event"
)

// inUse is the heap's size after a collection.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What an event took that is larger than a request may be is given back when it
// is stored.
func TestGiantLeavesNoMemory(t *testing.T) {
	const giant = 64 << 20
	id := event.ID{1}.String()
	doer := answering(func(*Request) (*Response, error) {
		return &Response{Status: http.StatusOK, Body: []byte(`{"items":[{"create":{"_id":"` + id + `","status":201}}]}`)}, nil
	})
	out, err := Open(Config{Doer: doer, Dead: noGrave{}, Index: "events"})
	require.NoError(t, err)
	before := inUse()
	store := func() {
		line := append(append([]byte(`{"message":"`), bytes.Repeat([]byte{'x'}, giant)...), "\"}\n"...)
		require.NoError(t, out.Store(t.Context(), &event.Lines{Buf: line, Index: []event.Line{{ID: event.ID{1}, End: len(line)}}}))
	}
	for range 3 { // by one worker or the other
		store()
	}
	assert.Eventually(t, func() bool { return inUse()-before < giant/4 }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, out.Close(t.Context()))
}

// The same of what it took compressed.
func TestGiantLeavesNoBuffer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer s.Close()
	host, err := url.Parse(s.URL)
	require.NoError(t, err)
	c, err := NewClient(ClientConfig{Hosts: []*url.URL{host}, Direct: true, CompressionLevel: 1})
	require.NoError(t, err)
	body := make([]byte, maxKept+1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(body) // never fails
	_, err = c.Do(t.Context(), &Request{Method: http.MethodPost, Path: "/_bulk", Body: body, ContentType: "application/x-ndjson"})
	require.NoError(t, err)
	if kept, ok := c.buffers.Get().(*bytes.Buffer); ok {
		assert.LessOrEqual(t, kept.Cap(), maxKept)
	}
	require.NoError(t, c.Close(t.Context()))
}
