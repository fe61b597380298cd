package e2e

import (
	"fmt"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	systemNamespace = "tulle-system"
	managers        = "deployment/tulle-manager"
)

// holder is who holds the lease: a pod's name and what sets its processes apart.
func (c *cluster) holder() string {
	c.t.Helper()
	var lease coordinationv1.Lease
	if err := c.client.Get(c.t.Context(), client.ObjectKey{Namespace: systemNamespace, Name: "tulle"}, &lease); err != nil {
		c.t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// replicas returns the control plane's pods: the one that leads, and another.
func (c *cluster) replicas() (leader, follower corev1.Pod) {
	c.t.Helper()
	found := false
	c.eventually("two replicas, of which one leads", func() bool {
		name, _, _ := strings.Cut(c.holder(), "_")
		var list corev1.PodList
		if err := c.client.List(c.t.Context(), &list, client.InNamespace(systemNamespace), client.MatchingLabels{"app.kubernetes.io/component": "manager"}); err != nil {
			c.t.Fatal(err)
		}
		found = false
		for _, pod := range list.Items {
			if pod.Name == name {
				leader, found = pod, true
			} else {
				follower = pod
			}
		}
		return found && len(list.Items) == 2
	})
	return leader, follower
}

// makeTrouble runs the trouble program on a pod's node, and returns the pod that makes it.
func (c *cluster) makeTrouble(node string, args ...string) string {
	c.t.Helper()
	name := "trouble-" + rand.String(5)
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: trouble, mesh.tulle.dev/inject: "false"}}
spec:
  nodeName: %s
  hostNetwork: true
  hostPID: %t
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  containers:
  - name: app
    image: tulle.dev/trouble:dev
    imagePullPolicy: IfNotPresent
    args: [%s]
    securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [KILL, NET_ADMIN]}}`, name, node, args[0] == "kill", list(args)))
	return name
}

// kill ends a pod's container by SIGKILL.
func (c *cluster) kill(pod corev1.Pod) {
	c.t.Helper()
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	c.wait("jsonpath={.status.phase}=Succeeded", "pod/"+c.makeTrouble(pod.Spec.NodeName, "kill", "-container="+id))
}

// cutAll is cut for several addresses.
func (c *cluster) cutAll(pod corev1.Pod, addresses []string, work func()) {
	c.t.Helper()
	if len(addresses) == 0 {
		work()
		return
	}
	c.cut(pod, addresses[0], func() { c.cutAll(pod, addresses[1:], work) })
}

// cut drops all packets between a pod, by its own address of the same family, and an address while work is done.
func (c *cluster) cut(pod corev1.Pod, address string, work func()) {
	c.t.Helper()
	own := slices.IndexFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return strings.Contains(ip.IP, ":") == strings.Contains(address, ":") })
	if own < 0 {
		c.t.Fatalf("pod %s has no address of the family of %s: %v", pod.Name, address, pod.Status.PodIPs)
	}
	trouble := c.makeTrouble(pod.Spec.NodeName, "cut", "-between="+pod.Status.PodIPs[own].IP, "-and="+address)
	c.eventually("the cut", func() bool {
		log, err := c.try(nil, "logs", trouble)
		return err == nil && strings.Contains(log, "cut")
	})
	work()
	c.kubectl("exec", trouble, "--", "trouble", "mend")
	c.wait("jsonpath={.status.phase}=Succeeded", "pod/"+trouble)
}

// apiServer is the address at which pods find the API server.
func (c *cluster) apiServer() string {
	c.t.Helper()
	return c.kubectl("-n", "default", "get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}")
}
