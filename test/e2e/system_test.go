package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// system is the operator's namespace.
const system = "tulle-system"

// inSystem is the cluster as seen from the operator's namespace. What it waits for is the whole mesh's: such tests run alone.
func (c *cluster) inSystem() *cluster {
	other := *c
	other.namespace = system
	return &other
}

// root makes a root Mesh for as long as the test takes.
func (c *cluster) root(manifest string) {
	c.t.Helper()
	s := c.inSystem()
	s.apply(manifest)
	c.t.Cleanup(func() { s.kubectl("delete", "mesh", "mesh", "--ignore-not-found") })
	s.wait("condition=Accepted", "mesh/mesh")
}

// secret returns a Secret of the operator's namespace.
func (c *cluster) secret(name string) *corev1.Secret {
	c.t.Helper()
	var s corev1.Secret
	if err := c.client.Get(c.t.Context(), client.ObjectKey{Namespace: system, Name: name}, &s); err != nil {
		c.t.Fatal(err)
	}
	return &s
}

// renew has cert-manager issue a certificate anew, as `cmctl renew` does, and returns when it has.
func (c *cluster) renew(name string) {
	c.t.Helper()
	before := string(c.secret(name).Data[corev1.TLSCertKey])
	c.eventually("Certificate "+name+" to be marked for renewal", func() bool {
		var certificate certmanagerv1.Certificate
		if err := c.client.Get(c.t.Context(), client.ObjectKey{Namespace: system, Name: name}, &certificate); err != nil {
			return false
		}
		now := metav1.Now()
		certificate.Status.Conditions = append(certificate.Status.Conditions, certmanagerv1.CertificateCondition{
			Type: certmanagerv1.CertificateConditionIssuing, Status: cmmeta.ConditionTrue, Reason: "ManuallyTriggered",
			Message: "an end-to-end test renews it", ObservedGeneration: certificate.Generation, LastTransitionTime: &now,
		})
		return c.client.Status().Update(c.t.Context(), &certificate) == nil
	})
	c.eventually("a new "+name, func() bool { return string(c.secret(name).Data[corev1.TLSCertKey]) != before })
}

// manifests reads what this checkout, or the version before, is installed from, with the images as the cluster has them.
func (c *cluster) manifests(path ...string) string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		c.t.Fatalf("%v (run `make test-e2e`)", err)
	}
	return string(text)
}

// install applies a version of Tulle, its CustomResourceDefinition first, and returns when its operator runs.
func (c *cluster) install(manifests string) {
	c.t.Helper()
	s := c.inSystem()
	for document := range strings.SplitSeq(manifests, "\n---\n") {
		if strings.Contains(document, "\nkind: CustomResourceDefinition\n") {
			s.apply(document)
		}
	}
	s.wait("condition=Established", "crd/meshes.mesh.tulle.dev")
	s.apply(manifests)
	s.rollout("tulle-manager")
}

// uninstall removes Tulle, its Meshes and its certificates.
func (c *cluster) uninstall(manifests string) {
	c.t.Helper()
	if _, err := c.inSystem().try([]byte(manifests), "delete", "--ignore-not-found", "--timeout="+patience.String(), "-f", "-"); err != nil {
		c.t.Fatal(err)
	}
}

// requireOwnTulle fails a test that replaces Tulle in a cluster where the tests did not install it.
func (c *cluster) requireOwnTulle(t *testing.T) {
	t.Helper()
	if c.kubectl("get", "namespaces", "--selector=mesh.tulle.dev/demo", "--field-selector=metadata.name="+system, "-o", "name") == "" {
		t.Fatalf("this test removes and installs Tulle, and the one of this cluster was installed by somebody else: " +
			"use a cluster without Tulle, or none, for a lab")
	}
}
