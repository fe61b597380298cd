// Package inject adds the proxy to a pod. It is pure: a pod as the API server sent it and the settings of its namespace
// go in, a JSON patch comes out.
//
// The patch names only what it changes, so fields of the pod that this version of Tulle does not know stay as they are.
package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Result is what injection makes of a pod.
type Result struct {
	// Patch is a JSON patch (RFC 6902); nil when there is nothing to change.
	Patch []byte
	// LeftOut says why the pod gets no sidecar; empty when it gets, or has, one.
	LeftOut string
	// Warnings are for who creates the pod.
	Warnings []string
}

// RefusedError says why a pod can't be in the mesh and what to do about it.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// Inject returns the patch that gives a pod its sidecar. Applied to a pod that has it, it returns none, or one for what
// others added to the pod since. The error is a *RefusedError when the pod can't be in the mesh; otherwise the JSON is
// not a pod, or Envoy would not accept the settings.
func Inject(raw []byte, s Settings) (Result, error) {
	pod, err := decode(raw)
	if err != nil {
		return Result{}, err
	}
	if why, err := leftOut(pod, s); why != "" || err != nil {
		return Result{LeftOut: why}, err
	}
	parts, err := sidecarOf(s)
	if err != nil {
		return Result{}, err
	}
	if err := refuse(pod, parts); err != nil {
		return Result{}, err
	}
	var p patch
	probes := rewriteProbes(&p, pod)
	if injected(pod) {
		if len(p) > 0 {
			err = annotate(&p, pod, nil, probes)
		}
	} else {
		annotations := metricsAnnotations(pod)
		annotations[sidecar.VersionAnnotation] = parts.version
		annotations[sidecar.SkipDetectionAnnotation] = ports(s.SkipDetection)
		err = annotate(&p, pod, annotations, probes)
		addSidecar(&p, pod, parts)
	}
	if err != nil {
		return Result{}, err
	}
	out, err := p.json()
	return Result{Patch: out, Warnings: warnings(pod)}, err
}

// decode reads a pod without regard for fields that it does not know, and with regard for case, as the API server does.
func decode(raw []byte) (*corev1.Pod, error) {
	var pod corev1.Pod
	var has struct {
		Metadata map[string]json.RawMessage `json:"metadata"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &pod); err != nil {
		return nil, fmt.Errorf("not a Pod in JSON: %w", err)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &has); err != nil {
		return nil, fmt.Errorf("not a Pod in JSON: %w", err)
	}
	if pod.Kind != "" && pod.Kind != "Pod" {
		return nil, fmt.Errorf("not a Pod: its kind is %q", pod.Kind)
	}
	if has.Metadata == nil {
		return nil, errors.New("not a Pod: it has no metadata")
	}
	if len(pod.Spec.Containers) == 0 {
		return nil, errors.New("not a Pod: it has no containers")
	}
	return &pod, nil
}

// leftOut says why a pod gets no sidecar; empty when it gets one.
func leftOut(pod *corev1.Pod, s Settings) (string, error) {
	switch {
	case pod.Labels[sidecar.InjectLabel] == "false":
		return "its label " + sidecar.InjectLabel + " is false", nil
	case pod.Spec.HostNetwork:
		return "it uses the node's network (hostNetwork)", nil
	case pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows, pod.Spec.NodeSelector[corev1.LabelOSStable] == string(corev1.Windows):
		return "it runs on Windows", nil
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return "it is the mirror of a static pod, which runs already", nil
	case s.Selects == nil:
		return "", nil
	}
	selected, err := s.Selects(pod)
	switch {
	case err != nil:
		return "", &RefusedError{err.Error()}
	case !selected:
		return "spec.proxy.podSelector of its Mesh does not select it", nil
	}
	return "", nil
}

// injected reports whether the pod has its sidecar. The annotation alone may come from a copied manifest.
func injected(pod *corev1.Pod) bool {
	return pod.Annotations[sidecar.VersionAnnotation] != "" && hasProxy(pod)
}

// hasProxy goes by the container alone: the annotations of a running pod can be changed.
func hasProxy(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == sidecar.ProxyContainer })
}

func warnings(pod *corev1.Pod) []string {
	all := probeWarnings(pod)
	if pod.Spec.DNSPolicy == corev1.DNSDefault {
		all = append(all, "dnsPolicy Default: the proxy finds the control plane by the cluster's DNS and will not start without it: use ClusterFirst")
	}
	if deref(pod.Spec.ShareProcessNamespace) || pod.Spec.HostPID {
		all = append(all, fmt.Sprintf("the pod's containers see the proxy's processes (shareProcessNamespace or hostPID): as root or user %d they reach its token and its "+
			"admin interface: do without, unless all of them may act as the pod's service account", sidecar.UID))
	}
	for _, c := range apps(pod) {
		for _, p := range c.Ports {
			switch p.ContainerPort {
			case sidecar.OutboundPort, sidecar.InboundPort, sidecar.StatsPort, sidecar.ProbePort:
				all = append(all, fmt.Sprintf("container %s: port %d is the proxy's in this pod, the app can't listen on it: use another", c.Name, p.ContainerPort))
			}
		}
	}
	return all
}

// annotate records what was injected, for the control plane.
func annotate(p *patch, pod *corev1.Pod, annotations map[string]string, probes []sidecar.Probe) error {
	if annotations == nil {
		annotations = map[string]string{}
	}
	if len(probes) > 0 {
		raw, err := json.Marshal(probes)
		if err != nil {
			return fmt.Errorf("probes: %w", err)
		}
		annotations[sidecar.ProbesAnnotation] = string(raw)
	} else if _, stale := pod.Annotations[sidecar.ProbesAnnotation]; stale {
		p.remove("metadata", "annotations", sidecar.ProbesAnnotation)
	}
	keys := make([]string, 0, len(annotations))
	for key := range annotations {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	set(p, pod.Annotations, annotations, keys, "metadata", "annotations")
	return nil
}

// addSidecar adds containers and volumes; the proxy goes before the pod's own init containers, and what redirects
// their traffic to it goes first.
func addSidecar(p *patch, pod *corev1.Pod, parts parts) {
	if len(pod.Spec.InitContainers) == 0 {
		p.add([]corev1.Container{parts.Init, parts.Proxy}, "spec", "initContainers")
	} else {
		p.add(parts.Proxy, "spec", "initContainers", "0")
		p.add(parts.Init, "spec", "initContainers", "0")
	}
	if len(pod.Spec.Volumes) == 0 {
		p.add(parts.Volumes, "spec", "volumes")
		return
	}
	for _, v := range parts.Volumes {
		p.add(v, "spec", "volumes", "-")
	}
}

func ports(list []uint16) string {
	items := make([]string, len(list))
	for i, port := range list {
		items[i] = strconv.Itoa(int(port))
	}
	return strings.Join(items, ",")
}
