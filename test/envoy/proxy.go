package envoy

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/bootstrap"
	"github.com/tulle-mesh/tulle/internal/redirect"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/test/netns"
)

// Workers is the number of threads that forward, of each Envoy.
const Workers = 2

const (
	// readyTimeout bounds the start of an Envoy, on a machine that is busy with several.
	readyTimeout = 30 * time.Second
	// pollInterval is how often what has no signal is looked at.
	pollInterval = 10 * time.Millisecond
	// logLevelVariable is the environment variable that makes Envoys log more than warnings.
	logLevelVariable = "TULLE_ENVOY_LOG_LEVEL"
)

// proxy is a running Envoy in a pod's namespace.
type proxy struct {
	name    string
	ns      *netns.NS
	address netip.Addr // of the pod
	dir     string
	cmd     *exec.Cmd
	done    chan struct{} // closed when the process has ended
	admin   *http.Client
	probe   *http.Client // the kubelet's
}

// proxyOptions say how to start a proxy.
type proxyOptions struct {
	name      string    // namespace/pod
	node      *netns.NS // where the kubelet's probes come from
	address   netip.Addr
	binary    string
	dir       string // an empty directory of its own
	token     string
	caBundle  []byte
	xdsHost   string
	xdsPort   uint32
	xdsName   string // DNS name in the control plane's certificate
	moreStats []string
	eviction  time.Duration
}

// startProxy redirects the pod's traffic and starts Envoy as the kubelet would: as its own user, with the product's
// bootstrap, and with the files of the credentials volume.
func startProxy(ns *netns.NS, o proxyOptions) (*proxy, error) {
	if err := ns.Do(func() error { _, err := redirect.Apply(redirect.Config{}); return err }); err != nil {
		return nil, err
	}
	// Away from the logs: Envoy watches this directory.
	credentials := filepath.Join(o.dir, "credentials")
	if err := writeCredentials(credentials, o); err != nil {
		return nil, err
	}
	p := &proxy{name: o.name, ns: ns, address: o.address, dir: o.dir, done: make(chan struct{})}
	p.probe = &http.Client{Timeout: time.Second, Transport: &http.Transport{DialContext: o.node.DialContext, DisableKeepAlives: true}}
	socket := filepath.Join(o.dir, "admin.sock")
	p.admin = &http.Client{Timeout: readyTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	config, err := bootstrap.JSON(bootstrap.Options{
		NodeID: o.name, NodeCluster: strings.Split(o.name, "/")[0],
		ControlPlaneHost: o.xdsHost, ControlPlanePort: o.xdsPort,
		CredentialsDir: credentials, AdminSocket: socket, MoreStats: o.moreStats, StatsEviction: o.eviction,
	})
	if err != nil {
		return nil, err
	}
	return p, p.run(o.binary, config)
}

// writeCredentials plays the projected volume.
func writeCredentials(dir string, o proxyOptions) error {
	tokenSDS, err := bootstrap.TokenSDS(dir)
	if err != nil {
		return err
	}
	caSDS, err := bootstrap.CASDS(dir, o.xdsName)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{
		bootstrap.TokenFile: o.token, bootstrap.CAFile: string(o.caBundle),
		bootstrap.TokenSDSFile: tokenSDS, bootstrap.CASDSFile: caSDS,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	// The admin socket is made by Envoy itself.
	return os.Chown(o.dir, sidecar.UID, sidecar.GID)
}

func (p *proxy) run(binary, config string) error {
	// Opened here and executed by its descriptor: the binary may lie where only root can look.
	exe, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer exe.Close()
	stdout, err := os.Create(p.accessLogFile())
	if err != nil {
		return err
	}
	defer stdout.Close()
	stderr, err := os.Create(p.logFile())
	if err != nil {
		return err
	}
	defer stderr.Close()
	level := cmp.Or(os.Getenv(logLevelVariable), "warning")
	p.cmd = exec.Command("/proc/self/fd/3",
		"--config-yaml", config, "--concurrency", strconv.Itoa(Workers), "--log-level", level, "--disable-hot-restart")
	p.cmd.ExtraFiles = []*os.File{exe}
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: sidecar.UID, Gid: sidecar.GID}}
	if err := p.ns.Start(p.cmd); err != nil {
		return fmt.Errorf("start Envoy of %s: %w", p.name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // its end is what counts; why is in its log
	}()
	return nil
}

func (p *proxy) accessLogFile() string { return filepath.Join(p.dir, "access.log") }
func (p *proxy) logFile() string       { return filepath.Join(p.dir, "envoy.log") }

// stop kills the process and waits for its end.
func (p *proxy) stop() error {
	err := p.cmd.Process.Kill()
	<-p.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// ready asks the proxy's own readiness, as the kubelet's startup probe does, and returns the status of the answer.
func (p *proxy) ready() (int, error) {
	resp, err := p.probe.Get(fmt.Sprintf("http://%s/ready", netip.AddrPortFrom(p.address, sidecar.StatsPort)))
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// waitReady asks until the proxy is ready.
func (p *proxy) waitReady() error {
	var last error
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(pollInterval) {
		select {
		case <-p.done:
			return fmt.Errorf("Envoy of %s ended: %s\n%s", p.name, p.cmd.ProcessState, p.log())
		default:
		}
		status, err := p.ready()
		switch {
		case err != nil:
			last = err
		case status == http.StatusOK:
			return nil
		default:
			last = errors.New(http.StatusText(status))
		}
	}
	return fmt.Errorf("Envoy of %s is not ready after %s: %w\n%s", p.name, readyTimeout, last, p.log())
}

// ask sends a request to the admin interface.
func (p *proxy) ask(method, path string) ([]byte, error) {
	req, err := http.NewRequest(method, "http://admin"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.admin.Do(req)
	if err != nil {
		return nil, fmt.Errorf("Envoy of %s: %w", p.name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("Envoy of %s: %s: %s: %s", p.name, path, resp.Status, body)
	}
	return body, err
}

// stats returns the counters and gauges whose name matches a regular expression.
func (p *proxy) stats(filter string) (map[string]int64, error) {
	text, err := p.ask(http.MethodGet, "/stats?filter="+url.QueryEscape(filter))
	if err != nil {
		return nil, err
	}
	stats := map[string]int64{}
	for lines := bufio.NewScanner(strings.NewReader(string(text))); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			stats[name] = n
		}
	}
	return stats, nil
}

// allocated returns the bytes of heap in use.
func (p *proxy) allocated() (int64, error) {
	text, err := p.ask(http.MethodGet, "/memory")
	if err != nil {
		return 0, err
	}
	var memory struct {
		Allocated int64 `json:"allocated,string"`
	}
	return memory.Allocated, json.Unmarshal(text, &memory)
}

// log returns the end of the proxy's log, without what every bootstrap is warned about.
func (p *proxy) log() string {
	var kept []string
	for line := range strings.Lines(tail(p.logFile())) {
		if !strings.Contains(line, "Deprecated field") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}
