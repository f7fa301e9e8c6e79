package inflate

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// newReader returns a Reader of the stream that begins at in's next byte.
func newReader(in *bufio.Reader) *Reader {
	r := &Reader{}
	r.Reset(in)
	return r
}

// deflated compresses with the standard library, as Beats do.
func deflated(tb testing.TB, data []byte, level int) []byte {
	tb.Helper()
	var z bytes.Buffer
	w, err := flate.NewWriter(&z, level)
	require.NoError(tb, err)
	_, err = w.Write(data)
	require.NoError(tb, err)
	require.NoError(tb, w.Close())
	return z.Bytes()
}

// window is what a compressed frame holds: events as Filebeat sends them, about
// 1,053 bytes each, keys in random order, most of it the same in every event.
func window(rnd *rand.Rand, first, events int) []byte {
	var w []byte
	for i := first; i < first+events; i++ {
		e := filebeatLike(rnd, i)
		w = append(w, '2', 'J')
		w = binary.BigEndian.AppendUint32(w, uint32(i-first+1))
		w = binary.BigEndian.AppendUint32(w, uint32(len(e)))
		w = append(w, e...)
	}
	return w
}

func filebeatLike(rnd *rand.Rand, i int) string {
	object := func(members ...string) string {
		rnd.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		return "{" + strings.Join(members, ",") + "}"
	}
	id := func() string { return fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64()) }
	return object(
		fmt.Sprintf(`"@timestamp":"2026-01-02T03:%02d:%02d.%03dZ"`, i/60000%60, i/1000%60, i%1000),
		`"@metadata":`+object(`"beat":"filebeat"`, `"type":"_doc"`, `"version":"8.17.0"`),
		`"agent":`+object(`"ephemeral_id":"0f1c5c1e-8f0a-4a5e-9d2f-d2b8a1c3b111"`, `"id":"`+id()+`"`, `"name":"web-frontend-01"`, `"type":"filebeat"`, `"version":"8.17.0"`),
		`"ecs":{"version":"8.0.0"}`,
		`"host":`+object(`"name":"web-frontend-01"`, `"hostname":"web-frontend-01"`, `"architecture":"x86_64"`,
			`"os":`+object(`"platform":"ubuntu"`, `"family":"debian"`, `"kernel":"5.15.0-91-generic"`)),
		`"input":{"type":"filestream"}`,
		`"log":`+object(`"file":`+object(`"path":"/var/log/nginx/access.log"`, `"inode":"1835017"`, `"device_id":"64768"`), fmt.Sprintf(`"offset":%d`, 1000000+i*231)),
		fmt.Sprintf(`"message":"%d.%d.%d.%d - - [02/Jan/2026:03:10:%02d +0000] \"GET /api/v2/items/%d?session=%08x HTTP/1.1\" %d %d \"-\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\""`,
			rnd.IntN(223)+1, rnd.IntN(256), rnd.IntN(256), rnd.IntN(256), i%60, rnd.IntN(1e6), rnd.Uint32(), 200+rnd.IntN(5), rnd.IntN(1e5)),
		`"source":`+object(fmt.Sprintf(`"ip":"203.0.113.%d"`, rnd.IntN(256)), fmt.Sprintf(`"port":%d`, 1024+rnd.IntN(60000))),
		`"destination":`+object(`"ip":"198.51.100.7"`, `"port":443`),
		`"event":`+object(`"dataset":"nginx.access"`, `"module":"nginx"`),
		`"fileset":{"name":"access"}`, `"trace":{"id":"`+id()+`"}`,
		fmt.Sprintf(`"url":{"full":"https://shop.example.com/api/v2/items/%d"}`, rnd.IntN(1e6)),
	)
}

// bitWriter writes streams that no compressor makes.
type bitWriter struct {
	b []byte
	n int // bits of b
}

// bits appends the lowest n bits of v, the lowest one first.
func (w *bitWriter) bits(v, n int) *bitWriter {
	for i := range n {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n/8] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
	return w
}

// code appends the lowest n bits of v, the highest one first, as codes come.
func (w *bitWriter) code(v, n int) *bitWriter {
	for i := n - 1; i >= 0; i-- {
		w.bits(v>>i, 1)
	}
	return w
}

// fixed appends a symbol of a fixed block: a literal, a length's code, the end.
func (w *bitWriter) fixed(symbol int) *bitWriter {
	switch {
	case symbol < 144:
		return w.code(0x30+symbol, 8)
	case symbol < 256:
		return w.code(0x190+symbol-144, 9)
	case symbol < 280:
		return w.code(symbol-256, 7)
	default:
		return w.code(0xc0+symbol-280, 8)
	}
}

// text appends literals of a fixed block.
func (w *bitWriter) text(s string) *bitWriter {
	for _, c := range []byte(s) {
		w.fixed(int(c))
	}
	return w
}

// header appends a dynamic block's header up to its precode, for a precode that
// has codes of four bits for 0 to 15, which are those numbers, and none else.
func (w *bitWriter) header(last, nLitlen, nDist int) *bitWriter {
	w.bits(last, 1).bits(2, 2).bits(nLitlen-257, 5).bits(nDist-1, 5).bits(nPrecodes-4, 4)
	for _, p := range precodeOrder {
		if p < 16 {
			w.bits(4, 3)
		} else {
			w.bits(0, 3)
		}
	}
	return w
}

// dynamic appends the header of a dynamic block with codes of these lengths.
func (w *bitWriter) dynamic(last int, litlen, dist map[int]int) *bitWriter {
	w.header(last, maxLitlen, maxDist)
	for i := range maxLitlen {
		w.code(litlen[i], 4)
	}
	for i := range maxDist {
		w.code(dist[i], 4)
	}
	return w
}

// align fills the last byte with ones, of which nobody may care.
func (w *bitWriter) align() *bitWriter {
	for w.n%8 != 0 {
		w.bits(1, 1)
	}
	return w
}

func (w *bitWriter) bytes(s string) *bitWriter {
	for _, c := range []byte(s) {
		w.bits(int(c), 8)
	}
	return w
}
