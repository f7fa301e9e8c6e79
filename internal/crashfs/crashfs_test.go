package crashfs_test

import (
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/crashfs"
)

func write(t *testing.T, h *crashfs.Handle, s string) {
	t.Helper()
	require.NoError(t, h.Append([][]byte{[]byte(s)}))
}

func read(t *testing.T, f *crashfs.FS, name string) string {
	t.Helper()
	b, err := f.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

func TestCrashForgetsWhatWasNotSynced(t *testing.T) {
	f := crashfs.New()
	h, err := f.Create("/a", 0o600)
	require.NoError(t, err)
	write(t, h, "synced ")
	require.NoError(t, h.Sync())
	assert.Empty(t, f.Crash(nil).Names("/"), "the entry was not synced")

	f = crashfs.New()
	h, err = f.Create("/a", 0o600)
	require.NoError(t, err)
	write(t, h, "synced ")
	require.NoError(t, h.Sync())
	require.NoError(t, f.SyncDir("/"))
	write(t, h, "not")
	require.NoError(t, f.Rename("/a", "/b"))
	f = f.Restart()
	assert.Equal(t, "synced not", read(t, f, "/b"), "a kill forgets nothing")
	f = f.Crash(nil)
	assert.Equal(t, []string{"a"}, f.Names("/"))
	assert.Equal(t, "synced ", read(t, f, "/a"))
	assert.ErrorIs(t, h.Sync(), crashfs.ErrHalted, "a handle of a life before")
}

// TestCrashMixes: every mixture that the package promises comes up.
func TestCrashMixes(t *testing.T) {
	entries, contents := map[string]bool{}, map[string]bool{}
	for seed := range uint64(400) {
		f := crashfs.New()
		h, err := f.Create("/a", 0o600)
		require.NoError(t, err)
		require.NoError(t, f.SyncDir("/"))
		write(t, h, "0123456789abcdef0123456789abcdef")
		require.NoError(t, f.Rename("/a", "/b"))
		_, err = f.Create("/a", 0o600)
		require.NoError(t, err)
		f = f.Crash(rand.New(rand.NewPCG(seed, 0)))
		all := ""
		for _, name := range f.Names("/") {
			all += name + string('0'+rune(min(len(read(t, f, "/"+name)), 1))) + " "
			contents[read(t, f, "/"+name)] = true
		}
		entries[all] = true
	}
	for _, want := range []string{"a0 ", "a1 ", "b1 ", "a0 b1 "} {
		assert.Contains(t, entries, want)
	}
	zeros := string(make([]byte, 16))
	for _, want := range []string{"", "0123456789abcdef0123456789abcdef", zeros + "0123456789abcdef", "0123456789abcdef" + zeros} {
		assert.Contains(t, contents, want)
	}
}

func TestFailedSyncLosesPagesForGood(t *testing.T) {
	f := crashfs.New()
	h, err := f.Create("/a", 0o600)
	require.NoError(t, err)
	require.NoError(t, f.SyncDir("/"))
	write(t, h, "0123456789abcdef")
	f.SetHook(func(op crashfs.Op) crashfs.Fault {
		assert.Equal(t, "append", op.Last)
		return crashfs.Fault{Err: syscall.EIO}
	})
	require.ErrorIs(t, h.Sync(), syscall.EIO)
	f.SetHook(nil)
	require.NoError(t, h.Sync(), "it claims success")
	assert.Equal(t, string(make([]byte, 16)), read(t, f.Crash(nil), "/a"))
}

func TestRewriteBringsLostPagesBack(t *testing.T) {
	f := crashfs.New()
	h, err := f.Create("/a", 0o600)
	require.NoError(t, err)
	require.NoError(t, f.SyncDir("/"))
	write(t, h, "0123456789abcdef")
	f.SetHook(func(crashfs.Op) crashfs.Fault { return crashfs.Fault{Err: syscall.EIO} })
	require.Error(t, h.Sync())
	f.SetHook(nil)
	require.NoError(t, h.Rewrite(0, 16))
	require.NoError(t, h.Sync())
	assert.Equal(t, "0123456789abcdef", read(t, f.Crash(nil), "/a"))
}

func TestFaults(t *testing.T) {
	f := crashfs.New()
	h, err := f.Create("/a", 0o600)
	require.NoError(t, err)
	require.NoError(t, f.SyncDir("/"))
	one := func(fault crashfs.Fault) { f.SetHook(func(crashfs.Op) crashfs.Fault { return fault }) }

	one(crashfs.Fault{Err: syscall.ENOSPC, Short: 2})
	require.ErrorIs(t, h.Append([][]byte{[]byte("ab"), []byte("cd")}), syscall.ENOSPC)
	assert.Equal(t, "ab", read(t, f, "/a"))
	one(crashfs.Fault{Err: syscall.EIO, Done: true})
	require.ErrorIs(t, h.Append([][]byte{[]byte("cd")}), syscall.EIO)
	assert.Equal(t, "abcd", read(t, f, "/a"), "stored anyway")
	one(crashfs.Fault{Done: true})
	require.NoError(t, h.Sync(), "a sync taken out")
	one(crashfs.Fault{Err: syscall.EIO})
	require.ErrorIs(t, f.Rename("/a", "/b"), syscall.EIO)
	assert.Equal(t, []string{"a"}, f.Names("/"))
	f.SetHook(nil)
	f.SetLimit(6)
	require.ErrorIs(t, h.Append([][]byte{[]byte("efg")}), syscall.ENOSPC)
	assert.Equal(t, "abcdef", read(t, f, "/a"))
	_, err = f.Create("/b", 0o600)
	require.NoError(t, err)
	require.ErrorIs(t, f.Rename("/a", "/b"), syscall.EEXIST)

	one(crashfs.Fault{Halt: true})
	require.ErrorIs(t, h.Sync(), crashfs.ErrHalted)
	<-f.Halted()
	f.SetHook(nil)
	require.ErrorIs(t, f.Remove("/a"), crashfs.ErrHalted)
	assert.Empty(t, read(t, f.Crash(nil), "/a"))
}
