package compile_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/compile"
	"github.com/tulle-mesh/tulle/internal/compile/compiletest"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// fuzzWorld is a small shop beside the object that is fuzzed.
const fuzzWorld = `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: reviews}
spec: {clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5], selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 8080}, {name: mysql, port: 3306}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: ratings}
spec: {clusterIP: "fd00:96::6", clusterIPs: ["fd00:96::6"], selector: {app: reviews}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: reviews-1, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: mysql, port: 3306}]
endpoints: [{addresses: [10.244.0.5]}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: reviews, labels: {app: reviews, version: v1}, uid: "1", annotations: {mesh.tulle.dev/sidecar: v}}
spec:
  initContainers: [{name: tulle-proxy, restartPolicy: Always}]
  containers: [{name: app, ports: [{containerPort: 8080}]}]
status: {podIP: 10.244.0.5, podIPs: [{ip: 10.244.0.5}]}
`

// everything compiles all that the proxy of pod shop/reviews could ever be sent, and returns it. An error fails the test: the model must let
// nothing through that Envoy's own validation refuses.
func everything(t *testing.T, s *model.Snapshot) map[resource.Ref]*resource.Resource {
	t.Helper()
	made := map[resource.Ref]*resource.Resource{}
	todo := []resource.Ref{{Type: resource.Bundle, Name: compile.ProxyBundle}}
	for _, address := range []string{"10.96.0.5:80", "10.96.0.5:3306", "10.96.0.5:1", "[fd00:96::6]:80", "10.244.0.5:8080", "10.9.9.9:80"} {
		for _, protocol := range []string{"http|", "tcp|", "raw|"} {
			todo = append(todo, resource.Ref{Type: resource.Bundle, Name: protocol + address}, resource.Ref{Type: resource.Cluster, Name: protocol + address})
		}
		todo = append(todo, resource.Ref{Type: resource.VirtualHost, Name: "outbound/http|" + address})
	}
	for len(todo) > 0 {
		ref := todo[0]
		todo = todo[1:]
		if _, done := made[ref]; done {
			continue
		}
		r, err := compile.Compile(s.Reader(), resource.Scope{Minor: 40, Pod: "shop/reviews"}, ref)
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		made[ref] = r
		if r != nil {
			todo = append(append(todo, r.Needs...), r.Warms...)
		}
	}
	return made
}

// FuzzMesh holds of any Mesh: it is read, and compiled, without a panic and into what Envoy's own validation accepts; what Validate says of it
// is what its status says; and it means the same each time.
func FuzzMesh(f *testing.F) {
	for _, seed := range []string{
		`{}`,
		`{mtls: {mode: Strict, ports: [{port: 8080, mode: Permissive}]}, proxy: {podSelector: {matchLabels: {app: reviews}}, drainDuration: 1m, logLevel: Debug}}`,
		`{services: [{name: reviews, versions: [{name: v1, labels: {version: v1}}], routes: [{name: a, match: [{headers: [{name: x, type: RegularExpression, value: "a|b"}]}], to: [{version: v1, weight: 3}, {}]}]}, {name: ratings, ports: [{port: 80, protocol: GRPC}]}]}`,
		`{meshWide: {trust: {domain: example.org, certificateDuration: 1h}, network: {serviceRanges: [10.96.0.0/16], podRanges: [fd00::/8], serverFirstPorts: [25]}, envoy: {image: envoy}}, observability: {accessLog: {mode: All}}}`,
		`{services: [{name: reviews, routes: [{name: a, to: [{version: v9}]}]}], mtls: {mode: loose}}`,
	} {
		spec, err := yaml.YAMLToJSON([]byte(seed))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(spec, false)
		f.Add(spec, true)
	}
	f.Fuzz(func(t *testing.T, spec []byte, root bool) {
		var mesh v1alpha1.Mesh
		if json.Unmarshal(spec, &mesh.Spec) != nil {
			return
		}
		mesh.Namespace, mesh.Name, mesh.UID, mesh.Generation = "shop", "mesh", types.UID("m"), 1
		if root {
			mesh.Namespace = "tulle-system"
		}
		snapshot := func() *model.Snapshot {
			b := compiletest.Builder(t, []byte(fuzzWorld))
			b.Set(&v1alpha1.Mesh{ObjectMeta: mesh.ObjectMeta, Spec: v1alpha1.MeshSpec{}})
			b.Snapshot()
			b.Set(&mesh)
			return b.Snapshot()
		}
		first, second := snapshot(), snapshot()
		checkReport(t, first, &mesh, root)
		again := everything(t, second)
		for ref, r := range everything(t, first) {
			if other := again[ref]; (r == nil) != (other == nil) || r != nil && (r.Version != other.Version || !bytes.Equal(r.Body().GetValue(), other.Body().GetValue())) {
				t.Errorf("%s is not the same twice", ref)
			}
		}
	})
}

