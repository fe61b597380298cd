package ingest

import "sigs.k8s.io/controller-runtime/pkg/client"

// Kinds returns an empty object of each kind that the model reads. ReplicaSets are read by their metadata, and an old
// Kubernetes has no ServiceCIDRs.
func Kinds() []client.Object { return watched() }
