package dataplane

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/bench/process"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Protocol is what a load speaks.
type Protocol struct {
	// Name is what the load generator calls it, Title what people do.
	Name, Title string
	// Port of the server, and what is added to it where a stock Envoy needs a listener for each protocol.
	Port, Offset int
}

// Names of protocols.
const (
	http1 = "http1"
	http2 = "http2"
	grpc  = "grpc"
	tcp   = "tcp"
)

func protocols() []Protocol {
	return []Protocol{
		{http1, "HTTP/1.1", 8080, 0},
		{http2, "HTTP/2", 8080, 10},
		{grpc, "gRPC", 8079, 0},
		{tcp, "TCP", 8078, 0},
	}
}

// controlPort is where the server says how many requests it has answered.
const controlPort = 8077

// server is a running fortio server.
type server struct {
	pid     int
	control string
	client  *http.Client
}

// path is a way from a client to a server.
type path struct {
	name    string
	from    *envoy.Pod
	address func(Protocol) string
	server  *server
	// proxies are the processes on the way, the client's first.
	proxies []int
}

// Names of the paths: what is measured, and what with.
const (
	direct    = "direct"
	stockOne  = "stock Envoy, one hop"
	stockTwo  = "stock Envoy, two hops"
	tulleName = "Tulle"
	// stockHTTP2 carries HTTP/1.1 only.
	stockHTTP2 = "stock Envoy, two hops, HTTP/2 between them"
)

// Addresses outside of the mesh.
const (
	callerHost = "192.168.77.1"
	originHost = "192.168.77.2"
	serviceIP  = "10.96.0.5"
)

// paths starts servers, stock Envoys and sidecars. All Envoys run on one CPU, and all else on the other.
func paths(t testing.TB, o Options) []*path {
	t.Helper()
	w := envoy.Start(t, "testdata/traffic.yaml")
	caller := w.AddHost("caller", nil, netip.MustParseAddr(callerHost))
	origin := w.AddHost("origin", nil, netip.MustParseAddr(originHost))
	outside := startServer(t, o, origin)
	stockServer := startStock(t, w, origin, "server", serverListeners(protocols(), originHost))
	stockClient := startStock(t, w, caller, "client", clientListeners(protocols(), originHost))
	all := []*path{
		{direct, caller, at(originHost, 0), outside, nil},
		{stockOne, caller, at("127.0.0.1", oneHop), outside, []int{stockClient}},
		{stockTwo, caller, at("127.0.0.1", twoHops), outside, []int{stockClient, stockServer}},
		{stockHTTP2, caller, at("127.0.0.1", twoHopsHTTP2), outside, []int{stockClient, stockServer}},
		sidecars(t, w, o),
	}
	awaitPaths(t, o, all)
	return all
}

// sidecars is the way through the mesh.
func sidecars(t testing.TB, w *envoy.World, o Options) *path {
	t.Helper()
	client, meshed := w.Pod("client"), w.Pod("server")
	return &path{tulleName, client, at(serviceIP, 0), startServer(t, o, meshed), []int{client.ProxyPID(), meshed.ProxyPID()}}
}

// at returns the address of a protocol on a host: the server's own, or that of a stock Envoy's listener.
func at(host string, offset int) func(Protocol) string {
	return func(p Protocol) string {
		if offset > 0 {
			return fmt.Sprintf("%s:%d", host, p.Port+p.Offset+offset)
		}
		return fmt.Sprintf("%s:%d", host, p.Port)
	}
}

// awaitPaths moves the proxies to their CPU and returns when each path carries each protocol.
func awaitPaths(t testing.TB, o Options, all []*path) {
	t.Helper()
	for _, p := range all {
		for _, pid := range p.proxies {
			if err := process.Pin(pid, []int{o.ProxyCPU}); err != nil {
				t.Fatal(err)
			}
		}
		for _, protocol := range protocols() {
			if !p.carries(protocol) {
				continue
			}
			var err error
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				if _, err = p.load(o, protocol, 0, 100*time.Millisecond); err == nil {
					break
				}
			}
			if err != nil {
				t.Fatalf("%s, %s: %v", p.name, protocol.Title, err)
			}
		}
	}
}

// carries says whether a protocol can be measured on a path.
func (p *path) carries(protocol Protocol) bool { return p.name != stockHTTP2 || protocol.Name == http1 }

