package datadir_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/internal/datadir"
)

// holdVariable makes the test binary the other process: it locks the folder
// named there, says so, and waits until it is killed.
const holdVariable = "DATADIR_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(holdVariable); path != "" {
		d, err := datadir.Open(path)
		fmt.Println(err == nil)
		os.Stdin.Read(make([]byte, 1))
		if err == nil {
			d.Close()
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func TestMakesFoldersForTheirOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	d, err := datadir.Open(path)
	require.NoError(t, err)
	defer d.Close()
	for name, want := range map[string]os.FileMode{path: 0o700, filepath.Dir(path): 0o700, filepath.Join(path, "lock"): 0o600} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		assert.Equal(t, want, info.Mode().Perm(), name)
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	path := t.TempDir()
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), holdVariable+"="+path)
	in, err := other.StdinPipe()
	require.NoError(t, err)
	out, err := other.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	defer other.Wait()
	defer in.Close()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "true\n", line)

	_, err = datadir.Open(path)
	require.EqualError(t, err, fmt.Sprintf("path.data %s is in use by process %d: stop that server, or give this one a folder of its own", path, other.Process.Pid))

	// kill -9 gives it free.
	require.NoError(t, other.Process.Kill())
	other.Wait()
	d, err := datadir.Open(path)
	require.NoError(t, err)
	_, err = datadir.Open(path)
	assert.ErrorContains(t, err, fmt.Sprintf("in use by process %d", os.Getpid()))
	require.NoError(t, d.Close())
	d, err = datadir.Open(path)
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

func TestErrorsNameTheSetting(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	aDir := filepath.Join(t.TempDir(), "d")
	require.NoError(t, os.MkdirAll(filepath.Join(aDir, "lock"), 0o700))
	for name, path := range map[string]string{"empty": "", "a file": file, "below a file": filepath.Join(file, "x"), "a folder for a lock": aDir} {
		_, err := datadir.Open(path)
		require.Error(t, err, name)
		assert.Contains(t, err.Error(), "path.data", name)
		assert.NotContains(t, err.Error(), "\n", name)
	}
}
