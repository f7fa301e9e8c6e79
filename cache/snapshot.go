package cache

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	gocache "github.com/patrickmn/go-cache"
)

// A snapshot is
//
//	"vtscache" | format version, 4 | CRC-32C of these
//	for each entry, the one most worth keeping first:
//	    length of what follows the checksum, 4 | CRC-32C of length and what follows
//	    flags, 1 | wall time of Set in ns, 8 | lifetime in ns, 8 | length of the key, varint | key | value
//	0, 4 | CRC-32C of this 0 and the number of entries | number of entries, 8
//
// all little-endian. An entry is believed by its own checksum, so what stands
// before a damaged place is not lost. Lifetimes are written with the time at
// which they began: whoever reads an entry that was stored in its future knows
// that one of the two clocks was wrong, and does not take it for fresh.
const (
	formatVersion = 1
	magic         = "vtscache"
	headerLen     = len(magic) + 4 + 4
	entryHead     = 1 + 8 + 8 // before the key

	// maxRecord is a hundred times what an answer takes; Save leaves out what is
	// larger, Load takes a larger length for damage.
	maxRecord = 1 << 20
	// readStep is how much memory is taken for a record at a time: as much as was
	// announced only once it is there.
	readStep = 64 << 10

	flagAsked = 1

	// clockSkew is how far in the future an entry may have been stored: a clock
	// that was corrected a little over a restart costs no entries.
	clockSkew = 5 * time.Minute
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// DamagedError says that a snapshot could not be read to its end. It was set
// aside, and what stood before the damage was loaded.
type DamagedError struct {
	Path     string // the snapshot
	SetAside string // where it is now; empty: it is still there, because of Err
	Reason   string
	Err      error // why it could not be set aside
}

func (e *DamagedError) Error() string {
	if e.SetAside == "" {
		return fmt.Sprintf("cache snapshot %s is not usable (%s) and could not be set aside: %v", e.Path, e.Reason, e.Err)
	}
	return fmt.Sprintf("cache snapshot %s is not usable (%s): set aside as %s", e.Path, e.Reason, e.SetAside)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// kept is a snapshot that was written.
type kept struct {
	path   string // empty: none
	stored uint64 // Cache.stored before it was begun
}

// Save writes a snapshot, unless nothing was stored since it last did: atomic
// (temporary file, fsync, rename, fsync of the folder), 0600, with a version and
// checksums. After an error the snapshot before is still there, unless the error
// came from the folder's fsync: then it is either of the two, whole. encode is
// called without a lock. Beside the cache itself it takes 16 bytes of memory for
// each entry; those who store wait for it as long as it takes to walk one
// shard's list, those who ask never.
func (c *Cache[V]) Save(path string, encode func(dst []byte, v V) []byte) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	next := kept{path: path, stored: c.stored.Load()}
	if next == c.saved {
		if there, err := c.disk.Exists(path); there && err == nil {
			return nil
		}
	}
	c.saved = kept{}
	// The name is always the same, so a crash leaves one file at most.
	temp := path + ".tmp"
	if err := c.disk.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save cache: %w", err)
	}
	f, err := c.disk.Create(temp)
	if err != nil {
		return fmt.Errorf("save cache: %w", err)
	}
	err = c.write(f, encode)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = c.disk.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("save cache: %w", errors.Join(err, c.disk.Remove(temp)))
	}
	if err := c.disk.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("save cache: sync folder: %w", err)
	}
	c.saved = next
	return nil
}

// write writes the whole snapshot.
func (c *Cache[V]) write(w io.Writer, encode func(dst []byte, v V) []byte) error {
	out := bufio.NewWriterSize(w, 256<<10)
	head := binary.LittleEndian.AppendUint32([]byte(magic), formatVersion)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	if _, err := out.Write(head); err != nil {
		return err
	}
	wall, mono := c.clock()
	var buf []byte
	n := uint64(0)
	for _, r := range c.inOrder(wall, mono) {
		buf = appendEntry(buf[:0], r.e, wall, mono, encode)
		if len(buf)-8 > maxRecord {
			continue
		}
		if _, err := out.Write(buf); err != nil {
			return err
		}
		n++
	}
	if _, err := out.Write(appendEnd(buf[:0], n)); err != nil {
		return err
	}
	return out.Flush()
}

