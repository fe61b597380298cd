package compile_test

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// mesh returns a model of n Services with rules, each with two pods.
func mesh(b *testing.B, n int) *model.Builder {
	b.Helper()
	builder := compiletest.Builder(b, []byte("apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: k}\nspec: {cidrs: [10.96.0.0/12]}\n"))
	for i := range n {
		for _, o := range compiletest.Objects(b, fmt.Appendf(nil, `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: m, namespace: n%[1]d}
spec:
  services:
  - name: s
    versions: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
    routes: [{name: canary, to: [{version: v1, weight: 90}, {version: v2, weight: 10}]}]
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: n%[1]d}
spec: {clusterIP: 10.96.%[2]d.%[3]d, selector: {app: s}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: n%[1]d, labels: {app: s, version: v1}}
spec: {initContainers: [{name: tulle-proxy, restartPolicy: Always}], containers: [{name: app}]}
status: {podIP: 10.244.%[2]d.%[3]d}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: n%[1]d, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.%[2]d.%[3]d], targetRef: {kind: Pod, namespace: n%[1]d, name: p}}]
`, i, i/250, i%250+1)) {
			builder.Set(o)
		}
	}
	return builder
}

func refsOf(i int) []resource.Ref {
	address := fmt.Sprintf("http|10.96.%d.%d:80", i/250, i%250+1)
	return []resource.Ref{
		{Type: resource.Cluster, Name: address},
		{Type: resource.VirtualHost, Name: "outbound/" + address},
		{Type: resource.Cluster, Name: fmt.Sprintf("svc|n%d/s|80|v1", i)},
		{Type: resource.Endpoints, Name: fmt.Sprintf("n%d/s|80|v1", i)},
	}
}

// BenchmarkCompile compiles from scratch: what the first of all proxies pays that uses something.
func BenchmarkCompile(b *testing.B) {
	snapshot := mesh(b, 1).Snapshot()
	scope := resource.Scope{Minor: 40, Pod: "n0/p"}
	for _, ref := range append(refsOf(0),
		resource.Ref{Type: resource.Listener, Name: "outbound"},
		resource.Ref{Type: resource.Listener, Name: "inbound"}) {
		b.Run(ref.Type.String()+"="+ref.Name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r, err := compile.Compile(snapshot.Reader(), scope, ref); r == nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCached reads what is in the cache: what all others pay.
func BenchmarkCached(b *testing.B) {
	c := compile.NewCompiler(func(ref resource.ScopedRef, err error) { b.Error(ref, err) })
	view, _ := c.Advance(mesh(b, 1).Snapshot())
	p := &resource.Proxy{Namespace: "n0", Pod: "p", Minor: 40}
	ref := refsOf(0)[0]
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			view.Resource(p, ref)
		}
	})
}

// BenchmarkEndpointChange changes the endpoints of one of 1,000 Services that are all in use, and reads what changed. It includes the
// model's part.
func BenchmarkEndpointChange(b *testing.B) {
	const services = 1000
	builder := mesh(b, services)
	c := compile.NewCompiler(func(ref resource.ScopedRef, err error) { b.Error(ref, err) })
	view, _ := c.Advance(builder.Snapshot())
	p := &resource.Proxy{Namespace: "n0", Pod: "p", Minor: 40}
	for i := range services {
		for _, ref := range refsOf(i) {
			view.Resource(p, ref)
		}
	}
	states := [2][]byte{}
	for i, ready := range []bool{true, false} {
		states[i] = fmt.Appendf(nil, `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: n7, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.0.8], conditions: {ready: %v}, targetRef: {kind: Pod, namespace: n7, name: p}}]
`, ready)
	}
	slices := [2]any{compiletest.Objects(b, states[0])[0], compiletest.Objects(b, states[1])[0]}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		builder.Set(slices[i%2])
		view, changed := c.Advance(builder.Snapshot())
		if len(changed) != 1 {
			b.Fatalf("%d changed: %v", len(changed), changed)
		}
		view.Resource(p, changed[0].Ref)
	}
}
