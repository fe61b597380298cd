package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"
)

// maxSkew is by how much the clocks of a mesh's machines may differ.
const maxSkew = time.Minute

// lineage is a certificate with those between it and its roots, and the roots.
type lineage struct{ certificates, roots []*x509.Certificate }

// parseLineage reads tls.crt and ca.crt.
func parseLineage(crt, ca []byte) (lineage, error) {
	certificates, err := parseCertificates(crt)
	if err != nil {
		return lineage{}, fmt.Errorf("tls.crt: %w", err)
	}
	roots, err := parseCertificates(ca)
	if err != nil {
		return lineage{}, fmt.Errorf("%s: %w", CAKey, err)
	}
	return lineage{certificates, roots}, nil
}

// begins is from when on all of it is valid.
func (l lineage) begins() time.Time {
	var begins time.Time
	for _, list := range [][]*x509.Certificate{l.certificates, l.roots} {
		for _, c := range list {
			if c.NotBefore.After(begins) {
				begins = c.NotBefore
			}
		}
	}
	return begins
}

// ending says that cert-manager has had the time to renew it twice and did not: it begins with a third of the life left.
func (l lineage) ending(now time.Time) bool {
	c := l.certificates[0]
	return c.NotAfter.Sub(now) <= c.NotAfter.Sub(c.NotBefore)/6
}

// hold says why a certificate must not take the place of the current one yet; empty when it may. cert-manager dates what it issues
// from its own clock's now, which for others may be a minute away; and who has not heard of a root refuses all that descends
// from it. A current one that is about to end is replaced all the same.
func (l lineage) hold(current lineage, known rootSet, now time.Time) string {
	from := l.begins().Add(maxSkew)
	switch {
	case current.ending(now) || l.certificates[0].Equal(current.certificates[0]):
		return ""
	case now.Before(from):
		return "it is used from " + stamp(from) + " on, for clocks that differ"
	case !known.hold(l.roots):
		return "its root is not known everywhere yet"
	default:
		return ""
	}
}

// rootSet is a set of roots; nil is the set of all.
type rootSet map[[sha256.Size]byte]struct{}

// newRootSet returns the certificates of PEM documents. What does not parse is in no set.
func newRootSet(documents ...[]byte) rootSet {
	set := rootSet{}
	for _, document := range documents {
		certificates, _ := parseCertificates(document)
		for _, c := range certificates {
			set[sha256.Sum256(c.Raw)] = struct{}{}
		}
	}
	return set
}

func (s rootSet) hold(certificates []*x509.Certificate) bool {
	for _, c := range certificates {
		if _, ok := s[sha256.Sum256(c.Raw)]; s != nil && !ok {
			return false
		}
	}
	return true
}

// Covers says whether a PEM document holds every certificate of another.
func Covers(document, other []byte) bool {
	certificates, _ := parseCertificates(other)
	return newRootSet(document).hold(certificates)
}

// Common returns the certificates of a PEM document that another holds too, as Bundle orders them.
func Common(now time.Time, document, other []byte) []byte {
	set := newRootSet(other)
	certificates, _ := parseCertificates(document)
	var both []byte
	for _, c := range certificates {
		if set.hold([]*x509.Certificate{c}) {
			both = append(both, encodeCertificate(c.Raw)...)
		}
	}
	bundle, _ := Bundle(now, both)
	return bundle
}
