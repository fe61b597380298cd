package status

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// pods is what matters of the pods of a namespace.
type pods struct {
	expected int // pods that should have a proxy
	proxied  int // pods that have one, current or not, also those that no longer should
	injected int // pods that should have one and have a current one
	working  int // of these, those with a stream
	// stale are the pods that should have a current proxy and don't; unconnected the names of proxies without a stream.
	stale       []*model.Workload
	unconnected []string
}

func countPods(in Input) pods {
	connected := uids(in.Proxies)
	var p pods
	for _, w := range in.Workloads {
		if w.Meshed {
			p.proxied++
			if !connected[w.UID] {
				p.unconnected = append(p.unconnected, w.Key.Name)
			}
		}
		if !w.Selected {
			continue
		}
		p.expected++
		if !w.Meshed || w.Sidecar != in.Sidecar {
			p.stale = append(p.stale, w)
			continue
		}
		p.injected++
		if connected[w.UID] {
			p.working++
		}
	}
	return p
}

// Connected reports whether all of these pods that have a proxy are among the connected ones.
func Connected(workloads []*model.Workload, proxies []xds.ProxyState) bool {
	connected := uids(proxies)
	return !slices.ContainsFunc(workloads, func(w *model.Workload) bool { return w.Meshed && !connected[w.UID] })
}

func uids(proxies []xds.ProxyState) map[string]bool {
	set := make(map[string]bool, len(proxies))
	for i := range proxies {
		set[proxies[i].Proxy.UID] = true
	}
	return set
}

func (p pods) status(in Input) *v1alpha1.ProxiesStatus {
	s := &v1alpha1.ProxiesStatus{
		Summary:   fmt.Sprintf("%d/%d", p.working, p.expected),
		Expected:  int32(p.expected),
		Injected:  int32(p.injected),
		Connected: int32(len(in.Proxies)),
	}
	for i := range in.Proxies {
		if in.Proxies[i].SyncedRevision >= in.Report.Since {
			s.Programmed++
		}
		if len(in.Proxies[i].Rejections) > 0 {
			s.Rejected++
		}
	}
	return s
}

// rollouts are the kinds that kubectl rollout restart can restart, by the names that it takes.
var rollouts = map[string]string{"Deployment": "deploy", "StatefulSet": "sts", "DaemonSet": "ds"}

// maxTargets bounds what a command names.
const maxTargets = 3

// restart names the pods without a current proxy and the command that gives them one.
func restart(namespace string, p pods) string {
	var names, targets, singles []string
	for _, w := range p.stale {
		name := w.Key.Name + " (no proxy)"
		if w.Meshed {
			name = w.Key.Name + " (older proxy)"
		}
		names = append(names, name)
		if target := target(w.Owner); target != "" {
			targets = append(targets, target)
		} else {
			singles = append(singles, w.Key.Name)
		}
	}
	message := samples(names, ", ")
	if targets = unique(targets); len(targets) > 0 {
		message += fmt.Sprintf("; run: kubectl -n %s rollout restart %s", namespace, command(targets, len(p.stale) == p.expected))
	}
	if len(singles) > 0 {
		message += "; delete and create again: " + samples(singles, ", ")
	}
	return message
}

// command is what kubectl rollout restart is given: all names if they are few, or their kind if all of the namespace are meant.
func command(targets []string, all bool) string {
	if len(targets) <= maxTargets {
		return strings.Join(targets, " ")
	}
	kinds := map[string]bool{}
	for _, t := range targets {
		kind, _, _ := strings.Cut(t, "/")
		kinds[kind] = true
	}
	if kind, _, _ := strings.Cut(targets[0], "/"); all && len(kinds) == 1 {
		return kind
	}
	return fmt.Sprintf("%s (and %d more)", strings.Join(targets[:maxTargets], " "), len(targets)-maxTargets)
}

func haveNo(n int) string {
	if n == 1 {
		return "1 pod has"
	}
	return fmt.Sprintf("%d pods have", n)
}

// target is what kubectl rollout restart calls an owner; empty when it can't restart it.
func target(owner string) string {
	kind, name, _ := strings.Cut(owner, "/")
	if short := rollouts[kind]; short != "" {
		return short + "/" + name
	}
	return ""
}

func unique(items []string) []string {
	slices.Sort(items)
	return slices.Compact(items)
}
