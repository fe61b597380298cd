package webhooks

import (
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// ConfigurationName is the name of both webhook configurations; the operator's role allows it no other.
const ConfigurationName = "tulle"

// Paths that the webhooks are served at.
const (
	// InjectPath serves the pods of enrolled namespaces.
	InjectPath = "/inject"
	// InjectNewPath serves the pods of all other namespaces, which a Mesh may have enrolled a moment ago.
	InjectNewPath = "/inject-new"
	// EphemeralPath serves the ephemeral containers of the pods of enrolled namespaces.
	EphemeralPath = "/ephemeral"
	// ValidatePath serves Meshes.
	ValidatePath = "/validate"
)

// Target is where the API server finds the webhooks.
type Target struct {
	// Service of the webhooks, port 443. Its namespace is the operator's, which is never injected.
	Service types.NamespacedName
	// CABundle is the PEM of who signed the webhooks' certificate.
	CABundle []byte
	// Never are the namespaces that are never part of the mesh: their pods don't wait for Tulle.
	Never []string
	// Owner is an object of the cluster that goes when Tulle is removed, such as the operator's Namespace. The
	// configurations go with it: pods of enrolled namespaces can't start while their webhook has nobody behind it.
	Owner *metav1.OwnerReference
}

// Configurations returns the webhook configurations for the given enrolled namespaces.
func Configurations(namespaces []string, target Target) []client.Object {
	enrolled := slices.Clone(namespaces)
	slices.Sort(enrolled)
	enrolled = slices.Compact(enrolled)
	enrolled = slices.DeleteFunc(enrolled, func(n string) bool { return slices.Contains(target.Never, n) })

	validating := []admissionv1.ValidatingWebhook{meshWebhook(target)}
	var pods []admissionv1.MutatingWebhook
	if len(enrolled) > 0 {
		here := namespaceIs(metav1.LabelSelectorOpIn, enrolled)
		pods = append(pods, podWebhook("enrolled."+sidecarDomain, InjectPath, target, here, admissionv1.Fail, 10))
		validating = append(validating, ephemeralWebhook(target, here))
	}
	others := namespaceIs(metav1.LabelSelectorOpNotIn, slices.Concat(target.Never, enrolled))
	pods = append(pods, podWebhook("new."+sidecarDomain, InjectNewPath, target, others, admissionv1.Ignore, newTimeout))

	return []client.Object{
		&admissionv1.MutatingWebhookConfiguration{
			TypeMeta:   typeMeta("MutatingWebhookConfiguration"),
			ObjectMeta: objectMeta(target),
			Webhooks:   pods,
		},
		&admissionv1.ValidatingWebhookConfiguration{
			TypeMeta:   typeMeta("ValidatingWebhookConfiguration"),
			ObjectMeta: objectMeta(target),
			Webhooks:   validating,
		},
	}
}

// newTimeout, in seconds, is what a pod of a namespace that has nothing to do with the mesh may wait when the webhook's packets
// get lost, as after the death of a node, until the Service forgets that replica. It is enough for a slow API server: the webhook
// asks it for the namespace's Meshes. A refused connection costs no time.
const newTimeout = 2

// sidecarDomain ends the names of the webhooks that inject.
const sidecarDomain = "sidecar." + group

const group = "mesh.tulle.dev"

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: kind}
}

func objectMeta(target Target) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: ConfigurationName, Labels: map[string]string{"app.kubernetes.io/part-of": "tulle"}}
	if target.Owner != nil {
		m.OwnerReferences = []metav1.OwnerReference{*target.Owner}
	}
	return m
}

func podWebhook(name, path string, target Target, namespaces *metav1.LabelSelector, onFailure admissionv1.FailurePolicyType, timeout int32) admissionv1.MutatingWebhook {
	return admissionv1.MutatingWebhook{
		Name:                    name,
		AdmissionReviewVersions: []string{"v1"},
		ClientConfig:            clientConfig(target, path),
		Rules:                   rules("", "v1", "pods", admissionv1.Create),
		NamespaceSelector:       namespaces,
		// A pod that opts out starts even when nobody answers.
		ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: sidecar.InjectLabel, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"false"}},
		}},
		FailurePolicy:  &onFailure,
		TimeoutSeconds: &timeout,
		MatchPolicy:    ptr(admissionv1.Equivalent),
		SideEffects:    ptr(admissionv1.SideEffectClassNone),
		// Other webhooks may add containers with probes.
		ReinvocationPolicy: ptr(admissionv1.IfNeededReinvocationPolicy),
	}
}

// ephemeralWebhook refuses containers that are added to a running pod and would get around its proxy. It has no selector by
// labels: those of a running pod can be changed by who adds the container.
func ephemeralWebhook(target Target, namespaces *metav1.LabelSelector) admissionv1.ValidatingWebhook {
	return admissionv1.ValidatingWebhook{
		Name:                    "ephemeral." + sidecarDomain,
		AdmissionReviewVersions: []string{"v1"},
		ClientConfig:            clientConfig(target, EphemeralPath),
		Rules:                   rules("", "v1", "pods/ephemeralcontainers", admissionv1.Update),
		NamespaceSelector:       namespaces,
		ObjectSelector:          &metav1.LabelSelector{},
		FailurePolicy:           ptr(admissionv1.Fail),
		TimeoutSeconds:          ptr(int32(10)),
		MatchPolicy:             ptr(admissionv1.Equivalent),
		SideEffects:             ptr(admissionv1.SideEffectClassNone),
	}
}

// meshWebhook refuses Meshes that can't be meant. When nobody answers they are accepted, and their status says the same.
func meshWebhook(target Target) admissionv1.ValidatingWebhook {
	return admissionv1.ValidatingWebhook{
		Name:                    "validate." + group,
		AdmissionReviewVersions: []string{"v1"},
		ClientConfig:            clientConfig(target, ValidatePath),
		Rules:                   rules(group, v1alpha1.GroupVersion.Version, "meshes", admissionv1.Create, admissionv1.Update),
		NamespaceSelector:       &metav1.LabelSelector{},
		ObjectSelector:          &metav1.LabelSelector{},
		FailurePolicy:           ptr(admissionv1.Ignore),
		TimeoutSeconds:          ptr(int32(5)),
		MatchPolicy:             ptr(admissionv1.Equivalent),
		SideEffects:             ptr(admissionv1.SideEffectClassNone),
	}
}

func namespaceIs(operator metav1.LabelSelectorOperator, names []string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: corev1.LabelMetadataName, Operator: operator, Values: names},
	}}
}

func clientConfig(target Target, path string) admissionv1.WebhookClientConfig {
	return admissionv1.WebhookClientConfig{
		CABundle: target.CABundle,
		Service: &admissionv1.ServiceReference{
			Namespace: target.Service.Namespace, Name: target.Service.Name, Path: &path, Port: ptr(int32(443)),
		},
	}
}

func rules(group, version, resource string, operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{
		Operations: operations,
		Rule: admissionv1.Rule{
			APIGroups: []string{group}, APIVersions: []string{version}, Resources: []string{resource}, Scope: ptr(admissionv1.NamespacedScope),
		},
	}}
}

func ptr[T any](v T) *T { return &v }
