package compile_test

import (
	"fmt"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Envoy drains the connections of a filter chain that changes. So a mode that changes between Permissive and Strict leaves the chains of sidecars, and the listener
// filters, as they are.
func TestModesKeepTheConnectionsOfSidecars(t *testing.T) {
	of := func(mode string) *listenerv3.Listener {
		b := compiletest.Builder(t, []byte(fmt.Sprintf(`
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: shop, namespace: shop}
spec: {mtls: {mode: %s}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.5, selector: {app: web}, ports: [{name: http, port: 80}, {name: tcp, port: 90}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {initContainers: [{name: tulle-proxy, restartPolicy: Always}], containers: [{name: app}]}
status: {podIP: 10.244.0.7, podIPs: [{ip: "10.244.0.7"}]}
`, mode)))
		l := &listenerv3.Listener{}
		read(t, b.Snapshot(), "shop/web", resource.Ref{Type: resource.Listener, Name: "inbound"}, l)
		return l
	}
	permissive, strict := of("Permissive"), of("Strict")
	chains := map[string]*listenerv3.FilterChain{}
	for _, c := range strict.FilterChains {
		chains[c.Name] = c
	}
	same := 0
	for _, c := range permissive.FilterChains {
		if _, name, _ := strings.Cut(c.Name, "/"); strings.HasPrefix(name, "mtls-") {
			same++
			if !proto.Equal(c, chains[c.Name]) {
				t.Errorf("%s differs", c.Name)
			}
		}
	}
	if want := 4; same != want {
		t.Errorf("%d chains of sidecars, want %d: one of a port of each protocol, two of the others", same, want)
	}
	for i, f := range permissive.ListenerFilters {
		if !proto.Equal(f, strict.ListenerFilters[i]) {
			t.Errorf("listener filter %s differs", f.Name)
		}
	}
}
