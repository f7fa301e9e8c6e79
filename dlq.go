package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/urfave/cli/v2"

	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/internal/control"
	"vtsidecar/internal/datadir"
	"vtsidecar/internal/event"
	"vtsidecar/internal/logging"
	"vtsidecar/internal/metrics"
	"vtsidecar/output"
)

// dlqCommand reads the dead letter, and takes letters out of it. list and show
// read the files, beside a server that runs; replay and purge have that server do
// it, so that there is one who writes.
func dlqCommand(e *env, usage cli.OnUsageErrorFunc) *cli.Command {
	flags := func(more ...cli.Flag) []cli.Flag {
		return append(append(configs.HiddenFlags(), more...), &cli.BoolFlag{Name: "json", Usage: "print the findings as JSON"})
	}
	filters := func(more ...cli.Flag) []cli.Flag {
		return flags(append(more,
			&cli.StringSliceFlag{Name: "reason", Usage: "only letters with this `REASON`; several, in as many flags or with commas: any of them"},
			&cli.StringSliceFlag{Name: "status", Usage: "only letters with this `STATUS` of the output; 0: it was never asked"},
			&cli.StringSliceFlag{Name: "index", Usage: "only letters meant for this `INDEX`, with *"},
			&cli.StringFlag{Name: "since", Usage: "only letters since this `TIME`: 2h, 7d, 2026-01-02, or 2026-01-02T03:04:05Z"})...)
	}
	const takes = "Takes the settings of the server, in the same places; see vtsidecar serve --help,\nand docs/dead-letter.md.\n"
	dry := &cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and do nothing"}
	return &cli.Command{
		Name: "dlq", Usage: "dlq list, show, replay, purge: the events that could not be stored", OnUsageError: usage,
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "counts the letters; with filters, prints a row for each", OnUsageError: usage, Flags: filters(),
				UsageText: "vtsidecar dlq list [filters] [--json] [settings]", Description: takes + "It reads the files and changes nothing, also while the server runs.",
				Action: e.action(dlqListCommand),
			},
			{
				Name: "show", Usage: "prints one letter whole", OnUsageError: usage, Flags: flags(),
				UsageText: "vtsidecar dlq show [settings] ID", Description: takes + "ID is that of dlq list, or its beginning. The letter is one line of JSON, with its\nevent as JSON where that is what it is.",
				Action: e.action(dlqShowCommand),
			},
			{
				Name: "replay", Usage: "stores letters again, after a mend, and takes out those that are stored", OnUsageError: usage, Flags: filters(dry),
				UsageText:   "vtsidecar dlq replay [filters] [--dry-run] [--json] [settings] [ID…]",
				Description: takes + "Events go where they were to go at first, under the same _id, so nothing is doubled\nin Elasticsearch, however often and wherever this is interrupted. What is refused\nagain stays, with what the output says now. A server that runs does it itself.",
				Action:      e.action(dlqReplayCommand),
			},
			{
				Name: "purge", Usage: "removes letters for good", OnUsageError: usage,
				Flags:       filters(dry, &cli.BoolFlag{Name: "yes", Usage: "do not ask"}),
				UsageText:   "vtsidecar dlq purge [filters] [--yes] [--dry-run] [--json] [settings] [ID…]",
				Description: takes + "A server that runs does it itself.",
				Action:      e.action(dlqPurgeCommand),
			},
		},
		Action: which("dlq", "vtsidecar dlq list, show, replay, purge"),
	}
}

// dlqChoice reads the settings and the filters.
func dlqChoice(c *cli.Context, e env) (cfg *configs.Config, f output.Filter, err error) {
	if cfg, err = load(c, e); err == nil {
		f, err = dlqFilter(c, time.Now())
	}
	return cfg, f, err
}

