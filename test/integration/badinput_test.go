package integration

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// TestBadInput is the table of what is wrong in a cluster and what Tulle says of it, word by word. What the schema alone refuses is
// TestCRD's. A healthy Mesh beside is never disturbed.
func TestBadInput(t *testing.T) {
	w := newWorld(t)
	stopCertManager := w.installCertManager()
	w.namespace("healthy")
	w.create(mesh("healthy", "healthy", v1alpha1.MeshSpec{}))
	// Without the operator there are no webhooks: what they would refuse is stored, as by somebody who was quicker.
	for _, row := range badMeshes() {
		row.store(w)
	}
	w.start(func(o *operator.Options) { o.Excluded = []string{"cert-manager"} })
	w.eventually("the operator is ready", w.ready)

	t.Run("Meshes", func(t *testing.T) { testBadMeshes(t, w) })
	t.Run("Services", func(t *testing.T) { testBadServices(t, w) })
	t.Run("pods", func(t *testing.T) { testBadPods(t, w) })
	t.Run("issuers", func(t *testing.T) { testBadIssuers(t, w) })
	t.Run("certificates", func(t *testing.T) { testBadCertificates(t, w, stopCertManager) })
}

// healthy waits until the Mesh beside is, and stays, Ready.
func (w *world) healthy() {
	w.t.Helper()
	w.condition("healthy", "healthy", v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
}

// badMesh is a Mesh, what is said of it when it is stored, and why the webhook refuses it; empty when it does not.
type badMesh struct {
	name string
	// namespace is one of its own when empty; object is the Mesh's name, mesh when empty.
	namespace, object string
	spec              string
	// service is true when there is the Service reviews.
	service bool
	// after is the name of a Mesh of the same namespace that is there before, with its spec.
	after, afterSpec string

	condition string
	status    metav1.ConditionStatus // False when empty
	reason    string
	message   string
	refused   string
}

func (b badMesh) place() (namespace, name string) {
	namespace, name = b.namespace, b.object
	if namespace == "" {
		namespace = "bad-" + strings.ReplaceAll(strings.ToLower(b.name), " ", "-")
	}
	if name == "" {
		name = "mesh"
	}
	return namespace, name
}

func specOf(t *testing.T, text string) v1alpha1.MeshSpec {
	t.Helper()
	var spec v1alpha1.MeshSpec
	if err := yaml.UnmarshalStrict([]byte(text), &spec); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return spec
}

// ensureNamespace creates a namespace that may be there.
func (w *world) ensureNamespace(name string) {
	w.t.Helper()
	if err := w.client.Create(context.Background(), namespace(name)); err != nil && !apierrors.IsAlreadyExists(err) {
		w.t.Fatal(err)
	}
}

func (b badMesh) store(w *world) {
	w.t.Helper()
	ns, name := b.place()
	w.ensureNamespace(ns)
	if b.service {
		w.create(clusterService(ns, "reviews", nil))
	}
	if b.after != "" {
		w.create(mesh(ns, b.after, specOf(w.t, b.afterSpec)))
	}
	w.create(mesh(ns, name, specOf(w.t, b.spec)))
}

// rule is a Mesh of one rule.
func rule(text string) string { return "services: [{name: reviews, " + text + "}]" }

func badMeshes() []badMesh {
	const system1 = " is never part of the mesh; move this Mesh to the namespace of your workloads"
	return []badMesh{
		{
			name: "meshWide", spec: "meshWide: {envoy: {image: envoy}}",
			condition: "Accepted", reason: "NotRoot",
			message: "spec.meshWide: only the root Mesh, named mesh in the operator's namespace, may set this; it is ignored here, move it there",
			refused: "spec.meshWide: only the root Mesh, named mesh in the operator's namespace, may set this; it is ignored here, move it there",
		},
		{
			name: "the root", namespace: system, spec: "{services: [{name: reviews}], meshWide: {envoy: {image: \"no image\"}, trust: {certificateDuration: 0s}}}",
			condition: "Accepted", reason: "InvalidValue",
			message: `spec.meshWide.envoy.image: "no image" is no image; give one such as registry.example/envoy:v1.40.0; ` +
				`spec.meshWide.trust.certificateDuration: "0s" is shorter than 10s and does not hold; give one such as 30s or 1h30m; ` +
				`spec.services: the root Mesh enrols no Service; move these rules to a Mesh in the Services' namespace`,
			refused: `spec.services: the root Mesh enrols no Service; move these rules to a Mesh in the Services' namespace`,
		},
		{
			name: "selector", spec: "proxy: {podSelector: {matchExpressions: [{key: app, operator: Near, values: [web]}]}}",
			condition: "Accepted", reason: "InvalidPodSelector",
			message: `spec.proxy.podSelector: "Near" is not a valid label selector operator; until it is corrected, new pods of the namespace are refused and pods without a sidecar stay without`,
			refused: `spec.proxy.podSelector: "Near" is not a valid label selector operator; until it is corrected, new pods of the namespace are refused and pods without a sidecar stay without`,
		},
		{
			name: "version", service: true, spec: rule("versions: [{name: v1, labels: {v: '1'}}, {name: v2, labels: {v: '2'}}], routes: [{name: a, to: [{version: v9}]}]"),
			condition: "ResolvedRefs", reason: "VersionNotFound",
			message: `spec.services[0].routes[0].to[0].version: unknown version "v9"; reviews has v1, v2; ` +
				`spec.services[0].versions[0].labels: no pod of Service reviews has the labels of version v1 (v=1), so requests for it fail; compare with kubectl get pods -n bad-version --show-labels; ` +
				`spec.services[0].versions[1].labels: no pod of Service reviews has the labels of version v2 (v=2), so requests for it fail; compare with kubectl get pods -n bad-version --show-labels`,
			refused: `spec.services[0].routes[0].to[0].version: unknown version "v9"; reviews has v1, v2`,
		},
		{
			name: "version of none", service: true, spec: rule("routes: [{name: a, to: [{version: v9}]}]"),
			condition: "ResolvedRefs", reason: "VersionNotFound",
			message: `spec.services[0].routes[0].to[0].version: unknown version "v9"; reviews has none; add it to spec.services[0].versions`,
			refused: `spec.services[0].routes[0].to[0].version: unknown version "v9"; reviews has none; add it to spec.services[0].versions`,
		},
		{
			name: "expression", spec: rule(`routes: [{name: a, match: [{headers: [{name: x, type: RegularExpression, value: "a(b"}]}], to: [{}]}]`),
			condition: "Accepted", reason: "InvalidRoute",
			message: `spec.services[0].routes[0].match[0].headers[0].value: not an RE2 expression (missing closing ) in "a(b"); see https://github.com/google/re2/wiki/Syntax`,
			refused: `spec.services[0].routes[0].match[0].headers[0].value: not an RE2 expression (missing closing ) in "a(b"); see https://github.com/google/re2/wiki/Syntax`,
		},
		{
			name: "large expression", spec: rule(`routes: [{name: a, match: [{headers: [{name: x, type: RegularExpression, value: "([a-f0-9]{200}){5}"}]}], to: [{}]}]`),
			condition: "Accepted", reason: "InvalidRoute",
			message: `spec.services[0].routes[0].match[0].headers[0].value: the expression is too large (2012 steps of at most 2000); make its repetitions smaller or split the rule`,
			refused: `spec.services[0].routes[0].match[0].headers[0].value: the expression is too large`,
		},
		{
			name: "internal header", spec: rule(`routes: [{name: a, match: [{headers: [{name: X-Tulle-Destination, value: x}]}], to: [{}]}]`),
			condition: "Accepted", reason: "InvalidRoute",
			message: `spec.services[0].routes[0].match[0].headers[0].name: header x-tulle-destination is internal to the mesh and never comes from an application; match another one`,
			refused: `spec.services[0].routes[0].match[0].headers[0].name: header x-tulle-destination is internal to the mesh`,
		},
		{
			name: "header twice", spec: rule(`routes: [{name: a, match: [{headers: [{name: user, value: x}, {name: User, value: y}]}], to: [{}]}]`),
			condition: "Accepted", reason: "DuplicateName",
			message: `spec.services[0].routes[0].match[0].headers[1].name: header user is matched twice; a match names each header once`,
			refused: `spec.services[0].routes[0].match[0].headers[1].name: header user is matched twice; a match names each header once`,
		},
		{
			name: "control character", spec: rule(`routes: [{name: a, match: [{headers: [{name: user, value: "a\tb"}]}], to: [{}]}]`),
			condition: "Accepted", reason: "InvalidRoute",
			message: `spec.services[0].routes[0].match[0].headers[0].value: the value has characters that no header can have; remove them`,
			refused: `spec.services[0].routes[0].match[0].headers[0].value: the value has characters that no header can have; remove them`,
		},
		{
			name: "conflict", object: "b-second", spec: "{mtls: {mode: Disabled}, services: [{name: reviews}]}",
			after: "a-first", afterSpec: "{mtls: {mode: Strict}, services: [{name: reviews}]}",
			condition: "Accepted", reason: "Conflicted",
			message: "spec.mtls.mode: the older Mesh a-first already claims spec.mtls.mode and wins; remove it here or there; " +
				"spec.services[0]: the older Mesh a-first already claims service reviews and wins; remove it here or there",
		},
		{name: "kube-system", namespace: "kube-system", condition: "Accepted", reason: "SystemNamespace", message: "namespace kube-system" + system1},
		{name: "kube-public", namespace: "kube-public", condition: "Accepted", reason: "SystemNamespace", message: "namespace kube-public" + system1},
		{name: "kube-node-lease", namespace: "kube-node-lease", condition: "Accepted", reason: "SystemNamespace", message: "namespace kube-node-lease" + system1},
		{name: "operator", namespace: system, object: "other", condition: "Accepted", reason: "SystemNamespace", message: "namespace tulle-system" + system1},
		{name: "cert-manager", namespace: "cert-manager", condition: "Accepted", reason: "SystemNamespace", message: "namespace cert-manager" + system1},
	}
}

func testBadMeshes(t *testing.T, w *world) {
	w.in(t).eventually("the API server to ask the webhook", func() error {
		wrong := mesh("healthy", "wrong", v1alpha1.MeshSpec{MeshWide: &v1alpha1.MeshWideSpec{}})
		if err := w.client.Create(context.Background(), wrong, client.DryRunAll); !apierrors.IsInvalid(err) {
			return errors.Join(errors.New("it is not refused as invalid"), err)
		}
		return nil
	})
	for _, row := range badMeshes() {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			ns, name := row.place()
			status := row.status
			if status == "" {
				status = metav1.ConditionFalse
			}
			w.condition(ns, name, row.condition, status, row.reason, row.message)
			if row.after != "" {
				w.condition(ns, row.after, v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Valid", "every field makes sense")
			}
			// The same, changed by somebody while the operator is there.
			m := mesh(ns, name, v1alpha1.MeshSpec{})
			if err := w.get(m); err != nil {
				t.Fatal(err)
			}
			if m.Spec.Proxy == nil {
				m.Spec.Proxy = &v1alpha1.ProxySpec{}
			}
			m.Spec.Proxy.LogLevel = "Debug"
			err := w.client.Update(context.Background(), m, client.DryRunAll)
			switch {
			case row.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case row.refused != "" && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), row.refused)):
				t.Errorf("got %v\nwant %s", err, row.refused)
			}
			// Pods that nobody can tell about do not start; where no Mesh belongs, they are left alone.
			p := podOf(ns, "web")
			err = w.client.Create(context.Background(), p, client.DryRunAll)
			switch {
			case row.reason == "InvalidPodSelector":
				if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "namespace "+ns+": ") {
					t.Errorf("a pod of the namespace: %v", err)
				}
			case err != nil:
				t.Errorf("a pod of the namespace: %v", err)
			case row.reason == "SystemNamespace" && hasSidecar(p):
				t.Error("a pod was injected")
			}
		})
	}
	w.in(t).healthy()
	root := mesh(system, v1alpha1.RootName, v1alpha1.MeshSpec{})
	w.in(t).update(root, func() { root.Spec = v1alpha1.MeshSpec{} })
}

