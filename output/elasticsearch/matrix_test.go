package elasticsearch_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/event"
	"vtsidecar/internal/faketime"
	"vtsidecar/internal/metrics"
	"vtsidecar/output/elasticsearch"
)

// Every row of the status table and every fault, each with the documents stored
// anyway and not, on a clock of the test's own. Whatever the cluster does: in
// the end each event is in it once or in the dead letter once, and nil never
// comes before an honest answer.

// longest is the longest pause between two tries, with its jitter, and what a
// try itself may take.
const longest = 90*time.Second + timeout

// Disturbances of whole requests. Each lasts ten minutes, in which Store must
// not return and readiness must be false; then, whether the documents had been
// stored or not, all is well within one pause.
func TestRequestFaults(t *testing.T) {
	faults := []esstandin.Fault{
		{Kind: "html"}, {Kind: "garbage"}, {Kind: "empty"}, {Kind: "null_items"}, {Kind: "few"}, {Kind: "many"},
		{Kind: "wrong_id"}, {Kind: "one_no_id"}, {Kind: "wrong_op"}, {Kind: "no_status"}, {Kind: "truncate"}, {Kind: "truncate_json"},
		{Kind: "refused"}, {Kind: "reset"}, {Kind: "eof"}, {Kind: "hang"}, {Kind: "blackhole"}, {Kind: "redirect"}, {Kind: "huge"}, {Kind: "bomb"},
	}
	for _, status := range []int{400, 401, 403, 404, 406, 408, 429, 500, 502, 503, 504, 507} {
		faults = append(faults, esstandin.Fault{Kind: "status", Status: status}, esstandin.Fault{Kind: "status_html", Status: status})
	}
	for _, status := range []int{201, 204, 300} {
		faults = append(faults, esstandin.Fault{Kind: "status_html", Status: status})
	}
	faults = append(faults, esstandin.Fault{Kind: "status", Status: 429, RetryAfter: "7"}, esstandin.Fault{Kind: "status", Status: 503, RetryAfter: "never"})
	for _, f := range faults {
		for _, stored := range []bool{false, true} {
			f.Stored = stored
			t.Run(fmt.Sprint(f.Kind, f.Status, f.RetryAfter, " stored ", stored), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { requestFault(t, f) })
			})
		}
	}
}

func requestFault(t *testing.T, f esstandin.Fault) {
	b := open(t, esstandin.Config{})
	events := some(0, 10)
	require.NoError(t, b.es.SetFaults(f))
	require.NoError(t, b.out.Ready(), "before anything was sent")
	done := b.store(t.Context(), events)
	const outage = 10 * time.Minute
	faketime.Pass(t, outage)
	synctest.Wait()
	b.waiting(done)
	require.Error(t, b.out.Ready(), "ready in an outage")
	assert.Zero(t, b.dead.count())
	tries := b.bulks()
	switch {
	case f.Status == 403 && f.Kind == "status_html":
		assert.InDelta(t, 24.5, tries, 2.5, "every 30 s, when it is no single event")
	case f.Status == 401 || f.Status == 403:
		assert.InDelta(t, 20.5, tries, 0.5, "every 30 s")
	case f.Kind == "huge" || f.Kind == "bomb":
	default:
		assert.Greater(t, tries, 4, "it gave up, or slept too long")
		assert.Less(t, tries, 40, "it hammers")
	}
	lines := strings.Count(b.log.String(), "\n")
	assert.LessOrEqual(t, lines, 3, "transitions are logged, not repetitions:\n%s", b.log)

	require.NoError(t, b.es.SetFaults())
	require.NoError(t, b.returned(done, longest))
	require.NoError(t, b.out.Ready(), "all is well again")
	b.once(events)
	assert.Zero(t, b.es.Stats().Resent)
	b.close()
}

// A disturbance that strikes once costs a second or so, and nothing else.
func TestOneFault(t *testing.T) {
	for _, f := range []esstandin.Fault{
		{Kind: "html"}, {Kind: "few"}, {Kind: "many"}, {Kind: "truncate_json"}, {Kind: "eof"}, {Kind: "refused"}, {Kind: "status", Status: 503}, {Kind: "status", Status: 429},
	} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprint(f.Kind, f.Status, stored), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f.Stored, f.Times = stored, 1
					b := open(t, esstandin.Config{})
					require.NoError(t, b.es.SetFaults(f))
					events := some(0, 10)
					require.NoError(t, b.returned(b.store(t.Context(), events), 3*time.Second))
					assert.Equal(t, 2, b.bulks())
					require.NoError(t, b.out.Ready())
					b.once(events)
					b.close()
				})
			})
		}
	}
}

