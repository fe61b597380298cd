package status

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// look is an observation that began long before noon, of these sightings.
func look(sightings ...Sighting) Observation {
	return Observation{Since: noon.Add(-time.Hour)}.with(sightings...)
}

func (o Observation) with(sightings ...Sighting) Observation {
	o.Peers = sightings
	for _, s := range sightings {
		if s.At.After(o.Last) {
			o.Last = s.At
		}
	}
	return o
}

func seen(name string, port uint16, ago time.Duration) Sighting {
	return Sighting{Peer{name, port}, noon.Add(-ago)}
}

// permissive makes a Mesh's ports Permissive, its proxies open, and what is known of who uses that.
func permissive(in *Input, o Observation) {
	in.Namespace.Mode, in.Plaintext = v1alpha1.MTLSPermissive, o
	for i := range in.Proxies {
		in.Proxies[i].Encryption.PlaintextPorts = []uint16{0, 80}
	}
}

// TestEncrypted shows the condition, and whether Ready heeds it.
func TestEncrypted(t *testing.T) {
	const ready = "Ready"
	tests := []struct {
		name  string
		edit  func(*Input)
		want  string
		ready string // the reason of Ready
	}{
		{"Strict", func(*Input) {}, "True Encrypted: all 2 proxies take nothing but mTLS, with valid certificates", ready},
		{"Strict, a proxy takes plaintext all the same", func(in *Input) {
			in.Proxies[0].Encryption.PlaintextPorts = []uint16{0, 80}
		}, "False PlaintextAccepted: 1 of 2 proxies take plaintext on Strict ports: details-1 (other ports, port 80)", "PlaintextAccepted"},
		{"Strict, not everywhere yet", func(in *Input) {
			in.Proxies[0].Encryption.PlaintextPorts, in.Proxies[0].SyncedRevision = []uint16{80}, 1
		}, "Unknown Pending: 1 of 2 proxies take plaintext until they hold generation 4: details-1", "Pending"},
		{"Strict, a listener not acknowledged", func(in *Input) {
			in.Proxies[1].Encryption.Listening = false
		}, "Unknown Pending: 1 of 2 proxies have not acknowledged an inbound listener yet: reviews-1", "Pending"},
		{"Strict but for a Permissive port", func(in *Input) {
			in.Namespace.Ports = []model.PortMode{{Number: 80, Mode: v1alpha1.MTLSPermissive}}
			in.Proxies[0].Encryption.PlaintextPorts = []uint16{80}
			in.Plaintext = look(seen("pod outside/client", 80, time.Minute))
		}, "False PlaintextPeers: 1 peer has connected without mTLS on Permissive ports within 10m0s: pod outside/client (port 80); Strict would refuse them", ready},
		{"Permissive but for a Strict port", func(in *Input) {
			permissive(in, look())
			in.Namespace.Ports = []model.PortMode{{Number: 80, Mode: v1alpha1.MTLSStrict}}
		}, "False PlaintextAccepted: 2 of 2 proxies take plaintext on Strict ports: details-1 (port 80), reviews-1 (port 80)", "PlaintextAccepted"},

		{"certificate expired", func(in *Input) {
			in.Proxies[0].Encryption.CertificateExpires = noon
		}, "False CertificateExpired: 1 of 2 proxies do not get the certificates they need: details-1 (expired at 2026-11-25T12:00:00Z)", "CertificateExpired"},
		{"certificates withheld", func(in *Input) {
			in.Proxies[0].CertificateError = "no intermediate CA yet"
			in.Proxies[1].Encryption.CertificateExpires, in.Proxies[1].ConnectedAt = time.Time{}, noon.Add(-time.Minute)
		}, "False CertificateWithheld: 2 of 2 proxies do not get the certificates they need: details-1 (no intermediate CA yet), " +
			"reviews-1 (none since it connected at 2026-11-25T11:59:00Z)", "CertificateWithheld"},
		{"certificate under way", func(in *Input) {
			in.Proxies[1].Encryption.CertificateExpires, in.Proxies[1].ConnectedAt = time.Time{}, noon.Add(-time.Second)
		}, "Unknown Pending: 1 of 2 proxies have not acknowledged a certificate yet: reviews-1", "Pending"},
		{"SDS broken", func(in *Input) {
			in.Proxies[1].Rejections = []xds.Rejection{{Ref: resource.Ref{Type: resource.Secret, Name: "peers"}, Message: "Failed to load trusted CA"}}
		}, "False CertificateRejected: 1 of 2 proxies do not get the certificates they need: reviews-1 (rejects secret peers: Failed to load trusted CA)", "CertificateRejected"},
		{"issuer gone", func(in *Input) {
			in.Issued = identity.Verdict{Status: metav1.ConditionFalse, Reason: "IssuerNotFound", Message: "Issuer a/b does not exist"}
		}, "False IssuanceStalled: what is encrypted stays so, but not for ever: Issuer a/b does not exist", "IssuerNotFound"},
		{"issuer gone, Permissive", func(in *Input) {
			permissive(in, look())
			in.Issued = identity.Verdict{Status: metav1.ConditionFalse, Reason: "IssuerNotFound", Message: "Issuer a/b does not exist"}
		}, "False IssuanceStalled: what is encrypted stays so, but not for ever: Issuer a/b does not exist", "IssuerNotFound"},
		{"certificates withheld, Permissive", func(in *Input) {
			permissive(in, look())
			in.Proxies[0].CertificateError = "no"
		}, "False CertificateWithheld: 1 of 2 proxies do not get the certificates they need: details-1 (no)", ready},

		{"Permissive, used", func(in *Input) {
			permissive(in, look(seen("pod outside/client", 80, time.Minute), seen("node n1", 9000, 2*time.Minute)))
		}, "False PlaintextPeers: 2 peers have connected without mTLS within 10m0s: node n1 (port 9000), pod outside/client (port 80); Strict would refuse them", ready},
		{"Permissive, used by many", func(in *Input) {
			var many []Sighting
			for i := range 12 {
				many = append(many, seen(fmt.Sprintf("pod outside/p%02d", i), 80, time.Minute))
			}
			o := look(many...)
			o.More = true
			permissive(in, o)
		}, "False PlaintextPeers: at least 12 peers have connected without mTLS within 10m0s: pod outside/p00 (port 80), pod outside/p01 (port 80), " +
			"pod outside/p02 (port 80), pod outside/p03 (port 80), pod outside/p04 (port 80), pod outside/p05 (port 80), pod outside/p06 (port 80), " +
			"pod outside/p07 (port 80), pod outside/p08 (port 80), pod outside/p09 (port 80), and 2 more; Strict would refuse them", ready},
		{"Permissive, used, and a proxy away", func(in *Input) {
			permissive(in, look(seen("pod outside/client", 80, time.Minute)))
			in.Proxies = in.Proxies[:1]
		}, "False PlaintextPeers: 1 peer has connected without mTLS within 10m0s: pod outside/client (port 80); Strict would refuse them", "NotConnected"},
		{"Permissive, looked for too short a time", func(in *Input) {
			permissive(in, Observation{Since: noon.Add(-time.Minute)})
		}, "Unknown Observing: no connection without mTLS since 2026-11-25T11:59:00Z; if there is none until 2026-11-25T12:09:00Z, Strict is safe", ready},
		{"Permissive, not used any more", func(in *Input) {
			o := look()
			o.Last = noon.Add(-11 * time.Minute)
			permissive(in, o)
		}, "True StrictIsSafe: no connection without mTLS since 2026-11-25T11:49:00Z: mtls.mode Strict is safe", ready},
		{"Permissive, never used", func(in *Input) { permissive(in, look()) },
			"True StrictIsSafe: no connection without mTLS since 2026-11-25T11:00:00Z: mtls.mode Strict is safe", ready},
		{"Permissive, a gap", func(in *Input) { permissive(in, Observation{}) },
			"Unknown Observing: who connects without mTLS is not known: some proxies were not connected to the control plane", ready},
		{"Permissive, no pods", func(in *Input) {
			permissive(in, Observation{Since: noon})
			in.Workloads, in.Proxies = nil, nil
		}, "True Encrypted: there are no proxies yet", ready},
		{"Permissive, a pod without a proxy", func(in *Input) {
			permissive(in, look())
			in.Workloads = append(in.Workloads, pod("debug", "", ""))
		}, "False NoProxy: 1 of 3 pods have no proxy and take plaintext: debug", "RestartNeeded"},

		{"Disabled", func(in *Input) { in.Namespace.Mode = v1alpha1.MTLSDisabled },
			"False Disabled: mtls.mode is Disabled: all connections are plaintext", ready},
		{"Disabled but for a Strict port", func(in *Input) {
			in.Namespace.Mode, in.Namespace.Ports = v1alpha1.MTLSDisabled, []model.PortMode{{Number: 80, Mode: v1alpha1.MTLSStrict}}
		}, "False Disabled: plaintext is all that is spoken on ports whose mtls mode is Disabled: all but those of mtls.ports", ready},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := good()
			tt.edit(&in)
			var got, summary string
			for _, c := range Of(in).Conditions {
				switch c.Type {
				case v1alpha1.ConditionEncrypted:
					got = fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
				case v1alpha1.ConditionReady:
					summary = c.Reason
				}
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if summary != tt.ready {
				t.Errorf("Ready says %s, want %s", summary, tt.ready)
			}
		})
	}
}

