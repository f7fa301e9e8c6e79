package elasticsearch_test

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/faketime"
	"vtsidecar/output/elasticsearch"
)

// watchEvery is Config.Watch of these tests.
const watchEvery = 10 * time.Second

// road is the way to a stand-in. It may be closed, or have something on it that
// answers instead.
type road struct {
	elasticsearch.Doer

	mu     sync.Mutex
	closed bool
	silent bool // nothing is refused, nothing is answered
	root   int  // status of the answers to questions; 0: the stand-in's
	asked  int  // questions
}

func (r *road) Do(ctx context.Context, req *elasticsearch.Request) (*elasticsearch.Response, error) {
	question := req.Method == http.MethodGet && req.Path == "/"
	r.mu.Lock()
	if question {
		r.asked++
	}
	closed, silent, root := r.closed, r.silent, r.root
	r.mu.Unlock()
	switch {
	case closed:
		return nil, syscall.ECONNREFUSED
	case silent:
		<-ctx.Done()
		return nil, context.Cause(ctx)
	case question && root != 0:
		return &elasticsearch.Response{Status: root, Host: "es.test"}, nil
	}
	return r.Doer.Do(ctx, req)
}

func (r *road) set(f func(*road)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

func (r *road) questions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// watched opens an output that asks, over a road in a state.
func watched(t *testing.T, state func(*road), change ...func(*elasticsearch.Config)) (*bench, *road) {
	t.Helper()
	r := &road{}
	state(r)
	b := open(t, esstandin.Config{}, append([]func(*elasticsearch.Config){func(c *elasticsearch.Config) {
		r.Doer, c.Doer, c.Watch = c.Doer, r, watchEvery
	}}, change...)...)
	return b, r
}

// Without any event it is known within moments that the cluster is not there, and
// soon that it is again. The log says both once, however long it lasts.
func TestIdleOutage(t *testing.T) {
	for name, tt := range map[string]struct {
		state func(*road)
		words string
		soon  time.Duration // until it is known
	}{
		"refused":        {func(r *road) { r.closed = true }, "no answer", 2 * time.Second},
		"hangs":          {func(r *road) { r.silent = true }, "no answer", 25 * time.Second},
		"balancer":       {func(r *road) { r.root = 503 }, "503", 2 * time.Second},
		"wrong password": {func(r *road) { r.root = 401 }, "credentials", time.Second},
		"proxy":          {func(r *road) { r.root = 407 }, "output.elasticsearch.proxy_url", 25 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, r := watched(t, tt.state)
				faketime.Pass(t, tt.soon)
				require.ErrorContains(t, b.out.Ready(), tt.words)
				for range 100 {
					faketime.Pass(t, 7*time.Second)
					require.ErrorContains(t, b.out.Ready(), tt.words)
				}
				r.set(func(r *road) { r.closed, r.silent, r.root = false, false, 0 })
				faketime.Pass(t, 2*watchEvery)
				require.NoError(t, b.out.Ready())
				assert.Equal(t, 2, strings.Count(b.log.String(), "\n"), "%s", b.log)
				b.close()
			})
		})
	}
}

// After an hour without the cluster the first event that comes when it is back, or
// that waited for it, is stored soon: the pauses, which have grown, are cut short.
func TestQuestionsEndPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := watched(t, func(r *road) { r.closed = true })
		events := some(0, 2)
		waits := b.store(t.Context(), events[:1])
		faketime.Pass(t, time.Hour)
		for i := range 20 { // wherever in a pause it is
			r.set(func(r *road) { r.closed = false })
			require.NoError(t, b.returned(waits, watchEvery+time.Second))
			require.NoError(t, b.out.Ready())
			r.set(func(r *road) { r.closed = true })
			events = append(events, some(2+i, 3+i)...)
			waits = b.store(t.Context(), events[len(events)-1:])
			faketime.Pass(t, time.Hour+time.Duration(i)*7*time.Second)
		}
		r.set(func(r *road) { r.closed = false })
		require.NoError(t, b.returned(waits, watchEvery+time.Second))
		require.NoError(t, b.returned(b.store(t.Context(), events[1:2]), time.Second))
		b.once(events)
		b.close()
	})
}