// ranked is an entry and its worth: the lower, the more.
type ranked[V any] struct {
	e    *entry[V]
	rank int // as it was found: whether it is asked for may change meanwhile
}

// inOrder is all entries, the one most worth keeping first: fresh before stale,
// asked for before not, new before old. It keeps the writers of one shard at a
// time waiting while it collects its pointers, readers never.
func (c *Cache[V]) inOrder(wall, mono int64) []ranked[V] {
	all := make([]ranked[V], 0, c.Len())
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for e := s.newest; e != nil; e = e.older {
			rank := 0
			if !e.fresh(wall, mono) {
				rank += 2
			}
			if !e.asked.Load() {
				rank++
			}
			all = append(all, ranked[V]{e, rank})
		}
		s.mu.Unlock()
	}
	slices.SortStableFunc(all, func(a, b ranked[V]) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(b.e.created, a.e.created))
	})
	return all
}

func appendEntry[V any](dst []byte, e *entry[V], wall, mono int64, encode func([]byte, V) []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0) // length and checksum
	flags, life := byte(0), int64(0)
	if e.asked.Load() {
		flags |= flagAsked
	}
	if e.fresh(wall, mono) { // if only one clock says so, the next process must not believe it
		life = e.expires - e.created
	}
	dst = append(dst, flags)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.created))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(life))
	dst = binary.AppendUvarint(dst, uint64(len(e.key)))
	dst = append(dst, e.key...)
	dst = encode(dst, e.value)
	seal(dst[start:])
	return dst
}

func appendEnd(dst []byte, entries uint64) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, entries)
	binary.LittleEndian.PutUint32(dst[start+4:], sum(dst[start:start+4], dst[start+8:]))
	return dst
}

// seal fills in length and checksum. A record that is longer than its length can
// say is left out by write, as all beyond maxRecord are.
func seal(record []byte) {
	binary.LittleEndian.PutUint32(record, uint32(len(record)-8))
	binary.LittleEndian.PutUint32(record[4:], sum(record[:4], record[8:]))
}

func sum(length, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, rest)
}

// Load reads a snapshot into the cache and returns the number of entries. No
// file is no error. A damaged one, or one that a newer version wrote, is set
// aside (renamed to path.damaged-<UTC time>) and reported as a *DamagedError;
// what could not be trusted is not loaded. What the cache holds already stays
// as it is, and of a snapshot with more entries than there is room for, those
// least worth keeping are left out. decode must not keep its argument.
func (c *Cache[V]) Load(path string, decode func([]byte) (V, error)) (int, error) {
	f, err := c.disk.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("load cache: %w", err)
	}
	n, err := c.read(f, decode)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	var d damage
	switch {
	case err == nil:
		return n, nil
	case errors.As(err, &d):
		aside, err := c.setAside(path)
		return n, &DamagedError{Path: path, SetAside: aside, Reason: string(d), Err: err}
	default:
		return n, fmt.Errorf("load cache: %w", err)
	}
}

// setAside renames a snapshot that cannot be used to a name that is free.
func (c *Cache[V]) setAside(path string) (string, error) {
	wall, _ := c.clock()
	base := path + ".damaged-" + time.Unix(0, wall).UTC().Format("20060102T150405.000Z")
	for i := range 100 {
		aside := base
		if i > 0 {
			aside += "-" + strconv.Itoa(i)
		}
		taken, err := c.disk.Exists(aside)
		if err != nil {
			return "", err
		}
		if taken {
			continue
		}
		if err := c.disk.Rename(path, aside); err != nil {
			return "", err
		}
		// Whether this is durable does not matter: if not, the next start does it again.
		_ = c.disk.SyncDir(filepath.Dir(path))
		return aside, nil
	}
	return "", errors.New("every name is taken")
}

// damage is why a snapshot cannot be used. It never quotes it.
type damage string

func (d damage) Error() string { return string(d) }