// checkReport holds the report of a Mesh against what Validate says of it.
func checkReport(t *testing.T, s *model.Snapshot, mesh *v1alpha1.Mesh, root bool) {
	t.Helper()
	reports := s.Meshes()
	if len(reports) != 1 || reports[0].Root != root {
		t.Fatalf("reports: %+v", reports)
	}
	told := map[model.Problem]bool{}
	for _, p := range reports[0].Problems {
		told[p] = true
		if p.Message == "" || p.Reason == "" || p.Condition != v1alpha1.ConditionAccepted && p.Condition != v1alpha1.ConditionResolvedRefs {
			t.Errorf("says nothing: %+v", p)
		}
	}
	for _, p := range model.Validate(mesh, root) {
		if !told[p] && reports[0].Omitted == 0 {
			t.Errorf("the webhook says %+v, and the status does not: %+v", p, reports[0].Problems)
		}
	}
}

// FuzzPodAnnotations holds of whatever is in the annotations of a pod that has a proxy: its configuration is one that Envoy accepts.
func FuzzPodAnnotations(f *testing.F) {
	f.Add(`[{"path":"/app/liveness","port":8080,"targetPath":"/live","timeoutSeconds":1}]`, "25,3306", "v")
	f.Add(`[{"path":"/a","port":8080,"targetPath":"b","host":"evil\r\nx: y","scheme":"HTTPS"},{"path":"/a","port":1}]`, "0,1,65536,x", "")
	f.Add(`[{"path":"no slash","port":70000}]`, ",,", "\x00")
	f.Fuzz(func(t *testing.T, probes, ports, version string) {
		b := compiletest.Builder(t, []byte(fuzzWorld))
		for _, o := range compiletest.Objects(t, []byte(fuzzWorld)) {
			if pod, ok := o.(*corev1.Pod); ok {
				pod.Annotations = map[string]string{
					sidecar.ProbesAnnotation: probes, sidecar.SkipDetectionAnnotation: ports, sidecar.VersionAnnotation: version,
				}
				b.Set(pod)
			}
		}
		b.Set(&v1alpha1.Mesh{})
		everything(t, b.Snapshot())
	})
}

// FuzzMetricsAnnotation holds of whatever a pod says of its app's metrics: its proxy's configuration is one that Envoy accepts, and hands on nothing but
// paths of the app's own ports.
func FuzzMetricsAnnotation(f *testing.F) {
	for _, text := range []string{"9090/metrics", " 8080/a , 8080/b,8080/a", "15006/x,0/x,65536/x,1/", "1//..//x,2/%2e%2e/", "3/\x00,4/a?b#c,5/é", "none", ",,,/"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b := compiletest.Builder(t, []byte(fuzzWorld))
		for _, o := range compiletest.Objects(t, []byte(fuzzWorld)) {
			if pod, ok := o.(*corev1.Pod); ok {
				pod.Annotations = map[string]string{sidecar.MetricsAnnotation: text, sidecar.VersionAnnotation: "v"}
				b.Set(pod)
			}
		}
		b.Set(&v1alpha1.Mesh{})
		s := b.Snapshot()
		everything(t, s)
		for _, w := range s.Workloads("shop") {
			for _, m := range w.Metrics {
				if m.Port == sidecar.InboundPort || m.Port == sidecar.OutboundPort || m.Port == 0 || !strings.HasPrefix(m.Path, "/") || strings.ContainsAny(m.Path, " ?#\r\n") {
					t.Errorf("%q hands on %d%s", text, m.Port, m.Path)
				}
			}
		}
	})
}
