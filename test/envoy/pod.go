package envoy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy/fakeauth"
	"github.com/tulle-mesh/tulle/test/netns"
)

// callTimeout bounds a call that has no limit of its own. It is longer than the on-demand timeout.
const callTimeout = 15 * time.Second

// Pod is a pod of a world: a network namespace with a backend, a client, and a proxy when it is meshed.
type Pod struct {
	w         *World
	ref       ref
	object    *corev1.Pod
	addresses []netip.Addr
	ns        *netns.NS
	client    *echo.Client
	backends  []*echo.Server
	proxy     *proxy // nil when it is not meshed
}

func (w *World) startPod(object *corev1.Pod) (*Pod, error) {
	p := &Pod{w: w, ref: refOf(object), object: object}
	var err error
	if p.addresses, err = addressesOf(object); err != nil {
		return nil, err
	}
	if p.ns, err = w.fabric.AddPod(p.addresses...); err != nil {
		return nil, err
	}
	p.client = echo.NewClient(echo.ClientOptions{Dial: p.ns.DialContext})
	// A native sidecar starts before the app.
	if injected(object) {
		if err := p.startProxy(); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	for _, c := range object.Spec.Containers {
		if err := p.startBackend(c); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	return p, nil
}

// startBackend plays a container of the echo program.
func (p *Pod) startBackend(c corev1.Container) error {
	if len(c.Args) == 0 || c.Args[0] != "serve" {
		return nil
	}
	config, err := echo.ParseConfig(append([]string{"-name=" + p.ref.name, "-version=" + p.object.Labels["version"]}, c.Args[1:]...))
	if err != nil {
		return fmt.Errorf("%s: container %s: args: %w", p.ref, c.Name, err)
	}
	server, err := echo.Start(config, p.ns.Listen)
	if err != nil {
		return err
	}
	p.backends = append(p.backends, server)
	return nil
}

func (p *Pod) startProxy() error {
	dir, err := p.w.podDir(p.ref)
	if err != nil {
		return err
	}
	host := controlPlane6
	if p.addresses[0].Is4() {
		host = controlPlane4
	}
	p.proxy, err = startProxy(p.ns, proxyOptions{
		name: p.name(), node: p.w.fabric.NS, address: p.addresses[0], dir: dir, binary: binary(p.w.t, p.w.options.version),
		token: fakeauth.Token(p.ref.namespace, p.ref.name), caBundle: p.w.serverCA.bundle(),
		xdsHost: host.String(), xdsPort: controlPlanePort, xdsName: controlPlaneName,
		moreStats: p.w.options.moreStats, eviction: p.w.options.statsEviction,
	})
	return err
}

func (p *Pod) waitReady() error {
	if p.proxy == nil {
		return nil
	}
	return p.proxy.waitReady()
}

func (p *Pod) close() error {
	p.client.Close()
	var errs error
	if p.proxy != nil {
		errs = p.proxy.stop()
	}
	for _, b := range p.backends {
		errs = errors.Join(errs, b.Close())
	}
	return errors.Join(errs, p.ns.Close())
}

func (p *Pod) name() string { return p.ref.namespace + "/" + p.ref.name }

// Meshed reports whether the pod has a proxy.
func (p *Pod) Meshed() bool { return p.proxy != nil }

// IP4 returns the pod's IPv4 address.
func (p *Pod) IP4() netip.Addr { return p.ip(netip.Addr.Is4) }

// IP6 returns the pod's IPv6 address.
func (p *Pod) IP6() netip.Addr { return p.ip(netip.Addr.Is6) }

func (p *Pod) ip(is func(netip.Addr) bool) netip.Addr {
	p.w.t.Helper()
	for _, a := range p.addresses {
		if is(a) {
			return a
		}
	}
	p.w.t.Fatalf("%s has no address of that family: %v", p.ref, p.addresses)
	return netip.Addr{}
}

// RestartProxy replaces the pod's Envoy by a fresh one, which has asked for nothing yet.
func (p *Pod) RestartProxy() {
	p.w.t.Helper()
	p.RestartProxyUnready()
	p.w.check(p.waitReady())
	p.w.check(p.w.waitSynced())
}

// RestartProxyUnready is RestartProxy that does not wait until the fresh Envoy is ready.
func (p *Pod) RestartProxyUnready() {
	p.w.t.Helper()
	p.w.check(p.proxy.stop())
	p.w.check(p.startProxy())
}

// ForgetAndRestartProxy is RestartProxy as the first pod of a workload of its own, of which the control plane has learned
// nothing yet: what the proxy holds afterwards is what it asked for itself.
func (p *Pod) ForgetAndRestartProxy() {
	p.w.t.Helper()
	p.w.ForgetAndRestartProxies(p)
}

// ForgetAndRestartProxies is ForgetAndRestartProxy of several pods at the same time.
func (w *World) ForgetAndRestartProxies(pods ...*Pod) {
	w.t.Helper()
	for _, p := range pods {
		w.owners.Store(p.name(), fmt.Sprintf("%s-%d", p.name(), w.writes))
		p.RestartProxyUnready()
	}
	w.check(inParallel(pods, (*Pod).waitReady))
	w.check(w.waitSynced())
}

// Ready returns the status that the kubelet's startup probe of the proxy gets; 0 when nobody answers.
func (p *Pod) Ready() int {
	status, err := p.proxy.ready()
	if err != nil {
		return 0
	}
	return status
}

// Dial opens a connection from the pod.
func (p *Pod) Dial(ctx context.Context, address string) (net.Conn, error) {
	return p.ns.DialContext(ctx, "tcp", address)
}

// Listen opens a port of the pod, as an app of it would.
func (p *Pod) Listen(address string) (net.Listener, error) { return p.ns.Listen("tcp", address) }

// Client returns a new client in the pod.
func (p *Pod) Client(keepAlive bool) *echo.Client {
	c := echo.NewClient(echo.ClientOptions{Dial: p.ns.DialContext, KeepAlive: keepAlive})
	p.w.t.Cleanup(c.Close)
	return c
}

// Call sends one request from the pod, on a connection of its own, and returns what came back.
func (p *Pod) Call(protocol echo.Protocol, r echo.Request) (*echo.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return p.client.Call(ctx, protocol, r)
}

// MustCall is Call that fails the test unless a backend answered.
func (p *Pod) MustCall(protocol echo.Protocol, r echo.Request) *echo.Response {
	p.w.t.Helper()
	resp, err := p.Call(protocol, r)
	if err != nil {
		p.w.t.Fatalf("%s calls %s over %s: %v", p.ref, r.Address, protocol, err)
	}
	if resp.Answer == nil {
		p.w.t.Fatalf("%s calls %s over %s: status %d %q %v, from no backend", p.ref, r.Address, protocol, resp.Status, resp.Text, resp.Header)
	}
	return resp
}

// Get sends a GET request over HTTP/1.1 to a URL such as http://10.96.0.5:80/path, and fails the test unless it gets a response.
// The response may be a proxy's: see its Status and Text.
func (p *Pod) Get(url string) *echo.Response {
	p.w.t.Helper()
	address, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	resp, err := p.Call(echo.HTTP1, echo.Request{Address: address, Path: path})
	if err != nil {
		p.w.t.Fatalf("%s gets %s: %v", p.ref, url, err)
	}
	return resp
}

// Count returns the number of requests that the pod's backends got.
func (p *Pod) Count() int {
	n := 0
	for _, b := range p.backends {
		n += b.Count()
	}
	return n
}

// Connections returns the number of connections that were opened to the pod's backends, also by whom they never answered.
func (p *Pod) Connections() int {
	n := 0
	for _, b := range p.backends {
		n += b.Connections()
	}
	return n
}

// SettledHeap returns the bytes of heap that the pod's Envoy has in use, once that has stopped changing.
func (p *Pod) SettledHeap() int64 {
	p.w.t.Helper()
	const quiet, near = 5, 4 << 10
	var last int64
	same := 0
	for deadline := time.Now().Add(readyTimeout); same < quiet && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		now, err := p.proxy.allocated()
		p.w.check(err)
		if d := now - last; d < near && d > -near {
			same++
		} else {
			same = 0
		}
		last = now
	}
	return last
}

// Stats returns the statistics of the pod's Envoy whose name matches a regular expression.
func (p *Pod) Stats(filter string) map[string]int64 {
	p.w.t.Helper()
	stats, err := p.proxy.stats(filter)
	p.w.check(err)
	return stats
}

// Stat returns the sum of the statistics whose name matches a regular expression.
func (p *Pod) Stat(filter string) int64 {
	p.w.t.Helper()
	var sum int64
	for _, n := range p.Stats(filter) {
		sum += n
	}
	return sum
}

// ConfigDump returns the configuration of the pod's Envoy as JSON, with endpoints.
func (p *Pod) ConfigDump() string {
	p.w.t.Helper()
	return p.Admin(http.MethodGet, "/config_dump?include_eds")
}

// Admin sends a request to the admin interface of the pod's Envoy.
func (p *Pod) Admin(method, path string) string {
	p.w.t.Helper()
	text, err := p.proxy.ask(method, path)
	p.w.check(err)
	return string(text)
}

// AccessLog returns what the pod's Envoy wrote to its standard output.
func (p *Pod) AccessLog() string {
	p.w.t.Helper()
	text, err := os.ReadFile(p.proxy.accessLogFile())
	p.w.check(err)
	return string(text)
}
