package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

const pemCertificate = "CERTIFICATE"

// Bundle returns the union of the roots in PEM documents as one PEM document, each once and in an order of their hashes, so
// that equal sets have equal bytes. Roots that expired before now are left out. What is no CA certificate is left out too and
// named in the error; the bundle holds the rest.
func Bundle(now time.Time, documents ...[]byte) ([]byte, error) {
	roots := map[[sha256.Size]byte]*x509.Certificate{}
	var errs []error
	for _, document := range documents {
		certificates, err := parseCertificates(document)
		if err != nil {
			errs = append(errs, err)
		}
		for _, c := range certificates {
			if !c.IsCA {
				errs = append(errs, fmt.Errorf("certificate %q is no CA and is not trusted", c.Subject))
				continue
			}
			if now.After(c.NotAfter) {
				continue
			}
			roots[sha256.Sum256(c.Raw)] = c
		}
	}
	return encodeSorted(roots), errors.Join(errs...)
}

func encodeSorted(roots map[[sha256.Size]byte]*x509.Certificate) []byte {
	hashes := make([][sha256.Size]byte, 0, len(roots))
	for h := range roots {
		hashes = append(hashes, h)
	}
	slices.SortFunc(hashes, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
	var out []byte
	for _, h := range hashes {
		out = append(out, encodeCertificate(roots[h].Raw)...)
	}
	return out
}

// parseCertificates returns the certificates of a PEM document; the error names the ones that don't parse.
func parseCertificates(document []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	var errs []error
	for {
		var block *pem.Block
		if block, document = pem.Decode(document); block == nil {
			return certificates, errors.Join(errs...)
		}
		if block.Type != pemCertificate {
			errs = append(errs, fmt.Errorf("PEM block is %s, not %s", block.Type, pemCertificate))
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			errs = append(errs, fmt.Errorf("parse certificate: %w", err))
			continue
		}
		certificates = append(certificates, c)
	}
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})
}
