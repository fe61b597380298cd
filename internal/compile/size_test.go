package compile_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// What every proxy gets, whatever it uses, stays small: with thousands of proxies it is most of what the control plane sends and
// what they hold of it. The bytes are those of Envoy's configuration, before TLS.
func TestListenersAreSmall(t *testing.T) {
	snapshot := compiletest.Builder(t, []byte(`
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: k}
spec: {cidrs: [10.96.0.0/12]}
---
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: m, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web, version: v1}}
spec: {initContainers: [{name: tulle-proxy, restartPolicy: Always}], containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 10.244.0.1}
`)).Snapshot()
	for listener, most := range map[string]int{
		"outbound": 12_000, "reroute": 5_500, "silent": 10_500, "inbound": 32_000, "probes": 500, "stats": 2_500,
	} {
		t.Run(listener, func(t *testing.T) {
			for _, minor := range []uint32{38, 40} {
				ref := resource.Ref{Type: resource.Listener, Name: listener}
				r, err := compile.Compile(snapshot.Reader(), resource.Scope{Minor: minor, Pod: "shop/web-0"}, ref)
				if err != nil || r == nil {
					t.Fatal(r, err)
				}
				if got := len(r.Body().GetValue()); got > most {
					t.Errorf("for Envoy 1.%d it is %d bytes, want at most %d", minor, got, most)
				}
			}
		})
	}
}