// Items that are to be tried again are tried alone, and until they are taken.
func TestItemsAreRetried(t *testing.T) {
	for _, status := range []int{429, 500, 502, 503, 504} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprint(status, stored), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := open(t, esstandin.Config{})
					b.es.SetRules(
						esstandin.Rule{Match: word(3), Status: status, Times: 5, Stored: stored},
						esstandin.Rule{Match: word(7), Status: status, Times: 1, Stored: stored},
					)
					events := some(0, 10)
					began := time.Now()
					require.NoError(t, b.returned(b.store(t.Context(), events), 5*longest))
					if !stored {
						assert.Greater(t, time.Since(began), 15*time.Second, "the pauses grow")
					}
					b.once(events)
					st := b.es.Stats()
					assert.Zero(t, st.Resent, "what was settled is not sent again")
					assert.EqualValues(t, 10+5+1, st.Lines)
					require.NoError(t, b.out.Ready())
					b.close()
				})
			})
		}
	}
}

// Nothing that may end is given up, however long it lasts: not the item, nor the
// request, nor what an operator must see to.
func TestForEver(t *testing.T) {
	for name, tt := range map[string]struct {
		rule  esstandin.Rule
		fault esstandin.Fault
	}{
		"an item is rejected":    {rule: esstandin.Rule{Match: word(3), Status: 429}},
		"an item fails":          {rule: esstandin.Rule{Match: word(3), Status: 500}},
		"an index is blocked":    {rule: esstandin.Rule{Status: 403, Type: "cluster_block_exception"}},
		"a privilege is missing": {rule: esstandin.Rule{Status: 403}},
		"requests are rejected":  {fault: esstandin.Fault{Kind: "status", Status: 429}},
		"credentials are wrong":  {fault: esstandin.Fault{Kind: "status", Status: 401}},
		"answers are unreadable": {fault: esstandin.Fault{Kind: "html", Stored: true}},
		"nobody is there":        {fault: esstandin.Fault{Kind: "refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, esstandin.Config{})
				if tt.rule.Status != 0 {
					b.es.SetRules(tt.rule)
				}
				if tt.fault.Kind != "" {
					require.NoError(t, b.es.SetFaults(tt.fault))
				}
				events := some(2, 4)
				done := b.store(t.Context(), events)
				faketime.Pass(t, 24*time.Hour)
				synctest.Wait()
				b.waiting(done)
				assert.Greater(t, b.bulks(), 24*60, "it is tried at least once a minute")
				b.es.SetRules()
				require.NoError(t, b.es.SetFaults())
				require.NoError(t, b.returned(done, longest))
				b.once(events)
				b.close()
			})
		})
	}
}

// An item that never gets through holds its own window, and no other.
func TestSlowItemHoldsItsWindowOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 429})
		held := some(0, 10)
		done := b.store(t.Context(), held)
		synctest.Wait()
		for i := range 20 {
			events := some(100+10*i, 110+10*i)
			require.NoError(t, b.returned(b.store(t.Context(), events), 5*time.Second), "window %d", i)
			b.once(events)
		}
		b.waiting(done)
		b.es.SetRules()
		require.NoError(t, b.returned(done, longest))
		b.once(held)
		assert.Zero(t, b.es.Stats().Resent)
		b.close()
	})
}

// A document's own fault buries that document alone, with what the cluster said.
func TestOwnFaults(t *testing.T) {
	for _, r := range []esstandin.Rule{
		{Status: 400},
		{Status: 400, Type: "illegal_argument_exception", Reason: "Document contains at least one immense term in field=\"message\""},
		{Status: 400, Type: "illegal_argument_exception", Reason: "Limit of total fields [1000] has been exceeded while adding new fields [1]"},
		{Status: 400, Type: "strict_dynamic_mapping_exception"},
		{Status: 400, Type: "a_type_that_nobody_knows"},
		{Status: 500, Type: "fail_processor_exception", Reason: "the pipeline says no"},
		{Status: 413, Type: "x"},
		{Status: 422, Type: "x"},
	} {
		for _, openSearch := range []bool{false, true} {
			t.Run(fmt.Sprint(r.Status, r.Type, openSearch), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := open(t, esstandin.Config{OpenSearch: openSearch})
					r.Match = word(3)
					b.es.SetRules(r)
					events := some(0, 10)
					require.NoError(t, b.returned(b.store(t.Context(), events), time.Second))
					require.NoError(t, b.out.Ready(), "one event's fault is no outage")
					b.once(events, 3)
					assert.EqualValues(t, 10, b.es.Stats().Lines, "it is sent once")
					letter := b.dead.of(events[3].line)[0]
					assert.Equal(t, r.Status, letter.Status)
					want := "refused"
					if r.Status == http.StatusRequestEntityTooLarge {
						want = "too_large"
					}
					assert.Equal(t, want, letter.Reason)
					assert.NotEmpty(t, letter.Detail)
					if r.Reason != "" {
						assert.Contains(t, letter.Detail, r.Reason)
					}
					assert.EqualValues(t, len(events[3].line), letter.Length)
					require.NotNil(t, letter.Target)
					assert.Equal(t, event.Target{ID: events[3].id, Index: "events", Op: "create"}, *letter.Target)
					b.close()
				})
			})
		}
	}
}

