package identity

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// stage is materials whose clock tests set.
type stage struct {
	*Materials
	now      time.Time
	bundles  [][]byte
	reissues []time.Duration
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{now: epoch}
	s.Materials = NewMaterials(func() time.Time { return s.now }, slog.New(slog.DiscardHandler),
		func(b []byte) { s.bundles = append(s.bundles, b) },
		func(over time.Duration) { s.reissues = append(s.reissues, over) }, func() {})
	if err := s.SetTerms("cluster.local", time.Hour); err != nil {
		t.Fatal(err)
	}
	return s
}

// issued takes in all three Secrets as cert-manager issues them from a root at the stage's time.
func (s *stage) issued(t *testing.T, root ca) {
	t.Helper()
	for _, name := range []string{Intermediate, WebhookCertificate, ControlPlaneCertificate} {
		s.SetSecret(secret(t, name, issue(t, &root, 100*time.Hour, s.fromNow), root.crt()))
	}
}

func (s *stage) fromNow(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = s.now, s.now.Add(90*time.Hour)
}

// uses says whether all three descend from a root.
func (s *stage) uses(root ca) (signs, webhook, controlPlane bool) {
	descends := func(l lineage) bool { return l.certificates[0].CheckSignatureFrom(root.cert) == nil }
	return s.Signer.Authority() != nil && descends(s.Signer.Authority().lineage),
		descends(s.Webhook.current.Load().lineage), descends(s.ControlPlane.current.Load().lineage)
}

func (s *stage) wantUse(t *testing.T, when string, root ca) {
	t.Helper()
	if signs, webhook, controlPlane := s.uses(root); !signs || !webhook || !controlPlane {
		t.Errorf("%s: in use to sign %t, as the webhooks' %t, as the control plane's %t; want all", when, signs, webhook, controlPlane)
	}
}

// A new root is told to everybody at once. What descends from it is used when the ConfigMap says that everybody knows it.
func TestNewRootIsUsedWhenItIsKnown(t *testing.T) {
	s := newStage(t)
	first, second := issue(t, nil, 1000*time.Hour, nil), issue(t, nil, 1000*time.Hour, nil)
	s.issued(t, first)
	s.wantUse(t, "with the first root", first)
	s.SetTrusted(s.Trust(), s.InUse())
	s.now = epoch.Add(time.Hour)

	s.issued(t, second)
	s.now = s.now.Add(10 * time.Minute)
	s.Refresh()
	s.wantUse(t, "while nobody knows the second", first)
	if got := s.bundles[len(s.bundles)-1]; !Covers(got, join(first.crt(), second.crt())) {
		t.Error("proxies are not told of both roots")
	}
	for name, got := range map[string][]byte{"API server": s.WebhookCA(), "control plane's clients": must(s.ControlPlaneCA())} {
		if !Covers(got, join(first.crt(), second.crt())) {
			t.Errorf("the %s is not told of both roots", name)
		}
	}
	if got := s.Waiting(); got != "its root is not known everywhere yet" {
		t.Errorf("it waits because %q", got)
	}

	s.SetTrusted(s.Trust(), first.crt())
	s.wantUse(t, "while the ConfigMap only trusts it", first)
	if len(s.reissues) != 0 {
		t.Error("certificates are made anew under the old root")
	}
	s.SetTrusted(s.Trust(), s.Trust())
	s.wantUse(t, "once it is known", second)
	if got := s.Waiting(); got != "" {
		t.Errorf("nothing waits, but %q", got)
	}
	if !slices.Equal(s.reissues, []time.Duration{6 * time.Minute}) {
		t.Errorf("certificates that live an hour are made anew over %v, want once, over 6 minutes", s.reissues)
	}
}

