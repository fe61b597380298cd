package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/manifest"
	"github.com/tulle-mesh/tulle/internal/meshschema"
	"github.com/tulle-mesh/tulle/internal/plan"
	"github.com/tulle-mesh/tulle/internal/plan/render"
)

// planOptions are the flags of plan.
type planOptions struct {
	files, dirs            []string
	offline, delete, prune bool
	names                  []string // of Meshes to delete

	namespace, kubeconfig, context string

	operatorNamespace, operatorImage, envoyImage string

	envoy      string
	envoyLines int
	output     string
	exitCode   bool

	streams Streams
}

const planLong = `Show what an apply would change in the mesh, before it is applied.

It calls the same functions as the operator: what would be refused, the conditions of each Mesh, the objects that Tulle makes or
removes, the pods that would need a restart, the proxies that would be touched, and with --envoy the difference in Envoy's
configuration. Nothing is changed.

Without --dir or --offline it reads the cluster of your kubeconfig. With --dir it reads manifests instead: Services, workloads
(which stand for their pods), Namespaces, Meshes, TrafficSplits; kinds that the mesh does not read are ignored.`

const planExample = `  # What would this Mesh change in the cluster?
  %[1]s plan -f mesh.yaml

  # The same without a cluster, as in CI: what does the branch change, compared with main?
  git worktree add ../main main
  %[1]s plan --dir ../main/deploy -f deploy --prune --exit-code

  # What happens when it is deleted?
  %[1]s plan --delete mesh/shop -n shop

  # What would Envoy get for the Service reviews?
  %[1]s plan -f mesh.yaml --envoy=reviews`

func planCommand(name string, s Streams) *cobra.Command {
	o := &planOptions{streams: s}
	c := &cobra.Command{
		Use:     "plan (-f FILE... | --delete mesh/NAME...)",
		Short:   "Show what an apply would change, before it is applied",
		Long:    planLong,
		Example: fmt.Sprintf(planExample, name),
		RunE: func(c *cobra.Command, args []string) error {
			o.names = args
			if err := o.validate(); err != nil {
				return err
			}
			return o.run(c.Context())
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&o.files, "filename", "f", nil, "file, or directory with files, of what would be applied; - is the standard input; may be repeated")
	f.StringArrayVar(&o.dirs, "dir", nil, "file or directory of manifests to take for the cluster; may be repeated. Files of -f are left out of it")
	f.BoolVar(&o.offline, "offline", false, "read no cluster; without --dir, start from nothing")
	f.BoolVar(&o.delete, "delete", false, "what would be deleted instead: the objects of -f, or the named Meshes")
	f.BoolVar(&o.prune, "prune", false, "with --dir: what is there and not in -f would be deleted")
	f.StringVarP(&o.namespace, "namespace", "n", "", "namespace of objects that name none (default: that of the kubeconfig's context, or default)")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "path of the kubeconfig (default: KUBECONFIG, or ~/.kube/config)")
	f.StringVar(&o.context, "context", "", "context of the kubeconfig")
	f.StringVar(&o.operatorNamespace, "operator-namespace", "tulle-system", "namespace of the operator, which has the root Mesh")
	f.StringVar(&o.operatorImage, "operator-image", "", "image of the operator (default: that of its Deployment)")
	f.StringVar(&o.envoyImage, "envoy-image", "", "Envoy image that the operator was started with (default: that of its Deployment)")
	f.StringVar(&o.envoy, "envoy", "", "also show the difference in Envoy's configuration: of all, or of resources and Services whose names contain the value")
	f.Lookup("envoy").NoOptDefVal = "*"
	f.IntVar(&o.envoyLines, "envoy-lines", 400, "lines of that difference to show; 0 shows all")
	f.StringVarP(&o.output, "output", "o", "text", "text, json or yaml")
	f.BoolVar(&o.exitCode, "exit-code", false, "exit with 1 when something would change")
	return c
}

func (o *planOptions) validate() error {
	o.offline = o.offline || len(o.dirs) > 0
	switch {
	case len(o.names) > 0 && !o.delete:
		return fmt.Errorf("unexpected argument %q: name files with -f, or Meshes with --delete", o.names[0])
	case len(o.files) == 0 && len(o.names) == 0 && !o.prune:
		return errors.New("nothing to plan: name a file with -f, or a Mesh with --delete mesh/NAME")
	case o.prune && len(o.dirs) == 0:
		return errors.New("--prune needs --dir: it compares two sets of manifests")
	case o.prune && o.delete:
		return errors.New("--prune and --delete exclude each other")
	case o.offline && (o.kubeconfig != "" || o.context != ""):
		return errors.New("--kubeconfig and --context mean a cluster, --dir and --offline mean none: choose")
	case slices.Contains(o.files, manifest.Stdin) && slices.Contains(o.dirs, manifest.Stdin):
		return errors.New("-f - and --dir - both read the standard input: give a file for one")
	case o.output != "text" && o.output != "json" && o.output != "yaml":
		return fmt.Errorf("-o %s: give text, json or yaml", o.output)
	}
	for _, name := range o.names {
		if kind, _, ok := strings.Cut(name, "/"); !ok || kind != "mesh" && kind != "meshes" {
			return fmt.Errorf("--delete %s: give mesh/NAME, or a file with -f", name)
		}
	}
	return nil
}

