package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// ReplicaTLS is for connections between replicas of the operator, on both ends. Each shows the control plane's certificate, which no
// proxy and no tenant can have, and takes no other: proxies know the control plane by the same one. Nothing but the two replicas is
// needed for it, so that they know of each other also while the API server is away.
func (m *Materials) ReplicaTLS(namespace string) *tls.Config {
	name := ServerName(ControlPlaneService, namespace)
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: m.ControlPlane.GetCertificate,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return m.ControlPlane.GetCertificate(nil)
		},
		// Both ends are verified below, by roots that change while we run. A certificate for servers is what makes a replica, also as a client.
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection: func(state tls.ConnectionState) error {
			if err := m.verifyReplica(name, state.PeerCertificates); err != nil {
				return fmt.Errorf("the other end is no replica of this control plane: %w", err)
			}
			return nil
		},
	}
}

func (m *Materials) verifyReplica(name string, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("it shows no certificate")
	}
	ca, err := m.ControlPlaneCA()
	if err != nil {
		return err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, DNSName: name, CurrentTime: m.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}
