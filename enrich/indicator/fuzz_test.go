package indicator_test

import (
	"bytes"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"vtsidecar/enrich/indicator"
)

var allKinds = []indicator.Kind{indicator.KindAuto, indicator.KindIP, indicator.KindDomain, indicator.KindURL, indicator.KindHash, indicator.KindScan}

// safe holds for every canonical form: what it is made of, and what it is.
func safe(t *testing.T, f indicator.Found) {
	for _, c := range f.Canonical {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '<' || c == '>' || c == '\\' {
			t.Fatalf("%s %q holds %q", f.Type, f.Canonical, c)
		}
	}
	s := string(f.Canonical)
	switch f.Type {
	case indicator.IP:
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.String() != s || addr.Is4In6() || addr.Zone() != "" {
			t.Fatalf("address %q", s)
		}
		if special := addr.IsPrivate() || addr.IsLoopback() || addr.IsMulticast() || addr.IsUnspecified() || addr.IsLinkLocalUnicast(); special && f.Skip == indicator.Lookup {
			t.Fatalf("address %q is looked up", s)
		}
	case indicator.Domain:
		if len(s) == 0 || len(s) > 253 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || strings.Contains("."+s+".", "..") {
			t.Fatalf("name %q", s)
		}
		if f.Skip == indicator.Lookup && (!strings.Contains(s, ".") || strings.HasSuffix(s, ".local") || s[0] == '_') {
			t.Fatalf("name %q is looked up", s)
		}
	case indicator.Hash:
		if len(s) != 32 && len(s) != 40 && len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "" {
			t.Fatalf("hash %q", s)
		}
	case indicator.URL:
		u, err := url.Parse(s)
		if err != nil || u.User != nil || u.Fragment != "" || u.Host == "" || len(s) > 8<<10 || !strings.HasPrefix(u.EscapedPath(), "/") && u.Path != "" {
			t.Fatalf("URL %q: %v", s, err)
		}
		if u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "ftp" {
			t.Fatalf("URL %q", s)
		}
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil && (addr.IsPrivate() || addr.IsLoopback()) && f.Skip == indicator.Lookup {
			t.Fatalf("URL %q is looked up", s)
		}
	default:
		t.Fatalf("a canonical form without a type: %q", s)
	}
}

func FuzzIndicator(f *testing.F) {
	for _, s := range []string{
		"203.0.113.7", "::ffff:203.0.113.7", "fe80::1%eth0", "2001:db8::1", "hxxps[://]u:p@bücher[.]example.com:443/a b?c#d", "1.2.3.4:80",
		"SHA1=" + sha1 + ",MD5=" + md5 + ",IMPHASH=" + imphash, sha256, "_x.example.com", "例え。テスト", "http://[::1]:8/%zz", "“-”", "a.com.", "http:\\\\a\\b@c?d",
		"ftp://exa%6Dple.com/\\", "１２７。0.0.1", "http://%31%32%37.0.0.1/",
	} {
		f.Add(s)
	}
	var parsers []*indicator.Parser
	for _, parts := range []string{"strip_query", "full", "host"} {
		parsers = append(parsers, newParser(f, indicator.Config{URLParts: parts, Domains: []string{"example.org"}}))
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, p := range parsers {
			for _, kind := range allKinds {
				dst, found := p.Append([]byte("x"), kind, []byte(s))
				if dst[0] != 'x' {
					t.Fatal("dst was changed")
				}
				if found.Skip == indicator.Invalid || found.Skip == indicator.Junk && len(found.Canonical) == 0 {
					continue
				}
				if string(dst) != "x"+string(found.Canonical) {
					t.Fatalf("%q, but %q", dst, found.Canonical)
				}
				safe(t, found)

				// The canonical form is canonical, as its own kind and by itself.
				own := map[indicator.Type]indicator.Kind{indicator.IP: indicator.KindIP, indicator.Domain: indicator.KindDomain, indicator.URL: indicator.KindURL, indicator.Hash: indicator.KindHash}[found.Type]
				for _, again := range []indicator.Kind{own, indicator.KindAuto} {
					if found.Type == indicator.URL && p == parsers[2] {
						continue
					}
					if again == indicator.KindAuto && found.Skip == indicator.Internal {
						continue // a name of one label may look like a hash
					}
					_, g := p.Append(nil, again, found.Canonical)
					zoned := found.Type == indicator.IP || found.Type == indicator.URL // a zone makes private, and goes
					if g.Type != found.Type || !bytes.Equal(g.Canonical, found.Canonical) || g.Skip != found.Skip && !(zoned && found.Skip == indicator.Private) || g.LeftOut != "" {
						t.Fatalf("%q became %s %q (%s), which became %s %q (%s, %s)", s, found.Type, found.Canonical, found.Skip, g.Type, g.Canonical, g.Skip, g.LeftOut)
					}
				}
			}
			members := []indicator.Member{{Key: []byte("sha1"), Value: []byte(s)}, {Key: []byte(s), Value: []byte(s)}, {Key: []byte("MD5"), Value: []byte(s)}}
			if _, found := p.AppendHashes(nil, members); found.Skip != indicator.Invalid {
				safe(t, found)
			}
		}
		// Against the standard library, where that is as strict as we are.
		addr, err := netip.ParseAddr(s)
		_, found := parsers[0].Append(nil, indicator.KindIP, []byte(s))
		if err == nil && addr.Zone() == "" && found.Skip == indicator.Invalid {
			t.Fatalf("%q is an address", s)
		}
		if found.Skip != indicator.Invalid && found.Skip != indicator.Junk && err != nil && strings.Trim(s, "0123456789abcdefABCDEF:.") == "" {
			t.Fatalf("%q is no address, but %q", s, found.Canonical)
		}
	})
}

func FuzzText(f *testing.F) {
	for _, s := range []string{
		"GET http://example.com/a(b), 203.0.113.7:443 [2001:db8::1] " + md5, "hxxp://a[.]com,hxxp://b[.]com", "mail a@b.com \\\\c.com\\d e.py", "SHA256=" + sha256 + ",x", "://http://://", "bücher.de",
	} {
		f.Add(s)
	}
	p := newParser(f, indicator.Config{URLParts: "full"})
	f.Fuzz(func(t *testing.T, s string) {
		before := []byte("x")
		n := 0
		dst := p.AppendText(before, []byte(s), func(found indicator.Found) bool {
			n++
			if found.Skip == indicator.Invalid || found.Skip == indicator.Junk || found.Skip == indicator.Internal {
				t.Fatalf("%q: %s %q", s, found.Skip, found.Canonical)
			}
			safe(t, found)
			_, g := p.Append(nil, indicator.KindAuto, found.Canonical)
			if g.Type != found.Type || !bytes.Equal(g.Canonical, found.Canonical) {
				t.Fatalf("%q: %s %q is not canonical: %s %q", s, found.Type, found.Canonical, g.Type, g.Canonical)
			}
			return true
		})
		if string(dst) != "x" {
			t.Fatalf("dst became %q", dst)
		}
		if n > len(s)/2+1 {
			t.Fatalf("%d indicators in %d bytes", n, len(s))
		}
	})
}
