package elasticsearch

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answering is a Doer that is a function.
type answering func(*Request) (*Response, error)

func (f answering) Do(_ context.Context, r *Request) (*Response, error) { return f(r) }

// Of a Store that was given up nothing stays for long, however many senders come
// again and again while nothing is taken.
func TestNothingStaysOfStoresGivenUp(t *testing.T) {
	for name, doer := range map[string]answering{
		"away": func(*Request) (*Response, error) { return nil, errors.New("connection refused") },
		"busy": func(r *Request) (*Response, error) { // each event in turn
			var items []string
			for i, line := range strings.Split(strings.TrimSuffix(string(r.Body), "\n"), "\n") {
				if i%2 == 0 {
					_, id, _ := strings.Cut(line, `"_id":"`)
					items = append(items, `{"create":{"_id":"`+strings.TrimSuffix(id, `"}}`)+`","status":429,"error":{"type":"x"}}}`)
				}
			}
			return &Response{Status: http.StatusOK, Body: []byte(`{"items":[` + strings.Join(items, ",") + `]}`)}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out, err := Open(Config{Doer: doer, Dead: noGrave{}, Index: "events"})
				require.NoError(t, err)
				lines, _ := benchLines(3, out.Routes(), false)
				long, end := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- out.Store(long, lines) }()
				for range 2000 {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
					require.ErrorIs(t, out.Store(ctx, lines), context.DeadlineExceeded)
					cancel()
				}
				out.mu.Lock()
				assert.Less(t, len(out.queue)+len(out.later), 200)
				assert.Less(t, cap(out.queue)+cap(out.later), 1000)
				assert.Len(t, out.jobs, 1)
				out.mu.Unlock()
				end()
				require.ErrorIs(t, <-done, context.Canceled)
				require.NoError(t, out.Close(t.Context()))
			})
		})
	}
}
