// Package plan says what an apply or a deletion would change in the mesh, before it is done. It is pure, and calls what the
// operator itself calls: the model, the compiler, injection, status, and what the reconcilers desire.
//
// What it can't know it says: whether certificates are issued, whether proxies are connected and accept what they get, and
// which proxies use a Service.
package plan

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// APIVersion and Kind of a Plan in its machine form. Fields are only ever added to a version.
const (
	APIVersion = "plan.tulle.dev/v1alpha1"
	Kind       = "Plan"
)

// Plan is what would change.
type Plan struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Changes is false when nothing would change at all.
	Changes bool    `json:"changes"`
	Summary Summary `json:"summary"`
	// Meshes are those that are applied or deleted, and all others of which a condition would change, by namespace and name.
	Meshes []Mesh `json:"meshes"`
	// Refused are the objects that would not be stored; everything else is planned without them.
	Refused []Refusal `json:"refused,omitempty"`
	// Objects are those that Tulle would make, change or remove.
	Objects []Object `json:"objects,omitempty"`
	// Restarts are the pods that do not have the sidecar that they should have then, by namespace.
	Restarts []Restart `json:"restarts,omitempty"`
	// Pods are workloads of which a new pod would be refused or has something that people should know.
	Pods []PodNote `json:"pods,omitempty"`
	// Endpoints are those that clients with a proxy could no longer call; Plaintext says whose proxies would begin to refuse clients
	// that have none. Both are what becomes of Strict while not all pods have proxies.
	Endpoints []EndpointLoss     `json:"endpointsLost,omitempty"`
	Plaintext []PlaintextRefusal `json:"plaintextRefused,omitempty"`
	Proxies   Proxies            `json:"proxies"`
	// Envoy are the resources that differ, when they were asked for; Secrets by name only.
	Envoy []Resource `json:"envoy,omitempty"`
	// Assumptions say what could not be known.
	Assumptions []string `json:"assumptions,omitempty"`
}

// Summary counts.
type Summary struct {
	Made     int `json:"objectsMade"`
	Changed  int `json:"objectsChanged"`
	Removed  int `json:"objectsRemoved"`
	Restarts int `json:"podsToRestart"`
	// Unused are pods with a proxy that no Mesh wants any more; they go on working.
	Unused int `json:"podsWithUnusedProxy"`
	// Proxies get something new unasked; MoreProxies, at most, hold something of a Service that changes.
	Proxies     int `json:"proxiesTouched"`
	MoreProxies int `json:"moreProxiesAtMost"`
	Refused     int `json:"refused"`
}

// Action is what would happen to an object.
type Action string

// The actions. Affected is a Mesh that is not applied itself, DeleteLater what goes once the last pod that needs it is gone.
const (
	Create    Action = "Create"
	Update    Action = "Update"
	Delete    Action = "Delete"
	Unchanged Action = "Unchanged"
	Affected  Action = "Affected"

	DeleteLater Action = "DeleteLater"
)

// Mesh is one Mesh.
type Mesh struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Action    Action `json:"action"`
	// Before is nil for a Mesh that is created, After for one that is deleted. Neither has times of transition.
	Before *v1alpha1.MeshStatus `json:"before,omitempty"`
	After  *v1alpha1.MeshStatus `json:"after,omitempty"`
	// Changed are the conditions of After that differ from Before.
	Changed []string `json:"changedConditions,omitempty"`
}

// Condition returns a condition of a status; nil when there is none.
func Condition(s *v1alpha1.MeshStatus, kind string) *metav1.Condition {
	if s == nil {
		return nil
	}
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// Refusal is an object that would not be stored.
type Refusal struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// By says who refuses it, such as "the schema of Mesh".
	By      string   `json:"by"`
	Reasons []string `json:"reasons"`
}

