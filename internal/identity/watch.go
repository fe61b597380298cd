package identity

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/tulle-mesh/tulle/internal/contain"
)

// refreshInterval is how often expired roots are dropped, and what is held back is looked at.
const refreshInterval = 5 * time.Second

// Watch feeds Materials from the API server. Each object is watched by its name, so that the operator's rights need not
// reach any other Secret, least of all the root's.
type Watch struct {
	Client    kubernetes.Interface
	Namespace string
	Materials *Materials
	// Panics counts and logs what panicked on what was read; what was there before serves on.
	Panics *contain.Panics
}

// NeedLeaderElection is false: every replica signs and serves.
func (*Watch) NeedLeaderElection() bool { return false }

// Start watches until ctx ends.
func (w *Watch) Start(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	// What is known everywhere decides what is done with the Secrets.
	trust := w.trust()
	running.Go(func() { trust.RunWithContext(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), trust.HasSynced) {
		return nil
	}
	for _, name := range []string{Intermediate, WebhookCertificate, ControlPlaneCertificate} {
		secret := w.secret(name)
		running.Go(func() { secret.RunWithContext(ctx) })
	}
	w.refresh(ctx)
	return nil
}

func (w *Watch) secret(name string) cache.Controller {
	secrets := w.Client.CoreV1().Secrets(w.Namespace)
	return single(w.Client, name, &corev1.Secret{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return secrets.List(ctx, o) },
		secrets.Watch,
		func(object any) {
			if s, ok := object.(*corev1.Secret); ok {
				w.contain("Secret "+s.Name, func() { w.Materials.SetSecret(s) })
			}
		},
		// What is in memory serves until there is something newer.
		func(any) {})
}

func (w *Watch) trust() cache.Controller {
	maps := w.Client.CoreV1().ConfigMaps(w.Namespace)
	return single(w.Client, TrustConfigMap, &corev1.ConfigMap{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return maps.List(ctx, o) },
		maps.Watch,
		func(object any) {
			if m, ok := object.(*corev1.ConfigMap); ok {
				w.contain("ConfigMap "+m.Name, func() { w.Materials.SetTrusted(trustOf(m)) })
			}
		},
		// This is how a person makes the mesh forget old roots.
		func(any) { w.Materials.ForgetTrusted() })
}

// trustOf returns what a trust ConfigMap holds, for SetTrusted.
func trustOf(m *corev1.ConfigMap) (trusted, known []byte) {
	if k, ok := m.Data[KnownKey]; ok {
		known = []byte(k)
	}
	return []byte(m.Data[CAKey]), known
}

func (w *Watch) contain(what string, f func()) {
	_ = w.Panics.Do(contain.Credential, what, f) // it is told, and there is nobody to hand it to
}

// single watches one object.
func single(
	client any, name string, kind runtime.Object,
	list func(context.Context, metav1.ListOptions) (runtime.Object, error),
	follow func(context.Context, metav1.ListOptions) (watch.Interface, error),
	set, gone func(any),
) cache.Controller {
	only := func(o metav1.ListOptions) metav1.ListOptions {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		return o
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return list(ctx, only(o)) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return follow(ctx, only(o)) },
		}, client),
		ObjectType: kind,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    set,
			UpdateFunc: func(_, object any) { set(object) },
			DeleteFunc: gone,
		},
	})
	return controller
}

func (w *Watch) refresh(ctx context.Context) {
	tick := time.NewTicker(refreshInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.contain("trust bundle", w.Materials.Refresh)
		}
	}
}

// String names the runnable in logs.
func (w *Watch) String() string { return fmt.Sprintf("certificates of namespace %s", w.Namespace) }
