package enrich

import (
	"context"
	"encoding/hex"
	"slices"
	"time"

	"vtsidecar/enrich/indicator"
)

// This file writes arcanna.ioc. Its rule: every length is bounded before the
// first byte of a document is written, a field without a value is left out and
// never null, and the inside of a document allocates nothing.

// schema is the version of the document's shape.
const schema = "1"

// status is what became of the look-up of an indicator.
type status uint8

const (
	statusFound status = iota
	statusStale
	statusNotFound
	statusPending
	statusQuota
	statusUnavailable
	statusSkipped
	statuses
)

var statusWords = [statuses]string{"found", "stale", "not_found", "pending", "quota", "unavailable", "skipped"}

// answered: the source has spoken.
func (s status) answered() bool { return s <= statusNotFound }

// cacheWord is how the cache helped.
type cacheWord uint8

const (
	cacheNone cacheWord = iota // not asked
	cacheHit
	cacheMiss
	cacheCoalesced
	cacheStale
	cacheWords
)

var cacheWordTexts = [cacheWords]string{"", "hit", "miss", "coalesced", "stale"}

// part is one name of the event that is being written.
type part struct {
	from, to  uint32 // its refs
	worst     uint32 // ref whose finding speaks for it
	name      uint16
	malicious uint16 // findings
	open      bool   // a value that counts has no answer
}

// summary sums up the event that is being written.
type summary struct {
	results  [results]int
	counted  int
	answered int
	waiting  int // pending and quota
	skipped  int
	score    int // -1: none
	types    uint8
	provided bool
	worst    int // part; -1: none
}

func (m *summary) result() result {
	for r := resultMalicious; r > resultNone; r-- {
		if m.results[r] > 0 {
			return r
		}
	}
	return resultNone
}

func (m *summary) status() string {
	switch {
	case m.counted == 0:
		return "none"
	case m.answered == m.counted:
		return "complete"
	case m.answered > 0:
		return "partial"
	case m.waiting > 0:
		return "pending"
	}
	return "unavailable"
}

// acquits says whether is_malicious may be false.
func acquits(r result) bool { return r == resultHarmless || r == resultSuspicious }

func (w *Work) value(f *finding) []byte { return w.s.text[f.at : f.at+f.size] }

// resultOf and statusOf are what a ref says: the finding, unless the event has
// too many.
func (w *Work) resultOf(r ref) result {
	if r.tooMany {
		return resultNone
	}
	return w.s.findings[r.finding].result
}

func (w *Work) statusOf(r ref) status {
	if r.tooMany {
		return statusSkipped
	}
	return w.s.findings[r.finding].status
}

// survey fills parts, distinct and skipped for the event, and returns the sums
// and how long its document can become.
func (w *Work) survey(ctx context.Context, p *planned) (m summary, bound int, err error) {
	s := w.s
	refs := s.refs[p.from:p.to]
	s.parts, s.distinct = s.parts[:0], s.distinct[:0]
	clear(s.skipped[:])
	if err := room(ctx, w, &s.distinct, len(refs)); err != nil {
		return m, 0, err
	}
	if err := room(ctx, w, &s.parts, min(len(refs), len(w.e.names))); err != nil {
		return m, 0, err
	}
	m.score, m.worst, m.skipped = -1, -1, int(p.dropped)
	w.touched = 0
	for i := range refs { // all of them at once, since they lie far apart and in no near cache
		w.touched |= s.findings[refs[i].finding].rendered
	}
	bound = 4096 + longest(int(p.idLen))
	w.rendered++
	for i := 0; i < len(refs); {
		pt := part{name: refs[i].name, from: p.from + uint32(i), worst: p.from + uint32(i)}
		worst, best := w.resultOf(refs[i]), -1
		for ; i < len(refs) && refs[i].name == pt.name; i++ {
			r := refs[i]
			f := &s.findings[r.finding]
			res := w.resultOf(r)
			// Each value may stand in four lists, once in the explanation, and in a detail.
			bound += 6*longest(int(f.size)) + 64
			if res == resultMalicious {
				pt.malicious++
			}
			if res > resultNone && !f.status.answered() {
				pt.open = true
			}
			if positives := int(f.positives); res > worst || res == worst && res > resultNone && positives > best {
				worst, best, pt.worst = res, positives, p.from+uint32(i)
			} else if res == resultNone && worst == resultNone && f.size > 0 && s.findings[s.refs[pt.worst].finding].size == 0 {
				pt.worst = p.from + uint32(i) // a value that can be shown
			}
			if f.rendered == w.rendered {
				continue
			}
			f.rendered = w.rendered
			if res == resultNone {
				m.skipped++
				s.skipped[f.typ]++
				continue
			}
			s.distinct = append(s.distinct, r.finding)
			m.results[res]++
			m.counted++
			m.types |= 1 << f.typ
			switch {
			case f.status.answered():
				m.answered++
				m.provided = true
				if f.found {
					m.score = max(m.score, int(f.positives))
				}
			case f.status != statusUnavailable:
				m.waiting++
			}
			bound += int(f.spare)
			if w.detailed(f) { // the answer itself is far away, and looked at no sooner
				bound += detailBound(f.answer)
			}
		}
		pt.to = p.from + uint32(i)
		bound += 512 + 4*len(w.e.names[pt.name].inside)
		s.parts = append(s.parts, pt)
		if m.worst < 0 || worst > w.resultOf(s.refs[s.parts[m.worst].worst]) {
			m.worst = len(s.parts) - 1
		}
	}
	return m, bound, nil
}