// Object is one that Tulle makes.
type Object struct {
	Action    Action `json:"action"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Fields say what is different in an object that changes, as "path: before → after".
	Fields []string `json:"fields,omitempty"`
	// Note says more, such as that somebody else made an object of that name.
	Note string `json:"note,omitempty"`
}

// Restart are the pods of one namespace that would need one.
type Restart struct {
	Namespace string `json:"namespace"`
	// Pods need a restart because of this change; Already did before it.
	Pods    []Pod `json:"pods"`
	Already int   `json:"already,omitempty"`
	// Commands give the pods what they lack. Pods that kubectl can't restart are in Recreate.
	Commands []string `json:"commands,omitempty"`
	Recreate []string `json:"recreate,omitempty"`
}

// Pod is a pod that would need a restart.
type Pod struct {
	Name string `json:"name"`
	// Owner is its controller, as Deployment/reviews.
	Owner string `json:"owner"`
	// Reason is why.
	Reason RestartReason `json:"reason"`
}

// RestartReason is why a pod would need a restart.
type RestartReason string

// The reasons.
const (
	NoProxy     RestartReason = "NoProxy"     // it has none, and should
	OlderProxy  RestartReason = "OlderProxy"  // its proxy was injected with other settings
	ProxyUnused RestartReason = "ProxyUnused" // it has one, and need not any more; it goes on working
)

// PodNote is what injection would say of the pods of a workload.
type PodNote struct {
	Namespace string `json:"namespace"`
	// Owner of the pods, as Deployment/reviews.
	Owner string `json:"owner"`
	// Refused is true when its new pods would not be admitted.
	Refused bool   `json:"refused"`
	Message string `json:"message"`
}

// EndpointLoss are endpoints of a Service that proxies would leave out: they have no proxy, and their port takes no plaintext.
type EndpointLoss struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Port      uint16 `json:"port"`
	Lost      int    `json:"lost"`
	Left      int    `json:"left"`
}

// PlaintextRefusal are proxies that would begin to refuse plaintext, on some port or on all.
type PlaintextRefusal struct {
	Namespace string `json:"namespace"`
	Proxies   int    `json:"proxies"`
	// Pods have no proxy, in all namespaces; OwnPods are those of this one. Whether they call it is not known.
	Pods    int `json:"podsWithoutProxy"`
	OwnPods int `json:"ownPodsWithoutProxy"`
}

// Proxies says which proxies would be touched.
type Proxies struct {
	// Total is the number of proxies that run, in all namespaces.
	Total int `json:"total"`
	// Own counts, by namespace, the proxies that get something new unasked.
	Own []OwnChange `json:"own,omitempty"`
	// Services are those of which something changes that any proxy may hold that uses them. Which ones do is known to the
	// proxies alone: at most all of them.
	Services []ServiceChange `json:"services,omitempty"`
}

// OwnChange is what proxies of a namespace get unasked.
type OwnChange struct {
	Namespace string `json:"namespace"`
	Proxies   int    `json:"proxies"`
	// Resources are those that differ, as "listener inbound".
	Resources []string `json:"resources"`
}

// ServiceChange is what changes for those who use a Service, or pods by their own addresses.
type ServiceChange struct {
	Namespace string `json:"namespace"`
	// Name of the Service; empty for the pods of the namespace that are called by their own addresses.
	Name string `json:"name,omitempty"`
	// Resources are those that differ, as "vhost outbound/http|10.96.0.5:80".
	Resources []string `json:"resources"`
}

// Resource is one resource of Envoy's configuration that differs.
type Resource struct {
	// Type and Name are those of xDS; Type is in Tulle's short form, such as cluster or vhost.
	Type string `json:"type"`
	Name string `json:"name"`
	// Of says whose it is: "Service shop/reviews", or "proxies of shop".
	Of     string `json:"of"`
	Action Action `json:"action"`
	// Proxies get it unasked. AtMost proxies hold it or may ask for it, where it is of a Service or of pods' own addresses.
	Proxies int `json:"proxies,omitempty"`
	AtMost  int `json:"proxiesAtMost,omitempty"`
	// Diff is a unified difference of the YAML; empty for Secrets.
	Diff string `json:"diff,omitempty"`
}
