package webhooks_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/webhooks"
)

const operatorNamespace = "tulle-system"

// apiServer is what a webhook sees of the API server when it asks for what its snapshot lacks.
type apiServer struct {
	meshes []v1alpha1.Mesh
	err    error
	asked  int
}

func (a *apiServer) List(_ context.Context, list client.ObjectList, opts ...client.ListOption) error {
	a.asked++
	var o client.ListOptions
	o.ApplyOptions(opts)
	for _, m := range a.meshes {
		if m.Namespace == o.Namespace {
			list.(*v1alpha1.MeshList).Items = append(list.(*v1alpha1.MeshList).Items, m)
		}
	}
	return a.err
}

func (a *apiServer) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	for _, m := range a.meshes {
		if client.ObjectKeyFromObject(&m) == key {
			m.DeepCopyInto(obj.(*v1alpha1.Mesh))
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: "meshes"}, key.Name)
}

// world is a cluster as its webhooks see it.
type world struct {
	api         apiServer
	snapshot    func() *model.Snapshot
	unsupported error
	panics      *contain.Panics
}

func (w *world) options() webhooks.Options {
	return webhooks.Options{
		Installation: inject.Installation{InitImage: "tulle.example/operator:1", ControlPlaneHost: "tulle-control-plane.tulle-system.svc", ControlPlanePort: 15010},
		Model:        model.Config{OperatorNamespace: operatorNamespace, EnvoyImage: "envoy.example/envoy:1"},
		Snapshot:     w.snapshot,
		Reader:       &w.api,
		Unsupported:  w.unsupported,
		Panics:       w.panics,
	}
}

// snapshotOf returns what is seen of a cluster with the given objects.
func snapshotOf(objects ...any) func() *model.Snapshot {
	b := model.NewBuilder(model.Config{OperatorNamespace: operatorNamespace, EnvoyImage: "envoy.example/envoy:1"})
	for _, o := range objects {
		b.Set(o)
	}
	s := b.Snapshot()
	return func() *model.Snapshot { return s }
}

// ask sends an admission request the way the API server does.
func (w *world) ask(t *testing.T, path string, request admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	mux := muxServer{http.NewServeMux()}
	webhooks.Register(mux, w.options())
	request.UID = "a-request"
	review := admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &request,
	}
	body, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, r)
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil || answer.Response == nil {
		t.Fatalf("%s: %v", recorder.Body, err)
	}
	if answer.Response.UID != request.UID {
		t.Errorf("the answer is for request %q", answer.Response.UID)
	}
	return answer.Response
}

type muxServer struct{ *http.ServeMux }

func (m muxServer) Register(path string, h http.Handler) { m.Handle(path, h) }

const plainPod = `{"metadata": {"generateName": "web-", "futureField": 1}, "spec": {"containers": [{"name": "app", "image": "app"}]}}`

func pod(namespace, raw string) admissionv1.AdmissionRequest {
	return admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Namespace: namespace, Operation: admissionv1.Create,
		Object: runtime.RawExtension{Raw: []byte(raw)},
	}
}

func mesh(namespace, spec string) *v1alpha1.Mesh {
	m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mesh", UID: "1"}}
	if err := yaml.UnmarshalStrict([]byte(spec), &m.Spec); err != nil {
		panic(err)
	}
	return m
}