// detailed says whether a finding gets an element of indicators.
func (w *Work) detailed(f *finding) bool {
	switch w.e.cfg.Details {
	case DetailsHits:
		return f.result == resultMalicious || f.result == resultSuspicious
	case DetailsAll:
		return f.status.answered()
	}
	return false
}

// document renders the event's arcanna.ioc into scratch.doc.
func (w *Work) document(ctx context.Context, p *planned) error {
	s := w.s
	s.doc = s.doc[:0]
	m, bound, err := w.survey(ctx, p)
	if err != nil {
		return err
	}
	s.hit = m.results[resultMalicious]+m.results[resultSuspicious] > 0
	if err := room(ctx, w, &s.doc, bound); err != nil {
		return err
	}
	for i := range s.parts {
		if err := w.prepare(ctx, s.refs[s.parts[i].worst], i == m.worst); err != nil {
			return err
		}
	}

	doc := append(s.doc, `{"event_id":`...)
	if p.idLen > 0 {
		doc = appendString(doc, s.text[p.idAt:p.idAt+p.idLen])
	} else {
		doc = append(doc, '"')
		doc = hex.AppendEncode(doc, p.id[:])
		doc = append(doc, '"')
	}
	doc = append(doc, `,"schema":`+schema...)
	res, st := m.result(), m.status()
	verdict := ""
	switch {
	case res == resultMalicious:
		verdict = `,"is_malicious":true`
	case acquits(res) && st == "complete":
		verdict = `,"is_malicious":false`
	}
	doc = append(doc, verdict...)
	doc = append(doc, `,"global":{"result":"`...)
	doc = append(doc, res.String()...)
	doc = append(doc, '"')
	doc = append(doc, verdict...)
	doc = append(doc, `,"status":"`...)
	doc = append(doc, st...)
	doc = append(doc, '"')
	if m.score >= 0 {
		doc = append(doc, `,"score":`...)
		doc = appendInt(doc, m.score)
	}
	doc = append(doc, `,"malicious_count":`...)
	doc = appendInt(doc, m.results[resultMalicious])
	doc = append(doc, `,"suspicious_count":`...)
	doc = appendInt(doc, m.results[resultSuspicious])
	doc = append(doc, `,"unknown_count":`...)
	doc = appendInt(doc, m.results[resultUnknown])
	doc = append(doc, `,"checked_count":`...)
	doc = appendInt(doc, m.counted)
	doc = append(doc, `,"skipped_count":`...)
	doc = appendInt(doc, m.skipped)
	doc = w.appendLists(doc, &m)
	doc = w.appendExplanation(doc, &m)
	doc = append(doc, `,"late":false,"updated_at":`...)
	doc = append(doc, s.stamp...)
	doc = append(doc, '}')
	doc = w.appendParts(doc)
	doc = w.appendDetails(doc)
	s.doc = append(doc, '}')
	return nil
}

