package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ingest"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/meshschema"
	"github.com/tulle-mesh/tulle/internal/monitoring"
	"github.com/tulle-mesh/tulle/internal/plan"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/internal/smi"
	"github.com/tulle-mesh/tulle/webhooks"
)

// cluster reads the cluster of a kubeconfig. It changes nothing: what it sends besides reads are dry runs.
type cluster struct {
	ctx     context.Context // of the one command that a cluster lives for: plan.Admission has no room for it
	options *planOptions
	schema  *meshschema.Schema
	config  *rest.Config
	client  client.Client
	own     string // namespace of the kubeconfig's context
	// missing are rights that would have made the plan more precise.
	missing []string
	// local is true once a Mesh was checked by the schema that this program has, and not by the API server.
	local bool
}

func newCluster(ctx context.Context, o *planOptions, schema *meshschema.Schema) (*cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster (--dir or --offline need none): %w", err)
	}
	config.QPS, config.Burst = 50, 100
	own, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("reach the cluster at %s: %w", config.Host, err)
	}
	return &cluster{ctx: ctx, options: o, schema: schema, config: config, client: c, own: own}, nil
}

func (c *cluster) namespace() string { return c.own }

// Admit asks the API server what it would make of a Mesh, without storing it; where that may not be asked, the schema that this
// program has.
func (c *cluster) Admit(mesh map[string]any) (string, []error) {
	if c.options.delete {
		return "", nil
	}
	u := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(mesh)}
	err := c.dryRun(u)
	switch {
	case err == nil:
		mesh["spec"] = u.Object["spec"]
		return "", nil
	case forbidden(err):
		c.miss("create and update meshes in " + u.GetNamespace() + " (for the API server's own checks)")
	case !apierrors.IsNotFound(err) && isAPI(err): // not found is a namespace that is applied together with the Mesh
		return "the API server", reasons(err)
	}
	c.local = true
	return bySchema, c.schema.Admit(mesh)
}

func (c *cluster) dryRun(u *unstructured.Unstructured) error {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(u.GroupVersionKind())
	err := c.client.Get(c.ctx, client.ObjectKeyFromObject(u), live)
	strict := client.FieldValidation(metav1.FieldValidationStrict)
	switch {
	case apierrors.IsNotFound(err):
		return c.client.Create(c.ctx, u, client.DryRunAll, strict)
	case err != nil:
		return err
	}
	u.SetResourceVersion(live.GetResourceVersion())
	return c.client.Update(c.ctx, u, client.DryRunAll, strict)
}

// forbidden reports whether rights are missing, and not whether an admission policy said no.
func forbidden(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), " cannot ")
}

func isAPI(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

// reasons are the causes that an API server names, or its message.
func reasons(err error) []error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return []error{err}
	}
	var out []error
	if details := status.Status().Details; details != nil {
		for _, cause := range details.Causes {
			out = append(out, fmt.Errorf("%s: %s", cause.Field, cause.Message))
		}
	}
	if len(out) == 0 {
		out = []error{errors.New(status.Status().Message)}
	}
	return out
}

func (c *cluster) fill(ctx context.Context, in *plan.Input, applied []client.Object) error {
	version, err := discovery.NewDiscoveryClientForConfigOrDie(c.config).ServerVersion()
	if err != nil {
		return fmt.Errorf("reach the cluster at %s: %w", c.config.Host, err)
	}
	deployment, err := c.operator(ctx)
	if err != nil {
		return err
	}
	in.Settings = c.options.settings(deployment)
	in.Unsupported = inject.Supported(version.GitVersion)
	namespaces := c.concerned(applied)
	for _, kind := range ingest.Kinds() {
		objects, err := c.list(ctx, kind, namespaces)
		if err != nil {
			return err
		}
		in.World = append(in.World, objects...)
	}
	standards, err := c.standards(ctx, namespaces)
	if err != nil {
		return err
	}
	in.World = append(in.World, standards...)
	own, err := c.named(ctx, namespaces)
	if err != nil {
		return err
	}
	in.World = append(in.World, own...)
	in.Issued = issued(in.World)
	in.Monitoring, err = c.monitoring()
	return err
}

// monitoring are the kinds of the Prometheus Operator that the cluster has, of those that Tulle makes.
func (c *cluster) monitoring() ([]string, error) {
	var kinds []string
	for _, kind := range []string{monitoring.PodMonitor, monitoring.ServiceMonitor, monitoring.PrometheusRule} {
		gvk := monitoring.GVK(kind)
		_, err := c.client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		switch {
		case err == nil:
			kinds = append(kinds, kind)
		case !meta.IsNoMatchError(err):
			return nil, fmt.Errorf("ask the cluster at %s for its kinds: %w", c.config.Host, err)
		}
	}
	return kinds, nil
}

