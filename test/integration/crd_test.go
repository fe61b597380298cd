package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// TestCRD holds what the API server itself says of Meshes: which it accepts, which it refuses and how, what it fills in,
// and how it shows them. No webhook and no controller takes part.
func TestCRD(t *testing.T) {
	config := crdServer(t)
	scheme := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	strict := client.WithFieldValidation(c, metav1.FieldValidationStrict)
	t.Run("structural", func(t *testing.T) { testStructural(t, c) })
	t.Run("accepted", func(t *testing.T) { testAccepted(t, strict) })
	t.Run("refused", func(t *testing.T) { testRefused(t, strict) })
	t.Run("defaults", func(t *testing.T) { testDefaults(t, strict) })
	t.Run("columns", func(t *testing.T) { testColumns(t, config, strict) })
	t.Run("described", func(t *testing.T) { testDescribed(t, c) })
}

// crdServer starts an API server that has Tulle's CRDs. Installing them is itself the test that the server's limits on the
// cost of CEL accept them.
func crdServer(t *testing.T) *rest.Config {
	t.Helper()
	server := &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join("..", "..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}
	config, err := server.Start()
	if err != nil {
		t.Fatalf("start etcd and kube-apiserver from KUBEBUILDER_ASSETS (run make test-integration): %v", err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return config
}

func meshOf(t *testing.T, name, spec string) *unstructured.Unstructured {
	t.Helper()
	var value any
	if err := yaml.Unmarshal([]byte(spec), &value); err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "mesh.tulle.dev/v1alpha1", "kind": "Mesh",
		"metadata": map[string]any{"namespace": "default", "name": name},
		"spec":     value,
	}}
}

func create(t *testing.T, c client.Client, name, spec string) (*unstructured.Unstructured, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	mesh := meshOf(t, name, spec)
	return mesh, c.Create(ctx, mesh)
}

func testStructural(t *testing.T, c client.Client) {
	var crd apiextensionsv1.CustomResourceDefinition
	if err := c.Get(t.Context(), client.ObjectKey{Name: "meshes.mesh.tulle.dev"}, &crd); err != nil {
		t.Fatal(err)
	}
	for _, condition := range crd.Status.Conditions {
		bad := condition.Type == apiextensionsv1.NonStructuralSchema && condition.Status == apiextensionsv1.ConditionTrue ||
			condition.Type == apiextensionsv1.Established && condition.Status != apiextensionsv1.ConditionTrue
		if bad {
			t.Errorf("%s is %s: %s", condition.Type, condition.Status, condition.Message)
		}
	}
}

const bookinfoSpec = `
proxy:
  podSelector: {matchLabels: {app: web}}
  resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 128Mi}}
  concurrency: 2
  logLevel: Debug
  drainDuration: 1m30s
mtls: {mode: Strict, ports: [{port: 8080, mode: Permissive}, {port: 9090, mode: Disabled}]}
observability: {accessLog: {mode: All}, metrics: {serviceMonitor: Always, labels: {release: prometheus}, interval: 15s}}
services:
- name: reviews
  ports: [{port: 80, protocol: HTTP}, {port: 90, protocol: GRPC}, {port: 91, protocol: TCP}]
  versions: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
  routes:
  - name: testers
    match:
    - headers: [{name: end-user, value: jason}]
    - headers: [{name: X-Tester, type: RegularExpression, value: "^yes|true$"}]
    to: [{version: v2}]
  - name: canary
    to: [{version: v1, weight: 90}, {version: v2, weight: 10}, {weight: 0}]
- name: ratings
meshWide:
  trust: {domain: example.org, issuerRef: {name: corporate, kind: ClusterIssuer}, certificateDuration: 12h}
  network: {serviceRanges: [10.96.0.0/16, "fd00:96::/108"], podRanges: [10.244.0.0/16], serverFirstPorts: [3306, 25]}
  envoy: {image: "docker.io/envoyproxy/envoy:distroless-v1.40.0"}
`

func testAccepted(t *testing.T, c client.Client) {
	for name, spec := range map[string]string{
		"empty":    `{}`,
		"all":      bookinfoSpec,
		"complete": fmt.Sprintf("services: [%s]", strings.Join(fullServices(512), ", ")),
	} {
		if _, err := create(t, c, "accepted-"+name, spec); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fullServices are as many services as the schema allows, with rules.
func fullServices(n int) []string {
	services := make([]string, n)
	for i := range services {
		services[i] = fmt.Sprintf(`{name: s%d, versions: [{name: v1, labels: {a: b}}], routes: [{name: r, to: [{version: v1}]}]}`, i)
	}
	return services
}

func repeat(n int, item func(int) string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = item(i)
	}
	return "[" + strings.Join(items, ", ") + "]"
}

func testRefused(t *testing.T, c client.Client) {
	const service = "services: [{name: reviews, %s}]"
	for name, test := range map[string]struct{ spec, want string }{
		"an unknown field":   {`{mtlss: {}}`, `unknown field "spec.mtlss"`},
		"an mTLS mode":       {`{mtls: {mode: strict}}`, `spec.mtls.mode: Unsupported value: "strict": supported values: "Strict", "Permissive", "Disabled"`},
		"a port of mTLS":     {`{mtls: {ports: [{port: 0, mode: Strict}]}}`, "spec.mtls.ports[0].port: Invalid value: 0: spec.mtls.ports[0].port in body should be greater than or equal to 1"},
		"no mode of a port":  {`{mtls: {ports: [{port: 1}]}}`, "spec.mtls.ports[0].mode: Required value"},
		"two modes a port":   {`{mtls: {ports: [{port: 1, mode: Strict}, {port: 1, mode: Disabled}]}}`, "spec.mtls.ports[1]: Duplicate value"},
		"workers":            {`{proxy: {concurrency: 65}}`, "spec.proxy.concurrency: Invalid value: 65: spec.proxy.concurrency in body should be less than or equal to 64"},
		"a log level":        {`{proxy: {logLevel: Verbose}}`, `spec.proxy.logLevel: Unsupported value: "Verbose"`},
		"a duration":         {`{proxy: {drainDuration: 5 seconds}}`, `spec.proxy.drainDuration: Invalid value: "5 seconds": spec.proxy.drainDuration in body should match '^([0-9]{1,5}(h|m|s|ms)){1,4}$'`},
		"a negative one":     {`{proxy: {drainDuration: -5s}}`, `spec.proxy.drainDuration: Invalid value: "-5s"`},
		"claims":             {`{proxy: {resources: {claims: [{name: gpu}]}}}`, "claims are not supported: the proxy uses no devices"},
		"an amount":          {`{proxy: {resources: {requests: {cpu: lots}}}}`, "spec.proxy.resources.requests.cpu: Invalid value"},
		"an access log mode": {`{observability: {accessLog: {mode: Some}}}`, `spec.observability.accessLog.mode: Unsupported value: "Some": supported values: "None", "Errors", "All"`},
		"a monitor mode":     {`{observability: {metrics: {serviceMonitor: Sometimes}}}`, `spec.observability.metrics.serviceMonitor: Unsupported value: "Sometimes": supported values: "Auto", "Always", "Never"`},
		"a label of Tulle's": {`{observability: {metrics: {labels: {app.kubernetes.io/managed-by: me}}}}`, "app.kubernetes.io/managed-by is how Tulle knows what it made"},
		"labels too many":    {"observability: {metrics: {labels: {" + strings.Trim(repeat(17, func(i int) string { return fmt.Sprintf("l%d: x", i) }), "[]") + "}}}", "spec.observability.metrics.labels: Too many: 17: must have at most 16 items"},
		"an interval":        {`{observability: {metrics: {interval: often}}}`, `spec.observability.metrics.interval: Invalid value: "often"`},
		"a service's name":   {`{services: [{name: Reviews}]}`, `spec.services[0].name: Invalid value: "Reviews"`},
		"two of one name":    {`{services: [{name: a}, {name: a}]}`, `spec.services[1]: Duplicate value: {"name":"a"}`},
		"too many services":  {"services: " + repeat(513, func(i int) string { return fmt.Sprintf("{name: s%d}", i) }), "spec.services: Too many: 513: must have at most 512 items"},
		"a protocol":         {fmt.Sprintf(service, "ports: [{port: 80, protocol: UDP}]"), `spec.services[0].ports[0].protocol: Unsupported value: "UDP": supported values: "HTTP", "GRPC", "TCP"`},
		"no labels":          {fmt.Sprintf(service, "versions: [{name: v1, labels: {}}]"), "spec.services[0].versions[0].labels: Invalid value: 0: spec.services[0].versions[0].labels in body should have at least 1 properties"},
		"a long label": {
			fmt.Sprintf(service, "versions: [{name: v1, labels: {a: "+strings.Repeat("b", 64)+"}}]"),
			"a label's key has at most 317 characters and its value at most 63",
		},
		"two versions of one name": {fmt.Sprintf(service, "versions: [{name: v1, labels: {a: b}}, {name: v1, labels: {a: c}}]"), "spec.services[0].versions[1]: Duplicate value"},
		"a rule's name":            {fmt.Sprintf(service, `routes: [{name: "", to: [{}]}]`), "spec.services[0].routes[0].name: Invalid value"},
		"two rules of one name":    {fmt.Sprintf(service, "routes: [{name: a, to: [{}]}, {name: a, to: [{}]}]"), "spec.services[0].routes[1]: Duplicate value"},
		"nowhere to go":            {fmt.Sprintf(service, "routes: [{name: a, to: []}]"), "spec.services[0].routes[0].to: Invalid value: 0: spec.services[0].routes[0].to in body should have at least 1 items"},
		"weights of zero":          {fmt.Sprintf(service, "routes: [{name: a, to: [{weight: 0}, {version: v1, weight: 0}]}]"), "spec.services[0].routes[0].to: Invalid value: at least one weight must be above 0"},
		"a negative weight":        {fmt.Sprintf(service, "routes: [{name: a, to: [{weight: -1}]}]"), "spec.services[0].routes[0].to[0].weight: Invalid value: -1"},
		"too many targets":         {fmt.Sprintf(service, "routes: [{name: a, to: "+repeat(17, func(int) string { return "{}" })+"}]"), "spec.services[0].routes[0].to: Too many: 17: must have at most 16 items"},
		"a header's name":          {fmt.Sprintf(service, `routes: [{name: a, match: [{headers: [{name: "end user", value: x}]}], to: [{}]}]`), "spec.services[0].routes[0].match[0].headers[0].name: Invalid value: \"end user\""},
		"a kind of match":          {fmt.Sprintf(service, `routes: [{name: a, match: [{headers: [{name: a, type: Prefix, value: x}]}], to: [{}]}]`), `spec.services[0].routes[0].match[0].headers[0].type: Unsupported value: "Prefix": supported values: "Exact", "RegularExpression"`},
		"a trust domain":           {`{meshWide: {trust: {domain: "spiffe://x"}}}`, `spec.meshWide.trust.domain: Invalid value: "spiffe://x"`},
		"an issuer without name":   {`{meshWide: {trust: {issuerRef: {kind: Issuer}}}}`, "spec.meshWide.trust.issuerRef.name: Required value"},
		"a range":                  {`{meshWide: {network: {podRanges: [10.0.0.0]}}}`, `spec.meshWide.network.podRanges[0]: Invalid value: "10.0.0.0": must be a CIDR range such as 10.96.0.0/16 or fd00::/108`},
		"a range twice":            {`{meshWide: {network: {podRanges: [10.0.0.0/8, 10.0.0.0/8]}}}`, "spec.meshWide.network.podRanges[1]: Duplicate value"},
		"a server-first port":      {`{meshWide: {network: {serverFirstPorts: [65536]}}}`, "spec.meshWide.network.serverFirstPorts[0]: Invalid value: 65536"},
		"an empty image":           {`{meshWide: {envoy: {image: ""}}}`, "spec.meshWide.envoy.image: Invalid value: \"\": spec.meshWide.envoy.image in body should be at least 1 chars long"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := create(t, c, "refused", test.spec)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v\nwant %s", err, test.want)
			}
			if err != nil && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
				t.Errorf("got reason %s", apierrors.ReasonForError(err))
			}
		})
	}
}

