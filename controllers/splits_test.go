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

	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
)

// shopOf is a mesh of Services a, a-b, headless and unselected of the namespace of a Mesh, with these other objects.
func shopOf(t *testing.T, spec string, others ...client.Object) (*model.Snapshot, func(client.ObjectKey) *corev1.Service) {
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
	for _, o := range others {
		b.Set(o)
	}
	return b.Snapshot(), func(k client.ObjectKey) *corev1.Service { return services[k.Name] }
}

// outputsOf returns what is made of a Mesh, in YAML, and why the rest is not.
func outputsOf(t *testing.T, spec, splitVersion string, others ...client.Object) (made []string, conflicts []string) {
	t.Helper()
	live := map[string]client.Object{}
	for _, o := range others {
		live[splitKey(o)] = o
	}
	snapshot, service := shopOf(t, spec, others...)
	decided := decideSplits(snapshot, nil, splitVersion, service, func(o client.Object) (client.Object, error) { return live[splitKey(o)], nil })
	for _, c := range conflictsOf(decided) {
		conflicts = append(conflicts, c.Field+": "+c.Message)
	}
	for _, d := range decided {
		if d.err != nil {
			t.Fatal(d.err)
		}
		for _, o := range d.objects {
			raw, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, string(raw))
		}
	}
	return made, conflicts
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

// foreignSplit is a TrafficSplit of somebody else, or of whom it is owned by.
func foreignSplit(name, service string, owner *metav1.OwnerReference) *splitv1alpha4.TrafficSplit {
	split := &splitv1alpha4.TrafficSplit{
		TypeMeta:   metav1.TypeMeta{APIVersion: "split.smi-spec.io/v1alpha4", Kind: "TrafficSplit"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       splitv1alpha4.TrafficSplitSpec{Service: service, Backends: []splitv1alpha4.TrafficSplitBackend{{Service: "a-b", Weight: 1}}},
	}
	if owner != nil {
		split.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return split
}

const ruleOfA = `{services: [{name: a, ` + twoVersions + `, routes: [{name: all, to: [{version: v1}, {version: v2}]}]}]}`

// TestForeignSplitLeavesServices: beside somebody else's split there are the Services, which it may name. Which split rules the Service is for the model to
// say: one that names another namespace's does not, and whose a split is says its owner.
func TestForeignSplitLeavesServices(t *testing.T) {
	t.Parallel()
	yes := true
	services, all := []string{"Service a-v1", "Service a-v2"}, []string{"Service a-v1", "Service a-v2", "TrafficSplit a"}
	for name, c := range map[string]struct {
		split *splitv1alpha4.TrafficSplit
		want  []string
	}{
		"a person's":               {foreignSplit("mine", "a", nil), services},
		"of the same name":         {foreignSplit("a", "a", nil), services},
		"a domain name":            {foreignSplit("mine", "a.shop.svc.cluster.local", nil), services},
		"Flagger's":                {foreignSplit("a", "a", &metav1.OwnerReference{APIVersion: "flagger.app/v1beta1", Kind: "Canary", Controller: &yes}), services},
		"another Mesh kind's":      {foreignSplit("a", "a", &metav1.OwnerReference{APIVersion: "mesh.example/v1", Kind: "Mesh", Controller: &yes}), services},
		"of another namespace's a": {foreignSplit("mine", "a.other.svc.cluster.local", nil), all},
		"of another Service":       {foreignSplit("mine", "a-b", nil), all},
	} {
		made, conflicts := outputsOf(t, ruleOfA, "v1alpha4", c.split)
		if diff := cmp.Diff(c.want, names(t, made)); diff != "" || len(conflicts) > 0 {
			t.Errorf("%s: conflicts %q (-want +got):\n%s", name, conflicts, diff)
		}
	}
}

// TestTakenNames: if one of the names is taken, nothing is made of the rule, and of its neighbour everything.
func TestTakenNames(t *testing.T) {
	t.Parallel()
	spec := `{services: [{name: a, ` + twoVersions + `, routes: [{name: all, to: [{version: v1}, {version: v2}]}]},
	  {name: a-b, ` + twoVersions + `, routes: [{name: all, to: [{version: v1}, {version: v2}]}]}]}`
	service := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a-v2"}}
	ours := service.DeepCopy()
	ours.Labels = map[string]string{managedByLabel: managedBy}
	for name, c := range map[string]struct {
		there client.Object
		want  string
	}{
		"Service":                  {service, "Service shop/a-v2 exists and was not made by Tulle, which needs one of that name: rename or delete it"},
		"split of another Service": {foreignSplit("a", "unselected", nil), "TrafficSplit shop/a exists and was not made by Tulle, which needs one of that name: rename or delete it"},
		"what Tulle made":          {ours, ""},
	} {
		made, conflicts := outputsOf(t, spec, "v1alpha4", c.there)
		want, told := []string{"Service a-b-v1", "Service a-b-v2", "TrafficSplit a-b"}, []string{"spec.services[0].routes[0]: " + c.want}
		if c.want == "" {
			want, told = append([]string{"Service a-v1", "Service a-v2", "TrafficSplit a"}, want...), nil
		}
		if diff := cmp.Diff(want, names(t, made)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(told, conflicts); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestUnreadNames: while nobody can tell whether a name is taken, nothing is called a conflict, and what is there is kept.
func TestUnreadNames(t *testing.T) {
	t.Parallel()
	snapshot, service := shopOf(t, ruleOfA)
	decided := decideSplits(snapshot, nil, "v1alpha4", service, func(client.Object) (client.Object, error) { return nil, errors.New("no API server") })
	if len(decided) != 1 || decided[0].err == nil || decided[0].conflict != nil || len(decided[0].objects) != 3 {
		t.Errorf("decided %+v", decided)
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

// TestSplitConflictsAreTold in the status of the Mesh that they are of, and of no other.
func TestSplitConflictsAreTold(t *testing.T) {
	t.Parallel()
	conflicts := []SplitConflict{{"shop", "shop", "spec.services[0].routes[0]", (&ConflictError{Kind: "Service", Namespace: "shop", Name: "a-v1"}).Error()}}
	for name, want := range map[string]int{"shop": 1, "other": 0} {
		if got := WithSplitConflicts(model.MeshReport{Namespace: "shop", Name: name}, conflicts).Problems; len(got) != want {
			t.Errorf("Mesh %s is told %v", name, got)
		}
	}
	if err := unlessEnding(errors.New("x")); err == nil {
		t.Error("an error was lost")
	}
}
