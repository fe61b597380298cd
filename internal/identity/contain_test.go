package identity

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/contain"
)

// What panics over one Secret is counted, and nothing stays locked: the next one is taken in.
func TestSecretThatPanics(t *testing.T) {
	registry := prometheus.NewRegistry()
	panics, err := contain.New(registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	broken := true
	m := NewMaterials(clock, slog.New(slog.DiscardHandler), func([]byte) {
		if broken {
			panic("a bug")
		}
	}, func(time.Duration) {}, func() {})
	w := &Watch{Materials: m, Panics: panics}
	root := issue(t, nil, 100*time.Hour, nil)
	w.contain("ConfigMap tulle-trust", func() { m.SetTrusted(root.crt(), nil) })
	broken = false
	other := issue(t, nil, 100*time.Hour, nil)
	w.contain("ConfigMap tulle-trust", func() { m.SetTrusted(other.crt(), nil) })
	if got, want := strings.TrimSpace(string(m.Trust())), strings.TrimSpace(string(other.crt())); got != want {
		t.Errorf("trusted: %s", got)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, metric := range families[0].GetMetric() {
		if metric.GetLabel()[0].GetValue() == string(contain.Credential) && metric.GetCounter().GetValue() != 1 {
			t.Errorf("counted %v, want 1", metric.GetCounter().GetValue())
		}
	}
}

// A serving certificate that can't be used is told, until one can.
func TestUnusableServingCertificate(t *testing.T) {
	m, _ := newMaterials(t)
	if err := m.Unusable(); err != nil {
		t.Errorf("before there is any: %v", err)
	}
	a := issue(t, nil, 100*time.Hour, nil)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: WebhookCertificate}, Data: map[string][]byte{
		corev1.TLSCertKey: a.crt(), corev1.TLSPrivateKeyKey: []byte("rubbish"), CAKey: a.crt(),
	}}
	m.SetSecret(secret)
	if err := m.Unusable(); err == nil || !strings.HasPrefix(err.Error(), "secret tulle-webhook-tls: ") {
		t.Errorf("got %v", err)
	}
	i := Issuance{CertManager: true, Unusable: m.Unusable()}
	if reason, message := i.authority(); reason != ReasonNotIssued || !strings.HasSuffix(message, "; the certificate before serves on") {
		t.Errorf("Issued says %s: %s", reason, message)
	}
	secret.Data[corev1.TLSPrivateKeyKey] = a.keyPEM(t)
	m.SetSecret(secret)
	if err := m.Unusable(); err != nil {
		t.Errorf("it is good now: %v", err)
	}
}