// read loads what can be trusted, up to the first damage.
func (c *Cache[V]) read(src io.Reader, decode func([]byte) (V, error)) (loaded int, err error) {
	in := bufio.NewReaderSize(src, readStep)
	if err := readHeader(in); err != nil {
		return 0, err
	}
	wall, mono := c.clock()
	var buf []byte
	refused := 0
	for entries := uint64(0); ; entries++ {
		var head [8]byte
		if err := readFull(in, head[:]); err != nil {
			return loaded, err
		}
		length, want := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
		if length == 0 {
			return loaded, readEnd(in, want, entries, refused)
		}
		if length > maxRecord {
			return loaded, damage("an entry is too long")
		}
		if buf, err = readRecord(in, buf[:0], int(length)); err != nil {
			return loaded, err
		}
		if sum(head[:4], buf) != want {
			return loaded, damage("an entry's checksum is wrong")
		}
		e, value, ok := parseEntry[V](buf, wall, mono)
		if !ok {
			return loaded, damage("an entry makes no sense")
		}
		if c.used.Load() >= c.max {
			continue // read on, to know whether it is whole
		}
		if e.value, err = decode(value); err != nil {
			refused++
			continue
		}
		if c.putOldest(e) {
			loaded++
		}
	}
}

func readHeader(in io.Reader) error {
	var head [headerLen]byte
	if err := readFull(in, head[:]); err != nil {
		return err
	}
	sealed := head[:headerLen-4]
	switch version := binary.LittleEndian.Uint32(head[len(magic):]); {
	case string(head[:len(magic)]) != magic:
		return damage("it is no snapshot")
	case crc32.Checksum(sealed, castagnoli) != binary.LittleEndian.Uint32(head[headerLen-4:]):
		return damage("the header's checksum is wrong")
	case version > formatVersion:
		return damage(fmt.Sprintf("it was written by a newer version of the program: format %d, known here up to %d", version, formatVersion))
	case version < formatVersion:
		return damage("an unknown format version")
	}
	return nil
}

// readEnd reads what stands behind the last entry.
func readEnd(in *bufio.Reader, want uint32, entries uint64, refused int) error {
	var count [8]byte
	if err := readFull(in, count[:]); err != nil {
		return err
	}
	if sum([]byte{0, 0, 0, 0}, count[:]) != want || binary.LittleEndian.Uint64(count[:]) != entries {
		return damage("entries are missing")
	}
	switch _, err := in.ReadByte(); {
	case err == nil:
		return damage("data after the end")
	case err != io.EOF:
		return err
	}
	if refused > 0 {
		return damage(fmt.Sprintf("%d of %d values could not be decoded", refused, entries))
	}
	return nil
}

// readRecord appends n bytes to dst, taking memory only for what is there.
func readRecord(in io.Reader, dst []byte, n int) ([]byte, error) {
	for n > 0 {
		step := min(n, readStep)
		dst = slices.Grow(dst, step)
		part := dst[len(dst) : len(dst)+step]
		if err := readFull(in, part); err != nil {
			return dst, err
		}
		dst = dst[:len(dst)+step]
		n -= step
	}
	return dst, nil
}

// readFull fills b. An early end is damage, other errors are the disk's.
func readFull(in io.Reader, b []byte) error {
	_, err := io.ReadFull(in, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return damage("it ends too early")
	}
	return err
}

// parseEntry takes a record apart. The entry copies its key; value aliases b.
func parseEntry[V any](b []byte, wall, mono int64) (e *entry[V], value []byte, ok bool) {
	if len(b) < entryHead || b[0]&^flagAsked != 0 {
		return nil, nil, false
	}
	created, life := int64(binary.LittleEndian.Uint64(b[1:])), int64(binary.LittleEndian.Uint64(b[9:]))
	keyLen, n := binary.Uvarint(b[entryHead:])
	rest := b[entryHead+max(n, 0):]
	if n <= 0 || keyLen > uint64(len(rest)) {
		return nil, nil, false
	}
	if created < 0 || life < 0 || life > int64(maxLifetime) || created > wall+int64(clockSkew) {
		life = 0 // a clock was wrong, then or now: stale
	}
	created = min(max(created, 0), wall)
	e = &entry[V]{key: string(rest[:keyLen]), created: created, expires: created + life, until: mono + life - (wall - created)}
	e.asked.Store(b[0]&flagAsked != 0)
	return e, rest[keyLen:], true
}

// putOldest stores an entry of a snapshot behind all others of its shard. It is
// false where the key is known or there is no room.
func (c *Cache[V]) putOldest(e *entry[V]) bool {
	in := c.mapOf(e.key)
	s := &c.shards[in%len(c.shards)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := c.maps[in].Get(e.key); ok || !c.reserve() {
		return false
	}
	s.linkOldest(e)
	c.maps[in].Set(e.key, e, gocache.NoExpiration)
	return true
}