func TestPods(t *testing.T) {
	t.Parallel()
	uid1337 := `{"metadata": {}, "spec": {"securityContext": {"runAsUser": 1337}, "containers": [{"name": "app"}]}}`
	down := errors.New("the API server is away")
	for name, c := range map[string]struct {
		path    string
		world   world
		request admissionv1.AdmissionRequest
		// What is wanted: the sidecar, or else a message; a code when it is refused, and a warning.
		injected bool
		code     int32
		message  string
		warning  string
	}{
		"enrolled": {
			path: webhooks.InjectPath, world: world{snapshot: snapshotOf(mesh("shop", ""))}, request: pod("shop", plainPod), injected: true,
		},
		"the Mesh is newer than the snapshot": {
			path:     webhooks.InjectNewPath,
			world:    world{snapshot: snapshotOf(), api: apiServer{meshes: []v1alpha1.Mesh{*mesh("shop", "")}}},
			request:  pod("shop", plainPod),
			injected: true,
		},
		"the Mesh is newer than this replica's snapshot": {
			path:     webhooks.InjectPath,
			world:    world{snapshot: snapshotOf(), api: apiServer{meshes: []v1alpha1.Mesh{*mesh("shop", "")}}},
			request:  pod("shop", plainPod),
			injected: true,
		},
		"no Mesh": {
			path: webhooks.InjectNewPath, world: world{snapshot: snapshotOf(mesh("other", ""))}, request: pod("shop", plainPod),
			message: "no Mesh enrols the namespace",
		},
		"the root enrols nothing": {
			path:    webhooks.InjectNewPath,
			world:   world{snapshot: snapshotOf(), api: apiServer{meshes: []v1alpha1.Mesh{*mesh(operatorNamespace, "")}}},
			request: pod(operatorNamespace, plainPod),
			message: "no Mesh enrols the namespace",
		},
		"left out": {
			path:    webhooks.InjectPath,
			world:   world{snapshot: snapshotOf(mesh("shop", "proxy: {podSelector: {matchLabels: {app: web}}}"))},
			request: pod("shop", plainPod),
			message: "spec.proxy.podSelector of its Mesh does not select it",
		},
		"refused": {
			path: webhooks.InjectPath, world: world{snapshot: snapshotOf(mesh("shop", ""))}, request: pod("shop", uid1337),
			code: http.StatusForbidden, message: "container app runs as user 1337, as the mesh's proxy does",
		},
		"refused, the Mesh being new": {
			path:    webhooks.InjectNewPath,
			world:   world{snapshot: snapshotOf(), api: apiServer{meshes: []v1alpha1.Mesh{*mesh("shop", "")}}},
			request: pod("shop", uid1337),
			code:    http.StatusForbidden, message: "container app runs as user 1337, as the mesh's proxy does",
		},
		"not a pod": {
			path: webhooks.InjectPath, world: world{snapshot: snapshotOf(mesh("shop", ""))}, request: pod("shop", `{"spec": {"containers": 7}}`),
			code: http.StatusBadRequest, message: "not a Pod in JSON: json: cannot unmarshal number into Go struct field PodSpec.spec.containers",
		},
		"an old Kubernetes": {
			path:    webhooks.InjectPath,
			world:   world{snapshot: snapshotOf(mesh("shop", "")), unsupported: inject.Supported("v1.28.4")},
			request: pod("shop", plainPod),
			message: "not injected",
			warning: "kubernetes v1.28.4 has no native sidecars",
		},
		"no snapshot yet": {
			path: webhooks.InjectPath, world: world{snapshot: func() *model.Snapshot { return nil }}, request: pod("shop", plainPod),
			code: http.StatusServiceUnavailable, message: "namespace shop: the control plane has not read the cluster yet: try again",
		},
		"no snapshot yet, not enrolled": {
			path: webhooks.InjectNewPath, world: world{snapshot: func() *model.Snapshot { return nil }}, request: pod("shop", plainPod),
			message: "not injected", warning: "not injected into the mesh: namespace shop: the control plane has not read the cluster yet",
		},
		"the API server does not answer": {
			path: webhooks.InjectPath, world: world{snapshot: snapshotOf(), api: apiServer{err: down}}, request: pod("shop", plainPod),
			code: http.StatusServiceUnavailable, message: "namespace shop: list its Meshes: the API server is away",
		},
		"the API server does not answer, not enrolled": {
			path: webhooks.InjectNewPath, world: world{snapshot: snapshotOf(), api: apiServer{err: down}}, request: pod("shop", plainPod),
			message: "not injected", warning: "not injected into the mesh: namespace shop: list its Meshes: the API server is away",
		},
		"a panic": {
			path: webhooks.InjectPath, world: world{snapshot: func() *model.Snapshot { panic("a bug") }}, request: pod("shop", plainPod),
			code: http.StatusInternalServerError, message: "Pod shop/(generated): a bug of Tulle (panic; counted in tulle_panics_total",
		},
		"a panic, not enrolled": {
			path: webhooks.InjectNewPath, world: world{snapshot: func() *model.Snapshot { panic("a bug") }}, request: pod("shop", plainPod),
			message: "not injected", warning: "not injected into the mesh: Pod shop/(generated): a bug of Tulle",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := c.world.ask(t, c.path, c.request)
			if response.Allowed != (c.code == 0) || c.code != 0 && response.Result.Code != c.code {
				t.Errorf("allowed: %v, %+v; want code %d", response.Allowed, response.Result, c.code)
			}
			if c.message != "" && !strings.HasPrefix(response.Result.Message, c.message) {
				t.Errorf("says %q; want %q", response.Result.Message, c.message)
			}
			if warnings := strings.Join(response.Warnings, "\n"); !strings.HasPrefix(warnings, c.warning) || (warnings == "") != (c.warning == "") {
				t.Errorf("warns %q; want %q", warnings, c.warning)
			}
			if got := response.Patch != nil; got != c.injected {
				t.Errorf("patch: %s", response.Patch)
			}
			if c.injected {
				checkInjected(t, c.request.Object.Raw, response)
			}
		})
	}
}

