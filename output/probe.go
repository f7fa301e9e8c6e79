package output

import (
	"path/filepath"
)

// probe finds out, while nobody waits, whether lines could be stored again: the
// readiness that would bring them must not wait for them.
func (j *journal) probe() error {
	if err := j.prepare(); err != nil {
		return err
	}
	if err := j.removeIfThere(j.probePath()); err != nil {
		return err
	}
	h, err := j.fs.Create(j.probePath(), j.perm)
	if err == nil {
		err = h.Append(probeBytes(j.lastTry))
		if err == nil {
			err = h.Sync()
		}
		h.Close() // it goes
	}
	if gone := j.removeIfThere(j.probePath()); err == nil {
		err = gone
	}
	return err
}

func (j *journal) probePath() string { return filepath.Join(j.dir, j.stem+".probe") }

// probeBytes is as much as the last group, within bounds.
func probeBytes(n int) [][]byte {
	const block = 64 << 10
	zeros := make([]byte, block)
	n = min(max(n, 1), maxGroupBytes)
	var bufs [][]byte
	for ; n > 0; n -= block {
		bufs = append(bufs, zeros[:min(n, block)])
	}
	return bufs
}
