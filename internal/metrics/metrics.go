// Package metrics declares every figure the program exports, in one place,
// under the names that dashboards rely on.
//
// Promise: one Set per program, no global registry; names and labels change
// only with the contract.
package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"vtsidecar/internal/event"
)

// Set holds the program's metrics. Its fields are safe for concurrent use.
type Set struct {
	Registry *prometheus.Registry

	// input
	Connections       prometheus.Gauge
	ConnectionsUnused prometheus.Counter // ended before their first byte
	EventsReceived    prometheus.Counter
	WindowsAcked      prometheus.Counter
	ProtocolErrors    *prometheus.CounterVec // reason
	InflightBytes     prometheus.Gauge
	BatchDuration     prometheus.Histogram   // seconds from the last byte of a batch to its durability
	VerdictsRemoved   prometheus.Counter     // incoming arcanna.ioc taken out
	ECSRefused        *prometheus.CounterVec // field: threat, related

	// enrichment
	Indicators        *prometheus.CounterVec // type, result
	CacheRequests     *prometheus.CounterVec // result: hit, miss, coalesced, stale
	CacheEntries      prometheus.Gauge
	VTRequests        *prometheus.CounterVec // code: HTTP status, or "error" where none came
	VTRequestDuration prometheus.Histogram
	VTQuotaRemaining  *Left // window: minute, hour, day, month
	VTQueueLength     prometheus.Gauge

	// output
	EventsStored       prometheus.Counter
	EventsDeadLettered *prometheus.CounterVec // reason
	OutputRetries      *prometheus.CounterVec // reason
	OutputFilesDeleted prometheus.Counter
	OutputUp           prometheus.Gauge
	OutputItems        *prometheus.CounterVec // outcome, reason: answers of Elasticsearch about single events
	OutputFallback     *prometheus.CounterVec // reason: events sent to the fallback index
	OutputOpIgnored    prometheus.Counter     // events that asked for another operation
	OutputBulkDuration prometheus.Histogram   // seconds of a bulk request
	OutputOldestRetry  *Age                   // of what is tried again
	DeadLetterBytes    prometheus.Gauge
}

// Age is a gauge that asks when it is read: the seconds since a time.
type Age struct {
	prometheus.GaugeFunc
	since atomic.Pointer[func() time.Time]
}

// From says who knows the time; a zero time is an age of 0.
func (a *Age) From(since func() time.Time) { a.since.Store(&since) }

func newAge(name, help string) *Age {
	a := &Age{}
	a.GaugeFunc = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		if f := a.since.Load(); f != nil {
			if t := (*f)(); !t.IsZero() {
				return time.Since(t).Seconds()
			}
		}
		return 0
	})
	return a
}

// Left is a gauge of each window that asks when it is read: a window ends
// without anybody's doing.
type Left struct {
	desc *prometheus.Desc
	left atomic.Pointer[func() map[string]int]
}

// From says who knows what is left in each window; one that is not there is
// unlimited. It is called concurrently.
func (l *Left) From(left func() map[string]int) { l.left.Store(&left) }

// Describe is for the registry, as Collect is.
func (l *Left) Describe(ch chan<- *prometheus.Desc) { ch <- l.desc }

// Collect sends a gauge for each limited window.
func (l *Left) Collect(ch chan<- prometheus.Metric) {
	if f := l.left.Load(); f != nil {
		for window, n := range (*f)() {
			ch <- prometheus.MustNewConstMetric(l.desc, prometheus.GaugeValue, float64(n), window)
		}
	}
}