// operator reads the operator's Deployment, unless flags say all that it could.
func (c *cluster) operator(ctx context.Context) (*appsv1.Deployment, error) {
	if c.options.operatorImage != "" && c.options.envoyImage != "" {
		return nil, nil
	}
	const instead = "give --operator-image and --envoy-image instead"
	d := &appsv1.Deployment{}
	err := c.client.Get(ctx, client.ObjectKey{Namespace: c.options.operatorNamespace, Name: operatorDeployment}, d)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("the operator was not found: there is no Deployment %s in namespace %s: name its namespace with --operator-namespace, or %s",
			operatorDeployment, c.options.operatorNamespace, instead)
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("you may not get deployments in namespace %s, which say what pods are given: ask for that right, or %s", c.options.operatorNamespace, instead)
	case err != nil:
		return nil, fmt.Errorf("read Deployment %s/%s: %w", c.options.operatorNamespace, operatorDeployment, err)
	}
	return d, nil
}

// concerned are the namespaces that a plan can't do without.
func (c *cluster) concerned(applied []client.Object) []string {
	namespaces := []string{c.options.operatorNamespace}
	for _, o := range applied {
		if o.GetNamespace() != "" {
			namespaces = append(namespaces, o.GetNamespace())
		}
	}
	if len(c.options.names) > 0 {
		namespaces = append(namespaces, c.options.namespace)
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces)
}

