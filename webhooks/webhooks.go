// Package webhooks answers the API server's admission requests: thin adapters over packages inject and model, which
// decide.
package webhooks

import (
	"net/http"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Options say what the webhooks know. All fields but Unsupported are needed.
type Options struct {
	Installation inject.Installation
	Model        model.Config
	// Snapshot returns the current view of the mesh; nil as long as there is none.
	Snapshot func() *model.Snapshot
	// Reader asks the API server itself: a Mesh may be newer than the snapshot.
	Reader client.Reader
	// Unsupported says why no pod can be injected in this cluster (see inject.Supported); nil when pods can.
	Unsupported error
}

// Server is what a controller-runtime webhook server offers.
type Server interface {
	Register(path string, handler http.Handler)
}

// Register serves all webhooks.
func Register(server Server, o Options) {
	server.Register(InjectPath, &admission.Webhook{Handler: &pods{Options: o}})
	server.Register(InjectNewPath, &admission.Webhook{Handler: leaveInPeace(&pods{Options: o})})
	server.Register(ValidatePath, &admission.Webhook{Handler: &meshes{Options: o}})
}
