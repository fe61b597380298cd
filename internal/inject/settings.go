package inject

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Installation is what is the same for all pods as long as the operator runs.
type Installation struct {
	// InitImage is the operator's own image, which also holds the init container's program.
	InitImage string
	// ControlPlaneHost and ControlPlanePort are where proxies find the control plane.
	ControlPlaneHost string
	ControlPlanePort uint32
}

// Settings are what the pods of one namespace get.
type Settings struct {
	Installation
	// ProxyImage is the image of the stock Envoy.
	ProxyImage string
	// Concurrency is the number of Envoy's worker threads.
	Concurrency int32
	// LogLevel has Envoy's own lower-case name.
	LogLevel string
	// DrainDuration is counted by Envoy in whole seconds.
	DrainDuration time.Duration
	// Resources of the proxy; nil means the default (see defaultResources).
	Resources *corev1.ResourceRequirements
	// Selects reports whether a pod is to have a sidecar; an error refuses the pod. nil means all pods.
	Selects func(*corev1.Pod) (bool, error)
	// SkipDetection are the ports, sorted, on which a new proxy does not detect the protocol.
	SkipDetection []uint16
}

// For returns the settings of a namespace that is in the mesh.
func For(i Installation, n *model.Namespace, w *model.MeshWide) Settings {
	return Settings{
		Installation:  i,
		ProxyImage:    w.EnvoyImage,
		Concurrency:   n.Proxy.Concurrency,
		LogLevel:      n.Proxy.LogLevel,
		DrainDuration: n.Proxy.DrainDuration,
		Resources:     n.Proxy.Resources,
		Selects:       n.Selects,
		SkipDetection: n.SkipDetection(w),
	}
}

// Version returns the hash of what pods get. A pod that has another one must be restarted to become current. What is not
// part of it: the ports without detection, which grow with the namespace's Services, and what differs from pod to pod.
func Version(s Settings) (string, error) {
	parts, err := sidecarOf(s)
	if err != nil {
		return "", err
	}
	return parts.version, nil
}

// oldest is the first Kubernetes whose native sidecars are on by default.
const oldest = "1.29.0"

// Supported returns an error that says what to do when a Kubernetes of the given version (such as v1.29.3) has no
// native sidecars: no pod may be injected there.
func Supported(gitVersion string) error {
	v, err := version.ParseGeneric(gitVersion)
	if err != nil {
		return fmt.Errorf("kubernetes version %q: %w", gitVersion, err)
	}
	if v.LessThan(version.MustParseGeneric(oldest)) {
		return fmt.Errorf("kubernetes %s has no native sidecars (init containers with restartPolicy Always), so no pod is injected: upgrade the cluster to 1.29 or newer", gitVersion)
	}
	return nil
}

// defaultResources reserve what a proxy with little to do holds, and set no limits: one of memory cuts the app's
// connections when it is hit, one of CPU delays them. Envoy 1.40 with two workers and nothing to do holds 15 MB of its
// own, and 67 MB with the pages of its program, which proxies of a node share.
func defaultResources() corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("10m"),
		corev1.ResourceMemory: resource.MustParse("64Mi"),
	}}
}

func hash(v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("sidecar: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8]), nil
}
