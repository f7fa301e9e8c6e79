//go:build real

package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// firstLine is the first line's number. All have seven digits and every value
// has a fixed width, so that all lines are equally long: after a truncation,
// new lines then stand exactly where others stood.
const firstLine = 1_000_000

// oddities are numbers that a decoder would change: beyond float64's integers,
// beyond float64, with a zero at the end, minus zero, with a capital exponent.
const oddities = `{"big":9007199254740993,"huge":1e400,"scale":1.10,"zero":-0,"max":18446744073709551615,"exp":1E+2,"long":0.1000000000000000055511151231257827}`

// line is the log's line number n. Its indicators come from small pools, so
// that the table has a few hundred entries and every one is met many times.
func line(n int) string {
	f := indicators(n)
	return fmt.Sprintf(`{"n":%d,"source":{"ip":%q},"destination":{"ip":%q},"dns":{"question":{"name":%q}},"url":{"full":%q},"file":{"hash":{"sha256":%q}},"odd":%s,"text":"user \"a\\b\" \u00e9é: %s"}`,
		n, f["source.ip"].value, f["destination.ip"].value, f["dns.question.name"].value, f["url.full"].value, f["file.hash"].value, oddities,
		"the quick brown fox jumps over the lazy dog")
}

// wanted is an indicator of a line, in its canonical form.
type wanted struct{ typ, value string }

// indicators of a line, by the name under arcanna.ioc. An empty type stands
// for one that is not looked up.
func indicators(n int) map[string]wanted {
	i := n - firstLine
	f := map[string]wanted{
		"source.ip":         {"ip", fmt.Sprintf("203.0.113.%d", 100+i%100)},
		"destination.ip":    {"ip", fmt.Sprintf("198.51.100.%d", 100+i/3%100)},
		"dns.question.name": {"domain", fmt.Sprintf("host-%02d.example.com", i/7%60)},
		"url.full":          {"url", fmt.Sprintf("https://www-%02d.example.net/a/b", i/11%40)},
		"file.hash":         {"hash", fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i / 13 % 60)}))},
	}
	if i%5 == 0 {
		f["destination.ip"] = wanted{"", fmt.Sprintf("10.200.100.%d", 100+i%100)} // private
	}
	return f
}

// appendLines writes the lines from number n on to a log.
func appendLines(t *testing.T, path string, n, count int) {
	t.Helper()
	writeLines(t, path, n, count, line)
}

// writeLines is appendLines with other lines.
func writeLines(t *testing.T, path string, n, count int, line func(int) string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	w := bufio.NewWriter(f)
	for i := range count {
		_, _ = w.WriteString(line(n + i)) // Flush reports it
		_ = w.WriteByte('\n')
	}
	require.NoError(t, w.Flush())
	require.NoError(t, f.Close())
}

// feeder writes logs while its test does other things to their readers.
type feeder struct {
	stop, done chan struct{}
	written    []span // of each log; read after done
	err        error  // read after done
}