// appendLists appends the lists of global.
func (w *Work) appendLists(dst []byte, m *summary) []byte {
	s := w.s
	hits := m.results[resultMalicious] > 0
	dst = append(dst, `,"malicious_fields":[`...)
	if hits {
		n := 0
		for i := range s.parts {
			if s.parts[i].malicious == 0 || n == maxList {
				continue
			}
			dst = comma(dst, &n)
			dst = append(dst, w.e.names[s.parts[i].name].quoted...)
		}
	}
	dst = append(dst, `],"malicious_values":[`...)
	if hits {
		n := 0
		for _, d := range s.distinct {
			if f := &s.findings[d]; f.result == resultMalicious && n < maxList {
				dst = comma(dst, &n)
				dst = appendString(dst, w.value(f))
			}
		}
	}
	dst = append(dst, `],"types":[`...)
	n := 0
	for t := indicator.IP; t <= indicator.Hash; t++ {
		if m.types&(1<<t) != 0 {
			dst = comma(dst, &n)
			dst = append(dst, '"')
			dst = append(dst, t.String()...)
			dst = append(dst, '"')
		}
	}
	dst = append(dst, `],"providers":[`...)
	if m.provided {
		dst = append(dst, '"')
		dst = append(dst, w.e.provider...)
		dst = append(dst, '"')
	}
	dst = append(dst, `],"threat_labels":[`...)
	if hits {
		n := 0
		var seen [maxList]string
		for _, d := range s.distinct {
			f := &s.findings[d]
			if f.result != resultMalicious || f.answer.ThreatLabel == "" || n == maxList || slices.Contains(seen[:n], f.answer.ThreatLabel) {
				continue
			}
			seen[n] = f.answer.ThreatLabel
			dst = comma(dst, &n)
			dst = appendString(dst, f.answer.ThreatLabel)
		}
	}
	return append(dst, ']')
}

// comma separates the elements of a list and counts them.
func comma(dst []byte, n *int) []byte {
	if *n > 0 {
		dst = append(dst, ',')
	}
	*n++
	return dst
}

// appendExplanation says in a sentence why the result is what it is.
func (w *Work) appendExplanation(dst []byte, m *summary) []byte {
	s := w.s
	if m.counted == 0 {
		return append(dst, `,"explanation":"nothing to look up"`...)
	}
	pt := &s.parts[m.worst]
	f := &s.findings[s.refs[pt.worst].finding]
	dst = append(dst, `,"explanation":"`...)
	dst = append(dst, w.e.names[pt.name].inside...)
	dst = append(dst, ' ')
	switch {
	case f.fact != nil:
		dst = append(dst, f.fact.sentence...)
	case f.sentence.generation == s.bodiesOf:
		dst = append(dst, s.bodies[f.sentence.at:f.sentence.at+f.sentence.size]...)
	default:
		dst = w.appendSentence(dst, f)
	}
	if more := m.results[f.result] - 1; more > 0 {
		dst = append(dst, "; "...)
		dst = appendInt(dst, more)
		dst = append(dst, " more "...)
		dst = append(dst, f.result.String()...)
	}
	return append(dst, '"')
}

// appendParts appends the parts, each within the objects that its name names.
func (w *Work) appendParts(dst []byte) []byte {
	s := w.s
	depth := 0 // objects that are open
	last := -1 // name of the part before
	for i := range s.parts {
		pt := &s.parts[i]
		n := &w.e.names[pt.name]
		shared := 0
		if last >= 0 {
			shared = n.shared
			for j := int(pt.name) - 1; j > last; j-- {
				shared = min(shared, w.e.names[j].shared)
			}
		}
		for ; depth > shared; depth-- {
			dst = append(dst, '}')
		}
		dst = append(dst, ',')
		for _, o := range n.open[shared:] {
			dst = append(dst, o...)
		}
		dst = w.appendPart(dst, pt)
		depth, last = len(n.open)-1, int(pt.name)
	}
	for ; depth > 0; depth-- {
		dst = append(dst, '}')
	}
	return dst
}

