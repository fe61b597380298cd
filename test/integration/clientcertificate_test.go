package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// The manifest of docs/metrics.md for a Prometheus outside of the mesh: the API server takes both objects as they are, and cert-manager issues what proxies accept
// of a client (test/envoy shows that they do).
func TestPrometheusCertificate(t *testing.T) {
	w := newWorld(t)
	w.installCertManager()
	w.installMonitoring()
	w.start(nil)
	w.eventually("the operator is ready", w.ready)
	strict := client.WithFieldValidation(w.client, metav1.FieldValidationStrict)
	for _, o := range documented(t, "../../docs/metrics.md", "name: prometheus-mesh") {
		w.eventually(o.GetKind(), func() error { return strict.Create(context.Background(), o.DeepCopy()) })
	}

	trusted := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: identity.TrustConfigMap}}
	w.eventually("the trust ConfigMap", func() error { return w.get(trusted) })
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(trusted.Data[identity.CAKey]))
	issued := w.secret("prometheus-mesh")
	pair, err := tls.X509KeyPair(issued.Data[corev1.TLSCertKey], issued.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the mesh does not trust it: %v", err)
	}
	if uris := pair.Leaf.URIs; len(uris) != 1 || uris[0].String() != "spiffe://cluster.local/ns/monitoring/sa/prometheus" {
		t.Errorf("it is for %v", uris)
	}
	if pair.Leaf.IsCA {
		t.Error("it is one of a CA")
	}
}

// documented returns the objects of the one YAML block of a document that contains a text.
func documented(t *testing.T, file, text string) []*unstructured.Unstructured {
	t.Helper()
	document, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var objects []*unstructured.Unstructured
	for _, part := range strings.Split(string(document), "```yaml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		if !strings.Contains(block, text) {
			continue
		}
		for _, manifest := range strings.Split(block, "\n---\n") {
			o := &unstructured.Unstructured{}
			if err := yaml.UnmarshalStrict([]byte(manifest), &o.Object); err != nil {
				t.Fatal(err)
			}
			objects = append(objects, o)
		}
	}
	if len(objects) == 0 {
		t.Fatalf("%s has no manifest with %q", file, text)
	}
	return objects
}
