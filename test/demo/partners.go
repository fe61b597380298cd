package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// What Tulle works with that others make: the lab has none of it until the demo or the end-to-end tests bring it. A cluster
// of somebody's own keeps what it has.
const (
	monitoringNamespace = "monitoring"
	flaggerNamespace    = "flagger-system"
)

// partner is an image of programs that the lab builds from their Go modules.
type partner struct {
	name, component, program string
}

func monitoringImages() []partner {
	return []partner{
		{"prometheus", "prometheus", "prometheus"},
		{"prometheus-operator", "prometheus-operator", "operator"},
		{"prometheus-config-reloader", "prometheus-operator", "prometheus-config-reloader"},
	}
}

// monitoringCRDs are those that the operator needs for a Prometheus.
func monitoringCRDs() []string {
	return []string{"prometheuses", "podmonitors", "servicemonitors", "probes", "scrapeconfigs", "prometheusrules"}
}

// installMonitoring brings the prometheus-operator and a Prometheus to the lab. It waits for the operator only: Prometheus
// starts while Tulle does.
func (d *demo) installMonitoring(ctx context.Context) (string, error) {
	if !d.target.bringsPartners() {
		return "what is there is left as it is", nil
	}
	if _, err := d.claim(ctx, monitoringNamespace); err != nil {
		return "", err
	}
	if err := d.providePartners(ctx, monitoringImages()); err != nil {
		return "", err
	}
	folder, err := d.component(ctx, "prometheus-operator")
	if err != nil {
		return "", err
	}
	var crds []string
	for _, name := range monitoringCRDs() {
		crds = append(crds, filepath.Join(folder, "crds", "monitoring.coreos.com_"+name+".yaml"))
	}
	if err := d.installCRDs(ctx, crds); err != nil {
		return "", err
	}
	if err := d.applyPartner(ctx, "prometheus-operator", "prometheus"); err != nil {
		return "", err
	}
	d.console.set("waiting for the operator")
	return "prometheus-operator runs, Prometheus starts", d.kubectl.rollout(ctx, monitoringNamespace, 2*time.Minute)
}

// installFlagger brings Flagger to the lab.
func (d *demo) installFlagger(ctx context.Context) (string, error) {
	if !d.target.bringsPartners() {
		return "what is there is left as it is", nil
	}
	if _, err := d.claim(ctx, flaggerNamespace); err != nil {
		return "", err
	}
	if err := d.providePartners(ctx, []partner{{"flagger", "flagger", "flagger"}}); err != nil {
		return "", err
	}
	folder, err := d.component(ctx, "flagger")
	if err != nil {
		return "", err
	}
	if err := d.installCRDs(ctx, []string{filepath.Join(folder, "crds", "crd.yaml")}); err != nil {
		return "", err
	}
	if err := d.applyPartner(ctx, "flagger"); err != nil {
		return "", err
	}
	d.console.set("waiting for its pod")
	return "runs", d.kubectl.rollout(ctx, flaggerNamespace, 2*time.Minute)
}

// providePartners builds images of the lab's components, where they are not in the cache, and loads them.
func (d *demo) providePartners(ctx context.Context, partners []partner) error {
	for _, p := range partners {
		d.console.set("building " + p.component)
		if err := runProgram(ctx, &status{console: d.console}, labProgram(d.root), "build", p.component); err != nil {
			return err
		}
		folder, err := d.component(ctx, p.component)
		if err != nil {
			return err
		}
		// The folder's name has the version and a hash of all that defines what is in it.
		tag := strings.TrimPrefix(filepath.Base(folder), p.component+"-")
		reference := d.target.imagePrefix() + p.name + ":" + tag
		d.console.set("loading " + reference)
		archive, err := output(ctx, labProgram(d.root), "image", "build", "--name", reference, filepath.Join(folder, p.program)+":/bin/"+p.name)
		if err != nil {
			return err
		}
		if err := d.target.provideImage(ctx, archive, reference); err != nil {
			return err
		}
		d.references["tulle.dev/"+p.name+":dev"] = reference
	}
	return d.saveReferences()
}

// component is the folder of a component that the lab has built.
func (d *demo) component(ctx context.Context, name string) (string, error) {
	return output(ctx, labProgram(d.root), "path", name)
}

// installCRDs applies CustomResourceDefinitions from files and waits until they are served.
func (d *demo) installCRDs(ctx context.Context, files []string) error {
	d.console.set("installing CustomResourceDefinitions")
	var args []string
	for _, file := range files {
		args = append(args, "-f", file)
	}
	// A client-side apply would copy each into an annotation, for which some are too large.
	if _, err := d.kubectl.run(ctx, append([]string{"apply", "--server-side", "--force-conflicts"}, args...)...); err != nil {
		return err
	}
	_, err := d.kubectl.run(ctx, append([]string{"wait", "--for=condition=Established", "--timeout=60s"}, args...)...)
	return err
}

// applyPartner applies manifests of the folder partners.
func (d *demo) applyPartner(ctx context.Context, names ...string) error {
	var manifests []string
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(d.root, "test", "demo", "partners", name+".yaml"))
		if err != nil {
			return err
		}
		manifests = append(manifests, string(text))
	}
	return d.kubectl.apply(ctx, d.withImages(strings.Join(manifests, "\n---\n")))
}

// output runs a program and returns what it prints, without the line's end.
func output(ctx context.Context, program string, args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(text)), nil
}
