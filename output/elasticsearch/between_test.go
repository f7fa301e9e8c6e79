package elasticsearch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/faketime"
	"vtsidecar/output/elasticsearch"
)

// between stands before a cluster and lets some requests not pass.
type between struct {
	then elasticsearch.Doer

	mu     sync.Mutex
	answer func(body []byte) (*elasticsearch.Response, error) // nil, nil: it passes
}

func (d *between) Do(ctx context.Context, r *elasticsearch.Request) (*elasticsearch.Response, error) {
	d.mu.Lock()
	answer := d.answer
	d.mu.Unlock()
	if answer != nil {
		if resp, err := answer(r.Body); resp != nil || err != nil {
			return resp, err
		}
	}
	return d.then.Do(ctx, r)
}

func (d *between) set(answer func([]byte) (*elasticsearch.Response, error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = answer
}

// against is a between that answers what holds a word.
func against(word string, status int, body string) func([]byte) (*elasticsearch.Response, error) {
	return func(sent []byte) (*elasticsearch.Response, error) {
		if !bytes.Contains(sent, []byte(word)) {
			return nil, nil
		}
		return &elasticsearch.Response{Status: status, Host: "es.test", Body: []byte(body)}, nil
	}
}

func behind(d *between) func(*elasticsearch.Config) {
	return func(c *elasticsearch.Config) { d.then, c.Doer = c.Doer, d }
}

func errorBody(typ, reason string) string {
	return fmt.Sprintf(`{"error":{"root_cause":[{"type":%q,"reason":%q}],"type":%q,"reason":%q},"status":400}`, typ, reason, typ, reason)
}

// A request that is refused as a whole for one of its lines, in the cluster's own
// words, buries the event of that line, alone.
func TestRequestsRefusedForALine(t *testing.T) {
	for _, e := range [][2]string{
		{"action_request_validation_exception", "Validation Failed: 1: id [x] is too long, must be no longer than 512 bytes but was: 513;"},
		{"action_request_validation_exception", "Validation Failed: 1: pipeline cannot be an empty string;"},
		{"x_content_parse_exception", "[1:34] Invalid UTF-8 start byte 0xff"},
		{"x_content_e_o_f_exception", "[1:35] Unexpected end of file"},
		{"json_parse_exception", "Invalid UTF-8 start byte 0xff"},
		{"json_e_o_f_exception", "Unexpected end-of-input in field name"},
		{"illegal_argument_exception", "Malformed action/metadata line [1], expected a simple value for field [_id] but found [START_ARRAY]"},
		{"illegal_argument_exception", "Action/metadata line [1] contains an unknown parameter [foo]"},
	} {
		t.Run(e[0], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &between{answer: against(word(3), http.StatusBadRequest, errorBody(e[0], e[1]))}
				b := open(t, esstandin.Config{}, behind(d))
				events := some(0, 10)
				b.dead.allow(events[3].id)
				require.NoError(t, b.returned(b.store(t.Context(), events), time.Second))
				require.NoError(t, b.out.Ready(), "one event's fault is no outage")
				b.once(events, 3)
				letter := b.dead.of(events[3].line)[0]
				assert.Equal(t, 400, letter.Status)
				assert.Equal(t, "refused", letter.Reason)
				assert.Contains(t, letter.Detail, e[1])
				b.close()
			})
		})
	}
}

// odd is a refusal of a whole request that blames no line of it.
type odd struct {
	status int
	body   string
}

func (a odd) response() *elasticsearch.Response {
	return &elasticsearch.Response{Status: a.status, Host: "es.test", Body: []byte(a.body)}
}

// eachOdd runs a test with each of them.
func eachOdd(t *testing.T, test func(*testing.T, odd)) {
	for name, a := range oddAnswers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, a) })
		})
	}
}

var oddAnswers = map[string]odd{
	"a page":              {400, "<html>Bad Request</html>"},
	"another status":      {406, "<html>Not Acceptable! An appropriate representation could not be found.</html>"},
	"a firewall's page":   {403, "<html>Request blocked</html>"},
	"JSON of a gateway":   {400, `{"message":"Bad Request"}`},
	"a text as the error": {400, `{"error":"Bad Request","status":400}`},
	"an unknown type":     {400, errorBody("request_blocked_exception", "by rule 4711")},
	"a body cut off":      {400, errorBody("illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")},
	"a body lost":         {400, errorBody("parse_exception", "request body is required")},
	"a parameter":         {400, errorBody("illegal_argument_exception", "request [/_bulk] contains unrecognized parameter: [filter_path]")},
}

