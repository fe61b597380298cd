package model

import (
	"cmp"
	"slices"
	"strings"
)

// member says what a pod counts as that some Services select.
func (n *namespace) member(p *pod, selecting []*service) Membership {
	if len(selecting) == 0 {
		return Membership{Version: versionLabel(p)}
	}
	first := slices.MinFunc(selecting, func(a, b *service) int {
		return cmp.Or(n.unclaimed(a)-n.unclaimed(b), a.created.Compare(b.created), strings.Compare(a.key.Name, b.key.Name))
	})
	return Membership{Service: first.key.Name, Version: versionOf(n.versionsOf(first, p), p)}
}

// unclaimed is 1 for a Service that no Mesh claims. A Service that was made for one version selects the pods of the claimed one too.
func (n *namespace) unclaimed(s *service) int {
	if n.settings.claims[s.key.Name] == nil {
		return 1
	}
	return 0
}

// versionOf is the first of the names that a Mesh gives a pod, else what the pod says itself.
func versionOf(names []string, p *pod) string {
	if len(names) > 0 {
		return names[0]
	}
	return versionLabel(p)
}

func versionLabel(p *pod) string {
	return cmp.Or(p.labels["version"], p.labels["app.kubernetes.io/version"])
}
