package status

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// pod is a workload of bookinfo with the sidecar version that it has; none without one.
func pod(name, owner, sidecar string) *model.Workload {
	return &model.Workload{
		Key: model.WorkloadKey{Namespace: "bookinfo", Name: name}, UID: "uid-" + name, Owner: owner,
		Selected: true, Meshed: sidecar != "", Sidecar: sidecar,
	}
}

// proxy is a connected proxy of bookinfo that holds a revision.
func proxy(name string, revision uint64) xds.ProxyState {
	return xds.ProxyState{
		Proxy: resource.Proxy{Namespace: "bookinfo", Pod: name, UID: "uid-" + name}, SyncedRevision: revision, ConnectedAt: noon.Add(-time.Hour),
		Encryption: xds.Encryption{CertificateExpires: noon.Add(time.Hour), Listening: true},
	}
}

// noon is when the statuses are made.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// good is a Mesh with two pods and all well.
func good() Input {
	return Input{
		Report:    model.MeshReport{Namespace: "bookinfo", Name: "bookinfo", Generation: 4, Since: 17},
		Namespace: &model.Namespace{Name: "bookinfo", Meshed: true, Mode: v1alpha1.MTLSStrict},
		Workloads: []*model.Workload{pod("details-1", "Deployment/details", "v2"), pod("reviews-1", "Deployment/reviews", "v2")},
		Services:  4,
		Proxies:   []xds.ProxyState{proxy("details-1", 17), proxy("reviews-1", 21)},
		Issued:    identity.Verdict{Status: metav1.ConditionTrue, Reason: "Issued", Message: "all issued"},
		Sidecar:   "v2",
		Quiet:     10 * time.Minute,
		Now:       noon,
	}
}

func problem(condition, field, reason, message string, fatal bool) model.Problem {
	return model.Problem{Origin: resource.Origin{Kind: "Mesh", Namespace: "bookinfo", Name: "bookinfo", Field: field},
		Condition: condition, Reason: reason, Message: message, Fatal: fatal}
}

