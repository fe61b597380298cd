package cli

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/internal/meshschema"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/plan"
)

// source is where the world before the change comes from.
type source interface {
	plan.Admission
	// namespace is the one of objects that name none.
	namespace() string
	// fill adds the world, the operator's settings and what is known of certificates.
	fill(ctx context.Context, in *plan.Input, applied []client.Object) error
	// notes say what could not be read.
	notes() []string
}

// offline takes manifests for the cluster.
type offline struct {
	options *planOptions
	schema  *meshschema.Schema
	ignored string
}

func (o *offline) namespace() string { return "default" }

// Admit implements plan.Admission.
func (o *offline) Admit(mesh map[string]any) (string, []error) { return bySchema, o.schema.Admit(mesh) }

// bySchema is who refuses a Mesh when no API server is asked.
const bySchema = "the API server, by the schema of Mesh"

func (o *offline) fill(_ context.Context, in *plan.Input, applied []client.Object) error {
	files, err := o.options.read(o.options.dirs, fileIDs(o.options.files))
	if err != nil {
		return fmt.Errorf("can't read the manifests of --dir (render charts and overlays first):\n%w", err)
	}
	world, err := plan.Load(files, o.options.namespace, o)
	if err != nil {
		return fmt.Errorf("can't read the manifests of --dir:\n%w", err)
	}
	for _, r := range world.Refused {
		return fmt.Errorf("--dir: %s %s/%s is there and would be refused by %s: %s", r.Kind, r.Namespace, r.Name, r.By, r.Reasons[0])
	}
	in.World, o.ignored = world.Objects, world.IgnoredText()
	in.Settings = o.options.settings(findOperator(o.options.operatorNamespace, append(applied, world.Objects...)))
	in.Issued = issued(in.World)
	return nil
}

func (o *offline) notes() []string {
	if o.ignored == "" {
		return nil
	}
	return []string{"objects of --dir that the mesh does not read are ignored: " + o.ignored}
}

// operatorDeployment is the name of the operator's Deployment.
const operatorDeployment = "tulle-manager"

// findOperator returns the operator's Deployment; nil when it is not among the objects.
func findOperator(namespace string, objects []client.Object) *appsv1.Deployment {
	for _, o := range objects {
		if d, ok := o.(*appsv1.Deployment); ok && d.Namespace == namespace && d.Name == operatorDeployment {
			return d
		}
	}
	return nil
}

// settings are what the operator was started with: what flags say, else its Deployment, else what it is built with.
func (o *planOptions) settings(d *appsv1.Deployment) plan.Settings {
	operatorImage, envoyImage, excluded := started(d)
	if o.operatorImage != "" {
		operatorImage = o.operatorImage
	}
	if o.envoyImage != "" {
		envoyImage = o.envoyImage
	}
	return plan.Settings{
		Model:        model.Config{OperatorNamespace: o.operatorNamespace, EnvoyImage: envoyImage, Excluded: excluded},
		Installation: operator.Installation(o.operatorNamespace, operatorImage),
	}
}

// started reads how a Deployment starts the operator.
func started(d *appsv1.Deployment) (operatorImage, envoyImage string, excluded []string) {
	operatorImage, envoyImage, excluded = "tulle.dev/operator:dev", operator.DefaultEnvoyImage, operator.ParseExcluded(operator.ExcludedDefault)
	if d == nil {
		return operatorImage, envoyImage, excluded
	}
	for _, c := range d.Spec.Template.Spec.Containers {
		if c.Name != "manager" {
			continue
		}
		for _, e := range c.Env {
			if e.Name == "TULLE_IMAGE" {
				operatorImage = e.Value
			}
		}
		if image, ok := flagOf(c.Args, "envoy-image"); ok {
			envoyImage = image
		}
		if list, ok := flagOf(c.Args, "excluded-namespaces"); ok {
			excluded = operator.ParseExcluded(list)
		}
	}
	return operatorImage, envoyImage, excluded
}
