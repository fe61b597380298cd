package webhooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
)

// pods gives pods their sidecars.
type pods struct{ Options }

// Handle answers for one new pod.
func (p *pods) Handle(ctx context.Context, req admission.Request) admission.Response {
	settings, enrolled, err := p.settings(ctx, req.Namespace)
	switch {
	case err != nil:
		return admission.Errored(http.StatusServiceUnavailable, fmt.Errorf("namespace %s: %w", req.Namespace, err))
	case !enrolled:
		return admission.Allowed("no Mesh enrols the namespace")
	case p.Unsupported != nil:
		return admission.Allowed("not injected").WithWarnings(p.Unsupported.Error())
	}
	result, err := inject.Inject(req.Object.Raw, settings)
	var refused *inject.RefusedError
	switch {
	case errors.As(err, &refused):
		return admission.Denied(refused.Reason)
	case err != nil:
		return admission.Errored(http.StatusBadRequest, err)
	case result.LeftOut != "":
		log.FromContext(ctx).V(1).Info("Pod left out", "pod", objectName(req), "reason", result.LeftOut)
		return admission.Allowed(result.LeftOut)
	}
	response := admission.Allowed("").WithWarnings(result.Warnings...)
	if result.Patch != nil {
		patchType := admissionv1.PatchTypeJSONPatch
		response.Patch, response.PatchType = result.Patch, &patchType
	}
	return response
}

// settings returns what pods of a namespace get. A Mesh that the snapshot does not know yet is asked for: it may have
// been applied together with the pod.
func (p *pods) settings(ctx context.Context, namespace string) (inject.Settings, bool, error) {
	snapshot := p.Snapshot()
	if snapshot == nil {
		return inject.Settings{}, false, errors.New("the control plane has not read the cluster yet: try again")
	}
	reader := snapshot.Reader()
	n := reader.Namespace(namespace)
	if !n.Meshed {
		declared := n.TCPPorts
		var err error
		if n, err = p.resolve(ctx, namespace); err != nil || n == nil || !n.Meshed {
			return inject.Settings{}, false, err
		}
		n.TCPPorts = declared // what the Services say for themselves is known without the Mesh
	}
	return inject.For(p.Installation, n, reader.MeshWide()), true, nil
}

// resolve returns the settings of a namespace as the API server has them now; nil when it has no Mesh.
func (p *pods) resolve(ctx context.Context, namespace string) (*model.Namespace, error) {
	var list v1alpha1.MeshList
	if err := p.Reader.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list its Meshes: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, nil
	}
	found := make([]*v1alpha1.Mesh, len(list.Items))
	for i := range list.Items {
		found[i] = &list.Items[i]
	}
	root := &v1alpha1.Mesh{}
	err := p.Reader.Get(ctx, client.ObjectKey{Namespace: p.Model.OperatorNamespace, Name: v1alpha1.RootName}, root)
	switch {
	case apierrors.IsNotFound(err):
		root = nil
	case err != nil:
		return nil, fmt.Errorf("get the root Mesh: %w", err)
	}
	return model.Resolve(p.Model, namespace, root, found), nil
}

// leaveInPeace allows what a handler can't decide: namespaces without a Mesh must not depend on the mesh's health.
func leaveInPeace(h admission.Handler) admission.Handler {
	return admission.HandlerFunc(func(ctx context.Context, req admission.Request) admission.Response {
		response := h.Handle(ctx, req)
		if !response.Allowed && response.Result.Code != http.StatusForbidden {
			log.FromContext(ctx).Info("Pod not injected", "pod", objectName(req), "reason", response.Result.Message)
			return admission.Allowed("not injected").WithWarnings("not injected into the mesh: " + response.Result.Message)
		}
		return response
	})
}

// ephemeral answers for one pod that is given ephemeral containers.
func ephemeral(_ context.Context, req admission.Request) admission.Response {
	err := inject.RefuseEphemeral(req.Object.Raw)
	var refused *inject.RefusedError
	switch {
	case errors.As(err, &refused):
		return admission.Denied(refused.Reason)
	case err != nil:
		return admission.Errored(http.StatusBadRequest, err)
	}
	return admission.Allowed("")
}