// New makes the set and registers it, with Go's own process metrics, in a
// registry of its own.
func New(version, revision, goVersion string) *Set {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "vtsidecar_" + name, Help: help})
	}
	counterVec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vtsidecar_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "vtsidecar_" + name, Help: help})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vtsidecar_" + name, Help: help, Buckets: buckets})
	}
	seconds := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

	s := &Set{
		Registry: prometheus.NewRegistry(),

		Connections:       gauge("connections", "Open connections of senders."),
		ConnectionsUnused: counter("connections_unused_total", "Connections that ended before their first byte, as those of health checks do."),
		EventsReceived:    counter("events_received_total", "Events read from senders."),
		WindowsAcked:      counter("windows_acked_total", "Windows acknowledged to their senders."),
		ProtocolErrors:    counterVec("protocol_errors_total", "Connections closed because of what was sent, by reason.", "reason"),
		InflightBytes:     gauge("inflight_bytes", "Bytes of input.memory in use."),
		BatchDuration:     histogram("batch_duration_seconds", "From the last byte of a batch to its durability.", seconds),
		VerdictsRemoved:   counter("incoming_verdicts_removed_total", "Incoming arcanna.ioc objects taken out of events."),

		ECSRefused:        counterVec("ecs_refused_total", "Events with hits whose threat or related is of a shape that nothing can be added to.", "field"),
		Indicators:        counterVec("indicators_total", "Indicators of events, by type and result.", "type", "result"),
		CacheRequests:     counterVec("cache_requests_total", "Look-ups in the cache: hit, miss, coalesced, stale.", "result"),
		CacheEntries:      gauge("cache_entries", "Entries in the cache."),
		VTRequests:        counterVec("vt_requests_total", "Requests to VirusTotal by HTTP status, or error where none came.", "code"),
		VTRequestDuration: histogram("vt_request_duration_seconds", "Duration of requests to VirusTotal.", seconds),
		VTQuotaRemaining:  &Left{desc: prometheus.NewDesc("vtsidecar_vt_quota_remaining", "Requests left in the current window; absent where it is unlimited.", []string{"window"}, nil)},
		VTQueueLength:     gauge("vt_queue_length", "Indicators waiting for a request to VirusTotal."),

		EventsStored:       counter("events_stored_total", "Events durably stored in the output."),
		EventsDeadLettered: counterVec("events_dead_lettered_total", "Events durably stored in the dead letter, by reason.", "reason"),
		OutputRetries:      counterVec("output_retries_total", "Writes to the output that had to be tried again, by reason.", "reason"),
		OutputFilesDeleted: counter("output_files_deleted_total", "Rotated output files deleted."),
		OutputUp:           gauge("output_up", "1 while the output takes events, else 0."),
		OutputItems:        counterVec("output_items_total", "What Elasticsearch answered about single events.", "outcome", "reason"),
		OutputFallback:     counterVec("output_fallback_total", "Events sent to the fallback index, by what was wrong with the name they gave.", "reason"),
		OutputOpIgnored:    counter("output_op_type_ignored_total", "Events that asked for another operation than output.elasticsearch.op_type."),
		OutputBulkDuration: histogram("output_bulk_duration_seconds", "Duration of bulk requests.", seconds),
		OutputOldestRetry:  newAge("vtsidecar_output_oldest_retry_seconds", "Age of the oldest event that is being tried again; 0: none is."),
		DeadLetterBytes:    gauge("dead_letter_bytes", "Bytes in the dead letter."),
	}
	// An alert on increase() does not see a series that begins at 1.
	for _, reason := range event.Reasons {
		s.EventsDeadLettered.WithLabelValues(reason)
	}
	for _, code := range []string{"200", "401", "403", "404", "429", "error"} { // others are for the day when they come
		s.VTRequests.WithLabelValues(code)
	}
	for _, field := range []string{"threat", "related"} {
		s.ECSRefused.WithLabelValues(field)
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vtsidecar_build_info", Help: "Always 1; its labels tell what was built."}, []string{"version", "revision", "goversion"})
	info.WithLabelValues(version, revision, goVersion).Set(1)

	s.Registry.MustRegister(
		info, s.Connections, s.ConnectionsUnused, s.EventsReceived, s.WindowsAcked, s.ProtocolErrors, s.InflightBytes, s.BatchDuration, s.VerdictsRemoved, s.ECSRefused,
		s.Indicators, s.CacheRequests, s.CacheEntries, s.VTRequests, s.VTRequestDuration, s.VTQuotaRemaining, s.VTQueueLength,
		s.EventsStored, s.EventsDeadLettered, s.OutputRetries, s.OutputFilesDeleted, s.OutputUp, s.DeadLetterBytes,
		s.OutputItems, s.OutputFallback, s.OutputOpIgnored, s.OutputBulkDuration, s.OutputOldestRetry,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return s
}
