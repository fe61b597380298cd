package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// shop is a Mesh with two pods, of which one is connected to each of two replicas.
type shop struct {
	*world
	a, b *side // a leads at the beginning
	mesh *v1alpha1.Mesh
}

// side is a replica, and the pod whose proxy is connected to it.
type side struct {
	*replica
	client *corev1.Pod
	proxy  *proxy
}

// join connects the client of a side, its own or the other's, to the replica.
func (d *side) join(other *side) {
	if other.proxy != nil {
		other.proxy.hangUp() // an Envoy has one stream
	}
	other.proxy = d.connect(d.world.t, other.client)
}

// sides returns the one that leads, and the other.
func (s *shop) sides() (leads, other *side) {
	s.t.Helper()
	s.eventually("one leads", func() error {
		for _, d := range []*side{s.a, s.b} {
			log := d.log.String()
			if strings.Count(log, "this replica leads") > strings.Count(log, "this replica does not lead any more") {
				leads = d
				return nil
			}
		}
		return errors.New("none does")
	})
	if leads == s.a {
		return s.a, s.b
	}
	return s.b, s.a
}

const shopName = "shop"

// TestReplicas runs two operators. What the Mesh says is right whichever leads, and whichever is cut off from whom.
func TestReplicas(t *testing.T) {
	w := newWorld(t)
	w.installCertManager()
	s := &shop{world: w, a: &side{replica: w.replica("tulle-manager-a", w.host)}}
	w.eventually("the first leads", func() error { _, err := w.leader(); return err })
	s.b = &side{replica: w.replica("tulle-manager-b", newHost())}
	w.namespace(shopName)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: shopName, Name: "reviews"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "reviews"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}
	s.mesh = mesh(shopName, shopName, v1alpha1.MeshSpec{Services: []v1alpha1.ServiceSpec{{Name: "reviews", Routes: []v1alpha1.RouteSpec{{
		Name: "all", To: []v1alpha1.RouteTarget{{Weight: new(int32(1))}},
	}}}}})
	w.create(service, s.mesh)
	w.condition(shopName, shopName, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	s.a.client, s.b.client = pod(shopName, "here"), pod(shopName, "there")
	for _, p := range []*corev1.Pod{s.a.client, s.b.client} {
		w.create(p)
		w.run(p)
	}
	s.a.join(s.a)
	s.b.join(s.b)

	for _, step := range []struct {
		name string
		test func(*testing.T, *shop)
	}{
		{"all proxies count", testAllCount},
		{"what a proxy of the other replica rejects", func(t *testing.T, s *shop) { testRejectedThere(t, s, "http|"+service.Spec.ClusterIP+":80") }},
		{"nobody else is told", testNobodyElseIsTold},
		{"all sign with the same intermediate", testSameIntermediate},
		{"a silent replica", testSilentReplica},
		{"a replica without the API server", testStaleReplica},
		{"a leader without the API server", testDeposed},
		{"nobody has the API server", testBlind},
		{"the end of the leader", testEndOfTheLeader},
	} {
		t.Run(step.name, func(t *testing.T) {
			sub := *s
			sub.world = w.in(t)
			step.test(t, &sub)
		})
		if t.Failed() {
			t.FailNow() // what comes after is about another state
		}
	}
}

func (s *shop) is(condition string, status metav1.ConditionStatus, reason, message string) {
	s.t.Helper()
	s.condition(shopName, shopName, condition, status, reason, message)
}

