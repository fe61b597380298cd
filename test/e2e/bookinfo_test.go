package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// TestBookinfo holds the demo to its word: the sample as it is in config/samples, one Mesh, real traffic, while somebody
// listens to every packet on the node.
func TestBookinfo(t *testing.T) {
	t.Parallel()
	c := connect(t)
	// The tester's name travels as a header on every hop; this one occurs nowhere else.
	marker := "marker-" + rand.String(12)
	c.apply(c.sample(marker, "mesh", "bookinfo", "loadgen")...)
	deployments := []string{"productpage", "details", "reviews-v1", "reviews-v2", "reviews-v3", "ratings", "datastore", "loadgen"}
	c.rollout(deployments...)
	c.wait("condition=Ready", "mesh/bookinfo")

	const rate, seconds, testerEvery = 100, 20, 5
	c.load("-stop")
	before := c.countAll()
	capture := c.capture(c.pods(""), marker, "Reader One", "GET ratings/0", "VALUE {")
	r := c.load(fmt.Sprintf("-rate=%d", rate), fmt.Sprintf("-for=%ds", seconds), "-tester="+marker, fmt.Sprintf("-tester-every=%d", testerEvery))
	seen := capture.end()
	after := c.countAll()

	t.Run("every request succeeds", func(t *testing.T) {
		r.wantNoFailure(t)
		if r.Sent != rate*seconds {
			t.Errorf("%d requests were sent, want %d", r.Sent, rate*seconds)
		}
	})
	t.Run("testers see v2", func(t *testing.T) {
		if got, want := r.Versions[marker]["reviews"], map[string]int64{"v2": rate * seconds / testerEvery}; !maps.Equal(got, want) {
			t.Errorf("testers saw %v, want %v", got, want)
		}
	})
	t.Run("everybody else sees the canary", func(t *testing.T) {
		got := r.Versions[""]["reviews"]
		n := float64(got["v1"] + got["v2"])
		// Four standard deviations of the share of a weighted choice: one run in 16,000 exceeds them.
		share, tolerance := float64(got["v2"])/n, 4*math.Sqrt(0.1*0.9/n)
		if got["v3"] != 0 || math.Abs(share-0.1) > tolerance {
			t.Errorf("everybody else saw %v: %.1f %% v2, want 10 %% ± %.1f", got, 100*share, 100*tolerance)
		}
	})
	t.Run("services counted what the client saw", func(t *testing.T) {
		want := map[string]int64{
			"productpage v1": r.saw("productpage", "v1"), "details v1": r.saw("details", "v1"),
			"reviews v1": r.saw("reviews", "v1"), "reviews v2": r.saw("reviews", "v2"), "reviews v3": 0,
			"ratings v1": r.saw("ratings", "v1"), "datastore v1": r.saw("ratings", "v1"),
		}
		got := map[string]int64{}
		for name := range after {
			got[name] = after[name] - before[name]
		}
		if !maps.Equal(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
	})
	t.Run("the receiving proxies saw these certificates", func(t *testing.T) { c.wantPeers(t) })
	t.Run("nothing readable is on the wire", func(t *testing.T) {
		seen.wantSealed(t, r.Sent*2000)
	})
	t.Run("kubectl get mesh", func(t *testing.T) {
		columns := strings.Fields(c.kubectl("get", "mesh", "bookinfo", "--no-headers"))
		if want := []string{"bookinfo", "True", "8/8", "Strict", "5"}; len(columns) < 5 || !slices.Equal(columns[:5], want) {
			t.Errorf("got %q, want %q first", columns, want)
		}
	})
}

// sample reads manifests of config/samples/bookinfo, for the test's namespace and with another tester.
func (c *cluster) sample(tester string, names ...string) []string {
	c.t.Helper()
	var manifests []string
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join("..", "..", "config", "samples", "bookinfo", name+".yaml"))
		if err != nil {
			c.t.Fatal(err)
		}
		replaced := strings.NewReplacer("namespace: bookinfo", "namespace: "+c.namespace, "jason", tester)
		manifests = append(manifests, replaced.Replace(string(text)))
	}
	return manifests
}

// countAll returns what the sample's pods counted, by app and version.
func (c *cluster) countAll() map[string]int64 {
	c.t.Helper()
	counts := map[string]int64{}
	for _, pod := range c.pods("") {
		if app := pod.Labels["app"]; app != "loadgen" && app != "capture" {
			counts[pod.Labels["app"]+" "+pod.Labels["version"]] += c.count(pod)
		}
	}
	return counts
}

// wantPeers checks who the proxies of each service saw, by their access logs: only the client that the service has, always
// by mTLS, and as often as the service counted.
func (c *cluster) wantPeers(t *testing.T) {
	for service, client := range map[string]string{
		"productpage": "loadgen", "details": "productpage", "reviews": "productpage", "ratings": "reviews", "datastore": "ratings",
	} {
		served := c.served(service)
		var entries []accessEntry
		c.eventually(fmt.Sprintf("the proxies of %s to have logged %d requests", service, served), func() bool {
			entries = c.accessLog(service)
			return int64(len(entries)) >= served
		})
		want := fmt.Sprintf("spiffe://cluster.local/ns/%s/sa/%s", c.namespace, client)
		for _, entry := range entries {
			if entry.Peer != want || entry.TLS != "TLSv1.3" || len(entry.Serial) < 8 {
				t.Errorf("%s: got %+v, want the peer %s by TLSv1.3 with a serial", service, entry, want)
				break
			}
		}
	}
}

// accessEntry is the part of a proxy's access log that names the client.
type accessEntry struct {
	Time   string `json:"time"`
	Peer   string `json:"peer"`
	Serial string `json:"peer_serial"`
	TLS    string `json:"tls_version"`
	Flags  string `json:"flags"`
}

// accessLog is what the proxies of an app logged about what it was sent.
func (c *cluster) accessLog(app string) []accessEntry {
	c.t.Helper()
	var entries []accessEntry
	for line := range strings.Lines(c.kubectl("logs", "-l", "app="+app, "-c", sidecar.ProxyContainer, "--tail=-1")) {
		var entry accessEntry
		// Lines that are no access log are Envoy's own.
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Time != "" {
			entries = append(entries, entry)
		}
	}
	return entries
}
