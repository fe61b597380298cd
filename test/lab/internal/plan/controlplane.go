package plan

import (
	"fmt"

	"github.com/tulle-mesh/tulle/test/lab/internal/supervise"
	"github.com/tulle-mesh/tulle/test/lab/internal/topology"
)

// controlPlane lists etcd, the API server, the controller manager and the
// scheduler, as they run on the node.
func controlPlane(cluster topology.Cluster, node topology.Node, paths Paths) []supervise.Process {
	program := func(name string) string { return paths.Kubernetes + "/" + name }
	return []supervise.Process{
		{
			Name: "etcd",
			Args: []string{
				program("etcd"), "--name=" + node.Name, "--data-dir=" + paths.data("etcd"),
				"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
				"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
				"--initial-cluster=" + node.Name + "=http://127.0.0.1:2380",
				// The data does not outlive the lab, so no write needs to reach the disk.
				"--unsafe-no-fsync", "--log-level=warn",
			},
			Ready: supervise.Probe{URL: "http://127.0.0.1:2379/health"},
		},
		{
			Name:  "kube-apiserver",
			Args:  append([]string{program("kube-apiserver")}, apiServerFlags(cluster, node, paths)...),
			Ready: supervise.Probe{URL: "https://" + APIServer() + "/readyz", CA: paths.pki("ca.crt")},
		},
		{
			Name:  "kube-controller-manager",
			Args:  append([]string{program("kube-controller-manager")}, controllerManagerFlags(cluster, paths)...),
			After: []string{"kube-apiserver"},
		},
		{
			Name: "kube-scheduler",
			Args: []string{
				program("kube-scheduler"), "--kubeconfig=" + paths.pki("scheduler.kubeconfig"),
				"--authentication-kubeconfig=" + paths.pki("scheduler.kubeconfig"),
				"--authorization-kubeconfig=" + paths.pki("scheduler.kubeconfig"),
				"--leader-elect=false", "--bind-address=127.0.0.1",
			},
			After: []string{"kube-apiserver"},
		},
	}
}

func apiServerFlags(cluster topology.Cluster, node topology.Node, paths Paths) []string {
	return []string{
		"--etcd-servers=http://127.0.0.1:2379",
		fmt.Sprintf("--secure-port=%d", apiPort),
		"--bind-address=0.0.0.0",
		"--advertise-address=" + node.Addresses[0].Addr().String(),
		"--service-cluster-ip-range=" + join(cluster.ServiceRange),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--client-ca-file=" + paths.pki("ca.crt"),
		"--tls-cert-file=" + paths.pki("apiserver.crt"),
		"--tls-private-key-file=" + paths.pki("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc." + cluster.Domain,
		"--service-account-key-file=" + paths.pki("tokens.pub"),
		"--service-account-signing-key-file=" + paths.pki("tokens.key"),
		"--kubelet-client-certificate=" + paths.pki("apiserver-kubelet.crt"),
		"--kubelet-client-key=" + paths.pki("apiserver-kubelet.key"),
		"--kubelet-certificate-authority=" + paths.pki("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + paths.pki("front-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + paths.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + paths.pki("front-proxy-client.key"),
		// Webhooks and aggregated APIs are called at their pods' addresses, so
		// they work before kube-proxy does.
		"--enable-aggregator-routing=true",
		"--profiling=false",
	}
}

func controllerManagerFlags(cluster topology.Cluster, paths Paths) []string {
	return []string{
		"--kubeconfig=" + paths.pki("controller-manager.kubeconfig"),
		"--authentication-kubeconfig=" + paths.pki("controller-manager.kubeconfig"),
		"--authorization-kubeconfig=" + paths.pki("controller-manager.kubeconfig"),
		"--use-service-account-credentials",
		"--service-account-private-key-file=" + paths.pki("tokens.key"),
		"--root-ca-file=" + paths.pki("ca.crt"),
		"--cluster-signing-cert-file=" + paths.pki("ca.crt"),
		"--cluster-signing-key-file=" + paths.pki("ca.key"),
		"--service-cluster-ip-range=" + join(cluster.ServiceRange),
		"--cluster-cidr=" + join(cluster.PodRanges),
		// The nodes' ranges come with their Node objects: they are in the CNI
		// configuration before a node registers.
		"--allocate-node-cidrs=false",
		"--flex-volume-plugin-dir=" + paths.data("flexvolume"),
		"--leader-elect=false",
		"--bind-address=127.0.0.1",
	}
}
