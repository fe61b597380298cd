package envoy_test

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// In a Strict namespace, one port of the pods is Permissive and one is Disabled: an HTTP port of each, then, with the HTTP ports
// Strict again, a TCP port of each. Who is not in the mesh reaches those ports and no other. Who is reaches all, with mTLS on all
// but the Disabled one.
func TestPortModes(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/portmode.yaml", envoy.On(v))
		for _, kind := range []struct {
			name                 string
			permissive, disabled int
		}{{"HTTP", 8081, 8082}, {"TCP", 9091, 9092}} {
			w.Apply(fmt.Sprintf(meshOfPortModes, kind.permissive, kind.disabled))
			// Without connections between the proxies that are open already: each new one counts.
			w.Pod("client").ForgetAndRestartProxy()
			for _, service := range []int{80, 81, 82, 90, 91, 92} {
				// Those below 90 are HTTP's, which have connections of their own for each version between the proxies, too.
				target, protocols := service+8000, []echo.Protocol{echo.HTTP1, echo.HTTP2}
				if service >= 90 {
					target, protocols = service+9000, []echo.Protocol{echo.TCP}
				}
				mode := v1alpha1.MTLSStrict
				switch target {
				case kind.permissive:
					mode = v1alpha1.MTLSPermissive
				case kind.disabled:
					mode = v1alpha1.MTLSDisabled
				}
				for _, p := range protocols {
					w.Run(fmt.Sprintf("%s of each mode, %s to %d which is %s", kind.name, p, target, mode), func(t *testing.T) {
						pod := fmt.Sprintf("%s:%d", w.Pod("server").IP4(), target)
						testPort(t, w, "stranger", p, pod, mode != v1alpha1.MTLSStrict, false)
						testPort(t, w, "client", p, fmt.Sprintf("10.96.0.5:%d", service), true, mode != v1alpha1.MTLSDisabled)
						testPort(t, w, "client", p, pod, true, mode != v1alpha1.MTLSDisabled)
					})
				}
			}
		}
	})
}

// testPort sends one request and looks whether it arrived, and over which kind of connection.
func testPort(t *testing.T, w *envoy.World, client string, p echo.Protocol, address string, arrives, mutualTLS bool) {
	t.Helper()
	server := w.Pod("server")
	handshakes := func() int64 { return server.Stat(`^listener\.inbound\.ssl\.handshake$`) }
	count, before := server.Count(), handshakes()
	r, err := w.Pod(client).Call(p, echo.Request{Address: address, Body: "ping"})
	if answered := err == nil && r.Answer != nil; answered != arrives {
		t.Errorf("%s to %s: answered %v, want %v: %+v %v", client, address, answered, arrives, r, err)
	}
	if n := server.Count() - count; (n == 1) != arrives || !arrives && n != 0 {
		t.Errorf("%s to %s: the backend counted %d requests, want it to arrive: %v", client, address, n, arrives)
	}
	if n := handshakes() - before; (n > 0) != mutualTLS {
		t.Errorf("%s to %s: %d handshakes at the server's proxy, want mTLS: %v", client, address, n, mutualTLS)
	}
}

const meshOfPortModes = `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls:
    mode: Strict
    ports: [{port: %d, mode: Permissive}, {port: %d, mode: Disabled}]
`
