package operator

import (
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/controllers"
)

// monitors makes the reconciler of the Prometheus Operator's objects, for a term.
func (o *operator) monitors(findings *controllers.Findings, applier func(client.Reader) *controllers.Applier) *controllers.Monitors {
	shared := o.manager.GetCache()
	kinds := &controllers.Kinds{CRDs: shared, NewCache: o.newKindCache, Changed: &controllers.Signal{}}
	a := applier(kinds)
	a.Exact, a.Origin = true, controllers.MonitorsOrigin(o.Namespace)
	return &controllers.Monitors{
		Panics: o.panics, Namespace: o.Namespace, World: &o.world, Findings: findings, Kinds: kinds, Applier: a, Cache: shared,
	}
}

// newKindCache makes a cache of one kind, in all namespaces.
func (o *operator) newKindCache(object client.Object, by cache.ByObject) (cache.Cache, error) {
	return cache.New(o.Config, cache.Options{
		Scheme: o.manager.GetScheme(), Mapper: o.manager.GetRESTMapper(), HTTPClient: o.manager.GetHTTPClient(),
		ByObject: map[client.Object]cache.ByObject{object: by},
	})
}
