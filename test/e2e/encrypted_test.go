package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8srand "k8s.io/apimachinery/pkg/util/rand"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

const (
	operatorNamespace = "tulle-system"
	// withinAMinute is what Encrypted promises.
	withinAMinute = time.Minute
)

// TestEncrypted is the way to Strict, and what holds there when certificates fail: who needs plaintext is named under Permissive, when nobody
// does Strict is called safe; SDS that is cut off, an issuer that is deleted, and certificates that are withheld until they expire, flip the
// condition within a minute, and nothing becomes readable on the wire.
//
// It changes the operator and the root Mesh, so no other test runs meanwhile.
func TestEncrypted(t *testing.T) {
	inside, outside := connect(t), connect(t)
	inside.operatorArgument("--plaintext-quiet=15s")
	issuer := "e2e-" + k8srand.String(6)
	root := inside.secret(identity.RootCertificate).Data
	inside.ownIssuer(issuer)
	inside.apply(mesh("Permissive"), app{name: "reviews", args: []string{"reviews", "-version=v1"}}.manifest(), loadgen("http://reviews:9080/reviews/0").manifest())
	outside.apply(app{name: "outsider", args: []string{"details"}}.manifest())
	inside.rollout("reviews", "loadgen")
	outside.rollout("outsider")
	inside.wait("condition=Ready", "mesh/mesh")

	const text = "Everything holds together"
	marker := "marker-" + k8srand.String(12)
	watch := inside.capture(inside.pods("reviews"), marker, text)
	answer, err := outside.firstGet("outsider", "-timeout=5s", "-header=end-user: "+marker, "http://reviews."+inside.namespace+":9080/reviews/0")
	if err != nil || !strings.Contains(answer, text) {
		t.Errorf("Permissive: a client without a proxy got %q %v", answer, errorText(err))
	}
	peer := fmt.Sprintf("pod %s/%s (port 9080)", outside.namespace, outside.pods("outsider")[0].Name)
	inside.becomes(metav1.ConditionFalse, "PlaintextPeers", peer)
	if yaml := inside.kubectl("get", "mesh", "mesh", "-o", "yaml"); !strings.Contains(strings.Join(strings.Fields(yaml), " "), peer) {
		t.Errorf("kubectl get mesh -o yaml does not name %s:\n%s", peer, yaml)
	}
	inside.wait("condition=Ready", "mesh/mesh") // what Permissive permits is no fault
	if seen := watch.end(); seen.Texts[marker] == 0 || seen.Texts[text] == 0 {
		t.Errorf("Permissive: the capture does not see what a client without a proxy sends and gets: %+v", seen)
	}
	inside.becomes(metav1.ConditionTrue, "StrictIsSafe", "mtls.mode Strict is safe")

	inside.apply(mesh("Strict"))
	inside.wait("condition=Ready", "mesh/mesh")
	inside.becomes(metav1.ConditionTrue, "Encrypted", "nothing but mTLS, with valid certificates")
	sealed := "sealed-" + k8srand.String(12)
	watch = inside.capture(append(inside.pods("reviews"), inside.pods("loadgen")...), sealed, text)
	load := func() report { return inside.load("-rate=50", "-for=2s", "-tester="+sealed, "-tester-every=1") }

	took := inside.breakSDS(load)
	t.Logf("a proxy is cut off from SDS: Encrypted is Unknown after %s", took)

	inside.kubectl("-n", operatorNamespace, "delete", "issuer", issuer)
	took = inside.becomes(metav1.ConditionFalse, "IssuanceStalled", issuer+" does not exist")
	t.Logf("the issuer is deleted: Encrypted is False after %s", took)
	load().wantNoFailure(t) // what was issued serves on

	took = inside.withhold(t, root, load)
	t.Logf("certificates are withheld: Encrypted is False after %s, of which they were valid for %s", took, shortLife)
	watch.end().wantSealed(t, 100*500)
}

// breakSDS cuts the proxy of reviews off from every replica, so that no secret reaches it and it acknowledges none, and returns how long after that the
// condition says so. What it has serves on.
func (c *cluster) breakSDS(load func() report) (took time.Duration) {
	reviews := c.pods("reviews")[0]
	addresses := strings.Fields(c.kubectl("-n", operatorNamespace, "get", "service", "tulle-control-plane", "-o", "jsonpath={.spec.clusterIPs[*]}"))
	c.cutAll(reviews, addresses, func() {
		took = c.becomes(metav1.ConditionUnknown, "NotConnected", reviews.Name)
		load().wantNoFailure(c.t)
	})
	c.becomes(metav1.ConditionTrue, "Encrypted", "nothing but mTLS, with valid certificates")
	return took
}

// shortLife is how long the certificates are valid of the pods that start while nothing can be issued any more.
const shortLife = 30 * time.Second