// TestObservation follows a namespace from one look to the next; the quiet time is ten minutes.
func TestObservation(t *testing.T) {
	const quiet = 10 * time.Minute
	n := &model.Namespace{Name: "shop", Mode: v1alpha1.MTLSPermissive}
	at := func(minutes float64) time.Time { return noon.Add(time.Duration(minutes * float64(time.Minute))) }
	report := func(name string, minutes float64) Sighting { return Sighting{Peer{name, 80}, at(minutes)} }
	var o Observation
	step := func(minutes float64, complete bool, since, quietSince float64, peers []string, sightings ...Sighting) {
		t.Helper()
		o = o.Look(Sight{Namespace: n, Complete: complete, Sightings: sightings}, at(minutes), quiet)
		wantSince, wantQuiet := at(since), at(quietSince)
		if since < 0 {
			wantSince, wantQuiet = time.Time{}, time.Time{}
		}
		if !o.Since.Equal(wantSince) || !o.quietSince().Equal(wantQuiet) || !slices.Equal(o.names(), peers) {
			t.Errorf("at %v: since %s quiet since %s %v, want %s %s %v", minutes, o.Since, o.quietSince(), o.names(), wantSince, wantQuiet, peers)
		}
	}
	step(0, false, -1, 0, []string{}) // proxies still connect
	step(1, true, 1, 1, []string{})   // now it looks
	step(2, true, 1, 2, []string{"a (port 80)"}, report("a", 2))
	step(3, true, 1, 3, []string{"a (port 80)", "b (port 80)"}, report("a", 2), report("b", 3))
	step(3.5, false, 1, 3, []string{"a (port 80)", "b (port 80)"}) // a proxy moves; those that reported are remembered
	step(4, true, 1, 3, []string{"a (port 80)", "b (port 80)"})
	for m := 5.0; m <= 12; m++ {
		step(m, true, 1, 3, []string{"a (port 80)", "b (port 80)"})
	}
	step(12.5, true, 1, 3, []string{"b (port 80)"})
	step(13.5, true, 1, 3, []string{})
	step(14, false, 1, 3, []string{})
	step(15, false, -1, 0, []string{}) // for too long
	step(16, true, 16, 16, []string{}) // begins anew
	n = &model.Namespace{Name: "shop", Mode: v1alpha1.MTLSPermissive, Ports: []model.PortMode{{Number: 80, Mode: v1alpha1.MTLSStrict}}}
	step(17, true, 17, 17, []string{}) // other ports than before
}
