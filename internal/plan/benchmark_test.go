package plan_test

import (
	"fmt"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"math/rand/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/plan"
)

// BenchmarkMake plans a mode change in one of 20 namespaces, in a mesh of 1,000 Services with two pods each.
func BenchmarkMake(b *testing.B) {
	c := &cluster{Rand: rand.New(rand.NewPCG(1, 1)), objects: map[string]client.Object{}} //nolint:gosec // repeatable
	for n := range 20 {
		namespace := fmt.Sprintf("ns-%d", n)
		c.store(&v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mesh"}})
		for i := range 50 {
			name := fmt.Sprintf("s-%d", i)
			s := c.service(namespace, name)
			s.Spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", n, i+1)
			slice := &discoveryv1.EndpointSlice{
				ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
				AddressType: discoveryv1.AddressTypeIPv4,
				Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(80))}},
			}
			for k := range 2 {
				p := c.pod(namespace, fmt.Sprintf("%s-%d", name, k), name, fmt.Sprintf("10.%d.%d.%d", n+1, i, k+1))
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.Status.PodIP}})
				c.store(p)
			}
			c.store(s)
			c.store(slice)
		}
	}
	change := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "ns-7", Name: "mesh"}, Spec: v1alpha1.MeshSpec{MTLS: &v1alpha1.MTLSSpec{Mode: v1alpha1.MTLSStrict}}}
	in := plan.Input{Settings: settings(), World: c.list(), Apply: []client.Object{change}, Now: c.now(), Issued: issued(), Envoy: true}
	for b.Loop() {
		p, err := plan.Make(in)
		if err != nil || p.Summary.Proxies == 0 {
			b.Fatal(p.Summary, err)
		}
	}
}
