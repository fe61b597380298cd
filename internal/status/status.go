// Package status turns what is known of a Mesh into its status: problems, pods, proxies and certificates in, conditions,
// counts and events out. It is pure. What can't be known is Unknown, never True.
package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// maxSamples bounds what a message names of each kind; the rest is counted.
const maxSamples = 10

// maxMessage bounds a condition's message, well below the API's own limit of 32 KiB; maxSummary that of Ready, which is
// a column of kubectl get.
const (
	maxMessage = 4096
	maxSummary = 160
)

// Reasons of conditions, besides those of problems and of package identity.
const (
	ReasonValid                    = "Valid"
	ReasonResolved                 = "Resolved"
	ReasonInjected                 = "Injected"
	ReasonNoPods                   = "NoPods"
	ReasonNotEnrolled              = "NotEnrolled"
	ReasonNativeSidecarUnavailable = "NativeSidecarUnavailable"
	ReasonConflicted               = "Conflicted"
	ReasonRestartNeeded            = "RestartNeeded"
	ReasonProgrammed               = "Programmed"
	ReasonRejectedByProxy          = "RejectedByProxy"
	ReasonPending                  = "Pending"
	ReasonNotConnected             = "NotConnected"
	ReasonReady                    = "Ready"
)

// Input is what is known of one Mesh.
type Input struct {
	Report model.MeshReport
	// Namespace has the effective settings of the Mesh's namespace.
	Namespace *model.Namespace
	// Workloads are the pods of the namespace, Services the number of its Services.
	Workloads []*model.Workload
	Services  int
	// Proxies are those of the namespace or, for the root Mesh, all.
	Proxies []xds.ProxyState
	// Silent are the live replicas of the control plane whose proxies are not known.
	Silent []string
	// Rejections are those of all proxies that name this Mesh, or that nobody's Mesh is named for, at proxies of the namespace.
	Rejections []Rejection
	// Issued is what identity says of the mesh's certificates.
	Issued identity.Verdict
	// Sidecar is the version that current pods of the namespace have; empty when it is not known.
	Sidecar string
	// Unsupported says why this Kubernetes can have no sidecars; nil when it can.
	Unsupported error
	// Conflict names an object that injection needs and that somebody else made.
	Conflict error
	// Plaintext is what is known of who connects without mTLS. After a Quiet time without, Strict is safe.
	Plaintext Observation
	Quiet     time.Duration
	// Monitoring is what came of the monitors; nothing is said of them when it is nil.
	Monitoring *Monitoring
	// Now is the time to judge by.
	Now time.Time
}

// outcome is a condition, and what Ready says of it when it is not True; the whole message when empty.
type outcome struct {
	metav1.Condition
	summary string
}

// Of returns the status of a Mesh, without the times of transition (see Merge).
func Of(in Input) v1alpha1.MeshStatus {
	pods := countPods(in)
	outcomes := []outcome{
		in.problems(v1alpha1.ConditionAccepted, ReasonValid, "every field makes sense"),
		in.problems(v1alpha1.ConditionResolvedRefs, ReasonResolved, "everything that it names exists"),
		{Condition: metav1.Condition{Type: v1alpha1.ConditionIssued, Status: in.Issued.Status, Reason: in.Issued.Reason, Message: in.Issued.Message}},
		in.injected(pods),
		in.unlessSilent(in.programmed(pods)),
	}
	encrypted, counts := in.encrypted(pods)
	if !in.Report.Root {
		encrypted = in.unlessSilent(encrypted)
	}
	all := append(slices.Clone(outcomes), encrypted)
	if counts {
		outcomes = all
	}
	if in.Monitoring != nil {
		monitored, counts := in.monitored()
		all = append(all, monitored)
		if counts {
			outcomes = append(slices.Clone(outcomes), monitored)
		}
	}
	var conditions []metav1.Condition
	for _, o := range append(all, outcome{Condition: in.ready(outcomes, pods)}) {
		o.ObservedGeneration = in.Report.Generation
		o.Message = shorten(o.Message, maxMessage)
		conditions = append(conditions, o.Condition)
	}
	s := v1alpha1.MeshStatus{ObservedGeneration: in.Report.Generation, Conditions: conditions, MTLS: mtls(in.Namespace)}
	if !in.Report.Root {
		s.Services = int32(in.Services)
		s.Proxies = pods.status(in)
		s.Splits = splits(in.Report.Splits)
	}
	return s
}

// splits are the first of what rules the Mesh's Services.
func splits(all []model.RulingSplit) *v1alpha1.SplitsStatus {
	if len(all) == 0 {
		return nil
	}
	out := &v1alpha1.SplitsStatus{Count: int32(len(all))} //nolint:gosec // a namespace has fewer
	for _, r := range all[:min(len(all), maxSamples)] {
		out.Samples = append(out.Samples, v1alpha1.ServiceSplit{Service: r.Service, TrafficSplit: r.Split})
	}
	return out
}

// problems is the condition that the model's problems of one kind make.
func (in Input) problems(condition, reason, message string) outcome {
	var fatal, minor []string
	c := outcome{Condition: metav1.Condition{Type: condition, Status: metav1.ConditionTrue, Reason: reason, Message: message}}
	for _, p := range in.Report.Problems {
		if p.Condition != condition {
			continue
		}
		text := p.Message
		if p.Origin.Field != "" {
			text = p.Origin.Field + ": " + text
		}
		if !p.Fatal {
			minor = append(minor, text)
			continue
		}
		if len(fatal) == 0 {
			c.Status, c.Reason, c.summary = metav1.ConditionFalse, p.Reason, text
		}
		fatal = append(fatal, text)
	}
	switch {
	case len(fatal) > 0:
		c.Message = samples(append(fatal, minor...), "; ")
	case len(minor) > 0:
		c.Message = message + "; but " + samples(minor, "; ")
	}
	return c
}

