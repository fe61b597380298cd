package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	splitv1alpha4 "github.com/tulle-mesh/tulle/api/smi/split/v1alpha4"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/ingest"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// TestSMI: Tulle installs SMI's kinds where there are none, converts between their versions, and keeps what it installed current.
func TestSMI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installCertManager()
	splits := &seen{}
	op := w.start(splits.watch)
	w.eventually("the operator is ready", w.ready)
	for _, kind := range smi.Kinds() {
		w.eventually(kind.CRD()+" is served", func() error { return w.served(kind) })
	}
	w.namespace("smi")
	for _, step := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"definitions", testDefinitions},
		{"round trips", testRoundTrips},
		{"old clients", testOldClients},
		{"accepted and refused", testSMISchemas},
		{"read", func(t *testing.T, w *world) { testSplitsAreRead(t, w, splits) }},
		{"certificate and root", testConversionCertificate},
		{"edited and deleted", func(t *testing.T, w *world) { testDefinitionsAreKept(t, w, splits) }},
		{"before it is ready", func(t *testing.T, w *world) { testConversionWhileUnready(t, w, op) }},
		{"restart", func(t *testing.T, w *world) { testConversionAfterRestart(t, w, op) }},
	} {
		t.Run(step.name, func(t *testing.T) { step.test(t, w.in(t)) })
	}
}

func (w *world) served(k smi.Kind) error {
	d := definition(k)
	if err := w.get(d); err != nil {
		return err
	}
	if version, err := smi.Served(k, d); err != nil || version == "" {
		return fmt.Errorf("serves %q: %w", version, err)
	}
	return nil
}

func definition(k smi.Kind) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: k.CRD()}}
}

// seen is what a replica's model was fed of TrafficSplits.
type seen struct {
	mu     sync.Mutex
	splits map[string]*splitv1alpha4.TrafficSplit
}

// watch has an operator feed it.
func (s *seen) watch(o *operator.Options) {
	o.NewBuilder = func(c model.Config) ingest.Builder { return &seeing{model.NewBuilder(c), s} }
}

type seeing struct {
	*model.Builder
	seen *seen
}

// Set implements ingest.Builder.
func (s *seeing) Set(object any) {
	if split, ok := object.(*splitv1alpha4.TrafficSplit); ok {
		s.seen.mu.Lock()
		if s.seen.splits == nil {
			s.seen.splits = map[string]*splitv1alpha4.TrafficSplit{}
		}
		s.seen.splits[split.Namespace+"/"+split.Name] = split
		s.seen.mu.Unlock()
	}
	s.Builder.Set(object)
}

// Delete implements ingest.Builder.
func (s *seeing) Delete(object any) {
	if split, ok := object.(*splitv1alpha4.TrafficSplit); ok {
		s.seen.mu.Lock()
		delete(s.seen.splits, split.Namespace+"/"+split.Name)
		s.seen.mu.Unlock()
	}
	s.Builder.Delete(object)
}

// has is nil once the model knows a split with these weights; none: once it knows no such split.
func (s *seen) has(name string, weights ...int64) func() error {
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		split := s.splits[name]
		if split == nil && len(weights) == 0 {
			return nil
		}
		if split == nil {
			return fmt.Errorf("known are %v", maps.Keys(s.splits))
		}
		var got []int64
		for _, b := range split.Spec.Backends {
			got = append(got, b.Weight)
		}
		if diff := cmp.Diff(weights, got); diff != "" {
			return fmt.Errorf("weights (-want +got): %s", diff)
		}
		return nil
	}
}

