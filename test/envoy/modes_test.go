package envoy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Who may call whom under each mode: a meshed and an unmeshed client, a meshed and an unmeshed server. Between two proxies it
// is mTLS wherever it is not disabled. Each protocol is the very first thing that the client's proxy is asked to do.
func TestModes(t *testing.T) {
	t.Parallel()
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/modes.yaml", envoy.On(v))
		meshed := w.Pod("meshed")
		for _, mode := range []string{"Strict", "Permissive", "Disabled"} {
			w.Apply(strings.ReplaceAll(meshOfMode, "MODE", mode))
			for _, p := range echo.Protocols() {
				w.ForgetAndRestartProxies(w.Pod("to-meshed"), w.Pod("to-bare"), w.Pod("to-outside"))
				for _, c := range []modeCase{
					{"to-meshed", "meshed", "10.96.0.5", true, mode != "Disabled"},
					{"stranger", "meshed", meshed.IP4().String(), mode != "Strict", false},
					{"to-bare", "bare", "10.96.0.6", mode != "Strict", false}, // a Service of the mesh whose pod has no proxy
					{"to-outside", "outside", "10.96.0.8", true, false},       // a Service outside of the mesh
				} {
					w.Run(fmt.Sprintf("%s %s %s", mode, c.client, p), func(t *testing.T) { testMode(t, w, p, c) })
				}
			}
		}
	})
}

// modeCase is a client that calls the server at a host, and whether that works, and by mTLS.
type modeCase struct {
	client, server, host string
	works, mutualTLS     bool
}

func testMode(t *testing.T, w *envoy.World, p echo.Protocol, c modeCase) {
	client, server, address := w.Pod(c.client), w.Pod(c.server), fmt.Sprintf("%s:%d", c.host, port(p))
	if client.Meshed() && known(client, address) {
		t.Fatalf("the fresh proxy knows %s already", address)
	}
	handshakes := func() int64 { return w.Pod("meshed").Stat(`^listener\.inbound\.ssl\.handshake$`) }
	counted, before := server.Count(), handshakes()
	calls := 2
	if !client.Meshed() { // nothing is there that would remember the first
		calls = 1
	}
	for i := range calls {
		r, err := client.Call(p, echo.Request{Address: address, Body: "ping"})
		if works := err == nil && r.Answer != nil && r.Name == c.server; works != c.works {
			t.Fatalf("request %d: answered %v, want %v: %+v %v", i, works, c.works, r, err)
		}
	}
	if n := server.Count() - counted; c.works && n != calls || !c.works && n != 0 {
		t.Errorf("the backend counted %d requests, %d were sent", n, calls)
	}
	if client.Meshed() && !known(client, address) {
		t.Errorf("the proxy does not know %s: the request did not go through it", address)
	}
	if n := handshakes() - before; (n > 0) != c.mutualTLS {
		t.Errorf("%d handshakes at the server's proxy, want mTLS: %v", n, c.mutualTLS)
	}
}

const meshOfMode = `
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh, namespace: shop}
spec:
  mtls: {mode: MODE}
`
