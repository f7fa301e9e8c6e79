package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/cache"
	"vtsidecar/configs"
	"vtsidecar/enrich"
	"vtsidecar/internal/faketime"
)

// A crash forgets of the cache what it learned in one interval at most; an
// interval in which nothing was learned costs no write; and trouble is told once.
func TestSnapshotsAtIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := &configs.Config{DataDir: filepath.Join(t.TempDir(), "data"), Cache: configs.Cache{Persist: true}}
		require.NoError(t, os.Mkdir(cfg.DataDir, 0o700))
		answers := cache.New[*enrich.Answer](cache.Config{MaxEntries: 10})
		log := newPrinted()
		s := newSnapshots(cfg, answers, slog.New(slog.NewTextHandler(log, nil)))
		file := func() os.FileInfo {
			t.Helper()
			synctest.Wait()
			info, err := os.Stat(snapshotPath(cfg))
			require.NoError(t, err)
			return info
		}
		answers.Set("a", &enrich.Answer{}, time.Hour)
		faketime.Pass(t, snapshotEvery)
		first := file()
		faketime.Pass(t, 3*snapshotEvery)
		assert.True(t, os.SameFile(first, file()), "nothing new")

		answers.Set("b", &enrich.Answer{}, time.Hour)
		faketime.Pass(t, snapshotEvery)
		second := file()
		assert.False(t, os.SameFile(first, second))

		// What a crash now would find.
		next := cache.New[*enrich.Answer](cache.Config{MaxEntries: 10})
		n, err := next.Load(snapshotPath(cfg), enrich.DecodeAnswer)
		require.NoError(t, err)
		assert.Equal(t, 2, n)

		aside := cfg.DataDir + ".aside"
		require.NoError(t, os.Rename(cfg.DataDir, aside))
		answers.Set("c", &enrich.Answer{}, time.Hour)
		faketime.Pass(t, 3*snapshotEvery)
		synctest.Wait()
		assert.Equal(t, 1, strings.Count(log.String(), "could not be saved"))
		require.NoError(t, os.Rename(aside, cfg.DataDir))
		faketime.Pass(t, snapshotEvery)
		assert.False(t, os.SameFile(second, file()))
		assert.Equal(t, 1, strings.Count(log.String(), "saved again"))
		require.NoError(t, s.close())
	})
}
