package envoy

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BecomeReady makes a pod, such as "shop/web", that was applied with a status of not ready, ready: its readiness probe succeeds now.
func (w *World) BecomeReady(pod string) {
	w.t.Helper()
	w.update(pod, func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	})
}

// Terminate marks a pod as one that somebody deleted, and that goes on serving until World.Delete ends it. A kubelet leaves an app as much
// time as its preStop hook and its grace period say.
func (w *World) Terminate(pod string) {
	w.t.Helper()
	w.update(pod, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1_700_000_000+w.writes, 0)} })
}

// update changes a pod that runs. It returns as Apply does.
func (w *World) update(pod string, change func(*corev1.Pod)) {
	w.t.Helper()
	p := w.objects[w.Pod(pod).ref].(*corev1.Pod).DeepCopy()
	change(p)
	w.ApplyObjects(p)
}
