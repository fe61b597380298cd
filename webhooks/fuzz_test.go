package webhooks_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/webhooks"
)

// FuzzAdmission holds of any object in a request to any webhook: nothing panics, the answer is one, a refusal says why, and a patch fits.
func FuzzAdmission(f *testing.F) {
	paths := []string{webhooks.InjectPath, webhooks.InjectNewPath, webhooks.EphemeralPath, webhooks.ValidatePath}
	for i := range paths {
		for _, object := range []string{
			plainPod, `{"metadata": {}, "spec": {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"port": "x"}}}]}}`,
			`{"spec": {"services": [{"name": "reviews", "routes": [{"name": "a", "to": [{"version": "v9"}]}]}], "meshWide": {}}}`, `[]`, `null`, `7`,
			`{"metadata": {"annotations": null}, "spec": {"initContainers": [{"name": "tulle-proxy"}], "containers": [{}], "ephemeralContainers": [{"securityContext": {"runAsUser": 1337}}]}}`,
		} {
			f.Add(uint8(i), "shop", []byte(object), []byte(object))
			f.Add(uint8(i), operatorNamespace, []byte(object), []byte(`{}`))
		}
	}
	f.Fuzz(func(t *testing.T, path uint8, namespace string, object, old []byte) {
		// The API server sends JSON, and no key twice in an object.
		var tidy any
		if json.Unmarshal(object, &tidy) != nil || !json.Valid(old) {
			return
		}
		object, err := json.Marshal(tidy)
		if err != nil {
			t.Fatal(err)
		}
		registry := prometheus.NewRegistry()
		panics, err := contain.New(registry, discard())
		if err != nil {
			t.Fatal(err)
		}
		w := world{snapshot: snapshotOf(mesh("shop", ""))}
		o := w.options()
		o.Panics = panics
		mux := muxServer{http.NewServeMux()}
		webhooks.Register(mux, o)
		body, err := json.Marshal(admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
			UID: "u", Namespace: namespace, Operation: admissionv1.Update,
			Object: runtime.RawExtension{Raw: object}, OldObject: runtime.RawExtension{Raw: old},
		}})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, paths[int(path)%len(paths)], bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		mux.ServeHTTP(recorder, r)
		var answer admissionv1.AdmissionReview
		if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil || answer.Response == nil {
			t.Fatalf("%s: %v", recorder.Body, err)
		}
		if counted(t, registry) > 0 {
			t.Fatalf("a panic: %+v", answer.Response.Result)
		}
		if !answer.Response.Allowed && answer.Response.Result.Message == "" {
			t.Errorf("refused without a word: %+v", answer.Response.Result)
		}
		if answer.Response.Patch == nil {
			return
		}
		patch, err := jsonpatch.DecodePatch(answer.Response.Patch)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := patch.Apply(object); err != nil {
			t.Errorf("%v: %s", err, answer.Response.Patch)
		}
	})
}