// 409 says that the event is there already; whose identity it is does not matter.
func TestConflictIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		events := some(0, 10)
		events[4].own, events[4].id = []byte("own-\"4\""), "own-\"4\""
		require.NoError(t, b.returned(b.store(t.Context(), events), time.Second))
		require.NoError(t, b.returned(b.store(t.Context(), events), time.Second), "a Beat sends a window again")
		b.once(events)
		assert.Equal(t, 10, b.es.Stats().Items["409 version_conflict_engine_exception"])
		b.close()
	})
}

// Nor does a 409 for another reason.
func TestConflictOfAnotherKindIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 409, Type: "resource_already_exists_exception", Times: 2})
		events := some(0, 10)
		require.NoError(t, b.returned(b.store(t.Context(), events), longest))
		b.once(events)
		b.close()
	})
}

// A conflict on an index operation says nothing of the kind.
func TestConflictOnIndexIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.OpType = "index" })
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 409, Times: 2})
		events := some(0, 10)
		require.NoError(t, b.returned(b.store(t.Context(), events), longest))
		b.once(events)
		b.close()
	})
}

// What an operator, a full disk or the settings cause is waited for.
func TestOutages(t *testing.T) {
	pipeline := func(c *elasticsearch.Config) { c.Pipeline = "enriched" }
	for _, tt := range []struct {
		name       string
		es         esstandin.Config
		change     func(*elasticsearch.Config)
		begin, end func(*esstandin.Server) // end is nil: it takes a restart
		words      string                  // in what Ready says
		every30    bool
	}{
		{name: "full disk", begin: func(s *esstandin.Server) { s.SetBlock("events", esstandin.BlockReadOnlyAllowDelete, true) },
			end: func(s *esstandin.Server) { s.SetBlock("events", esstandin.BlockReadOnlyAllowDelete, false) }, words: "lift the block"},
		{name: "write block", begin: func(s *esstandin.Server) { s.SetBlock("events", esstandin.BlockWrite, true) },
			end: func(s *esstandin.Server) { s.SetBlock("events", esstandin.BlockWrite, false) }, words: "lift the block"},
		{name: "missing pipeline", change: pipeline, begin: func(*esstandin.Server) {},
			end: func(s *esstandin.Server) { s.PutPipeline("enriched") }, words: "output.elasticsearch.pipeline"},
		{name: "closed index", begin: func(s *esstandin.Server) { s.CreateIndex("events"); s.SetClosed("events", true) },
			end: func(s *esstandin.Server) { s.SetClosed("events", false) }, words: "output.elasticsearch.index"},
		{name: "missing index", es: esstandin.Config{NoAutoCreate: true}, begin: func(*esstandin.Server) {},
			end: func(s *esstandin.Server) { s.CreateIndex("events") }, words: "output.elasticsearch.index"},
		{name: "missing default pipeline", begin: func(s *esstandin.Server) { s.SetSetting("events", "index.default_pipeline", "own") },
			end: func(s *esstandin.Server) { s.PutPipeline("own") }, words: "output.elasticsearch.index"},
		{name: "no index may be named", es: esstandin.Config{NoExplicitIndex: true}, begin: func(*esstandin.Server) {}, words: "allow_explicit_index"},
		{name: "as many shards as there may be", begin: func(s *esstandin.Server) {
			s.SetRules(esstandin.Rule{Status: 400, Type: "validation_exception", Reason: "Validation Failed: 1: this action would add [2] shards, but this cluster currently has [1000]/[1000] maximum normal shards open;"})
		}, end: func(s *esstandin.Server) { s.SetRules() }, words: "cluster.max_shards_per_node"},
		{name: "cluster block", begin: func(s *esstandin.Server) {
			_ = s.SetFaults(esstandin.Fault{Kind: "status", Status: 403, Type: "cluster_block_exception"})
		}, end: func(s *esstandin.Server) { _ = s.SetFaults() }, words: "cluster.blocks"},
		{name: "no write index", begin: func(s *esstandin.Server) {
			s.SetRules(esstandin.Rule{Status: 400, Type: "illegal_argument_exception", Reason: "no write index is defined for alias [events]. The write index may be explicitly disabled using is_write_index=false or the alias points to multiple indices without one being designated as a write index"})
		}, end: func(s *esstandin.Server) { s.SetRules() }, words: "output.elasticsearch.index"},
		{name: "no user for an index", begin: func(s *esstandin.Server) { s.SetRules(esstandin.Rule{Status: 401, Type: "security_exception"}) },
			end: func(s *esstandin.Server) { s.SetRules() }, words: "events", every30: true},
		{name: "no privilege", begin: func(s *esstandin.Server) { s.SetRules(esstandin.Rule{Status: 403}) },
			end: func(s *esstandin.Server) { s.SetRules() }, words: "events", every30: true},
		{name: "no privilege, stored anyway", begin: func(s *esstandin.Server) { s.SetRules(esstandin.Rule{Status: 403, Stored: true}) },
			end: func(s *esstandin.Server) { s.SetRules() }, words: "events", every30: true},
	} {
		for _, openSearch := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, openSearch), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tt.es.OpenSearch = openSearch
					var change []func(*elasticsearch.Config)
					if tt.change != nil {
						change = append(change, tt.change)
					}
					b := open(t, tt.es, change...)
					tt.begin(b.es)
					events := some(0, 10)
					done := b.store(t.Context(), events)
					faketime.Pass(t, 10*time.Minute)
					synctest.Wait()
					b.waiting(done)
					require.ErrorContains(t, b.out.Ready(), tt.words)
					assert.Zero(t, b.dead.count(), "an outage never buries")
					if tt.every30 {
						assert.InDelta(t, 20.5, b.bulks(), 0.5, "every 30 s")
					}
					if tt.end == nil {
						b.es.Close()
						require.Error(t, b.out.Close(canceled(t)))
						require.ErrorIs(t, b.returned(done, time.Second), elasticsearch.ErrClosed)
						return
					}
					tt.end(b.es)
					require.NoError(t, b.returned(done, longest))
					require.NoError(t, b.out.Ready())
					b.once(events)
					assert.Zero(t, b.es.Stats().Resent)
					b.close()
				})
			})
		}
	}
}