func startServer(t testing.TB, o Options, host *envoy.Pod) *server {
	t.Helper()
	cmd := exec.Command(o.Fortio, "serve")
	start(t, host, cmd, "fortio server")
	s := &server{
		pid: cmd.Process.Pid, control: "http://127.0.0.1:" + strconv.Itoa(controlPort),
		client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: host.DialContext, DisableKeepAlives: true}},
	}
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err = s.served(); err == nil {
			return s
		}
	}
	t.Fatalf("fortio server: %v", err)
	return nil
}

// served returns how many requests the server has answered.
func (s *server) served() (int64, error) {
	resp, err := s.client.Get(s.control)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(text), 10, 64)
}

// sample is what one load gave. Times are in milliseconds.
type sample struct {
	P50, P90, P99 float64
	Rate          float64
	// CPU of each proxy per 1,000 requests, in milliseconds, the client's first.
	CPU []float64
	// System is the part of the proxies' CPU that is the kernel's, per 1,000 requests, in milliseconds.
	System float64
	// ClientCPU and ServerCPU are what the generator and the server used, of one CPU.
	ClientCPU, ServerCPU float64
}

// cpu is that of all proxies.
func (s sample) cpu() float64 {
	sum := 0.0
	for _, c := range s.CPU {
		sum += c
	}
	return sum
}

// loadReport is what the generator prints.
type loadReport struct {
	Sent        int64   `json:"sent"`
	Failed      int64   `json:"failed"`
	Rate        float64 `json:"rate"`
	P50         float64 `json:"p50"`
	P90         float64 `json:"p90"`
	P99         float64 `json:"p99"`
	Connections int64   `json:"connections"`
	CPU         float64 `json:"cpu"`
}

// load sends requests at a rate, or as many as there can be when it is 0, and measures. It is an error when one fails, when a connection
// breaks, or when the server answered other than so many: nothing is sent twice.
func (p *path) load(o Options, protocol Protocol, rate float64, duration time.Duration) (sample, error) {
	pids := append([]int{p.server.pid}, p.proxies...)
	servedBefore, err := p.server.served()
	if err != nil {
		return sample{}, err
	}
	before, err := cpuOf(pids)
	if err != nil {
		return sample{}, err
	}
	systemBefore, err := systemOf(p.proxies)
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	report, err := p.generate(o, protocol, rate, duration)
	if err != nil {
		return sample{}, err
	}
	took := time.Since(began)
	after, err := cpuOf(pids)
	if err != nil {
		return sample{}, err
	}
	systemAfter, err := systemOf(p.proxies)
	if err != nil {
		return sample{}, err
	}
	servedAfter, err := p.server.served()
	if err != nil {
		return sample{}, err
	}
	if served := servedAfter - servedBefore; report.Failed > 0 || served != report.Sent || report.Connections != int64(o.Callers) {
		return sample{}, fmt.Errorf("%d of %d requests failed, the server answered %d, over %d connections of %d callers",
			report.Failed, report.Sent, served, report.Connections, o.Callers)
	}
	s := sample{P50: report.P50, P90: report.P90, P99: report.P99, Rate: report.Rate, ClientCPU: report.CPU}
	s.System = float64((systemAfter - systemBefore).Microseconds()) / float64(report.Sent)
	s.ServerCPU = float64(after[0]-before[0]) / float64(took)
	for i := range p.proxies {
		s.CPU = append(s.CPU, float64((after[i+1]-before[i+1]).Microseconds())/float64(report.Sent))
	}
	return s, nil
}

func (p *path) generate(o Options, protocol Protocol, rate float64, duration time.Duration) (*loadReport, error) {
	var out, errs strings.Builder
	cmd := exec.Command(o.Fortio, "load", "-protocol", protocol.Name, "-address", p.address(protocol),
		"-rate", fmt.Sprint(rate), "-callers", strconv.Itoa(o.Callers), "-duration", duration.String())
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := p.from.Start(cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, errs.String())
	}
	var r loadReport
	return &r, json.Unmarshal([]byte(out.String()), &r)
}

func cpuOf(pids []int) ([]time.Duration, error) {
	var all []time.Duration
	for _, pid := range pids {
		used, err := process.CPU(pid)
		if err != nil {
			return nil, err
		}
		all = append(all, used)
	}
	return all, nil
}

// systemOf returns how long the kernel has worked for processes.
func systemOf(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		used, err := process.System(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}