func checkInjected(t *testing.T, raw []byte, response *admissionv1.AdmissionResponse) {
	t.Helper()
	if response.PatchType == nil || *response.PatchType != admissionv1.PatchTypeJSONPatch {
		t.Errorf("patch type %v", response.PatchType)
	}
	patch, err := jsonpatch.DecodePatch(response.Patch)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := patch.Apply(raw)
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(patched, &pod); err != nil {
		t.Fatal(err)
	}
	if n := len(pod.Spec.InitContainers); n != 2 || pod.Spec.InitContainers[1].Image != "envoy.example/envoy:1" {
		t.Errorf("init containers: %+v", pod.Spec.InitContainers)
	}
	if !strings.Contains(pod.Annotations[sidecar.SkipDetectionAnnotation], "3306") {
		t.Errorf("annotations: %v", pod.Annotations)
	}
	if !bytes.Contains(patched, []byte("futureField")) {
		t.Errorf("an unknown field is gone: %s", patched)
	}
}

// An enrolled namespace costs no request to the API server.
func TestEnrolledAsksNobody(t *testing.T) {
	t.Parallel()
	w := world{snapshot: snapshotOf(mesh("shop", ""))}
	w.ask(t, webhooks.InjectPath, pod("shop", plainPod))
	if w.api.asked != 0 {
		t.Errorf("asked the API server %d times", w.api.asked)
	}
}

func meshRequest(namespace, name, spec, oldSpec string) admissionv1.AdmissionRequest {
	object := func(spec string) runtime.RawExtension {
		if spec == "" {
			return runtime.RawExtension{}
		}
		raw, err := yaml.YAMLToJSON([]byte("apiVersion: mesh.tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {namespace: " + namespace + ", name: " + name + "}\nspec: " + spec))
		if err != nil {
			panic(err)
		}
		return runtime.RawExtension{Raw: raw}
	}
	r := admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind{Group: "mesh.tulle.dev", Version: "v1alpha1", Kind: "Mesh"}, Namespace: namespace, Name: name,
		Operation: admissionv1.Create, Object: object(spec), OldObject: object(oldSpec),
	}
	if oldSpec != "" {
		r.Operation = admissionv1.Update
	}
	return r
}

