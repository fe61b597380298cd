package identity

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// server edits a template into one of a serving certificate, as cert-manager issues it.
func server(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.DNSNames = false, x509.KeyUsageDigitalSignature, []string{name}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
}

// handshake has a client and a server shake hands and exchange a byte, which in TLS 1.3 is when a client learns that it was refused.
func handshake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	near, far := connection(t)
	deadline := time.Now().Add(10 * time.Second)
	served := make(chan error, 1)
	go func() {
		defer far.Close()
		_ = far.SetDeadline(deadline)
		c := tls.Server(far, server)
		_, err := c.Write([]byte("x"))
		served <- err
	}()
	_ = near.SetDeadline(deadline)
	c := tls.Client(near, client)
	_, clientErr = c.Read(make([]byte, 1))
	near.Close()
	return clientErr, <-served
}

// connection returns both ends of a connection that, unlike a net.Pipe, takes an alert that nobody reads.
func connection(t *testing.T) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if near, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// TestReplicasKnowEachOther: two replicas talk, and nobody else with either, whatever certificate they have.
func TestReplicasKnowEachOther(t *testing.T) {
	t.Parallel()
	const controlPlane = "tulle-control-plane.tulle-system.svc"
	root := issue(t, nil, 1000*time.Hour, nil)
	replica := func(c ca) *Materials {
		m, _ := newMaterials(t)
		m.SetSecret(secret(t, ControlPlaneCertificate, c, root.crt()))
		return m
	}
	self := replica(issue(t, &root, time.Hour, server(controlPlane))).ReplicaTLS("tulle-system")
	other := replica(issue(t, &root, time.Hour, server(controlPlane))).ReplicaTLS("tulle-system") // the next certificate: replicas don't exchange theirs at once
	if clientErr, serverErr := handshake(t, self, other); clientErr != nil || serverErr != nil {
		t.Fatalf("two replicas: %v, %v", clientErr, serverErr)
	}

	workload := issue(t, &root, time.Hour, func(c *x509.Certificate) {
		server("")(c)
		c.DNSNames, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/tulle-system/sa/tulle-manager"}}
	})
	stranger := issue(t, nil, 1000*time.Hour, nil)
	for name, c := range map[string]ca{
		"a workload, even one with the operator's service account": workload,
		"the webhooks' certificate":                                issue(t, &root, time.Hour, server("tulle-webhook.tulle-system.svc")),
		"a certificate of that name by somebody else's CA":         issue(t, &stranger, time.Hour, server(controlPlane)),
		"a certificate that has expired":                           issue(t, &root, -time.Minute, server(controlPlane)),
		"a certificate that is for clients only": issue(t, &root, time.Hour, func(c *x509.Certificate) {
			server(controlPlane)(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}),
	} {
		pair, err := tls.X509KeyPair(c.crt(), c.keyPEM(t))
		if err != nil {
			t.Fatal(err)
		}
		theirs := &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} //nolint:gosec // they don't care
		if _, err := handshake(t, theirs, self); err == nil || !strings.Contains(err.Error(), "no replica of this control plane") {
			t.Errorf("%s, as a client: %v", name, err)
		}
		if err, _ := handshake(t, self, theirs); err == nil || !strings.Contains(err.Error(), "no replica of this control plane") {
			t.Errorf("%s, as a server: %v", name, err)
		}
	}
	nobody := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} //nolint:gosec // they don't care
	if _, err := handshake(t, nobody, self); err == nil || !strings.Contains(err.Error(), "didn't provide a certificate") {
		t.Errorf("no certificate: %v", err)
	}
}
