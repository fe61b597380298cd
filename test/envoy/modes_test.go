package envoy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Who may call whom under each mode: a meshed and an unmeshed client, a meshed and an unmeshed server. Between two proxies it
// is mTLS wherever it is not disabled.
func TestModes(t *testing.T) {
	for _, mode := range []string{"Strict", "Permissive", "Disabled"} {
		t.Run(mode, func(t *testing.T) {
			w := envoy.Start(t, "testdata/modes.yaml")
			w.Apply(strings.ReplaceAll(meshOfMode, "MODE", mode))
			meshed := w.Pod("meshed")
			for _, c := range []struct {
				client, server string
				service        string
				works          bool
			}{
				{"meshed", "meshed", "10.96.0.5", true},
				{"stranger", "meshed", "", mode != "Strict"},
				{"meshed", "bare", "10.96.0.6", mode != "Strict"}, // a Service of the mesh whose pod has no proxy
				{"meshed", "outside", "10.96.0.8", true},          // a Service outside of the mesh
			} {
				for _, p := range echo.Protocols() {
					w.Run(fmt.Sprintf("%s to %s over %s", c.client, c.server, p), func(t *testing.T) {
						client := w.Pod("client")
						address := fmt.Sprintf("%s:%d", c.service, port(p))
						if c.client == "stranger" {
							client = w.Pod("stranger")
							address = fmt.Sprintf("%s:%d", meshed.IP4(), port(p))
						}
						before := w.Pod(c.server).Count()
						for i := range 2 {
							r, err := client.Call(p, echo.Request{Address: address, Body: "ping"})
							works := err == nil && r.Answer != nil && r.Name == c.server
							if works != c.works {
								t.Fatalf("request %d: answered %v, want %v: %+v %v", i, works, c.works, r, err)
							}
						}
						if n := w.Pod(c.server).Count() - before; (n == 2) != c.works || !c.works && n != 0 {
							t.Errorf("the backend counted %d requests, 2 were sent", n)
						}
					})
				}
			}
			handshakes := meshed.Stat(`^listener\.inbound\.ssl\.handshake$`)
			if (handshakes > 0) != (mode != "Disabled") {
				t.Errorf("mode %s: %d handshakes at the server's proxy", mode, handshakes)
			}
		})
	}
}

const meshOfMode = `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls: {mode: MODE}
`
