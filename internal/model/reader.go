package model

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// Reader reads a snapshot and records the keys of what was read, also of what does not exist: something that is made
// from what a Reader returned has to be made again only when one of those keys changes. One goroutine at a time may use it.
type Reader struct {
	snapshot *Snapshot
	seen     map[Key]bool
}

// Keys returns the keys, sorted, that were read.
func (r *Reader) Keys() []Key { return sortedKeys(r.seen) }

// MeshWide returns what holds for the whole mesh; it is never nil.
func (r *Reader) MeshWide() *MeshWide {
	w, _ := read[*MeshWide](r, Key{Kind: KindMeshWide})
	return w
}

// Namespace returns the settings of a namespace; those of an unmeshed one when it does not exist.
func (r *Reader) Namespace(name string) *Namespace {
	if ns, ok := read[*Namespace](r, Key{Kind: KindNamespace, Namespace: name}); ok {
		return ns
	}
	return builtin(name)
}

// Service returns a Service, nil when it does not exist.
func (r *Reader) Service(key ServiceKey) *Service {
	s, _ := read[*Service](r, key.Key())
	return s
}

// Endpoints returns the endpoints of a Service, nil when the Service does not exist.
func (r *Reader) Endpoints(key ServiceKey) *Endpoints {
	e, _ := read[*Endpoints](r, key.EndpointsKey())
	return e
}

// Workload returns a pod, nil when it does not exist or has finished.
func (r *Reader) Workload(key WorkloadKey) *Workload {
	w, _ := read[*Workload](r, key.Key())
	return w
}

// Address returns what an address and port stand for.
func (r *Reader) Address(a netip.AddrPort) Destination {
	ip := a.Addr().Unmap()
	o, _ := read[*owner](r, addressKey(ip))
	switch {
	case o == nil:
	case o.kind == ownerVanished:
		return Destination{Kind: UnknownService}
	case o.kind == ownedByNode:
		return Destination{Kind: Outside}
	case o.kind == ownedByService:
		return r.servicePort(ServiceKey{o.cluster, o.namespace, o.name}, a.Port())
	case o.kind == ownedByWorkload:
		if w := r.Workload(WorkloadKey{o.cluster, o.namespace, o.name}); w != nil {
			return Destination{Kind: PodAddress, Workload: w}
		}
	}
	wide := r.MeshWide()
	switch {
	case contains(wide.ServiceRanges, ip):
		return Destination{Kind: UnknownService}
	case contains(wide.PodRanges, ip), !wide.PodRangesNamed && r.inhabited(ip):
		return Destination{Kind: UnknownPod}
	}
	return Destination{Kind: Outside}
}

// inhabited reports whether pods or Services have addresses near this one.
func (r *Reader) inhabited(a netip.Addr) bool {
	p, ok := neighbourhood(a)
	if !ok {
		return false
	}
	_, ok = read[*span](r, spanKey(p))
	return ok
}

func (r *Reader) servicePort(key ServiceKey, port uint16) Destination {
	s := r.Service(key)
	if s == nil {
		return Destination{Kind: UnknownService}
	}
	i := slices.IndexFunc(s.Ports, func(p Port) bool { return p.Number == port })
	if i < 0 {
		return Destination{Kind: UnknownService, Service: s}
	}
	return Destination{Kind: ServicePort, Service: s, Port: &s.Ports[i], Split: r.Split(key)}
}

func read[V any](r *Reader, key Key) (V, bool) {
	r.seen[key] = true
	return get[V](r.snapshot, key)
}

// builtin are the settings of a namespace that nobody said anything about.
func builtin(name string) *Namespace {
	return &Namespace{
		Name: name,
		Mode: v1alpha1.MTLSPermissive,
		Proxy: ProxySettings{
			Concurrency:   defaultConcurrency,
			LogLevel:      defaultLogLevel,
			DrainDuration: defaultDrainDuration,
		},
		AccessLog: v1alpha1.AccessLogErrors,
		Monitors:  MonitorSettings{Mode: v1alpha1.MonitorsAuto},
	}
}
