package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// findings are what the demo measured.
type findings struct {
	mesh    string // kubectl get mesh
	load    loadReport
	counted map[backend]int64
	span    span // when the counted traffic was sent
	// stopped is when the traffic before that ended, and quiet a later moment at which Prometheus had all of it.
	stopped, quiet time.Time
	golden         golden
	peers          []peer
	// outsider is what a client without a proxy got.
	outsider string
	answered bool
	memory   []proxyMemory
}

// span is a time span, from begin to end.
type span struct{ begin, end time.Time }

func (s span) holds(t time.Time) bool { return !t.Before(s.begin) && !t.After(s.end) }

// peer is a client as the proxies of a service saw it: who its certificate says it is.
type peer struct {
	service, identity, tls, serial string
	count                          int64
}

// proxyMemory is what one proxy uses, in bytes.
type proxyMemory struct {
	pod             string
	allocated, held float64
}

// accessEntry is the part of a proxy's access log that names the peer.
type accessEntry struct {
	Time   time.Time `json:"time"`
	Peer   string    `json:"peer"`
	Serial string    `json:"peer_serial"`
	TLS    string    `json:"tls_version"`
	Flags  string    `json:"flags"`
}

// refused marks connections that no filter chain took.
const refused = "NR"

func (d *demo) collectEvidence(ctx context.Context) (string, error) {
	for _, collect := range []func(context.Context) error{d.collectPeers, d.tryFromOutside, d.collectMemory, d.collectMesh, d.collectGolden, d.leaveTraffic} {
		if err := collect(ctx); err != nil {
			return "", err
		}
	}
	return "collected", nil
}

func (d *demo) collectMesh(ctx context.Context) error {
	var err error
	d.findings.mesh, err = d.kubectl.run(ctx, "-n", sampleNamespace, "get", "mesh")
	return err
}

// logPatience is how long Envoy may keep log lines to itself.
const logPatience = 15 * time.Second

// collectPeers reads the access logs of the proxies on the serving side, until they have what the services counted.
func (d *demo) collectPeers(ctx context.Context) error {
	d.console.set("reading access logs")
	want := map[string]int64{}
	for b, count := range d.findings.counted {
		want[b.service] += count
	}
	deadline := time.Now().Add(logPatience)
	for _, service := range []string{"productpage", "details", "reviews", "ratings", "datastore"} {
		peers, err := d.loggedPeers(ctx, service)
		for err == nil && logged(peers) < want[service] && time.Now().Before(deadline) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(500 * time.Millisecond):
			}
			peers, err = d.loggedPeers(ctx, service)
		}
		if err != nil {
			return err
		}
		d.findings.peers = append(d.findings.peers, peers...)
	}
	return nil
}

func (d *demo) loggedPeers(ctx context.Context, service string) ([]peer, error) {
	log, err := d.kubectl.run(ctx, "-n", sampleNamespace, "logs", "-l", "app="+service, "-c", sidecar.ProxyContainer,
		"--tail=-1", "--since-time="+d.findings.span.begin.UTC().Format(time.RFC3339))
	return peersIn(service, log, d.findings.span), err
}

func logged(peers []peer) int64 {
	var sum int64
	for _, p := range peers {
		sum += p.count
	}
	return sum
}

// peersIn sums up an access log by peer. It counts by the time that a line is about, which may be long before it was printed.
// Lines that are no access log are Envoy's own.
func peersIn(service, log string, during span) []peer {
	var peers []peer
	lines := bufio.NewScanner(strings.NewReader(log))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var entry accessEntry
		if json.Unmarshal(lines.Bytes(), &entry) != nil || !during.holds(entry.Time) || entry.Flags == refused {
			continue
		}
		i := slices.IndexFunc(peers, func(p peer) bool { return p.identity == entry.Peer && p.tls == entry.TLS })
		if i < 0 {
			peers = append(peers, peer{service: service, identity: entry.Peer, tls: entry.TLS})
			i = len(peers) - 1
		}
		peers[i].serial = entry.Serial
		peers[i].count++
	}
	return peers
}

// tryFromOutside asks reviews from a pod without a proxy.
func (d *demo) tryFromOutside(ctx context.Context) error {
	image := d.references[bookinfoImage]
	answer, err := d.kubectl.run(ctx, "-n", "default", "run", "tulle-demo-outsider", "--image="+image, "--image-pull-policy=IfNotPresent",
		"--restart=Never", "--rm", "--attach", "--quiet", "--pod-running-timeout=60s", "--",
		"get", "-timeout=5s", "http://reviews."+sampleNamespace+":9080/reviews/0")
	if err == nil {
		d.findings.answered = true
		d.findings.outsider = "ANSWERED: " + strings.TrimSpace(answer)
		return nil
	}
	reason := regexp.MustCompile(`bookinfo: (.*)`).FindStringSubmatch(answer + err.Error())
	if reason == nil {
		return err
	}
	// The last part of a Go error is its cause.
	d.findings.outsider = "refused: " + reason[1][strings.LastIndex(reason[1], ": ")+len(": "):]
	return nil
}

// collectMemory asks every proxy.
func (d *demo) collectMemory(ctx context.Context) error {
	pods, err := d.pods(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/stats/prometheus", pod.Namespace, pod.Name, sidecar.StatsPort)
		stats, err := d.kubectl.run(ctx, "get", "--raw", path)
		if err != nil {
			return err
		}
		d.findings.memory = append(d.findings.memory, proxyMemory{
			pod: pod.Name, allocated: gauge(stats, "envoy_server_memory_allocated"), held: gauge(stats, "envoy_server_memory_physical_size"),
		})
	}
	return nil
}

// gauge finds an unlabelled value in Prometheus' text format; 0 when it is not there.
func gauge(stats, name string) float64 {
	match := regexp.MustCompile(`(?m)^` + name + `(?:\{[^}]*\})? ([0-9.e+]+)$`).FindStringSubmatch(stats)
	if match == nil {
		return 0
	}
	value, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		return 0
	}
	return value
}
