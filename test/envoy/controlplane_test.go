package envoy_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/test/echo"
	"github.com/tulle-mesh/tulle/test/envoy"
)

// onDemandTimeout is how long a proxy waits for the control plane's word on an address.
const onDemandTimeout = 5 * time.Second

// clockSlack is by how much an Envoy's timer may be early by the test's clock: it begins with the event loop's turn, which takes its time once.
const clockSlack = 50 * time.Millisecond

// outcome is what came of a call, and when.
type outcome struct {
	envoy.Call
	response *echo.Response
	err      error
	took     time.Duration
}

// callAtOnce sends all calls at the same time, each on a connection of its own.
func callAtOnce(p *envoy.Pod, calls []envoy.Call) []outcome {
	outcomes := make([]outcome, len(calls))
	began := time.Now()
	var wg sync.WaitGroup
	for i, c := range calls {
		wg.Go(func() {
			r, err := p.Call(c.Protocol, c.Request)
			outcomes[i] = outcome{c, r, err, time.Since(began)}
		})
	}
	wg.Wait()
	return outcomes
}

// newAddresses calls an address of its own over each protocol: the first two of services have HTTP rules, the others none.
func newAddresses() []envoy.Call {
	var calls []envoy.Call
	for i, p := range echo.Protocols() {
		address := serviceIP(i) + ":80"
		if p == echo.TCP || p == echo.Greeting {
			address = fmt.Sprintf("10.96.0.7:%d", port(p))
		}
		calls = append(calls, envoy.Call{Protocol: p, Request: echo.Request{Address: address, Body: "ping"}})
	}
	return calls
}

const tcpService = `
---
apiVersion: v1
kind: Service
metadata: {name: lines, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  selector: {app: reviews}
  ports: [{name: tcp, port: 9000}, {name: tcp-greeting, port: 9001}]
`

// Without the control plane, what a proxy holds goes on, and what it does not hold is refused, over each protocol in its own
// way, within the on-demand timeout. With the control plane back, it works.
func TestControlPlaneStoppedAndRestarted(t *testing.T) {
	t.Parallel()
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v))
		w.Apply(services(5) + tcpService + meshWithRules(2))
		client := w.Pod("client")
		var loads []*envoy.Load
		for _, held := range []envoy.Call{
			{Protocol: echo.HTTP1, Request: echo.Request{Address: "10.96.0.5:80"}},
			{Protocol: echo.HTTP2, Request: echo.Request{Address: "10.96.0.5:80", Method: "POST", Body: "x"}, KeepAlive: true},
			{Protocol: echo.GRPC, Request: echo.Request{Address: "10.96.0.5:80"}},
			{Protocol: echo.TCP, Request: echo.Request{Address: "10.96.0.5:9000"}},
		} {
			loads = append(loads, client.StartLoad(1, held))
		}

		w.StopControlPlane()
		for _, o := range callAtOnce(client, newAddresses()) {
			if reason := notRefused(o.Protocol, o.response, o.err); reason != "" {
				t.Errorf("%s to a new address without a control plane: %s", o.Protocol, reason)
			}
			if detail, has := refusal(o); has && (!strings.Contains(detail, o.Address) || !strings.Contains(detail, "from the control plane in time")) {
				t.Errorf("%s to a new address without a control plane: %q does not say what is missing, and from where", o.Protocol, detail)
			}
			if o.took < onDemandTimeout-clockSlack || o.took > onDemandTimeout+2*time.Second {
				t.Errorf("%s to a new address without a control plane took %s, want the on-demand timeout, %s", o.Protocol, o.took, onDemandTimeout)
			}
		}
		w.StartControlPlane()
		for _, o := range callAtOnce(client, newAddresses()) {
			if o.err != nil || o.response.Answer == nil {
				t.Errorf("%s with the control plane back: %+v %v", o.Protocol, o.response, o.err)
			}
		}
		w.ReplaceControlPlane()
		w.Apply(reviewsRules)
		if r := client.MustCall(echo.HTTP1, echo.Request{Address: "10.96.0.5:80", Header: map[string]string{"end-user": "jason"}}); r.Version != "v2" {
			t.Errorf("rules applied after the replacement are not followed: %s", r.Version)
		}
		sent := len(newAddresses()) + 1
		for _, l := range loads {
			report := l.Stop()
			if report.Failed() > 0 {
				t.Error(report)
			}
			sent += report.Sent
		}
		if n := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count(); n != sent {
			t.Errorf("the backends counted %d requests, %d were sent and not to be refused", n, sent)
		}
	})
}

// refusal is what a proxy says in place of a backend, over protocols that have words for it.
func refusal(o outcome) (detail string, has bool) {
	switch o.Protocol {
	case echo.HTTP1, echo.HTTP2:
		if o.response == nil {
			return "", true
		}
		return o.response.Text, true
	case echo.GRPC, echo.GRPCStream:
		return status.Convert(o.err).Message(), true
	}
	return "", false
}

// The endpoints of an address come two seconds after its cluster, or after its HTTP rules: the requests wait, none fails.
func TestEndpointsLate(t *testing.T) {
	t.Parallel()
	const delay = 2 * time.Second
	onEachVersion(t, func(t *testing.T, v envoy.Version) {
		t.Parallel()
		endpoints := &withheld{is: func(r resource.Ref) bool { return r.Type == resource.Endpoints }}
		w := envoy.Start(t, "testdata/basic.yaml", envoy.On(v), envoy.WithView(endpoints.wrap))
		w.Apply(services(5) + meshWithRules(5))
		client := w.Pod("client")
		var calls []envoy.Call
		for i, p := range echo.Protocols() {
			calls = append(calls, envoy.Call{Protocol: p, Request: echo.Request{Address: fmt.Sprintf("10.96.0.5:%d", port(p))}})
			if p != echo.TCP && p != echo.Greeting {
				calls = append(calls, envoy.Call{Protocol: p, Request: echo.Request{Address: serviceIP(i) + ":80"}})
			}
		}
		timer := time.AfterFunc(delay, func() { w.Republish(endpoints.show()...) })
		defer timer.Stop()
		for _, o := range callAtOnce(client, calls) {
			if o.err != nil || o.response.Answer == nil {
				t.Errorf("%s to %s: %+v %v", o.Protocol, o.Address, o.response, o.err)
			}
			if o.took < delay-100*time.Millisecond {
				t.Errorf("%s to %s took %s: the endpoints were not late", o.Protocol, o.Address, o.took)
			}
		}
		for i := range 5 {
			if !strings.Contains(client.ConfigDump(), `"outbound/http|`+serviceIP(i)+`:80"`) {
				t.Errorf("%s has no HTTP rules at the proxy", serviceIP(i))
			}
		}
		if n := w.Pod("reviews-v1").Count() + w.Pod("reviews-v2").Count(); n != len(calls) {
			t.Errorf("the backends counted %d requests, %d were sent", n, len(calls))
		}
	})
}
