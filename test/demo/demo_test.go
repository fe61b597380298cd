package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// compare compares with a file of testdata, or writes it with -update.
func compare(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("not as in %s (see -update):\n%s", path, got)
	}
}

var update = flag.Bool("update", false, "write what is compared with")

func TestReport(t *testing.T) {
	d := &demo{target: &lab{}, findings: findings{
		mesh: "NAME       READY   PROXIES   MTLS     SERVICES   AGE   STATUS\n" +
			"bookinfo   True    8/8       Strict   5          12s   all proxies hold generation 1\n",
		load: loadReport{
			Sent: 2000, Succeeded: 1999, Statuses: map[string]int64{"200": 1999, "503": 1}, LastError: "no healthy upstream",
			LatencyMS: map[string]float64{"p50": 4.25, "p90": 6.5, "p99": 11.875},
			Versions: map[string]map[string]map[string]int64{
				"":     {"reviews": {"v1": 1430, "v2": 169}, "details": {"v1": 1599}, "ratings": {"v1": 169}},
				tester: {"reviews": {"v2": 400}, "details": {"v1": 400}, "ratings": {"v1": 400}},
			},
		},
		counted: map[backend]int64{
			{"datastore", "v1"}: 569, {"ratings", "v1"}: 569, {"reviews", "v3"}: 0, {"reviews", "v2"}: 569,
			{"reviews", "v1"}: 1431, {"details", "v1"}: 1999,
		},
		peers: []peer{
			{"details", "spiffe://cluster.local/ns/bookinfo/sa/productpage", "TLSv1.3", "7f3a90c2d4e85b16", 1999},
			{"ratings", "-", "-", "-", 1},
		},
		outsider: "refused: EOF",
		golden: golden{
			services: []signals{{service: "reviews", requests: 2000, failed: 1, latency: map[string]float64{"p50": 1.25, "p90": 2.5, "p99": 9.75}}},
			edges: []signals{
				{"productpage", "reviews", "v1", 1431, 1, map[string]float64{"p50": 1.125, "p90": 2.5, "p99": 8.5}},
				{"productpage", "reviews", "v2", 569, 0, map[string]float64{"p50": 2.25, "p90": 4.5, "p99": math.NaN()}},
			},
		},
		memory: []proxyMemory{{"reviews-v1-abc", 5.25e6, 21e6}, {"details-abc", 5e6, 20.5e6}},
	}}
	compare(t, "report.txt", d.report().String())

	d.findings.golden = golden{missing: "this cluster has no prometheus-operator"}
	if text := d.report().String(); !strings.Contains(text, "none: this cluster has no prometheus-operator\n") {
		t.Errorf("the report does not say why there are no golden metrics:\n%s", text)
	}
}

