package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"vtsidecar/configs"
	"vtsidecar/internal/control"
	"vtsidecar/output"
)

// This file is the conversation between a command and the server that has its
// path.data: one POST with a filter, and an answer in lines, the last of which
// says how it ended.

const (
	replayPath = "/v1/dlq/replay"
	purgePath  = "/v1/dlq/purge"
)

// editLine is a line of the answer.
type editLine struct {
	Tally output.Tally `json:"tally"`
	Done  bool         `json:"done"` // the last one
	Error string       `json:"error,omitempty"`
}

// openControl answers commands on the socket of path.data. Where there can be
// none, events flow all the same, and commands have to wait until the server is
// stopped.
func openControl(cfg *configs.Config, dead *output.DeadLetter, to output.Sender, log *slog.Logger) func(context.Context) error {
	l, err := control.Listen(cfg.DataDir)
	if err != nil {
		log.Warn("commands cannot talk to this server; dlq replay and dlq purge need it to be stopped", "error", err)
		return func(context.Context) error { return nil }
	}
	mux := http.NewServeMux()
	edit := func(do func(context.Context, output.Edit) (output.Tally, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var e output.Edit
			filter := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
			filter.DisallowUnknownFields() // one of another version: without it more would be chosen
			if err := filter.Decode(&e.Filter); err != nil {
				http.Error(w, "no filter: "+err.Error(), http.StatusBadRequest)
				return
			}
			e.Most = output.MaxLetter(cfg.Input.MaxEvent)
			flush := http.NewResponseController(w)
			say := func(line editLine) {
				// Who asked may be gone; then r's context ends what was begun.
				if json.NewEncoder(w).Encode(line) == nil {
					_ = flush.Flush()
				}
			}
			e.Progress = func(t output.Tally) { say(editLine{Tally: t}) }
			say(editLine{}) // it is begun, and may take long
			t, err := do(r.Context(), e)
			line := editLine{Tally: t, Done: true}
			if err != nil {
				line.Error = err.Error()
			}
			say(line)
		}
	}
	mux.HandleFunc("POST "+replayPath, edit(func(ctx context.Context, e output.Edit) (output.Tally, error) {
		return dead.Replay(ctx, e, to)
	}))
	mux.HandleFunc("POST "+purgePath, edit(dead.Purge))
	return control.Serve(l, mux).Close
}

// askServer has the server of path.data replay or purge.
func askServer(ctx context.Context, cfg *configs.Config, path string, e output.Edit) (output.Tally, error) {
	body, err := json.Marshal(e.Filter)
	if err != nil {
		return output.Tally{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control"+path, bytes.NewReader(body))
	if err != nil {
		return output.Tally{}, err
	}
	resp, err := control.Client(cfg.DataDir).Do(req)
	if err != nil {
		return output.Tally{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return output.Tally{}, fmt.Errorf("the server that runs answers %s: it may be of another version", resp.Status)
	}
	var line editLine
	for dec := json.NewDecoder(resp.Body); !line.Done; {
		last := line.Tally
		line = editLine{}
		if err := dec.Decode(&line); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return last, fmt.Errorf("the server went away meanwhile: %w", err)
		}
		if !line.Done && e.Progress != nil {
			e.Progress(line.Tally)
		}
	}
	if line.Error != "" {
		return line.Tally, errors.New(line.Error)
	}
	return line.Tally, nil
}
