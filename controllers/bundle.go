package controllers

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/xds"
)

const (
	// apiServersHear is how long API servers may take to hear of a changed webhook configuration.
	apiServersHear = 2 * time.Second
	// kubeletsHear is how long kubelets may take to write a changed ConfigMap into the pods that mount it: they look at a pod every
	// minute, or half a minute later (syncFrequency and its jitter).
	kubeletsHear = 100 * time.Second
	// bundleRetry is how often a new root's way through the mesh is looked at.
	bundleRetry = time.Second
	// maxLaggards bounds the proxies that a message names.
	maxLaggards = 3
)

// Bundle keeps the ConfigMap of all roots that the mesh trusts, and leads a new root through the mesh: first all are told to trust it,
// and only when they do, what descends from it is used. Roots of before stay until they expire, so that what they
// signed is still accepted while it is replaced. To forget one earlier, take it out of the ConfigMap, or delete that.
type Bundle struct {
	// Panics counts what panicked.
	Panics           *contain.Panics
	Namespace        string
	World            *World
	Materials        *identity.Materials
	MaterialsChanged *Signal
	Findings         *Findings
	// Trust returns the version of the trust bundle in what proxies are sent.
	Trust func() string
	// Proxies returns the state of all connected proxies, of all replicas, or why it can't be known.
	Proxies func(*model.Snapshot) ([]xds.ProxyState, error)
	// Applier reads directly.
	Applier *Applier
}

// SetupWithManager adds the reconciler to a manager.
func (b *Bundle) SetupWithManager(m manager.Manager) error {
	return builder.ControllerManagedBy(m).Named("trust-bundle").WithOptions(options()).
		WatchesRawSource(b.MaterialsChanged.Source(0)).
		Complete(contained(b.Panics, "trust-bundle", b))
}

// Reconcile implements reconcile.Reconciler.
func (b *Bundle) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	live := trustConfigMap(b.Namespace, nil, nil)
	err := b.Applier.Direct.Get(ctx, client.ObjectKeyFromObject(live), live)
	if client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("read ConfigMap %s: %w", client.ObjectKeyFromObject(live), err)
	}
	now := time.Now()
	// What is no root in the ConfigMap is dropped from it; that is no reason to stop.
	roots, _ := identity.Bundle(now, []byte(live.Data[identity.CAKey]), b.Materials.Trust())
	if len(roots) == 0 {
		return reconcile.Result{}, nil
	}
	known := b.known(live, apierrors.IsNotFound(err))
	waiting, after := "", time.Hour
	if !identity.Covers(known, roots) {
		if waiting = b.waiting(roots, now); waiting == "" {
			known = roots
		} else {
			after = bundleRetry
		}
	}
	b.Findings.setNewRoot(waiting)
	return reconcile.Result{RequeueAfter: after}, b.Applier.Apply(ctx, trustConfigMap(b.Namespace, roots, identity.Common(now, known, roots)))
}

// known are the roots that are known everywhere by what the ConfigMap says: all of it when an older version of Tulle wrote it, and without one
// what is in use already.
func (b *Bundle) known(live *corev1.ConfigMap, missing bool) []byte {
	if missing {
		return b.Materials.InUse()
	}
	if known, ok := live.Data[identity.KnownKey]; ok {
		return []byte(known)
	}
	return []byte(live.Data[identity.CAKey])
}

// waiting says who has not heard of all roots yet; empty when everybody has.
func (b *Bundle) waiting(roots []byte, now time.Time) string {
	snapshot := b.World.Snapshot()
	if snapshot == nil || !bytes.Equal(snapshot.Reader().MeshWide().TrustBundle, roots) {
		return "proxies are about to be told of a new root"
	}
	proxies, err := b.Proxies(snapshot)
	if err != nil {
		return "nobody knows which proxies have acknowledged a new root: " + err.Error()
	}
	if behind := laggards(proxies, b.Trust()); len(behind) > 0 {
		return fmt.Sprintf("%d of the proxies have not acknowledged a new root yet: %s", len(behind), strings.Join(behind[:min(len(behind), maxLaggards)], ", "))
	}
	for _, by := range []carrier{webhooksCarry, definitionsCarry} {
		if from, ok := b.Findings.carried(by, roots); !ok || now.Before(from.Add(apiServersHear)) {
			return "the API server is being told of a new root"
		}
	}
	if !anySidecar(snapshot) {
		return ""
	}
	if from, ok := b.Findings.carried(bootstrapCarries, roots); !ok || now.Before(from.Add(kubeletsHear)) {
		return "kubelets are writing a new root into the pods' volumes"
	}
	return ""
}

// laggards are the pods whose proxies hold another trust bundle.
func laggards(proxies []xds.ProxyState, trust string) []string {
	var behind []string
	for i := range proxies {
		if p := &proxies[i]; p.Trust != trust {
			behind = append(behind, p.Proxy.Namespace+"/"+p.Proxy.Pod)
		}
	}
	slices.Sort(behind)
	return behind
}

// anySidecar says whether a pod has a proxy, connected or not.
func anySidecar(s *model.Snapshot) bool {
	for _, namespace := range s.Namespaces() {
		if anyMeshed(s.Workloads(namespace)) {
			return true
		}
	}
	return false
}

// trustConfigMap is the ConfigMap that holds roots, and those of them that are known everywhere.
func trustConfigMap(namespace string, roots, known []byte) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: identity.TrustConfigMap},
		Data:       map[string]string{identity.CAKey: string(roots), identity.KnownKey: string(known)},
	}
}