// badService is a Mesh with what it refers to.
type badService struct {
	name string
	spec string
	// objects are made before the Mesh.
	objects func(namespace string) []client.Object
	// then happens once the Mesh is there.
	then      func(w *world, namespace string)
	condition string
	status    metav1.ConditionStatus // False when empty
	reason    string
	message   string
}

func clusterService(ns, name string, edit func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	if edit != nil {
		edit(&s.Spec)
	}
	return s
}

func slice(s *corev1.Service, name string, addresses ...string) *discoveryv1.EndpointSlice {
	e := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: s.Namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, p := range s.Spec.Ports {
		e.Ports = append(e.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: new(int32(8080))})
	}
	for _, a := range addresses {
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return e
}

func badServices() []badService {
	const routes = "routes: [{name: all, to: [{}]}]"
	one := func(edit func(*corev1.ServiceSpec)) func(string) []client.Object {
		return func(ns string) []client.Object { return []client.Object{clusterService(ns, "reviews", edit)} }
	}
	return []badService{
		{
			name: "missing", spec: rule(routes),
			condition: "ResolvedRefs", reason: "ServiceNotFound",
			message: "spec.services[0].name: namespace svc-missing has no Service reviews; create it, or remove or correct this entry",
		},
		{
			name: "vanished", spec: rule(routes), objects: one(nil),
			then: func(w *world, ns string) {
				w.condition(ns, "mesh", v1alpha1.ConditionResolvedRefs, metav1.ConditionTrue, "Resolved", "everything that it names exists")
				w.delete(clusterService(ns, "reviews", nil))
			},
			condition: "ResolvedRefs", reason: "ServiceNotFound",
			message: "spec.services[0].name: namespace svc-vanished has no Service reviews; create it, or remove or correct this entry",
		},
		{
			name: "headless", spec: rule(routes), objects: one(func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone }),
			condition: "Accepted", reason: "NoClusterIP",
			message: "spec.services[0].routes: Service reviews has no cluster IP, so its clients call pods or outside hosts themselves and follow no rules; " +
				"give it one (clusterIP is not None, type is not ExternalName) or remove the rules",
		},
		{
			name: "externalname", spec: rule(routes), objects: one(func(s *corev1.ServiceSpec) {
				s.Type, s.ExternalName, s.Selector = corev1.ServiceTypeExternalName, "reviews.example", nil
			}),
			condition: "Accepted", reason: "NoClusterIP",
			message: "spec.services[0].routes: Service reviews has no cluster IP, so its clients call pods or outside hosts themselves and follow no rules; " +
				"give it one (clusterIP is not None, type is not ExternalName) or remove the rules",
		},
		{
			name: "no-selector", spec: rule("versions: [{name: v1, labels: {version: v1}}], " + routes), objects: one(func(s *corev1.ServiceSpec) { s.Selector = nil }),
			condition: "ResolvedRefs", status: metav1.ConditionTrue, reason: "Resolved",
			message: "everything that it names exists; but spec.services[0].versions[0].labels: no pod of Service reviews has the labels of version v1 (version=v1), " +
				"so requests for it fail; compare with kubectl get pods -n svc-no-selector --show-labels",
		},
		{
			name: "port", spec: rule("ports: [{port: 81, protocol: HTTP}]"), objects: one(nil),
			condition: "ResolvedRefs", reason: "PortNotFound",
			message: "spec.services[0].ports[0].port: Service reviews has no TCP port 81; it has 80 (http)",
		},
		{
			name: "udp", spec: rule("ports: [{port: 80, protocol: HTTP}]"), objects: one(func(s *corev1.ServiceSpec) { s.Ports[0].Protocol = corev1.ProtocolUDP }),
			condition: "ResolvedRefs", reason: "PortNotFound",
			message: "spec.services[0].ports[0].port: Service reviews has no TCP port 80; it has none",
		},
		{
			name: "tcp", spec: rule(routes), objects: one(func(s *corev1.ServiceSpec) { s.Ports[0].Name = "mysql" }),
			condition: "Accepted", reason: "ProtocolMismatch",
			message: "spec.services[0].routes: rules are for HTTP, and Service reviews has no port that speaks it (80 (mysql)); declare one in spec.services[0].ports or remove the rules",
		},
		{
			name: "stolen", spec: rule("ports: [{port: 80, protocol: HTTP}]"),
			objects: func(ns string) []client.Object {
				s := clusterService(ns, "reviews", func(s *corev1.ServiceSpec) { s.Selector = nil })
				other := clusterService(ns, "other", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.0.0.9" })
				return []client.Object{other, s, slice(s, "forged", "10.0.0.9")}
			},
			condition: "ResolvedRefs", status: metav1.ConditionTrue, reason: "Resolved",
			message: "everything that it names exists; but spec.services[0]: EndpointSlice forged of Service reviews lists 10.0.0.9, which is the cluster IP of Service svc-stolen/other; it is left out, remove it there",
		},
		{
			name: "contradiction", spec: "services: [{name: reviews, ports: [{port: 80, protocol: HTTP}]}, {name: same-pods}]",
			objects: func(ns string) []client.Object {
				a := clusterService(ns, "reviews", nil)
				b := clusterService(ns, "same-pods", func(s *corev1.ServiceSpec) { s.Selector, s.Ports[0].Name = a.Spec.Selector, "mysql" })
				return []client.Object{a, b, slice(a, "a", "10.244.9.1"), slice(b, "b", "10.244.9.1")}
			},
			then: func(w *world, ns string) {
				p := pod(ns, "reviews")
				w.create(p)
				p.Status.PodIP, p.Status.PodIPs = "10.244.9.1", []corev1.PodIP{{IP: "10.244.9.1"}}
				w.run(p)
			},
			condition: "Accepted", reason: "ProtocolConflict",
			message: "spec.services[0].ports[0].protocol: another Service with the same pods says something else of their port 8080, so their proxies detect the protocol; let both say the same",
		},
	}
}

