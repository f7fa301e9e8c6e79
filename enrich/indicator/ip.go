package indicator

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// appendIP takes an IPv4 or IPv6 address, nothing around it but brackets.
//
// IPv6 comes out as RFC 5952 wants it. An IPv4 address in IPv6 (::ffff:a.b.c.d,
// and behind NAT64, 64:ff9b::a.b.c.d) comes out as itself. An address with a
// zone belongs to a link, so it is private whatever it says.
func (p *Parser) appendIP(dst, b []byte) ([]byte, Found) {
	start := len(dst)
	addr, zoned, ok := parseIP(b)
	if !ok {
		return dst, Found{Type: IP, Skip: Invalid}
	}
	dst = addr.AppendTo(dst)
	found := Found{Type: IP, Canonical: dst[start:], Skip: special(addr)}
	switch {
	case zoned:
		found.Skip = Private
	case found.Skip == Lookup && p.networks.hold(addr):
		found.Skip = AllowListed
	}
	return dst, found
}

// parseIP parses an address as it is written in logs.
func parseIP(b []byte) (addr netip.Addr, zoned, ok bool) {
	if addr, ok = parseIPv4(b); ok || len(b) < 2 || len(b) > 256 {
		return addr, false, ok
	}
	if isDefanged(b) {
		b = appendRefanged(nil, b)
	}
	if len(b) > 2 && b[0] == '[' && b[len(b)-1] == ']' {
		b = b[1 : len(b)-1]
	}
	if addr, ok = parseIPv4(b); ok {
		return addr, false, true
	}
	for i, c := range b {
		if c == '%' {
			if i == len(b)-1 {
				return addr, false, false
			}
			zoned = true
			b = b[:i]
			break
		}
	}
	a, ok := parseIPv6(b)
	if !ok {
		return addr, false, false
	}
	if addr = netip.AddrFrom16(a); addr.Is4In6() || nat64.Contains(addr) {
		addr = netip.AddrFrom4([4]byte(a[12:]))
	}
	return addr, zoned, true
}

// parseIPv6 parses an address without a zone. (netip's parser takes a string
// that its error keeps, which would cost an allocation for every name that is
// tried as an address.)
func parseIPv6(b []byte) (a [16]byte, ok bool) {
	i, n, gap := 0, 0, -1 // gap: where :: stands, in bytes of a
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		i, gap = 2, 0
	}
	for i < len(b) {
		if n == len(a) {
			return a, false
		}
		start, v := i, 0
		for i < len(b) && i-start < 4 && isHex(b[i]) {
			v = v<<4 | int(hexValue[b[i]])
			i++
		}
		if i == start {
			return a, false
		}
		if i < len(b) && b[i] == '.' {
			v4, ok := parseIPv4(b[start:])
			if !ok || n > len(a)-4 {
				return a, false
			}
			last := v4.As4()
			n += copy(a[n:], last[:])
			break
		}
		a[n], a[n+1] = byte(v>>8), byte(v)
		n += 2
		if i == len(b) {
			break
		}
		if b[i] != ':' || i+1 == len(b) {
			return a, false
		}
		i++
		if b[i] == ':' {
			if gap >= 0 {
				return a, false
			}
			gap = n
			i++
		}
	}
	if n < len(a) {
		if gap < 0 {
			return a, false
		}
		tail := n - gap
		copy(a[len(a)-tail:], a[gap:n])
		clear(a[gap : len(a)-tail])
		return a, true
	}
	return a, gap < 0
}

// parseIPv4 parses four decimal numbers without leading zeros. What other
// programs take for an address as well (0x7f.1, 010.0.0.1, 2130706433) means
// one thing here and another there, so it is none: see parseWebIPv4 for URLs.
func parseIPv4(b []byte) (netip.Addr, bool) {
	if len(b) < len("0.0.0.0") || len(b) > len("255.255.255.255") {
		return netip.Addr{}, false
	}
	var octets [4]byte
	octet, value, digits := 0, 0, 0
	for _, c := range b {
		switch {
		case isDigit(c):
			if digits > 0 && value == 0 {
				return netip.Addr{}, false
			}
			value = value*10 + int(c-'0')
			digits++
			if value > 255 {
				return netip.Addr{}, false
			}
		case c == '.' && digits > 0 && octet < 3:
			octets[octet] = byte(value)
			octet++
			value, digits = 0, 0
		default:
			return netip.Addr{}, false
		}
	}
	if octet != 3 || digits == 0 {
		return netip.Addr{}, false
	}
	octets[3] = byte(value)
	return netip.AddrFrom4(octets), true
}

// parseWebIPv4 parses the host of a URL in lower case as the WHATWG's URL
// standard does, and with it all browsers: one to four numbers, decimal, octal
// after 0 or hexadecimal after 0x, of which the last fills what is left. That is
// how http://3405803783/ hides 203.0.113.7 from those who look for dots.
func parseWebIPv4(b []byte) (netip.Addr, bool) {
	var addr uint64
	for n := 1; ; n++ {
		part, rest, more := bytes.Cut(b, []byte{'.'})
		v, ok := webNumber(part)
		if !ok || n > 4 {
			return netip.Addr{}, false
		}
		if !more {
			if v >= 1<<(8*(5-n)) {
				return netip.Addr{}, false
			}
			addr = addr<<(8*(5-n)) | v
			return netip.AddrFrom4([4]byte{byte(addr >> 24), byte(addr >> 16), byte(addr >> 8), byte(addr)}), true
		}
		if v > 255 {
			return netip.Addr{}, false
		}
		addr, b = addr<<8|v, rest
	}
}