// That the cluster is there is no proof that it takes events: what bulks meet is an
// outage until one is taken, and what it answers them is not tried more often.
func TestQuestionsProveNothing(t *testing.T) {
	tries := func(t *testing.T, fault esstandin.Fault, watch time.Duration) (n int) {
		synctest.Test(t, func(t *testing.T) {
			b, _ := watched(t, func(*road) {}, func(c *elasticsearch.Config) { c.Watch = watch })
			require.NoError(t, b.es.SetFaults(fault))
			events := some(0, 1)
			waits := b.store(t.Context(), events)
			faketime.Pass(t, 5*time.Second)
			for range 100 {
				faketime.Pass(t, 7*time.Second)
				require.Error(t, b.out.Ready())
			}
			n = b.es.Stats().Requests["POST /_bulk"]
			require.NoError(t, b.es.SetFaults())
			require.NoError(t, b.returned(waits, longest))
			require.NoError(t, b.out.Ready())
			assert.Equal(t, 2, strings.Count(b.log.String(), "\n"), "%s", b.log)
			b.once(events)
			b.close()
		})
		return n
	}
	t.Run("answered", func(t *testing.T) {
		fault := esstandin.Fault{Kind: "status", Status: 503}
		assert.InDelta(t, tries(t, fault, 0), tries(t, fault, watchEvery), 5, "the pauses have jitter")
	})
	t.Run("refused", func(t *testing.T) { tries(t, esstandin.Fault{Kind: "refused"}, watchEvery) })
}

// A cluster that is heard of anyway is not asked, and an answer that is no more
// than that counts as one.
func TestQuestionsAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := watched(t, func(r *road) { r.root = 403 })
		synctest.Wait()
		require.Equal(t, 1, r.questions(), "at the start")
		var events []one
		for i := range 50 {
			events = append(events, some(i, i+1)...)
			require.NoError(t, b.returned(b.store(t.Context(), events[i:]), time.Second))
			faketime.Pass(t, watchEvery-time.Second)
		}
		assert.Equal(t, 1, r.questions(), "among events")
		faketime.Pass(t, 10*watchEvery)
		assert.InDelta(t, 11, r.questions(), 1, "without events")
		require.NoError(t, b.out.Ready())
		assert.Empty(t, b.log.String())
		b.once(events)
		b.close()
	})
}

// A question that hangs does not hold up the end.
func TestCloseWhileAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := watched(t, func(r *road) { r.silent = true })
		synctest.Wait()
		require.Equal(t, 1, r.questions())
		begun := time.Now()
		b.close()
		assert.Equal(t, begun, time.Now())
	})
}

// What failed and was given up is not kept: the cluster is asked no more often for
// it, and a question that is lost much later begins a row of its own.
func TestGivenUpFailuresAreForgotten(t *testing.T) {
	for status, after := range map[int]time.Duration{429: time.Millisecond, 503: 20 * time.Second} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, r := watched(t, func(*road) {}, func(c *elasticsearch.Config) { c.Hosts = 3 })
				require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "status", Status: status}))
				ctx, cancel := context.WithCancel(t.Context())
				given := b.store(ctx, some(0, 1))
				faketime.Pass(t, after)
				cancel()
				require.Error(t, <-given)
				require.NoError(t, b.es.SetFaults())
				for range 30 {
					faketime.Pass(t, watchEvery)
					_ = b.out.Ready() // by which outages lapse
				}
				require.NoError(t, b.out.Ready())
				before := r.questions()
				faketime.Pass(t, 100*watchEvery)
				before = r.questions() - before
				assert.InDelta(t, 100, before, 1)
				r.set(func(r *road) { r.closed = true })
				for n := r.questions(); r.questions() == n; {
					faketime.Pass(t, 100*time.Millisecond)
				}
				synctest.Wait()
				require.NoError(t, b.out.Ready(), "one of three hosts")
				b.close()
			})
		})
	}
}

// Something before the cluster lets bulks pass and answers questions itself: they
// do not make readiness and log go to and fro.
func TestOnlyBulksPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, r := watched(t, func(r *road) { r.root = 503 })
		faketime.Pass(t, watchEvery)
		require.ErrorContains(t, b.out.Ready(), "503", "no bulk has shown it yet")
		var events []one
		for i := range 20 {
			events = append(events, some(i, i+1)...)
			require.NoError(t, b.returned(b.store(t.Context(), events[i:]), watchEvery))
			for range 5 {
				faketime.Pass(t, 7*time.Second)
				require.NoError(t, b.out.Ready())
			}
		}
		assert.Equal(t, 2, strings.Count(b.log.String(), "\n"), "%s", b.log)

		r.set(func(r *road) { r.root = 0 }) // it is mended, and questions tell again
		faketime.Pass(t, 2*watchEvery)
		r.set(func(r *road) { r.root = 503 })
		faketime.Pass(t, 2*watchEvery)
		require.Error(t, b.out.Ready())
		r.set(func(r *road) { r.root = 0 })
		faketime.Pass(t, 2*watchEvery)
		require.NoError(t, b.out.Ready())
		b.once(events)
		b.close()
	})
}
