package peers

import (
	corev1 "k8s.io/api/core/v1"
)

// Live says whether a pod of the operator is a replica that may have proxies, and so has to be asked. Its container runs, and has passed its
// startup probe, without which no Service sends it a proxy. Whether it is ready now does not matter: proxies stay connected to one that is
// not, or that the API server has lost sight of.
func Live(pod *corev1.Pod) bool {
	if pod.Status.PodIP == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return false
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.Name == Container && c.State.Running != nil && c.Started != nil && *c.Started {
			return true
		}
	}
	return false
}

// Container is the operator's container in its pods.
const Container = "manager"
