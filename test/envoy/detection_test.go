package envoy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// Waits of the listeners for first bytes that did not come in time, and changes of the listeners.
const (
	detectionTimeouts = `^listener\.(outbound|inbound)\.downstream_pre_cx_timeout$`
	listenerChanges   = `^listener_manager\.(listener_(added|modified|removed|in_place_updated|create_success|create_failure)|total_listeners_draining|total_filter_chains_draining|lds\.version)$`
	listenerDrains    = `^listener\.(outbound|inbound)\.(downstream_cx_destroy_local_drain|downstream_cx_transport_socket_connect_timeout)$`
)

// What namespace b says of port 7000, one after the other.
func declared(i int) string {
	name := []string{"tcp-x", "http-x", "grpc", "mysql"}[i%4]
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: b%d, namespace: b}
spec: {clusterIP: 10.96.2.%d, selector: {app: b}, ports: [{name: %s, port: 7000}, {name: tcp-more, port: %d}]}
`, i, i+1, name, 7100+i)
}

// Whatever a namespace declares of a port changes no proxy of another namespace: not those that run, whose connections
// stay open, and not those that start later.
func TestDeclarationsOfOneNamespace(t *testing.T) {
	w := envoy.Start(t, "testdata/undeclared.yaml")
	client, web, lines := w.Pod("client-a"), w.Pod("web"), w.Pod("lines")
	request := echo.Request{Address: "10.96.1.1:7000"}
	loads := []*envoy.Load{
		client.StartLoad(1, envoy.Call{Protocol: echo.HTTP1, Request: request}),
		client.StartLoad(1, envoy.Call{Protocol: echo.HTTP2, Request: request, KeepAlive: true}),
		client.StartLoad(1, envoy.Call{Protocol: echo.TCP, Request: echo.Request{Address: "10.96.1.2:7000"}}),
	}
	long := open(t, client, "10.96.1.2:7000")
	long.say(t)
	pods := []*envoy.Pod{client, web, lines}
	before := make([]map[string]int64, len(pods))
	for i, p := range pods {
		before[i] = p.Stats(listenerChanges + "|" + listenerDrains)
	}

	for i := range 8 {
		w.Apply(declared(i))
	}
	w.Apply("apiVersion: mesh.tulle.dev/v1alpha1\nkind: Mesh\nmetadata: {name: b, namespace: b}\nspec:\n  services:\n" +
		"  - {name: b0, ports: [{port: 7000, protocol: HTTP}]}\n  - {name: b1, ports: [{port: 7000, protocol: TCP}]}\n")
	for i := range 8 {
		w.Delete("Service", fmt.Sprintf("b/b%d", i))
	}
	w.Apply(declared(1))

	for i, p := range pods {
		if after := p.Stats(listenerChanges + "|" + listenerDrains); len(after) == 0 || fmt.Sprint(after) != fmt.Sprint(before[i]) {
			t.Errorf("listeners of pod %d changed from %v to %v", i, before[i], after)
		}
	}
	long.say(t)
	sent := 0
	for _, l := range loads {
		report := l.Stop()
		if report.Failed() > 0 {
			t.Error(report)
		}
		sent += report.Sent
	}
	if n := web.Count() + lines.Count(); n != sent+1 { // and the long connection
		t.Errorf("the backends counted %d, %d were sent", n, sent+1)
	}

	// New pods: those of namespace a find out as before, those of b know.
	w.Apply("apiVersion: v1\nkind: Pod\nmetadata: {name: late-a, namespace: a}\nspec: {containers: [{name: app}]}\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: late-b, namespace: b}\nspec: {containers: [{name: app}]}\n")
	for name, skips := range map[string]bool{"late-a": false, "late-b": true} {
		late := w.Pod(name)
		if got := slices.Contains(strings.Split(late.Annotation(sidecar.SkipDetectionAnnotation), ","), "7000"); got != skips {
			t.Errorf("%s skips port 7000: %v, want %v", name, got, skips)
		}
		late.MustCall(echo.HTTP1, request)
		if detected := late.Stat(`^http\.outbound\.downstream_rq_total$`); (detected == 0) != skips {
			t.Errorf("%s detected %d requests as HTTP", name, detected)
		}
	}
}

// longConnection is a connection to a backend that echoes lines.
type longConnection struct {
	net.Conn
	lines *bufio.Reader
}

func open(t *testing.T, p *envoy.Pod, address string) *longConnection {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := p.Dial(ctx, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &longConnection{c, bufio.NewReader(c)}
}

// say sends a line and waits for its echo.
func (l *longConnection) say(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(l, "still there\n"); err != nil {
		t.Fatal(err)
	}
	if text, err := l.lines.ReadString('\n'); err != nil || !strings.Contains(text, "still there") {
		t.Fatalf("the connection says %q, %v", text, err)
	}
}

// Where the server speaks first, its greeting comes without a wait for the client's first bytes if the port is well known, in
// the root's list, or declared in the client's own namespace; elsewhere it comes after that wait.
func TestServerSpeaksFirst(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		w := envoy.Start(t, "testdata/greetings.yaml", envoy.On(v))
		client, server, bare := w.Pod("client"), w.Pod("server"), w.Pod("bare")
		for _, c := range []struct {
			name, address string
			server        *envoy.Pod
			waits         bool
		}{
			{"well known", "10.96.0.5:3306", server, false},
			{"of the root's list", "10.96.0.5:7001", server, false},
			{"declared", "10.96.0.5:7002", server, false},
			{"well known, by the pod's address", server.IP4().String() + ":3306", server, false},
			{"well known, without a proxy at the server", "10.96.0.6:3306", bare, false},
			{"unlisted", "10.96.0.5:7003", server, true},
		} {
			w.Run(c.name, func(t *testing.T) {
				out, in, counted := client.Stat(detectionTimeouts), server.Stat(detectionTimeouts), c.server.Count()
				if r := client.MustCall(echo.Greeting, echo.Request{Address: c.address}); r.Name == "" {
					t.Errorf("%+v", r)
				}
				if got := client.Stat(detectionTimeouts) - out; (got == 1) != c.waits || got > 1 {
					t.Errorf("the client's proxy gave up on the first bytes %d times", got)
				}
				if got := server.Stat(detectionTimeouts) - in; got != 0 {
					t.Errorf("the server's proxy gave up on the first bytes %d times", got)
				}
				if n := c.server.Count() - counted; n != 1 {
					t.Errorf("the server counted %d", n)
				}
			})
		}
	})
}
