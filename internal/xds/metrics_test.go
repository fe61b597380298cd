package xds

import (
	"testing"
)

// A change is measured when it is sent, and again when the proxy has acknowledged it; what concerns no proxy is not measured.
func TestChangesAreMeasured(t *testing.T) {
	r := start(t, nil)
	view := r.publish(newTestView(), passthrough)
	c := r.connect(t, "cart-1")
	c.request("cluster", "")
	c.want("cluster passthrough@1")
	r.until(t, "synced", func(s []ProxyState) bool { return s[0].SyncedRevision == 1 })
	sent, acknowledged := r.observations(t, "tulle_xds_propagation_seconds"), r.observations(t, "tulle_xds_acknowledgement_seconds")

	view = r.publish(view, "cluster passthrough 2")
	c.want("cluster passthrough@2")
	r.until(t, "synced", func(s []ProxyState) bool { return s[0].SyncedRevision == 2 })
	if got := r.observations(t, "tulle_xds_propagation_seconds") - sent; got != 1 {
		t.Errorf("%d pushes measured, want 1", got)
	}
	if got := r.observations(t, "tulle_xds_acknowledgement_seconds") - acknowledged; got != 1 {
		t.Errorf("%d acknowledgements measured, want 1", got)
	}

	view = r.publish(view, "cluster other 1")
	r.publish(view, "cluster passthrough 3")
	c.receive() // and not acknowledged
	if got := r.observations(t, "tulle_xds_propagation_seconds") - sent; got != 2 {
		t.Errorf("%d pushes measured, want 2", got)
	}
	if got := r.observations(t, "tulle_xds_acknowledgement_seconds") - acknowledged; got != 1 {
		t.Errorf("%d acknowledgements measured before the second, want 1", got)
	}
}

// observations is how often a histogram was observed.
func (r *rig) observations(t *testing.T, name string) int {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return int(f.GetMetric()[0].GetHistogram().GetSampleCount())
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
