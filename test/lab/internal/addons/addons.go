// Package addons holds what a new cluster needs to be useful: its Node object,
// DNS and cert-manager, and how to tell that they work.
package addons

import (
	"bytes"
	"embed"
	"fmt"
	"net/netip"
	"strings"
	"text/template"

	"github.com/tulle-mesh/tulle/test/lab/internal/topology"
)

//go:embed manifests/*.yaml
var manifests embed.FS

// Images are the names of the images that the add-ons run.
type Images struct{ CoreDNS, CertManager string }

// Manifests returns all objects as one YAML stream. cert-manager's CRDs are
// not among them: they come with its binary.
func Manifests(cluster topology.Cluster, images Images) ([]byte, error) {
	templates, err := template.New("").Funcs(template.FuncMap{"list": list[netip.Prefix], "addresses": list[netip.Addr]}).ParseFS(manifests, "manifests/*.yaml")
	if err != nil {
		return nil, err
	}
	data := struct {
		topology.Cluster
		Images Images
		Policy string
	}{cluster, images, "SingleStack"}
	if cluster.IPv6() {
		data.Policy = "RequireDualStack"
	}
	var out bytes.Buffer
	for _, name := range []string{"nodes.yaml", "coredns.yaml", "cert-manager.yaml"} {
		if err := templates.ExecuteTemplate(&out, name, data); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", name, err)
		}
		out.WriteString("---\n")
	}
	return out.Bytes(), nil
}

// list writes values as a YAML flow sequence.
func list[T fmt.Stringer](values []T) string {
	var quoted []string
	for _, value := range values {
		quoted = append(quoted, fmt.Sprintf("%q", value.String()))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// Wait is a kubectl command that ends well when something works.
type Wait struct {
	What  string
	Args  []string
	Stdin []byte
	// Retry is whether the command is to be repeated until it succeeds; one
	// without watches by itself.
	Retry bool
}

// issuer is what cert-manager's webhook is asked to admit.
const issuer = `{"apiVersion": "cert-manager.io/v1", "kind": "Issuer",
"metadata": {"name": "trial", "namespace": "default"}, "spec": {"selfSigned": {}}}`

// Waits lists what must be awaited, in the order in which it is likely to come.
func Waits(cluster topology.Cluster) []Wait {
	await := func(condition string, args ...string) []string {
		return append([]string{"wait", "--timeout=5m", "--for=" + condition}, args...)
	}
	var waits []Wait
	for _, node := range cluster.Nodes {
		waits = append(waits, Wait{What: "node " + node.Name, Args: await("condition=Ready", "node/"+node.Name)})
	}
	return append(waits,
		Wait{What: "CoreDNS", Args: await("condition=Available", "--namespace=kube-system", "deployment/coredns")},
		Wait{What: "cert-manager", Args: await("condition=Available", "--namespace=cert-manager",
			"deployment/cert-manager", "deployment/cert-manager-cainjector", "deployment/cert-manager-webhook")},
		Wait{What: "cert-manager's webhook certificate", Args: await("jsonpath={.webhooks[0].clientConfig.caBundle}",
			"validatingwebhookconfiguration/cert-manager-webhook", "mutatingwebhookconfiguration/cert-manager-webhook")},
		Wait{What: "cert-manager's webhook", Args: []string{"create", "--dry-run=server", "--filename=-"}, Stdin: []byte(issuer), Retry: true},
	)
}
