package inject

import (
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// The kubelet has no certificate, so under Strict its HTTP probes go to the proxy's probe port, which forwards them to the app.
// The same holds for the HTTP hooks of a container's lifecycle.
//
// Probes by tcpSocket and grpc stay as they are; Result.Warnings names them.

// call is one HTTP request that the kubelet makes to a container.
type call struct {
	kind string
	// path of the httpGet in the container.
	path []string
	get  *corev1.HTTPGetAction
	// timeout in seconds; 0 for a hook, which only the pod's grace period bounds.
	timeout int32
}

// rewriteProbes points the containers' HTTP probes at the proxy. It returns all rewritten probes, those of earlier
// injections first.
func rewriteProbes(p *patch, pod *corev1.Pod) []sidecar.Probe {
	probes := recordedProbes(pod)
	for _, list := range []struct {
		field      string
		containers []corev1.Container
	}{{"initContainers", pod.Spec.InitContainers}, {"containers", pod.Spec.Containers}} {
		for i := range list.containers {
			c := &list.containers[i]
			if c.Name == sidecar.ProxyContainer || c.Name == sidecar.InitContainer {
				continue
			}
			for _, call := range callsOf(c) {
				port, ok := portOf(c, call.get.Port)
				// With a host of its own, the kubelet does not call the pod. A port that does not resolve is the kubelet's to report.
				if call.get.Host != "" || !ok || port == sidecar.ProbePort {
					continue
				}
				path := fmt.Sprintf("/%s/%s", c.Name, call.kind)
				probes = append(probes, sidecar.Probe{
					Path: path, Port: port, TargetPath: call.get.Path, Scheme: scheme(call.get), TimeoutSeconds: call.timeout,
				})
				redirect(p, append([]string{"spec", list.field, strconv.Itoa(i)}, call.path...), path)
			}
		}
	}
	return probes
}

// redirect changes only where the request goes; its headers, and fields that we don't know, stay.
func redirect(p *patch, httpGet []string, path string) {
	at := func(field string) []string { return append(httpGet[:len(httpGet):len(httpGet)], field) }
	p.add(path, at("path")...)
	p.add(sidecar.ProbePort, at("port")...)
	p.add(corev1.URISchemeHTTP, at("scheme")...)
}

func callsOf(c *corev1.Container) []call {
	var calls []call
	for _, probe := range []struct {
		kind, field string
		probe       *corev1.Probe
	}{
		{"startup", "startupProbe", c.StartupProbe},
		{"liveness", "livenessProbe", c.LivenessProbe},
		{"readiness", "readinessProbe", c.ReadinessProbe},
	} {
		if probe.probe != nil && probe.probe.HTTPGet != nil {
			// The API server's default, which a pod may not have yet.
			timeout := max(probe.probe.TimeoutSeconds, 1)
			calls = append(calls, call{probe.kind, []string{probe.field, "httpGet"}, probe.probe.HTTPGet, timeout})
		}
	}
	if c.Lifecycle == nil {
		return calls
	}
	if h := c.Lifecycle.PostStart; h != nil && h.HTTPGet != nil {
		calls = append(calls, call{"poststart", []string{"lifecycle", "postStart", "httpGet"}, h.HTTPGet, 0})
	}
	if h := c.Lifecycle.PreStop; h != nil && h.HTTPGet != nil {
		calls = append(calls, call{"prestop", []string{"lifecycle", "preStop", "httpGet"}, h.HTTPGet, 0})
	}
	return calls
}

// portOf resolves a port as the kubelet does: by the container's own ports.
func portOf(c *corev1.Container, port intstr.IntOrString) (int32, bool) {
	if port.Type == intstr.Int {
		return port.IntVal, port.IntVal > 0 && port.IntVal <= 65535
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return p.ContainerPort, true
		}
	}
	n, err := strconv.ParseUint(port.StrVal, 10, 16)
	return int32(n), err == nil && n > 0
}

func scheme(get *corev1.HTTPGetAction) string {
	if get.Scheme == corev1.URISchemeHTTPS {
		return string(corev1.URISchemeHTTPS)
	}
	return ""
}

// recordedProbes are those that an earlier call for the same pod rewrote; the containers that others added since come on top.
func recordedProbes(pod *corev1.Pod) []sidecar.Probe {
	var probes []sidecar.Probe
	if !injected(pod) || json.Unmarshal([]byte(pod.Annotations[sidecar.ProbesAnnotation]), &probes) != nil {
		return nil
	}
	return probes
}

// probeWarnings names the probes that the proxy gets in the way of.
func probeWarnings(pod *corev1.Pod) []string {
	var warnings []string
	warn := func(c *corev1.Container, kind string, probe *corev1.Probe) {
		if probe == nil {
			return
		}
		switch {
		case probe.TCPSocket != nil && probe.TCPSocket.Host == "":
			warnings = append(warnings, fmt.Sprintf("container %s: the proxy accepts the tcpSocket %s probe whether the app listens or not: use httpGet", c.Name, kind))
		case probe.GRPC != nil:
			warnings = append(warnings, fmt.Sprintf("container %s: the grpc %s probe has no certificate and fails on a port with mTLS mode Strict: use httpGet, or give the port another mode", c.Name, kind))
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			warn(c, "startup", c.StartupProbe)
			warn(c, "liveness", c.LivenessProbe)
			warn(c, "readiness", c.ReadinessProbe)
		}
	}
	return warnings
}