// feed writes on to each log, from the end of what was written to it: many
// lines a second at first, so that there is much in flight, and then few, so
// that there is still something however long the test takes.
func feed(t *testing.T, written []span, logs ...string) *feeder {
	t.Helper()
	f := &feeder{stop: make(chan struct{}), done: make(chan struct{}), written: written}
	files := make([]*os.File, len(logs))
	for i, name := range logs {
		file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
		require.NoError(t, err)
		files[i] = file
	}
	go func() {
		defer close(f.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for k := 0; ; k++ {
			select {
			case <-f.stop:
				for _, file := range files {
					f.err = errors.Join(f.err, file.Close())
				}
				return
			case <-tick.C:
			}
			more := 50
			if k > 200 {
				more = 5
			}
			for i, file := range files {
				var b strings.Builder
				for range more {
					b.WriteString(line(f.written[i].first + f.written[i].count))
					b.WriteByte('\n')
					f.written[i].count++
				}
				_, err := file.WriteString(b.String())
				f.err = errors.Join(f.err, err)
			}
		}
	}()
	t.Cleanup(func() {
		select {
		case <-f.stop:
		default: // the test failed before it came to that
			close(f.stop)
		}
		<-f.done
	})
	return f
}

// halt ends the feeding and returns what the logs hold.
func (f *feeder) halt(t *testing.T) []span {
	t.Helper()
	close(f.stop)
	<-f.done
	require.NoError(t, f.err, "writing the logs")
	return f.written
}

// stored is one line of an output file, as far as the tests read it.
type stored struct {
	N       int
	Message string
	Odd     map[string]json.RawMessage
	Arcanna struct {
		IOC map[string]json.RawMessage
	}
	Threat *struct {
		Enrichments []struct {
			Matched struct{ Field, Atomic string }
		}
	}
	Related map[string][]string
}

// part is a field's verdict in a document.
type part struct {
	Value       string
	Type        string
	Result      string
	Status      string
	IsMalicious *bool `json:"is_malicious"`
	Positives   *int
	SkipReason  string `json:"skip_reason"`
}

// span is count lines, from number first on.
type span struct{ first, count int }

// check is what the tests hold an output against.
type check struct {
	lines      []span                     // what was written; they do not overlap
	raw        bool                       // each line must stand in message as it stood in the log
	sent       map[int][]byte             // what was put on the wire, by line; nil where nobody listened
	odd        map[string]json.RawMessage // else: the numbers as Filebeat spells them; nil: raw has to do
	unanswered bool                       // the stand-in gave no answers: parts are not compared
	once       bool                       // no repeats
}

// verify reads all the output of all those servers and holds every line of it
// against c. It returns how many repeats there were.
func verify(t *testing.T, c check, servers ...*sidecar) (repeats int) {
	t.Helper()
	type seen struct {
		id    string
		count int
	}
	count := 0
	for _, s := range c.lines {
		count += s.count
	}
	lines := make(map[int]seen, count)    // by the line's number
	owners := make(map[string]int, count) // the line's number, by event_id
	table := newTable()
	for raw := range documents(t, servers...) {
		var got stored
		require.NoError(t, json.Unmarshal(raw, &got), "%s", raw)
		n := got.N

		if c.sent != nil {
			if err := sameBytes(c.sent[n], raw); err != nil {
				require.NoError(t, err, "sent:   %s\nstored: %s", c.sent[n], raw)
			}
		} else if c.odd != nil {
			require.Equal(t, c.odd, got.Odd, "numbers of line %d", n)
		}
		if c.raw {
			require.Equal(t, line(n), got.Message)
		}
		if !c.unanswered {
			table.verify(t, n, &got)
		}

		var id string
		require.NoError(t, json.Unmarshal(got.Arcanna.IOC["event_id"], &id), "%s", raw)
		require.Regexp(t, `^[0-9a-f]{32}$`, id)
		if owner, ok := owners[id]; ok {
			require.Equal(t, owner, n, "two lines under the event_id %s", id)
		}
		owners[id] = n
		was := lines[n]
		if was.count > 0 {
			require.Equal(t, was.id, id, "line %d came again under another event_id", n)
			repeats++
		}
		lines[n] = seen{id, was.count + 1}
		if t.Failed() {
			t.FailNow() // one line's faults are enough to read
		}
	}
	missing := 0
	for _, s := range c.lines {
		for n := s.first; n < s.first+s.count; n++ {
			if lines[n].count == 0 {
				missing++
			}
		}
	}
	assert.Zero(t, missing, "lines missing")
	assert.Equal(t, count, len(lines)+missing, "lines that nobody wrote")
	if c.once {
		assert.Zero(t, repeats, "lines stored more than once")
	}
	return repeats
}

// documents are the lines of all output files of all those servers.
func documents(t *testing.T, servers ...*sidecar) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		t.Helper()
		for _, s := range servers {
			for _, name := range s.outputs() {
				for r := bufio.NewReaderSize(openOutput(t, name), 1<<20); ; {
					raw, err := r.ReadBytes('\n')
					if err == io.EOF {
						require.Empty(t, raw, "%s ends in the middle of a line", name)
						break
					}
					require.NoError(t, err, "%s", name)
					if !yield(bytes.TrimSuffix(raw, []byte("\n"))) {
						return
					}
				}
			}
		}
	}
}

// member is a member of a JSON object: its value's bytes as they stand.
type member struct {
	key   string
	value []byte
}

func members(object []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var all []member
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		all = append(all, member{fmt.Sprint(key), value})
	}
	return all, nil
}

