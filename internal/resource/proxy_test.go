package resource

import (
	"strings"
	"testing"
)

func TestWorkloadName(t *testing.T) {
	for owner, want := range map[string]string{
		"Deployment/web":                        "web",
		"StatefulSet/db":                        "db",
		"DaemonSet/agent":                       "agent",
		"ReplicaSet/plain":                      "plain",
		"Rollout/canary":                        "canary",
		"Job/backup-29384756":                   "backup", // a CronJob's
		"Job/migrate":                           "account",
		"Job/migrate-7":                         "account",
		"Job/-29384756":                         "account",
		"Pod/by-hand":                           "account",
		"Workflow/build-x7":                     "account", // may be another one each time
		"Deployment/":                           "account",
		"":                                      "account",
		"Deployment/" + strings.Repeat("x", 64): strings.Repeat("x", 64),
		"Deployment/" + strings.Repeat("x", 65): "account", // no certificate can carry it
	} {
		if got := WorkloadName(owner, "account"); got != want {
			t.Errorf("%q: %q, want %q", owner, got, want)
		}
	}
}