// dlqFilter reads the filters and, behind the command, IDs.
func dlqFilter(c *cli.Context, now time.Time) (f output.Filter, err error) {
	f.Reasons, f.Indices = listed(c.StringSlice("reason")), listed(c.StringSlice("index"))
	for _, text := range listed(c.StringSlice("status")) {
		status, err := strconv.Atoi(text)
		if err != nil {
			return f, usagef("--status %s: use a number such as 400", strconv.Quote(text))
		}
		f.Statuses = append(f.Statuses, status)
	}
	for _, id := range c.Args().Slice() {
		if err := checkLetterID(id); err != nil {
			return f, err
		}
		f.IDs = append(f.IDs, id)
	}
	since := c.String("since")
	if since == "" {
		return f, nil
	}
	if d, err := configs.ParseDuration(since); err == nil {
		f.Since = now.Add(-d)
		return f, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, since); err == nil {
			f.Since = t
			return f, nil
		}
	}
	return f, usagef("--since %s: use a duration like 2h or 7d, or a time like 2026-01-02T03:04:05Z", strconv.Quote(since))
}

// listed are the words of a flag that may stand several times, or hold commas, as
// lists among the settings may.
func listed(texts []string) (words []string) {
	for _, text := range texts {
		for word := range strings.SplitSeq(text, ",") {
			words = append(words, strings.TrimSpace(word))
		}
	}
	return words
}

func checkLetterID(id string) error {
	if len(id) < 4 || len(id) > 16 || strings.Trim(id, "0123456789abcdef") != "" {
		return usagef("%s is no ID of a letter: use one of vtsidecar dlq list, or at least 4 digits of its beginning", strconv.Quote(id))
	}
	return nil
}

func isZero(f *output.Filter) bool {
	return len(f.IDs)+len(f.Reasons)+len(f.Statuses)+len(f.Indices) == 0 && f.Since.IsZero()
}

func readLetters(ctx context.Context, cfg *configs.Config, each func(*output.Letter) error) error {
	return output.ReadLetters(output.LettersConfig{Dir: deadLetterPath(cfg), Most: output.MaxLetter(cfg.Input.MaxEvent)}, func(l *output.Letter) error {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return each(l)
	})
}

// letterGroup is a row of what dlq list counts.
type letterGroup struct {
	Reason  string     `json:"reason"`
	Status  int        `json:"status"`
	Output  string     `json:"output"`
	Index   string     `json:"index"`
	Letters int        `json:"letters"`
	Bytes   int64      `json:"bytes"`
	Oldest  *time.Time `json:"oldest,omitempty"`
	Newest  *time.Time `json:"newest,omitempty"`
}

// letterRow is a letter without its event.
type letterRow struct {
	ID       string        `json:"id"`
	Time     *time.Time    `json:"@timestamp,omitempty"`
	Output   string        `json:"output"`
	Status   int           `json:"status"`
	Reason   string        `json:"reason"`
	Detail   string        `json:"detail,omitempty"`
	Target   *event.Target `json:"target,omitempty"`
	Replayed *time.Time    `json:"replayed_at,omitempty"`
	Length   int64         `json:"event_length"`
	File     string        `json:"file"`
	Offset   int64         `json:"offset"`
}

func rowOf(l *output.Letter) letterRow {
	r := letterRow{
		ID: l.ID, Output: l.Output, Status: l.Status, Reason: l.Reason, Detail: l.Detail, Target: l.Target,
		Length: l.Length, File: l.File, Offset: l.Offset,
	}
	if !l.Time.IsZero() {
		r.Time = &l.Time
	}
	if !l.Replayed.IsZero() {
		r.Replayed = &l.Replayed
	}
	return r
}

func dlqListCommand(c *cli.Context, e env) error {
	cfg, filter, err := dlqChoice(c, e)
	if err != nil {
		return err
	}
	if isZero(&filter) {
		return countLetters(c, e, cfg)
	}
	return listLetters(c, e, cfg, &filter)
}

