package quota

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// The file holds two slots, written in turn: a write that is cut short damages
// the slot that it wrote and leaves the one before. A slot is
//
//	magic and version, 4 bytes | length of the whole record, 4 | sequence number, 8 | state | CRC-32C, 4
//
// all little-endian, and zeros where nothing was written yet. A file is made
// under another name, synced and renamed, and its folder synced; after a failed
// write or sync it is replaced in the same way, since what a descriptor holds
// after a failed sync is not known.

const (
	regionSize = 8192 // room of a slot: the largest record, in whole pages
	slots      = 2
	magic      = 0x32515456 // "VTQ2"
	headerLen  = 4 + 4 + 8
	fixedLen   = headerLen + 8 + 2*5*8 + 8 + 2*4
	bucketLen  = 8 + 8
	maxRecord  = fixedLen + (minuteBuckets+hourBuckets)*bucketLen + 4
)

// A record must fit its slot.
const _ = uint(regionSize - maxRecord)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// disk is what is needed of a file system. A fake of it forgets what was not synced.
// It is larger than an interface should be, so that it can do so at each call.
type disk interface {
	ReadFile(path string, most int64) ([]byte, error)
	OpenFile(path string, flag int, perm fs.FileMode) (diskFile, error)
	Rename(from, to string) error
	SyncDir(path string) error
}

// diskFile is an open file. It is larger than an interface should be for the
// same reason.
type diskFile interface {
	io.WriterAt
	Sync() error
	Close() error
}

// stateFile is the counts on disk. It is used under Quota's lock.
type stateFile struct {
	disk disk
	path string
	f    diskFile // nil: to be made anew
	seq  uint64   // of the last record
	buf  []byte   // reused
}

// openState reads the file at path. The error may be a *DamagedError, beside
// which file and state are good.
func openState(d disk, path string, now time.Time) (*stateFile, *state, error) {
	sf := &stateFile{disk: d, path: path}
	raw, err := d.ReadFile(path, slots*regionSize+1)
	if errors.Is(err, fs.ErrNotExist) {
		return sf, newState(), nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("quota: read: %w", err)
	}
	st, seq, reason := newest(raw)
	if reason != "" {
		aside := path + ".damaged-" + now.UTC().Format("20060102T150405.000Z")
		if err := d.Rename(path, aside); err != nil {
			return nil, nil, fmt.Errorf("quota: set a damaged file aside: %w", err)
		}
		return sf, newState(), &DamagedError{Path: path, Aside: aside, Reason: reason}
	}
	f, err := d.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("quota: open: %w", err)
	}
	sf.f, sf.seq = f, seq
	return sf, st, nil
}

// newest is the state of the slot that was written last, or the reason why
// there is none.
func newest(raw []byte) (st *state, seq uint64, reason string) {
	if len(raw) > slots*regionSize {
		return nil, 0, "too long"
	}
	torn := false
	for i := range slots {
		slot := raw[min(i*regionSize, len(raw)):min((i+1)*regionSize, len(raw))]
		s, n, why := decodeState(slot)
		switch {
		case why == "":
			if st == nil || n > seq {
				st, seq = s, n
			}
		case !empty(slot):
			torn, reason = true, why
		}
	}
	if st == nil {
		if reason == "" {
			reason = "empty"
		}
		return nil, 0, reason
	}
	if torn {
		// Most likely a write that never ended, for which nothing was granted. But
		// it may also have been a good record once: then it had granted a block.
		extra := max(st.ahead, 1)
		st.ahead += extra
		st.day.used += extra
		st.month.used += extra
	}
	return st, seq, ""
}

