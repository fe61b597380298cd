package plan_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/manifest"
	"github.com/tulle-mesh/tulle/internal/meshschema"
	"github.com/tulle-mesh/tulle/internal/plan"
)

const strictMesh = "apiVersion: mesh.tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: shop, namespace: shop}\nspec: {mtls: {mode: Strict}}\n"

// TestSecretsAreNotShown: a changed secret is named, and nothing of it is shown.
func TestSecretsAreNotShown(t *testing.T) {
	const world = `
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {selector: {app: a}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: shop}
spec: {template: {metadata: {labels: {app: a}}, spec: {serviceAccountName: a, containers: [{name: a}]}}}
---
` + strictMesh
	const root = "apiVersion: mesh.tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: mesh, namespace: tulle-system}\nspec: {meshWide: {trust: {domain: other.example}}}\n"
	in := plan.Input{Settings: settings(), Envoy: true}
	in.World, _ = load(t, world)
	in.Apply, _ = load(t, root)
	p, err := plan.Make(in)
	if err != nil {
		t.Fatal(err)
	}
	named := false
	for _, r := range p.Envoy {
		if r.Type != "secret" {
			continue
		}
		named = named || r.Name == "service|shop/a"
		if r.Diff != "" {
			t.Errorf("secret %s is shown:\n%s", r.Name, r.Diff)
		}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if !named || strings.Contains(string(raw), "the mesh's roots") || strings.Contains(string(raw), "spiffe://") {
		t.Errorf("secret named: %v; plan:\n%s", named, raw)
	}
}

// TestServiceKeepsItsAddress: a manifest of a Service that a cluster has says no address, and changes none.
func TestServiceKeepsItsAddress(t *testing.T) {
	live, _ := load(t, "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop, uid: 1-2-3}\nspec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{name: http, port: 80}]}\n")
	applied, _ := load(t, "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n")
	proxied, _ := load(t, strictMesh+"---\napiVersion: v1\nkind: Pod\nmetadata: {name: client, namespace: shop}\nspec: {containers: [{name: app}]}\n")
	in := plan.Input{Settings: settings(), World: append(proxied, live...), Apply: applied, Envoy: true}
	p, err := plan.Make(in)
	if err != nil {
		t.Fatal(err)
	}
	if p.Proxies.Total != 1 || len(p.Envoy) > 0 {
		t.Errorf("%d proxies; it changes Envoy's configuration: %+v", p.Proxies.Total, p.Envoy)
	}
	if ip := applied[0].(*corev1.Service).Spec.ClusterIP; ip != "" {
		t.Errorf("the input was changed: cluster IP %s", ip)
	}
}

// TestPodsOfManifests: a pod that is there needs a restart for its first proxy; one that is applied with the Mesh is born with it.
func TestPodsOfManifests(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: %, namespace: shop}\nspec: {containers: [{name: app}]}\n---\n"
	in := plan.Input{Settings: settings()}
	in.World, _ = load(t, strings.ReplaceAll(pod, "%", "old"))
	in.Apply, _ = load(t, strings.ReplaceAll(pod, "%", "young")+strictMesh)
	p, err := plan.Make(in)
	if err != nil {
		t.Fatal(err)
	}
	want := []plan.Restart{{Namespace: "shop", Pods: []plan.Pod{{Name: "old", Owner: "Pod/old", Reason: plan.NoProxy}}, Recreate: []string{"old"}}}
	if diff := cmp.Diff(want, p.Restarts); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if s := p.Meshes[0].After.Proxies; s.Summary != "1/2" {
		t.Errorf("proxies %s", s.Summary)
	}
}

