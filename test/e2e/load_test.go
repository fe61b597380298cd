package e2e

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// report is what the load generator counted.
type report struct {
	Sent      int64                                  `json:"sent"`
	Succeeded int64                                  `json:"succeeded"`
	Statuses  map[string]int64                       `json:"statuses"`
	LastError string                                 `json:"lastError"`
	Versions  map[string]map[string]map[string]int64 `json:"versions"`
}

// saw is how often the client saw a version of a service.
func (r report) saw(service, version string) int64 {
	var sum int64
	for _, services := range r.Versions {
		sum += services[service][version]
	}
	return sum
}

// wantNoFailure fails the test unless every request was answered 200.
func (r report) wantNoFailure(t *testing.T) {
	t.Helper()
	if r.Sent == 0 || r.Succeeded != r.Sent {
		t.Errorf("%d of %d requests succeeded: %v, the last failure: %s", r.Succeeded, r.Sent, r.Statuses, r.LastError)
	}
}

// load lets the app called loadgen send, or end, a run, and returns its report when it has ended.
func (c *cluster) load(args ...string) report {
	c.t.Helper()
	return c.loadFrom("loadgen", args...)
}

// loadFrom is load of a load generator with another name.
func (c *cluster) loadFrom(name string, args ...string) report {
	c.t.Helper()
	var r report
	out, err := c.exec(name, append([]string{"load"}, args...)...)
	if err == nil {
		err = json.Unmarshal([]byte(out), &r)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// startLoad lets a load generator send until loadFrom ends the run.
func (c *cluster) startLoad(name string, args ...string) {
	c.t.Helper()
	if _, err := c.exec(name, append([]string{"load"}, args...)...); err != nil {
		c.t.Fatal(err)
	}
}

// during lets the load generator send at a rate while work is done, and returns what it counted.
func (c *cluster) during(rate string, work func()) report {
	c.t.Helper()
	c.startLoad("loadgen", "-rate="+rate)
	work()
	return c.load("-stop")
}

// served sums up what the pods of an app counted.
func (c *cluster) served(app string) int64 {
	c.t.Helper()
	var sum int64
	for _, pod := range c.pods(app) {
		sum += c.count(pod)
	}
	return sum
}

// count is what a pod counted.
func (c *cluster) count(pod corev1.Pod) int64 {
	c.t.Helper()
	var counts struct {
		Requests int64 `json:"requests"`
	}
	out, err := c.try(nil, "exec", pod.Name, "-c", pod.Spec.Containers[0].Name, "--", "bookinfo", "get", "http://127.0.0.1:9080/counts")
	if err == nil {
		err = json.Unmarshal([]byte(out), &counts)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return counts.Requests
}
