package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// TestEncrypted is the life of the condition Encrypted: who is named under Permissive, when Strict is safe, and what becomes of Strict when
// certificates can't be had any more.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installCertManager()
	w.create(caSecret(t, "corporate", nil), caIssuer("corporate", "corporate"))
	root := mesh(system, v1alpha1.RootName, v1alpha1.MeshSpec{MeshWide: &v1alpha1.MeshWideSpec{Trust: &v1alpha1.TrustSpec{
		IssuerRef: &v1alpha1.IssuerRef{Name: "corporate"},
	}}})
	w.create(root)
	w.start(func(o *operator.Options) { o.PlaintextQuiet = 4 * time.Second })
	w.condition(system, v1alpha1.RootName, v1alpha1.ConditionEncrypted, metav1.ConditionTrue, "NotEnrolled", "the root Mesh enrols no pods")

	t.Run("plaintext peers", func(t *testing.T) { testPlaintextPeers(t, w.in(t)) })
	t.Run("certificates", func(t *testing.T) { testCertificatesFail(t, w.in(t)) })
}

// join makes a pod of a namespace, and its proxy, which connects and gets its certificate.
func (w *world) join(t *testing.T, namespace, name string) (*corev1.Pod, *proxy) {
	t.Helper()
	p := pod(namespace, name)
	w.create(p)
	w.run(p)
	envoy := w.connect(t, p)
	w.eventually("the certificate of "+name, func() error {
		if errors.Is(envoy.failure(), errGoesOn) {
			_, err := envoy.certificate()
			return err
		}
		envoy = w.connect(t, p) // the control plane did not know the pod yet
		return errors.New("it was refused at first")
	})
	return p, envoy
}

// logs opens a proxy's log stream with a token.
func (w *world) logs(t *testing.T, namespace, token string) alsv3.AccessLogService_StreamAccessLogsClient {
	t.Helper()
	connection := w.controlPlane(t, w.ca(namespace))
	t.Cleanup(func() { connection.Close() })
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token))
	t.Cleanup(cancel)
	stream, err := alsv3.NewAccessLogServiceClient(connection).StreamAccessLogs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// entry reports a connection from an address to a port.
func entry(from string, port uint32) *accesslogv3.TCPAccessLogEntry {
	address := func(ip string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	return &accesslogv3.TCPAccessLogEntry{CommonProperties: &accesslogv3.AccessLogCommon{
		DownstreamDirectRemoteAddress: address(from, 40000), DownstreamLocalAddress: address("10.77.0.1", port),
	}}
}

// message carries entries, and a node that claims to be another pod's: nobody believes it.
func message(entries ...*accesslogv3.TCPAccessLogEntry) *alsv3.StreamAccessLogsMessage {
	return &alsv3.StreamAccessLogsMessage{
		Identifier: &alsv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: "victim/pod"}, LogName: "plaintext"},
		LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{TcpLogs: &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: entries}},
	}
}

// testPlaintextPeers: reports become names in the status of the reporter's namespace and of no other, Ready does not depend on them, and when
// they end Strict is called safe.
func testPlaintextPeers(t *testing.T, w *world) {
	const ns = "open"
	for _, name := range []string{ns, "open-bystander", "outsiders"} {
		w.namespace(name)
	}
	w.create(mesh(ns, ns, v1alpha1.MeshSpec{}), mesh("open-bystander", "open-bystander", v1alpha1.MeshSpec{}),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}})
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}}
	if err := w.get(node); err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.88.0.1"}}
	if err := w.client.Status().Update(context.Background(), node); err != nil {
		t.Fatal(err)
	}
	outsider := pod("outsiders", "nagios")
	w.create(outsider)
	outsider.Status.PodIP, outsider.Status.PodIPs = "10.77.9.9", []corev1.PodIP{{IP: "10.77.9.9"}}
	w.run(outsider)
	for _, name := range []string{ns, "open-bystander"} { // a webhook that is slow may miss the pods of a Mesh that is new
		w.condition(name, name, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	}
	server, _ := w.join(t, ns, "server")
	w.join(t, "open-bystander", "server")

	if _, err := w.logs(t, ns, "forged").CloseAndRecv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a log stream with a forged token ends with %v", err)
	}
	stream := w.logs(t, ns, w.podToken(server, sidecar.TokenAudience))
	if err := stream.Send(message(entry("10.77.9.9", 8080), entry("10.77.9.9", 8080), entry("10.88.0.1", 8080), entry("203.0.113.9", 9000))); err != nil {
		t.Fatal(err)
	}
	w.condition(ns, ns, v1alpha1.ConditionEncrypted, metav1.ConditionFalse, "PlaintextPeers",
		"3 peers have connected without mTLS within 4s: address 203.0.113.9 (port 9000), node worker-1 (port 8080), pod outsiders/nagios (port 8080); Strict would refuse them")
	w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "all proxies hold generation 1")
	w.event(ns, "Mesh", ns, "PlaintextPeers", "pod outsiders/nagios (port 8080)")
	w.encrypted("open-bystander", metav1.ConditionTrue, "StrictIsSafe", "mtls.mode Strict is safe")

	w.encrypted(ns, metav1.ConditionTrue, "StrictIsSafe", "mtls.mode Strict is safe")
	w.event(ns, "Mesh", ns, "StrictIsSafe", "no connection without mTLS since")
}

