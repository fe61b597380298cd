package dataplane

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"github.com/tulle-mesh/tulle/test/envoy"
)

// Ports of the stock Envoys: those of the server's for mTLS, and those of the client's for one hop and for two. Each is that of the app
// with a number added.
const (
	secureOffset = 1000
	twoHops      = 2000
	oneHop       = 3000
	twoHopsHTTP2 = 4000
)

// stockListener is a listener of a stock Envoy, with a cluster of its own behind it.
type stockListener struct {
	Protocol
	Listen, Connect string
	ListenPort      int
	ConnectPort     int
	// ServeTLS and CallTLS say on which side there is mTLS.
	ServeTLS, CallTLS bool
	// Upgrade has the cluster speak HTTP/2, whatever the client speaks.
	Upgrade bool
}

// HTTP says whether requests are forwarded, not bytes.
func (l stockListener) HTTP() bool { return l.Name != tcp }

// HTTP2 says whether the cluster speaks HTTP/2.
func (l stockListener) HTTP2() bool { return l.Upgrade || l.Name == http2 || l.Name == grpc }

// stockConfig is as little as there can be: nothing is said of which Envoy has a default.
const stockConfig = `{{- define "tls"}}
          common_tls_context:
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}
            tls_certificates:
            - certificate_chain: {filename: "{{.Dir}}/cert.pem"}
              private_key: {filename: "{{.Dir}}/key.pem"}
            validation_context:
              trusted_ca: {filename: "{{.Dir}}/roots.pem"}
              match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: "spiffe://cluster.local/"}}]
{{- end -}}
{{- $ := . -}}
static_resources:
  listeners:
{{- range .Listeners}}
  - name: in-{{.ListenPort}}
    address: {socket_address: {address: {{.Listen}}, port_value: {{.ListenPort}}}}
    filter_chains:
    - filters:
{{- if .HTTP}}
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in-{{.ListenPort}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: "/"}, route: {cluster: out-{{.ListenPort}}}}]
{{- else}}
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: in-{{.ListenPort}}
          cluster: out-{{.ListenPort}}
{{- end}}
{{- if .ServeTLS}}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
{{- template "tls" $}}
{{- end}}
{{- end}}
  clusters:
{{- range .Listeners}}
  - name: out-{{.ListenPort}}
    type: STATIC
    load_assignment:
      cluster_name: out-{{.ListenPort}}
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: {{.Connect}}, port_value: {{.ConnectPort}}}}}}]}]
{{- if .HTTP2}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
{{- end}}
{{- if .CallTLS}}
    transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
{{- template "tls" $}}
{{- end}}
{{- end}}
`

// serverListeners take mTLS and hand on to the app.
func serverListeners(protocols []Protocol, address string) []stockListener {
	var all []stockListener
	for _, p := range protocols {
		all = append(all, stockListener{
			Protocol: p, Listen: address, ListenPort: p.Port + p.Offset + secureOffset, ServeTLS: true, Connect: "127.0.0.1", ConnectPort: p.Port,
		})
	}
	return all
}

// clientListeners send to the server's Envoy by mTLS, or to the app itself.
func clientListeners(protocols []Protocol, server string) []stockListener {
	var all []stockListener
	for _, p := range protocols {
		all = append(all,
			stockListener{
				Protocol: p, Listen: "127.0.0.1", ListenPort: p.Port + p.Offset + twoHops, Connect: server, ConnectPort: p.Port + p.Offset + secureOffset, CallTLS: true,
			},
			stockListener{Protocol: p, Listen: "127.0.0.1", ListenPort: p.Port + p.Offset + oneHop, Connect: server, ConnectPort: p.Port})
		if p.Name == http1 {
			all = append(all, stockListener{
				Protocol: p, Listen: "127.0.0.1", ListenPort: p.Port + p.Offset + twoHopsHTTP2, Connect: server, ConnectPort: p.Port + p.Offset + secureOffset, CallTLS: true, Upgrade: true,
			})
		}
	}
	return all
}

// startStock starts a stock Envoy on a host, and returns its process. It ends with the benchmark.
func startStock(t testing.TB, w *envoy.World, host *envoy.Pod, account string, listeners []stockListener) int {
	t.Helper()
	dir := t.TempDir()
	writeCertificate(t, dir, w.CertificateOf(account, "bench", account), w.Roots())
	var config bytes.Buffer
	err := template.Must(template.New("stock").Parse(stockConfig)).Execute(&config, map[string]any{"Dir": dir, "Listeners": listeners})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(file, config.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(envoy.Binary(t, envoy.Pinned), "--config-path", file,
		"--concurrency", strconv.Itoa(envoy.Workers), "--log-level", "warning", "--disable-hot-restart")
	start(t, host, cmd, "stock Envoy of "+account)
	return cmd.Process.Pid
}

// start starts a program on a host, and shows what it said when the benchmark fails.
func start(t testing.TB, host *envoy.Pod, cmd *exec.Cmd, name string) {
	t.Helper()
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := host.Start(cmd); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended, which the log says
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, said.String())
		}
	})
}

func writeCertificate(t testing.TB, dir string, c tls.Certificate, roots []byte) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"cert.pem":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		"key.pem":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"roots.pem": roots,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(fmt.Errorf("%s: %w", name, err))
		}
	}
}
