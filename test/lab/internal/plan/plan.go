// Package plan says how the programs of a lab are configured and in which
// order they start. It is pure: files and specs are returned, not written.
package plan

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/tulle-mesh/tulle/test/lab/internal/supervise"
	"github.com/tulle-mesh/tulle/test/lab/internal/topology"
)

// Where a node's first process puts what exists only inside its namespaces.
const (
	ContainerdSocket = "/run/containerd/containerd.sock"
	containerdState  = "/run/containerd"
	apiPort          = 6443
)

// PauseImage is the image that holds a pod's namespaces.
const PauseImage = "tulle.dev/lab/pause:1"

// Paths are the folders and programs on the machine that a lab uses.
type Paths struct {
	State      string // the lab's own folder
	Kubernetes string // programs of Kubernetes and etcd
	Containerd string // the container runtime
	CNI        string // folder of CNI plug-ins
	Lab        string // this program
	// CgroupRoot is the lab's control group, as an absolute cgroup path.
	CgroupRoot string
	// Keep are further folders to be reachable inside.
	Keep []string
	// Images are archives to import before the kubelet starts.
	Images []string
}

// PKI is the folder of certificates and keys.
func (p Paths) PKI() string { return filepath.Join(p.State, "pki") }

// Conf is the folder of configuration files.
func (p Paths) Conf() string { return filepath.Join(p.State, "conf") }

// Logs is the folder of the programs' logs.
func (p Paths) Logs() string { return filepath.Join(p.State, "log") }

// Data is the folder of the programs' data.
func (p Paths) Data() string { return filepath.Join(p.State, "data") }

// Status is the first process's status file.
func (p Paths) Status() string { return filepath.Join(p.State, "status.json") }

// Kubeconfig is the administrator's kubeconfig for use outside the namespaces.
func (p Paths) Kubeconfig() string { return filepath.Join(p.State, "kubeconfig") }

// InnerKubeconfig is the administrator's kubeconfig for use inside.
func (p Paths) InnerKubeconfig() string { return filepath.Join(p.PKI(), "admin.kubeconfig") }

// KubectlCache is where kubectl keeps what it learned of the cluster, which ends with the lab.
func (p Paths) KubectlCache() string { return filepath.Join(p.State, "home") }

func (p Paths) pki(name string) string  { return filepath.Join(p.PKI(), name) }
func (p Paths) conf(name string) string { return filepath.Join(p.Conf(), name) }
func (p Paths) data(name string) string { return filepath.Join(p.Data(), name) }

// APIServer is the API server's address inside the namespaces.
func APIServer() string { return fmt.Sprintf("127.0.0.1:%d", apiPort) }

// InnerEnvironment is what a command inside the namespaces finds in its
// environment, apart from PATH.
func InnerEnvironment(paths Paths) []string {
	return []string{
		"KUBECONFIG=" + paths.InnerKubeconfig(),
		"KUBECACHEDIR=" + paths.KubectlCache(),
		"CONTAINERD_ADDRESS=" + ContainerdSocket,
		"CONTAINERD_NAMESPACE=k8s.io",
	}
}

// Plan is everything a node needs to start.
type Plan struct {
	Spec supervise.Spec
	// Files are configuration files, by path.
	Files map[string][]byte
}

// ControlPlane plans the first node: the control plane and a kubelet.
func ControlPlane(cluster topology.Cluster, paths Paths) (Plan, error) {
	node := cluster.Nodes[0]
	files, err := nodeFiles(cluster, node, paths)
	if err != nil {
		return Plan{}, err
	}
	processes := append(controlPlane(cluster, node, paths), nodeProcesses(node, paths, "kube-apiserver")...)
	for i := range processes {
		processes[i].Env = environment(paths)
	}
	return Plan{Files: files, Spec: supervise.Spec{
		Hostname:   node.Name,
		Keep:       append([]string{paths.State, filepath.Dir(paths.Lab)}, paths.Keep...),
		Overlays:   []string{"/var/lib", "/var/log"},
		Folders:    []string{"/run/netns", "/run/lock", containerdState, "/var/lib/kubelet", "/var/lib/cni", "/var/log/containers"},
		Shields:    machineSettings(),
		Sysctls:    networkSettings(cluster.IPv6()),
		Network:    supervise.Network{Bridge: "node0", Addresses: node.Addresses},
		Forward:    APIServer(),
		Processes:  processes,
		LogDir:     paths.Logs(),
		StatusFile: paths.Status(),
	}}, nil
}

// machineSettings are the settings of the whole machine that a kubelet changes
// and kube-proxy might.
func machineSettings() []string {
	return []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
		"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "net/netfilter/nf_conntrack_max",
	}
}

// networkSettings are the settings of the node's network namespace.
func networkSettings(ipv6 bool) []supervise.Sysctl {
	const forwarding = "pods reach each other through the node"
	settings := []supervise.Sysctl{{Path: "net/ipv4/ip_forward", Value: "1", Why: forwarding}}
	if ipv6 {
		const enabled = "IPv6 was found on this machine"
		settings = append(settings,
			supervise.Sysctl{Path: "net/ipv6/conf/all/disable_ipv6", Value: "0", Why: enabled},
			supervise.Sysctl{Path: "net/ipv6/conf/default/disable_ipv6", Value: "0", Why: enabled},
			// Nobody else is on these links; detection would hold back each pod's first second.
			supervise.Sysctl{Path: "net/ipv6/conf/default/accept_dad", Value: "0", Why: enabled},
			supervise.Sysctl{Path: "net/ipv6/conf/all/forwarding", Value: "1", Why: forwarding},
			supervise.Sysctl{Path: "net/ipv6/conf/default/forwarding", Value: "1", Why: forwarding})
	}
	return settings
}

// environment is that of the node's programs.
func environment(paths Paths) []string {
	return []string{
		"PATH=" + paths.Kubernetes + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + paths.State,
	}
}

func jsonFile(value any) ([]byte, error) {
	content, err := json.MarshalIndent(value, "", "  ")
	return append(content, '\n'), err
}

// join lists values as Kubernetes' flags want them.
func join[T fmt.Stringer](values []T) string {
	var list []string
	for _, value := range values {
		list = append(list, value.String())
	}
	return strings.Join(list, ",")
}

func addressList(addresses []netip.Addr) []string {
	var list []string
	for _, address := range addresses {
		list = append(list, address.String())
	}
	return list
}
