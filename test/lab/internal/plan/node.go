package plan

import (
	"bytes"
	"fmt"
	"path/filepath"
	"text/template"

	"github.com/tulle-mesh/tulle/test/lab/internal/supervise"
	"github.com/tulle-mesh/tulle/test/lab/internal/topology"
)

// object is a configuration file that is written as JSON.
type object map[string]any

// nodeFiles are the configuration files of a node's programs.
func nodeFiles(cluster topology.Cluster, node topology.Node, paths Paths) (map[string][]byte, error) {
	files := map[string][]byte{}
	for path, value := range map[string]object{
		paths.conf("kubelet.json"):          kubelet(cluster, node, paths),
		paths.conf("kube-proxy.json"):       kubeProxy(cluster, node, paths),
		paths.conf("cni/10-tulle.conflist"): cni(node, paths),
	} {
		content, err := jsonFile(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		files[path] = content
	}
	var containerd bytes.Buffer
	err := containerdTemplate().Execute(&containerd, map[string]string{
		"Root": paths.data("containerd"), "Opt": paths.data("opt"), "State": containerdState + "/state",
		"Socket": ContainerdSocket, "Pause": PauseImage, "Plugins": paths.CNI, "Networks": paths.conf("cni"),
	})
	if err != nil {
		return nil, err
	}
	files[paths.conf("containerd.toml")] = containerd.Bytes()
	return files, nil
}

// nodeProcesses lists what runs on every node; it starts after the process
// that gateway names.
func nodeProcesses(node topology.Node, paths Paths, gateway string) []supervise.Process {
	processes := []supervise.Process{{
		Name:  "containerd",
		Args:  []string{paths.Containerd, "--config=" + paths.conf("containerd.toml")},
		Ready: supervise.Probe{Socket: ContainerdSocket},
	}}
	imports := supervise.Process{
		Name:  "images",
		Args:  append([]string{paths.Lab, "import"}, paths.Images...),
		After: []string{"containerd"},
		Once:  true,
	}
	return append(processes, imports,
		supervise.Process{
			Name: "kubelet",
			Args: []string{
				paths.Kubernetes + "/kubelet", "--config=" + paths.conf("kubelet.json"),
				"--kubeconfig=" + paths.pki(node.Name+"-kubelet.kubeconfig"),
				"--hostname-override=" + node.Name, "--node-ip=" + join(node.IPs()),
				"--root-dir=" + paths.data("kubelet"), "--cert-dir=" + paths.data("kubelet/pki"), "--v=2",
			},
			After: []string{gateway, "images"},
			Ready: supervise.Probe{URL: "http://127.0.0.1:10248/healthz"},
		},
		supervise.Process{
			Name:  "kube-proxy",
			Args:  []string{paths.Kubernetes + "/kube-proxy", "--config=" + paths.conf("kube-proxy.json")},
			After: []string{gateway},
			Ready: supervise.Probe{URL: "http://127.0.0.1:10256/livez"},
		})
}

func kubelet(cluster topology.Cluster, node topology.Node, paths Paths) object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		// Both cgroup versions work; the kubelet finds out which it is on.
		"failCgroupV1":             false,
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               paths.CgroupRoot,
		"cgroupsPerQOS":            true,
		"enforceNodeAllocatable":   []string{"pods"},
		"failSwapOn":               false,
		"containerRuntimeEndpoint": "unix://" + ContainerdSocket,
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": paths.pki("ca.crt")},
		},
		"authorization":     object{"mode": "Webhook"},
		"tlsCertFile":       paths.pki(node.Name + "-kubelet-serving.crt"),
		"tlsPrivateKeyFile": paths.pki(node.Name + "-kubelet-serving.key"),
		"clusterDomain":     cluster.Domain,
		"clusterDNS":        addressList(cluster.DNSService()),
		// There is no name server outside the cluster to hand on.
		"resolvConf":      "",
		"podLogsDir":      paths.data("podlogs"),
		"volumePluginDir": paths.data("flexvolume"),
		// Images can't be pulled again.
		"imageGCHighThresholdPercent": 100,
		"evictionHard": object{
			"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%",
		},
		"serializeImagePulls":       false,
		"syncFrequency":             "5s",
		"nodeStatusUpdateFrequency": "5s",
	}
}

func kubeProxy(cluster topology.Cluster, node topology.Node, paths Paths) object {
	return object{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"clientConnection": object{"kubeconfig": paths.pki("proxy.kubeconfig")},
		"hostnameOverride": node.Name,
		"mode":             "nftables",
		"clusterCIDR":      join(cluster.PodRanges),
		// The limits are the machine's and stay as they are.
		"conntrack":          object{"maxPerCore": 0},
		"healthzBindAddress": "127.0.0.1:10256",
		"metricsBindAddress": "127.0.0.1:10249",
	}
}

// cni joins each pod to the node by a link of its own, so that the node routes
// between them and kube-proxy's rules see all traffic without a bridge filter.
func cni(node topology.Node, paths Paths) object {
	var ranges [][]object
	for _, prefix := range node.PodRanges {
		ranges = append(ranges, []object{{"subnet": prefix.String()}})
	}
	return object{
		"cniVersion": "1.0.0",
		"name":       "tulle-lab",
		"plugins": []object{
			{
				"type":   "ptp",
				"ipMasq": false,
				"ipam":   object{"type": "host-local", "dataDir": paths.data("ipam"), "ranges": ranges, "routes": defaultRoutes(node)},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}
}

func defaultRoutes(node topology.Node) []object {
	var routes []object
	for _, prefix := range node.PodRanges {
		if prefix.Addr().Is4() {
			routes = append(routes, object{"dst": "0.0.0.0/0"})
		} else {
			routes = append(routes, object{"dst": "::/0"})
		}
	}
	return routes
}

// containerdTemplate is a version 2 configuration, which containerd 1.6 and
// later read.
func containerdTemplate() *template.Template {
	return template.Must(template.New("containerd").Parse(`version = 2
root = "{{.Root}}"
state = "{{.State}}"

[grpc]
  address = "{{.Socket}}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{{.Opt}}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.Pause}}"
  disable_tcp_service = true
  # A profile that is loaded stays in the kernel when the lab is gone.
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE, as in many virtual machines, lower scores are refused.
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{{.Plugins}}"
    conf_dir = "{{.Networks}}"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`))
}
