package envoy

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// bare is a world without a fabric and a control plane: only what an API server holds.
func bare(t *testing.T, yaml string) *World {
	t.Helper()
	w := &World{t: t, objects: map[ref]client.Object{}, pods: map[ref]*Pod{}}
	var err error
	if w.decoder, err = newDecoder(); err != nil {
		t.Fatal(err)
	}
	objects, err := w.decoder.manifests([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if err := w.write(o); err != nil {
			t.Fatal(err)
		}
	}
	w.writeSlices()
	return w
}

const shopYAML = `
# a comment of its own
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec:
  clusterIPs: [10.96.0.5, "fd00:96::5"]
  selector: {app: a}
  ports: [{port: 80, targetPort: web}]
---
apiVersion: v1
kind: Pod
metadata: {name: a-1, namespace: shop, labels: {app: a}}
spec: {containers: [{name: app, ports: [{name: web, containerPort: 8080}]}]}
`

func TestWorldPlaysTheCluster(t *testing.T) {
	w := bare(t, shopYAML)
	pod := w.objects[ref{"Pod", "shop", "a-1"}].(*corev1.Pod)
	if len(pod.Status.PodIPs) != 2 || pod.Spec.ServiceAccountName != "default" || pod.UID == "" || pod.CreationTimestamp.IsZero() {
		t.Errorf("pod: %+v", pod)
	}
	if w.objects[ref{"Namespace", "", "shop"}] == nil {
		t.Error("the namespace was not made")
	}
	for i, name := range []string{"a-ipv4", "a-ipv6"} {
		slice, ok := w.objects[ref{"EndpointSlice", "shop", name}].(*discoveryv1.EndpointSlice)
		if !ok {
			t.Fatalf("no EndpointSlice %s: %v", name, sortedRefs(w.objects))
		}
		if len(slice.Endpoints) != 1 || slice.Endpoints[0].Addresses[0] != pod.Status.PodIPs[i].IP || *slice.Ports[0].Port != 8080 {
			t.Errorf("%s: %+v", name, slice)
		}
	}
	w.remove(ref{"Service", "shop", "a"})
	w.writeSlices()
	if left := w.refs("EndpointSlice"); len(left) > 0 {
		t.Errorf("slices of the deleted Service: %v", left)
	}
}

func TestManifestsAreReadStrictly(t *testing.T) {
	d, err := newDecoder()
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.manifests([]byte("apiVersion: mesh.tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\nspec: {mtlss: {}}\n"))
	if err == nil || !strings.Contains(err.Error(), "mtlss") {
		t.Errorf("error %v, want one about the unknown field", err)
	}
}
