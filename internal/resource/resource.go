// Package resource defines the sealed xDS resource: what compile makes, xds sends and every proxy shares.
//
// A resource is marshalled deterministically, validated and hashed once, when it is sealed. Its version is the hash
// of its bytes, so equal configuration has equal versions on every replica and after every restart.
package resource

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Type is a kind of resource.
type Type uint8

// The types, in the order in which they are sent (make before break).
const (
	// Bundle is never sent: it stands for a set of resources that belong together (see Resource.Needs).
	Bundle Type = iota
	Cluster
	Endpoints
	Secret
	Listener
	RouteConfiguration
	VirtualHost
)

const typePrefix = "type.googleapis.com/envoy."

var urls = [...]string{
	Bundle:             "",
	Cluster:            typePrefix + "config.cluster.v3.Cluster",
	Endpoints:          typePrefix + "config.endpoint.v3.ClusterLoadAssignment",
	Secret:             typePrefix + "extensions.transport_sockets.tls.v3.Secret",
	Listener:           typePrefix + "config.listener.v3.Listener",
	RouteConfiguration: typePrefix + "config.route.v3.RouteConfiguration",
	VirtualHost:        typePrefix + "config.route.v3.VirtualHost",
}

var names = [...]string{
	Bundle: "bundle", Cluster: "cluster", Endpoints: "endpoints", Secret: "secret",
	Listener: "listener", RouteConfiguration: "routeconfig", VirtualHost: "vhost",
}

// URL returns the xDS type URL; it is empty for Bundle.
func (t Type) URL() string { return urls[t] }

// String returns a short name for logs and test scripts.
func (t Type) String() string { return names[t] }

// TypeOf returns the type with the given xDS type URL; false when it is none of ours.
func TypeOf(url string) (Type, bool) {
	for t, u := range urls {
		if u != "" && u == url {
			return Type(t), true
		}
	}
	return 0, false
}

// Ref names a resource.
type Ref struct {
	Type Type
	Name string
}

func (r Ref) String() string { return r.Type.String() + " " + r.Name }

// Origin is the object, and the field in it, that a resource was made from. A rejection by a proxy is reported there.
type Origin struct {
	// Kind, Namespace and Name of the object, such as Mesh bookinfo/bookinfo.
	Kind, Namespace, Name string
	// Field is the path in the object, such as spec.services[2].routes[0]; empty for the whole object.
	Field string
}

// Resource is a sealed resource. It is immutable and shared by all proxies that use it.
type Resource struct {
	Ref
	// Version is the hash of the body; for a bundle, of its needs.
	Version string
	// body is nil for a bundle.
	body *body
	// Needs are resources of types that are pushed (bundles, clusters, listeners, virtual hosts) that belong to this one:
	// whoever wants this one wants them, it is sent only after they are usable at the proxy,
	// and none of them is removed while the proxy holds this one.
	Needs []Ref
	// Warms are the resources that Envoy asks for by name once it has this one (endpoints, secrets, route
	// configurations). This one is usable when the proxy has acknowledged it and them.
	Warms []Ref
	// Last says that this one stands for all that it needs: it is sent only once the proxy holds all of it. Elsewhere, what the
	// proxy refuses and what there is not counts as usable, so that it holds nobody back.
	Last bool
	// Hold, if not zero, makes it provisional: the answer to an ask about what may become known any moment. It is sent only
	// to a proxy that has asked for it by name and has waited so long while nothing better came, and it never replaces
	// what a proxy holds.
	Hold time.Duration
	// Origins are the objects it was made from.
	Origins []Origin
	// Expires is when a certificate ends; zero for all else.
	Expires time.Time
}

// validator is what the generated Envoy protos offer.
type validator interface{ ValidateAll() error }

// Seal validates a message, marshals it deterministically and hashes it.
// The error names the resource and every field that Envoy's own validation rules refuse.
func Seal(ref Ref, msg proto.Message, r Resource) (*Resource, error) {
	if v, ok := msg.(validator); ok {
		if err := v.ValidateAll(); err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("%s: marshal: %w", ref, err)
	}
	r.Ref = ref
	r.Version = version(raw)
	return WithBody(r, &anypb.Any{TypeUrl: ref.Type.URL(), Value: raw}), nil
}

// Group returns the bundle of the given name that needs refs.
func Group(name string, refs ...Ref) *Resource {
	h := make([]byte, 0, 64*len(refs))
	for _, r := range refs {
		h = append(h, r.String()...)
		h = append(h, 0)
	}
	return &Resource{Ref: Ref{Bundle, name}, Version: version(h), Needs: refs}
}

func version(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