// encrypted waits until the condition Encrypted of the Mesh that is called as its namespace has a reason, and a message that holds part.
func (w *world) encrypted(ns string, want metav1.ConditionStatus, reason, part string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("Encrypted=%s %s of Mesh %s", want, reason, ns), func() error {
		var m v1alpha1.Mesh
		if err := w.client.Get(context.Background(), client.ObjectKey{Namespace: ns, Name: ns}, &m); err != nil {
			return err
		}
		c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionEncrypted)
		if c == nil || c.Status != want || c.Reason != reason || !strings.Contains(c.Message, part) {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

// testCertificatesFail: under Strict, an issuer that is deleted, certificates that a proxy refuses, and certificates that are withheld until
// they have expired each flip the condition within a minute, and Ready with it.
func testCertificatesFail(t *testing.T, w *world) {
	const ns = "sealed"
	w.namespace(ns)
	w.create(mesh(ns, ns, v1alpha1.MeshSpec{MTLS: &v1alpha1.MTLSSpec{Mode: v1alpha1.MTLSStrict}}))
	w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	w.join(t, ns, "one")
	sealed := func(proxies string) {
		t.Helper()
		w.condition(ns, ns, v1alpha1.ConditionEncrypted, metav1.ConditionTrue, "Encrypted", proxies+" nothing but mTLS, with valid certificates")
		w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "all proxies hold generation 1")
	}
	sealed("the one proxy takes")

	issuer := caIssuer("corporate", "corporate")
	w.delete(issuer)
	w.encrypted(ns, metav1.ConditionFalse, "IssuanceStalled", "Issuer tulle-system/corporate does not exist")
	w.event(ns, "Mesh", ns, "IssuanceStalled", "what is encrypted stays so")
	w.create(caIssuer("corporate", "corporate"))
	sealed("the one proxy takes")

	refuser := pod(ns, "refuser")
	w.create(refuser)
	w.run(refuser)
	w.eventually("the proxy that refuses what it is sent by SDS", func() error {
		broken := w.connect(t, refuser)
		broken.refuse("peers", "no usable root")
		// The control plane may not know the pod yet.
		select {
		case <-broken.ended:
			return broken.failure()
		case <-time.After(500 * time.Millisecond):
			return nil
		}
	})
	w.encrypted(ns, metav1.ConditionFalse, "CertificateRejected", "1 of 2 proxies do not get the certificates they need: refuser (rejects secret peers: no usable root)")
	w.delete(refuser)
	sealed("the one proxy takes")

	// Without its issuer, cert-manager can't replace an intermediate that is about to end.
	w.delete(caIssuer("corporate", "corporate"))
	w.encrypted(ns, metav1.ConditionFalse, "IssuanceStalled", "does not exist")
	root := w.secret("corporate").Data
	pair, err := tls.X509KeyPair(root[corev1.TLSCertKey], root[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	crt, key := issue(t, pair, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(15 * time.Second) })
	intermediate := w.secret(identity.Intermediate)
	w.update(intermediate, func() {
		intermediate.Data = map[string][]byte{corev1.TLSCertKey: crt, corev1.TLSPrivateKeyKey: key, identity.CAKey: root[corev1.TLSCertKey]}
	})
	w.eventually("a proxy whose certificate ends with that intermediate", func() error {
		_, late := w.join(t, ns, fmt.Sprintf("late-%d", time.Now().UnixNano()))
		c, err := late.certificate()
		if err == nil && time.Until(c.NotAfter) > time.Minute {
			err = fmt.Errorf("it ends at %s", c.NotAfter)
		}
		return err
	})
	w.encrypted(ns, metav1.ConditionFalse, "CertificateExpired", "the intermediate CA expired at")
	var m v1alpha1.Mesh
	if err := w.client.Get(context.Background(), client.ObjectKey{Namespace: ns, Name: ns}, &m); err != nil {
		t.Fatal(err)
	}
	if !meta.IsStatusConditionFalse(m.Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("Ready does not say so: %+v", m.Status.Conditions)
	}
}
