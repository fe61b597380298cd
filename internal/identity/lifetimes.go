package identity

import (
	"time"
)

// Validity is the time in which a certificate is valid.
type Validity struct{ NotBefore, NotAfter time.Time }

// Lifetimes returns the validity of what the control plane works with now, by name: intermediate, root (the one of the trust bundle that
// the intermediate descends from), and the serving certificates webhook and control-plane. What is not there yet is left out.
func (m *Materials) Lifetimes() map[string]Validity {
	all := map[string]Validity{}
	if a := m.Signer.Authority(); a != nil {
		all["intermediate"] = Validity{a.NotBefore(), a.NotAfter()}
		if roots, err := parseCertificates(a.Roots()); err == nil && len(roots) > 0 {
			all["root"] = Validity{roots[0].NotBefore, roots[0].NotAfter}
		}
	}
	for name, s := range map[string]*Serving{"webhook": m.Webhook, "control-plane": m.ControlPlane} {
		if c := s.current.Load(); c != nil && c.certificate.Leaf != nil {
			all[name] = Validity{c.certificate.Leaf.NotBefore, c.certificate.Leaf.NotAfter}
		}
	}
	return all
}
