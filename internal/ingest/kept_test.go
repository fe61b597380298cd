package ingest

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
)

// examples returns a Service with its pod and endpoints as a cluster has them, with all that the model reads and much that it doesn't.
func examples() []client.Object {
	started := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	meta := func(name string, labels map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: types.UID("uid of " + name), ResourceVersion: "7", CreationTimestamp: started, Labels: labels,
			Annotations:   map[string]string{"mesh.tulle.dev/metrics": "9090/metrics", "kubectl.kubernetes.io/last-applied-configuration": "{}", "prometheus.io/port": "9090"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
		}
	}
	pod := &corev1.Pod{
		ObjectMeta: meta("web-5d8f-1", map[string]string{"app": "web", "version": "v1"}),
		Spec: corev1.PodSpec{
			NodeName: "node-1", ServiceAccountName: "web", SchedulerName: "default-scheduler", NodeSelector: map[string]string{"kubernetes.io/os": "linux"},
			OS: &corev1.PodOS{Name: corev1.Linux}, Volumes: []corev1.Volume{{Name: "data"}},
			InitContainers: []corev1.Container{{Name: "tulle-proxy", Image: "envoy:1", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}},
			Containers: []corev1.Container{{
				Name: "app", Image: "app:1", Env: []corev1.EnvVar{{Name: "A", Value: "B"}},
				Ports:          []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}, {Name: "metrics", ContainerPort: 9090}},
				LivenessProbe:  &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}},
				Resources:      corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 5},
			}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.244.0.1", PodIPs: []corev1.PodIP{{IP: "10.244.0.1"}, {IP: "fd00::1"}}, HostIPs: []corev1.HostIP{{IP: "192.0.2.1"}},
			StartTime: &started, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "app", Ready: true}},
		},
	}
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d8f", Controller: new(true)}}
	service := &corev1.Service{ObjectMeta: meta("web", nil), Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}, Selector: map[string]string{"app": "web"},
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")}},
	}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  meta("web-1", map[string]string{discoveryv1.LabelServiceName: "web"}),
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.244.0.1"}, Zone: new("a"), NodeName: new("node-1"), TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod.Name, UID: pod.UID},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
		}},
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{corev1.LabelTopologyZone: "a"}},
		Spec:       corev1.NodeSpec{PodCIDR: "10.244.0.0/24", PodCIDRs: []string{"10.244.0.0/24"}, Taints: []corev1.Taint{{Key: "k"}}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
			Images: []corev1.ContainerImage{{Names: []string{"app:1"}}}},
	}
	return []client.Object{&v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop", UID: "1"}}, service, pod, slice, node}
}

// The model makes the same of what informers trim, and of what is packed and unpacked after that, as of whole objects.
func TestNothingIsTrimmedThatTheModelReads(t *testing.T) {
	built := func(change func(client.Object) client.Object) *model.Snapshot {
		b := model.NewBuilder(model.Config{OperatorNamespace: "tulle-system", EnvoyImage: "envoy"})
		for _, o := range examples() {
			b.Set(change(o))
		}
		return b.Snapshot()
	}
	trim := func(o client.Object) client.Object {
		for kind, by := range ByObject() {
			if reflect.TypeOf(kind) == reflect.TypeOf(o) {
				out, err := by.Transform(o)
				if err != nil {
					t.Fatal(err)
				}
				return out.(client.Object)
			}
		}
		return o
	}
	whole := built(func(o client.Object) client.Object { return o })
	for name, s := range map[string]*model.Snapshot{
		"trimmed": built(trim),
		"packed":  built(func(o client.Object) client.Object { return keep(trim(o)).get() }),
	} {
		t.Run(name, func(t *testing.T) {
			key := model.ServiceKey{Namespace: "shop", Name: "web"}
			workload := model.WorkloadKey{Namespace: "shop", Name: "web-5d8f-1"}
			want, got := whole.Reader(), s.Reader()
			if want.Workload(workload) == nil || len(want.Endpoints(key).Ports) == 0 || want.Workload(workload).Zone != "a" {
				t.Fatalf("the example says too little: %+v, %+v", want.Workload(workload), want.Endpoints(key))
			}
			for what, pair := range map[string][2]any{
				"workload":  {want.Workload(workload), got.Workload(workload)},
				"service":   {want.Service(key), got.Service(key)},
				"endpoints": {want.Endpoints(key), got.Endpoints(key)},
				"mesh-wide": {want.MeshWide(), got.MeshWide()},
				"reports":   {whole.Meshes(), s.Meshes()},
			} {
				if !reflect.DeepEqual(pair[0], pair[1]) {
					t.Errorf("%s: %+v of whole objects, %+v of these", what, pair[0], pair[1])
				}
			}
		})
	}
}

// Pods and EndpointSlices are most of a cluster's objects: of them only the packed form stays.
func TestWhatNoInformerKeepsIsPacked(t *testing.T) {
	for _, o := range examples() {
		k := keep(o)
		_, isPod := o.(*corev1.Pod)
		_, isSlice := o.(*discoveryv1.EndpointSlice)
		if packed := k.object == nil; packed != (isPod || isSlice) {
			t.Errorf("%T: packed is %v", o, packed)
		}
		if got := k.get(); got.GetName() != o.GetName() || reflect.TypeOf(got) != reflect.TypeOf(o) {
			t.Errorf("%T %s became %T %s", o, o.GetName(), got, got.GetName())
		}
	}
	if o := (kept{}).get(); o != nil {
		t.Errorf("of nothing became %v", o)
	}
}
