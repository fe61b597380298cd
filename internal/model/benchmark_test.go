package model

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

const podsPerService = 10

// cluster returns Services with ten pods each, a hundred of them in a namespace that has a Mesh.
func cluster(services int) []runtime.Object {
	var objects []runtime.Object
	for i := range services {
		ns := fmt.Sprintf("ns-%d", i/100)
		if i%100 == 0 {
			objects = append(objects, &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "mesh"}})
		}
		labels := map[string]string{"app": fmt.Sprint("s-", i), "part-of": "all"}
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("s-", i)}}
		s.Spec.ClusterIP = fmt.Sprintf("10.%d.%d.%d", 96+i>>16, i>>8&255, i&255)
		s.Spec.Selector = labels
		s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: s.Name, Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
		}
		objects = append(objects, s)
		for j := range podsPerService {
			p := clusterPod(ns, i, j, labels)
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.Status.PodIP}})
			objects = append(objects, p)
		}
		objects = append(objects, slice)
	}
	return objects
}

func clusterPod(ns string, service, n int, labels map[string]string) *corev1.Pod {
	i := service*podsPerService + n
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("s-%d-%d", service, n), Labels: labels}}
	p.Spec.Containers = []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}}
	p.Spec.InitContainers = []corev1.Container{{Name: "tulle-proxy", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
	p.Status.PodIP = fmt.Sprintf("10.%d.%d.%d", 128+i>>16, i>>8&255, i&255)
	return p
}

func built(objects []runtime.Object) *Builder {
	b := NewBuilder(testConfig())
	for _, o := range objects {
		b.Set(o)
	}
	b.Snapshot()
	return b
}

func BenchmarkBuild(b *testing.B) {
	objects := cluster(10_000)
	b.ReportAllocs()
	for b.Loop() {
		built(objects)
	}
}

// The cost of a small change should not depend on the size of the mesh: compare the sizes.
func BenchmarkEndpointChange(b *testing.B) {
	for _, services := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			objects := cluster(services)
			builder := built(objects)
			slice := objects[len(objects)-1].(*discoveryv1.EndpointSlice)
			b.ReportAllocs()
			for ready := false; b.Loop(); ready = !ready {
				changed := slice.DeepCopy()
				changed.Endpoints[3].Conditions.Ready = &ready
				builder.Set(changed)
				builder.Snapshot()
			}
		})
	}
}

func BenchmarkPodChange(b *testing.B) {
	for _, services := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			objects := cluster(services)
			builder := built(objects)
			pod := objects[len(objects)-2].(*corev1.Pod)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				changed := pod.DeepCopy()
				changed.Spec.ServiceAccountName = fmt.Sprint("account-", n%2)
				builder.Set(changed)
				builder.Snapshot()
			}
		})
	}
}
