package controllers

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/status"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// What a status says is what its metrics say.
func TestGauges(t *testing.T) {
	t.Parallel()
	proxies := []xds.ProxyState{
		{Encryption: xds.Encryption{CertificateExpires: time.Unix(2000, 0)}}, {}, {Encryption: xds.Encryption{CertificateExpires: time.Unix(1000, 0)}},
	}
	var g Gauges
	g.Set([]MeshGauges{
		meshGauges(model.MeshReport{Namespace: "shop", Name: "main"}, v1alpha1.MeshStatus{
			MTLS: "Strict", Proxies: &v1alpha1.ProxiesStatus{Expected: 5, Injected: 4, Connected: 3, Programmed: 2, Rejected: 1},
			Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Pending"}},
		}, proxies),
		meshGauges(model.MeshReport{Namespace: "tulle-system", Name: "mesh", Root: true}, v1alpha1.MeshStatus{MTLS: "Permissive"}, proxies),
	})
	const want = `
# HELP tulle_mesh_certificate_not_after_timestamp_seconds When the first certificate of a connected proxy of the namespace expires.
# TYPE tulle_mesh_certificate_not_after_timestamp_seconds gauge
tulle_mesh_certificate_not_after_timestamp_seconds{mesh="main",mesh_namespace="shop"} 1000
# HELP tulle_mesh_condition 1 for the status that a condition of the Mesh has.
# TYPE tulle_mesh_condition gauge
tulle_mesh_condition{mesh="main",mesh_namespace="shop",reason="Pending",status="False",type="Ready"} 1
# HELP tulle_mesh_info Always 1; its label mtls is the mode, with * where ports have others.
# TYPE tulle_mesh_info gauge
tulle_mesh_info{mesh="main",mesh_namespace="shop",mtls="Strict"} 1
tulle_mesh_info{mesh="mesh",mesh_namespace="tulle-system",mtls="Permissive"} 1
# HELP tulle_mesh_proxies Proxies of the Mesh's namespace, by state: expected, injected, connected, programmed (of the connected), rejected.
# TYPE tulle_mesh_proxies gauge
tulle_mesh_proxies{mesh="main",mesh_namespace="shop",state="connected"} 3
tulle_mesh_proxies{mesh="main",mesh_namespace="shop",state="expected"} 5
tulle_mesh_proxies{mesh="main",mesh_namespace="shop",state="injected"} 4
tulle_mesh_proxies{mesh="main",mesh_namespace="shop",state="programmed"} 2
tulle_mesh_proxies{mesh="main",mesh_namespace="shop",state="rejected"} 1
`
	if err := testutil.CollectAndCompare(&g, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	g.Set(nil)
	if n := testutil.CollectAndCount(&g); n != 0 {
		t.Errorf("%d metrics of a replica that leads no more", n)
	}
}

// Of a namespace that was not looked at, nothing is claimed.
func TestMonitoringOfANewNamespace(t *testing.T) {
	t.Parallel()
	var f Findings
	if _, looked := f.Monitoring("shop"); looked {
		t.Error("looked at before anything was")
	}
	f.setMonitoring(map[string]status.Monitoring{"bank": {}})
	if m, looked := f.Monitoring("shop"); !looked || m.Err == nil {
		t.Errorf("got %+v, %v", m, looked)
	}
	if m, _ := f.Monitoring("bank"); m.Err != nil {
		t.Errorf("got %+v", m)
	}
}