func testBadServices(t *testing.T, w *world) {
	for _, row := range badServices() {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			ns := "svc-" + row.name
			w.namespace(ns)
			if row.objects != nil {
				w.create(row.objects(ns)...)
			}
			w.create(mesh(ns, "mesh", specOf(t, row.spec)))
			if row.then != nil {
				row.then(w, ns)
			}
			status := row.status
			if status == "" {
				status = metav1.ConditionFalse
			}
			w.condition(ns, "mesh", row.condition, status, row.reason, row.message)
		})
	}
	w.in(t).healthy()
}

// badPod is a pod that can't be in the mesh as it is, or that its author meant to be special.
type badPod struct {
	name string
	edit func(*corev1.Pod)
	// refused is the whole reason; empty when the pod is admitted.
	refused string
	// leftOut is true when an admitted pod gets no sidecar.
	leftOut bool
	// warned is what the author is warned of.
	warned string
}

func badPods() []badPod {
	const or = `, or leave the pod out with the label mesh.tulle.dev/inject: "false"`
	const runsAs = " runs as user 1337, as the mesh's proxy does, whose traffic is not redirected: give it another securityContext.runAsUser" + or
	const again = ": remove the containers tulle-init and tulle-proxy, the volumes tulle-credentials and tulle-admin and the annotation mesh.tulle.dev/sidecar from the pod; the mesh adds its own"
	uid := int64(sidecar.UID)
	always := corev1.ContainerRestartPolicyAlways
	return []badPod{
		{name: "uid of the pod", edit: func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &uid} }, refused: "container prepare" + runsAs},
		{name: "uid of a container", edit: func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: &uid} }, refused: "container app" + runsAs},
		{name: "uid of an init container", edit: func(p *corev1.Pod) {
			p.Spec.InitContainers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: &uid}
		}, refused: "container prepare" + runsAs},
		{name: "uid of a sidecar", edit: func(p *corev1.Pod) {
			p.Spec.InitContainers[0].RestartPolicy = &always
			p.Spec.InitContainers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: &uid}
		}, refused: "container prepare" + runsAs},
		{name: "gid", edit: func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1)), RunAsGroup: &uid, FSGroup: &uid, SupplementalGroups: []int64{uid}}
		}},
		{name: "a container named as ours", edit: func(p *corev1.Pod) { p.Spec.Containers[0].Name = "tulle-proxy" },
			refused: "container tulle-proxy: the name is reserved for the mesh: rename the container" + or},
		{name: "an init container named as ours", edit: func(p *corev1.Pod) { p.Spec.InitContainers[0].Name = "tulle-init" },
			refused: "container tulle-init: the name is reserved for the mesh: rename the container" + or},
		{name: "a volume named as ours", edit: func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "tulle-credentials"}} },
			refused: "volume tulle-credentials: the name is reserved for the mesh: rename the volume" + or},
		{name: "mounts the admin socket", edit: func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "tulle-admin", MountPath: "/admin"}}
		}, refused: "container app mounts the volume tulle-admin, which only the mesh's proxy may: remove the mount" + or},
		{name: "mounts the token", edit: func(p *corev1.Pod) {
			p.Spec.InitContainers[0].VolumeMounts = []corev1.VolumeMount{{Name: "tulle-credentials", MountPath: "/token"}}
		}, refused: "container prepare mounts the volume tulle-credentials, which only the mesh's proxy may: remove the mount" + or},
		{name: "a forged sidecar", edit: func(p *corev1.Pod) {
			p.Annotations = map[string]string{sidecar.VersionAnnotation: "0123456789abcdef"}
			p.Spec.InitContainers = []corev1.Container{{Name: "tulle-init", Image: "true"}, {Name: "tulle-proxy", Image: "evil", RestartPolicy: &always}}
		}, refused: "container tulle-init: its command is not what the mesh gives this pod" + again},
		{name: "half a sidecar", edit: func(p *corev1.Pod) {
			p.Annotations = map[string]string{sidecar.VersionAnnotation: "0123456789abcdef"}
			p.Spec.InitContainers = []corev1.Container{{Name: "tulle-proxy", Image: "envoy:test", RestartPolicy: &always}}
		}, refused: "the pod has a sidecar without the container tulle-init" + again},
		{name: "annotations by hand", edit: func(p *corev1.Pod) {
			p.Annotations = map[string]string{
				sidecar.VersionAnnotation: "0123456789abcdef", sidecar.SkipDetectionAnnotation: "80,443",
				sidecar.ProbesAnnotation: `[{"path":"/","port":8080,"targetPath":"/"}]`, sidecar.InjectLabel: "false", "sidecar.istio.io/inject": "false",
			}
		}},
		{name: "labels that say something else", edit: func(p *corev1.Pod) {
			p.Labels = map[string]string{sidecar.InjectLabel: "False", "sidecar.istio.io/inject": "false"}
		}},
		{name: "host network", edit: func(p *corev1.Pod) { p.Spec.HostNetwork = true }, leftOut: true},
		{name: "host network as the proxy", edit: func(p *corev1.Pod) {
			p.Spec.HostNetwork, p.Spec.SecurityContext = true, &corev1.PodSecurityContext{RunAsUser: &uid}
		}, leftOut: true},
		{name: "windows", edit: func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, leftOut: true},
		{name: "a mirror by hand", edit: func(p *corev1.Pod) {
			// No kubelet runs it: it looks for the static pod and deletes this one.
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "forged"}
			p.Spec.NodeName, p.Spec.ServiceAccountName = "node", ""
		}, leftOut: true},
		{name: "host processes", edit: func(p *corev1.Pod) { p.Spec.HostPID = true },
			warned: "the pod's containers see the proxy's processes (shareProcessNamespace or hostPID): as root or user 1337 they reach its token and its admin interface: do without, unless all of them may act as the pod's service account"},
		{name: "shared processes", edit: func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = new(true) },
			warned: "the pod's containers see the proxy's processes (shareProcessNamespace or hostPID): as root or user 1337 they reach its token and its admin interface: do without, unless all of them may act as the pod's service account"},
		{name: "a port of ours", edit: func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = sidecar.InboundPort },
			warned: "container app: port 15006 is the proxy's in this pod, the app can't listen on it: use another"},
		{name: "a tcp probe", edit: func(p *corev1.Pod) {
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}}
		}, warned: "container app: the proxy accepts the tcpSocket liveness probe whether the app listens or not: use httpGet"},
		{name: "the node's DNS", edit: func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault },
			warned: "dnsPolicy Default: the proxy finds the control plane by the cluster's DNS and will not start without it: use ClusterFirst"},
	}
}

