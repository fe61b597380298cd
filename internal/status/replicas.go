package status

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReasonReplicaSilent is the reason of what can't be known as a replica of the control plane does not report its proxies.
const ReasonReplicaSilent = "ReplicaSilent"

// unlessSilent is for conditions that count the proxies of all replicas: while one of them is silent, what would be True is Unknown. What
// is False already stays so.
func (in Input) unlessSilent(o outcome) outcome {
	if len(in.Silent) == 0 || o.Status == metav1.ConditionFalse {
		return o
	}
	does := "replica does"
	if len(in.Silent) != 1 {
		does = "replicas do"
	}
	o.Status, o.Reason = metav1.ConditionUnknown, ReasonReplicaSilent
	o.summary = fmt.Sprintf("%d live control-plane %s not report the proxies: %s", len(in.Silent), does, samples(in.Silent, ", "))
	o.Message = o.summary + "; see the logs, or delete the pod if its node is gone"
	return o
}
