package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
	"vtsidecar/internal/control"
	"vtsidecar/internal/esstandin"
	"vtsidecar/internal/event"
	"vtsidecar/output"
)

// dlq runs a command to its end.
func dlq(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := start(t, nil, stdin, append([]string{"dlq"}, args...)...)
	return p.wait(t), p.stdout.String(), p.stderr.String()
}

func tallyOf(t *testing.T, stdout string) (tally output.Tally) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(stdout), &tally), stdout)
	return tally
}

// TestReplayAfterAMend: a conflict of the mapping is dead-lettered, the mapping
// is mended, and the letters are stored, by the server that runs or without one.
func TestReplayAfterAMend(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprint("server runs: ", running), func(t *testing.T) {
			_, vt := standIn(t)
			es, url := cluster(t, esstandin.Config{})
			es.SetRules(esstandin.Rule{Match: `"conflict"`, Status: 400})
			data := t.TempDir()
			settings := []string{"--path.data", data, "--output.elasticsearch.hosts", url}
			p := startServer(t, data, vt, settings[2:]...)
			meta := `"@metadata":{"beat":"filebeat","version":"9.0.0","_id":"id%d"}`
			var events []string
			for n := range 6 {
				word := "fine"
				if n%2 == 1 {
					word = "conflict"
				}
				events = append(events, fmt.Sprintf(`{"n":%d,"word":"%s",`+meta+`}`, n, word, n))
			}
			window(t, p.address(t), append(events, "no event")...)
			assert.Len(t, es.Docs("filebeat-9.0.0"), 3)
			if !running {
				p.stop()
				require.Zero(t, p.wait(t), p.stderr.String())
			}

			status, stdout, stderr := dlq(t, "", append([]string{"list"}, settings...)...)
			require.Zero(t, status, stderr)
			assert.Regexp(t, `refused +400 +elasticsearch +filebeat-9\.0\.0 +3 `, stdout)
			assert.Regexp(t, `malformed +0 +elasticsearch +- +1 `, stdout)
			status, stdout, stderr = dlq(t, "", append([]string{"list", "--json", "--status", "400", "--since", "1h"}, settings...)...)
			require.Zero(t, status, stderr)
			var row letterRow
			require.NoError(t, json.Unmarshal([]byte(stdout[:strings.Index(stdout, "\n")]), &row))
			assert.Equal(t, event.Target{ID: "id1", Index: "filebeat-9.0.0", Op: "create"}, *row.Target)
			status, stdout, stderr = dlq(t, "", append(append([]string{"show"}, settings...), row.ID[:8])...)
			require.Zero(t, status, stderr)
			var shown map[string]any
			require.NoError(t, json.Unmarshal([]byte(stdout), &shown))
			assert.Equal(t, "conflict", at(shown, "event.word"))
			assert.Equal(t, "none", at(shown, "event.arcanna.ioc.global.status"), "it is stored as it was to be")
			assert.Contains(t, shown["detail"], "document_parsing_exception")

			// Before the mend they are refused again, and stay, once.
			status, stdout, stderr = dlq(t, "", append([]string{"replay", "--json"}, settings...)...)
			require.Zero(t, status, stderr)
			assert.Equal(t, output.Tally{Matched: 4, Refused: 3, Kept: 1, Obstacles: map[string]int{"it is no JSON object": 1}}, tallyOf(t, stdout))

			es.SetRules()
			status, stdout, stderr = dlq(t, "", append([]string{"replay", "--json", "--dry-run", "--index", "filebeat-*"}, settings...)...)
			require.Zero(t, status, stderr)
			assert.Equal(t, output.Tally{Matched: 3}, tallyOf(t, stdout))
			assert.Len(t, es.Docs("filebeat-9.0.0"), 3, "nothing was done")
			status, stdout, stderr = dlq(t, "", append([]string{"replay"}, settings...)...)
			require.Zero(t, status, stderr)
			assert.Contains(t, stdout, "4 letters were chosen: 3 are stored and out of the dead letter, 0 were refused again and stay, 1 cannot be replayed.\n  1: it is no JSON object\n")
			docs := es.Docs("filebeat-9.0.0")
			require.Len(t, docs, 6)
			for _, d := range docs {
				assert.EqualValues(t, 1, d.Version, d.ID)
			}

			// A letter from before that was stored meanwhile (the answer got lost) goes as well.
			status, _, stderr = dlq(t, "", append([]string{"purge"}, settings...)...)
			assert.Equal(t, exitUsage, status)
			assert.Contains(t, stderr, "--yes")
			status, stdout, stderr = dlq(t, "", append([]string{"purge", "--yes"}, settings...)...)
			require.Zero(t, status, stderr)
			assert.Equal(t, "1 letters were removed.\n", stdout)
			status, _, stderr = dlq(t, "", append([]string{"list"}, settings...)...)
			require.Zero(t, status, stderr)
			assert.Contains(t, stderr, "There are no dead letters")
			if running {
				info, err := os.Lstat(filepath.Join(data, "control.sock"))
				require.NoError(t, err)
				assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
				p.stop()
				require.Zero(t, p.wait(t), p.stderr.String())
				assert.NoFileExists(t, filepath.Join(data, "control.sock"))
			}
		})
	}
}

