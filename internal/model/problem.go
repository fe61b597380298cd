package model

import (
	"fmt"
	"slices"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
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
	ReasonInvalidSplit         = "InvalidSplit"         // a TrafficSplit that can't be followed
	ReasonNotMeshed            = "NotMeshed"            // a TrafficSplit in a namespace without a Mesh
	ReasonOutranked            = "Outranked"            // a TrafficSplit rules the Service, so that a rule rests
	ReasonSelfReference        = "SelfReference"        // the root of a TrafficSplit is one of its backends
	ReasonNestedSplit          = "NestedSplit"          // a backend of a TrafficSplit is split itself
)

// Reasons of problems with what a Mesh refers to (ResolvedRefs).
const (
	ReasonServiceNotFound    = "ServiceNotFound"
	ReasonPortNotFound       = "PortNotFound"
	ReasonVersionNotFound    = "VersionNotFound"
	ReasonVersionWithoutPods = "VersionWithoutPods" // the labels of a version fit no pod of the Service
	ReasonAddressTaken       = "AddressTaken"       // a pod reports an address that somebody else has
	ReasonForeignEndpoint    = "ForeignEndpoint"    // an EndpointSlice lists what belongs to another namespace or Service

	ReasonBackendNotFound         = "BackendNotFound"         // a backend of a TrafficSplit does not exist
	ReasonBackendWithoutEndpoints = "BackendWithoutEndpoints" // nobody of a backend is ready
	ReasonRouteGroupNotFound      = "RouteGroupNotFound"
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
	// Splits are the TrafficSplits, made by others, that rule its Services; those of Services that no Mesh claims are the oldest's.
	Splits []RulingSplit
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
	s.splitProblems(namespace, sum, found)
	splits := s.rulingSplits(namespace, sum)
	reports := slices.Clone(sum.reports)
	for i := range reports {
		r := &reports[i]
		r.Splits = splits[r.Name]
		r.Problems = slices.Concat(r.Problems, sum.problems(r), found[r.Name])
		slices.SortStableFunc(r.Problems, compareProblems)
		if over := len(r.Problems) - maxProblems; over > 0 {
			r.Problems, r.Omitted = r.Problems[:maxProblems], over
		}
	}
	return reports
}

// splitProblems adds those of TrafficSplits to what the oldest Mesh is told, and to each Mesh which of its rules rest because of one.
func (s *Snapshot) splitProblems(namespace string, sum *summary, found map[string][]Problem) {
	scan(s, Key{Kind: kindSplitReport, Namespace: namespace}, func(key Key, r *SplitReport) {
		for _, p := range r.Problems {
			text := "TrafficSplit " + key.Name + ": "
			if p.Origin.Field != "" {
				text += p.Origin.Field + ": "
			}
			p.Origin, p.Message = sum.oldest, text+p.Message
			found[sum.oldest.Name] = append(found[sum.oldest.Name], p)
		}
	})
	scan(s, Key{Kind: KindSplit, Namespace: namespace}, func(key Key, split *Split) {
		service, _ := get[*Service](s, ServiceKey{Namespace: namespace, Name: key.Name}.Key())
		if service == nil {
			return
		}
		if i := slices.IndexFunc(service.Routes, func(r Route) bool { return len(r.Match) == 0 }); i >= 0 {
			rule := service.Routes[i]
			found[rule.Origin.Name] = append(found[rule.Origin.Name], Problem{rule.Origin, v1alpha1.ConditionAccepted, ReasonOutranked,
				fmt.Sprintf("TrafficSplit %s, which somebody else made, rules Service %s, so this rule rests until it is deleted", split.Name, key.Name), false})
		}
	})
}

// rulingSplits returns, by Mesh, which TrafficSplits rule its Services.
func (s *Snapshot) rulingSplits(namespace string, sum *summary) map[string][]RulingSplit {
	claimedBy := map[string]string{}
	for i := range sum.reports {
		for _, service := range sum.reports[i].Services {
			claimedBy[service] = sum.reports[i].Name
		}
	}
	splits := map[string][]RulingSplit{}
	scan(s, Key{Kind: KindSplit, Namespace: namespace}, func(key Key, split *Split) {
		mesh, claimed := claimedBy[key.Name]
		if !claimed {
			mesh = sum.oldest.Name
		}
		splits[mesh] = append(splits[mesh], RulingSplit{key.Name, split.Name})
	})
	return splits
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