// What stops one index stops its own events only: those for others are stored at
// once, also out of the same windows.
func TestOutageOfOneIndex(t *testing.T) {
	const index = "logs-a-x"
	for name, tt := range map[string]struct {
		begin, end func(*esstandin.Server)
	}{
		"full disk": {func(s *esstandin.Server) { s.SetBlock(index, esstandin.BlockReadOnlyAllowDelete, true) },
			func(s *esstandin.Server) { s.SetBlock(index, esstandin.BlockReadOnlyAllowDelete, false) }},
		"write block": {func(s *esstandin.Server) { s.SetBlock(index, esstandin.BlockWrite, true) },
			func(s *esstandin.Server) { s.SetBlock(index, esstandin.BlockWrite, false) }},
		"no privilege": {func(s *esstandin.Server) { s.SetRules(esstandin.Rule{Match: "for x", Status: 403}) },
			func(s *esstandin.Server) { s.SetRules() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, esstandin.Config{})
				tt.begin(b.es)
				events := func(from int) []one {
					all := some(from, from+10)
					all[3].meta = `{"index":"` + index + `"}`
					all[3].line = strings.Replace(all[3].line, "needle", "for x, needle", 1)
					return all
				}
				held := events(0)
				done := b.store(t.Context(), held)
				for i := range 20 {
					synctest.Wait()
					require.ErrorContains(t, b.out.Ready(), index)
					require.NoError(t, b.returned(b.store(t.Context(), some(100+i, 101+i)), time.Second), "window %d", i)
					faketime.Pass(t, 7*time.Second)
				}
				b.waiting(done)
				for i, e := range held {
					assert.Equal(t, i != 3, b.es.Settled(e.id), "event %d", i)
				}
				assert.Zero(t, b.dead.count())
				tt.end(b.es)
				require.NoError(t, b.returned(done, longest))
				require.NoError(t, b.out.Ready())
				b.once(held)
				b.close()
			})
		})
	}
}

// Of many indices that take nothing some are told, and no more than a hundred told
// apart: their names come from events.
func TestManyOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.Index = elasticsearch.DefaultIndex })
		b.es.SetRules(esstandin.Rule{Status: 403})
		events := some(0, 150)
		for i := range events {
			events[i].meta = fmt.Sprintf(`{"beat":"filebeat","version":"%d"}`, i)
		}
		done := b.store(t.Context(), events)
		faketime.Pass(t, time.Minute)
		require.ErrorContains(t, b.out.Ready(), "; and 97 more")
		assert.Equal(t, 100, strings.Count(b.log.String(), "\n"))
		b.es.SetRules()
		require.NoError(t, b.returned(done, longest))
		require.NoError(t, b.out.Ready())
		b.once(events)
		b.close()
	})
}