// TestReplicaSetLeadsToDeployment: a dump of a cluster has a Deployment, its ReplicaSet and its pods: they are the same pods.
func TestReplicaSetLeadsToDeployment(t *testing.T) {
	const dump = `
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: web, namespace: shop, uid: d}
  spec: {replicas: 2, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web}]}}}
- apiVersion: apps/v1
  kind: ReplicaSet
  metadata: {name: web-abc, namespace: shop, uid: r, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: d, controller: true}]}
  spec: {replicas: 1, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web}]}}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-abc-xyz, namespace: shop, uid: p, labels: {app: web}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-abc, uid: r, controller: true}]}
  spec: {containers: [{name: web}]}
  status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
`
	in := plan.Input{Settings: settings()}
	in.World, _ = load(t, dump)
	in.Apply, _ = load(t, strictMesh)
	p, err := plan.Make(in)
	if err != nil {
		t.Fatal(err)
	}
	want := []plan.Restart{{
		Namespace: "shop",
		Pods:      []plan.Pod{{Name: "web-abc-xyz", Owner: "Deployment/web", Reason: plan.NoProxy}},
		Commands:  []string{"kubectl -n shop rollout restart deploy/web"},
	}}
	if diff := cmp.Diff(want, p.Restarts); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	schema, err := meshschema.New()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, text, want string }{
		{"twice", strictMesh + "---\n" + strictMesh, "input, document 2: Mesh shop/shop is also in input, document 1: keep one; render overlays and charts first"},
		{"no name", "apiVersion: v1\nkind: Service\n", "input, document 1: Service: metadata.name is missing"},
		{"namespace that YAML takes for false", "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: n}\n", "Service: metadata.namespace is false, and no text: YAML reads n, y, on, off and numbers as something else, so quote it"},
		{"wrong type", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: http}]}\n", "input, document 1: Service a: json: cannot unmarshal string"},
		{"split that can't be read", "apiVersion: split.smi-spec.io/v1alpha2\nkind: TrafficSplit\nmetadata: {name: a}\nspec: {service: s, backends: [{service: c, weight: 0.5}]}\n",
			"input, document 1: TrafficSplit a: "},
		{"unknown version", "apiVersion: mesh.tulle.dev/v1\nkind: Mesh\nmetadata: {name: a}\n", "there is no kind Mesh in mesh.tulle.dev/v1: this tulle knows Mesh in mesh.tulle.dev/v1alpha1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			manifests, err := manifest.Read("input", strings.NewReader(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := plan.Load(manifests, "default", admission{schema}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
	gone, _ := load(t, strictMesh)
	if _, err := plan.Make(plan.Input{Settings: settings(), Delete: gone}); err == nil || !strings.Contains(err.Error(), "Mesh shop/shop does not exist") {
		t.Errorf("deletion of what is not there: %v", err)
	}
}

// TestNamespaceMustExist: a cluster has all namespaces that there are; manifests may leave them out.
func TestNamespaceMustExist(t *testing.T) {
	const namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"
	want := []plan.Refusal{{Kind: "Mesh", Namespace: "shop", Name: "shop", By: "the API server",
		Reasons: []string{"namespace shop does not exist: create it, or apply it too"}}}
	for name, tt := range map[string]struct {
		world, apply string
		want         []plan.Refusal
	}{
		"missing":  {apply: strictMesh, want: want},
		"with it":  {apply: namespace + "---\n" + strictMesh},
		"offline":  {world: namespace, apply: strings.ReplaceAll(strictMesh, "shop", "else")},
		"is there": {world: strings.Replace(namespace, "shop}", "shop, uid: u}", 1), apply: strictMesh},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "offline" {
				tt.world += "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: other, uid: u}\n"
			}
			in := plan.Input{Settings: settings()}
			in.World, _ = load(t, tt.world)
			in.Apply, _ = load(t, tt.apply)
			p, err := plan.Make(in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, p.Refused, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestUnsupported: where no pod can have a proxy, no restart helps.
func TestUnsupported(t *testing.T) {
	in := plan.Input{Settings: settings()}
	in.Unsupported = inject.Supported("v1.28.0")
	in.World, _ = load(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec: {containers: [{name: a}]}\n")
	in.Apply, _ = load(t, strictMesh)
	p, err := plan.Make(in)
	if err != nil {
		t.Fatal(err)
	}
	if c := plan.Condition(p.Meshes[0].After, v1alpha1.ConditionInjected); c.Reason != "NativeSidecarUnavailable" || len(p.Restarts) > 0 {
		t.Errorf("Injected %+v, restarts %+v", c, p.Restarts)
	}
}

// TestNamespaceGoes: what is in a Namespace that is deleted goes with it.
func TestNamespaceGoes(t *testing.T) {
	in := plan.Input{Settings: settings()}
	in.World, _ = load(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec: {containers: [{name: a}]}\n---\n"+strictMesh)
	in.Delete, _ = load(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
	p, err := plan.Make(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Meshes) != 1 || p.Meshes[0].Action != plan.Delete || p.Summary.Removed != 1 || p.Summary.Unused != 0 {
		t.Errorf("Meshes %+v, summary %+v", p.Meshes, p.Summary)
	}
}

// TestClockBehind: the older Mesh wins, also when the clock of who plans is behind that of the cluster.
func TestClockBehind(t *testing.T) {
	in := plan.Input{Settings: settings(), Now: time.Unix(1_700_000_000, 0)}
	in.World, _ = load(t, strings.Replace(strictMesh, "namespace: shop}", `namespace: shop, uid: u, creationTimestamp: "2040-01-01T00:00:00Z"}`, 1))
	in.Apply, _ = load(t, strings.Replace(strictMesh, "name: shop", "name: a", 1))
	p, err := plan.Make(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Meshes) != 1 || p.Meshes[0].Name != "a" || plan.Condition(p.Meshes[0].After, v1alpha1.ConditionAccepted).Reason != "Conflicted" {
		t.Errorf("Meshes %+v", p.Meshes)
	}
}
