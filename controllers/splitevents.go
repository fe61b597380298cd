package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/smi"
)

const (
	// splitEventsDelay gathers what changes together: most changes of the mesh concern no split.
	splitEventsDelay = time.Second
	// splitEventsAgain is how soon problems that are told of are told of again for as long as they last: an Event lives for an hour.
	splitEventsAgain = time.Hour
	// Bounds of what is told at once: of one split, and of all. Who writes a thousand wrong splits must not keep other events from being
	// recorded. What is left is told splitEventsDelay later.
	maxEventsOfSplit = 10
	maxEventsAtOnce  = 50
)

// Reasons of events on TrafficSplits, besides those of their problems.
const (
	reasonUnreadable = "Unreadable" // it makes no sense in any version, and counts as not there
	reasonResolved   = "Resolved"   // what was told of is over
)

// SplitEvents tells on the TrafficSplits that somebody else made what of them is not followed, and why, for those who look there and not at a
// Mesh. It writes nothing into them.
//
// What was told is remembered in memory: a new leader tells once more.
type SplitEvents struct {
	// Panics counts what panicked.
	Panics *contain.Panics
	World  *World
	// TrafficSplits returns those of the cluster and the version that they are in; none when the kind is not served.
	TrafficSplits func() (version string, all []*unstructured.Unstructured)
	Events        events.EventRecorder

	told splitsTold
}

// SetupWithManager adds the reconciler to a manager.
func (s *SplitEvents) SetupWithManager(m manager.Manager) error {
	return builder.ControllerManagedBy(m).Named("split-events").WithOptions(options()).
		WatchesRawSource(s.World.Changed.Source(splitEventsDelay)).
		Complete(contained(s.Panics, "split-events", s))
}

// Reconcile implements reconcile.Reconciler.
func (s *SplitEvents) Reconcile(context.Context, reconcile.Request) (reconcile.Result, error) {
	snapshot := s.World.Snapshot()
	if snapshot == nil {
		return reconcile.Result{}, nil
	}
	version, all := s.TrafficSplits()
	if version == "" {
		return reconcile.Result{}, nil // what they are told of now would be told of objects that are gone
	}
	reports := snapshot.Splits()
	reports = append(reports, unreadable(all, reports)...)
	var found []splitEvent
	var again time.Duration
	s.told, found, again = s.told.next(reports, time.Now())
	for _, e := range found {
		s.Events.Eventf(e.object(version), nil, e.kind, e.reason, e.action, "%s", note(e.text))
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

// unreadable reports the splits of others that are not in the model because they make no sense.
func unreadable(all []*unstructured.Unstructured, known []*model.SplitReport) []*model.SplitReport {
	read := make(map[string]bool, len(known))
	for _, r := range known {
		read[r.UID] = true
	}
	var reports []*model.SplitReport
	for _, u := range all {
		if read[string(u.GetUID())] || model.MadeForMesh(u) {
			continue
		}
		if _, err := smi.Read(u); err != nil {
			reports = append(reports, &model.SplitReport{
				Namespace: u.GetNamespace(), Name: u.GetName(), UID: string(u.GetUID()),
				Problems: []model.Problem{{Condition: v1alpha1.ConditionAccepted, Reason: reasonUnreadable, Message: "it counts as not there: " + err.Error(), Fatal: true}},
			})
		}
	}
	return reports
}

// splitEvent is an event on a TrafficSplit.
type splitEvent struct {
	split        *model.SplitReport
	kind, reason string
	// action is the field. The recorder counts events of one object, reason and action as one, with the text of the first.
	action string
	text   string
}

// object is what the event is about, as far as events need it.
func (e splitEvent) object(version string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: e.split.Namespace, Name: e.split.Name, UID: types.UID(e.split.UID)}}
	kind := smi.TrafficSplits()
	o.SetGroupVersionKind(kind.Resource(version).GroupVersion().WithKind(kind.Kind))
	return o
}

// splitsTold is what is known of the splits' problems, by UID of the split.
type splitsTold map[string]splitTold

type splitTold struct {
	problems map[model.Problem]problemTold
	// warned is true when the last that was told is that something is not followed.
	warned bool
}

type problemTold struct {
	since time.Time // it was seen first
	told  time.Time // zero when it was not
}

// due is when a problem is to be told of, if ever again. It has to last for settleTime: what is applied together, such as a split and its
// Services, arrives one after the other, and a canary's endpoints come and go.
func (p problemTold) due(fatal bool) (at time.Time, ever bool) {
	if p.told.IsZero() {
		return p.since.Add(settleTime), true
	}
	return p.told.Add(splitEventsAgain), fatal
}

// next says what is to be told at a time, and when to look again; 0: when something changes.
func (t splitsTold) next(reports []*model.SplitReport, now time.Time) (splitsTold, []splitEvent, time.Duration) {
	after := make(splitsTold, len(reports))
	var tell []splitEvent
	var again time.Duration
	for _, r := range reports {
		before, fatal := t[r.UID], false
		state := splitTold{problems: map[model.Problem]problemTold{}, warned: before.warned}
		for _, p := range r.Problems[:min(len(r.Problems), maxEventsOfSplit)] {
			fatal = fatal || p.Fatal
			known, ok := before.problems[p]
			if !ok {
				known.since = now
			}
			at, ever := known.due(p.Fatal)
			if ever && !now.Before(at) && len(tell) < maxEventsAtOnce {
				tell = append(tell, eventOf(r, p))
				known.told, state.warned = now, state.warned || p.Fatal
				at, ever = known.due(p.Fatal)
			}
			if wait := max(at.Sub(now), splitEventsDelay); ever && (again == 0 || wait < again) {
				again = wait
			}
			state.problems[p] = known
		}
		if state.warned && !fatal && len(tell) < maxEventsAtOnce {
			tell = append(tell, splitEvent{r, corev1.EventTypeNormal, reasonResolved, "spec", "what was left out of it, or had to be refused, is so no more"})
			state.warned = false
		}
		after[r.UID] = state
	}
	return after, tell, again
}

// eventOf is the event that tells of a problem.
func eventOf(r *model.SplitReport, p model.Problem) splitEvent {
	e := splitEvent{r, corev1.EventTypeNormal, p.Reason, "spec", p.Message}
	if p.Fatal {
		e.kind = corev1.EventTypeWarning
	}
	if p.Origin.Field != "" {
		e.action, e.text = p.Origin.Field, p.Origin.Field+": "+p.Message
	}
	return e
}
