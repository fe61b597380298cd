package controllers

import (
	"context"
	"fmt"
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// certificateCRD is how Tulle knows that cert-manager is there.
const certificateCRD = "certificates.cert-manager.io"

const (
	// crdRetry is how soon kinds are tried again whose CustomResourceDefinition exists but is not served yet.
	crdRetry = time.Second
	// expiryCheck is how often the time alone may change what is said of certificates.
	expiryCheck = 10 * time.Minute
)

// Trust keeps the objects from which cert-manager issues what the mesh needs, and says in Findings how far it is.
type Trust struct {
	// Panics counts what panicked.
	Panics    *contain.Panics
	Namespace string
	World     *World
	Materials *identity.Materials
	// MaterialsChanged fires when Materials changed.
	MaterialsChanged *Signal
	Findings         *Findings
	// Applier reads cert-manager's kinds from CertManager.
	Applier *Applier
	// CertManager is a cache of its own, since its kinds may be unknown when the operator starts.
	CertManager cache.Cache
	// Cache is the manager's.
	Cache cache.Cache

	controller controller.Controller
	watching   bool
}

// SetupWithManager adds the reconciler to a manager.
func (t *Trust) SetupWithManager(m manager.Manager) error {
	var err error
	t.controller, err = builder.ControllerManagedBy(m).Named("trust").WithOptions(options()).
		WatchesRawSource(t.World.Reshaped.Source(0)).
		WatchesRawSource(t.MaterialsChanged.Source(0)).
		WatchesRawSource(source.Kind(t.Cache, client.Object(crd()), always())).
		Build(contained(t.Panics, "trust", t))
	return err
}

// Reconcile implements reconcile.Reconciler.
func (t *Trust) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	snapshot := t.World.Snapshot()
	if snapshot == nil {
		return reconcile.Result{}, nil
	}
	wide := snapshot.Reader().MeshWide()
	o := identity.Options{Namespace: t.Namespace, IssuerRef: wide.Issuer, CertificateDuration: wide.CertificateDuration}
	issuance := identity.Issuance{Options: o, Now: time.Now()}
	var err error
	issuance.CertManager, err = t.watch(ctx)
	if err == nil && issuance.CertManager {
		err = t.issue(ctx, &issuance)
	}
	issuance.Authority, issuance.AuthorityError = t.Materials.Authority()
	issuance.Unusable = t.Materials.Unusable()
	issuance.Waiting = t.Materials.Waiting()
	verdict := issuance.Issued()
	t.Findings.setIssued(verdict)
	if err != nil {
		return reconcile.Result{}, err
	}
	if verdict.Status == metav1.ConditionTrue {
		return reconcile.Result{RequeueAfter: expiryCheck}, t.prune(ctx, o)
	}
	after := expiryCheck
	if issuance.CertManager && !t.watching {
		after = crdRetry
	}
	return reconcile.Result{RequeueAfter: after}, nil
}

// watch reports whether cert-manager's kinds exist. Once they are served it has them wake this reconciler.
func (t *Trust) watch(ctx context.Context) (exist bool, err error) {
	err = t.Cache.Get(ctx, client.ObjectKey{Name: certificateCRD}, crd())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil || t.watching {
		return err == nil, err
	}
	kinds := []client.Object{&certmanagerv1.Certificate{}, &certmanagerv1.Issuer{}, &certmanagerv1.ClusterIssuer{}}
	for _, kind := range kinds {
		_, err := t.CertManager.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
		if meta.IsNoMatchError(err) {
			return true, nil
		}
		if err != nil {
			return true, fmt.Errorf("watch %T: %w", kind, err)
		}
	}
	for _, kind := range kinds {
		if err := t.controller.Watch(source.Kind(t.CertManager, kind, always())); err != nil {
			return true, fmt.Errorf("watch %T: %w", kind, err)
		}
	}
	t.watching = true
	return true, nil
}

// issue applies what is desired and looks at what came of it.
func (t *Trust) issue(ctx context.Context, i *identity.Issuance) error {
	if !t.watching {
		i.ApplyError = fmt.Errorf("cert-manager's kinds are not served yet")
		return nil
	}
	err := t.Applier.Apply(ctx, identity.Desired(i.Options)...)
	conflict, rest := conflictsIn(err)
	if conflict != nil {
		i.Conflict = conflict
	}
	i.ApplyError = rest
	if err := t.look(ctx, i); err != nil {
		return err
	}
	return rest
}

// look reads the state of the issuer and the Certificates.
func (t *Trust) look(ctx context.Context, i *identity.Issuance) error {
	var err error
	if i.Issuer, err = t.issuer(ctx, i.Options); err != nil {
		return err
	}
	i.Certificates = map[string]*certmanagerv1.Certificate{}
	for _, o := range identity.Desired(i.Options) {
		if _, ok := o.(*certmanagerv1.Certificate); !ok {
			continue
		}
		c := &certmanagerv1.Certificate{}
		err := t.CertManager.Get(ctx, client.ObjectKeyFromObject(o), c)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("read Certificate %s: %w", client.ObjectKeyFromObject(o), err)
		}
		if err == nil {
			i.Certificates[c.Name] = c
		}
	}
	return nil
}

// issuer returns the state of the issuer that signs; nil when there is none, or it is not of a kind of cert-manager's own.
func (t *Trust) issuer(ctx context.Context, o identity.Options) (*certmanagerv1.IssuerStatus, error) {
	ref := o.Issuer()
	var err error
	var status *certmanagerv1.IssuerStatus
	switch {
	case ref.Group != certmanagerv1.SchemeGroupVersion.Group:
		return nil, nil
	case ref.Kind == certmanagerv1.ClusterIssuerKind:
		issuer := &certmanagerv1.ClusterIssuer{}
		err = t.CertManager.Get(ctx, client.ObjectKey{Name: ref.Name}, issuer)
		status = &issuer.Status
	default:
		issuer := &certmanagerv1.Issuer{}
		err = t.CertManager.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: ref.Name}, issuer)
		status = &issuer.Status
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", ref.Kind, ref.Name, err)
	}
	return status, nil
}

// prune deletes the mesh's own root once another issuer has taken over.
func (t *Trust) prune(ctx context.Context, o identity.Options) error {
	for _, object := range identity.Obsolete(o) {
		if err := t.Applier.Delete(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// crd is the metadata of a CustomResourceDefinition.
func crd() *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	return m
}

// always wakes the reconciler on every event.
func always() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{request}
	})
}
