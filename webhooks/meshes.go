package webhooks

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
)

// meshes refuses Meshes that are wrong by themselves. What may still come, such as a Service, is a warning.
type meshes struct{ Options }

// Handle answers for one new or changed Mesh.
func (m *meshes) Handle(_ context.Context, req admission.Request) admission.Response {
	mesh, err := decodeMesh(req.Object.Raw)
	if err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if req.Operation == admissionv1.Update {
		old, err := decodeMesh(req.OldObject.Raw)
		// What is there may be wrong by newer rules; it must stay possible to label or delete it.
		if err == nil && reflect.DeepEqual(old.Spec, mesh.Spec) {
			return admission.Allowed("")
		}
	}
	root := req.Namespace == m.Model.OperatorNamespace && req.Name == v1alpha1.RootName
	var refused []model.Problem
	var warnings []string
	for _, p := range model.Validate(mesh, root) {
		if p.Fatal {
			refused = append(refused, p)
		} else {
			warnings = append(warnings, sentence(p))
		}
	}
	if len(refused) > 0 {
		return deny(req, refused).WithWarnings(warnings...)
	}
	return admission.Allowed("").WithWarnings(append(warnings, m.missing(req.Namespace, mesh, root)...)...)
}

// maxWarnings keeps the answer small; the status names the rest.
const maxWarnings = 10

// missing warns of Services that do not exist (yet).
func (m *meshes) missing(namespace string, mesh *v1alpha1.Mesh, root bool) []string {
	snapshot := m.Snapshot()
	if snapshot == nil || root {
		return nil
	}
	var warnings []string
	reader := snapshot.Reader()
	for i := range mesh.Spec.Services {
		name := mesh.Spec.Services[i].Name
		if len(warnings) < maxWarnings && reader.Service(model.ServiceKey{Namespace: namespace, Name: name}) == nil {
			warnings = append(warnings, fmt.Sprintf("spec.services[%d].name: there is no Service %s in namespace %s yet; its rules take effect when there is", i, name, namespace))
		}
	}
	return warnings
}

func decodeMesh(raw []byte) (*v1alpha1.Mesh, error) {
	var mesh v1alpha1.Mesh
	if err := json.Unmarshal(raw, &mesh); err != nil {
		return nil, fmt.Errorf("not a Mesh in JSON: %w", err)
	}
	return &mesh, nil
}

// deny refuses a Mesh the way the API server itself refuses what is invalid.
func deny(req admission.Request, problems []model.Problem) admission.Response {
	sentences := make([]string, len(problems))
	causes := make([]metav1.StatusCause, len(problems))
	for i, p := range problems {
		sentences[i] = sentence(p)
		causes[i] = metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Field: p.Origin.Field, Message: p.Message}
	}
	response := admission.Errored(http.StatusUnprocessableEntity, fmt.Errorf("mesh %s/%s: %s", req.Namespace, req.Name, strings.Join(sentences, "; ")))
	response.Result.Reason = metav1.StatusReasonInvalid
	response.Result.Details = &metav1.StatusDetails{Name: req.Name, Group: req.Kind.Group, Kind: req.Kind.Kind, Causes: causes}
	return response
}

func sentence(p model.Problem) string { return p.Origin.Field + ": " + p.Message }
