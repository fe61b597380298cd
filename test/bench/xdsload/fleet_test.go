package xdsload_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/test/bench/xdsload"
	"github.com/tulle-mesh/tulle/test/envoy/fakeauth"
)

// plane is the product's own control plane, with what its informers would bring in its hands, and tokens that are believed.
type plane struct {
	*testing.T
	builder   *model.Builder
	publisher *compile.Publisher
	server    *xds.Server
	target    xdsload.Target
}

const serverName = "tulle.test"

// start serves a mesh of two Services, of which ruled has HTTP rules, and n pods.
func start(t *testing.T, pods int) *plane {
	t.Helper()
	p := &plane{T: t, builder: compiletest.Builder(t, manifests(pods))}
	certificate, roots := selfSigned(t)
	var err error
	p.server, err = xds.NewServer(xds.Config{
		Authenticator: fakeauth.Authenticator{Proxy: func(namespace, pod string) (resource.Proxy, bool) {
			return resource.Proxy{Namespace: namespace, Pod: pod, UID: pod, ServiceAccount: "default"}, true
		}},
		Certificates: blank{}, MinMinor: 38, MaxMinor: 40, Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
		Credentials: credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.publisher = compile.NewPublisher(p.server.Publish, func(ref resource.ScopedRef, err error) { t.Errorf("compile %s: %v", ref.Ref, err) })
	p.publish()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	p.target = xdsload.Target{Address: listener.Addr().String(), ServerName: serverName, Roots: roots}
	return p
}

func (p *plane) publish() {
	p.publisher.Publish(p.builder.Snapshot())
}

// fleet are n sidecars: all call ruled, the first one calls plain too.
func (p *plane) fleet(n int) *xdsload.Fleet {
	var proxies []xdsload.Proxy
	for i := range n {
		pod := fmt.Sprintf("p-%d", i)
		uses := []xdsload.Use{{Name: ruled, Rules: true}}
		if i == 0 {
			uses = append(uses, xdsload.Use{Name: plain})
		}
		proxies = append(proxies, xdsload.Proxy{Namespace: "shop", Pod: pod, Token: fakeauth.Token("shop", pod), Uses: uses})
	}
	f := xdsload.New(p.target, proxies)
	p.Cleanup(f.Disconnect)
	return f
}

func (p *plane) connect(f *xdsload.Fleet) []time.Duration {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	took, err := f.Connect(ctx)
	if err != nil {
		p.Fatal(err)
	}
	return took
}

// synced waits until the control plane has been acknowledged all that it sent.
func (p *plane) synced(streams int) {
	p.Helper()
	timeout := time.After(time.Minute)
	for {
		n := 0
		for _, s := range p.server.Proxies() {
			if len(s.Rejections) > 0 {
				p.Fatalf("%s rejected %v", s.Proxy.Pod, s.Rejections)
			}
			if s.Pending.Count == 0 {
				n++
			}
		}
		if n == streams {
			return
		}
		select {
		case <-p.server.Changed():
		case <-timeout:
			p.Fatalf("%d of %d sidecars have acknowledged all", n, streams)
		}
	}
}

const (
	ruled = "http|10.96.0.1:80"
	plain = "http|10.96.0.2:80"
)

func manifests(pods int) []byte {
	var b bytes.Buffer
	b.WriteString(`
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: k}
spec: {cidrs: [10.96.0.0/12]}
---
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: m, namespace: shop}
spec:
  services:
  - name: ruled
    versions: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
    routes: [{name: canary, to: [{version: v1, weight: 90}, {version: v2, weight: 10}]}]
---
apiVersion: v1
kind: Service
metadata: {name: ruled, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: s}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: shop}
spec: {clusterIP: 10.96.0.2, selector: {app: s}, ports: [{port: 80}]}
`)
	for i := range pods {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata: {name: p-%[1]d, namespace: shop, uid: p-%[1]d, labels: {app: s, version: v1}}
spec: {serviceAccountName: default, initContainers: [{name: tulle-proxy, restartPolicy: Always}], containers: [{name: app}]}
status: {podIP: 10.244.0.%[2]d}
`, i, i+1)
	}
	b.Write(endpoints("10.244.0.1"))
	return b.Bytes()
}

// endpoints are those of the Service plain.
func endpoints(addresses ...string) []byte {
	var b bytes.Buffer
	b.WriteString("---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: plain-1, namespace: shop, labels: {kubernetes.io/service-name: plain}}\n" +
		"addressType: IPv4\nports: [{port: 80}]\nendpoints:\n")
	for i, a := range addresses {
		fmt.Fprintf(&b, "- {addresses: [%s], targetRef: {kind: Pod, namespace: shop, name: p-%d}}\n", a, i)
	}
	return b.Bytes()
}

// blank gives every proxy a secret of the right name with nothing in it.
type blank struct{}

func (blank) Certificate(context.Context, *resource.Proxy) (*resource.Resource, time.Time, error) {
	ref := resource.Ref{Type: resource.Secret, Name: "workload"}
	r, err := resource.Seal(ref, &tlsv3.Secret{Name: ref.Name}, resource.Resource{})
	return r, time.Now().Add(time.Hour), err
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, roots
}

// Sidecars are configured when they hold all that they use, and all that was sent to them is acknowledged.
func TestFleetIsConfigured(t *testing.T) {
	p := start(t, 3)
	f := p.fleet(3)
	if took := p.connect(f); len(took) != 3 {
		t.Errorf("%d sidecars are configured, want 3", len(took))
	}
	p.synced(3)
	received, sent := f.Wire()
	bodies := int64(0)
	for _, n := range f.Bodies() {
		bodies += n
	}
	if f.Bodies()[resource.Listener] == 0 || bodies > received || sent == 0 {
		t.Errorf("received %d bytes, %d of them responses (%v), and sent %d", received, bodies, f.Bodies(), sent)
	}
	if lost, err := f.Lost(); lost != 0 {
		t.Errorf("%d streams were lost: %v", lost, err)
	}
}

// A change arrives at those who use it, is noted once for each, and nobody else gets anything.
func TestFleetNotesChanges(t *testing.T) {
	p := start(t, 3)
	f := p.fleet(3)
	p.connect(f)
	p.synced(3)
	before := f.Woken()
	users := f.Users(plain)
	if len(users) != 1 || users[0] != 0 {
		t.Fatalf("users of %s: %v, want the first sidecar", plain, users)
	}
	ref := resource.Ref{Type: resource.Endpoints, Name: "shop/plain|80|"}
	arrived := f.Watch(ref, len(users), func(body []byte) bool { return bytes.Contains(body, []byte("10.244.0.2")) })
	for _, o := range compiletest.Objects(t, endpoints("10.244.0.1", "10.244.0.2")) {
		p.builder.Set(o)
	}
	p.publish()
	select {
	case <-arrived.All():
	case <-time.After(time.Minute):
		t.Fatalf("arrived at %v, want at %v", arrived.Forget(), users)
	}
	p.synced(3)
	if at := arrived.Forget(); len(at) != 1 || at[0].IsZero() {
		t.Errorf("noted at %v", at)
	}
	after := f.Woken()
	if after[0] != before[0]+1 || after[1] != before[1] || after[2] != before[2] {
		t.Errorf("responses before %v, after %v: want one more at the first sidecar", before, after)
	}
}

// Who comes back announces what it holds, and is sent little but its new certificate.
func TestFleetComesBackWithWhatItHolds(t *testing.T) {
	p := start(t, 2)
	f := p.fleet(2)
	p.connect(f)
	p.synced(2)
	f.Disconnect()
	first := f.Bodies()
	p.connect(f)
	p.synced(2)
	again := f.Bodies()
	for _, kind := range []resource.Type{resource.Listener, resource.Cluster} {
		if more := again[kind] - first[kind]; more > first[kind]/10 {
			t.Errorf("%s: %d bytes to begin with, %d more after coming back", kind, first[kind], more)
		}
	}
	if again[resource.Secret] == first[resource.Secret] {
		t.Error("no new certificate came")
	}
}
