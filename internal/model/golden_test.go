package model

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	specsv1alpha4 "github.com/tulle-mesh/tulle/api/smi/specs/v1alpha4"
	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden reads manifests and compares the snapshot of them, in words, with the golden file. EndpointSlices of Services
// that the file has none of are made as Kubernetes makes them, from the selector and the pods.
func TestGolden(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no inputs", err)
	}
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := NewBuilder(testConfig())
			for _, object := range withSlices(readManifests(t, input)) {
				b.Set(object)
			}
			compareGolden(t, strings.TrimSuffix(input, ".in.yaml")+".out.yaml", dump(t, b.Snapshot()))
		})
	}
}

func testConfig() Config {
	return Config{OperatorNamespace: "tulle-system", EnvoyImage: "envoy:built-in"}
}

func compareGolden(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", golden, diff)
	}
}

func readManifests(t *testing.T, path string) []runtime.Object {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parseManifests(t, path, raw)
}

func parseManifests(t *testing.T, path string, raw []byte) []runtime.Object {
	t.Helper()
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme, splitv1alpha4.AddToScheme, specsv1alpha4.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(raw)))
	buffer := make([]byte, len(raw)+1)
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, decode(t, decoder, path, buffer[:n]))
	}
}

func decode(t *testing.T, decoder runtime.Decoder, path string, document []byte) runtime.Object {
	t.Helper()
	var meta metav1.PartialObjectMetadata
	if err := yaml.Unmarshal(document, &meta); err == nil && meta.Kind == "ReplicaSet" {
		return &meta
	}
	object, _, err := decoder.Decode(document, nil, nil)
	if err != nil {
		t.Fatalf("%s: %v\n%s", path, err, document)
	}
	return object
}

// withSlices adds the EndpointSlices that Kubernetes would make.
func withSlices(objects []runtime.Object) []runtime.Object {
	listed := map[ServiceKey]bool{}
	var pods []*corev1.Pod
	for _, object := range objects {
		switch o := object.(type) {
		case *discoveryv1.EndpointSlice:
			listed[ServiceKey{Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}] = true
		case *corev1.Pod:
			pods = append(pods, o)
		}
	}
	for _, object := range objects {
		if s, ok := object.(*corev1.Service); ok && len(s.Spec.Selector) > 0 && !listed[serviceKey(s)] {
			for i, p := range pods {
				if p.Namespace == s.Namespace && includes(p.Labels, s.Spec.Selector) {
					objects = append(objects, podSlice(fmt.Sprintf("%s-%d", s.Name, i), s, p))
				}
			}
		}
	}
	return objects
}

// podSlice lists one pod.
func podSlice(name string, s *corev1.Service, p *corev1.Pod) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: name,
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	facts := readPod(p)
	if facts == nil || len(facts.addresses) == 0 {
		return slice
	}
	if facts.addresses[0].Is6() {
		slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, port := range s.Spec.Ports {
		number := port.TargetPort.IntVal
		if target, ok := facts.target(servicePort{port.Name, uint16(port.Port), port.TargetPort, ""}); ok {
			number = int32(target)
		}
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &port.Name, Port: &number, Protocol: &port.Protocol})
	}
	ready := p.DeletionTimestamp == nil
	serving, terminating := true, !ready
	slice.Endpoints = []discoveryv1.Endpoint{{
		Addresses:  []string{facts.addresses[0].String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name},
	}}
	return slice
}
