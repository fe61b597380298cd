package webhooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// maxConversion bounds, in bytes, what one request may bring: a list is converted at once.
const maxConversion = 128 << 20

// conversion answers the API server's requests to convert objects of SMI.
type conversion struct{ panics *contain.Panics }

// ServeHTTP implements http.Handler. What can't be converted is told in the answer, as the API server expects.
func (c conversion) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxConversion))
	if err != nil {
		http.Error(w, fmt.Sprintf("read the request: %v", err), http.StatusBadRequest)
		return
	}
	var review apiextensionsv1.ConversionReview
	if err := json.Unmarshal(raw, &review); err != nil || review.Request == nil {
		http.Error(w, "not a ConversionReview with a request, in JSON", http.StatusBadRequest)
		return
	}
	response := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	panicked := c.panics.Do(contain.Conversion, "conversion to "+review.Request.DesiredAPIVersion, func() {
		response.ConvertedObjects, err = convertAll(review.Request)
	})
	if err = errors.Join(panicked, err); err != nil {
		response.ConvertedObjects = []runtime.RawExtension{}
		response.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error(), Reason: metav1.StatusReasonInvalid}
	}
	review.Request, review.Response = nil, response
	answer, err := json.Marshal(review)
	if err != nil {
		http.Error(w, fmt.Sprintf("write the answer: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // the API server asks again
}

func convertAll(request *apiextensionsv1.ConversionRequest) ([]runtime.RawExtension, error) {
	desired, err := schema.ParseGroupVersion(request.DesiredAPIVersion)
	if err != nil {
		return nil, fmt.Errorf("desiredAPIVersion: %w", err)
	}
	converted := make([]runtime.RawExtension, 0, len(request.Objects))
	for i := range request.Objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(request.Objects[i].Raw); err != nil {
			return nil, fmt.Errorf("objects[%d]: %w", i, err)
		}
		if u.GroupVersionKind().Group != desired.Group {
			return nil, fmt.Errorf("%s: there is no conversion to %s", nameOf(u), request.DesiredAPIVersion)
		}
		out, err := smi.Convert(u, desired.Version)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", nameOf(u), err)
		}
		raw, err := out.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", nameOf(u), err)
		}
		converted = append(converted, runtime.RawExtension{Raw: raw})
	}
	return converted, nil
}

func nameOf(u *unstructured.Unstructured) string {
	return fmt.Sprintf("%s %s/%s", u.GetKind(), u.GetNamespace(), u.GetName())
}
