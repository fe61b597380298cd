package smi

import (
	"fmt"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/config/crd"
)

// ConvertPath is where the conversion webhook is served.
const ConvertPath = "/convert"

// Definitions returns the CustomResourceDefinitions of all kinds, converted by the webhook behind a Service, whose certificate caBundle (PEM) signed.
func Definitions(service types.NamespacedName, caBundle []byte) ([]client.Object, error) {
	files, err := crd.SMI()
	if err != nil {
		return nil, err
	}
	var all []client.Object
	for _, raw := range files {
		d := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(raw, d); err != nil {
			return nil, fmt.Errorf("read a CustomResourceDefinition of SMI: %w", err)
		}
		d.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{
			Strategy: apiextensionsv1.WebhookConverter,
			Webhook: &apiextensionsv1.WebhookConversion{
				ConversionReviewVersions: []string{"v1"},
				ClientConfig: &apiextensionsv1.WebhookClientConfig{
					CABundle: caBundle,
					Service: &apiextensionsv1.ServiceReference{
						Namespace: service.Namespace, Name: service.Name, Path: new(ConvertPath), Port: new(int32(443)),
					},
				},
			},
		}
		all = append(all, d)
	}
	return all, nil
}

// Served returns the newest version of a kind that a definition, of whoever, serves and Tulle knows. It is empty while the API server does not serve
// the definition yet, or no more; the error says why it can't be used.
func Served(k Kind, d *apiextensionsv1.CustomResourceDefinition) (string, error) {
	if d.DeletionTimestamp != nil || !established(d) {
		return "", nil
	}
	var others []string
	served := map[string]bool{}
	for _, v := range d.Spec.Versions {
		if v.Served {
			served[v.Name] = true
			others = append(others, v.Name)
		}
	}
	for _, version := range slices.Backward(k.Versions) {
		if served[version] {
			return version, nil
		}
	}
	return "", fmt.Errorf("CustomResourceDefinition %s, which somebody else made, serves %s, and Tulle reads %s: no %s is followed; delete the definition, and Tulle installs its own",
		d.Name, strings.Join(others, ", "), strings.Join(k.Versions, ", "), k.Kind)
}

func established(d *apiextensionsv1.CustomResourceDefinition) bool {
	for _, c := range d.Status.Conditions {
		if c.Type == apiextensionsv1.Established {
			return c.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}
