package controllers

import (
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/webhooks"
)

// A reconciler that fails tries again after minRetry, then after twice as long each time, up to maxRetry.
const (
	minRetry = 50 * time.Millisecond
	maxRetry = 30 * time.Second
)

func options() controller.Options {
	return controller.Options{
		RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minRetry, maxRetry),
	}
}

// ByObject are cache options for what the reconcilers watch. Objects are watched by name where Tulle knows it, so that its
// rights can end there. Of CustomResourceDefinitions it is enough to know which there are, those of others among them.
func ByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		crd():               {Transform: onlyName},
		&corev1.ConfigMap{}: {Field: named(sidecar.BootstrapConfigMap)},
		&admissionregistrationv1.MutatingWebhookConfiguration{}:   {Field: named(webhooks.ConfigurationName)},
		&admissionregistrationv1.ValidatingWebhookConfiguration{}: {Field: named(webhooks.ConfigurationName)},
	}
}

// onlyName drops what metadata says besides what object it is and whether it is being deleted.
func onlyName(in any) (any, error) {
	if m, ok := in.(*metav1.PartialObjectMetadata); ok {
		m.Labels, m.Annotations, m.ManagedFields, m.OwnerReferences, m.Finalizers = nil, nil, nil, nil, nil
	}
	return in, nil
}

func named(name string) fields.Selector {
	return fields.OneTermEqualSelector(metav1.ObjectNameField, name)
}