func (o *planOptions) run(ctx context.Context) error {
	schema, err := meshschema.New()
	if err != nil {
		return err
	}
	var src source
	if o.offline {
		src = &offline{options: o, schema: schema}
	} else if src, err = newCluster(ctx, o, schema); err != nil {
		return err
	}
	if o.namespace == "" {
		o.namespace = src.namespace()
	}
	files, err := o.read(o.files, nil)
	if err != nil {
		return err
	}
	applied, err := plan.Load(files, o.namespace, src)
	if err != nil {
		return fmt.Errorf("can't read what would be applied:\n%w", err)
	}
	in := plan.Input{Now: time.Now(), Envoy: o.envoy != ""}
	if err := src.fill(ctx, &in, applied.Objects); err != nil {
		return err
	}
	o.request(&in, applied)
	p, err := plan.Make(in)
	if err != nil {
		return err
	}
	p.Assumptions = append(p.Assumptions, src.notes()...)
	if text := applied.IgnoredText(); text != "" {
		p.Assumptions = append(p.Assumptions, "objects of -f that the mesh does not read are ignored: "+text)
	}
	return o.write(p)
}

// request says what would be done.
func (o *planOptions) request(in *plan.Input, applied plan.Loaded) {
	if !o.delete {
		in.Apply, in.Refused = applied.Objects, applied.Refused
		if o.prune {
			in.Delete = missing(in.World, applied.Objects)
		}
		return
	}
	in.Delete = applied.Objects
	for _, name := range o.names {
		_, name, _ := strings.Cut(name, "/")
		in.Delete = append(in.Delete, &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: o.namespace, Name: name}})
	}
}

// missing are the objects of the world that are not applied.
func missing(world, applied []client.Object) []client.Object {
	type id struct{ kind, namespace, name string }
	kept := map[id]bool{}
	for _, a := range applied {
		kept[id{plan.KindOf(a), a.GetNamespace(), a.GetName()}] = true
	}
	var out []client.Object
	for _, o := range world {
		if !kept[id{plan.KindOf(o), o.GetNamespace(), o.GetName()}] {
			out = append(out, o)
		}
	}
	return out
}

// write writes the plan, and says by its error which exit code it has.
func (o *planOptions) write(p *plan.Plan) error {
	var err error
	switch o.output {
	case "text":
		err = render.Text(o.streams.Out, p, render.Options{Envoy: o.envoy, EnvoyLines: o.envoyLines})
	default:
		if p.Envoy = render.Chosen(p.Envoy, o.envoy); o.output == "json" {
			encoder := json.NewEncoder(o.streams.Out)
			encoder.SetIndent("", "  ")
			encoder.SetEscapeHTML(false)
			err = encoder.Encode(p)
			break
		}
		var raw []byte
		if raw, err = yaml.Marshal(p); err == nil {
			_, err = o.streams.Out.Write(raw)
		}
	}
	switch {
	case err != nil:
		return err
	case len(p.Refused) > 0:
		return exit(exitRefused)
	case p.Changes && o.exitCode:
		return exit(exitChanges)
	}
	return nil
}

// read reads files and directories, without the files that are left out. The error joins what can't be read.
func (o *planOptions) read(paths []string, without map[string]bool) ([]manifest.Object, error) {
	var objects []manifest.Object
	var errs []error
	seen := map[string]bool{}
	for _, path := range paths {
		files, err := manifest.Paths(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if len(files) == 0 {
			errs = append(errs, fmt.Errorf("%s: it has no .yaml, .yml or .json file", path))
		}
		for _, file := range files {
			id := fileID(file)
			if without[id] || seen[id] {
				continue
			}
			seen[id] = true
			found, err := manifest.ReadFile(file, o.streams.In)
			objects = append(objects, found...)
			if err != nil {
				errs = append(errs, err)
			}
		}
	}
	return objects, errors.Join(errs...)
}

// fileID is a path by which a file is known again.
func fileID(path string) string {
	if path == manifest.Stdin {
		return path
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path
}

// fileIDs are those of all files of some paths.
func fileIDs(paths []string) map[string]bool {
	ids := map[string]bool{}
	for _, path := range paths {
		files, err := manifest.Paths(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			continue
		}
		for _, file := range files {
			ids[fileID(file)] = true
		}
	}
	return ids
}