// listLetters prints a row for each letter that a filter chooses.
func listLetters(c *cli.Context, e env, cfg *configs.Config, filter *output.Filter) error {
	out := bufio.NewWriter(e.stdout)
	enc := jsonTo(out)
	n := 0
	err := readLetters(c.Context, cfg, func(l *output.Letter) error {
		if !filter.Match(l) {
			return nil
		}
		n++
		r := rowOf(l)
		if c.Bool("json") {
			return enc.Encode(r)
		}
		if n == 1 {
			fmt.Fprintf(out, "%-16s  %-20s  %-14s  %6s  %10s  %s\n", "ID", "TIME", "REASON", "STATUS", "BYTES", "INDEX")
		}
		index := ""
		if r.Target != nil {
			index = r.Target.Index
		}
		_, err := fmt.Fprintf(out, "%-16s  %-20s  %-14s  %6d  %10d  %s\n", r.ID, shownTime(r.Time), printable(r.Reason), r.Status, r.Length, printable(index))
		return err
	})
	if err := errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if n == 0 {
		fmt.Fprintln(e.stderr, "No letter is chosen by these filters.")
	}
	return nil
}

// count adds a letter to a row.
func (g *letterGroup) count(l *output.Letter) {
	g.Letters++
	g.Bytes += l.Size
	if l.Time.IsZero() {
		return
	}
	if at := l.Time; g.Oldest == nil || at.Before(*g.Oldest) {
		g.Oldest = &at
	}
	if at := l.Time; g.Newest == nil || at.After(*g.Newest) {
		g.Newest = &at
	}
}

// countLetters prints how many letters of a kind there are.
func countLetters(c *cli.Context, e env, cfg *configs.Config) error {
	type key struct {
		reason, output, index string
		status                int
	}
	groups := map[key]*letterGroup{}
	all := letterGroup{}
	err := readLetters(c.Context, cfg, func(l *output.Letter) error {
		k := key{reason: l.Reason, output: l.Output, status: l.Status}
		if l.Target != nil {
			k.index = l.Target.Index
		}
		g := groups[k]
		if g == nil {
			g = &letterGroup{Reason: k.reason, Status: k.status, Output: k.output, Index: k.index}
			groups[k] = g
		}
		g.count(l)
		all.count(l)
		return nil
	})
	if err != nil {
		return err
	}
	rows := slices.SortedFunc(maps.Values(groups), func(a, b *letterGroup) int {
		return cmp.Or(-cmp.Compare(a.Letters, b.Letters), strings.Compare(a.Reason, b.Reason), strings.Compare(a.Index, b.Index), cmp.Compare(a.Status, b.Status), strings.Compare(a.Output, b.Output))
	})
	if c.Bool("json") {
		if rows == nil {
			rows = []*letterGroup{}
		}
		return jsonTo(e.stdout).Encode(map[string]any{"letters": all.Letters, "bytes": all.Bytes, "oldest": all.Oldest, "newest": all.Newest, "groups": rows})
	}
	if len(rows) == 0 {
		fmt.Fprintln(e.stderr, "There are no dead letters in "+deadLetterPath(cfg)+".")
		return nil
	}
	t := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "REASON\tSTATUS\tOUTPUT\tINDEX\tLETTERS\tBYTES\tOLDEST\tNEWEST")
	for _, g := range rows {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%d\t%d\t%s\t%s\n", printable(g.Reason), g.Status, printable(g.Output), printable(g.Index), g.Letters, g.Bytes, shownTime(g.Oldest), shownTime(g.Newest))
	}
	fmt.Fprintf(t, "all\t\t\t\t%d\t%d\t%s\t%s\n", all.Letters, all.Bytes, shownTime(all.Oldest), shownTime(all.Newest))
	return t.Flush()
}

func shownTime(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

// printable is what a stranger wrote, fit for a terminal and a table.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || r == ' ' || r == unicode.ReplacementChar }) {
		return strconv.Quote(s)
	}
	return s
}

