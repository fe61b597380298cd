package plan

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/status"
)

// ReasonNotKnown is the reason of a condition that a plan can't know.
const ReasonNotKnown = "NotKnown"

// Make makes a plan. The error names what the input can't be understood for; what is wrong with the objects is in the plan.
func Make(in Input) (*Plan, error) {
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	after, actions, refused, err := in.after(before)
	if err != nil {
		return nil, err
	}
	w := newWorlds(in, before, after)
	old, err := w.next(before, nil)
	if err != nil {
		return nil, err
	}
	held := w.configuration(old)
	next, err := w.next(after, old)
	if err != nil {
		return nil, err
	}
	p := &Plan{APIVersion: APIVersion, Kind: Kind, Meshes: []Mesh{}, Refused: refused}
	issuedBefore, issuedAfter := in.issued(old, next)
	p.Meshes = meshes(w.statuses(old, issuedBefore), w.statuses(next, issuedAfter), actions)
	p.Objects = objects(old, next)
	p.Restarts = w.restarts(old, next)
	p.Pods = w.podNotes(next, p.Restarts)
	p.Endpoints, p.Plaintext = lostEndpoints(old, next), refusedPlaintext(old, next)
	p.Proxies, p.Envoy = compare(held, w.configuration(next), in.Envoy)
	p.Assumptions = append(assumptions(p, next), w.failures()...)
	p.summarize(actions)
	return p, nil
}

// issued is what can be said of certificates before and after.
func (in Input) issued(old, next *world) (before, after identity.Verdict) {
	before = in.Issued
	if before == (identity.Verdict{}) {
		before = identity.Verdict{Status: metav1.ConditionUnknown, Reason: ReasonNotKnown,
			Message: "the operator and cert-manager know whether certificates are issued; a plan does not"}
	}
	a, b := old.snapshot.Reader().MeshWide(), next.snapshot.Reader().MeshWide()
	if a.TrustDomain != b.TrustDomain || a.CertificateDuration != b.CertificateDuration || !reflect.DeepEqual(a.Issuer, b.Issuer) {
		return before, identity.Verdict{Status: metav1.ConditionUnknown, Reason: ReasonNotKnown,
			Message: "spec.meshWide.trust changes, so cert-manager issues again; whether it can is not known before"}
	}
	return before, before
}

func meshes(before, after map[key]*v1alpha1.MeshStatus, actions map[key]Action) []Mesh {
	keys := map[key]bool{}
	for k := range before {
		keys[k] = true
	}
	for k := range after {
		keys[k] = true
	}
	list := []Mesh{}
	for _, k := range sortedKeys(keys) {
		m := Mesh{Namespace: k.Namespace, Name: k.Name, Action: actions[k], Before: before[k], After: after[k]}
		if m.Before != nil && m.After != nil {
			m.Changed = changedConditions(m.Before, m.After)
		}
		if m.Action == "" {
			if len(m.Changed) == 0 && sameCounts(m.Before, m.After) {
				continue
			}
			m.Action = Affected
		}
		list = append(list, m)
	}
	return list
}

// sameCounts reports whether all but the conditions is the same.
func sameCounts(a, b *v1alpha1.MeshStatus) bool {
	return a == nil || b == nil || a.MTLS == b.MTLS && a.Services == b.Services && reflect.DeepEqual(a.Proxies, b.Proxies)
}

func sortedKeys(keys map[key]bool) []key {
	return slices.SortedFunc(maps.Keys(keys), func(a, b key) int { return strings.Compare(a.String(), b.String()) })
}

var generation = regexp.MustCompile(`generation [0-9]+`)

// changedConditions names the conditions that differ in more than the generation that they are about.
func changedConditions(before, after *v1alpha1.MeshStatus) []string {
	var changed []string
	for i := range after.Conditions {
		now := &after.Conditions[i]
		was := Condition(before, now.Type)
		if was == nil || was.Status != now.Status || was.Reason != now.Reason ||
			generation.ReplaceAllString(was.Message, "") != generation.ReplaceAllString(now.Message, "") {
			changed = append(changed, now.Type)
		}
	}
	return changed
}

// objects are the differences between what Tulle keeps before and after.
func objects(old, next *world) []Object {
	keys := map[key]bool{}
	for _, w := range []*world{old, next} {
		for k := range w.desired {
			keys[k] = true
		}
	}
	var list []Object
	for _, k := range sortedKeys(keys) {
		before, after := old.desired[k], next.desired[k]
		if old.foreign[k] != nil {
			before = nil
		}
		o := Object{Kind: k.kind, Namespace: k.Namespace, Name: k.Name}
		switch {
		case next.foreign[k] != nil:
			if old.foreign[k] != nil && before == nil && old.desired[k] != nil {
				continue
			}
			o.Action, o.Note = Unchanged, next.foreign[k].Error()
		case before == nil && after == nil:
			continue
		case before == nil:
			o.Action = Create
		case after == nil:
			o.Action = Delete
		case k.kind == "ConfigMap" && old.meshed(k.Namespace) && !next.meshed(k.Namespace):
			o.Action, o.Note = DeleteLater, "goes when the last pod with a proxy does"
		case equality.Semantic.DeepEqual(before, after):
			continue
		default:
			o.Action, o.Fields = Update, changedFields(before, after)
			if k.kind == "MutatingWebhookConfiguration" {
				o.Fields = enrolments(old, next)
			}
		}
		list = append(list, o)
	}
	return list
}

