package controllers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// teller is what is told of splits as time goes by.
type teller struct {
	told  splitsTold
	now   time.Time
	again time.Duration
}

// after lets time pass, and returns what is told then of splits of these names with these problems.
func (t *teller) after(d time.Duration, reports ...*model.SplitReport) []string {
	t.now = t.now.Add(d)
	var tell []splitEvent
	t.told, tell, t.again = t.told.next(reports, t.now)
	var texts []string
	for _, e := range tell {
		texts = append(texts, fmt.Sprintf("%s %s %s %s: %s", e.split.Name, e.kind, e.reason, e.action, e.text))
	}
	return texts
}

func reportOf(name string, problems ...model.Problem) *model.SplitReport {
	return &model.SplitReport{Namespace: "shop", Name: name, UID: "uid of " + name, Problems: problems}
}

// wrong is a problem that something is not followed for.
func wrong(reason, field string) model.Problem {
	return model.Problem{Origin: resource.Origin{Kind: "TrafficSplit", Field: field}, Reason: reason, Message: "it is wrong", Fatal: true}
}

// A problem is told once, when it has lasted for a while, each by itself; once more each hour for as long as it lasts; and that it is over.
func TestSplitEvents(t *testing.T) {
	t.Parallel()
	note := wrong("BackendWithoutEndpoints", "spec.backends[1].service")
	note.Fatal = false
	port, missing := wrong("PortNotFound", "spec.backends[0].service"), wrong("BackendNotFound", "spec.backends[2].service")
	const told = "a Warning PortNotFound spec.backends[0].service: spec.backends[0].service: it is wrong"
	events := &teller{now: time.Unix(0, 0)}
	for _, step := range []struct {
		name    string
		after   time.Duration
		report  *model.SplitReport
		want    []string
		waiting time.Duration
	}{
		{"nothing is wrong", time.Second, reportOf("a"), nil, 0},
		{"what may be about to arrive", time.Second, reportOf("a", port), nil, settleTime},
		{"not yet", 2 * time.Second, reportOf("a", port), nil, time.Second},
		{"it lasts", time.Second, reportOf("a", port), []string{told}, time.Hour},
		{"it was told", time.Minute, reportOf("a", port, note), nil, settleTime},
		{"another, worth knowing", settleTime, reportOf("a", port, note), []string{
			"a Normal BackendWithoutEndpoints spec.backends[1].service: spec.backends[1].service: it is wrong"}, time.Hour - time.Minute - settleTime},
		{"an hour later", time.Hour, reportOf("a", port, note), []string{told}, time.Hour},
		{"another instead", time.Second, reportOf("a", missing), nil, settleTime},
		{"it lasts", settleTime, reportOf("a", missing), []string{"a Warning BackendNotFound spec.backends[2].service: spec.backends[2].service: it is wrong"}, time.Hour},
		{"it is over", time.Second, reportOf("a", note), []string{"a Normal Resolved spec: what was left out of it, or had to be refused, is so no more"}, settleTime},
		{"and stays so", time.Hour, reportOf("a"), nil, 0},
		{"for a moment", time.Second, reportOf("a", port), nil, settleTime},
		{"it never lasted", time.Second, reportOf("a"), nil, 0},
		{"wrong again", time.Second, reportOf("a", port), nil, settleTime},
		{"told again", settleTime, reportOf("a", port), []string{told}, time.Hour},
	} {
		if diff := cmp.Diff(step.want, events.after(step.after, step.report)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
		if events.again != step.waiting {
			t.Errorf("%s: looks again after %v, want %v", step.name, events.again, step.waiting)
		}
	}
	if events.after(time.Second); len(events.told) != 0 {
		t.Errorf("of splits that are gone it remembers %v", events.told)
	}
}

// Splits by the thousand, each with many problems, are told of a few at a time, and in the end all of them, at most ten times each.
func TestSplitEventsAreBounded(t *testing.T) {
	t.Parallel()
	var reports []*model.SplitReport
	for i := range 100 {
		var problems []model.Problem
		for j := range 64 {
			problems = append(problems, wrong("BackendNotFound", fmt.Sprintf("spec.backends[%d].service", j)))
		}
		reports = append(reports, reportOf(fmt.Sprintf("split-%d", i), problems...))
	}
	events := &teller{now: time.Unix(0, 0)}
	events.after(0, reports...)
	events.after(settleTime-splitEventsDelay, reports...)
	all := map[string]int{}
	for range 100 * maxEventsOfSplit / maxEventsAtOnce {
		if events.again > splitEventsDelay {
			t.Fatalf("looks again after %v, with %d told", events.again, len(all))
		}
		now := events.after(splitEventsDelay, reports...)
		if len(now) > maxEventsAtOnce {
			t.Fatalf("%d events at once", len(now))
		}
		for _, text := range now {
			all[text]++
		}
	}
	if len(all) != 100*maxEventsOfSplit {
		t.Errorf("told of %d problems", len(all))
	}
	if again := events.after(time.Minute, reports...); len(again) > 0 {
		t.Errorf("told again: %v", again)
	}
}

// A split that can't be read is in no report of the model.
func TestUnreadableSplits(t *testing.T) {
	t.Parallel()
	split := func(name string, weight any) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
			"service": "s", "backends": []any{map[string]any{"service": "c", "weight": weight}},
		}}}
		u.SetAPIVersion("split.smi-spec.io/v1alpha2")
		u.SetKind("TrafficSplit")
		u.SetNamespace("shop")
		u.SetName(name)
		u.SetUID(types.UID("uid of " + name))
		return u
	}
	all := []*unstructured.Unstructured{split("known", int64(1)), split("odd", 0.5), split("fresh", int64(1))}
	found := unreadable(all, []*model.SplitReport{reportOf("known")})
	if len(found) != 1 || found[0].Name != "odd" || !strings.Contains(found[0].Problems[0].Message, "it counts as not there") {
		t.Errorf("found %+v", found)
	}
}
