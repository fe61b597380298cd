package model

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// Problem is something that is wrong with a Mesh, or with what it refers to.
type Problem struct {
	// Origin is the Mesh and the field.
	Origin resource.Origin
	// Condition is v1alpha1.ConditionAccepted or v1alpha1.ConditionResolvedRefs.
	Condition string
	// Reason is one of the Reason constants.
	Reason string
	// Message says what is wrong and what to do.
	Message string
	// Fatal is true when something that the Mesh asks for is not done: the condition is False. Else everything is done, and it
	// is worth knowing.
	Fatal bool
}

// Reasons of problems with what a Mesh says (Accepted).
const (
	ReasonConflicted           = "Conflicted"           // an older Mesh of the namespace claims the same
	ReasonSystemNamespace      = "SystemNamespace"      // the namespace is never part of the mesh
	ReasonNotRoot              = "NotRoot"              // only the root Mesh may say this
	ReasonNotForRoot           = "NotForRoot"           // the root Mesh may not say this
	ReasonInvalidValue         = "InvalidValue"         // a value that has no meaning
	ReasonInvalidPodSelector   = "InvalidPodSelector"   // nobody can tell which pods it means
	ReasonNoPodsSelected       = "NoPodsSelected"       // the pod selector fits no pod
	ReasonDuplicateName        = "DuplicateName"        // two items of a list have one name
	ReasonInvalidRoute         = "InvalidRoute"         // a rule that can't be followed
	ReasonProtocolMismatch     = "ProtocolMismatch"     // HTTP rules for what speaks no HTTP
	ReasonProtocolConflict     = "ProtocolConflict"     // two Services say different things of one port of a pod
	ReasonNoClusterIP          = "NoClusterIP"          // rules for a Service that has no address of its own
	ReasonAddressOutsideRanges = "AddressOutsideRanges" // a public address that proxies don't ask about
)

// Reasons of problems with what a Mesh refers to (ResolvedRefs).
const (
	ReasonServiceNotFound    = "ServiceNotFound"
	ReasonPortNotFound       = "PortNotFound"
	ReasonVersionNotFound    = "VersionNotFound"
	ReasonVersionWithoutPods = "VersionWithoutPods" // the labels of a version fit no pod of the Service
	ReasonAddressTaken       = "AddressTaken"       // a pod reports an address that somebody else has
	ReasonForeignEndpoint    = "ForeignEndpoint"    // an EndpointSlice lists what belongs to another namespace or Service
)

// maxProblems bounds the problems of a Mesh that are kept.
const maxProblems = 64

// MeshReport says what the model made of a Mesh.
type MeshReport struct {
	Namespace, Name, UID string
	Generation           int64
	// Root is true for the root Mesh.
	Root bool
	// Since is the first revision that has this generation.
	Since uint64
	// Fields and Services are what it claims and no older Mesh of its namespace does.
	Fields, Services []string
	// Problems are in the order of the fields, the fatal ones first; Omitted is the number of those that were too many.
	Problems []Problem
	Omitted  int
}

// summary is what status asks of a namespace, besides its nodes.
type summary struct {
	// reports hold the problems that depend on nothing but the Meshes of the namespace.
	reports  []MeshReport
	services int // how many there are
	// unselected is true when the pod selector is valid and no pod is to have a sidecar.
	unselected bool
	// uncovered is the first pod that has a public address outside of the pod ranges.
	uncovered string
	// taken is the first pod that reports an address that somebody else has.
	taken string
	// oldest is the Mesh that is told what no Mesh claims.
	oldest resource.Origin
}

// reports adds the problems that depend on other objects.
func (s *Snapshot) reports(namespace string, sum *summary) []MeshReport {
	found := map[string][]Problem{}
	scan(s, Key{Kind: kindProblems, Namespace: namespace}, func(_ Key, problems []Problem) {
		for _, p := range problems {
			if p.Origin.Name == "" {
				p.Origin = sum.oldest
			}
			found[p.Origin.Name] = append(found[p.Origin.Name], p)
		}
	})
	reports := slices.Clone(sum.reports)
	for i := range reports {
		r := &reports[i]
		r.Problems = slices.Concat(r.Problems, sum.problems(r), found[r.Name])
		slices.SortStableFunc(r.Problems, compareProblems)
		if over := len(r.Problems) - maxProblems; over > 0 {
			r.Problems, r.Omitted = r.Problems[:maxProblems], over
		}
	}
	return reports
}

func compareProblems(a, b Problem) int {
	switch {
	case a.Fatal && !b.Fatal:
		return -1
	case b.Fatal && !a.Fatal:
		return 1
	}
	return compareFields(a.Origin.Field, b.Origin.Field)
}
