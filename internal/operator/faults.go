package operator

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/controllers"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ingest"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// barred tells of the objects that the model can't take in: Meshes in their status, others in that of the Meshes beside them and
// in an event of their own.
func (o *operator) barred(all []ingest.Barred) {
	now := map[string]bool{}
	faults := make([]controllers.Fault, 0, len(all))
	for _, b := range all {
		fault := controllers.Fault{Namespace: b.Object.GetNamespace()}
		if _, ok := b.Object.(*v1alpha1.Mesh); ok {
			fault.Mesh = b.Object.GetName()
			fault.Message = fmt.Sprintf("%v; until it is changed, what it said before counts or, if there was nothing, mtls.mode Strict alone", b.Err)
		} else {
			fault.Message = fmt.Sprintf("%v; until it is changed, it counts as not there", b.Err)
		}
		faults = append(faults, fault)
		now[fault.Message] = true
		if fault.Mesh == "" && !o.told[fault.Message] && o.leading.Load() {
			o.manager.GetEventRecorder("tulle").Eventf(b.Object, nil, corev1.EventTypeWarning, "InternalError", "Read", "%s", fault.Message)
		}
	}
	o.told = now
	o.faults.Set(faults)
}

// cannotCompile tells of a resource that could not be made.
func (o *operator) cannotCompile(ref resource.ScopedRef, err error) {
	o.panics.Note(contain.Compile, err)
	o.Log.Error("cannot compile", "part", "compile", "resource", ref.Ref.String(), "pod", ref.Pod, "error", err)
	o.faults.Changed.Fire()
}

// failures are the resources that can't be made, for the Meshes of the namespaces that they tell of.
func (o *operator) failures() []controllers.Fault {
	var faults []controllers.Fault
	for _, f := range o.publisher.Failures() {
		for _, namespace := range f.Namespaces {
			faults = append(faults, controllers.Fault{Namespace: namespace, Message: fmt.Sprintf("proxies go without %s, which can't be made: %v", f.Ref.Ref, f.Err)})
		}
	}
	return faults
}

// signer has a signature that panics concern one proxy alone, which keeps the certificate that it has.
type signer struct {
	*identity.Signer
	panics *contain.Panics
	// signed counts signatures by result.
	signed *prometheus.CounterVec
}

func (s signer) Certificate(ctx context.Context, p *resource.Proxy) (r *resource.Resource, renewAt time.Time, err error) {
	what := "certificate of pod " + p.Namespace + "/" + p.Pod
	if panicked := s.panics.Do(contain.Sign, what, func() { r, renewAt, err = s.Signer.Certificate(ctx, p) }); panicked != nil {
		err = panicked
		r, renewAt = nil, time.Time{}
	}
	result := "signed"
	if err != nil {
		result = "failed"
	}
	s.signed.WithLabelValues(result).Inc()
	return r, renewAt, err
}

// unreadable tells of an object of SMI that makes no sense. Whoever leads records the event; controllers.SplitEvents those of TrafficSplits.
func (o *operator) unreadable(u *unstructured.Unstructured, err error) {
	o.Log.Warn("an object counts as not there", "part", "ingest", "kind", u.GetKind(), "object", u.GetNamespace()+"/"+u.GetName(), "error", err)
	if u.GetKind() != smi.TrafficSplits().Kind && o.leading.Load() {
		o.manager.GetEventRecorder("tulle").Eventf(u, nil, corev1.EventTypeWarning, "Unreadable", "Read", "it counts as not there: %s", err.Error())
	}
}
