package model

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// What a pod counts as does not depend on what else selects it by and by: the Service that a Mesh claims comes first, then the oldest.
func TestMembership(t *testing.T) {
	b := NewBuilder(Config{OperatorNamespace: "tulle-system"})
	service := func(name string, day, target int, selector map[string]string) *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", CreationTimestamp: metav1.NewTime(time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC))},
			Spec: corev1.ServiceSpec{
				ClusterIP: "10.96.0." + string(rune('0'+day)), Selector: selector,
				Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt(target)}},
			},
		}
	}
	mesh := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: "mesh", Namespace: "shop"}}
	app := map[string]string{"app": "reviews"}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "reviews-1", Namespace: "shop", Labels: map[string]string{"app": "reviews", "version": "v2"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{ContainerPort: 7000}}}}},
	}
	check := func(when string, want map[uint16]Membership) {
		t.Helper()
		w := b.Snapshot().Reader().Workload(WorkloadKey{Namespace: "shop", Name: "reviews-1"})
		got := map[uint16]Membership{0: w.Member}
		for _, p := range w.Ports {
			got[p.Number] = p.Member
		}
		for port, m := range want {
			if got[port] != m {
				t.Errorf("%s: port %d counts as %+v, want %+v", when, port, got[port], m)
			}
		}
	}

	b.Set(mesh)
	b.Set(pod)
	check("no Service", map[uint16]Membership{0: {"", "v2"}, 7000: {"", "v2"}})
	b.Set(service("reviews", 2, 8080, app))
	check("one Service", map[uint16]Membership{0: {"reviews", "v2"}, 7000: {"reviews", "v2"}, 8080: {"reviews", "v2"}})
	b.Set(service("reviews-v2", 3, 8080, map[string]string{"app": "reviews", "version": "v2"}))
	check("a younger one for the version", map[uint16]Membership{8080: {"reviews", "v2"}})
	b.Set(service("admin", 4, 9090, app))
	check("another port's", map[uint16]Membership{0: {"reviews", "v2"}, 7000: {"reviews", "v2"}, 8080: {"reviews", "v2"}, 9090: {"admin", "v2"}})
	b.Set(service("ancient", 1, 8080, app))
	check("an older one", map[uint16]Membership{8080: {"ancient", "v2"}})
	mesh.Spec.Services = []v1alpha1.ServiceSpec{{Name: "reviews", Versions: []v1alpha1.VersionSpec{{Name: "canary", Labels: map[string]string{"version": "v2"}}}}}
	b.Set(mesh)
	check("a Mesh claims one", map[uint16]Membership{0: {"reviews", "canary"}, 8080: {"reviews", "canary"}, 9090: {"admin", "v2"}})
	b.Delete(service("reviews", 2, 8080, app))
	check("it is gone", map[uint16]Membership{8080: {"ancient", "v2"}})
}
