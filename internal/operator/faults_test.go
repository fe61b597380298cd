package operator

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// A signature that panics is the failure of one certificate.
func TestSignatureThatPanics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	panics, err := contain.New(registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	broken := signer{nil, panics} // a signer that there never is
	secret, _, err := broken.Certificate(t.Context(), &resource.Proxy{Namespace: "shop", Pod: "web"})
	if secret != nil || err == nil || !strings.HasPrefix(err.Error(), "certificate of pod shop/web: a bug of Tulle") {
		t.Errorf("got %v, %v", secret, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		if m.GetLabel()[0].GetValue() == string(contain.Sign) && m.GetCounter().GetValue() != 1 {
			t.Errorf("counted %v, want 1", m.GetCounter().GetValue())
		}
	}
}
