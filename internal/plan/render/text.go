// Package render writes plans for people.
package render

import (
	"fmt"
	"io"
	"strings"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/plan"
)

// Options say what is written.
type Options struct {
	// Envoy chooses the differences of Envoy's configuration whose names, or whose owners' names, contain it; "*" stands for all, and
	// the empty string for none.
	Envoy string
	// EnvoyLines bounds the lines of those differences; 0 means no bound.
	EnvoyLines int
}

// Text writes a plan: what matters most first.
func Text(out io.Writer, p *plan.Plan, o Options) error {
	w := &writer{}
	w.headline(p)
	w.refused(p.Refused)
	for _, m := range p.Meshes {
		w.mesh(m)
	}
	w.objects(p.Objects)
	w.restarts(p.Restarts)
	w.pods(p.Pods)
	w.reach(p)
	w.proxies(p.Proxies)
	if o.Envoy != "" {
		w.envoy(p.Envoy, o)
	}
	if p.Changes {
		w.assumptions(p.Assumptions)
	}
	_, err := io.WriteString(out, w.String())
	return err
}

type writer struct{ strings.Builder }

func (w *writer) line(format string, args ...any) {
	w.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

// headline is the plan in one line.
func (w *writer) headline(p *plan.Plan) {
	s := p.Summary
	var parts []string
	add := func(n int, one, many string) {
		if n > 0 {
			parts = append(parts, count(n, one, many))
		}
	}
	add(s.Refused, "object refused", "objects refused")
	add(s.Made, "object made", "objects made")
	add(s.Changed, "object changed", "objects changed")
	add(s.Removed, "object removed", "objects removed")
	add(s.Restarts, "pod to restart", "pods to restart")
	add(s.Unused, "pod with a proxy that is no longer wanted", "pods with a proxy that is no longer wanted")
	switch {
	case s.Proxies > 0 && s.MoreProxies > 0:
		parts = append(parts, fmt.Sprintf("%s touched, and at most %d more", count(s.Proxies, "proxy", "proxies"), s.MoreProxies))
	case s.MoreProxies > 0:
		parts = append(parts, fmt.Sprintf("at most %s touched", count(s.MoreProxies, "proxy", "proxies")))
	default:
		add(s.Proxies, "proxy touched", "proxies touched")
	}
	var does []string
	for _, m := range p.Meshes {
		if verb := verbs[m.Action]; verb != "" && len(does) < 3 {
			does = append(does, fmt.Sprintf("%s Mesh %s/%s", verb, m.Namespace, m.Name))
		}
	}
	switch {
	case !p.Changes && s.Refused == 0:
		w.line("Nothing would change.")
		return
	case len(does) == 0 && s.Refused == 0:
		does = []string{"no Mesh changes"}
	case len(does) == 0:
		does = []string{"nothing can be applied"}
	}
	if len(parts) == 0 {
		parts = []string{"nothing else changes"}
	}
	w.line("Plan: %s: %s.", strings.Join(does, ", "), strings.Join(parts, ", "))
}

var verbs = map[plan.Action]string{plan.Create: "create", plan.Update: "update", plan.Delete: "delete"}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (w *writer) refused(list []plan.Refusal) {
	for _, r := range list {
		w.line("\n! %s would be refused by %s; the rest is planned without it:", name(r.Kind, r.Namespace, r.Name), r.By)
		for _, reason := range r.Reasons {
			w.line("    %s", reason)
		}
	}
}

// mesh shows the conditions of a Mesh: all of a new one, else those that change.
func (w *writer) mesh(m plan.Mesh) {
	who := fmt.Sprintf("Mesh %s/%s", m.Namespace, m.Name)
	if m.Action == plan.Affected && len(m.Changed) == 0 && m.Before.MTLS == m.After.MTLS {
		return // a count
	}
	switch m.Action {
	case plan.Create:
		w.line("\n+ %s would be created; its conditions would be:", who)
		w.conditions(m, nil)
	case plan.Delete:
		w.line("\n- %s would be deleted.", who)
	case plan.Unchanged:
		if len(m.Changed) == 0 {
			return
		}
		w.line("\n  %s stays as it is; of its conditions would change:", who)
		w.conditions(m, m.Changed)
	case plan.Update, plan.Affected:
		sign, does := "~", "would change"
		if m.Action == plan.Affected {
			sign, does = " ", "is not applied, and would be affected"
		}
		if before, after := m.Before.MTLS, m.After.MTLS; before != after {
			does += fmt.Sprintf("; mTLS %s → %s", before, after)
		}
		if len(m.Changed) == 0 {
			w.line("\n%s %s %s; its conditions stay as they are:", sign, who, does)
			w.conditions(m, []string{v1alpha1.ConditionReady})
			return
		}
		w.line("\n%s %s %s; of its conditions would change:", sign, who, does)
		w.conditions(m, m.Changed)
	}
}

// conditions shows the named ones, or all when none is named.
func (w *writer) conditions(m plan.Mesh, named []string) {
	for _, c := range m.After.Conditions {
		if len(named) > 0 && !contains(named, c.Type) {
			continue
		}
		state := string(c.Status)
		if before := plan.Condition(m.Before, c.Type); before != nil && before.Status != c.Status {
			state = fmt.Sprintf("%s → %s", before.Status, c.Status)
		}
		w.line("    %-13s %-15s %s", c.Type, state, c.Reason)
		w.line("        %s", c.Message)
	}
}

func contains(list []string, item string) bool {
	for _, i := range list {
		if i == item {
			return true
		}
	}
	return false
}

var signs = map[plan.Action]string{plan.Create: "+", plan.Update: "~", plan.Delete: "-", plan.Unchanged: "!", plan.DeleteLater: "-"}

func (w *writer) objects(list []plan.Object) {
	if len(list) == 0 {
		return
	}
	w.line("\nObjects that Tulle keeps:")
	for _, o := range list {
		note := ""
		if o.Note != "" && o.Action == plan.DeleteLater {
			note = " (" + o.Note + ")"
		}
		w.line("  %s %s%s", signs[o.Action], name(o.Kind, o.Namespace, o.Name), note)
		for _, field := range o.Fields {
			w.line("      %s", field)
		}
		if o.Note != "" && note == "" {
			w.line("      %s", o.Note)
		}
	}
}

func name(kind, namespace, name string) string {
	if namespace == "" {
		return kind + " " + name
	}
	return kind + " " + namespace + "/" + name
}

var reasons = map[plan.RestartReason]string{
	plan.NoProxy: "no proxy yet", plan.OlderProxy: "a proxy with older settings", plan.ProxyUnused: "a proxy that is no longer wanted, and goes on working",
}

func (w *writer) restarts(list []plan.Restart) {
	if len(list) == 0 {
		return
	}
	w.line("\nPods to restart (Tulle restarts none itself):")
	for _, r := range list {
		var parts []string
		for _, reason := range []plan.RestartReason{plan.NoProxy, plan.OlderProxy, plan.ProxyUnused} {
			n := 0
			for _, p := range r.Pods {
				if p.Reason == reason {
					n++
				}
			}
			if n > 0 {
				parts = append(parts, fmt.Sprintf("%d with %s", n, reasons[reason]))
			}
		}
		if r.Already > 0 {
			parts = append(parts, fmt.Sprintf("%d that need one already", r.Already))
		}
		w.line("  %s: %s", r.Namespace, strings.Join(parts, ", "))
		for _, command := range r.Commands {
			w.line("      %s", command)
		}
		if len(r.Recreate) > 0 {
			w.line("      delete and create again: %s", strings.Join(r.Recreate, ", "))
		}
	}
}

func (w *writer) pods(list []plan.PodNote) {
	if len(list) == 0 {
		return
	}
	w.line("\nNew pods:")
	for _, n := range list {
		sign, does := " ", "would be told"
		if n.Refused {
			sign, does = "!", "would be refused"
		}
		w.line("  %s %s of %s %s:", sign, n.Owner, n.Namespace, does)
		w.line("        %s", n.Message)
	}
}

// reach shows who could no longer call whom.
func (w *writer) reach(p *plan.Plan) {
	if len(p.Endpoints) == 0 && len(p.Plaintext) == 0 {
		return
	}
	w.line("\nCalls that would fail (set mtls.mode: Permissive until all pods have proxies):")
	for _, e := range p.Endpoints {
		w.line("  ! clients with a proxy could call %d of %s of Service %s/%s port %d: the others have no proxy, and the port is Strict",
			e.Left, count(e.Left+e.Lost, "endpoint", "endpoints"), e.Namespace, e.Service, e.Port)
	}
	for _, r := range p.Plaintext {
		who := fmt.Sprintf("%s (%d of them in %s)", count(r.Pods, "running pod has none", "running pods have none"), r.OwnPods, r.Namespace)
		w.line("  %s of %s would refuse clients without a proxy: %s", count(r.Proxies, "proxy", "proxies"), r.Namespace, who)
	}
}

// maxResources bounds the resources that are named of one kind of change.
const maxResources = 6

func (w *writer) proxies(p plan.Proxies) {
	if len(p.Own) == 0 && len(p.Services) == 0 {
		return
	}
	w.line("\nProxies (%d run):", p.Total)
	for _, o := range p.Own {
		w.line("  %s of %s get, unasked: %s", count(o.Proxies, "proxy", "proxies"), o.Namespace, resources(o.Resources))
	}
	for _, s := range p.Services {
		who := "those that use Service " + s.Namespace + "/" + s.Name
		if s.Name == "" {
			who = "those that call pods of " + s.Namespace + " by their own addresses"
		}
		w.line("  %s get: %s", who, resources(s.Resources))
	}
}

func resources(list []string) string {
	if over := len(list) - maxResources; over > 0 {
		return strings.Join(list[:maxResources], ", ") + fmt.Sprintf(" and %d more", over)
	}
	return strings.Join(list, ", ")
}

// Chosen are the differences that Options.Envoy chooses.
func Chosen(list []plan.Resource, filter string) []plan.Resource {
	if filter == "*" {
		return list
	}
	var chosen []plan.Resource
	for _, r := range list {
		if filter != "" && (strings.Contains(r.Name, filter) || strings.Contains(r.Of, filter) || r.Type == filter) {
			chosen = append(chosen, r)
		}
	}
	return chosen
}

func (w *writer) envoy(list []plan.Resource, o Options) {
	chosen := Chosen(list, o.Envoy)
	if len(chosen) == 0 {
		w.line("\nEnvoy's configuration: nothing differs.")
		return
	}
	w.line("\nEnvoy's configuration:")
	written := 0
	for i, r := range chosen {
		who := r.Of
		if r.Proxies > 0 {
			who = fmt.Sprintf("%d of the %s", r.Proxies, r.Of)
		} else {
			who += ", held by at most " + count(r.AtMost, "proxy", "proxies")
		}
		w.line("\n%s %s %s (%s)", signs[r.Action], r.Type, r.Name, who)
		lines := strings.Split(strings.TrimSuffix(r.Diff, "\n"), "\n")
		if r.Diff == "" {
			lines = []string{"(what is in secrets is not shown)"}
		}
		for j, line := range lines {
			if written++; o.EnvoyLines > 0 && written > o.EnvoyLines {
				w.line("… %d lines of this resource and %s are left out: --envoy=NAME chooses, --envoy-lines=0 shows all",
					len(lines)-j, count(len(chosen)-i-1, "other", "others"))
				return
			}
			w.line("%s", line)
		}
	}
}

func (w *writer) assumptions(list []string) {
	if len(list) == 0 {
		return
	}
	w.line("\nAssumed:")
	for _, a := range list {
		w.line("  - %s", a)
	}
}
