package resource

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