// appendPart appends one part.
func (w *Work) appendPart(dst []byte, pt *part) []byte {
	s := w.s
	r := s.refs[pt.worst]
	f := &s.findings[r.finding]
	// A part with a value that nobody has spoken about acquits nobody.
	switch silent := pt.open && acquits(f.result); {
	case silent || r.tooMany:
		dst = w.appendBody(dst, r, silent)
	case f.fact != nil:
		dst = append(dst, f.ready...)
	case f.body.generation == s.bodiesOf:
		dst = append(dst, s.bodies[f.body.at:f.body.at+f.body.size]...)
	default:
		dst = w.appendBody(dst, r, false)
	}
	if pt.to-pt.from > 1 {
		refs := s.refs[pt.from:pt.to]
		dst = append(dst, `,"values":[`...)
		n := 0
		for _, r := range refs {
			if f := &s.findings[r.finding]; f.size > 0 && n < maxList {
				dst = comma(dst, &n)
				dst = appendString(dst, w.value(f))
			}
		}
		dst = append(dst, `],"values_total":`...)
		dst = appendInt(dst, len(refs))
		dst = append(dst, `,"malicious_values":[`...)
		n = 0
		for _, r := range refs {
			if n == int(pt.malicious) || n == maxList {
				break
			}
			if w.resultOf(r) == resultMalicious {
				dst = comma(dst, &n)
				dst = appendString(dst, w.value(&s.findings[r.finding]))
			}
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// prepare renders the part of a finding ahead, and the sentence where one is
// wanted, since most stand in many events. What was rendered is forgotten when
// it has become much.
func (w *Work) prepare(ctx context.Context, r ref, sentence bool) error {
	s := w.s
	f := &s.findings[r.finding]
	body := f.body.generation != s.bodiesOf
	sentence = sentence && f.sentence.generation != s.bodiesOf && f.skip == indicator.Lookup
	if f.fact != nil || r.tooMany || !body && !sentence {
		return nil
	}
	bound := 2*longest(int(f.size)) + 1024
	if f.answer != nil {
		bound += longest(len(f.answer.Link))
	}
	if bound > maxBodies/8 {
		return nil // rendered where it stands
	}
	if err := w.roomForBody(ctx, bound); err != nil {
		return err
	}
	body = f.body.generation != s.bodiesOf
	at := len(s.bodies)
	if body {
		s.bodies = w.appendBody(s.bodies, r, false)
		f.body = piece{s.bodiesOf, uint32(at), uint32(len(s.bodies) - at)}
	}
	if sentence {
		at = len(s.bodies)
		s.bodies = w.appendSentence(s.bodies, f)
		f.sentence = piece{s.bodiesOf, uint32(at), uint32(len(s.bodies) - at)}
	}
	return nil
}

// roomForBody makes room for n more bytes of bodies; what is there may be
// forgotten for that.
func (w *Work) roomForBody(ctx context.Context, n int) error {
	s := w.s
	if len(s.bodies)+n > maxBodies {
		s.bodies = s.bodies[:0]
		s.bodiesOf++
	}
	return room(ctx, w, &s.bodies, n)
}

// appendBody appends a part without its lists and its closing brace. silent:
// is_malicious is not said.
func (w *Work) appendBody(dst []byte, r ref, silent bool) []byte {
	f := &w.s.findings[r.finding]
	dst = append(dst, '{')
	if f.size > 0 {
		dst = append(dst, `"value":`...)
		dst = appendString(dst, w.value(f))
		dst = append(dst, ',')
	}
	if f.typ != indicator.None {
		dst = append(dst, `"type":"`...)
		dst = append(dst, f.typ.String()...)
		dst = append(dst, `",`...)
	}
	res, st := w.resultOf(r), w.statusOf(r)
	dst = append(dst, `"result":"`...)
	dst = append(dst, res.String()...)
	dst = append(dst, '"')
	switch {
	case res == resultMalicious:
		dst = append(dst, `,"is_malicious":true`...)
	case acquits(res) && !silent:
		dst = append(dst, `,"is_malicious":false`...)
	}
	dst = append(dst, `,"status":"`...)
	dst = append(dst, statusWords[st]...)
	dst = append(dst, '"')
	if st == statusSkipped {
		skip := f.skip
		if r.tooMany {
			skip = indicator.TooMany
		}
		dst = append(dst, `,"skip_reason":"`...)
		dst = append(dst, skip...)
		return append(dst, '"')
	}
	if !st.answered() {
		return dst
	}
	dst = append(dst, `,"provider":"`...)
	dst = append(dst, w.e.provider...)
	dst = append(dst, '"')
	if !f.answer.Found {
		return dst
	}
	dst = append(dst, `,"positives":`...)
	dst = appendInt(dst, int(f.verdict.malicious))
	dst = append(dst, `,"engines_total":`...)
	dst = appendInt(dst, f.verdict.total())
	if f.verdict.ageDays >= 0 {
		dst = append(dst, `,"analysis_age_days":`...)
		dst = appendInt(dst, int(f.verdict.ageDays))
	}
	if f.answer.Link != "" && (res == resultMalicious || res == resultSuspicious) { // nobody follows the others, and they are an eighth of what is written
		dst = append(dst, `,"link":`...)
		dst = appendString(dst, f.answer.Link)
	}
	return dst
}

// maxShown is how many bytes of a value the explanation shows.
const maxShown = 128

// appendSentence appends what the explanation says about a finding, as the
// inside of a JSON string. All words but the value are plain.
func (w *Work) appendSentence(dst []byte, f *finding) []byte {
	value := w.value(f)
	shown := cut(value, maxShown)
	at := len(dst)
	dst = appendString(dst, shown)
	dst = append(dst[:at], dst[at+1:len(dst)-1]...) // without its quotes
	if len(shown) < len(value) {
		dst = append(dst, "..."...)
	}
	dst = append(dst, ": "...)
	v := &f.verdict
	switch {
	case f.status == statusPending:
		dst = append(dst, "no answer yet"...)
	case f.status == statusQuota:
		dst = append(dst, "no answer yet, waiting for quota"...)
	case !f.status.answered():
		dst = append(dst, "no answer to be had"...)
	case !f.answer.Found:
		dst = append(dst, "not known to "...)
		dst = append(dst, w.e.provider...)
	case v.ground == neverAnalysed:
		dst = append(dst, "never analysed"...)
	case v.ground == tooFew && v.total() == 0:
		dst = append(dst, "no engine has an opinion"...)
	case v.ground == tooFew:
		dst = append(dst, "too few engines with an opinion: "...)
		dst = appendInt(dst, v.total())
		dst = append(dst, " (at least "...)
		dst = appendInt(dst, opinionFloor)
		dst = append(dst, ')')
	default:
		if v.ground == byAssessment {
			dst = append(dst, "assessed as "...)
			dst = appendEscaped(dst, f.answer.Assessment)
			dst = append(dst, "; "...)
		}
		dst = w.appendCounts(dst, f)
	}
	if v.tooOld {
		if limit := w.e.judge.rules.MaxAnalysisAge.of(f.typ); v.ageDays >= 0 {
			dst = append(dst, "; analysed "...)
			dst = appendInt(dst, int(v.ageDays))
			dst = append(dst, " days ago (limit "...)
			dst = appendDays(dst, limit)
			dst = append(dst, "), so "...)
		} else {
			dst = append(dst, "; analysed at an unknown time, so "...)
		}
		dst = append(dst, f.result.String()...)
	}
	if f.status == statusStale {
		dst = append(dst, "; from an expired answer"...)
	}
	if f.leftOut != "" {
		dst = append(dst, "; looked up without its "...)
		dst = appendEscaped(dst, f.leftOut)
	}
	return dst
}

func appendDays(dst []byte, d time.Duration) []byte {
	if d%(24*time.Hour) == 0 {
		return appendInt(dst, int(d/(24*time.Hour)))
	}
	return append(dst, d.String()...)
}

// appendCounts appends what the engines say.
func (w *Work) appendCounts(dst []byte, f *finding) []byte {
	v := &f.verdict
	if v.total() == 0 { // assessed all the same
		return append(dst, "no engine has an opinion"...)
	}
	n, words, limit := int(v.malicious)+int(v.suspicious), "malicious or suspicious", w.e.judge.rules.Suspicious.of(f.typ)
	if f.result == resultMalicious || f.result == resultSuspicious && v.tooOld {
		n, words, limit = int(v.malicious), "malicious", w.e.judge.rules.Malicious.of(f.typ)
	}
	dst = appendInt(dst, n)
	dst = append(dst, " of "...)
	dst = appendInt(dst, v.total())
	dst = append(dst, " engines "...)
	dst = append(dst, words...)
	if v.ground == byCounts {
		dst = append(dst, " (threshold "...)
		dst = appendInt(dst, limit)
		dst = append(dst, ')')
	}
	return dst
}

// appendDetails appends the details of those indicators that get some.
func (w *Work) appendDetails(dst []byte) []byte {
	s := w.s
	if w.e.cfg.Details == DetailsNone {
		return dst
	}
	n := 0
	for _, d := range s.distinct {
		f := &s.findings[d]
		if !w.detailed(f) {
			continue
		}
		if n == 0 {
			dst = append(dst, `,"indicators":[`...)
		}
		dst = comma(dst, &n)
		dst = w.appendDetail(dst, f)
	}
	if n > 0 {
		dst = append(dst, ']')
	}
	return dst
}

// detailBound is how long a detail can become, without its value.
func detailBound(a *Answer) int {
	n := 1024 + longest(len(a.Country)) + longest(len(a.ASOwner)) + longest(len(a.ThreatLabel)) + longest(len(a.Assessment)) +
		longest(len(a.MD5)) + longest(len(a.SHA1)) + longest(len(a.SHA256))
	for _, t := range a.Tags[:min(len(a.Tags), maxList)] {
		n += longest(len(t)) + 1
	}
	engine := 0
	for i := range a.Engines {
		engine = max(engine, len(a.Engines[i].Engine))
	}
	n += min(len(a.Engines), maxList) * (longest(engine) + 1)
	return n
}

// appendDetail appends one element of indicators.
func (w *Work) appendDetail(dst []byte, f *finding) []byte {
	text := func(name, s string) {
		if s != "" {
			dst = append(dst, name...)
			dst = appendString(dst, s)
		}
	}
	number := func(name string, n int) {
		dst = append(dst, name...)
		dst = appendInt(dst, n)
	}
	a, v := f.answer, &f.verdict
	dst = append(dst, `{"value":`...)
	dst = appendString(dst, w.value(f))
	text(`,"type":`, f.typ.String())
	text(`,"result":`, f.result.String())
	dst = append(dst, `,"provider":"`...)
	dst = append(dst, w.e.provider...)
	dst = append(dst, '"')
	if a.Found {
		number(`,"malicious":`, int(v.malicious))
		number(`,"suspicious":`, int(v.suspicious))
		number(`,"harmless":`, int(v.harmless))
		number(`,"undetected":`, int(v.undetected))
		dst = append(dst, `,"engines":[`...)
		n := 0
		for _, c := range [...]Category{CategoryMalicious, CategorySuspicious} {
			for i := range a.Engines {
				if e := &a.Engines[i]; e.Category == c && n < maxList && w.e.judge.takes(e.Engine) {
					dst = comma(dst, &n)
					dst = appendString(dst, e.Engine)
				}
			}
		}
		dst = append(dst, `],"tags":`...)
		dst = appendStrings(dst, a.Tags)
		number(`,"community_score":`, a.Reputation)
		text(`,"country":`, a.Country)
		text(`,"as_owner":`, a.ASOwner)
		if a.ASN != 0 {
			number(`,"asn":`, int(a.ASN))
		}
		text(`,"threat_label":`, a.ThreatLabel)
		text(`,"assessment":`, a.Assessment)
		text(`,"md5":`, a.MD5)
		text(`,"sha1":`, a.SHA1)
		text(`,"sha256":`, a.SHA256)
		if !a.LastAnalysis.IsZero() {
			dst = append(dst, `,"last_analysis_date":`...)
			dst = appendTime(dst, a.LastAnalysis)
		}
	}
	if !a.FetchedAt.IsZero() {
		dst = append(dst, `,"fetched_at":`...)
		dst = appendTime(dst, a.FetchedAt)
	}
	text(`,"cache":`, cacheWordTexts[f.cached])
	return append(dst, '}')
}
