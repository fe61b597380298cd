// Package crd holds the generated CustomResourceDefinition, for programs that check a Mesh without an API server.
package crd

import _ "embed" // for the definition

//go:embed bases/mesh.tulle.dev_meshes.yaml
var mesh []byte

// Mesh returns the YAML of the CustomResourceDefinition of Mesh.
func Mesh() []byte { return mesh }
