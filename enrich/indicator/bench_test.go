package indicator_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"vtsidecar/enrich/indicator"
)

// benchParser has rules of an operator, as a real one has.
func benchParser(t testing.TB) *indicator.Parser {
	return newParser(t, indicator.Config{
		Networks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:1::/48")},
		Domains:  []string{"example.org", "example.net"},
		Hashes:   []string{md5},
	})
}

// ordinary are values as they stand in events.
var ordinary = []struct {
	name  string
	kind  indicator.Kind
	value string
}{
	{"ip4", indicator.KindIP, "203.0.113.7"},
	{"ip4-private", indicator.KindIP, "192.168.10.20"},
	{"ip6", indicator.KindIP, "2606:4700:4700::1111"},
	{"domain", indicator.KindDomain, "www.shop.example.com"},
	{"hash", indicator.KindHash, sha256},
	{"sysmon", indicator.KindHash, "SHA1=" + sha1 + ",MD5=" + strings.ToUpper(imphash) + ",SHA256=" + sha256 + ",IMPHASH=" + imphash},
	{"url", indicator.KindURL, "https://www.shop.example.com/path/to/page.html?session=0123456789"},
	{"auto-ip4", indicator.KindAuto, "203.0.113.7"},
	{"auto-domain", indicator.KindAuto, "www.shop.example.com"},
	{"auto-url", indicator.KindAuto, "https://www.shop.example.com/path"},
	{"invalid", indicator.KindIP, "WORKSTATION7"},
}

func BenchmarkAppend(b *testing.B) {
	p := benchParser(b)
	for _, tc := range ordinary {
		b.Run(tc.name, func(b *testing.B) {
			value, dst := []byte(tc.value), make([]byte, 0, 512)
			b.ReportAllocs()
			for b.Loop() {
				p.Append(dst, tc.kind, value)
			}
		})
	}
}

func BenchmarkAppendText(b *testing.B) {
	p := benchParser(b)
	text := []byte(strings.Repeat("Jan  2 03:04:05 gw sshd[1234]: Failed password for root from 203.0.113.7 port 4242; see https://www.example.com/kb/17. ", 100))
	dst := make([]byte, 0, 1<<10)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		p.AppendText(dst, text, func(indicator.Found) bool { return true })
	}
}

// hostile are texts that are made to cost: of the signs at which a reader looks
// back or ahead, of near misses, and of the dearest names that there are.
var hostile = []string{
	"://", "http://", "http://,", "[.]", "(", "a.", "a:", "1.", "a.com,", "hxxp[", "ü", "%", "::1,", "http://a,ftp://", "a.com:", "version:1.2.3.4:", "0123456789abcdef", ")", "“", "\xff",
	"http://0x", "[[", "@", "-", "hxxp[:]//a[.]", manyRunes(250) + ".com ", manyRunes(60) + "." + manyRunes(60) + "." + manyRunes(60) + "." + manyRunes(60) + ".com,", "a.é.", "的a", "的.com",
}

// manyRunes is a word of different letters of one script.
func manyRunes(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteRune('\u0400' + rune(i*7%250))
	}
	return b.String()
}

func hostileText(unit string, n int) []byte { return []byte(strings.Repeat(unit, n/len(unit))) }

// What an attacker writes into a log must not cost more per byte than what
// others do. These are compared side by side, in bytes a second.
func BenchmarkAppendTextHostile(b *testing.B) {
	p := benchParser(b)
	for _, unit := range hostile {
		for _, n := range []int{1 << 12, 1 << 18} {
			text := hostileText(unit, n)
			b.Run(fmt.Sprintf("%.12q/%dKiB", unit, n>>10), func(b *testing.B) {
				dst := make([]byte, 0, 1<<19)
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					p.AppendText(dst, text, func(indicator.Found) bool { return true })
				}
			})
		}
	}
}

// An event may hold 16 MiB of one text. Read in linear time that is a matter of
// a moment; in quadratic time this test would not come to its end. And what is
// lent to the parser does not grow with the text.
func TestLongTexts(t *testing.T) {
	p := benchParser(t)
	for _, unit := range hostile {
		dst := p.AppendText(nil, hostileText(unit, 512<<10), func(f indicator.Found) bool { return true })
		require.LessOrEqual(t, cap(dst), 256<<10, "%.20q", unit)
	}
	const list = "203.0.113.7,a.com;"
	n := 0
	p.AppendText(nil, hostileText(list, 256<<10), func(f indicator.Found) bool {
		n++
		require.Contains(t, list, string(f.Canonical), "a cut goes through none")
		return true
	})
	require.Equal(t, 2*((256<<10)/len(list)), n)
}

func TestOrdinaryValuesDoNotAllocate(t *testing.T) {
	p := benchParser(t)
	dst := make([]byte, 0, 512)
	for _, tc := range ordinary {
		value := []byte(tc.value)
		if n := testing.AllocsPerRun(100, func() { p.Append(dst, tc.kind, value) }); n > 0 {
			t.Errorf("%s: %v allocations", tc.name, n)
		}
	}
	members := []indicator.Member{{Key: []byte("md5"), Value: []byte(md5)}, {Key: []byte("sha256"), Value: []byte(sha256)}}
	if n := testing.AllocsPerRun(100, func() { p.AppendHashes(dst, members) }); n > 0 {
		t.Errorf("hash object: %v allocations", n)
	}
}