func dlqShowCommand(c *cli.Context, e env) error {
	if c.Args().Len() != 1 {
		return usagef("show which letter? Try: vtsidecar dlq show ID, with an ID of vtsidecar dlq list")
	}
	cfg, err := load(c, e)
	if err != nil {
		return err
	}
	id := c.Args().First()
	if err := checkLetterID(id); err != nil {
		return err
	}
	var found *letterRow
	var shown struct {
		letterRow
		SHA256 string          `json:"event_sha256,omitempty"`
		Event  json.RawMessage `json:"event,omitempty"`
		Base64 []byte          `json:"event_base64,omitempty"`
		Line   string          `json:"line,omitempty"` // of what is no letter
	}
	err = readLetters(c.Context, cfg, func(l *output.Letter) error {
		if !strings.HasPrefix(l.ID, id) {
			return nil
		}
		if found != nil && found.ID != l.ID {
			return usagef("several letters have an ID that begins with %s, such as %s and %s", id, found.ID, l.ID)
		}
		if found != nil {
			return nil // a copy of it
		}
		r := rowOf(l)
		found = &r
		shown.letterRow, shown.SHA256 = r, l.SHA256
		raw, whole := l.Event()
		switch {
		case l.Reason == output.Unreadable:
			shown.Line = string(l.Line)
		case whole && json.Valid(raw):
			shown.Event = raw
		case strings.ToValidUTF8(string(raw), "") == string(raw):
			shown.Event, err = json.Marshal(string(raw))
		default:
			shown.Base64 = raw
		}
		return err
	})
	if err != nil {
		return err
	}
	if found == nil {
		return fmt.Errorf("no letter has the ID %s; it may be replayed or purged, see vtsidecar dlq list", id)
	}
	return jsonTo(e.stdout).Encode(shown)
}

func dlqReplayCommand(c *cli.Context, e env) error { return dlqEdit(c, e, true) }
func dlqPurgeCommand(c *cli.Context, e env) error  { return dlqEdit(c, e, false) }

// dlqEdit replays or purges.
func dlqEdit(c *cli.Context, e env, replay bool) error {
	cfg, filter, err := dlqChoice(c, e)
	if err != nil {
		return err
	}
	if !replay && !c.Bool("yes") && !c.Bool("dry-run") && !e.terminal {
		return usagef("purge removes letters for good: say --yes where there is no terminal to ask at")
	}
	if c.Bool("dry-run") || !replay && !c.Bool("yes") {
		would, err := dlqWould(c.Context, cfg, &filter, replay)
		if err != nil {
			return err
		}
		if c.Bool("dry-run") {
			return dlqReport(c, e, would, replay, true)
		}
		if would.Matched == 0 {
			return dlqReport(c, e, would, replay, false)
		}
		fmt.Fprintf(e.stderr, "Remove %d letters for good? [y/N] ", would.Matched)
		answer, _ := bufio.NewReader(e.stdin).ReadString('\n') // no answer is a no
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			return errors.New("nothing was removed")
		}
	}
	edit := output.Edit{Filter: filter, Most: output.MaxLetter(cfg.Input.MaxEvent)}
	if e.terminal {
		edit.Progress = func(t output.Tally) {
			fmt.Fprintf(e.stderr, "\r%d letters so far: %d stored, %d refused again, %d removed", t.Matched, t.Stored, t.Refused, t.Removed)
		}
	}
	tally, err := dlqDo(c.Context, cfg, e, edit, replay)
	if e.terminal && tally.Matched > 0 {
		fmt.Fprintln(e.stderr)
	}
	if c.Context.Err() != nil {
		err = errors.New("interrupted; what was stored or removed until then is out of the dead letter, the rest is as it was")
	}
	return errors.Join(err, dlqReport(c, e, tally, replay, false))
}