func empty(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// save makes s durable.
func (sf *stateFile) save(s *state) error {
	sf.seq++
	sf.buf = appendState(sf.buf[:0], s, sf.seq)
	if sf.f == nil {
		return sf.create()
	}
	_, err := sf.f.WriteAt(sf.buf, int64(sf.seq%slots)*regionSize)
	if err == nil {
		err = sf.f.Sync()
	}
	if err != nil {
		err = fmt.Errorf("quota: save: %w", err)
		closeErr := sf.f.Close()
		sf.f = nil
		return errors.Join(err, closeErr)
	}
	return nil
}

// create replaces the file by one that holds sf.buf.
func (sf *stateFile) create() (err error) {
	tmp := sf.path + ".tmp"
	f, err := sf.disk.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("quota: create: %w", err)
	}
	if _, err = f.WriteAt(sf.buf, int64(sf.seq%slots)*regionSize); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = sf.disk.Rename(tmp, sf.path)
	}
	if err == nil {
		err = sf.disk.SyncDir(filepath.Dir(sf.path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("quota: create: %w", err), f.Close())
	}
	sf.f = f
	return nil
}

func (sf *stateFile) close() error {
	if sf.f == nil {
		return nil
	}
	err := sf.f.Close()
	sf.f = nil
	return err
}

func appendState(dst []byte, s *state, seq uint64) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, magic)
	dst = le.AppendUint32(dst, uint32(fixedLen+(len(s.minute.buckets)+len(s.hour.buckets))*bucketLen+4))
	dst = le.AppendUint64(dst, seq)
	dst = le.AppendUint64(dst, uint64(s.ahead))
	for _, w := range [...]*window{&s.day, &s.month} {
		for _, v := range [...]int64{w.period, w.used, w.prev, w.before, nanos(w.spent)} {
			dst = le.AppendUint64(dst, uint64(v))
		}
	}
	dst = le.AppendUint64(dst, uint64(nanos(s.minuteSpent)))
	for _, w := range [...]*sliding{&s.minute, &s.hour} {
		dst = le.AppendUint32(dst, uint32(len(w.buckets)))
		for _, b := range w.buckets {
			dst = le.AppendUint64(dst, uint64(nanos(b.last)))
			dst = le.AppendUint64(dst, uint64(b.n))
		}
	}
	return le.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
}

// decodeState reads one slot; why is empty where it holds a good record.
func decodeState(b []byte) (st *state, seq uint64, why string) {
	le := binary.LittleEndian
	if len(b) < fixedLen+4 {
		return nil, 0, "cut short"
	}
	if le.Uint32(b) != magic {
		return nil, 0, "not a file of this version"
	}
	n := int(le.Uint32(b[4:]))
	if n < fixedLen+4 || n > maxRecord || n > len(b) {
		return nil, 0, "impossible length"
	}
	b = b[:n]
	if crc32.Checksum(b[:n-4], castagnoli) != le.Uint32(b[n-4:]) {
		return nil, 0, "wrong checksum"
	}
	seq = le.Uint64(b[8:])
	b = b[headerLen : n-4]
	sound := true
	next := func() int64 {
		v := int64(le.Uint64(b))
		b = b[8:]
		return v
	}
	count := func() int64 {
		v := next()
		sound = sound && v >= 0 && v <= maxCount+maxBlock
		return v
	}
	st = newState()
	st.ahead = count()
	for _, w := range [...]*window{&st.day, &st.month} {
		w.period, w.used, w.prev, w.before, w.spent = next(), count(), next(), count(), moment(next())
	}
	st.minuteSpent = moment(next())
	for _, w := range [...]*sliding{&st.minute, &st.hour} {
		if len(b) < 4 {
			return nil, 0, "impossible content"
		}
		buckets := int(le.Uint32(b))
		b = b[4:]
		if buckets > w.most || len(b) < buckets*bucketLen {
			return nil, 0, "impossible content"
		}
		for range buckets {
			at := moment(next())
			w.buckets = append(w.buckets, bucket{first: at, last: at, n: count()})
		}
	}
	if len(b) > 0 {
		sound = false
	}
	if !sound {
		return nil, 0, "impossible content"
	}
	return st, seq, ""
}

// nanos is t as nanoseconds since 1970, 0 for no time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// osDisk is the machine's file system.
type osDisk struct{}

func (osDisk) ReadFile(path string, most int64) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, most))
}

func (osDisk) OpenFile(path string, flag int, perm fs.FileMode) (diskFile, error) {
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err // a *os.File that is nil must not become an interface that is not
	}
	return f, nil
}

func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }

func (osDisk) SyncDir(path string) (err error) {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