// An outage that nobody waits for any more is forgotten: who asks readiness
// before sending would else never learn that it is over.
func TestReadinessLapses(t *testing.T) {
	for _, tt := range []struct {
		name       string
		begin, end func(*esstandin.Server)
	}{
		{"cluster", func(s *esstandin.Server) { _ = s.SetFaults(esstandin.Fault{Kind: "refused"}) }, func(s *esstandin.Server) { _ = s.SetFaults() }},
		{"index", func(s *esstandin.Server) { s.SetBlock("events", esstandin.BlockWrite, true) }, func(s *esstandin.Server) { s.SetBlock("events", esstandin.BlockWrite, false) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, esstandin.Config{})
				tt.begin(b.es)
				ctx, cancel := context.WithCancel(t.Context())
				done := b.store(ctx, some(0, 10))
				faketime.Pass(t, 20*time.Minute)
				require.Error(t, b.out.Ready())
				cancel()
				require.ErrorIs(t, b.returned(done, time.Second), context.Canceled)
				faketime.Pass(t, 30*time.Second)
				require.Error(t, b.out.Ready(), "a sender that comes again at once finds it so")
				faketime.Pass(t, 10*time.Minute)
				require.NoError(t, b.out.Ready())

				done = b.store(t.Context(), some(0, 10))
				faketime.Pass(t, time.Minute)
				synctest.Wait()
				require.Error(t, b.out.Ready(), "it is not over")
				tt.end(b.es)
				require.NoError(t, b.returned(done, longest))
				b.once(some(0, 10))
				b.close()
			})
		})
	}
}

// What is tried again has an age, from the first time that it was not taken until
// it is; an outage of all too.
func TestAgeOfWhatIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New("", "", "")
		b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.Metrics = m })
		age := func(want float64) {
			t.Helper()
			assert.InDelta(t, want, metric(t, m, "vtsidecar_output_oldest_retry_seconds"), 5)
		}
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 429})
		age(0)
		done := b.store(t.Context(), some(0, 10))
		faketime.Pass(t, 5*time.Minute)
		later := b.store(t.Context(), some(3, 5))
		faketime.Pass(t, 5*time.Minute)
		age(600)
		b.es.SetRules()
		require.NoError(t, b.returned(done, longest))
		require.NoError(t, b.returned(later, longest))
		age(0)
		require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "refused"}))
		done = b.store(t.Context(), some(10, 20))
		faketime.Pass(t, time.Minute)
		age(60)
		require.NoError(t, b.es.SetFaults())
		require.NoError(t, b.returned(done, longest))
		age(0)
		b.close()
	})
}

// A window of which the cluster takes an event from nobody gives its memory back
// when others wait for that, not before, and not while the cluster is away.
func TestHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 429})
		var wanted atomic.Bool
		l := linesOf(b.out, some(0, 10))
		l.Wanted = wanted.Load
		done := make(chan error, 1)
		go func() { done <- b.out.Store(t.Context(), l) }()
		faketime.Pass(t, 10*time.Minute)
		b.waiting(done)
		wanted.Store(true)
		faketime.Pass(t, time.Minute)
		b.waiting(done) // nothing else was stored: the cluster may be at fault
		wanted.Store(false)
		require.NoError(t, b.returned(b.store(t.Context(), some(10, 20)), time.Second))
		require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "refused"}))
		other := b.store(t.Context(), some(20, 30))
		faketime.Pass(t, time.Minute)
		wanted.Store(true)
		faketime.Pass(t, time.Minute)
		b.waiting(done) // the cluster is away
		require.NoError(t, b.es.SetFaults())
		require.NoError(t, b.returned(other, longest))
		require.ErrorIs(t, b.returned(done, time.Minute), elasticsearch.ErrHeldBack)
		b.es.SetRules()
		require.NoError(t, b.returned(b.store(t.Context(), some(0, 10)), longest), "the sender sends it again")
		b.once(some(0, 30))
		b.close()
	})
}

// A window that goes on is not held back, however long it takes and whatever was
// tried again in it: only what nothing but waits is.
func TestHeldBackOnlyWithoutProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{Delay: 3 * time.Second}, func(c *elasticsearch.Config) { c.BulkMaxBytes, c.Workers = 2000, 1 })
		b.es.SetRules(esstandin.Rule{Match: word(0), Status: 429, Times: 1}, esstandin.Rule{Match: word(50), Status: 503, Times: 2})
		events := some(0, 100)
		l := linesOf(b.out, events)
		l.Wanted = func() bool { return true }
		require.NoError(t, b.returned(func() <-chan error {
			done := make(chan error, 1)
			go func() { done <- b.out.Store(t.Context(), l) }()
			return done
		}(), 10*time.Minute))
		b.once(events)
		b.close()
	})
}

