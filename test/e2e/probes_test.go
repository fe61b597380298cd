package e2e

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Probes pass under Strict while the app is well, and fail with the app's own answer when it is not.
func TestProbesUnderStrict(t *testing.T) {
	t.Parallel()
	c := connect(t)
	c.apply(mesh("Strict"), app{name: "details"}.manifest())
	c.rollout("details")
	pod := c.pods("details")[0]
	if port := pod.Spec.Containers[0].ReadinessProbe.HTTPGet.Port.IntValue(); port != sidecar.ProbePort {
		t.Errorf("the readiness probe asks port %d, want the proxy's %d", port, sidecar.ProbePort)
	}

	fail := func(failing string) {
		t.Helper()
		if _, err := c.exec("details", "get", "-method=PUT", "http://127.0.0.1:9080/healthz?failing="+failing); err != nil {
			t.Fatal(err)
		}
	}
	fail("true")
	c.wait("condition=Ready=False", "pod/"+pod.Name)
	c.eventually("an event that says that the probe got 503", func() bool {
		return strings.Contains(c.kubectl("get", "events", "-o", "jsonpath={.items[*].message}",
			"--field-selector=reason=Unhealthy,involvedObject.name="+pod.Name), "statuscode: 503")
	})
	fail("false")
	c.wait("condition=Ready=True", "pod/"+pod.Name)
}