func (in Input) injected(pods pods) outcome {
	c := outcome{Condition: metav1.Condition{Type: v1alpha1.ConditionInjected, Status: metav1.ConditionFalse}}
	switch {
	case in.Report.Root:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonNotEnrolled, "the root Mesh enrols no pods"
	case in.Unsupported != nil:
		c.Reason, c.Message = ReasonNativeSidecarUnavailable, in.Unsupported.Error()
	case in.Conflict != nil:
		c.Reason, c.Message = ReasonConflicted, in.Conflict.Error()
	case pods.expected == 0:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonNoPods, "no pod is selected yet"
	case in.Sidecar == "":
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, ReasonPending, "the current proxy's settings are not known yet"
	case len(pods.stale) > 0:
		c.Reason = ReasonRestartNeeded
		c.summary = fmt.Sprintf("%d of %s no current proxy", len(pods.stale), haveNo(pods.expected))
		c.Message = c.summary + ": " + restart(in.Report.Namespace, pods)
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonInjected, fmt.Sprintf("%s a current proxy", have(pods.expected))
		return in.unlessSilent(c)
	}
	return c
}

func (in Input) programmed(pods pods) outcome {
	c := outcome{Condition: metav1.Condition{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionFalse}}
	behind := in.behind()
	switch {
	case len(in.Rejections) > 0:
		c.Reason, c.summary, c.Message = ReasonRejectedByProxy, in.Rejections[0].String(), rejected(in.Rejections)
	case len(behind) > 0:
		c.Reason = ReasonPending
		c.summary = fmt.Sprintf("%d of %s not hold generation %d yet", len(behind), do(len(in.Proxies)), in.Report.Generation)
		c.Message = c.summary + ": " + samples(behind, ", ")
	case len(pods.unconnected) > 0:
		c.Status, c.Reason = metav1.ConditionUnknown, ReasonNotConnected
		c.summary = fmt.Sprintf("%d of %s not connected to the control plane", len(pods.unconnected), are(pods.proxied))
		c.Message = c.summary + ": " + samples(pods.unconnected, ", ")
	case len(in.Proxies) == 0:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonProgrammed, "there are no proxies yet"
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonProgrammed, fmt.Sprintf("%s generation %d", hold(len(in.Proxies)), in.Report.Generation)
	}
	return c
}

// behind names the connected proxies that do not hold the Mesh's generation.
func (in Input) behind() []string {
	var names []string
	for i := range in.Proxies {
		p := &in.Proxies[i]
		if p.SyncedRevision >= in.Report.Since {
			continue
		}
		name := p.Proxy.Pod
		if in.Report.Root {
			name = p.Proxy.Namespace + "/" + name
		}
		if p.CertificateError != "" {
			name += " (" + p.CertificateError + ")"
		}
		names = append(names, name)
	}
	return names
}

// ready sums the others up: the first that is False, then the first that is Unknown, speaks, in short.
func (in Input) ready(outcomes []outcome, pods pods) metav1.Condition {
	for _, status := range []metav1.ConditionStatus{metav1.ConditionFalse, metav1.ConditionUnknown} {
		for _, o := range outcomes {
			if o.Status == status {
				return o.notReady()
			}
		}
	}
	message := fmt.Sprintf("all proxies hold generation %d", in.Report.Generation)
	switch {
	case in.Report.Root:
		message = "the mesh is ready"
	case pods.expected == 0:
		message = "ready for pods: none is selected yet"
	}
	return metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: ReasonReady, Message: message}
}

// notReady is Ready because of a condition that is not True. What it leaves out is said there.
func (o outcome) notReady() metav1.Condition {
	c := o.Condition
	c.Type = v1alpha1.ConditionReady
	if o.summary != "" {
		c.Message = o.summary
	}
	if c.Message = shorten(c.Message, maxSummary); c.Message != o.Message {
		c.Message += "; see condition " + o.Type
	}
	return c
}

// mtls is the mode of the namespace, with a star when ports have others.
func mtls(n *model.Namespace) string {
	for _, p := range n.Ports {
		if p.Mode != n.Mode {
			return string(n.Mode) + "*"
		}
	}
	return string(n.Mode)
}

// samples joins the first items and counts the rest.
func samples(items []string, separator string) string {
	if over := len(items) - maxSamples; over > 0 {
		return strings.Join(items[:maxSamples], separator) + fmt.Sprintf("%sand %d more", separator, over)
	}
	return strings.Join(items, separator)
}

func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-len("…")], "") + "…"
}

// The following put a number of pods or proxies and a verb together.

func have(n int) string {
	if n == 1 {
		return "the one pod has"
	}
	return fmt.Sprintf("all %d pods have", n)
}

func hold(n int) string {
	if n == 1 {
		return "the one proxy holds"
	}
	return fmt.Sprintf("all %d proxies hold", n)
}

func do(n int) string {
	if n == 1 {
		return "1 proxy does"
	}
	return fmt.Sprintf("%d proxies do", n)
}

func are(n int) string {
	if n == 1 {
		return "1 proxy is"
	}
	return fmt.Sprintf("%d proxies are", n)
}
