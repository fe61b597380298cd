package inject

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// remedy ends the messages about pods that have a choice.
const remedy = `or leave the pod out with the label ` + sidecar.InjectLabel + `: "false"`

// refuse returns a *RefusedError when the pod would not work, or would get around its proxy or into it. It is no wall against
// who may run root or NET_ADMIN in the pod: such a container reaches everything in it whatever its pod says.
func refuse(pod *corev1.Pod, s parts) error {
	if injected(pod) {
		if err := genuine(pod, s); err != nil {
			return err
		}
	} else if err := reserved(pod); err != nil {
		return err
	}
	for _, c := range apps(pod) {
		if err := refuseContainer(pod, c.Name, c.SecurityContext, c.VolumeMounts); err != nil {
			return err
		}
	}
	return nil
}

// RefuseEphemeral returns a *RefusedError when an ephemeral container of a pod that has its sidecar would get around the proxy
// or into it; the pod is as the API server would store it. Any other error means that the JSON is not a pod.
func RefuseEphemeral(raw []byte) error {
	pod, err := decode(raw)
	if err != nil || !hasProxy(pod) {
		return err
	}
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		if err := refuseContainer(pod, c.Name, c.SecurityContext, c.VolumeMounts); err != nil {
			return err
		}
	}
	return nil
}

// refuseContainer refuses one of the pod's own containers.
func refuseContainer(pod *corev1.Pod, name string, security *corev1.SecurityContext, mounts []corev1.VolumeMount) error {
	if user := runAsUser(pod, security); user != nil && *user == sidecar.UID {
		return refused("container %s runs as user %d, as the mesh's proxy does, whose traffic is not redirected: give it another securityContext.runAsUser, %s",
			name, sidecar.UID, remedy)
	}
	for _, m := range mounts {
		// The volume itself comes with injection, so the API server would find nothing wrong.
		if m.Name == credentialsVolume || m.Name == adminVolume {
			return refused("container %s mounts the volume %s, which only the mesh's proxy may: remove the mount, %s", name, m.Name, remedy)
		}
	}
	return nil
}

// reserved refuses a pod without a sidecar that takes its names.
func reserved(pod *corev1.Pod) error {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if ours(list[i].Name) {
				return refused("container %s: the name is reserved for the mesh: rename the container, %s", list[i].Name, remedy)
			}
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.Name == credentialsVolume || v.Name == adminVolume {
			return refused("volume %s: the name is reserved for the mesh: rename the volume, %s", v.Name, remedy)
		}
	}
	return nil
}

// genuine refuses a pod that says it has its sidecar and has another than it would get. What others may rightly change since, such
// as images (a mirror), resources, environment and mounts, does not count.
func genuine(pod *corev1.Pod, want parts) error {
	const retry = "remove the containers " + sidecar.InitContainer + " and " + sidecar.ProxyContainer + ", the volumes " + credentialsVolume + " and " + adminVolume +
		" and the annotation " + sidecar.VersionAnnotation + " from the pod; the mesh adds its own"
	for i := range pod.Spec.Containers {
		if name := pod.Spec.Containers[i].Name; ours(name) {
			return refused("container %s: the name is reserved for the mesh: rename the container, %s", name, remedy)
		}
	}
	for _, w := range []*corev1.Container{&want.Init, &want.Proxy} {
		i := slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == w.Name })
		if i < 0 {
			return refused("the pod has a sidecar without the container %s: %s", w.Name, retry)
		}
		if field := differs(&pod.Spec.InitContainers[i], w); field != "" {
			return refused("container %s: its %s is not what the mesh gives this pod: %s", w.Name, field, retry)
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.Name == credentialsVolume && v.Projected == nil || v.Name == adminVolume && v.EmptyDir == nil {
			return refused("volume %s is not what the mesh gives this pod: %s", v.Name, retry)
		}
	}
	return nil
}

// differs names the first field that makes a container something else than the one of the mesh; empty when there is none.
func differs(got, want *corev1.Container) string {
	security := deref(got.SecurityContext)
	switch wanted := want.SecurityContext; {
	case !slices.Equal(got.Command, want.Command):
		return "command"
	case !slices.Equal(got.Args, want.Args):
		return "args"
	case deref(got.RestartPolicy) != deref(want.RestartPolicy):
		return "restartPolicy"
	case got.Lifecycle != nil:
		return "lifecycle"
	case security.RunAsUser == nil || *security.RunAsUser != *wanted.RunAsUser:
		return "securityContext.runAsUser"
	case deref(security.Privileged):
		return "securityContext.privileged"
	case security.Capabilities == nil || !slices.Equal(security.Capabilities.Add, wanted.Capabilities.Add):
		return "securityContext.capabilities"
	case want.StartupProbe != nil && (got.StartupProbe == nil || got.StartupProbe.HTTPGet == nil || got.StartupProbe.HTTPGet.Path != want.StartupProbe.HTTPGet.Path):
		return "startupProbe"
	}
	return ""
}

// apps are the containers of a pod that are not the mesh's.
func apps(pod *corev1.Pod) []*corev1.Container {
	var own []*corev1.Container
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; !ours(c.Name) {
			own = append(own, c)
		}
	}
	for i := range pod.Spec.Containers {
		own = append(own, &pod.Spec.Containers[i])
	}
	return own
}

func ours(name string) bool { return name == sidecar.ProxyContainer || name == sidecar.InitContainer }

func refused(format string, args ...any) error {
	return &RefusedError{fmt.Sprintf(format, args...)}
}

func runAsUser(pod *corev1.Pod, security *corev1.SecurityContext) *int64 {
	if security != nil && security.RunAsUser != nil {
		return security.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
