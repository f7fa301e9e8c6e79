// Package output makes events durable.
//
// Promise: Store returns nil only when everything it was given survives a power
// cut, in the output or in the dead letter. Whatever a disk does in between (a
// failed write, a failed sync, no space, a file taken away), nothing that was
// answered with nil is lost, and no line is ever torn over two files or joined
// to another.
//
// Where to look: journal.go takes lines and answers when they are durable, group.go
// is one write and one sync of it, appendfile.go what is done to the file, recovery.go
// what an earlier process left, probe.go how it is known that a sick disk is well,
// names.go what stands beside the file, fs.go the file system. file.go is the output,
// archive.go what becomes of its closed files; deadletter.go stores letters, letter.go
// is how they are written and read, replay.go takes them out again.
package output

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"vtsidecar/internal/event"
	"vtsidecar/internal/metrics"
)

// FileConfig says where events are stored. All but Path may be zero.
type FileConfig struct {
	Path        string           // output.file.path
	RotateBytes int64            // output.file.rotate_bytes; 0: never
	RotateEvery time.Duration    // output.file.rotate_every; 0: never
	Keep        int              // output.file.keep: closed files that stay; 0: all
	Compress    bool             // output.file.compress: closed files
	Permissions os.FileMode      // output.file.permissions of new files; 0: 0600
	FS          FS               // nil: the real one
	Now         func() time.Time // names rotated files; nil: time.Now
	Log         *slog.Logger     // nil: none
	Metrics     *metrics.Set     // nil: none
}

// File stores events in a file, one JSON object a line. Its methods are safe
// for concurrent use.
type File struct {
	j *journal
	a *archive
}

// OpenFile opens or makes the file, and its folder. A line that a crash has torn
// is moved to a file of its own first. A full disk is no error: the file is then
// not Ready until there is space.
func OpenFile(cfg FileConfig) (*File, error) {
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.New("", "", "")
	}
	if cfg.Permissions == 0 {
		cfg.Permissions = 0o600
	}
	m := cfg.Metrics
	for _, why := range retryReasons { // an alert on increase() does not see a series that begins at 1
		m.OutputRetries.WithLabelValues(why)
	}
	a := newArchive(cfg.Compress, cfg.Keep, m.OutputFilesDeleted.Inc)
	j, err := openJournal(journalConfig{
		setting: "output.file.path",
		what:    "output file",
		path:    cfg.Path,
		rotate:  cfg.RotateBytes,
		every:   cfg.RotateEvery,
		perm:    cfg.Permissions,
		fs:      cfg.FS,
		now:     cfg.Now,
		log:     cfg.Log,
		stored:  func(lines int) { m.EventsStored.Add(float64(lines)) },
		retry:   func(reason string) { m.OutputRetries.WithLabelValues(reason).Inc() },
		closed:  a.add,
		up: func(up bool) {
			if up {
				m.OutputUp.Set(1)
			} else {
				m.OutputUp.Set(0)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	a.j = j
	go a.run()
	return &File{j, a}, nil
}

// Store returns nil when every line is durable. While the disk is full or sick
// it waits and tries again, until ctx ends. An error means that the lines may or
// may not be stored. The bytes are not used after it returns.
func (f *File) Store(ctx context.Context, lines *event.Lines) error {
	return f.j.store(ctx, lines.Buf, lines.Index)
}

// Ready returns nil, or in words why nothing can be stored at present.
func (f *File) Ready() error { return f.j.ready() }

// Close waits for what is being stored until ctx ends, and closes the file.
// Stores that are still waiting then return ErrClosed. What is being compressed
// is left to the next start.
func (f *File) Close(ctx context.Context) error {
	f.a.end()
	return errors.Join(f.j.close(ctx), f.a.wait(ctx))
}