// webNumber is a number of such a host, or one beyond 32 bits where it is larger.
func webNumber(b []byte) (v uint64, ok bool) {
	base := uint64(10)
	switch {
	case len(b) == 0:
		return 0, false
	case len(b) >= 2 && b[0] == '0' && b[1] == 'x':
		b, base = b[2:], 16
	case b[0] == '0':
		base = 8
	}
	for _, c := range b {
		digit := uint64(hexValue[c]) // of what is no digit, more than any base
		if digit >= base {
			return 0, false
		}
		v = min(v*base+digit, 1<<32)
	}
	return v, true
}

var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	global    = netip.MustParsePrefix("2000::/3")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// specials are the networks in which no host of the Internet is, by IANA's
// registries of special-purpose addresses (IPv4 and IPv6, RFC 6890 and its
// updates) and of multicast addresses. Those for documentation are not here:
// they are looked up as any other, for demonstrations and tests.
var specials = []struct {
	prefix netip.Prefix
	skip   Skip
}{
	{netip.MustParsePrefix("fc00::/7"), Private},           // unique local, RFC 4193
	{netip.MustParsePrefix("fe80::/10"), Private},          // link-local, RFC 4291
	{netip.MustParsePrefix("fec0::/10"), Private},          // site-local, deprecated by RFC 3879
	{netip.MustParsePrefix("::1/128"), Private},            // loopback
	{netip.MustParsePrefix("64:ff9b:1::/48"), Private},     // local translation, RFC 8215
	{netip.MustParsePrefix("2001::/23"), Reserved},         // protocol assignments: Teredo, benchmarks, ORCHID, …
	{netip.MustParsePrefix("2620:4f:8000::/48"), Reserved}, // AS112, RFC 7534
}

// special is the reason why an address is none of the Internet's, if it is so.
func special(addr netip.Addr) Skip {
	if addr.Is4() {
		return special4(addr.As4())
	}
	for _, s := range specials {
		if s.prefix.Contains(addr) {
			return s.skip
		}
	}
	if !global.Contains(addr) {
		return Reserved // unspecified, multicast, discard, not assigned
	}
	if sixToFour.Contains(addr) {
		// The site behind it is the IPv4 address's.
		a := addr.As16()
		return special4([4]byte(a[2:6]))
	}
	return Lookup
}

func special4(a [4]byte) Skip {
	switch a[0] {
	case 0: // this network, RFC 791
		return Reserved
	case 10: // RFC 1918
		return Private
	case 100: // shared address space (CGNAT), RFC 6598
		if a[1]&0xc0 == 64 {
			return Private
		}
	case 127: // loopback, RFC 1122
		return Private
	case 169: // link-local, RFC 3927
		if a[1] == 254 {
			return Private
		}
	case 172: // RFC 1918
		if a[1]&0xf0 == 16 {
			return Private
		}
	case 192:
		switch {
		case a[1] == 168: // RFC 1918
			return Private
		case a[1] == 0 && a[2] == 0: // protocol assignments, RFC 6890
			return Reserved
		case a[1] == 31 && a[2] == 196, a[1] == 52 && a[2] == 193, a[1] == 175 && a[2] == 48: // AS112 and AMT anycast
			return Reserved
		case a[1] == 88 && a[2] == 99: // 6to4 relays, deprecated by RFC 7526
			return Reserved
		}
	case 198: // benchmarks, RFC 2544
		if a[1]&0xfe == 18 {
			return Reserved
		}
	}
	if a[0] >= 224 { // multicast, reserved (RFC 1112), broadcast
		return Reserved
	}
	return Lookup
}

// networks are ranges of addresses, ascending and apart from each other, so
// that a list of thousands costs a few comparisons.
type networks []addrRange

type addrRange struct{ from, to netip.Addr }

func newNetworks(prefixes []netip.Prefix) (networks, error) {
	var all networks
	for _, p := range prefixes {
		if !p.IsValid() {
			return nil, fmt.Errorf("skip.networks: %s is no network", p)
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		p = p.Masked()
		all = append(all, addrRange{p.Addr(), lastOf(p)})
	}
	slices.SortFunc(all, func(a, b addrRange) int {
		return cmp.Or(a.from.Compare(b.from), b.to.Compare(a.to))
	})
	merged := all[:0]
	for _, r := range all {
		// Prefixes lie within each other or apart.
		if n := len(merged); n > 0 && r.to.BitLen() == merged[n-1].to.BitLen() && !merged[n-1].to.Less(r.to) {
			continue
		}
		merged = append(merged, r)
	}
	return merged, nil
}

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func (n networks) hold(addr netip.Addr) bool {
	i, ok := slices.BinarySearchFunc(n, addr, func(r addrRange, a netip.Addr) int { return r.from.Compare(a) })
	if ok {
		return true
	}
	return i > 0 && n[i-1].to.BitLen() == addr.BitLen() && !n[i-1].to.Less(addr)
}