func testDefaults(t *testing.T, c client.Client) {
	mesh, err := create(t, c, "defaults", `
services:
- name: reviews
  routes: [{name: a, match: [{headers: [{name: a, value: b}]}], to: [{}]}]
meshWide: {trust: {issuerRef: {name: corporate}}}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := meshOf(t, "defaults", `
services:
- name: reviews
  routes: [{name: a, match: [{headers: [{name: a, type: Exact, value: b}]}], to: [{weight: 1}]}]
meshWide: {trust: {issuerRef: {name: corporate, kind: Issuer, group: cert-manager.io}}}
`)
	got, err := json.Marshal(mesh.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := json.Marshal(want.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(wanted), string(got)); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

// testColumns asks for what kubectl get prints.
func testColumns(t *testing.T, config *rest.Config, c client.Client) {
	mesh, err := create(t, c, "columns", `{}`)
	if err != nil {
		t.Fatal(err)
	}
	mesh.Object["status"] = map[string]any{
		"mtls": "Strict", "services": int64(4), "proxies": map[string]any{
			"summary": "6/6", "expected": int64(6), "injected": int64(6), "connected": int64(6), "programmed": int64(6), "rejected": int64(0),
		},
		"conditions": []any{map[string]any{
			"type": "Ready", "status": "True", "reason": "Ready", "message": "all proxies hold generation 1", "lastTransitionTime": "2026-01-01T00:00:00Z",
		}},
	}
	if err := c.Status().Update(t.Context(), mesh); err != nil {
		t.Fatal(err)
	}
	table := tableOf(t, config, "columns")
	var header []string
	for _, column := range table.ColumnDefinitions {
		header = append(header, strings.ToUpper(column.Name))
	}
	if got, want := strings.Join(header, " "), "NAME READY PROXIES MTLS SERVICES AGE STATUS"; got != want {
		t.Errorf("columns %s; want %s", got, want)
	}
	cells := table.Rows[0].Cells
	// The age is not the same twice.
	got := fmt.Sprint(cells[1], " ", cells[2], " ", cells[3], " ", cells[4], " ", cells[6])
	if want := "True 6/6 Strict 4 all proxies hold generation 1"; got != want {
		t.Errorf("row %s; want %s", got, want)
	}
}

func tableOf(t *testing.T, config *rest.Config, name string) *metav1.Table {
	t.Helper()
	config = rest.CopyConfig(config)
	config.GroupVersion = &v1alpha1.GroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	meshes, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := meshes.Get().Namespace("default").Resource("meshes").Name(name).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Timeout(20 * time.Second).Do(t.Context()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(raw, &table); err != nil || len(table.Rows) != 1 {
		t.Fatalf("%+v: %v", table, err)
	}
	return &table
}

// testDescribed holds that kubectl explain has something to say of every field, briefly.
func testDescribed(t *testing.T, c client.Client) {
	var crd apiextensionsv1.CustomResourceDefinition
	if err := c.Get(t.Context(), client.ObjectKey{Name: "meshes.mesh.tulle.dev"}, &crd); err != nil {
		t.Fatal(err)
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	var walk func(path string, schema *apiextensionsv1.JSONSchemaProps)
	walk = func(path string, schema *apiextensionsv1.JSONSchemaProps) {
		if schema.Description == "" {
			t.Errorf("%s has no description", path)
		}
		// What is Kubernetes' own is described there.
		if path == "spec.proxy.podSelector" || path == "spec.proxy.resources" {
			return
		}
		if len(schema.Description) > 300 {
			t.Errorf("%s: the description has %d characters", path, len(schema.Description))
		}
		for name, property := range schema.Properties {
			walk(path+"."+name, &property)
		}
		if schema.Items != nil && schema.Items.Schema != nil {
			for name, property := range schema.Items.Schema.Properties {
				walk(path+"[]."+name, &property)
			}
			bounded(t, path, schema.MaxItems)
		}
		if schema.AdditionalProperties != nil {
			bounded(t, path, schema.MaxProperties)
		}
		if schema.Type == "string" && len(schema.Enum) == 0 {
			bounded(t, path, schema.MaxLength)
		}
	}
	walk("spec", &spec)
}

func bounded(t *testing.T, path string, limit *int64) {
	t.Helper()
	if limit == nil {
		t.Errorf("%s has no bound", path)
	}
}