// meshed reports whether a Mesh enrols a namespace.
func (w *world) meshed(namespace string) bool { return w.snapshot.Reader().Namespace(namespace).Meshed }

// enrolments say which namespaces come and go: all that makes a webhook configuration change.
func enrolments(old, next *world) []string {
	var fields []string
	for _, namespace := range union(old.snapshot.Namespaces(), next.snapshot.Namespaces()) {
		switch was, is := old.meshed(namespace), next.meshed(namespace); {
		case is && !was:
			fields = append(fields, "enrolled namespaces: + "+namespace)
		case was && !is:
			fields = append(fields, "enrolled namespaces: - "+namespace)
		}
	}
	return fields
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// restarts are the pods of each namespace that lack something after the change.
func (w *worlds) restarts(old, next *world) []Restart {
	if w.in.Unsupported != nil {
		return nil // it would not help
	}
	var list []Restart
	for _, namespace := range next.snapshot.Namespaces() {
		before := map[model.WorkloadKey]bool{}
		if in := w.statusInput(old, namespace); in.Sidecar != "" {
			for _, p := range status.Stale(in) {
				before[p.Key] = true
			}
		}
		now := w.statusInput(next, namespace)
		r := Restart{Namespace: namespace}
		targets, recreate := map[string]bool{}, map[string]bool{}
		add := func(p *model.Workload, reason RestartReason) {
			r.Pods = append(r.Pods, Pod{Name: p.Key.Name, Owner: p.Owner, Reason: reason})
			if target := status.RolloutTarget(p.Owner); target != "" {
				targets[target] = true
			} else {
				recreate[p.Key.Name] = true
			}
		}
		if now.Sidecar != "" {
			for _, p := range status.Stale(now) {
				switch {
				case before[p.Key]:
					r.Already++
				case p.Meshed:
					add(p, OlderProxy)
				default:
					add(p, NoProxy)
				}
			}
		}
		reader := old.snapshot.Reader()
		for _, p := range now.Workloads {
			if was := reader.Workload(p.Key); p.Meshed && !p.Selected && was != nil && was.Selected {
				add(p, ProxyUnused)
			}
		}
		if len(r.Pods) == 0 {
			continue
		}
		if len(targets) > 0 {
			r.Commands = []string{fmt.Sprintf("kubectl -n %s rollout restart %s", namespace, strings.Join(slices.Sorted(maps.Keys(targets)), " "))}
		}
		r.Recreate = slices.Sorted(maps.Keys(recreate))
		list = append(list, r)
	}
	return list
}

// podNotes are what injection says of new pods, and would say of those that lack a proxy once they are made again: one of each workload.
func (w *worlds) podNotes(next *world, restarts []Restart) []PodNote {
	reader := next.snapshot.Reader()
	for _, r := range restarts {
		seen := map[string]bool{}
		for _, p := range r.Pods {
			pod := next.pods[model.WorkloadKey{Namespace: r.Namespace, Name: p.Name}]
			if p.Reason != NoProxy || seen[p.Owner] || pod == nil {
				continue
			}
			seen[p.Owner] = true
			_, refused, warnings, err := injectPod(pod, inject.For(w.in.Installation, reader.Namespace(r.Namespace), reader.MeshWide()))
			if err != nil {
				refused = err.Error()
			}
			next.note(r.Namespace, p.Owner, refused, warnings)
		}
	}
	slices.SortStableFunc(next.notes, func(a, b PodNote) int { return strings.Compare(a.Namespace+"/"+a.Owner, b.Namespace+"/"+b.Owner) })
	return next.notes
}

// assumptions say what the plan does not know.
func assumptions(p *Plan, next *world) []string {
	var list []string
	made := 0
	for _, s := range next.standIns {
		made += len(s.pods)
	}
	if made > 0 {
		list = append(list, fmt.Sprintf("pods are made up from manifests (%d), as they would be after the last apply; so are the addresses of what has none", made))
	}
	if p.Proxies.Total > 0 {
		list = append(list, "every proxy is connected and accepts what it gets")
	}
	if len(p.Proxies.Services) > 0 {
		list = append(list, "which proxies use a Service is known to them alone: at most all of them")
	}
	return list
}

func (p *Plan) summarize(actions map[key]Action) {
	s := Summary{Refused: len(p.Refused)}
	for _, o := range p.Objects {
		switch o.Action {
		case Create:
			s.Made++
		case Update:
			s.Changed++
		case Delete:
			s.Removed++
		}
	}
	for _, r := range p.Restarts {
		for _, pod := range r.Pods {
			if pod.Reason == ProxyUnused {
				s.Unused++
			} else {
				s.Restarts++
			}
		}
	}
	for _, o := range p.Proxies.Own {
		s.Proxies += o.Proxies
	}
	if len(p.Proxies.Services) > 0 {
		s.MoreProxies = p.Proxies.Total - s.Proxies
	}
	p.Summary = s
	p.Changes = s != Summary{Refused: s.Refused}
	for _, a := range actions {
		p.Changes = p.Changes || a != Unchanged
	}
	p.Changes = p.Changes || slices.ContainsFunc(p.Meshes, func(m Mesh) bool { return m.Action != Unchanged })
}