// withhold replaces the intermediate by one that ends soon and starts reviews anew: its certificate ends, and there is no other. It returns how long after
// the replacement the condition says so. The root that signs it is known everywhere, and it began a while ago, so that it is used at once.
func (c *cluster) withhold(t *testing.T, root map[string][]byte, load func() report) time.Duration {
	parent, err := tls.X509KeyPair(root[corev1.TLSCertKey], root[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	c.eventually("the root to have begun a minute ago, as clocks may differ by that", func() bool {
		return time.Since(parent.Leaf.NotBefore) > time.Minute
	})
	began := time.Now()
	certificate, key := newCA(t, "short", began.Add(shortLife), &parent)
	c.kubectl("-n", operatorNamespace, "patch", "secret", identity.Intermediate, "--type=merge", "-p", fmt.Sprintf(
		`{"data":{"tls.crt":%q,"tls.key":%q,"ca.crt":%q}}`, certificate, key, base64.StdEncoding.EncodeToString(root[corev1.TLSCertKey])))
	c.eventually("the short one to sign", func() bool {
		issued := meta.FindStatusCondition(c.mesh("mesh").Status.Conditions, v1alpha1.ConditionIssued)
		return issued != nil && strings.Contains(issued.Message, "until "+began.Add(shortLife).UTC().Format(time.RFC3339))
	})
	c.kubectl("rollout", "restart", "deployment/reviews")
	c.rollout("reviews")
	c.becomes(metav1.ConditionFalse, "CertificateExpired", c.pods("reviews")[0].Name)
	took := time.Since(began)
	if took > shortLife+withinAMinute {
		t.Errorf("Encrypted says only after %s that certificates are withheld", took)
	}
	if failed := load(); failed.Succeeded > 0 {
		t.Errorf("%d of %d requests were answered by a pod whose certificate has expired", failed.Succeeded, failed.Sent)
	}
	return took
}

// becomes waits, for a minute, until Encrypted has a reason and a message that holds part, and returns how long it took.
func (c *cluster) becomes(want metav1.ConditionStatus, reason, part string) time.Duration {
	c.t.Helper()
	began := time.Now()
	var last *metav1.Condition
	c.eventually(fmt.Sprintf("Encrypted=%s %s: …%s…", want, reason, part), func() bool {
		last = meta.FindStatusCondition(c.mesh("mesh").Status.Conditions, v1alpha1.ConditionEncrypted)
		return last != nil && last.Status == want && last.Reason == reason && strings.Contains(last.Message, part)
	})
	took := time.Since(began)
	if took > withinAMinute {
		c.t.Errorf("Encrypted=%s %s took %s, want it within %s", want, reason, took, withinAMinute)
	}
	return took.Round(100 * time.Millisecond)
}

// operatorArgument runs the operator with one more argument until the test ends.
func (c *cluster) operatorArgument(argument string) {
	c.t.Helper()
	rollout := func() {
		c.kubectl("-n", operatorNamespace, "rollout", "status", "deployment/tulle-manager", "--timeout="+patience.String())
	}
	const arguments = "/spec/template/spec/containers/0/args"
	c.kubectl("-n", operatorNamespace, "patch", "deployment", "tulle-manager", "--type=json", "-p",
		fmt.Sprintf(`[{"op":"add","path":"%s/0","value":%q}]`, arguments, argument))
	c.t.Cleanup(func() {
		c.kubectl("-n", operatorNamespace, "patch", "deployment", "tulle-manager", "--type=json", "-p",
			fmt.Sprintf(`[{"op":"test","path":"%[1]s/0","value":%[2]q},{"op":"remove","path":"%[1]s/0"}]`, arguments, argument))
		rollout()
	})
	rollout()
}

// ownIssuer has the mesh's certificates come from a new issuer, until the test ends and all is well again with the issuer of before.
func (c *cluster) ownIssuer(name string) {
	c.t.Helper()
	certificate, key := newCA(c.t, name, time.Now().Add(24*time.Hour), nil)
	if out, err := c.try(nil, "-n", operatorNamespace, "get", "mesh", v1alpha1.RootName); err == nil {
		c.t.Fatalf("this test needs the root Mesh for itself, and there is one:\n%s", out)
	}
	manifests := fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: %[1]s, namespace: %[4]s}
type: kubernetes.io/tls
data: {tls.crt: %[2]s, tls.key: %[3]s}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: %[1]s, namespace: %[4]s}
spec: {ca: {secretName: %[1]s}}
---
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: %[5]s, namespace: %[4]s}
spec: {meshWide: {trust: {issuerRef: {name: %[1]s}}}}`, name, certificate, key, operatorNamespace, v1alpha1.RootName)
	if _, err := c.try([]byte(manifests), "-n", operatorNamespace, "apply", "-f", "-"); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		c.kubectl("-n", operatorNamespace, "delete", "mesh", v1alpha1.RootName)
		c.kubectl("-n", operatorNamespace, "delete", "secret", name)
		c.kubectl("-n", operatorNamespace, "delete", "issuer", name, "--ignore-not-found")
		c.wait("condition=Issued", "mesh/mesh")
	})
	c.eventually("the mesh's certificates to come from "+name, func() bool {
		out, err := c.try(nil, "-n", operatorNamespace, "get", "mesh", v1alpha1.RootName, "-o", `jsonpath={.status.conditions[?(@.type=="Issued")].message}`)
		return err == nil && strings.Contains(out, name+" signs")
	})
}

// newCA returns a CA's certificate and key, each as PEM in base64. It is signed by a parent or, without one, by itself.
func newCA(t *testing.T, name string, until time.Time, parent *tls.Certificate) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	signer, signerKey := template, any(private)
	if parent != nil {
		signer, signerKey = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, private.Public(), signerKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
}
