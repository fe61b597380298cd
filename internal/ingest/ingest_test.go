package ingest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/model"
)

// recorder is the model's builder, with what it was fed.
type recorder struct {
	*model.Builder
	fed []string
}

func (r *recorder) Set(object any) { r.fed = append(r.fed, "set "+name(object)); r.Builder.Set(object) }
func (r *recorder) Delete(object any) {
	r.fed = append(r.fed, "delete "+name(object))
	r.Builder.Delete(object)
}

func name(object any) string {
	switch o := object.(type) {
	case *corev1.Service:
		return "service " + o.Name
	case *discoveryv1.EndpointSlice:
		return "endpoints " + o.Name
	default:
		return fmt.Sprintf("%T", object)
	}
}

func service(name, address string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			ClusterIP: address, ClusterIPs: []string{address},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
}

func endpoints(service, address string) *discoveryv1.EndpointSlice {
	port, tcp := int32(8080), corev1.ProtocolTCP
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &port, Protocol: &tcp}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address}}},
	}
}

// newIngester returns an ingester that published at 0 ms, and how often it has published since.
func newIngester(t *testing.T) (*Ingester, *recorder, *int) {
	t.Helper()
	builder, published := &recorder{Builder: model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"})}, 0
	i := New(Options{NewBuilder: func() Builder { return builder }, Publish: func(*model.Snapshot) { published++ }, Log: testr.New(t)})
	i.publishRest(at(0))
	published = 0
	return i, builder, &published
}

func TestFirstChangeAfterQuietIsPublishedAtOnce(t *testing.T) {
	t.Parallel()
	i, _, published := newIngester(t)
	i.queue.add(service("a", "10.96.0.1"), false)
	i.step(at(5000))
	if *published != 1 {
		t.Errorf("published %d times, want 1", *published)
	}
}

func TestBurstIsPublishedOnceWhenItPauses(t *testing.T) {
	t.Parallel()
	i, _, published := newIngester(t)
	for n := range 5 {
		i.queue.add(service(fmt.Sprint("s", n), fmt.Sprint("10.96.0.", n+1)), false)
		i.step(at(10 + 20*n))
	}
	if *published != 0 {
		t.Fatalf("published %d times within the burst, want 0", *published)
	}
	i.step(at(189))
	if *published != 0 {
		t.Fatal("published before the pause was over")
	}
	i.step(at(190))
	if *published != 1 {
		t.Errorf("published %d times after the burst, want 1", *published)
	}
}

func TestEndpointsDoNotWaitForABurst(t *testing.T) {
	t.Parallel()
	i, builder, published := newIngester(t)
	i.queue.add(service("a", "10.96.0.1"), false)
	i.step(at(5000)) // at once
	i.queue.add(service("b", "10.96.0.2"), false)
	i.queue.add(endpoints("a", "10.0.0.1"), false)
	builder.fed = nil
	i.step(at(5010))
	if got := fmt.Sprint(builder.fed); *published != 2 || got != "[set endpoints a-1]" {
		t.Errorf("published %d times and fed %s, want 2 times, the second with the endpoints alone", *published, got)
	}
	i.step(at(5110))
	if got := fmt.Sprint(builder.fed); *published != 3 || got != "[set endpoints a-1 set service b]" {
		t.Errorf("published %d times and fed %s, want 3 times, the third with service b", *published, got)
	}
}

// An endpoint's change must not put off the pause that others wait for.
func TestEndpointsDoNotProlongABurst(t *testing.T) {
	t.Parallel()
	i, _, published := newIngester(t)
	i.queue.add(service("a", "10.96.0.1"), false)
	i.step(at(10))
	i.queue.add(endpoints("a", "10.0.0.1"), false)
	i.step(at(100))
	before := *published
	i.step(at(110))
	if *published != before+1 {
		t.Errorf("published %d times at the end of the pause, want 1", *published-before)
	}
}

func TestOneObjectWaitsOnce(t *testing.T) {
	t.Parallel()
	i, builder, _ := newIngester(t)
	a := service("a", "10.96.0.1")
	i.queue.add(a, false)
	i.queue.add(service("b", "10.96.0.2"), false)
	i.queue.add(a, false)
	i.queue.add(toolscache.DeletedFinalStateUnknown{Key: "default/a", Obj: a}, false)
	i.step(at(5000))
	if got := fmt.Sprint(builder.fed); got != "[delete service a set service b]" {
		t.Errorf("fed %s, want each object once, in its last state", got)
	}
}

func TestUnchangedSnapshotIsNotPublished(t *testing.T) {
	t.Parallel()
	i, _, published := newIngester(t)
	a := service("a", "10.96.0.1")
	i.queue.add(a, false)
	i.step(at(5000))
	annotated := a.DeepCopy()
	annotated.Annotations = map[string]string{"note": "nothing that the mesh reads"}
	i.queue.add(annotated, false)
	i.step(at(10000))
	if *published != 1 {
		t.Errorf("published %d times, want 1: an annotation changes nothing", *published)
	}
}

func TestTrimPodKeepsWhatTheModelReads(t *testing.T) {
	t.Parallel()
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "p", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
			Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}", "mesh.tulle.dev/sidecar": "v"},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: "sa",
			InitContainers:     []corev1.Container{{Name: "tulle-proxy", RestartPolicy: &always, Args: []string{"--config-yaml", "long"}}},
			Containers:         []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}, Env: []corev1.EnvVar{{Name: "A"}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}},
	}
	out, err := trimmed(trimPod)(pod)
	if err != nil {
		t.Fatal(err)
	}
	got := out.(*corev1.Pod)
	switch {
	case got.ManagedFields != nil, len(got.Annotations) != 1, got.Spec.InitContainers[0].Args != nil, got.Spec.Containers[0].Env != nil:
		t.Errorf("something that nobody reads was kept: %v", got)
	case got.Spec.ServiceAccountName != "sa", *got.Spec.InitContainers[0].RestartPolicy != always,
		got.Spec.Containers[0].Ports[0].Name != "http", got.Status.PodIPs[0].IP != "10.0.0.1":
		t.Errorf("something that is read was dropped: %v", got)
	}
}

// What is published says since when it was known: of changes that were gathered, the oldest.
func TestSaysSinceWhenChangesAreKnown(t *testing.T) {
	t.Parallel()
	i, _, published := newIngester(t)
	var seen []time.Time
	i.options.Seen = func(at time.Time) { seen = append(seen, at) }
	arrive := func(ms int, object client.Object) {
		i.queue.now = func() time.Time { return at(ms) }
		i.queue.add(object, false)
		i.step(at(ms))
	}
	arrive(5000, service("a", "10.96.0.1"))
	arrive(5020, service("b", "10.96.0.2")) // waits with the next
	arrive(5060, service("c", "10.96.0.3"))
	arrive(5070, endpoints("a", "10.244.0.1")) // does not wait
	i.step(at(5200))
	i.step(at(9000)) // nothing is new
	if want := []time.Time{at(5000), at(5070), at(5020)}; !slices.Equal(seen, want) || *published != 3 {
		t.Errorf("seen at %v, want %v; published %d times", seen, want, *published)
	}
}