// TestReplayIsInterrupted: whoever ends in the middle of a replay, the command or
// the server, by a signal or killed, while the cluster stores what it was sent and
// does not say so: nothing is lost, nothing is doubled, and the next replay brings
// it to its end.
func TestReplayIsInterrupted(t *testing.T) {
	for _, c := range []struct {
		name            string
		serves, command bool // a server runs; the command is what ends
		kill            bool // by SIGKILL
	}{
		{name: "Ctrl-C", command: true}, {name: "Ctrl-C, beside a server", serves: true, command: true},
		{name: "the server stops", serves: true},
		{name: "kill -9", command: true, kill: true}, {name: "kill -9, beside a server", serves: true, command: true, kill: true},
		{name: "kill -9 of the server", serves: true, kill: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			es, url := cluster(t, esstandin.Config{})
			data := t.TempDir()
			settings := []string{"--path.data", data, "--output.elasticsearch.hosts", url}
			d, err := output.OpenDeadLetter(output.DeadLetterConfig{Dir: filepath.Join(data, "dead-letter"), Output: "elasticsearch"})
			require.NoError(t, err)
			const letters = 3
			for n := range letters {
				e := fmt.Sprintf(`{"n":%d}`, n)
				require.NoError(t, d.Store(context.Background(), []event.DeadLetter{{
					Reason: "refused", Event: []byte(e), Length: int64(len(e)), Status: 400, Target: &event.Target{ID: fmt.Sprint("id", n), Index: "filebeat-9", Op: "create"},
				}}))
			}
			require.NoError(t, d.Close(context.Background()))
			require.NoError(t, es.SetFaults(esstandin.Fault{Kind: "hang", Stored: true}))

			serve := append([]string{"--input.address", "127.0.0.1:0", "--admin.address", "off", "--vt.enabled=false"}, settings...)
			replay := append([]string{"dlq", "replay", "--json"}, settings...)
			var server, command *program
			end := func() {}
			switch {
			case c.kill && c.serves && !c.command:
				cmd, stderr := process(t, serve...)
				(&program{stderr: stderr}).address(t)
				end = func() { require.NoError(t, cmd.Process.Kill()); _ = cmd.Wait() }
			case c.serves:
				server = start(t, nil, "", serve...)
				server.address(t)
				end = server.stop
			}
			if c.kill && c.command {
				cmd, _ := process(t, replay...)
				end = func() { require.NoError(t, cmd.Process.Kill()); _ = cmd.Wait() }
			} else {
				command = start(t, nil, "", replay...)
				if c.command {
					end = command.stop
				}
			}
			require.Eventually(t, func() bool { return len(es.Docs("filebeat-9")) == letters }, patience, time.Millisecond, "it does not begin")
			end()
			if command != nil {
				require.Equal(t, exitFail, command.wait(t), command.stderr)
				says := "interrupted"
				switch {
				case !c.command && c.kill:
					says = "the server went away meanwhile"
				case !c.command:
					says = "context canceled"
				}
				assert.Contains(t, command.stderr.String(), says)
				assert.Zero(t, tallyOf(t, command.stdout.String()).Stored)
			}
			if server != nil && !c.command {
				require.Zero(t, server.wait(t), server.stderr)
			}
			require.NoError(t, es.SetFaults())

			// Of a command that was killed the server may not know yet.
			var stdout string
			require.Eventually(t, func() bool {
				status, out, stderr := dlq(t, "", replay[1:]...)
				stdout = out
				return status == exitDone || !assert.Contains(t, stderr, output.ErrEditing.Error())
			}, patience, time.Millisecond)
			assert.Equal(t, output.Tally{Matched: letters, Stored: letters}, tallyOf(t, stdout))
			docs := es.Docs("")
			require.Len(t, docs, letters)
			for _, d := range docs {
				assert.EqualValues(t, 1, d.Version)
			}
			_, _, stderr := dlq(t, "", append([]string{"list"}, settings...)...)
			assert.Contains(t, stderr, "There are no dead letters")
		})
	}
}

