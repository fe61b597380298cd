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
// rights can end there.
func ByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		crd():               {Field: named(certificateCRD)},
		&corev1.ConfigMap{}: {Field: named(sidecar.BootstrapConfigMap)},
		&admissionregistrationv1.MutatingWebhookConfiguration{}:   {Field: named(webhooks.ConfigurationName)},
		&admissionregistrationv1.ValidatingWebhookConfiguration{}: {Field: named(webhooks.ConfigurationName)},
	}
}

func named(name string) fields.Selector {
	return fields.OneTermEqualSelector(metav1.ObjectNameField, name)
}