// An event that something between does not let pass is not lost, and holds its
// own window alone, named, until it passes.
func TestOneEventDoesNotPass(t *testing.T) {
	eachOdd(t, func(t *testing.T, a odd) {
		d := &between{answer: against(word(3), a.status, a.body)}
		b := open(t, esstandin.Config{}, behind(d))
		held := some(0, 1000)
		done := b.store(t.Context(), held)
		faketime.Pass(t, 10*time.Minute)
		b.waiting(done)
		for i, e := range held {
			assert.Equal(t, i != 3, b.es.Settled(e.id), "event %d", i)
		}
		for i := range 20 {
			require.NoError(t, b.returned(b.store(t.Context(), some(1000+10*i, 1010+10*i)), time.Second), "window %d", i)
			faketime.Pass(t, 30*time.Second)
		}
		require.ErrorContains(t, b.out.Ready(), "one event alone")
		assert.Zero(t, b.dead.count())
		assert.Equal(t, 1, strings.Count(b.log.String(), "\n"), "%s", b.log)
		bulks := b.bulks()
		d.set(nil)
		require.NoError(t, b.returned(done, longest))
		require.NoError(t, b.out.Ready())
		assert.Equal(t, bulks+1, b.bulks(), "it waits by itself")
		b.once(held)
		assert.Zero(t, b.es.Stats().Resent)
		b.close()
	})
}

// And it goes alone: with others that wait for the same turn it would be their
// trouble again.
func TestOneEventDoesNotPassAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := oddAnswers["a page"]
		var alone, together atomic.Int64
		d := &between{answer: func(body []byte) (*elasticsearch.Response, error) {
			faketime.Pass(t, 100*time.Millisecond) // others wait
			switch {
			case !bytes.Contains(body, []byte(word(3))):
				return nil, nil
			case bytes.Count(body, []byte("\n")) == 2:
				alone.Add(1)
			default:
				together.Add(1)
			}
			return a.response(), nil
		}}
		b := open(t, esstandin.Config{}, behind(d), func(c *elasticsearch.Config) { c.Workers = 1 })
		done := b.store(t.Context(), some(0, 10))
		require.NoError(t, b.returned(b.store(t.Context(), some(10, 20)), time.Minute))
		faketime.Pass(t, time.Minute)
		alone.Store(0)
		together.Store(0)
		var others sync.WaitGroup
		for w := range 3 {
			others.Go(func() {
				for began := time.Now(); time.Since(began) < 10*time.Minute; {
					assert.NoError(t, b.out.Store(t.Context(), linesOf(b.out, some(20+w, 21+w))))
				}
			})
		}
		others.Wait()
		assert.Greater(t, alone.Load(), int64(5))
		assert.Zero(t, together.Load())
		d.set(nil)
		require.NoError(t, b.returned(done, longest))
		b.once(some(0, 23))
		b.es.Close()
	})
}

// When nobody waits for it any more it is forgotten.
func TestWhatDidNotPassLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := oddAnswers["a page"]
		b := open(t, esstandin.Config{}, behind(&between{answer: against(word(3), a.status, a.body)}))
		ctx, cancel := context.WithCancel(t.Context())
		done := b.store(ctx, some(0, 10))
		faketime.Pass(t, time.Minute)
		require.ErrorContains(t, b.out.Ready(), "one event alone")
		cancel()
		require.ErrorIs(t, b.returned(done, time.Second), context.Canceled)
		faketime.Pass(t, time.Minute)
		require.Error(t, b.out.Ready(), "a sender that comes again finds it so")
		faketime.Pass(t, 10*time.Minute)
		require.NoError(t, b.out.Ready())
		b.close()
	})
}

// The same where the window is that event and no more, and others come later:
// that is an outage of all until one of them passes.
func TestOneEventDoesNotPassBeforeOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := oddAnswers["a page"]
		d := &between{answer: against(word(3), a.status, a.body)}
		b := open(t, esstandin.Config{}, behind(d))
		done := b.store(t.Context(), some(3, 4))
		faketime.Pass(t, 10*time.Minute)
		b.waiting(done)
		require.ErrorContains(t, b.out.Ready(), "is it Elasticsearch or OpenSearch?")
		require.NoError(t, b.returned(b.store(t.Context(), some(10, 20)), longest))
		synctest.Wait()
		require.ErrorContains(t, b.out.Ready(), "one event alone")
		for i := range 20 {
			require.NoError(t, b.returned(b.store(t.Context(), some(20+10*i, 30+10*i)), time.Second))
			faketime.Pass(t, 30*time.Second)
		}
		b.waiting(done)
		assert.Equal(t, 3, strings.Count(b.log.String(), "\n"), "%s", b.log)
		d.set(nil)
		require.NoError(t, b.returned(done, longest))
		require.NoError(t, b.out.Ready())
		b.once(some(3, 4))
		b.close()
	})
}

// A host before which something stands that answers oddly, to everything, is one
// sick host among others: what it was sent goes to the next as it is.
func TestOneHostAnswersOddly(t *testing.T) {
	eachOdd(t, func(t *testing.T, a odd) {
		var mu sync.Mutex
		turn := 0
		d := &between{answer: func([]byte) (*elasticsearch.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if turn++; turn%3 == 0 {
				return nil, nil
			}
			return a.response(), nil
		}}
		b := open(t, esstandin.Config{}, behind(d), func(c *elasticsearch.Config) { c.Hosts = 3 })
		for i := range 20 {
			require.NoError(t, b.returned(b.store(t.Context(), some(10*i, 10*i+10)), time.Second))
			require.NoError(t, b.out.Ready())
		}
		assert.Equal(t, 3*20, turn)
		assert.Empty(t, b.log.String())
		b.once(some(0, 200))
		b.close()
	})
}

