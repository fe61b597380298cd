package controllers

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/internal/model"
)

// splitLooks remembers what the writer of splits saw of each namespace when all was as it should be there, so that it looks again only at those of which
// something is new. To look costs a copy and the JSON of each object; to see that nothing is new, a few comparisons of pointers.
type splitLooks struct {
	seen map[string]*splitScene
	// conflicts are those found at the last look at each namespace.
	conflicts map[string][]SplitConflict

	mu sync.Mutex
	// touched are the namespaces in which a Service changed since.
	touched map[string]bool
}

// splitScene is all that the outputs of a namespace depend on, besides its Services.
type splitScene struct {
	version string
	meshes  []string // their UIDs
	nodes   []*model.Service
	ruling  []string // the TrafficSplits that rule these, which the snapshot learns of after them
	splits  []*unstructured.Unstructured
}

func (s *splitScene) equal(o *splitScene) bool {
	return o != nil && s.version == o.version && slices.Equal(s.meshes, o.meshes) && slices.Equal(s.nodes, o.nodes) && slices.Equal(s.ruling, o.ruling) && slices.Equal(s.splits, o.splits)
}

// splitLook is one look at some namespaces.
type splitLook struct {
	scenes map[string]*splitScene // of those that are looked at
	all    bool
}

// at says whether a namespace is looked at.
func (l *splitLook) at(namespace string) bool {
	_, looked := l.scenes[namespace]
	return looked || l.all
}

// touch has a namespace looked at with the next look. It may be called from any goroutine.
func (l *splitLooks) touch(namespace string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.touched == nil {
		l.touched = map[string]bool{}
	}
	l.touched[namespace] = true
}

// next returns what has to be looked at. The first look is at everything.
func (l *splitLooks) next(s *model.Snapshot, version string, live []*unstructured.Unstructured) *splitLook {
	l.mu.Lock()
	touched := l.touched
	l.touched = nil
	l.mu.Unlock()
	scenes := map[string]*splitScene{}
	of := func(namespace string) *splitScene {
		if scenes[namespace] == nil {
			scenes[namespace] = &splitScene{version: version}
		}
		return scenes[namespace]
	}
	reader := s.Reader()
	for _, report := range s.Meshes() {
		scene := of(report.Namespace)
		scene.meshes = append(scene.meshes, report.UID)
		for _, name := range report.Services {
			key := model.ServiceKey{Namespace: report.Namespace, Name: name}
			ruling, _ := s.RulingSplit(key)
			scene.nodes, scene.ruling = append(scene.nodes, reader.Service(key)), append(scene.ruling, ruling)
		}
	}
	for _, split := range live {
		scene := of(split.GetNamespace())
		scene.splits = append(scene.splits, split)
	}
	for _, scene := range scenes {
		slices.SortFunc(scene.splits, func(a, b *unstructured.Unstructured) int { return strings.Compare(a.GetName(), b.GetName()) })
	}
	for namespace := range l.seen {
		of(namespace) // that of what has gone is empty
	}
	for namespace := range touched {
		of(namespace)
		delete(l.seen, namespace)
	}
	look := &splitLook{scenes: scenes, all: l.seen == nil}
	if !look.all {
		for namespace, scene := range scenes {
			if scene.equal(l.seen[namespace]) {
				delete(scenes, namespace)
			}
		}
	}
	return look
}

// done notes how a look ended, and returns the conflicts of all namespaces. What went wrong is looked at again.
func (l *splitLooks) done(look *splitLook, conflicts []SplitConflict, err error) []SplitConflict {
	if look.all && err != nil {
		return conflicts // everything is looked at again
	}
	if l.seen == nil {
		l.seen, l.conflicts = map[string]*splitScene{}, map[string][]SplitConflict{}
	}
	for namespace, scene := range look.scenes {
		delete(l.conflicts, namespace)
		switch {
		case err != nil:
			l.seen[namespace] = nil // is unlike any, and keeps being looked at
		case len(scene.meshes)+len(scene.splits) == 0:
			delete(l.seen, namespace)
		default:
			l.seen[namespace] = scene
		}
	}
	for _, c := range conflicts {
		l.conflicts[c.Namespace] = append(l.conflicts[c.Namespace], c)
	}
	var all []SplitConflict
	for _, namespace := range slices.Sorted(maps.Keys(l.conflicts)) {
		all = append(all, l.conflicts[namespace]...)
	}
	return all
}
