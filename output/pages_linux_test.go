package output_test

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"vtsidecar/internal/event"
	"vtsidecar/output"
)

// A file that grows leaves only its end in the page cache, and reads as a whole.
func TestOnlyTheEndOfAFileStaysInThePageCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.ndjson")
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(filepath.Dir(path), &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("this file system lies in memory")
	}
	f, err := output.OpenFile(output.FileConfig{Path: path})
	require.NoError(t, err)
	const mib = 1 << 20
	line := append(bytes.Repeat([]byte("x"), mib-1), '\n')
	for range 48 {
		require.NoError(t, f.Store(t.Context(), &event.Lines{Buf: line, Index: []event.Line{{End: mib}}}))
	}
	require.NoError(t, f.Close(t.Context()))

	resident := pagesOf(t, path)
	// Whoever else uses the disk may have its part in this, so nothing is exact.
	require.Less(t, resident, int64(32*mib), "resident bytes of a file of 48 MiB")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat(line, 48), data)
}

// pagesOf is how many bytes of a file are in the page cache.
func pagesOf(t *testing.T, path string) (resident int64) {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Munmap(mapped)) }()
	page := os.Getpagesize()
	in := make([]byte, (len(mapped)+page-1)/page)
	_, _, errno := syscall.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&in[0])))
	require.Zero(t, errno)
	for _, b := range in {
		resident += int64(b&1) * int64(page)
	}
	return resident
}