func TestVerdict(t *testing.T) {
	good := func() findings {
		return findings{
			load: loadReport{Sent: 2, Succeeded: 2, Versions: map[string]map[string]map[string]int64{
				"":     {"reviews": {"v1": 1}},
				tester: {"reviews": {"v2": 1}, "ratings": {"v1": 1}},
			}},
			counted: map[backend]int64{{"reviews", "v1"}: 1, {"reviews", "v2"}: 1, {"ratings", "v1"}: 1, {"datastore", "v1"}: 1},
			peers:   []peer{{service: "reviews", identity: "spiffe://d/ns/a/sa/b", count: 2}},
			golden:  golden{services: []signals{{service: "reviews", requests: 2}, {service: "ratings", requests: 1}}},
		}
	}
	if err := good().verdict(); err != nil {
		t.Errorf("all is well, but: %v", err)
	}
	for want, spoil := range map[string]func(*findings){
		"1 of 2 requests succeeded":           func(f *findings) { f.load.Succeeded = 1 },
		"0 of 0 requests succeeded":           func(f *findings) { f.load.Sent, f.load.Succeeded = 0, 0 },
		"datastore v1 counted 3 requests":     func(f *findings) { f.counted[backend{"datastore", "v1"}] = 3 },
		"testers saw other versions":          func(f *findings) { f.load.Versions[tester]["reviews"]["v3"] = 1 },
		"no proxy logged a client":            func(f *findings) { f.peers = nil },
		"2 requests of clients without a cer": func(f *findings) { f.peers[0].identity = "-" },
		"a client without a proxy was answer": func(f *findings) { f.answered = true },
		"3 requests of reviews, counted were": func(f *findings) { f.golden.services[0].requests = 3 },
		"0 requests of ratings, counted were": func(f *findings) { f.golden.services = f.golden.services[:1] },
	} {
		f := good()
		spoil(&f)
		if err := f.verdict(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestVerdictToleratesOnePercent(t *testing.T) {
	f := findings{
		counted: map[backend]int64{{"details", "v1"}: 1000, {"datastore", "v1"}: 5},
		golden:  golden{services: []signals{{service: "details", requests: 990}}},
	}
	if wrong := f.disagreements(); len(wrong) != 0 {
		t.Errorf("990 of 1000 is near enough, but: %v", wrong)
	}
	f.golden.services[0].requests = 989
	if wrong := f.disagreements(); len(wrong) != 1 {
		t.Errorf("989 of 1000 is not near enough, but: %v", wrong)
	}
	if wrong := (findings{counted: f.counted, golden: golden{missing: "no operator"}}).disagreements(); len(wrong) != 0 {
		t.Errorf("without Prometheus there is nothing to compare with, but: %v", wrong)
	}
}

func TestIncreaseIsExact(t *testing.T) {
	w := window{time.Unix(100, 0), time.Unix(130, 250e6)}
	want := `sum by (a, le) (x{b="c"} @ 130.250) - (sum by (a, le) (x{b="c"} @ 100.000) or 0 * sum by (a, le) (x{b="c"} @ 130.250))`
	if got := w.increase(`x{b="c"}`, "a", "le"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPeersAreSummedUp(t *testing.T) {
	log := `[2026-01-01 00:00:00.000][1][warning][main] a line of Envoy's own
{"time":"2025-12-31T23:59:59Z","peer":"spiffe://d/ns/a/sa/b","peer_serial":"00","tls_version":"TLSv1.3"}
{"time":"2026-01-01T00:00:00Z","peer":"spiffe://d/ns/a/sa/b","peer_serial":"01","tls_version":"TLSv1.3"}
{"time":"2026-01-01T00:00:01Z","peer":"spiffe://d/ns/a/sa/b","peer_serial":"02","tls_version":"TLSv1.3"}
{"time":"2026-01-01T00:00:02Z","peer":null,"peer_serial":null,"tls_version":null}
{"time":"2026-01-01T00:00:03Z","flags":"NR"}
{"time":"2026-01-01T00:00:06Z","peer":"spiffe://d/ns/a/sa/b","peer_serial":"03","tls_version":"TLSv1.3"}
`
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	want := []peer{{"s", "spiffe://d/ns/a/sa/b", "TLSv1.3", "02", 2}, {service: "s", count: 1}}
	if got := peersIn("s", log, span{begin, begin.Add(5 * time.Second)}); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestGauge(t *testing.T) {
	stats := "# TYPE envoy_server_memory_allocated gauge\nenvoy_server_memory_allocated{} 5314560\nenvoy_server_memory_allocated_x{} 1\n"
	if got := gauge(stats, "envoy_server_memory_allocated"); got != 5314560 {
		t.Errorf("got %v", got)
	}
	if got := gauge(stats, "envoy_server_uptime"); got != 0 {
		t.Errorf("a value that is not there: %v", got)
	}
}

func TestImagesAreReplaced(t *testing.T) {
	d := &demo{references: map[string]string{"tulle.dev/operator:dev": "registry.example/t/operator:0a1b"}}
	got := d.withImages("image: tulle.dev/operator:dev\nargs: [--image=tulle.dev/operator:dev, tulle.dev/other:dev]")
	if want := "image: registry.example/t/operator:0a1b\nargs: [--image=registry.example/t/operator:0a1b, tulle.dev/other:dev]"; got != want {
		t.Errorf("got %s", got)
	}
}

func TestGivenClusterNeedsARegistry(t *testing.T) {
	_, err := (&givenCluster{kubeconfig: "x"}).start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "REGISTRY=") {
		t.Errorf("got %v, want what to set", err)
	}
}

func TestSettingsOfTheLab(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "kubectl"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := shellSettings(t.Context(), "export KUBECONFIG='/a b'\nexport KUBECACHEDIR=/c\nexport TULLE_ENVOY_IMAGE=tulle.dev/envoy:1\nexport PATH='"+folder+"':\"$PATH\"\n")
	want := labSettings{kubeconfig: "/a b", cache: "/c", envoyImage: "tulle.dev/envoy:1", kubectl: filepath.Join(folder, "kubectl")}
	if err != nil || got != want {
		t.Errorf("got %+v %v, want %+v", got, err, want)
	}
	if _, err := shellSettings(t.Context(), ""); err == nil {
		t.Error("no settings, and no error")
	}
}

func TestStepsStopAtTheFirstError(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	c := newConsole(&out, func() time.Time { now = now.Add(30 * time.Second); return now })
	err := c.run(t.Context(), []step{
		{"first", func(context.Context) (string, error) { return "done", nil }},
		{"second", func(context.Context) (string, error) { return "", io.ErrUnexpectedEOF }},
		{"third", func(context.Context) (string, error) { panic("must not run") }},
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "step 2 of 3, second") {
		t.Errorf("got %v, want the second step's error", err)
	}
	if !strings.Contains(out.String(), "first         done\n") {
		t.Errorf("printed %q", out.String())
	}
}
