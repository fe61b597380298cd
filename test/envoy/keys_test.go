package envoy_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// The clocks of the replicas that sign and those of the proxies may differ by a minute, in either direction: certificates of the shortest
// lifetime that is recommended are accepted from the start.
func TestClocksMayDifferByAMinute(t *testing.T) {
	t.Parallel()
	for name, skews := range map[string]map[string]time.Duration{
		"client's replica ahead":  {"shop/client": time.Minute, "shop/reviews-v1": -time.Minute, "shop/reviews-v2": -time.Minute},
		"client's replica behind": {"shop/client": -time.Minute, "shop/reviews-v1": time.Minute, "shop/reviews-v2": time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			w := envoy.Start(t, "testdata/basic.yaml", envoy.SignedBy(&envoy.Signers{Lifetime: 5 * time.Minute, Skew: skews}))
			client := w.Pod("client")
			for _, p := range echo.Protocols() {
				client.MustCall(p, echo.Request{Address: fmt.Sprintf("10.96.0.5:%d", port(p)), Body: "ping"})
			}
		})
	}
	// Envoy does look at a clock: three minutes are too many.
	w := envoy.Start(t, "testdata/basic.yaml", envoy.SignedBy(&envoy.Signers{
		Lifetime: 5 * time.Minute, Skew: map[string]time.Duration{"shop/client": 3 * time.Minute},
	}))
	if r, err := w.Pod("client").Call(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"}); err == nil && r.Status == http.StatusOK {
		t.Errorf("a certificate that is not valid yet is accepted: %+v", r)
	}
}

// A proxy's private keys are in nothing that it shows or logs, whatever the log level.
func TestKeysAreNotShown(t *testing.T) {
	t.Parallel()
	signers := &envoy.Signers{Lifetime: time.Hour}
	w := envoy.Start(t, "testdata/basic.yaml", envoy.SignedBy(signers))
	client := w.Pod("client")
	client.Admin(http.MethodPost, "/logging?level=trace")
	w.ReplaceControlPlane() // which sends another certificate
	client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80"})
	dump := client.ConfigDump()
	if redacted := base64.StdEncoding.EncodeToString([]byte("[redacted]")); !strings.Contains(dump, redacted) || !strings.Contains(dump, `"workload"`) {
		t.Error("the dump does not have the proxy's certificate with its key left out")
	}
	shown := map[string]string{
		"config dump": dump, "certificates": client.Admin(http.MethodGet, "/certs"), "log": client.ProxyLog(),
		"clusters": client.Admin(http.MethodGet, "/clusters?format=json"), "access log": client.AccessLog(),
	}
	keys := signers.Keys("shop/client")
	if len(keys) < 2 {
		t.Fatalf("%d keys were made for the proxy, want 2 or more", len(keys))
	}
	if !strings.Contains(shown["log"], "[trace]") {
		t.Error("the log has no trace")
	}
	for _, key := range keys {
		block, _ := pem.Decode(key)
		forms := [][]byte{
			block.Bytes, bytes.Split(key, []byte("\n"))[1],
			[]byte(base64.StdEncoding.EncodeToString(block.Bytes)), []byte(base64.StdEncoding.EncodeToString(key)[:64]),
		}
		for where, text := range shown {
			for i, form := range forms {
				if strings.Contains(text, string(form)) {
					t.Errorf("the %s of a proxy holds its key (form %d)", where, i)
				}
			}
		}
	}
}
