package controllers

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
)

// outputsOf returns what is made of a Mesh, in YAML, for Services a, a-b and headless of its namespace.
func outputsOf(t *testing.T, spec, splitVersion string, foreign ...client.ObjectKey) (made []string, clashes []string) {
	t.Helper()
	m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop", UID: "7"}}
	if err := yaml.UnmarshalStrict([]byte(spec), &m.Spec); err != nil {
		t.Fatal(err)
	}
	services := map[string]*corev1.Service{}
	b := model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"})
	b.Set(m)
	for name, address := range map[string]string{"a": "10.96.0.1", "a-b": "10.96.0.2", "headless": "None", "unselected": "10.96.0.3"} {
		s := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec: corev1.ServiceSpec{
				ClusterIP: address, ClusterIPs: []string{address}, Selector: map[string]string{"app": name},
				Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP, NodePort: 30080}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}},
			},
		}
		if name == "unselected" {
			s.Spec.Selector = nil
		}
		services[name] = s
		b.Set(s)
	}
	for _, out := range splitOutputs(b.Snapshot(), func(k client.ObjectKey) *corev1.Service { return services[k.Name] }) {
		if out.clash != nil {
			clashes = append(clashes, out.field+": "+out.clash.Error())
			continue
		}
		objects, err := out.objects(splitVersion, func(root client.ObjectKey) bool {
			for _, f := range foreign {
				if f == root {
					return true
				}
			}
			return false
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			raw, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, string(raw))
		}
	}
	return made, clashes
}

// names are the kinds and names of objects in YAML.
func names(t *testing.T, made []string) []string {
	t.Helper()
	var all []string
	for _, text := range made {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		all = append(all, u.GetKind()+" "+u.GetName())
	}
	return all
}

const twoVersions = `versions: [{name: v1, labels: {version: "1"}}, {name: v2, labels: {version: "2"}}]`