// What a server has done before it is gone is told, as far as it said so.
func TestServerGoesAway(t *testing.T) {
	dir := t.TempDir()
	l, err := control.Listen(dir)
	require.NoError(t, err)
	s := control.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		assert.NoError(t, json.NewEncoder(w).Encode(editLine{Tally: output.Tally{Matched: 5, Stored: 3}}))
		assert.NoError(t, http.NewResponseController(w).Flush())
		panic(http.ErrAbortHandler)
	}))
	tally, err := askServer(t.Context(), &configs.Config{DataDir: dir}, replayPath, output.Edit{})
	require.ErrorContains(t, err, "the server went away meanwhile")
	assert.Equal(t, output.Tally{Matched: 5, Stored: 3}, tally)
	require.NoError(t, s.Close(t.Context()))
}

// A filter that the server does not know, as of a newer command, must not choose
// more letters than were meant.
func TestUnknownFilterChoosesNothing(t *testing.T) {
	dir := t.TempDir()
	dead, err := output.OpenDeadLetter(output.DeadLetterConfig{Dir: filepath.Join(dir, "dead-letter")})
	require.NoError(t, err)
	require.NoError(t, dead.Store(t.Context(), []event.DeadLetter{{Reason: "refused", Event: []byte("{}")}}))
	stop := openControl(&configs.Config{DataDir: dir}, dead, nil, slog.New(slog.DiscardHandler))
	for _, body := range []string{`{"reasons":["refused"],"tenants":["a"]}`, `[]`, ``} {
		resp, err := control.Client(dir).Post("http://control"+purgePath, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, http.StatusBadRequest, resp.StatusCode, body)
	}
	tally, err := dead.Purge(t.Context(), output.Edit{})
	require.NoError(t, err)
	assert.Equal(t, 1, tally.Removed)
	require.NoError(t, stop(t.Context()))
	require.NoError(t, dead.Close(t.Context()))
}