func (s *shop) ready() {
	s.t.Helper()
	if err := s.get(s.mesh); err != nil {
		s.t.Fatal(err)
	}
	s.is(v1alpha1.ConditionProgrammed, metav1.ConditionTrue, "Programmed", fmt.Sprintf("all 2 proxies hold generation %d", s.mesh.Generation))
	s.is(v1alpha1.ConditionInjected, metav1.ConditionTrue, "Injected", "all 2 pods have a current proxy")
	s.is(v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", fmt.Sprintf("all proxies hold generation %d", s.mesh.Generation))
	if err := s.get(s.mesh); err != nil {
		s.t.Fatal(err)
	}
	if p := s.mesh.Status.Proxies; p.Summary != "2/2" || p.Connected != 2 || p.Programmed != 2 {
		s.t.Errorf("proxies %+v", p)
	}
}

// change gives the Mesh a new generation.
func (s *shop) change() {
	s.t.Helper()
	mode := v1alpha1.MTLSStrict
	s.update(s.mesh, func() {
		if s.mesh.Spec.MTLS != nil && s.mesh.Spec.MTLS.Mode == mode {
			mode = v1alpha1.MTLSPermissive
		}
		s.mesh.Spec.MTLS = &v1alpha1.MTLSSpec{Mode: mode}
	})
}

// connected fails the test unless both streams go on.
func (s *shop) connected() {
	s.t.Helper()
	for name, p := range map[string]*proxy{"here": s.a.proxy, "there": s.b.proxy} {
		if err := p.failure(); !errors.Is(err, errGoesOn) {
			s.t.Errorf("the stream of %s ended: %v", name, err)
		}
	}
}

func testAllCount(_ *testing.T, s *shop) {
	s.ready()
	s.change()
	s.ready()
}

func testRejectedThere(_ *testing.T, s *shop, address string) {
	s.b.proxy.refuse("outbound/"+address, "weights are wrong")
	s.b.proxy.ask(resource.Ref{Type: resource.Cluster, Name: address})
	message := "spec.services[0].routes[0]: 1 proxy rejects vhost outbound/" + address + ": weights are wrong"
	s.is(v1alpha1.ConditionProgrammed, metav1.ConditionFalse, "RejectedByProxy", message)
	s.is(v1alpha1.ConditionReady, metav1.ConditionFalse, "RejectedByProxy", message)
	// A proxy that was restarted, and rejects nothing.
	s.b.join(s.b)
	s.ready()
}

// testNobodyElseIsTold: who is no replica gets no report, also with a certificate of the mesh or a token of the operator itself.
func testNobodyElseIsTold(t *testing.T, s *shop) {
	var workload tls.Certificate
	s.eventually("a workload's certificate", func() error {
		_, err := s.a.proxy.certificate()
		if err != nil {
			return err
		}
		s.a.proxy.mu.Lock()
		defer s.a.proxy.mu.Unlock()
		pair := s.a.proxy.secret.GetTlsCertificate()
		workload, err = tls.X509KeyPair(pair.GetCertificateChain().GetInlineBytes(), pair.GetPrivateKey().GetInlineBytes())
		return err
	})
	for name, tt := range map[string]struct {
		certificates []tls.Certificate
		token        string
	}{
		"nobody":                    {},
		"a workload":                {certificates: []tls.Certificate{workload}},
		"a token of a workload":     {token: s.podToken(s.a.client, "tulle.dev")},
		"a token of the operator's": {token: s.operatorConfig().BearerToken},
	} {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			Certificates: tt.certificates, InsecureSkipVerify: true, //nolint:gosec // they don't care who answers
		}}}
		request, err := http.NewRequest(http.MethodGet, "https://"+s.b.host+":15011/v1/proxies", nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.token != "" {
			request.Header.Set("Authorization", "Bearer "+tt.token)
		}
		response, err := client.Do(request)
		if err == nil {
			response.Body.Close()
			t.Errorf("%s gets an answer: %s", name, response.Status)
		} else if !strings.Contains(err.Error(), "remote error: tls:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// testSameIntermediate: replicas sign with the same intermediate CA, also after cert-manager has made another, which waits a minute for clocks
// that differ.
func testSameIntermediate(_ *testing.T, s *shop) {
	signer := func(p *proxy) string {
		var id string
		s.eventually("a certificate", func() error {
			leaf, err := p.certificate()
			if err == nil {
				id = string(leaf.AuthorityKeyId)
			}
			return err
		})
		return id
	}
	var before string
	// cert-manager may have made two at the start, when a replica that has read the first waits, too.
	eventuallyWithin(s.t, 2*time.Minute, "both replicas sign with the same intermediate", func() error {
		before = signer(s.a.proxy)
		if there := signer(s.b.proxy); there != before {
			s.a.join(s.a)
			s.b.join(s.b)
			return fmt.Errorf("one with %x, one with %x", before, there)
		}
		return nil
	})
	s.delete(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: identity.Intermediate}})
	eventuallyWithin(s.t, 2*time.Minute, "both replicas sign with another intermediate", func() error {
		s.a.join(s.a)
		s.b.join(s.b)
		here, there := signer(s.a.proxy), signer(s.b.proxy)
		if here == before || here != there {
			return fmt.Errorf("before %x, now %x and %x", before, here, there)
		}
		return nil
	})
	s.ready()
}