// While nothing passes, nothing is given up, and it is not hammered.
func TestNothingPasses(t *testing.T) {
	eachOdd(t, func(t *testing.T, a odd) {
		tries := 0
		d := &between{answer: func([]byte) (*elasticsearch.Response, error) {
			tries++
			return a.response(), nil
		}}
		b := open(t, esstandin.Config{}, behind(d), func(c *elasticsearch.Config) { c.Workers = 1 })
		var done []<-chan error
		for i := range 20 {
			done = append(done, b.store(t.Context(), some(i, i+1)))
		}
		synctest.Wait()
		assert.Equal(t, a.status == http.StatusForbidden, b.out.Ready() != nil, "only what is no doubt, or a refusal, is known at once")
		faketime.Pass(t, time.Hour)
		require.ErrorContains(t, b.out.Ready(), fmt.Sprint(a.status))
		assert.Zero(t, b.dead.count())
		assert.Less(t, tries, 130)
		assert.Equal(t, 1, strings.Count(b.log.String(), "\n"), "%s", b.log)
		d.set(nil)
		for _, done := range done {
			require.NoError(t, b.returned(done, longest))
		}
		require.NoError(t, b.out.Ready())
		b.once(some(0, 20))
		b.close()
	})
}

var errRefused = errors.New("connection refused")

// What fails in one moment, side by side, is one failure: another host, or the
// same a second later, may be well.
func TestFailuresSideBySideCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const workers = 4
		var mu sync.Mutex
		began, all := 0, make(chan struct{})
		d := &between{answer: func([]byte) (*elasticsearch.Response, error) {
			mu.Lock()
			began++
			n := began
			if n == workers {
				close(all)
			}
			mu.Unlock()
			if n > workers {
				return nil, nil
			}
			<-all
			return nil, errRefused
		}}
		b := open(t, esstandin.Config{}, behind(d), func(c *elasticsearch.Config) { c.Workers, c.BulkMaxBytes = workers, 1500 })
		events := some(0, 40)
		require.NoError(t, b.returned(b.store(t.Context(), events), 500*time.Millisecond))
		assert.Empty(t, b.log.String())
		b.once(events)
		b.close()
	})
}

// A cluster that is busy for some seconds is left alone for that, and is not down.
func TestBusyForAWhileIsNotDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "status", Status: 429, Times: 4}))
		events := some(0, 10)
		began := time.Now()
		done := b.store(t.Context(), events)
		for range 4 {
			faketime.Pass(t, time.Second)
			require.NoError(t, b.out.Ready())
		}
		require.NoError(t, b.returned(done, 10*time.Second))
		assert.Greater(t, time.Since(began), 4*time.Second, "the pauses grow")
		assert.Empty(t, b.log.String())
		b.once(events)

		require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "status", Status: 429}))
		done = b.store(t.Context(), some(10, 20))
		faketime.Pass(t, time.Minute)
		require.ErrorContains(t, b.out.Ready(), "429")
		require.NoError(t, b.es.SetFaults())
		require.NoError(t, b.returned(done, longest))
		b.close()
	})
}

// No host may be left that was not tried before nothing counts as well, whatever
// the others say.
func TestEveryHostIsTried(t *testing.T) {
	const hosts = 3
	for name, answer := range map[string]func() (*elasticsearch.Response, error){
		"refused": func() (*elasticsearch.Response, error) { return nil, errRefused },
		"500":     func() (*elasticsearch.Response, error) { return &elasticsearch.Response{Status: 500}, nil },
		"401":     func() (*elasticsearch.Response, error) { return &elasticsearch.Response{Status: 401}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				turn, well := 0, true
				d := &between{answer: func([]byte) (*elasticsearch.Response, error) {
					mu.Lock()
					defer mu.Unlock()
					if turn++; turn%hosts == 0 && well {
						return nil, nil
					}
					return answer()
				}}
				b := open(t, esstandin.Config{}, behind(d), func(c *elasticsearch.Config) { c.Hosts = hosts })
				for i := range 10 {
					require.NoError(t, b.returned(b.store(t.Context(), some(10*i, 10*i+10)), 500*time.Millisecond))
				}
				assert.Empty(t, b.log.String())
				mu.Lock()
				well = false
				mu.Unlock()
				done := b.store(t.Context(), some(100, 110))
				synctest.Wait()
				require.Error(t, b.out.Ready())
				d.set(nil)
				require.NoError(t, b.returned(done, longest))
				b.once(some(0, 110))
				b.close()
			})
		})
	}
}