// Nor is one of which something is under way, or waits for its turn.
func TestHeldBackOnlyWhenAllWasTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &between{answer: func(body []byte) (*elasticsearch.Response, error) {
			if bytes.Contains(body, []byte(word(1))) {
				faketime.Pass(t, time.Minute/2)
			}
			return nil, nil
		}}
		b := open(t, esstandin.Config{}, behind(d), func(c *elasticsearch.Config) { c.BulkMaxBytes = 1 }) // each event alone
		b.es.SetRules(esstandin.Rule{Match: word(0), Status: 429})
		l := linesOf(b.out, some(0, 2))
		l.Wanted = func() bool { return true }
		done := make(chan error, 1)
		go func() { done <- b.out.Store(t.Context(), l) }()
		for i := range 5 {
			faketime.Pass(t, 5*time.Second)
			require.NoError(t, b.returned(b.store(t.Context(), some(10+i, 11+i)), time.Second))
		}
		b.waiting(done)
		b.es.SetRules()
		require.NoError(t, b.returned(done, longest))
		b.once(some(0, 2))
		b.close()
	})
}

// The same where the event itself chose the place: it is buried alone.
func TestPlacesThatEventsChoose(t *testing.T) {
	for _, tt := range []struct {
		name   string
		es     esstandin.Config
		meta   string
		begin  func(*esstandin.Server)
		status int
		reason string
		target event.Target
	}{
		{name: "pipeline", meta: `{"pipeline":"Gone"}`, status: 400, reason: "pipeline", target: event.Target{Index: "events", Pipeline: "gone", Op: "create"}},
		{name: "closed index", meta: `{"beat":"filebeat","version":"8.1.0"}`, status: 400, reason: "index",
			begin:  func(s *esstandin.Server) { s.CreateIndex("filebeat-8.1.0"); s.SetClosed("filebeat-8.1.0", true) },
			target: event.Target{Index: "filebeat-8.1.0", Op: "create"}},
		{name: "missing index", es: esstandin.Config{NoAutoCreate: true}, meta: `{"beat":"filebeat","version":"8.1.0"}`, status: 404, reason: "index",
			begin: func(s *esstandin.Server) { s.CreateIndex("events") }, target: event.Target{Index: "filebeat-8.1.0", Op: "create"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, tt.es, func(c *elasticsearch.Config) {
					c.Pipeline = "%{[@metadata][pipeline]}"
					if !strings.Contains(tt.meta, "pipeline") {
						c.Index = "%{[@metadata][beat]}-%{[@metadata][version]}"
					}
				})
				if tt.begin != nil {
					tt.begin(b.es)
				}
				events := some(0, 10)
				for i := range events {
					events[i].meta = `{"beat":"winlogbeat","version":"8.1.0"}`
				}
				b.es.CreateIndex("winlogbeat-8.1.0")
				events[3].meta = tt.meta
				require.NoError(t, b.returned(b.store(t.Context(), events), time.Second))
				require.NoError(t, b.out.Ready(), "one event's place is no outage")
				b.once(events, 3)
				letter := b.dead.of(events[3].line)[0]
				assert.Equal(t, tt.status, letter.Status)
				assert.Equal(t, tt.reason, letter.Reason)
				tt.target.ID = events[3].id
				assert.Equal(t, tt.target, *letter.Target)
				b.close()
			})
		})
	}
}

// A body over the server's bound is halved; an event that is over it alone is
// buried alone.
func TestTooLarge(t *testing.T) {
	for _, stored := range []bool{false, true} {
		for _, kind := range []string{"limit", "proxy", "page"} {
			if kind == "limit" && stored {
				continue
			}
			t.Run(fmt.Sprint(kind, stored), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := open(t, esstandin.Config{})
					events := some(0, 100)
					dead := []int{}
					switch kind {
					case "limit":
						events[30].line = fmt.Sprintf(`{"message":"%s"}`, strings.Repeat("long ", 1000))
						b.es.SetLimits(esstandin.Limits{MaxContentLength: 3000})
						dead = append(dead, 30)
					case "proxy":
						require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "status", Status: 413, Stored: stored, Times: 3}))
					case "page":
						require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "status_html", Status: 413, Stored: stored, Times: 3}))
					}
					require.NoError(t, b.returned(b.store(t.Context(), events), longest))
					b.once(events, dead...)
					if kind == "limit" {
						letter := b.dead.of(events[30].line)[0]
						assert.Equal(t, 413, letter.Status)
						assert.NotEmpty(t, letter.Detail)
					}
					assert.Zero(t, b.es.Stats().Resent)
					require.NoError(t, b.out.Ready())
					b.close()
				})
			})
		}
	}
}

