// Package controllers keeps the objects that Tulle makes as they should be, and writes the status of Meshes. There is one
// reconciler an output, each with a pure function that says what is desired, and one way to apply it. Only the leader runs them.
package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// FieldOwner is the field manager of all that Tulle writes.
const FieldOwner = client.FieldOwner("tulle")

// Everything that Tulle makes has this label; what has not was made by somebody else.
const (
	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "tulle"
)

// ConflictError says that an object of ours can't be made, because somebody else made one of that name.
type ConflictError struct {
	Kind, Namespace, Name string
	// Of is what of Tulle's own needs the name, in words; empty when somebody else made the object.
	Of string
}

func (e *ConflictError) Error() string {
	name := e.Name
	if e.Namespace != "" {
		name = e.Namespace + "/" + name
	}
	if e.Of != "" {
		return fmt.Sprintf("%s %s is already that of %s: rename the version", e.Kind, name, e.Of)
	}
	return fmt.Sprintf("%s %s exists and was not made by Tulle, which needs one of that name: rename or delete it", e.Kind, name)
}

// Applier writes objects by server-side apply. It never touches an object that Tulle did not make, and makes no request for one
// that is as it was when it was last applied.
type Applier struct {
	// Reader reads live objects, from a cache that holds them; Direct asks the API server, before something is created.
	Reader, Direct client.Reader
	Client         client.Client
	// Events are recorded on the objects that were created or changed.
	Events events.EventRecorder
	// Exact also takes out of an object's spec what others added to it, which server-side apply alone leaves there.
	Exact bool
	// Origin says in words where to change what an object says, such as "spec.mtls of Mesh shop/shop", for those who edited or
	// deleted the object instead; may be nil.
	Origin func(client.Object) string

	mu      sync.Mutex
	applied map[objectKey]applied
}

type objectKey struct {
	kind string
	types.NamespacedName
}

func keyOf(o client.Object) objectKey {
	return objectKey{fmt.Sprintf("%T %s", o, o.GetObjectKind().GroupVersionKind().GroupKind()), client.ObjectKeyFromObject(o)}
}

// applied is what an object was like after it was applied.
type applied struct {
	desired         [sha256.Size]byte
	uid             types.UID
	resourceVersion string
}

// Apply makes the objects as desired, as many as it can. Its error joins what went wrong, with a *ConflictError for each
// object of somebody else.
func (a *Applier) Apply(ctx context.Context, desired ...client.Object) error {
	var errs []error
	for _, o := range desired {
		if err := a.apply(ctx, o); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (a *Applier) apply(ctx context.Context, desired client.Object) error {
	u, err := a.configuration(desired)
	if err != nil {
		return err
	}
	live, err := a.live(ctx, desired)
	if err != nil {
		return err
	}
	if live != nil && live.GetLabels()[managedByLabel] != managedBy {
		return &ConflictError{Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
	}
	key := keyOf(desired)
	raw, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("%s: %w", describe(u), err)
	}
	memo := applied{desired: sha256.Sum256(raw)}
	if live != nil {
		memo.uid, memo.resourceVersion = live.GetUID(), live.GetResourceVersion()
		if a.remembers(key, memo) {
			return nil
		}
		// Applies to the object that was read, not to one that somebody else made since.
		u.SetUID(live.GetUID())
	}
	spec := runtime.DeepCopyJSONValue(u.Object["spec"])
	if err := a.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), FieldOwner, client.ForceOwnership); err != nil {
		return fmt.Errorf("apply %s: %w", describe(u), err)
	}
	if a.Exact && othersOwnSpec(u) {
		if err := a.replaceSpec(ctx, u, spec); err != nil {
			return fmt.Errorf("take out what was added to %s: %w", describe(u), err)
		}
	}
	a.tell(u, live, memo, a.last(key))
	memo.uid, memo.resourceVersion = u.GetUID(), u.GetResourceVersion()
	a.remember(key, memo)
	return nil
}

// othersOwnSpec says whether somebody else wrote a field of an object's spec that it still has.
func othersOwnSpec(u *unstructured.Unstructured) bool {
	for _, entry := range u.GetManagedFields() {
		if entry.Manager == string(FieldOwner) || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err == nil && fields["f:spec"] != nil {
			return true
		}
	}
	return false
}

