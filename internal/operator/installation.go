package operator

import "github.com/tulle-mesh/tulle/internal/inject"

// DefaultEnvoyImage is the proxy's image unless the operator is told another, or the root Mesh names one.
const DefaultEnvoyImage = "docker.io/envoyproxy/envoy:distroless-v1.40.0"

// Installation returns what is the same for all pods of an operator that runs in the given namespace with the given image.
func Installation(namespace, image string) inject.Installation {
	return Options{Namespace: namespace, Image: image}.installation()
}
