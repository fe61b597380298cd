package dataplane

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// layer is what the mesh knows of a service.
type layer struct {
	name string
	// base is the first address of its services, port the one that they are called at.
	base     netip.Addr
	port     int
	protocol echo.Protocol
	// rules says whether they have HTTP rules and two versions.
	rules bool
}

func layers() (l4, l7 layer) {
	return layer{"l4", netip.MustParseAddr("10.98.0.1"), 9000, echo.TCP, false},
		layer{"l7", netip.MustParseAddr("10.100.0.1"), 80, echo.HTTP1, true}
}

// address is that of the i-th service.
func (l layer) address(i int) string {
	return netip.AddrPortFrom(l.ip(i), uint16(l.port)).String()
}

func (l layer) ip(i int) netip.Addr {
	b := l.base.As4()
	return netip.AddrFrom4([4]byte{b[0], b[1] + byte(i/(250*250)), byte(i / 250 % 250), b[3] + byte(i%250)})
}

// call is a request to the i-th service, on a connection of its own.
func (l layer) call(i int) (echo.Protocol, echo.Request) {
	r := echo.Request{Address: l.address(i)}
	if l.protocol == echo.TCP {
		r.Body = "ping"
	}
	return l.protocol, r
}

// services are n services of a layer, which all have the same pods.
func (l layer) services(n int) string {
	var b strings.Builder
	target := map[bool]string{true: "{name: http, port: 80, targetPort: 8080}", false: "{name: tcp, port: 9000}"}[l.rules]
	for i := range n {
		fmt.Fprintf(&b, `
---
apiVersion: v1
kind: Service
metadata: {name: %s-%d, namespace: bench}
spec: {clusterIP: %s, selector: {app: backend}, ports: [%s]}
`, l.name, i, l.ip(i), target)
	}
	return b.String()
}

// mesh is one whose services have rules and two versions, the first n of a layer.
func (l layer) mesh(n int) string {
	var b strings.Builder
	b.WriteString(`
---
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: bench, namespace: bench}
spec:
  mtls: {mode: Strict}
`)
	if l.rules && n > 0 {
		b.WriteString("  services:\n")
		for i := range n {
			fmt.Fprintf(&b, `  - name: %s-%d
    versions: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
    routes:
    - {name: testers, match: [{headers: [{name: end-user, value: jason}]}], to: [{version: v2}]}
    - {name: canary, to: [{version: v1, weight: 90}, {version: v2, weight: 10}]}
`, l.name, i)
		}
	}
	return b.String()
}

// backends are pods of two versions, and a client.
const backends = `
---
apiVersion: v1
kind: Pod
metadata: {name: backend-v1, namespace: bench, labels: {app: backend, version: v1}}
spec:
  serviceAccountName: backend
  containers: [{name: app, image: echo, args: [serve, -http=8080, -tcp=9000]}]
---
apiVersion: v1
kind: Pod
metadata: {name: backend-v2, namespace: bench, labels: {app: backend, version: v2}}
spec:
  serviceAccountName: backend
  containers: [{name: app, image: echo, args: [serve, -http=8080, -tcp=9000]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: bench, labels: {app: client}}
spec:
  serviceAccountName: client
  containers: [{name: app, image: echo}]
`

// asked is the statistic of a proxy that grows when it asks for a destination; it is not there before.
const asked = `^cluster_manager\.odcds\.update_attempt$`

// asks returns what a pod's proxy has asked for since it started.
func asks(p *envoy.Pod) int { return int(p.Stat(asked)) }
