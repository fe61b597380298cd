package envoy

import (
	"encoding/json"
	"fmt"

	jsonpatch "github.com/evanphx/json-patch/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// inject does what the webhook does for pods that are new. While the control plane is stopped, none gets a sidecar.
func (w *World) inject() error {
	if w.replica == nil {
		return nil
	}
	w.publish()
	for _, r := range w.refs("Pod") {
		pod := w.objects[r].(*corev1.Pod)
		if w.pods[r] != nil || injected(pod) {
			continue
		}
		patched, err := w.injectPod(pod)
		if err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
		w.objects[r] = patched
		w.replica.set(patched)
	}
	return nil
}

func (w *World) injectPod(pod *corev1.Pod) (*corev1.Pod, error) {
	reader := w.replica.snapshot.Load().Reader()
	namespace := reader.Namespace(pod.Namespace)
	if !namespace.Meshed {
		return pod, nil
	}
	settings := inject.For(inject.Installation{
		InitImage: "tulle.dev/operator:dev", ControlPlaneHost: controlPlaneName, ControlPlanePort: controlPlanePort,
	}, namespace, reader.MeshWide())
	raw, err := json.Marshal(pod)
	if err != nil {
		return nil, err
	}
	result, err := inject.Inject(raw, settings)
	if err != nil || result.Patch == nil {
		return pod, err
	}
	patch, err := jsonpatch.DecodePatch(result.Patch)
	if err != nil {
		return nil, err
	}
	if raw, err = patch.Apply(raw); err != nil {
		return nil, err
	}
	patched := new(corev1.Pod)
	return patched, json.Unmarshal(raw, patched)
}

// injected reports whether a pod has a sidecar, as the control plane sees it.
func injected(pod *corev1.Pod) bool { return pod.Annotations[sidecar.VersionAnnotation] != "" }

func namespaceObject(name string) *corev1.Namespace {
	return &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
	}
}