func testBadPods(t *testing.T, w *world) {
	const ns = "pods"
	w = w.in(t)
	w.namespace(ns)
	w.create(mesh(ns, ns, v1alpha1.MeshSpec{}))
	w.condition(ns, ns, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "ready for pods: none is selected yet")
	for _, row := range badPods() {
		t.Run(row.name, func(t *testing.T) {
			var seen warnings
			config := rest.CopyConfig(w.admin)
			config.WarningHandler = &seen
			c, err := client.New(config, client.Options{Scheme: w.client.Scheme()})
			if err != nil {
				t.Fatal(err)
			}
			p := podOf(ns, strings.NewReplacer(" ", "-", "'", "").Replace(strings.ToLower(row.name)))
			row.edit(p)
			err = c.Create(t.Context(), p)
			switch {
			case row.refused != "":
				if want := `.sidecar.mesh.tulle.dev" denied the request: ` + row.refused; !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), want) {
					t.Fatalf("got %v\nwant %s", err, want)
				}
				return
			case err != nil:
				t.Fatal(err)
			case hasSidecar(p) == row.leftOut:
				t.Errorf("left out: %v, want %v", !hasSidecar(p), row.leftOut)
			}
			if !row.leftOut {
				if err := storedWithSidecar(p); err != nil {
					t.Error(err)
				}
				if probes := p.Annotations[sidecar.ProbesAnnotation]; strings.Contains(probes, `"path":"/"`) {
					t.Errorf("probes of somebody else are taken: %s", probes)
				}
			}
			if got := strings.Join(seen.seen, "\n"); got != row.warned {
				t.Errorf("warned %q\nwant %q", got, row.warned)
			}
		})
	}
	w.healthy()
}
