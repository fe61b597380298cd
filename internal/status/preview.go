package status

import "github.com/tulle-mesh/tulle/internal/model"

// Stale returns the pods that should have a current proxy and don't; restarting them helps.
func Stale(in Input) []*model.Workload { return countPods(in).stale }

// RolloutTarget returns what kubectl rollout restart calls the owner of a pod (model.Workload.Owner); empty when it can't
// restart it.
func RolloutTarget(owner string) string { return target(owner) }