// Events may be such that the answer about many of them is longer than is read:
// then they are sent in parts, until it is read.
func TestLongAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetRules(esstandin.Rule{Match: "needle1", Status: 400, Reason: strings.Repeat("x", maxAnswer/50)})
		events := some(0, 200)
		var dead []int
		for i := range events {
			if strings.Contains(events[i].line, "needle1") {
				dead = append(dead, i)
			}
		}
		require.NoError(t, b.returned(b.store(t.Context(), events), time.Second))
		require.NoError(t, b.out.Ready())
		b.once(events, dead...)
		b.close()
	})
}

// When the server's bound is gone, bodies grow again, by and by.
func TestBodiesGrowAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetLimits(esstandin.Limits{MaxContentLength: 3000})
		require.NoError(t, b.returned(b.store(t.Context(), some(0, 100)), time.Second))
		b.es.SetLimits(esstandin.Limits{})
		before := b.bulks()
		require.NoError(t, b.returned(b.store(t.Context(), some(100, 200)), time.Second))
		assert.Greater(t, b.bulks()-before, 5, "the bound is remembered")
		for i := range 4 {
			faketime.Pass(t, time.Minute)
			require.NoError(t, b.returned(b.store(t.Context(), some(200+i, 201+i)), time.Second))
		}
		before = b.bulks()
		require.NoError(t, b.returned(b.store(t.Context(), some(300, 400)), time.Second))
		assert.Equal(t, 1, b.bulks()-before)
		b.once(append(some(0, 204), some(300, 400)...))
		b.close()
	})
}

// A bulk that the node has no memory for is waited for, and is smaller or later.
func TestIndexingPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetLimits(esstandin.Limits{IndexingPressure: 10})
		events := some(0, 10)
		done := b.store(t.Context(), events)
		faketime.Pass(t, 5*time.Minute)
		synctest.Wait()
		b.waiting(done)
		require.Error(t, b.out.Ready())
		assert.Zero(t, b.dead.count())
		b.es.SetLimits(esstandin.Limits{})
		require.NoError(t, b.returned(done, longest))
		b.once(events)
		b.close()
	})
}

// A window ends with the error that its caller or the dead letter gives; what is
// sent again is not doubled.
func TestStoreIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "hang", Stored: true}))
		events := some(0, 10)
		ctx, cancel := context.WithCancel(t.Context())
		done := b.store(ctx, events)
		synctest.Wait()
		cancel()
		require.ErrorIs(t, b.returned(done, timeout), context.Canceled)
		require.NoError(t, b.es.SetFaults())
		require.NoError(t, b.returned(b.store(t.Context(), events), longest))
		b.once(events)
		b.close()
	})
}

// A request that nobody waits for any more does not hold up the end.
func TestCloseWaitsForNobody(t *testing.T) {
	for _, before := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := open(t, esstandin.Config{})
			require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "hang"}))
			ctx, cancel := context.WithCancel(t.Context())
			done := b.store(ctx, some(0, 10))
			synctest.Wait()
			began := time.Now()
			closed := make(chan error, 1)
			if before {
				go func() { closed <- b.out.Close(t.Context()) }()
				synctest.Wait()
				cancel()
			} else {
				cancel()
				synctest.Wait()
				closed <- b.out.Close(t.Context())
			}
			require.ErrorIs(t, <-done, context.Canceled)
			require.NoError(t, <-closed)
			assert.Zero(t, time.Since(began), "of the bubble's clock")
			b.es.Close()
		})
	}
}

// What waits for another try when its Store ends is not sent any more: its bytes
// belong to somebody else.
func TestNothingIsSentAfterStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 503})
		events := some(0, 10)
		ctx, cancel := context.WithCancel(t.Context())
		done := b.store(ctx, events)
		faketime.Pass(t, time.Minute)
		cancel()
		require.ErrorIs(t, b.returned(done, time.Second), context.Canceled)
		sent := b.es.Stats().Lines
		faketime.Pass(t, time.Hour)
		assert.Equal(t, sent, b.es.Stats().Lines)
		b.close()
	})
}

// While requests fail one probes, however many windows and workers wait.
func TestOneProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const windows, workers = 16, 8
		b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.Workers, c.BulkMaxBytes = workers, 1500 })
		require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: "hang"}))
		var done [windows]<-chan error
		for w := range windows {
			done[w] = b.store(t.Context(), some(10*w, 10*w+10))
		}
		faketime.Pass(t, 20*time.Minute)
		synctest.Wait()
		assert.LessOrEqual(t, b.bulks(), 2*workers+20, "a probe takes a minute")
		require.NoError(t, b.es.SetFaults())
		for w := range windows {
			require.NoError(t, b.returned(done[w], 2*longest))
		}
		b.once(some(0, 10*windows))
		b.close()
	})
}

func TestDeadLetterIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, esstandin.Config{})
		b.dead.full = 1
		b.es.SetRules(esstandin.Rule{Match: word(3), Status: 400})
		events := some(0, 10)
		require.ErrorIs(t, b.returned(b.store(t.Context(), events), longest), errFull)
		require.NoError(t, b.returned(b.store(t.Context(), events), longest))
		b.once(events, 3)
		b.close()
	})
}

// An identity that no server takes would make it refuse the neighbours too.
func TestLongIdentity(t *testing.T) {
	for _, n := range []int{512, 513, 5000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := open(t, esstandin.Config{})
				events := some(0, 10)
				events[3].own = []byte(strings.Repeat("i", n))
				events[3].id = string(events[3].own)
				require.NoError(t, b.returned(b.storeUnseen(events), longest))
				require.NoError(t, b.out.Ready())
				copies := len(b.dead.of(events[3].line))
				for _, d := range b.es.Docs("") {
					if string(d.Source) == events[3].line {
						copies++
					}
				}
				assert.Equal(t, 1, copies)
				b.once(append(some(0, 3), some(4, 10)...))
				b.close()
			})
		})
	}
}

// A body keeps to its bound whatever the events' own names do to their action lines.
func TestLongActionLines(t *testing.T) {
	for _, kind := range []string{"", "refused", "limit"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const most = 5000
				b := open(t, esstandin.Config{}, func(c *elasticsearch.Config) { c.BulkMaxBytes = most })
				switch kind {
				case "refused":
					require.NoError(t, b.es.SetFaults(esstandin.Fault{Kind: kind, Times: 3}))
				case "limit":
					b.es.SetLimits(esstandin.Limits{MaxContentLength: 3500}) // any event alone is below it
				}
				events := some(0, 100)
				for i := range events {
					if i%3 != 0 { // six bytes for each of one
						events[i].id = strings.Repeat("\x01", 100+i*3) + fmt.Sprint(i)
						events[i].own = []byte(events[i].id)
					}
				}
				var done []<-chan error
				for i := 0; i < len(events); i += 5 {
					done = append(done, b.store(t.Context(), events[i:i+5]))
				}
				for _, d := range done {
					require.NoError(t, b.returned(d, 5*longest))
				}
				b.once(events)
				assert.LessOrEqual(t, b.es.Stats().MaxBulk, most)
				assert.Zero(t, b.es.Stats().Resent)
				b.close()
			})
		})
	}
}

// Everything at once, by many windows, from a seed.
func TestAllAtOnce(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { allAtOnce(t, rand.New(rand.NewPCG(seed, 5))) })
		})
	}
}

func allAtOnce(t *testing.T, r *rand.Rand) {
	const bulkBytes = 2000
	workers := 1 + r.IntN(4)
	b := open(t, esstandin.Config{OpenSearch: r.IntN(2) == 0}, func(c *elasticsearch.Config) {
		c.BulkMaxBytes, c.Workers = bulkBytes, workers
	})
	kinds := []esstandin.Fault{
		{Kind: "html"}, {Kind: "empty"}, {Kind: "few"}, {Kind: "many"}, {Kind: "wrong_id"}, {Kind: "truncate"}, {Kind: "truncate_json"}, {Kind: "refused"},
		{Kind: "eof"}, {Kind: "hang"}, {Kind: "status", Status: 429}, {Kind: "status", Status: 503}, {Kind: "status", Status: 401},
	}
	var faults []esstandin.Fault
	for range 40 {
		f := kinds[r.IntN(len(kinds))]
		f.Stored, f.Times = r.IntN(2) == 0, 1
		faults = append(faults, f)
	}
	require.NoError(t, b.es.SetFaults(faults...))
	const windows, size = 12, 30
	var rules []esstandin.Rule
	var dead [windows][]int
	for w := range windows {
		for i := range size {
			rule := esstandin.Rule{Match: word(w*size + i), Times: 1 + r.IntN(4), Stored: r.IntN(2) == 0}
			switch r.IntN(10) {
			case 0:
				rule.Status = 429
			case 1:
				rule.Status = 503
			case 2:
				rule.Status, rule.Times, rule.Stored = 400, 0, false
				dead[w] = append(dead[w], i)
			default:
				continue
			}
			rules = append(rules, rule)
		}
	}
	b.es.SetRules(rules...)
	var done [windows]<-chan error
	for w := range windows {
		done[w] = b.store(t.Context(), some(w*size, (w+1)*size))
	}
	for w := range windows {
		require.NoError(t, b.returned(done[w], 3*time.Hour))
		b.once(some(w*size, (w+1)*size), dead[w]...)
	}
	require.NoError(t, b.out.Ready())
	assert.LessOrEqual(t, b.es.Stats().InFlight, workers)
	assert.LessOrEqual(t, b.es.Stats().MaxBulk, bulkBytes)
	b.close()
}
