package resource

import "strings"

// Proxy is what the control plane knows of a connected proxy. All but Minor come from the verified token and the control
// plane's own view of the pod; what the proxy says of itself is not trusted.
type Proxy struct {
	// Cluster is empty for the cluster that the control plane runs in.
	Cluster, Namespace, Pod, UID, ServiceAccount string
	// Owner is shared by the pods of one workload (see model.Workload).
	Owner string
	// Minor is the minor version of its Envoy, 40 for 1.40: the compile class.
	Minor uint32
}

// Scope says for whom a resource is compiled: for all proxies of a class, or for one pod of it.
type Scope struct {
	Minor uint32
	// Pod is namespace/name, or empty for what is shared.
	Pod string
}

// ScopedRef is a resource in a scope: what caches and change notices are keyed by.
type ScopedRef struct {
	Scope
	Ref
}

// View is one snapshot's configuration. It is immutable; whatever is read from one view fits together.
type View interface {
	// Revision of the snapshot, which grows by one with each.
	Revision() uint64
	// Resource returns the resource as p sees it, or nil when there is none of that name.
	Resource(p *Proxy, ref Ref) (*Resource, ScopedRef)
}

// Workload names what the proxy's pod is one of, in metrics: bounded by what is deployed, not by how often. That is the name of its
// Deployment (or other controller of pods that live on, or CronJob), and its service account where there is none.
func (p *Proxy) Workload() string { return WorkloadName(p.Owner, p.ServiceAccount) }

// WorkloadName is Proxy.Workload for a pod of the given owner (Kind/name) and service account.
func WorkloadName(owner, serviceAccount string) string {
	kind, name, _ := strings.Cut(owner, "/")
	switch kind {
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Rollout":
	case "Job":
		// A CronJob names its Jobs after itself and the time. Other Jobs, and bare pods, may be new ones each time.
		i := strings.LastIndexByte(name, '-')
		if i <= 0 || !isNumber(name[i+1:]) {
			return serviceAccount
		}
		name = name[:i]
	default:
		return serviceAccount
	}
	if name == "" || len(name) > maxWorkloadName {
		return serviceAccount
	}
	return name
}

// maxWorkloadName is what the common name of a certificate can hold.
const maxWorkloadName = 64

// isNumber reports whether a text is a time as a CronJob writes it: minutes, of eight digits until 2160.
func isNumber(s string) bool {
	return len(s) >= 8 && strings.Trim(s, "0123456789") == ""
}
