package envoy

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Terminate marks a pod as one that somebody deleted, and that goes on serving until World.Delete ends it. A kubelet leaves an app as much
// time as its preStop hook and its grace period say.
func (w *World) Terminate(pod string) {
	w.t.Helper()
	p := w.objects[w.Pod(pod).ref].(*corev1.Pod).DeepCopy()
	p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1_700_000_000+w.writes, 0)}
	w.ApplyObjects(p)
}