// list returns all objects of a kind or, where that may not be read, those of the namespaces that the plan can't do without.
func (c *cluster) list(ctx context.Context, kind client.Object, namespaces []string) ([]client.Object, error) {
	gvk, err := apiutil.GVKForObject(kind, c.client.Scheme())
	if err != nil {
		return nil, err
	}
	mapping, err := c.client.RESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
	_, optional := kind.(*networkingv1.ServiceCIDR)
	switch {
	case meta.IsNoMatchError(err) && optional:
		return nil, nil // an old Kubernetes
	case meta.IsNoMatchError(err):
		return nil, fmt.Errorf("the cluster at %s has no kind %s in %s: install Tulle first, or plan without a cluster with --dir", c.config.Host, gvk.Kind, gvk.GroupVersion())
	case err != nil:
		return nil, fmt.Errorf("ask the cluster at %s for its kinds: %w", c.config.Host, err)
	}
	resources := mapping.Resource.Resource
	objects, err := c.listIn(ctx, kind, "")
	switch {
	case apierrors.IsForbidden(err) && clusterScoped(kind):
		c.miss("list " + resources)
		return nil, nil
	case !apierrors.IsForbidden(err):
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", resources, err)
		}
		return objects, nil
	}
	c.miss("list " + resources + " in all namespaces")
	for _, namespace := range namespaces {
		found, err := c.listIn(ctx, kind, namespace)
		switch {
		case apierrors.IsForbidden(err) && namespace == c.options.operatorNamespace:
			c.miss("list " + resources + " in " + namespace)
		case apierrors.IsForbidden(err):
			return nil, fmt.Errorf("you may not list %s in namespace %s, without which there is no plan: ask for the rights in docs/cli.md", resources, namespace)
		case err != nil:
			return nil, fmt.Errorf("list %s in namespace %s: %w", resources, namespace, err)
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

// standards reads objects of SMI's kinds, where the cluster has them, in the newest version that it serves and this program knows. As in the operator, one that
// makes no sense counts as not there.
func (c *cluster) standards(ctx context.Context, namespaces []string) ([]client.Object, error) {
	var objects []client.Object
	for _, kind := range []smi.Kind{smi.TrafficSplits(), smi.HTTPRouteGroups()} {
		for _, version := range slices.Backward(kind.Versions) {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(kind.Resource(version).GroupVersion().WithKind(kind.Kind))
			if _, err := c.client.RESTMapper().RESTMapping(u.GroupVersionKind().GroupKind(), version); meta.IsNoMatchError(err) {
				continue
			}
			found, err := c.listStandard(ctx, u, kind.Plural, namespaces)
			if err != nil {
				return nil, err
			}
			for _, o := range found {
				if u, ok := o.(*unstructured.Unstructured); ok {
					if object, err := smi.Read(u); err == nil {
						objects = append(objects, object)
					}
				}
			}
			break
		}
	}
	return objects, nil
}

// listStandard is as list, but a plan can do without.
func (c *cluster) listStandard(ctx context.Context, kind client.Object, resources string, namespaces []string) ([]client.Object, error) {
	objects, err := c.listIn(ctx, kind, "")
	if !apierrors.IsForbidden(err) {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", resources, err)
		}
		return objects, nil
	}
	for _, namespace := range namespaces {
		found, err := c.listIn(ctx, kind, namespace)
		switch {
		case apierrors.IsForbidden(err):
			c.miss("list " + resources + " in " + namespace)
		case err != nil:
			return nil, fmt.Errorf("list %s in namespace %s: %w", resources, namespace, err)
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

func clusterScoped(o client.Object) bool {
	switch o.(type) {
	case *corev1.Namespace, *corev1.Node, *networkingv1.ServiceCIDR:
		return true
	}
	return false
}

func (c *cluster) listIn(ctx context.Context, kind client.Object, namespace string) ([]client.Object, error) {
	list, err := c.newList(kind)
	if err != nil {
		return nil, err
	}
	if err := c.client.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return nil, err
	}
	objects := make([]client.Object, 0, len(items))
	for _, item := range items {
		o, ok := item.(client.Object)
		if !ok {
			return nil, fmt.Errorf("%T is no API object", item)
		}
		if m, ok := o.(*metav1.PartialObjectMetadata); ok {
			m.TypeMeta = kind.(*metav1.PartialObjectMetadata).TypeMeta
		}
		objects = append(objects, o)
	}
	return objects, nil
}

func (c *cluster) newList(kind client.Object) (client.ObjectList, error) {
	gvk, err := apiutil.GVKForObject(kind, c.client.Scheme())
	if err != nil {
		return nil, err
	}
	gvk.Kind += "List"
	if _, ok := kind.(*metav1.PartialObjectMetadata); ok {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(gvk)
		return list, nil
	}
	if _, ok := kind.(*unstructured.Unstructured); ok {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk)
		return list, nil
	}
	empty, err := c.client.Scheme().New(gvk)
	if err != nil {
		return nil, err
	}
	list, ok := empty.(client.ObjectList)
	if !ok {
		return nil, fmt.Errorf("%s is no list", gvk)
	}
	return list, nil
}

// named reads objects that have the names that Tulle needs, whoever made them.
func (c *cluster) named(ctx context.Context, namespaces []string) ([]client.Object, error) {
	wanted := []client.Object{
		&admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhooks.ConfigurationName}},
		&admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhooks.ConfigurationName}},
	}
	for _, namespace := range namespaces {
		if namespace != c.options.operatorNamespace {
			wanted = append(wanted, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: sidecar.BootstrapConfigMap}})
		}
	}
	var found []client.Object
	for _, o := range wanted {
		kind := plan.KindOf(o)
		err := c.client.Get(ctx, client.ObjectKeyFromObject(o), o)
		switch {
		case err == nil:
			found = append(found, o)
		case apierrors.IsForbidden(err):
			right := "get " + strings.ToLower(kind) + "s"
			if o.GetNamespace() != "" {
				right += " in " + o.GetNamespace()
			}
			c.miss(right)
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("read %s %s: %w", kind, client.ObjectKeyFromObject(o), err)
		}
	}
	return found, nil
}

// issued is what the operator says of certificates, which is the same in all Meshes.
func issued(world []client.Object) identity.Verdict {
	for _, o := range world {
		mesh, ok := o.(*v1alpha1.Mesh)
		if !ok {
			continue
		}
		if condition := meta.FindStatusCondition(mesh.Status.Conditions, v1alpha1.ConditionIssued); condition != nil {
			return identity.Verdict{Status: condition.Status, Reason: condition.Reason, Message: condition.Message}
		}
	}
	return identity.Verdict{}
}

func (c *cluster) miss(right string) {
	if !slices.Contains(c.missing, right) {
		c.missing = append(c.missing, right)
	}
}

func (c *cluster) notes() []string {
	var notes []string
	if len(c.missing) > 0 {
		notes = append(notes, "for lack of rights, not all was read: you may not "+strings.Join(c.missing, ", ")+"; docs/cli.md has a role with all of them")
	}
	if c.local {
		notes = append(notes, "Meshes were checked by the schema of this program, not by the API server")
	}
	return notes
}

// flagOf returns the value of a flag in arguments.
func flagOf(args []string, name string) (string, bool) {
	for i, arg := range args {
		flag := strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
		if flag == arg {
			continue
		}
		if value, ok := strings.CutPrefix(flag, name+"="); ok {
			return value, true
		}
		if flag == name && i+1 < len(args) {
			return args[i+1], true
		}
	}
	return "", false
}
