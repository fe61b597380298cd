package model

import (
	"net/netip"
	"slices"
	"sort"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// PrivateRanges are the ranges whose addresses are always asked about, known or not: RFC 1918, carrier-grade NAT (RFC 6598)
// and unique local addresses (RFC 4193). What is outside of them and of the found ranges is public.
func PrivateRanges() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("fc00::/7"),
	}
}

func isPrivate(a netip.Addr) bool {
	b := a.As16()
	return a.IsPrivate() || a.Is4() && b[12] == 100 && b[13]&0xc0 == 64
}

// parsePrefixes leaves out what is no range.
func parsePrefixes(texts []string) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, text := range texts {
		if p, err := parsePrefix(text); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

func specPrefixes(ranges []v1alpha1.CIDR) []netip.Prefix {
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = string(r)
	}
	return parsePrefixes(texts)
}

func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, err
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// mergePrefixes sorts, and drops what another one covers.
func mergePrefixes(prefixes []netip.Prefix) []netip.Prefix {
	// A range comes before the ranges within it.
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var merged []netip.Prefix
	for _, p := range prefixes {
		if len(merged) == 0 || !merged[len(merged)-1].Overlaps(p) {
			merged = append(merged, p)
		}
	}
	return merged
}

// contains looks an address up in merged ranges.
func contains(merged []netip.Prefix, a netip.Addr) bool {
	i := sort.Search(len(merged), func(i int) bool { return a.Less(merged[i].Addr()) })
	return i > 0 && merged[i-1].Contains(a)
}