// object makes an object of YAML in flow style: its kind, version, name and content.
func smiObject(t *testing.T, k smi.Kind, version, name, content string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	raw, err := yaml.YAMLToJSON([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"apiVersion": "%s/%s", "kind": %q, "metadata": {"namespace": "smi", "name": %q}, `, k.Group, version, k.Kind, name) + string(raw)[1:]
	if content == "{}" {
		text = strings.TrimSuffix(strings.TrimSpace(text), ", }") + "}"
	}
	if err := u.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return u
}

// content is what an object says besides metadata.
func content(u *unstructured.Unstructured) map[string]any {
	said := maps.Clone(u.Object)
	for _, field := range []string{"metadata", "kind", "apiVersion"} {
		delete(said, field)
	}
	return said
}

func (w *world) getIn(u *unstructured.Unstructured, version string) (*unstructured.Unstructured, error) {
	out := &unstructured.Unstructured{}
	gvk := u.GroupVersionKind()
	gvk.Version = version
	out.SetGroupVersionKind(gvk)
	err := w.client.Get(context.Background(), client.ObjectKeyFromObject(u), out)
	return out, err
}

func testDefinitions(t *testing.T, w *world) {
	for _, kind := range smi.Kinds() {
		d := definition(kind)
		if err := w.get(d); err != nil {
			t.Fatal(err)
		}
		if d.Labels["app.kubernetes.io/managed-by"] != "tulle" {
			t.Errorf("%s has labels %v", d.Name, d.Labels)
		}
		if diff := cmp.Diff([]string{kind.Hub()}, d.Status.StoredVersions); diff != "" {
			t.Errorf("%s stores (-want +got): %s", d.Name, diff)
		}
		for _, c := range d.Status.Conditions {
			if c.Type == apiextensionsv1.NonStructuralSchema && c.Status == apiextensionsv1.ConditionTrue {
				t.Errorf("%s: %s", d.Name, c.Message)
			}
		}
		if len(d.Spec.Versions) != len(kind.Versions) {
			t.Errorf("%s serves %d versions, want %v", d.Name, len(d.Spec.Versions), kind.Versions)
		}
		w.event("default", "CustomResourceDefinition", d.Name, "Created", "for the mesh")
	}
}

// said are objects as clients of each version write them.
func said(k smi.Kind, version string) []string {
	switch {
	case k.Kind == "TrafficSplit" && version == "v1alpha1":
		return []string{
			`{spec: {service: s, backends: [{service: c, weight: 500m}, {service: p, weight: 1500m}]}}`,
			`{spec: {service: s, backends: [{service: c, weight: 0}, {service: p, weight: "1"}]}}`,
			`{spec: {service: s.smi.svc, backends: [{service: c, weight: 1k}, {service: p, weight: "0.25"}]}}`,
		}
	case k.Kind == "TrafficSplit" && version == "v1alpha2":
		return []string{`{spec: {service: s, backends: [{service: c, weight: 0}, {service: p, weight: 100}]}}`}
	case k.Kind == "TrafficSplit":
		return []string{
			`{spec: {service: s, backends: []}}`,
			`{spec: {service: s, backends: [{service: c, weight: 0}, {service: p, weight: 100}], matches: [{kind: HTTPRouteGroup, name: g, apiGroup: specs.smi-spec.io}]}}`,
		}
	case k.Kind == "HTTPRouteGroup" && version == "v1alpha1":
		return []string{`{matches: [{name: m, methods: ["*"], pathRegex: /a.*}]}`}
	case k.Kind == "HTTPRouteGroup" && version == "v1alpha2":
		return []string{`{matches: [{name: m, headers: [{user-agent: ".*Firefox.*"}, {user-agent: ".*"}]}]}`}
	case k.Kind == "HTTPRouteGroup":
		return []string{`{spec: {matches: [{name: m, headers: {user-agent: ".*Firefox.*"}}, {pathRegex: /, methods: [GET, HEAD]}]}}`}
	case k.Kind == "TrafficTarget" && version == "v1alpha1":
		return []string{`{destination: {kind: ServiceAccount, name: d, namespace: smi, port: 80}, sources: [{kind: ServiceAccount, name: s}], specs: [{kind: HTTPRouteGroup, name: g, matches: [m]}]}`}
	case k.Kind == "TrafficTarget" && version == "v1alpha2":
		return []string{`{spec: {destination: {kind: ServiceAccount, name: d, port: 80}, sources: [{kind: ServiceAccount, name: s, port: 81}], rules: [{kind: TCPRoute, name: r}]}}`}
	case k.Kind == "TrafficTarget":
		return []string{`{spec: {destination: {kind: ServiceAccount, name: d}, sources: [{kind: ServiceAccount, name: s}], rules: [{kind: UDPRoute, name: r}]}}`}
	case version == "v1alpha4": // TCPRoute and UDPRoute
		return []string{`{spec: {matches: {name: m, ports: [3306, 6446]}}}`, `{spec: {matches: {ports: []}}}`}
	case version == "v1alpha3":
		return []string{`{spec: {}}`}
	}
	return []string{`{}`}
}

// testRoundTrips: an object that was written in any version is the same there after it was read, and written back, in every other.
func testRoundTrips(t *testing.T, w *world) {
	tried := 0
	for _, kind := range smi.Kinds() {
		for _, from := range kind.Versions {
			for i, text := range said(kind, from) {
				for _, by := range kind.Versions {
					u := smiObject(t, kind, from, fmt.Sprintf("%s-%d-by-%s", from, i, by), text)
					want := content(u)
					w.create(u)
					other, err := w.getIn(u, by)
					if err != nil {
						t.Fatalf("%s %s in %s: %v", kind.Kind, u.GetName(), by, err)
					}
					other.SetLabels(map[string]string{"written": "back"})
					if err := w.client.Update(context.Background(), other); err != nil {
						t.Fatalf("%s %s in %s: %v", kind.Kind, u.GetName(), by, err)
					}
					back, err := w.getIn(u, from)
					if err != nil {
						t.Fatalf("%s %s in %s: %v", kind.Kind, u.GetName(), from, err)
					}
					if diff := cmp.Diff(want, content(back)); diff != "" || back.GetLabels()["written"] != "back" {
						t.Errorf("%s in %s, by %s (-want +got):\n%s", kind.Kind, from, by, diff)
					}
					tried++
				}
			}
		}
	}
	t.Logf("%d objects came back as they were", tried)
}

// testOldClients: who knows an old version alone replaces the whole spec, and what the version does not know stays.
func testOldClients(t *testing.T, w *world) {
	kind := smi.TrafficSplits()
	u := smiObject(t, kind, "v1alpha4", "ab", `{spec: {service: s, backends: [{service: p, weight: 100}], matches: [{kind: HTTPRouteGroup, name: g}]}}`)
	w.create(u)
	old, err := w.getIn(u, "v1alpha1")
	if err != nil {
		t.Fatal(err)
	}
	old.Object["spec"] = content(smiObject(t, kind, "v1alpha1", "x", `{spec: {service: s, backends: [{service: c, weight: 250m}, {service: p, weight: 750m}]}}`))["spec"]
	if err := w.client.Update(context.Background(), old); err != nil {
		t.Fatal(err)
	}
	got, err := w.getIn(u, "v1alpha4")
	if err != nil {
		t.Fatal(err)
	}
	want := content(smiObject(t, kind, "v1alpha4", "x", `{spec: {service: s, backends: [{service: c, weight: 250}, {service: p, weight: 750}], matches: [{kind: HTTPRouteGroup, name: g}]}}`))
	if diff := cmp.Diff(want, content(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Server-side apply in an old version, by somebody who has never seen the annotation.
	applied := smiObject(t, kind, "v1alpha2", "ab", `{spec: {service: s, backends: [{service: c, weight: 1}, {service: p, weight: 9}]}}`)
	if err := w.client.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(applied), client.FieldOwner("old"), client.ForceOwnership); err != nil {
		t.Fatal(err)
	}
	if got, err = w.getIn(u, "v1alpha4"); err != nil {
		t.Fatal(err)
	}
	want = content(smiObject(t, kind, "v1alpha4", "x", `{spec: {service: s, backends: [{service: c, weight: 1}, {service: p, weight: 9}], matches: [{kind: HTTPRouteGroup, name: g}]}}`))
	if diff := cmp.Diff(want, content(got)); diff != "" {
		t.Errorf("applied (-want +got):\n%s", diff)
	}
}

// testSMISchemas: what can't be meant is refused, in words that name the field.
func testSMISchemas(t *testing.T, w *world) {
	for i, c := range []struct {
		kind           smi.Kind
		version        string
		content, wants string
	}{
		{smi.TrafficSplits(), "v1alpha1", `{spec: {service: s, backends: [{service: c, weight: lots}]}}`, "spec.backends[0].weight in body should match"},
		{smi.TrafficSplits(), "v1alpha1", `{spec: {service: s, backends: [{service: c, weight: -1}]}}`, "should be greater than or equal to 0"},
		{smi.TrafficSplits(), "v1alpha1", `{spec: {service: s, backends: [{service: c}]}}`, "spec.backends[0].weight: Required value"},
		{smi.TrafficSplits(), "v1alpha2", `{spec: {service: s, backends: [{service: c, weight: 500m}]}}`, "spec.backends[0].weight: Invalid value"},
		{smi.TrafficSplits(), "v1alpha3", `{spec: {service: s, backends: [{service: c, weight: 0.5}]}}`, "spec.backends[0].weight: Invalid value"},
		{smi.TrafficSplits(), "v1alpha4", `{spec: {service: s, backends: [{service: c, weight: 3000000000}]}}`, "should be less than or equal to 2147483647"},
		{smi.TrafficSplits(), "v1alpha4", `{spec: {service: s, backends: [], matches: [{kind: Deployment, name: g}]}}`, `supported values: "HTTPRouteGroup"`},
		{smi.TrafficSplits(), "v1alpha4", `{spec: {backends: []}}`, "spec.service: Required value"},
		{smi.TCPRoutes(), "v1alpha4", `{spec: {matches: {ports: [70000]}}}`, "should be less than or equal to 65535"},
		{smi.TrafficTargets(), "v1alpha3", `{spec: {}}`, "spec.destination: Required value"},
	} {
		err := w.client.Create(context.Background(), smiObject(t, c.kind, c.version, fmt.Sprintf("refused-%d", i), c.content))
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.wants) {
			t.Errorf("%s %s %s: %v, want %s", c.kind.Kind, c.version, c.content, err, c.wants)
		}
	}
}

func testSplitsAreRead(t *testing.T, w *world, splits *seen) {
	u := smiObject(t, smi.TrafficSplits(), "v1alpha1", "read", `{spec: {service: s, backends: [{service: c, weight: 500m}, {service: p, weight: "1"}]}}`)
	w.create(u)
	w.eventually("it is read", splits.has("smi/read", 500, 1000))
	w.delete(u)
	w.eventually("it is gone", splits.has("smi/read"))

	// The schema can't check headers.
	w.create(smiObject(t, smi.HTTPRouteGroups(), "v1alpha4", "odd", `{spec: {matches: [{headers: 7}]}}`))
	w.event("smi", "HTTPRouteGroup", "odd", "Unreadable", "headers must be a list of maps")
}

// testConversionCertificate: neither another certificate nor another root makes a conversion fail.
func testConversionCertificate(t *testing.T, w *world) {
	u := smiObject(t, smi.TrafficSplits(), "v1alpha4", "steady", `{spec: {service: s, backends: [{service: c, weight: 7}]}}`)
	w.create(u)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var conversions, failed atomic.Int64
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			if _, err := w.getIn(u, "v1alpha1"); err != nil {
				failed.Add(1)
				t.Errorf("a conversion failed: %v", err)
			}
			conversions.Add(1)
		}
	})
	bundle := func() string {
		d := definition(smi.TrafficSplits())
		if err := w.get(d); err != nil {
			t.Fatal(err)
		}
		return string(d.Spec.Conversion.Webhook.ClientConfig.CABundle)
	}
	before, key := bundle(), string(w.secret(identity.WebhookCertificate).Data[corev1.TLSPrivateKeyKey])
	for _, name := range []string{identity.RootCertificate, identity.WebhookCertificate} {
		w.delete(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}})
		w.eventually("another Secret "+name, func() error {
			return w.get(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}})
		})
	}
	w.eventually("another certificate and another root", func() error {
		if now := string(w.secret(identity.WebhookCertificate).Data[corev1.TLSPrivateKeyKey]); now == key {
			return fmt.Errorf("the key is as it was")
		}
		if now := bundle(); now == before || !strings.Contains(now, strings.TrimSpace(before)) {
			return fmt.Errorf("the API server was given\n%s\nbefore it was\n%s", now, before)
		}
		return nil
	})
	want := w.secret(identity.WebhookCertificate).Data[corev1.TLSCertKey]
	// A successor waits for a minute, for clocks that are behind.
	eventuallyWithin(w.t, time.Minute+deadline, "the new certificate is served", func() error { return w.servesCertificate(want) })
	after := conversions.Load()
	w.eventually("and used", func() error {
		if conversions.Load() < after+100 {
			return fmt.Errorf("%d conversions", conversions.Load())
		}
		return nil
	})
	cancel()
	running.Wait()
	t.Logf("%d conversions, %d failed", conversions.Load(), failed.Load())
}

// testDefinitionsAreKept: an edited definition is put right, a deleted one comes again, and what was read of it goes.
func testDefinitionsAreKept(t *testing.T, w *world, splits *seen) {
	kind := smi.TrafficSplits()
	w.create(smiObject(t, kind, "v1alpha2", "kept", `{spec: {service: s, backends: [{service: c, weight: 3}]}}`))
	w.eventually("it is read", splits.has("smi/kept", 3))
	d := definition(kind)
	w.update(d, func() { d.Spec.Versions[0].Served = false })
	w.eventually("every version is served again", func() error {
		if err := w.get(d); err != nil {
			return err
		}
		if !d.Spec.Versions[0].Served {
			return fmt.Errorf("%s is not", d.Spec.Versions[0].Name)
		}
		return nil
	})
	uid := d.UID
	w.delete(d)
	w.eventually("another definition", func() error {
		if err := w.get(d); err != nil {
			return err
		}
		if d.UID == uid {
			return fmt.Errorf("it is the one that was deleted")
		}
		return w.served(kind)
	})
	w.eventually("nothing is known of its objects", splits.has("smi/kept"))
	w.eventually("a new one", func() error {
		return client.IgnoreAlreadyExists(w.client.Create(context.Background(), smiObject(t, kind, "v1alpha1", "again", `{spec: {service: s, backends: [{service: c, weight: 500m}]}}`)))
	})
	w.eventually("it is read", splits.has("smi/again", 500))
}

// reluctant makes no snapshot before it may.
type reluctant struct {
	*model.Builder
	may chan struct{}
}

// Snapshot implements ingest.Builder.
func (r *reluctant) Snapshot() *model.Snapshot {
	<-r.may
	return r.Builder.Snapshot()
}

// testConversionWhileUnready: a replica converts before it is ready, since it may itself wait for what has to be converted; and the Service that the API
// server finds it by has replicas that are not ready.
func testConversionWhileUnready(t *testing.T, w *world, op *running) {
	op.stop()
	u := smiObject(t, smi.TrafficSplits(), "v1alpha4", "unready", `{spec: {service: s, backends: [{service: c, weight: 6}]}}`)
	w.create(u)
	may := make(chan struct{})
	release := sync.OnceFunc(func() { close(may) })
	unready := w.start(func(o *operator.Options) {
		o.NewBuilder = func(c model.Config) ingest.Builder { return &reluctant{model.NewBuilder(c), may} }
	})
	t.Cleanup(func() {
		release()
		unready.stop()
	})
	w.eventually("a conversion", func() error {
		_, err := w.getIn(u, "v1alpha1")
		return err
	})
	if err := w.ready(); err == nil {
		t.Error("it is ready without a snapshot")
	}
	release()
	w.eventually("it is ready once it may be", w.ready)

	raw, err := os.ReadFile("../../config/webhook/service.yaml")
	if err != nil {
		t.Fatal(err)
	}
	published := map[string]bool{}
	for _, document := range bytes.Split(raw, []byte("\n---\n")) {
		var service corev1.Service
		if err := yaml.UnmarshalStrict(document, &service); err != nil {
			t.Fatal(err)
		}
		published[service.Name] = service.Spec.PublishNotReadyAddresses
	}
	// Admission needs replicas that can inject.
	if diff := cmp.Diff(map[string]bool{identity.ConversionService: true, identity.WebhookService: false}, published); diff != "" {
		t.Errorf("whose addresses are published before they are ready (-want +got):\n%s", diff)
	}
}

// testConversionAfterRestart: while no operator runs, the stored version serves on, and others are refused; two that start together read all and are ready.
func testConversionAfterRestart(t *testing.T, w *world, op *running) {
	kind := smi.TrafficSplits()
	op.stop()
	u := smiObject(t, kind, "v1alpha4", "meanwhile", `{spec: {service: s, backends: [{service: c, weight: 4}]}}`)
	w.create(u)
	if _, err := w.getIn(u, "v1alpha1"); err == nil || !strings.Contains(err.Error(), "conversion webhook for split.smi-spec.io/v1alpha4, Kind=TrafficSplit failed") {
		t.Errorf("converted by nobody: %v", err)
	}
	one, two := &seen{}, &seen{}
	w.start(one.watch)
	other := *w
	other.host = newHost()
	other.start(func(o *operator.Options) {
		o.PodName = "tulle-manager-b"
		two.watch(o)
	})
	for _, each := range []struct {
		world *world
		seen  *seen
	}{{w, one}, {&other, two}} {
		w.eventually("ready again", each.world.ready)
		if err := each.seen.has("smi/meanwhile", 4)(); err != nil {
			t.Errorf("ready without the split: %v", err)
		}
	}
	w.eventually("converted again", func() error {
		_, err := w.getIn(u, "v1alpha1")
		return err
	})
}

// servesCertificate is nil once the webhooks' server serves a certificate, given as PEM.
func (w *world) servesCertificate(pemChain []byte) error {
	connection, err := tls.Dial("tcp", w.host+":443", &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	defer connection.Close()
	block, _ := pem.Decode(pemChain)
	if block == nil {
		return fmt.Errorf("no PEM: %q", pemChain)
	}
	if served := connection.ConnectionState().PeerCertificates[0]; !bytes.Equal(served.Raw, block.Bytes) {
		return fmt.Errorf("another one is served, issued at %v", served.NotBefore)
	}
	return nil
}

// foreignDefinition is a definition that somebody else made, of some versions, without a schema and without a conversion.
func foreignDefinition(k smi.Kind, versions ...string) *apiextensionsv1.CustomResourceDefinition {
	d := definition(k)
	d.Spec = apiextensionsv1.CustomResourceDefinitionSpec{
		Group: k.Group, Scope: apiextensionsv1.NamespaceScoped,
		Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: k.Kind, ListKind: k.Kind + "List", Plural: k.Plural, Singular: strings.ToLower(k.Kind)},
	}
	for i, version := range versions {
		d.Spec.Versions = append(d.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{
			Name: version, Served: true, Storage: i == 0,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}},
		})
	}
	return d
}

// TestForeignSMI: definitions of others are left alone, read in the version that they serve, and told of when they can't be; the operator
// works with all of them.
func TestForeignSMI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installCertManager()
	kind := smi.TrafficSplits()
	old := foreignDefinition(kind, "v1alpha2")
	w.create(old, foreignDefinition(smi.HTTPRouteGroups(), "v1beta1"))
	w.namespace("smi")
	w.eventually("a split of before", func() error {
		return w.client.Create(context.Background(), smiObject(t, kind, "v1alpha2", "early", `{spec: {service: s, backends: [{service: c, weight: 2}]}}`))
	})
	splits := &seen{}
	w.start(splits.watch)
	w.eventually("the operator is ready", w.ready)
	if err := splits.has("smi/early", 2)(); err != nil {
		t.Errorf("ready without what was there: %v", err)
	}
	w.event("default", "CustomResourceDefinition", smi.HTTPRouteGroups().CRD(), "VersionNotServed", "serves v1beta1, and Tulle reads v1alpha1, v1alpha2, v1alpha3, v1alpha4: no HTTPRouteGroup is followed")
	w.eventually("Tulle's own of the others", func() error { return w.served(smi.TCPRoutes()) })

	w.create(smiObject(t, kind, "v1alpha2", "wrong", `{spec: {service: s, backends: [{service: c, weight: 0.5}]}}`))
	w.event("smi", "TrafficSplit", "wrong", "Unreadable", "number 0.5")
	w.eventually("its neighbour counts", splits.has("smi/early", 2))

	// It may be changed while it is followed, as when it is upgraded.
	w.update(old, func() {
		old.Spec.Versions = foreignDefinition(kind, "v1alpha2", "v1alpha4").Spec.Versions
		old.Spec.Versions[0].Served = false
	})
	u := smiObject(t, kind, "v1alpha4", "later", `{spec: {service: s, backends: [{service: c, weight: 5}]}}`)
	w.eventually("one in the new version", func() error { return client.IgnoreAlreadyExists(w.client.Create(context.Background(), u)) })
	w.eventually("it is read", splits.has("smi/later", 5))
	w.eventually("what was there still counts", splits.has("smi/early", 2))
	if err := w.get(old); err != nil {
		t.Fatal(err)
	}
	for _, entry := range old.ManagedFields {
		if entry.Manager == "tulle" {
			t.Errorf("Tulle wrote to a definition of somebody else: %s", entry.FieldsV1)
		}
	}

	// When it is gone, Tulle installs its own.
	w.delete(old)
	w.eventually("nothing is known of its objects", splits.has("smi/later"))
	w.eventually("Tulle's own", func() error {
		if err := w.get(old); err != nil {
			return err
		}
		if old.Labels["app.kubernetes.io/managed-by"] != "tulle" {
			return fmt.Errorf("it is still the other one")
		}
		return w.served(kind)
	})
}

// TestUnreadableSMI: objects of a definition whose own conversion webhook is away can't be listed; that does not stop the mesh.
func TestUnreadableSMI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installCertManager()
	kind := smi.TrafficSplits()
	d := foreignDefinition(kind, "v1alpha2", "v1alpha4")
	w.create(d)
	w.namespace("smi")
	w.eventually("a split", func() error {
		return w.client.Create(context.Background(), smiObject(t, kind, "v1alpha2", "stuck", `{spec: {service: s, backends: [{service: c, weight: 2}]}}`))
	})
	w.update(d, func() {
		d.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
			ConversionReviewVersions: []string{"v1"},
			ClientConfig:             &apiextensionsv1.WebhookClientConfig{URL: new("https://" + newHost() + ":443/nobody")},
		}}
	})
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kind.Resource("v1alpha4").GroupVersion().WithKind("TrafficSplitList"))
	w.eventually("it can't be listed any more", func() error {
		if err := w.client.List(context.Background(), list); err == nil {
			return fmt.Errorf("%d were listed", len(list.Items))
		}
		return nil
	})
	splits := &seen{}
	op := w.start(splits.watch)
	w.eventually("the operator is ready all the same", w.ready)
	if !strings.Contains(op.log.String(), "going on without objects that can't be listed") {
		t.Error("it is ready and says nothing of what it can't list")
	}
	w.update(d, func() { d.Spec.Conversion = nil })
	w.eventually("it is read as soon as it can be", splits.has("smi/stuck", 2))
}