// testSilentReplica: while nothing comes from a replica that is live, nobody knows.
func testSilentReplica(_ *testing.T, s *shop) {
	s.b.others.freeze()
	const silent = "1 live control-plane replica does not report the proxies: tulle-manager-b"
	const remedy = "; see the logs, or delete the pod if its node is gone"
	s.is(v1alpha1.ConditionProgrammed, metav1.ConditionUnknown, "ReplicaSilent", silent+remedy)
	s.is(v1alpha1.ConditionInjected, metav1.ConditionUnknown, "ReplicaSilent", silent+remedy)
	s.is(v1alpha1.ConditionReady, metav1.ConditionUnknown, "ReplicaSilent", silent+"; see condition Injected")
	s.change() // the proxies of both take it
	s.is(v1alpha1.ConditionReady, metav1.ConditionUnknown, "ReplicaSilent", silent+"; see condition Injected")
	s.b.others.mend()
	s.ready()
	s.connected()
}

// sentOff waits until a replica has ended its proxy's stream since the other one sees the API server, and is not ready any more.
func (s *shop) sentOff(from *side) {
	s.t.Helper()
	s.eventually("the proxy is sent to the other replica", func() error {
		if end := status.Convert(from.proxy.failure()); end.Code() != codes.Unavailable || !strings.Contains(end.Message(), "lost sight of the API server") {
			return fmt.Errorf("the stream: %v", end)
		}
		return nil
	})
	if err := from.world.ready(); err == nil {
		s.t.Error("a replica that sends its proxies off says that it is ready")
	}
}

// back waits until a replica is ready again, and connects its client to it.
func (s *shop) back(d *side) {
	s.t.Helper()
	d.api.mend()
	s.eventually("the replica is ready again", d.world.ready)
	d.join(d)
	s.change()
	s.ready()
	s.connected()
}

// testStaleReplica: the proxies of a replica that can't see the newest generation are named, and then sent to one that can.
func testStaleReplica(_ *testing.T, s *shop) {
	leads, other := s.sides()
	other.api.cut()
	s.change()
	s.is(v1alpha1.ConditionProgrammed, metav1.ConditionFalse, "Pending",
		fmt.Sprintf("1 of 2 proxies do not hold generation %d yet: %s", s.mesh.Generation, other.client.Name))
	s.sentOff(other)
	leads.join(other)
	s.ready()
	s.back(other)
}

// testBlind: while the API server is away for all, nobody leads, and nobody is sent anywhere.
func testBlind(_ *testing.T, s *shop) {
	s.a.api.cut()
	s.b.api.cut()
	leads, _ := s.sides()
	gaveUp := strings.Count(leads.log.String(), "this replica does not lead any more")
	s.eventually("the leader to give up, after ten seconds", func() error {
		if strings.Count(leads.log.String(), "this replica does not lead any more") == gaveUp {
			return errors.New("it did not")
		}
		return nil
	})
	s.connected()
	for _, d := range []*side{s.a, s.b} {
		if err := d.world.ready(); err != nil {
			s.t.Errorf("the replica of %s: %v", d.client.Name, err)
		}
	}
	s.a.api.mend()
	s.b.api.mend()
	s.change()
	s.ready()
	s.connected()
}

// testDeposed: a leader that can't reach the API server is deposed, and goes on, without its proxies until it sees the API server again.
func testDeposed(_ *testing.T, s *shop) {
	leads, other := s.sides()
	leads.api.cut()
	s.change()
	s.sentOff(leads)
	other.join(leads)
	s.eventually("the other leads", func() error {
		if now, _ := s.sides(); now == leads {
			return errors.New("it does not")
		}
		return nil
	})
	s.ready()
	s.back(leads)
}

// testEndOfTheLeader: when the leader goes with its pod, the other takes over, and knows the proxies that come to it.
func testEndOfTheLeader(_ *testing.T, s *shop) {
	leads, other := s.sides()
	leads.stop()
	s.delete(leads.replica.pod)
	s.is(v1alpha1.ConditionProgrammed, metav1.ConditionUnknown, "NotConnected", "1 of 2 proxies are not connected to the control plane: "+leads.client.Name)
	other.join(leads)
	s.change()
	s.ready()
}