// dlqWould is what a replay or a purge would take in hand.
func dlqWould(ctx context.Context, cfg *configs.Config, filter *output.Filter, replay bool) (t output.Tally, err error) {
	err = readLetters(ctx, cfg, func(l *output.Letter) error {
		if !filter.Match(l) {
			return nil
		}
		t.Matched++
		if obstacle := l.Obstacle(); replay && obstacle != "" {
			t.Keep(obstacle)
		}
		return nil
	})
	return t, err
}

// dlqReport prints how it ended.
func dlqReport(c *cli.Context, e env, t output.Tally, replay, dry bool) error {
	if c.Bool("json") {
		return jsonTo(e.stdout).Encode(t)
	}
	var b strings.Builder
	switch {
	case dry && replay:
		fmt.Fprintf(&b, "%d letters are chosen; %d would be sent, %d cannot be.\n", t.Matched, t.Matched-t.Kept, t.Kept)
	case dry:
		fmt.Fprintf(&b, "%d letters would be removed.\n", t.Matched)
	case replay:
		fmt.Fprintf(&b, "%d letters were chosen: %d are stored and out of the dead letter, %d were refused again and stay, %d cannot be replayed.\n", t.Matched, t.Stored, t.Refused, t.Kept)
	default:
		fmt.Fprintf(&b, "%d letters were removed.\n", t.Removed)
	}
	for _, why := range slices.Sorted(maps.Keys(t.Obstacles)) {
		fmt.Fprintf(&b, "  %d: %s\n", t.Obstacles[why], why)
	}
	_, err := io.WriteString(e.stdout, b.String())
	return err
}

// dlqDo has the server do it that has path.data; where there is none, it takes
// path.data itself.
func dlqDo(ctx context.Context, cfg *configs.Config, e env, edit output.Edit, replay bool) (t output.Tally, err error) {
	if _, err := os.Lstat(deadLetterPath(cfg)); errors.Is(err, os.ErrNotExist) {
		return t, nil // there never was a letter
	}
	dir, err := datadir.Open(cfg.DataDir)
	var inUse *datadir.InUseError
	if errors.As(err, &inUse) {
		path := purgePath
		if replay {
			path = replayPath
		}
		t, err := askServer(ctx, cfg, path, edit)
		if errors.Is(err, control.ErrNobody) {
			err = fmt.Errorf("path.data %s is in use by %s, and no server answers at %s: if it is starting or stopping, try again", cfg.DataDir, inUse.By, control.Path(cfg.DataDir))
		}
		return t, err
	}
	if err != nil {
		return t, err
	}
	defer atExit(&err, "close path.data", dir.Close)
	log, err := logging.New(e.stderr, e.terminal, "warn", cfg.LogFormat)
	if err != nil {
		return t, usageError{err}
	}
	m := metrics.New("", "", "") // nobody asks for them
	dead, err := output.OpenDeadLetter(output.DeadLetterConfig{
		Dir: deadLetterPath(cfg), MaxBytes: cfg.DeadLetterBytes, Output: cfg.Output, Log: log, Metrics: m,
	})
	if err != nil {
		return t, err
	}
	defer atExit(&err, "close the dead letter", withTimeout(dead.Close))
	if !replay {
		return dead.Purge(ctx, edit)
	}
	out, err := openOutput(cfg, dead, m, log)
	if err != nil {
		return t, err
	}
	defer atExit(&err, "close the output", withTimeout(out.close))
	closeEnricher := func(context.Context) error { return nil }
	defer func() { atExit(&err, "close the enrichment", withTimeout(closeEnricher)) }()
	var enricher *enrich.Enricher
	return dead.Replay(ctx, edit, &resender{out: out, enricher: func() (*enrich.Enricher, error) {
		if enricher == nil {
			opened, shut, err := openEnricher(cfg, out.prepare, m, log)
			if err != nil {
				return nil, err
			}
			enricher, closeEnricher = opened, shut
		}
		return enricher, nil
	}})
}
