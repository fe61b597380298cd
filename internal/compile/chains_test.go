package compile_test

import (
	"fmt"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// What a listener logs and counts of its connections goes by the names of its filter chains (features.OnTCPChains, features.OnPlaintextChains): they say
// who speaks HTTP, and who authenticates nobody.
func TestChainNamesSayWhatTheyTake(t *testing.T) {
	for _, mode := range []string{"Strict", "Permissive", "Disabled"} {
		snapshot := compiletest.Builder(t, fmt.Appendf(nil, `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: m, namespace: shop}
spec: {mtls: {mode: %s}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80}, {name: tcp, port: 90}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {initContainers: [{name: tulle-proxy, restartPolicy: Always}], containers: [{name: app}]}
status: {podIP: 10.244.0.1}
`, mode)).Snapshot()
		for _, name := range []string{"inbound", "outbound", "silent", "reroute"} {
			r, err := compile.Compile(snapshot.Reader(), resource.Scope{Minor: 40, Pod: "shop/web-0"}, resource.Ref{Type: resource.Listener, Name: name})
			if err != nil || r == nil {
				t.Fatal(r, err)
			}
			l := &listenerv3.Listener{}
			if err := proto.Unmarshal(r.Body().GetValue(), l); err != nil {
				t.Fatal(err)
			}
			chains := l.GetFilterChains()
			if l.GetDefaultFilterChain() != nil {
				chains = append(chains, l.GetDefaultFilterChain())
			}
			for _, c := range chains {
				last := c.GetFilters()[len(c.GetFilters())-1]
				http := strings.HasSuffix(last.GetTypedConfig().GetTypeUrl(), ".HttpConnectionManager")
				if c.GetName() == "" || strings.Contains(c.GetName(), "http") != http {
					t.Errorf("%s: chain %q of %s: speaks HTTP is %v", mode, c.GetName(), name, http)
				}
				plaintext := strings.HasSuffix(c.GetName(), "/tcp") || strings.HasSuffix(c.GetName(), "/tls")
				if name == "inbound" && !http && plaintext != (c.GetTransportSocket() == nil) {
					t.Errorf("%s: chain %q: has a transport socket is %v", mode, c.GetName(), c.GetTransportSocket() != nil)
				}
			}
		}
	}
}
