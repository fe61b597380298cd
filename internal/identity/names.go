// Package identity holds who is who in the mesh: the trust objects that cert-manager keeps, the signer of workload
// certificates, the trust bundle, the control plane's own certificates, and the verification of a proxy's token.
//
// cert-manager owns the roots. The operator never reads a root's key: it holds the key of a short-lived intermediate CA,
// and signs with it in memory. Keys of workloads exist in the signing replica's and in Envoy's memory only.
package identity

// Objects in the operator's namespace.
const (
	// BootstrapIssuer is self-signed and signs the root only.
	BootstrapIssuer = "tulle-self-signed"
	// RootCertificate is the mesh's own root, and the name of its Secret, which the operator does not read.
	RootCertificate = "tulle-root"
	// CAIssuer signs with the mesh's own root.
	CAIssuer = "tulle-ca"
	// Intermediate is the Certificate of the CA that workload certificates are signed with, and the name of its Secret.
	Intermediate = "tulle-intermediate"
	// WebhookCertificate and ControlPlaneCertificate are the Certificates of the two servers, and the names of their Secrets.
	WebhookCertificate      = "tulle-webhook-tls"
	ControlPlaneCertificate = "tulle-xds-tls"
	// TrustConfigMap holds all roots that the mesh trusts, under CAKey.
	TrustConfigMap = "tulle-trust"
)

// Services of the operator.
const (
	WebhookService = "tulle-webhook"
	// ConversionService leads to the same server, also of replicas that are not ready: the API server may need it before they can be.
	ConversionService   = "tulle-conversion"
	ControlPlaneService = "tulle-control-plane"
)

// CAKey is the key of a CA bundle in Secrets of cert-manager and in our ConfigMaps.
const CAKey = "ca.crt"

// KnownKey is the key, in TrustConfigMap, of those roots that are known everywhere: what descends from them may be signed and served with.
const KnownKey = "known.crt"

// ServerName returns the DNS name by which a Service of the operator is called.
func ServerName(service, namespace string) string { return service + "." + namespace + ".svc" }
