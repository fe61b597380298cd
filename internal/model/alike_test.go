package model

import (
	"fmt"
	"testing"
)

func TestPodsOfOneControllerShareATemplate(t *testing.T) {
	t.Parallel()
	b := NewBuilder(Config{OperatorNamespace: "tulle-system"})
	set := func(name, controllerName, version string) *pod {
		p := &pod{
			template: &template{labels: map[string]string{"app": "web", "version": version}, account: "web", controllerKind: "ReplicaSet", controllerName: controllerName},
			key:      WorkloadKey{Namespace: "shop", Name: name}, uid: name,
		}
		b.setPod(p.key, p)
		return b.pods[p.key]
	}
	one, two := set("web-1", "web", "v1"), set("web-2", "web", "v1")
	if one.template != two.template || one.pods != 2 {
		t.Errorf("two pods that say the same do not share, or count as %d", one.pods)
	}
	if three := set("web-3", "web", "v2"); three.template == one.template || three.labels["version"] != "v2" {
		t.Error("a pod that says something else shares")
	}
	if other := set("web-4", "other", "v1"); other.template == one.template {
		t.Error("pods of two controllers share")
	}
	if bare := set("web-5", "", "v1"); bare.pods != 0 {
		t.Error("a pod without a controller shares")
	}
	// One says something else now; the other stays as it was.
	if changed := set("web-2", "web", "v2"); changed.labels["version"] != "v2" || one.labels["version"] != "v1" || one.pods != 1 {
		t.Errorf("after a change: %v and %v, shared by %d", changed.labels, one.labels, one.pods)
	}
	// Labels that each has alone take no room for ever, and are all as they were said.
	for i := range 3 * maxTemplates {
		if p := set(fmt.Sprint("db-", i), "db", fmt.Sprint(i)); p.labels["version"] != fmt.Sprint(i) {
			t.Errorf("pod %d has the labels %v", i, p.labels)
		}
	}
	if n := len(b.templates[controller{"shop", "ReplicaSet", "db"}]); n != maxTemplates {
		t.Errorf("%d templates are kept, want %d", n, maxTemplates)
	}
	for key := range b.pods {
		b.setPod(key, nil)
	}
	if len(b.templates) != 0 {
		t.Errorf("templates without pods are kept: %v", b.templates)
	}
}
