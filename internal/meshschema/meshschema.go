// Package meshschema does with a Mesh what the API server does before it stores it, by the same code: it finds fields that
// do not exist, sets defaults, and checks the schema with its CEL rules. It does no I/O.
package meshschema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/config/crd"
)

// Schema is the schema of Mesh.
type Schema struct {
	structural *schema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator
}

// New reads the schema that this program was built with. An error means that the definition itself is broken.
func New() (*Schema, error) {
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(crd.Mesh(), &definition); err != nil {
		return nil, fmt.Errorf("CustomResourceDefinition of Mesh: %w", err)
	}
	for _, v := range definition.Spec.Versions {
		if v.Name == v1alpha1.GroupVersion.Version {
			return newSchema(v.Schema.OpenAPIV3Schema)
		}
	}
	return nil, errors.New("CustomResourceDefinition of Mesh: it has no version " + v1alpha1.GroupVersion.Version)
}

func newSchema(v1 *apiextensionsv1.JSONSchemaProps) (*Schema, error) {
	var props apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v1, &props, nil); err != nil {
		return nil, fmt.Errorf("schema of Mesh: %w", err)
	}
	structural, err := schema.NewStructural(&props)
	if err != nil {
		return nil, fmt.Errorf("schema of Mesh: %w", err)
	}
	validator, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		return nil, fmt.Errorf("schema of Mesh: %w", err)
	}
	return &Schema{structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit)}, nil
}

// Admit sets the defaults of a Mesh, in place, and returns why the API server would not store it: one error a field, in the
// words of the API server. Unknown fields are refused, as kubectl has the API server do.
func (s *Schema) Admit(mesh map[string]any) []error {
	var errs []error
	_, _, unknown, err := objectmeta.GetObjectMetaWithOptions(mesh, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		errs = append(errs, err)
	}
	unknown = append(unknown, pruning.PruneWithOptions(mesh, s.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	defaulting.PruneNonNullableNullsWithoutDefaults(mesh, s.structural)
	for _, path := range unknown {
		errs = append(errs, fmt.Errorf("%s: unknown field", path))
	}
	defaulting.Default(mesh, s.structural)
	found := validation.ValidateCustomResource(nil, mesh, s.validator)
	found = append(found, listtype.ValidateListSetsAndMaps(nil, s.structural, mesh)...)
	if len(found) == 0 && s.rules != nil {
		// The rules may trust the schema, and are not asked about what does not fit it.
		found, _ = s.rules.Validate(context.Background(), nil, s.structural, mesh, nil, celconfig.RuntimeCELCostBudget)
	}
	for _, e := range found {
		errs = append(errs, plain(e))
	}
	return errs
}

// plain leaves out what field.Error adds for programs.
func plain(e *field.Error) error {
	return errors.New(strings.TrimPrefix(e.Error(), "<nil>: "))
}