// TestReplayThroughThePipeline: an event over which the program failed goes the
// whole way again, under one identity however often; others say why they cannot.
func TestReplayThroughThePipeline(t *testing.T) {
	_, vt := standIn(t)
	letters := []event.DeadLetter{
		{Reason: "internal_error", Event: []byte(`{"n":1,"source":{"ip":"203.0.113.7"}}`), Length: 37},
		{Reason: "refused", Event: []byte(`{"n":2}`), Length: 7, Status: 400, Target: &event.Target{ID: "x", Index: "y", Op: "create"}},
		{Reason: "internal_error", Event: []byte(`{"n":3`), Length: 300},
	}
	fill := func(data string) {
		d, err := output.OpenDeadLetter(output.DeadLetterConfig{Dir: filepath.Join(data, "dead-letter"), Output: "elasticsearch"})
		require.NoError(t, err)
		require.NoError(t, d.Store(context.Background(), letters))
		require.NoError(t, d.Close(context.Background()))
	}
	data := t.TempDir()
	fill(data)
	kept, err := os.ReadFile(filepath.Join(data, "dead-letter", "dead-letter.ndjson"))
	require.NoError(t, err)
	replay := func() {
		status, stdout, stderr := dlq(t, "", "replay", "--json", "--path.data", data, "--vt.url", vt, "--vt.api_key", "right-key", "--vt.limit.minute", "0", "--vt.wait", "20s")
		require.Zero(t, status, stderr)
		assert.Equal(t, output.Tally{Matched: 3, Stored: 1, Kept: 2, Obstacles: map[string]int{
			"it was refused by elasticsearch, which is not the output now": 1, "it does not have its event whole": 1,
		}}, tallyOf(t, stdout))
	}
	replay()
	events := stored(t, filepath.Join(data, "events.ndjson"))
	require.Len(t, events, 1)
	assert.Equal(t, true, at(events["1"], "arcanna.ioc.is_malicious"))

	// The same letter once more, as after a kill before it was taken out.
	require.NoError(t, os.RemoveAll(filepath.Join(data, "dead-letter")))
	require.NoError(t, os.Mkdir(filepath.Join(data, "dead-letter"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(data, "dead-letter", "dead-letter.ndjson"), kept, 0o600))
	replay()
	b, err := os.ReadFile(filepath.Join(data, "events.ndjson"))
	require.NoError(t, err)
	var ids []any
	for line := range bytes.Lines(b) {
		var e map[string]any
		require.NoError(t, json.Unmarshal(line, &e))
		ids = append(ids, at(e, "arcanna.ioc.event_id"))
	}
	require.Len(t, ids, 2)
	assert.Equal(t, ids[0], ids[1])
}

func TestDeadLetterCommandsRefuseNonsense(t *testing.T) {
	data := t.TempDir()
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{}, exitUsage, "dlq what?"},
		{[]string{"lst"}, exitUsage, "unknown command"},
		{[]string{"show"}, exitUsage, "show which letter?"},
		{[]string{"show", "--path.data", data, "xyz1"}, exitUsage, "no ID"},
		{[]string{"show", "--path.data", data, "abcd"}, exitFail, "no letter has the ID abcd"},
		{[]string{"list", "--since", "yesterday", "--path.data", data}, exitUsage, "--since"},
		{[]string{"list", "--status", "4xx", "--path.data", data}, exitUsage, "--status \"4xx\": use a number"},
		{[]string{"purge", "--yes", "--status", "400,", "--path.data", data}, exitUsage, "--status \"\": use a number"},
		{[]string{"replay", "--path.data", data, "ab"}, exitUsage, "no ID"},
		{[]string{"replay", "--path.data", data}, exitDone, ""},
		{[]string{"purge", "--yes", "--path.data", data}, exitDone, ""},
		{[]string{"list", "--path.data", data}, exitDone, "There are no dead letters"},
	} {
		status, _, stderr := dlq(t, "", c.args...)
		assert.Equal(t, c.status, status, "%v: %s", c.args, stderr)
		assert.Contains(t, stderr, c.says, c.args)
	}
}

// A filter chooses what any of its words choose, in flags of their own or with commas.
func TestFiltersAreLists(t *testing.T) {
	data := t.TempDir()
	dead, err := output.OpenDeadLetter(output.DeadLetterConfig{Dir: filepath.Join(data, "dead-letter")})
	require.NoError(t, err)
	var letters []event.DeadLetter
	for i, reason := range []string{"refused", "pipeline", "index", "too_large"} {
		letters = append(letters, event.DeadLetter{Reason: reason, Event: []byte("{}"), Status: 400 + i, Target: &event.Target{ID: "x", Index: "logs-" + reason}})
	}
	require.NoError(t, dead.Store(t.Context(), letters))
	require.NoError(t, dead.Close(t.Context()))
	for args, want := range map[string]int{
		"--reason refused,pipeline": 2, "--reason refused --reason pipeline": 2, "--status 400,401 --status 403": 3,
		"--index logs-index,logs-p*": 2, "--status 400,401 --index logs-p*": 1, "--reason refused,": 1, "--reason nothing": 0,
	} {
		status, stdout, stderr := dlq(t, "", append([]string{"list", "--json", "--path.data", data}, strings.Fields(args)...)...)
		require.Zero(t, status, stderr)
		assert.Equal(t, want, strings.Count(stdout, "\n"), args)
	}
}

// What a stranger wrote does not reach a terminal as it is.
func TestLettersAreFitForATerminal(t *testing.T) {
	for in, want := range map[string]string{"": "-", "logs-a": "logs-a", "a\x1b[2Jb": `"a\x1b[2Jb"`, "a b": `"a b"`, "\u202e": `"\u202e"`} {
		assert.Equal(t, want, printable(in))
	}
}