func TestSplitOutput(t *testing.T) {
	t.Parallel()
	made, _ := outputsOf(t, `{services: [{name: a, ports: [{port: 80, protocol: GRPC}], `+twoVersions+`, routes: [
	  {name: testers, match: [{headers: [{name: who, value: me}]}], to: [{version: v2}]}, {name: canary, to: [{version: v2, weight: 10}, {version: v1, weight: 90}, {version: v2, weight: 5}]}]}]}`, "v1alpha2")
	if diff := cmp.Diff([]string{"Service a-v1", "Service a-v2", "TrafficSplit a"}, names(t, made)); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	want := `apiVersion: v1
kind: Service
metadata:
  labels:
    mesh.tulle.dev/service: a
    mesh.tulle.dev/version: v2
  name: a-v2
  namespace: shop
  ownerReferences:
  - apiVersion: mesh.tulle.dev/v1alpha1
    controller: true
    kind: Mesh
    name: shop
    uid: "7"
spec:
  ports:
  - appProtocol: http
    port: 80
    protocol: TCP
    targetPort: 0
  - name: dns
    port: 53
    protocol: UDP
    targetPort: 0
  selector:
    app: a
    version: "2"
  type: ClusterIP
status:
  loadBalancer: {}
`
	if diff := cmp.Diff(want, made[1]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = `apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata:
  name: a
  namespace: shop
  ownerReferences:
  - apiVersion: mesh.tulle.dev/v1alpha1
    controller: true
    kind: Mesh
    name: shop
    uid: "7"
spec:
  backends:
  - service: a-v1
    weight: 90
  - service: a-v2
    weight: 15
  service: a
`
	if diff := cmp.Diff(want, made[2]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestNoSplitOutput: rules that divide nothing, or nothing that can be said in a TrafficSplit.
func TestNoSplitOutput(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]string{
		"one version":      `{services: [{name: a, ` + twoVersions + `, routes: [{name: all, to: [{version: v1}]}]}]}`,
		"all pods":         `{services: [{name: a, ` + twoVersions + `, routes: [{name: all, to: [{}, {version: v1}]}]}]}`,
		"only with match":  `{services: [{name: a, ` + twoVersions + `, routes: [{name: m, match: [{headers: [{name: who, value: me}]}], to: [{version: v1}, {version: v2}]}]}]}`,
		"unknown version":  `{services: [{name: a, ` + twoVersions + `, routes: [{name: all, to: [{version: v1}, {version: v3}]}]}]}`,
		"no such Service":  `{services: [{name: b, ` + twoVersions + `, routes: [{name: all, to: [{version: v1}, {version: v2}]}]}]}`,
		"headless":         `{services: [{name: headless, ` + twoVersions + `, routes: [{name: all, to: [{version: v1}, {version: v2}]}]}]}`,
		"without selector": `{services: [{name: unselected, ` + twoVersions + `, routes: [{name: all, to: [{version: v1}, {version: v2}]}]}]}`,
	} {
		if made, clashes := outputsOf(t, spec, "v1alpha4"); len(made)+len(clashes) > 0 {
			t.Errorf("%s: made %v, clashes %v", name, made, clashes)
		}
	}
}

// TestSplitOutputsOfOneName: version b-v1 of Service a and version v1 of Service a-b need the same name; the first has it, the other is told.
func TestSplitOutputsOfOneName(t *testing.T) {
	t.Parallel()
	made, clashes := outputsOf(t, `{services: [
	  {name: a-b, `+twoVersions+`, routes: [{name: all, to: [{version: v1}, {version: v2}]}]},
	  {name: a, versions: [{name: b-v1, labels: {x: y}}, {name: v9, labels: {x: z}}], routes: [{name: all, to: [{version: b-v1}, {version: v9}]}]}]}`, "v1alpha4")
	if diff := cmp.Diff([]string{"Service a-b-v1", "Service a-v9", "TrafficSplit a"}, names(t, made)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"spec.services[0].routes[0]: Service shop/a-b-v1 is already that of a version of Service a: rename the version"}, clashes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestForeignSplitLeavesServices: beside somebody else's split there are the Services, which it may name.
func TestForeignSplitLeavesServices(t *testing.T) {
	t.Parallel()
	made, _ := outputsOf(t, `{services: [{name: a, `+twoVersions+`, routes: [{name: all, to: [{version: v1}, {version: v2}]}]}]}`, "v1alpha4", RootOf("shop", "a.shop.svc.cluster.local"))
	if diff := cmp.Diff([]string{"Service a-v1", "Service a-v2"}, names(t, made)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestVersionServiceName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("s", 60)
	for _, c := range []struct{ service, version, want string }{
		{"reviews", "v1", "reviews-v1"},
		{long, "v1", long + "-v1"},
		{long, "v10", long[:54] + "-56d4e1c4"},
		{strings.Repeat("s", 53) + "-x", "canary-of-today", strings.Repeat("s", 53) + "-ceba6a58"}, // no two hyphens
	} {
		if got := VersionServiceName(c.service, c.version); got != c.want || len(got) > 63 {
			t.Errorf("%s of %s: %s, want %s", c.version, c.service, got, c.want)
		}
	}
	if VersionServiceName(long, "v10") == VersionServiceName(long, "v11") {
		t.Error("two versions have one name")
	}
}

// TestForeignRoots: whose split it is, is said by its owner and not by its labels.
func TestForeignRoots(t *testing.T) {
	t.Parallel()
	split := func(name, service string, owner *metav1.OwnerReference) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"service": service}}}
		u.SetNamespace("shop")
		u.SetName(name)
		if owner != nil {
			u.SetOwnerReferences([]metav1.OwnerReference{*owner})
		}
		return u
	}
	yes := true
	got := foreignRoots([]*unstructured.Unstructured{
		split("a", "a", nil), split("b", "b.shop", &metav1.OwnerReference{APIVersion: "flagger.app/v1beta1", Kind: "Canary", Controller: &yes}),
		split("c", "c", &metav1.OwnerReference{APIVersion: "mesh.tulle.dev/v1alpha1", Kind: "Mesh", Controller: &yes}),
		split("d", "d", &metav1.OwnerReference{APIVersion: "mesh.example/v1", Kind: "Mesh", Controller: &yes}), {Object: map[string]any{"spec": 7}},
	})
	want := map[client.ObjectKey]bool{{Namespace: "shop", Name: "a"}: true, {Namespace: "shop", Name: "b"}: true, {Namespace: "shop", Name: "d"}: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSplitConflictsAreTold in the status of the Mesh that they are of, and of no other.
func TestSplitConflictsAreTold(t *testing.T) {
	t.Parallel()
	conflicts := []SplitConflict{{"shop", "shop", "spec.services[0].routes[0]", (&ConflictError{Kind: "Service", Namespace: "shop", Name: "a-v1"}).Error()}}
	for name, want := range map[string]int{"shop": 1, "other": 0} {
		if got := withSplitConflicts(model.MeshReport{Namespace: "shop", Name: name}, conflicts).Problems; len(got) != want {
			t.Errorf("Mesh %s is told %v", name, got)
		}
	}
	if err := unlessEnding(errors.New("x")); err == nil {
		t.Error("an error was lost")
	}
}