// replaceSpec makes an object's spec what it should be and nothing more, unless the object changed again since.
func (a *Applier) replaceSpec(ctx context.Context, u *unstructured.Unstructured, spec any) error {
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/resourceVersion", "value": u.GetResourceVersion()},
		{"op": "replace", "path": "/spec", "value": spec},
	})
	if err != nil {
		return err
	}
	return a.Client.Patch(ctx, u, client.RawPatch(types.JSONPatchType, patch), FieldOwner)
}

// tell records an event when applying changed something. last is what this process applied before; zero when it never did.
func (a *Applier) tell(after *unstructured.Unstructured, live client.Object, before, last applied) {
	reason, note := "", ""
	switch {
	case live == nil && last != applied{}:
		reason, note = "Recreated", "it was deleted, and is needed for the mesh"+a.instead(after)
	case live == nil:
		reason, note = "Created", "created for the mesh"
	case before.resourceVersion == after.GetResourceVersion():
		return
	case last.uid == before.uid && last.desired == before.desired:
		reason, note = "Reverted", "what somebody changed is again as the mesh needs it"+a.instead(after)
	default:
		reason, note = "Updated", "changed to what the mesh needs"
	}
	a.Events.Eventf(after, nil, corev1.EventTypeNormal, reason, "Apply", "%s", note)
}

// instead says what to change in place of an object.
func (a *Applier) instead(o client.Object) string {
	if a.Origin == nil {
		return ""
	}
	if origin := a.Origin(o); origin != "" {
		return "; change " + origin + " instead"
	}
	return ""
}

// Delete removes an object that Tulle made; others it leaves alone. It is no error when there is none.
func (a *Applier) Delete(ctx context.Context, object client.Object) error {
	a.forget(object)
	live, err := a.live(ctx, object)
	if err != nil || live == nil || live.GetLabels()[managedByLabel] != managedBy || live.GetDeletionTimestamp() != nil {
		return err
	}
	uid := live.GetUID()
	err = a.Client.Delete(ctx, live, client.Preconditions{UID: &uid})
	return client.IgnoreNotFound(err)
}

// live returns the object as it is; nil when there is none.
func (a *Applier) live(ctx context.Context, object client.Object) (client.Object, error) {
	gvk, err := apiutil.GVKForObject(object, a.Client.Scheme())
	if err != nil {
		return nil, err
	}
	for _, reader := range []client.Reader{a.Reader, a.Direct} {
		live, err := a.empty(gvk)
		if err != nil {
			return nil, err
		}
		err = reader.Get(ctx, client.ObjectKeyFromObject(object), live)
		if err == nil {
			return live, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("read %s %s: %w", gvk.Kind, client.ObjectKeyFromObject(object), err)
		}
	}
	return nil, nil
}

// empty returns an object of a kind; an unstructured one of kinds that are others' and not compiled in.
func (a *Applier) empty(gvk schema.GroupVersionKind) (client.Object, error) {
	if a.Client.Scheme().Recognizes(gvk) {
		o, err := a.Client.Scheme().New(gvk)
		if err != nil {
			return nil, err
		}
		if object, ok := o.(client.Object); ok {
			object.GetObjectKind().SetGroupVersionKind(gvk)
			return object, nil
		}
		return nil, fmt.Errorf("%s is no API object", gvk)
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	return u, nil
}

// configuration is what is applied: the object, marked as ours, without what only the API server writes.
func (a *Applier) configuration(object client.Object) (*unstructured.Unstructured, error) {
	gvk, err := apiutil.GVKForObject(object, a.Client.Scheme())
	if err != nil {
		return nil, err
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object.DeepCopyObject())
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", gvk.Kind, object.GetName(), err)
	}
	u := &unstructured.Unstructured{Object: fields}
	u.SetGroupVersionKind(gvk)
	delete(u.Object, "status")
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[managedByLabel] = managedBy
	u.SetLabels(labels)
	return u, nil
}

func (a *Applier) remembers(key objectKey, now applied) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.applied[key] == now
}

func (a *Applier) last(key objectKey) applied {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.applied[key]
}

func (a *Applier) remember(key objectKey, now applied) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.applied == nil {
		a.applied = map[objectKey]applied{}
	}
	a.applied[key] = now
}

func (a *Applier) forget(object client.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.applied, keyOf(object))
}

func describe(u *unstructured.Unstructured) string {
	if u.GetNamespace() == "" {
		return u.GetKind() + " " + u.GetName()
	}
	return u.GetKind() + " " + u.GetNamespace() + "/" + u.GetName()
}
