// Package webhooks answers the API server's admission and conversion requests: thin adapters over packages inject, model and smi,
// which decide.
package webhooks

import (
	"context"
	"fmt"
	"net/http"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/smi"
)

// Options say what the webhooks know. All fields but Panics and Unsupported are needed.
type Options struct {
	Installation inject.Installation
	Model        model.Config
	// Snapshot returns the current view of the mesh; nil as long as there is none.
	Snapshot func() *model.Snapshot
	// Reader asks the API server itself: a Mesh may be newer than the snapshot.
	Reader client.Reader
	// Panics counts what panicked.
	Panics *contain.Panics
	// Unsupported says why no pod can be injected in this cluster (see inject.Supported); nil when pods can.
	Unsupported error
}

// Server is what a controller-runtime webhook server offers.
type Server interface {
	Register(path string, handler http.Handler)
}

// Register serves all webhooks.
func Register(server Server, o Options) {
	server.Register(InjectPath, &admission.Webhook{Handler: contained(o.Panics, &pods{Options: o})})
	server.Register(InjectNewPath, &admission.Webhook{Handler: leaveInPeace(contained(o.Panics, &pods{Options: o}))})
	server.Register(EphemeralPath, &admission.Webhook{Handler: contained(o.Panics, admission.HandlerFunc(ephemeral))})
	server.Register(smi.ConvertPath, conversion{o.Panics})
	server.Register(ValidatePath, &admission.Webhook{Handler: contained(o.Panics, &meshes{Options: o})})
}

// contained refuses the request in which a handler panics; the next one is served.
func contained(panics *contain.Panics, h admission.Handler) admission.Handler {
	return admission.HandlerFunc(func(ctx context.Context, req admission.Request) (response admission.Response) {
		if err := panics.Do(contain.Admission, objectName(req), func() { response = h.Handle(ctx, req) }); err != nil {
			return admission.Errored(http.StatusInternalServerError, err)
		}
		return response
	})
}

// objectName names the object of a request, which may have no name yet.
func objectName(req admission.Request) string {
	name := req.Name
	if name == "" {
		name = "(generated)"
	}
	return fmt.Sprintf("%s %s/%s", req.Kind.Kind, req.Namespace, name)
}