// TestOf shows, for what is known of a Mesh, its row in kubectl get and its conditions.
func TestOf(t *testing.T) {
	allGood := []string{
		"Accepted=True Valid: every field makes sense",
		"ResolvedRefs=True Resolved: everything that it names exists",
		"Issued=True Issued: all issued",
		"Injected=True Injected: all 2 pods have a current proxy",
		"Programmed=True Programmed: all 2 proxies hold generation 4",
		"Encrypted=True Encrypted: all 2 proxies take nothing but mTLS, with valid certificates",
		"Ready=True Ready: all proxies hold generation 4",
	}
	tests := []struct {
		name string
		edit func(*Input)
		row  string
		want []string // conditions; those that are as in allGood may be left out
	}{
		{name: "good", edit: func(*Input) {}, row: "2/2 Strict 4", want: allGood},
		{name: "ports differ", edit: func(in *Input) {
			in.Namespace.Ports = []model.PortMode{{Number: 80, Mode: v1alpha1.MTLSDisabled}}
		}, row: "2/2 Strict* 4", want: []string{
			"Encrypted=False Disabled: plaintext is all that is spoken on ports whose mtls mode is Disabled: 80",
			"Ready=True Ready: all proxies hold generation 4",
		}},
		{name: "no pods", edit: func(in *Input) { in.Workloads, in.Proxies = nil, nil }, row: "0/0 Strict 4", want: []string{
			"Injected=True NoPods: no pod is selected yet",
			"Programmed=True Programmed: there are no proxies yet",
			"Encrypted=True Encrypted: there are no proxies yet",
			"Ready=True Ready: ready for pods: none is selected yet",
		}},
		{name: "problems", edit: func(in *Input) {
			in.Report.Problems = []model.Problem{
				problem("Accepted", "spec.services[0].routes[1]", "VersionNotFound", `unknown version "v3"`, true),
				problem("Accepted", "spec.mtls.mode", "Conflicted", "already set by the older Mesh a", true),
				problem("ResolvedRefs", "spec.services[0]", "VersionWithoutPods", "version v2 fits no pod", false),
			}
		}, row: "2/2 Strict 4", want: []string{
			`Accepted=False VersionNotFound: spec.services[0].routes[1]: unknown version "v3"; spec.mtls.mode: already set by the older Mesh a`,
			"ResolvedRefs=True Resolved: everything that it names exists; but spec.services[0]: version v2 fits no pod",
			`Ready=False VersionNotFound: spec.services[0].routes[1]: unknown version "v3"; see condition Accepted`,
		}},
		{name: "certificates", edit: func(in *Input) {
			in.Issued = identity.Verdict{Status: metav1.ConditionUnknown, Reason: "Pending", Message: "not looked at"}
		}, row: "2/2 Strict 4", want: []string{
			"Issued=Unknown Pending: not looked at",
			"Encrypted=Unknown Pending: not looked at",
			"Ready=Unknown Pending: not looked at",
		}},
		{name: "pods to restart", edit: func(in *Input) {
			in.Workloads = append(in.Workloads,
				pod("details-2", "Deployment/details", "v1"), pod("db-0", "StatefulSet/db", ""), pod("debug", "", ""),
				pod("details-3", "Deployment/details", ""))
			in.Proxies = append(in.Proxies, proxy("details-2", 17))
		}, row: "2/6 Strict 4", want: []string{
			"Injected=False RestartNeeded: 4 of 6 pods have no current proxy: details-2 (older proxy), db-0 (no proxy), debug (no proxy), details-3 (no proxy); " +
				"run: kubectl -n bookinfo rollout restart deploy/details sts/db; delete and create again: debug",
			"Programmed=True Programmed: all 3 proxies hold generation 4",
			"Encrypted=False NoProxy: 3 of 6 pods have no proxy and take plaintext: db-0, debug, details-3",
			"Ready=False RestartNeeded: 4 of 6 pods have no current proxy; see condition Injected",
		}},
		{name: "too many to name", edit: func(in *Input) {
			in.Workloads, in.Proxies = nil, nil
			for i := range 12 {
				in.Workloads = append(in.Workloads, pod(fmt.Sprintf("p%02d", i), "", ""))
			}
		}, row: "0/12 Strict 4", want: []string{
			"Injected=False RestartNeeded: 12 of 12 pods have no current proxy: p00 (no proxy), p01 (no proxy), p02 (no proxy), p03 (no proxy), p04 (no proxy), " +
				"p05 (no proxy), p06 (no proxy), p07 (no proxy), p08 (no proxy), p09 (no proxy), and 2 more; " +
				"delete and create again: p00, p01, p02, p03, p04, p05, p06, p07, p08, p09, and 2 more",
			"Programmed=True Programmed: there are no proxies yet",
			"Encrypted=False NoProxy: 12 of 12 pods have no proxy and take plaintext: p00, p01, p02, p03, p04, p05, p06, p07, p08, p09, and 2 more",
			"Ready=False RestartNeeded: 12 of 12 pods have no current proxy; see condition Injected",
		}},
		{name: "all to restart", edit: func(in *Input) {
			in.Workloads, in.Proxies = nil, nil
			for _, name := range []string{"a", "b", "c", "d"} {
				in.Workloads = append(in.Workloads, pod(name+"-1", "Deployment/"+name, ""))
			}
		}, row: "0/4 Strict 4", want: []string{
			"Injected=False RestartNeeded: 4 of 4 pods have no current proxy: a-1 (no proxy), b-1 (no proxy), c-1 (no proxy), d-1 (no proxy); " +
				"run: kubectl -n bookinfo rollout restart deploy",
			"Programmed=True Programmed: there are no proxies yet",
			"Encrypted=False NoProxy: 4 of 4 pods have no proxy and take plaintext: a-1, b-1, c-1, d-1",
			"Ready=False RestartNeeded: 4 of 4 pods have no current proxy; see condition Injected",
		}},
		{name: "many to restart", edit: func(in *Input) {
			for _, name := range []string{"a", "b", "c", "d"} {
				in.Workloads = append(in.Workloads, pod(name+"-1", "Deployment/"+name, ""))
			}
		}, row: "2/6 Strict 4", want: []string{
			"Injected=False RestartNeeded: 4 of 6 pods have no current proxy: a-1 (no proxy), b-1 (no proxy), c-1 (no proxy), d-1 (no proxy); " +
				"run: kubectl -n bookinfo rollout restart deploy/a deploy/b deploy/c (and 1 more)",
			"Encrypted=False NoProxy: 4 of 6 pods have no proxy and take plaintext: a-1, b-1, c-1, d-1",
			"Ready=False RestartNeeded: 4 of 6 pods have no current proxy; see condition Injected",
		}},
		{name: "old Kubernetes", edit: func(in *Input) { in.Unsupported = errors.New("kubernetes v1.28.0 has no native sidecars") }, row: "2/2 Strict 4", want: []string{
			"Injected=False NativeSidecarUnavailable: kubernetes v1.28.0 has no native sidecars",
			"Ready=False NativeSidecarUnavailable: kubernetes v1.28.0 has no native sidecars",
		}},
		{name: "somebody else's ConfigMap", edit: func(in *Input) { in.Conflict = errors.New("ConfigMap bookinfo/tulle-bootstrap exists") }, row: "2/2 Strict 4", want: []string{
			"Injected=False Conflicted: ConfigMap bookinfo/tulle-bootstrap exists",
			"Ready=False Conflicted: ConfigMap bookinfo/tulle-bootstrap exists",
		}},
		{name: "current proxy unknown", edit: func(in *Input) { in.Sidecar = "" }, row: "0/2 Strict 4", want: []string{
			"Injected=Unknown Pending: the current proxy's settings are not known yet",
			"Ready=Unknown Pending: the current proxy's settings are not known yet",
		}},
		{name: "behind", edit: func(in *Input) {
			in.Proxies[0].SyncedRevision, in.Proxies[0].CertificateError = 16, "no intermediate CA yet"
		}, row: "2/2 Strict 4", want: []string{
			"Programmed=False Pending: 1 of 2 proxies do not hold generation 4 yet: details-1 (no intermediate CA yet)",
			"Encrypted=False CertificateWithheld: 1 of 2 proxies do not get the certificates they need: details-1 (no intermediate CA yet)",
			"Ready=False Pending: 1 of 2 proxies do not hold generation 4 yet; see condition Programmed",
		}},
		{name: "not connected", edit: func(in *Input) { in.Proxies = in.Proxies[:1] }, row: "1/2 Strict 4", want: []string{
			"Programmed=Unknown NotConnected: 1 of 2 proxies are not connected to the control plane: reviews-1",
			"Encrypted=Unknown NotConnected: 1 of 2 proxies are not connected to the control plane: reviews-1",
			"Ready=Unknown NotConnected: 1 of 2 proxies are not connected to the control plane; see condition Programmed",
		}},
		{name: "a replica is silent", edit: func(in *Input) { in.Silent = []string{"tulle-manager-a"} }, row: "2/2 Strict 4", want: []string{
			"Injected=Unknown ReplicaSilent: 1 live control-plane replica does not report the proxies: tulle-manager-a; see the logs, or delete the pod if its node is gone",
			"Programmed=Unknown ReplicaSilent: 1 live control-plane replica does not report the proxies: tulle-manager-a; see the logs, or delete the pod if its node is gone",
			"Encrypted=Unknown ReplicaSilent: 1 live control-plane replica does not report the proxies: tulle-manager-a; see the logs, or delete the pod if its node is gone",
			"Ready=Unknown ReplicaSilent: 1 live control-plane replica does not report the proxies: tulle-manager-a; see condition Injected",
		}},
		{name: "a replica is silent, and so are its proxies", edit: func(in *Input) {
			in.Silent, in.Proxies = []string{"tulle-manager-a", "tulle-manager-b"}, nil
		}, row: "0/2 Strict 4", want: []string{
			"Injected=Unknown ReplicaSilent: 2 live control-plane replicas do not report the proxies: tulle-manager-a, tulle-manager-b; see the logs, or delete the pod if its node is gone",
			"Programmed=Unknown ReplicaSilent: 2 live control-plane replicas do not report the proxies: tulle-manager-a, tulle-manager-b; see the logs, or delete the pod if its node is gone",
			"Encrypted=Unknown ReplicaSilent: 2 live control-plane replicas do not report the proxies: tulle-manager-a, tulle-manager-b; see the logs, or delete the pod if its node is gone",
			"Ready=Unknown ReplicaSilent: 2 live control-plane replicas do not report the proxies: tulle-manager-a, tulle-manager-b; see condition Injected",
		}},
		{name: "a replica is silent, and what is known is bad", edit: func(in *Input) {
			in.Silent, in.Proxies[0].SyncedRevision = []string{"tulle-manager-a"}, 16
		}, row: "2/2 Strict 4", want: []string{
			"Injected=Unknown ReplicaSilent: 1 live control-plane replica does not report the proxies: tulle-manager-a; see the logs, or delete the pod if its node is gone",
			"Programmed=False Pending: 1 of 2 proxies do not hold generation 4 yet: details-1",
			"Encrypted=Unknown ReplicaSilent: 1 live control-plane replica does not report the proxies: tulle-manager-a; see the logs, or delete the pod if its node is gone",
			"Ready=False Pending: 1 of 2 proxies do not hold generation 4 yet; see condition Programmed",
		}},
		{name: "no pods, and a replica is silent", edit: func(in *Input) {
			in.Workloads, in.Proxies, in.Silent = nil, nil, []string{"tulle-manager-a"}
		}, row: "0/0 Strict 4", want: []string{
			"Injected=True NoPods: no pod is selected yet",
			"Programmed=Unknown ReplicaSilent: 1 live control-plane replica does not report the proxies: tulle-manager-a; see the logs, or delete the pod if its node is gone",
			"Encrypted=Unknown ReplicaSilent: 1 live control-plane replica does not report the proxies: tulle-manager-a; see the logs, or delete the pod if its node is gone",
			"Ready=Unknown ReplicaSilent: 1 live control-plane replica does not report the proxies: tulle-manager-a; see condition Programmed",
		}},
		{name: "rejected", edit: func(in *Input) {
			in.Rejections = []Rejection{
				{Field: "spec.services[1].routes[0]", Resource: "vhost outbound/http|10.0.0.1:80", Message: "bad regex", Proxies: 2},
				{Resource: "listener inbound", Message: "no", Proxies: 1},
			}
		}, row: "2/2 Strict 4", want: []string{
			"Programmed=False RejectedByProxy: spec.services[1].routes[0]: 2 proxies reject vhost outbound/http|10.0.0.1:80: bad regex; 1 proxy rejects listener inbound: no",
			"Ready=False RejectedByProxy: spec.services[1].routes[0]: 2 proxies reject vhost outbound/http|10.0.0.1:80: bad regex; see condition Programmed",
		}},
		{name: "root", edit: func(in *Input) {
			in.Report.Root, in.Workloads, in.Services = true, nil, 2
		}, row: " Strict 0", want: []string{
			"Injected=True NotEnrolled: the root Mesh enrols no pods",
			"Encrypted=True NotEnrolled: the root Mesh enrols no pods",
			"Ready=True Ready: the mesh is ready",
		}},
		{name: "root waits for all proxies", edit: func(in *Input) {
			in.Report.Root, in.Report.Since, in.Workloads = true, 20, nil
		}, row: " Strict 0", want: []string{
			"Injected=True NotEnrolled: the root Mesh enrols no pods",
			"Encrypted=True NotEnrolled: the root Mesh enrols no pods",
			"Programmed=False Pending: 1 of 2 proxies do not hold generation 4 yet: bookinfo/details-1",
			"Ready=False Pending: 1 of 2 proxies do not hold generation 4 yet; see condition Programmed",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := good()
			tt.edit(&in)
			s := Of(in)
			summary := ""
			if s.Proxies != nil {
				summary = s.Proxies.Summary
			}
			if row := fmt.Sprintf("%s %s %d", summary, s.MTLS, s.Services); row != tt.row {
				t.Errorf("row %q, want %q", row, tt.row)
			}
			var got, want []string
			for i, c := range s.Conditions {
				if c.ObservedGeneration != 4 {
					t.Errorf("%s is of generation %d", c.Type, c.ObservedGeneration)
				}
				got = append(got, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
				want = append(want, wanted(tt.want, c.Type, allGood[i]))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func wanted(conditions []string, condition, otherwise string) string {
	for _, c := range conditions {
		if strings.HasPrefix(c, condition+"=") {
			return c
		}
	}
	return otherwise
}

func TestCounts(t *testing.T) {
	in := good()
	in.Workloads = append(in.Workloads, pod("ratings-1", "Deployment/ratings", "v1"))
	in.Proxies[0].SyncedRevision = 3
	in.Proxies[1].Rejections = []xds.Rejection{{}}
	want := &v1alpha1.ProxiesStatus{Summary: "2/3", Expected: 3, Injected: 2, Connected: 2, Programmed: 1, Rejected: 1}
	if diff := cmp.Diff(want, Of(in).Proxies); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	in := good()
	in.Rejections = []Rejection{{Message: strings.Repeat("é", 40000), Proxies: 1}}
	for _, c := range Of(in).Conditions {
		if len(c.Message) > maxMessage {
			t.Errorf("%s: %d bytes", c.Type, len(c.Message))
		}
	}
}

func TestRejections(t *testing.T) {
	mesh := func(name, field string) resource.Origin {
		return resource.Origin{Kind: "Mesh", Namespace: "bookinfo", Name: name, Field: field}
	}
	vhost := resource.Ref{Type: resource.VirtualHost, Name: "outbound/http|10.0.0.1:80"}
	caused := xds.Rejection{Ref: vhost, Message: "bad regex", Origins: []resource.Origin{mesh("a", "spec.services[0].routes[0]"), mesh("b", "")}}
	nobody := xds.Rejection{Ref: resource.Ref{Type: resource.Listener, Name: "inbound"}, Message: "no", Origins: []resource.Origin{{Kind: "Service", Namespace: "x", Name: "y"}}}
	one, two := proxy("p1", 1), proxy("p2", 1)
	one.Rejections = []xds.Rejection{caused, nobody}
	two.Proxy.Namespace, two.Rejections = "elsewhere", []xds.Rejection{caused}

	want := map[MeshKey][]Rejection{
		{"bookinfo", "a"}: {{Field: "spec.services[0].routes[0]", Resource: "vhost outbound/http|10.0.0.1:80", Message: "bad regex", Proxies: 2}},
		{"bookinfo", "b"}: {{Resource: "vhost outbound/http|10.0.0.1:80", Message: "bad regex", Proxies: 2}},
		{"bookinfo", ""}:  {{Resource: "listener inbound", Message: "no", Proxies: 1}},
	}
	if diff := cmp.Diff(want, Rejections([]xds.ProxyState{one, two})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestMerge(t *testing.T) {
	before, now := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	condition := func(kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, LastTransitionTime: before}
	}
	status := func(c ...metav1.Condition) v1alpha1.MeshStatus { return v1alpha1.MeshStatus{Conditions: c} }
	const yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	tests := []struct {
		name      string
		old, next v1alpha1.MeshStatus
		time      metav1.Time
		event     string // type and reason; empty for none
	}{
		{"same", status(condition("Issued", yes, "Issued")), status(condition("Issued", yes, "Issued")), before, ""},
		{"first, and good", status(), status(condition("Issued", yes, "Issued")), now, ""},
		{"first, and bad", status(), status(condition("Issued", no, "NotIssued")), now, "Warning NotIssued"},
		{"failed", status(condition("Issued", yes, "Issued")), status(condition("Issued", no, "NotIssued")), now, "Warning NotIssued"},
		{"fails otherwise", status(condition("Issued", no, "NotIssued")), status(condition("Issued", no, "Expiring")), before, "Warning Expiring"},
		{"still fails", status(condition("Issued", no, "NotIssued")), status(condition("Issued", no, "NotIssued")), before, ""},
		{"recovered", status(condition("Issued", no, "NotIssued")), status(condition("Issued", yes, "Issued")), now, "Normal Issued"},
		{"unknown", status(condition("Issued", yes, "Issued")), status(condition("Issued", unknown, "Pending")), now, ""},
		{"ready", status(condition("Ready", unknown, "Pending")), status(condition("Ready", yes, "Ready")), now, "Normal Ready"},
		{"strict is safe", status(condition("Encrypted", unknown, "Observing")), status(condition("Encrypted", yes, "StrictIsSafe")), now, "Normal StrictIsSafe"},
		{"encrypted from the first", status(), status(condition("Encrypted", yes, "Encrypted")), now, ""},
		{"not ready repeats another", status(condition("Ready", yes, "Ready")), status(condition("Ready", no, "NotIssued")), now, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			merged, events := Merge(tt.old, tt.next, now)
			if got := tt.next.Conditions[0].LastTransitionTime; !got.Equal(&before) {
				t.Errorf("the input was changed to %v", got)
			}
			if got := merged.Conditions[0].LastTransitionTime; !got.Equal(&tt.time) {
				t.Errorf("transition at %v, want %v", got, tt.time)
			}
			got := ""
			for _, e := range events {
				got += e.Type + " " + e.Reason
			}
			if got != tt.event {
				t.Errorf("events %q, want %q", got, tt.event)
			}
		})
	}
}