// sameBytes says whether what was stored is what was sent, byte for byte and in
// the same order, less @metadata and with exactly one arcanna. What hits add in
// ECS's own words is the table's to judge.
func sameBytes(sent, stored []byte) error {
	want, err := members(sent)
	if err != nil {
		return fmt.Errorf("sent: %w", err)
	}
	got, err := members(stored)
	if err != nil {
		return fmt.Errorf("stored: %w", err)
	}
	ours := 0
	for _, m := range got {
		switch m.key {
		case "arcanna":
			ours++
			continue
		case "threat", "related": // Filebeat sends neither
			continue
		}
		for len(want) > 0 && want[0].key == "@metadata" {
			want = want[1:]
		}
		if len(want) == 0 || want[0].key != m.key || !bytes.Equal(want[0].value, m.value) {
			return fmt.Errorf("the member %q was not sent so, or not here", m.key)
		}
		want = want[1:]
	}
	for len(want) > 0 && want[0].key == "@metadata" {
		want = want[1:]
	}
	if len(want) > 0 {
		return fmt.Errorf("the member %q is missing", want[0].key)
	}
	if ours != 1 {
		return fmt.Errorf("%d members arcanna", ours)
	}
	return nil
}

// table holds documents against the stand-in's answers.
type table struct {
	parts map[wanted]part // what an indicator's part must say
}

func newTable() *table { return &table{parts: make(map[wanted]part)} }

// rank orders results from worst to best, as the design does.
var rank = map[string]int{"malicious": 5, "suspicious": 4, "pending": 3, "unknown": 2, "harmless": 1, "none": 0}

// verify holds all parts of line n and what is said of them together against
// the table.
func (tb *table) verify(t *testing.T, n int, document *stored) {
	t.Helper()
	ioc := document.Arcanna.IOC
	worst, score := "none", 0
	hits := make(map[string]string)      // values, by name
	related := make(map[string][]string) // none of the indicators has a value of another's type
	for name, w := range indicators(n) {
		want := tb.part(w)
		if rank[want.Result] >= rank["suspicious"] {
			hits[name] = w.value
			list, value := relatedTo(t, w)
			related[list] = append(related[list], value)
		}
		got := at(t, ioc, name)
		require.Equal(t, want, got, "line %d, %s", n, name)
		if rank[want.Result] > rank[worst] {
			worst = want.Result
		}
		if want.Positives != nil {
			score = max(score, *want.Positives)
		}
	}
	var global struct {
		part
		Score int
	}
	require.NoError(t, json.Unmarshal(ioc["global"], &global))
	require.Equal(t, worst, global.Result, "line %d", n)
	require.Equal(t, "complete", global.Status, "line %d", n)
	require.Equal(t, score, global.Score, "line %d", n)
	require.Equal(t, opinion(worst), global.IsMalicious, "line %d", n)
	var top *bool
	if raw, ok := ioc["is_malicious"]; ok {
		require.NoError(t, json.Unmarshal(raw, &top))
	}
	require.Equal(t, global.IsMalicious, top, "line %d", n)

	require.Equal(t, len(hits) > 0, document.Threat != nil, "line %d has hits, and threat", n)
	require.Len(t, document.Related, len(related), "line %d, related", n)
	if document.Threat == nil {
		return
	}
	matched := make(map[string]string)
	for _, e := range document.Threat.Enrichments {
		matched[e.Matched.Field] = e.Matched.Atomic
	}
	require.Equal(t, hits, matched, "line %d, threat.enrichments", n)
	for list, values := range related {
		require.ElementsMatch(t, values, document.Related[list], "line %d, related.%s", n, list)
	}
}

// relatedTo says where ECS's related has an indicator, and as what.
func relatedTo(t *testing.T, w wanted) (list, value string) {
	t.Helper()
	switch w.typ {
	case "ip", "hash":
		return w.typ, w.value
	case "url":
		u, err := url.Parse(w.value)
		require.NoError(t, err)
		return "hosts", u.Hostname()
	default:
		return "hosts", w.value
	}
}

// at is the part that stands under a dotted name.
func at(t *testing.T, ioc map[string]json.RawMessage, name string) (p part) {
	t.Helper()
	first, rest, _ := strings.Cut(name, ".")
	raw := ioc[first]
	for rest != "" {
		first, rest, _ = strings.Cut(rest, ".")
		var object map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &object), "%s", name)
		raw = object[first]
	}
	require.NotNil(t, raw, "there is no %s", name)
	require.NoError(t, json.Unmarshal(raw, &p), "%s", name)
	return p
}

func (tb *table) part(w wanted) part {
	p, ok := tb.parts[w]
	if !ok {
		p = expected(w)
		tb.parts[w] = p
	}
	return p
}