// A lifetime that becomes shorter holds for the certificates that proxies have; one that becomes longer waits for their renewal.
func TestShorterLifetimeHoldsAtOnce(t *testing.T) {
	s := newStage(t)
	for _, lifetime := range []time.Duration{24 * time.Hour, 10 * time.Minute, 10 * time.Minute, time.Hour} {
		if err := s.SetTerms("cluster.local", lifetime); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(s.reissues, []time.Duration{time.Minute}) {
		t.Errorf("made anew over %v, want once, over a minute", s.reissues)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// What was issued a moment ago is not valid yet for clocks that are behind: what is in use stays for a minute.
func TestSuccessorWaitsForClocksThatAreBehind(t *testing.T) {
	s := newStage(t)
	root := issue(t, nil, 1000*time.Hour, nil)
	s.issued(t, root)
	s.SetTrusted(s.Trust(), s.Trust())
	s.now = epoch.Add(time.Hour)
	s.issued(t, root)
	before := s.Signer.Authority()
	s.now = s.now.Add(59 * time.Second)
	s.Refresh()
	if s.Signer.Authority() != before || s.Webhook.next.Load() == nil || s.ControlPlane.next.Load() == nil {
		t.Error("after 59 s something new is in use")
	}
	if got := s.Waiting(); got != "it is used from 2026-03-01T13:01:00Z on, for clocks that differ" {
		t.Errorf("it waits because %q", got)
	}
	s.now = s.now.Add(time.Second)
	s.Refresh()
	if s.Signer.Authority() == before || s.Webhook.next.Load() != nil || s.ControlPlane.next.Load() != nil {
		t.Error("after a minute something old is in use")
	}
}

// A replica whose clock is behind cert-manager's takes its intermediate for one that begins later, not for one that can't sign.
func TestIntermediateOfAClockThatIsAhead(t *testing.T) {
	for ahead, wait := range map[time.Duration]time.Duration{30 * time.Second: 0, time.Minute: 0, 5 * time.Minute: 4 * time.Minute} {
		s := newStage(t)
		root := issue(t, nil, 1000*time.Hour, nil)
		s.now = epoch.Add(ahead)
		intermediate := secret(t, Intermediate, issue(t, &root, 100*time.Hour, s.fromNow), root.crt())
		s.now = epoch
		s.SetSecret(intermediate)
		authority, err := s.Authority()
		if wait == 0 && (authority == nil || err != nil) {
			t.Errorf("%s ahead: it does not sign: %v", ahead, err)
		}
		if wait == 0 {
			continue
		}
		const want = "the intermediate CA begins at 2026-03-01T12:05:00Z, and here it is 2026-03-01T12:00:00Z: set the clocks"
		if authority != nil || err == nil || err.Error() != want {
			t.Errorf("%s ahead: %v, want %s", ahead, err, want)
		}
		s.now = epoch.Add(wait)
		s.Refresh()
		if authority, err := s.Authority(); authority == nil || err != nil {
			t.Errorf("%s ahead, %s later: it does not sign: %v", ahead, wait, err)
		}
	}
}

// Waiting is better than being refused, and being refused by some is better than having nothing.
func TestWhatEndsIsReplacedByWhatThereIs(t *testing.T) {
	s := newStage(t)
	first, second := issue(t, nil, 1000*time.Hour, nil), issue(t, nil, 1000*time.Hour, nil)
	s.issued(t, first)
	s.SetTrusted(first.crt(), first.crt())
	s.now = epoch.Add(74 * time.Hour) // of 90
	s.issued(t, second)
	s.wantUse(t, "with 16 of 90 h left", first)
	s.now = epoch.Add(75 * time.Hour)
	s.Refresh()
	s.wantUse(t, "with 15 of 90 h left", second)
}

// A replica that starts while a root is being replaced knows no other intermediate. It serves, since it must, and signs nothing
// that proxies would refuse.
func TestReplicaThatStartsMeanwhile(t *testing.T) {
	s := newStage(t)
	first, second := issue(t, nil, 1000*time.Hour, nil), issue(t, nil, 1000*time.Hour, nil)
	s.SetTrusted(join(first.crt(), second.crt()), first.crt())
	s.issued(t, second)
	if s.Signer.Authority() != nil {
		t.Error("it signs with a root that is not known")
	}
	if err := s.Ready(); err != nil {
		t.Errorf("it does not serve: %v", err)
	}
	s.SetTrusted(join(first.crt(), second.crt()), join(first.crt(), second.crt()))
	s.wantUse(t, "once it is known", second)
}

// The ConfigMap of an older Tulle says nothing of what is known: what it trusts was known.
func TestTrustConfigMapOfAnOlderVersion(t *testing.T) {
	s := newStage(t)
	root := issue(t, nil, 1000*time.Hour, nil)
	trusted, known := trustOf(&corev1.ConfigMap{Data: map[string]string{CAKey: string(root.crt())}})
	if known != nil {
		t.Fatalf("known %q", known)
	}
	s.SetTrusted(trusted, known)
	s.issued(t, root)
	s.wantUse(t, "at once", root)
}

func TestForgettingRootsDoesNotMakeNewOnesKnown(t *testing.T) {
	s := newStage(t)
	first, second := issue(t, nil, 1000*time.Hour, nil), issue(t, nil, 1000*time.Hour, nil)
	s.issued(t, first)
	s.SetTrusted(first.crt(), first.crt())
	s.now = epoch.Add(time.Hour)
	s.issued(t, second)
	s.now = s.now.Add(time.Hour)
	s.ForgetTrusted()
	s.wantUse(t, "after the ConfigMap is gone", first)
	if !bytes.Equal(s.InUse(), must(Bundle(s.now, first.crt()))) {
		t.Error("the roots in use are not those of before")
	}
}

func TestCoversAndCommon(t *testing.T) {
	a, b := issue(t, nil, time.Hour, nil), issue(t, nil, time.Hour, nil)
	if !Covers(join(a.crt(), b.crt()), b.crt()) || Covers(a.crt(), b.crt()) || !Covers(nil, nil) {
		t.Error("Covers")
	}
	if got := Common(epoch, join(a.crt(), b.crt()), b.crt()); strings.TrimSpace(string(got)) != strings.TrimSpace(string(b.crt())) {
		t.Errorf("common are\n%s", got)
	}
}

// Whoever verifies a certificate with a clock that is a minute behind or ahead of the signer's accepts it from the moment it
// is made until the next has come, for lifetimes of five minutes and more.
func TestCertificatesTolerateAMinute(t *testing.T) {
	for _, lifetime := range []time.Duration{5 * time.Minute, 10 * time.Minute, 24 * time.Hour} {
		s, root := newSigner(t, 168*time.Hour, lifetime)
		for range 50 {
			r, renewAt, err := s.Certificate(t.Context(), reviews)
			if err != nil {
				t.Fatal(err)
			}
			p, leaf := pair(t, r)
			roots, between := x509.NewCertPool(), x509.NewCertPool()
			roots.AddCert(root.cert)
			for _, der := range p.Certificate[1:] {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				between.AddCert(c)
			}
			// The next one is there some seconds after it is due.
			for _, at := range []time.Time{epoch.Add(-maxSkew), renewAt.Add(maxSkew + 10*time.Second)} {
				if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at}); err != nil {
					t.Fatalf("lifetime %s, renewed after %s: a clock that says %s refuses it: %v", lifetime, renewAt.Sub(epoch), at.Sub(epoch), err)
				}
			}
		}
	}
}