func TestMeshes(t *testing.T) {
	t.Parallel()
	reviews := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "reviews"}, Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"}}}
	for name, c := range map[string]struct {
		request  admissionv1.AdmissionRequest
		fields   []string // that it is refused for
		message  string
		warnings []string
	}{
		"empty":   {request: meshRequest("shop", "m", "{}", "")},
		"a route": {request: meshRequest("shop", "m", "{services: [{name: reviews, versions: [{name: v1, labels: {version: v1}}], routes: [{name: all, to: [{version: v1}]}]}]}", "")},
		"a Service that is not there": {
			request:  meshRequest("shop", "m", "{services: [{name: reviews}, {name: ratings}]}", ""),
			warnings: []string{"spec.services[1].name: there is no Service ratings in namespace shop yet; its rules take effect when there is"},
		},
		"meshWide, not the root": {
			request: meshRequest("shop", "mesh", "{meshWide: {envoy: {image: envoy}}}", ""),
			fields:  []string{"spec.meshWide"},
			message: "mesh shop/mesh: spec.meshWide: only the root Mesh, named mesh in the operator's namespace, may set this",
		},
		"meshWide, in the operator's namespace with another name": {
			request: meshRequest(operatorNamespace, "other", "{meshWide: {envoy: {image: envoy}}}", ""),
			fields:  []string{"spec.meshWide"},
		},
		"meshWide, the root": {request: meshRequest(operatorNamespace, "mesh", "{meshWide: {envoy: {image: envoy}}}", "")},
		"a version that no entry defines": {
			request: meshRequest("shop", "m", "{services: [{name: reviews, routes: [{name: all, to: [{version: v9}]}]}]}", ""),
			fields:  []string{"spec.services[0].routes[0].to[0].version"},
			message: `mesh shop/m: spec.services[0].routes[0].to[0].version: `,
		},
		"an expression that does not compile": {
			request: meshRequest("shop", "m", `{services: [{name: reviews, routes: [{name: all, match: [{headers: [{name: a, type: RegularExpression, value: "("}]}], to: [{weight: 1}]}]}]}`, ""),
			fields:  []string{"spec.services[0].routes[0].match[0].headers[0].value"},
		},
		"all that is wrong at once": {
			request: meshRequest("shop", "m", "{meshWide: {}, services: [{name: reviews, routes: [{name: all, to: [{version: v9}]}]}]}", ""),
			fields:  []string{"spec.services[0].routes[0].to[0].version", "spec.meshWide"},
		},
		"wrong before, and not changed": {request: meshRequest("shop", "m", "{meshWide: {}}", "{meshWide: {}}")},
		"wrong before, and changed":     {request: meshRequest("shop", "m", "{meshWide: {}, mtls: {mode: Strict}}", "{meshWide: {}}"), fields: []string{"spec.meshWide"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := world{snapshot: snapshotOf(reviews)}
			response := w.ask(t, webhooks.ValidatePath, c.request)
			if response.Allowed != (len(c.fields) == 0) {
				t.Fatalf("allowed: %v, %+v", response.Allowed, response.Result)
			}
			if len(c.fields) > 0 {
				checkRefused(t, response.Result, c.fields, c.message)
			}
			if got, want := strings.Join(response.Warnings, "\n"), strings.Join(c.warnings, "\n"); got != want {
				t.Errorf("warns %q; want %q", got, want)
			}
		})
	}
}

func checkRefused(t *testing.T, status *metav1.Status, fields []string, message string) {
	t.Helper()
	if status.Code != http.StatusUnprocessableEntity || status.Reason != metav1.StatusReasonInvalid {
		t.Errorf("code %d, reason %s", status.Code, status.Reason)
	}
	var got []string
	for _, cause := range status.Details.Causes {
		got = append(got, cause.Field)
		if !strings.Contains(status.Message, cause.Field+": "+cause.Message) {
			t.Errorf("%q lacks %s", status.Message, cause.Message)
		}
	}
	if strings.Join(got, " ") != strings.Join(fields, " ") {
		t.Errorf("refused for %v; want %v", got, fields)
	}
	if !strings.HasPrefix(status.Message, message) {
		t.Errorf("says %q; want %q", status.Message, message)
	}
}

func TestNotAMesh(t *testing.T) {
	t.Parallel()
	w := world{snapshot: snapshotOf()}
	request := meshRequest("shop", "m", "", "")
	request.Object.Raw = []byte(`{"spec": []}`)
	response := w.ask(t, webhooks.ValidatePath, request)
	if response.Allowed || response.Result.Code != http.StatusBadRequest || !strings.HasPrefix(response.Result.Message, "not a Mesh in JSON: ") {
		t.Errorf("allowed: %v, %+v", response.Allowed, response.Result)
	}
}
