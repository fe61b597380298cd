package e2e

import (
	"encoding/json"
	"maps"
	"testing"
)

// TestAlerts provokes what Tulle's rules warn of, and has the real Prometheus evaluate them: the rules themselves, and a copy of them that
// does not wait. It takes the control plane away from everybody, and so runs alone.
func TestAlerts(t *testing.T) {
	c := connect(t)
	p := c.prometheus()
	c.wantRules(t)
	c.apply(mesh("Strict"), c.impatientRules(),
		app{name: "details", args: []string{"details", "-fail-percent=50"}}.manifest(), loadgen("http://details:9080/details/0").manifest(),
		app{name: "healthy", args: []string{"details"}}.manifest(),
		app{name: "other", args: []string{"loadgen", "-rate=0", "-url=http://healthy:9080/details/0"}}.manifest())
	c.rollout("details", "loadgen", "healthy", "other")
	c.wait("condition=Ready", "mesh/mesh")
	copied := func(labels map[string]string) map[string]string {
		labels["copy"] = c.namespace
		return labels
	}
	ratio := func(service string) string {
		return c.alert(p, "TulleHighErrorRatio", copied(map[string]string{"destination_namespace": c.namespace, "destination_service": service}))
	}

	c.startLoad("loadgen", "-rate=20")
	c.startLoad("other", "-rate=20")
	c.eventually("an alert about a service that fails", func() bool { return ratio("details") == "firing" })
	if state := ratio("healthy"); state != "inactive" {
		t.Errorf("the alert about a service that works is %s", state)
	}
	c.eventually("the rule itself to wait", func() bool {
		return c.alert(p, "TulleHighErrorRatio", map[string]string{"destination_namespace": c.namespace, "copy": ""}) == "pending"
	})
	for _, client := range []string{"loadgen", "other"} {
		c.loadFrom(client, "-stop")
	}

	s := c.inSystem()
	if state := c.alert(p, "TulleControlPlaneDown", copied(map[string]string{})); state != "inactive" {
		t.Errorf("with the control plane up, the alert about it is %s", state)
	}
	t.Cleanup(func() { s.kubectl("scale", "deployment/tulle-manager", "--replicas=2") })
	s.kubectl("scale", "deployment/tulle-manager", "--replicas=0")
	c.eventually("an alert about the control plane", func() bool {
		return c.alert(p, "TulleControlPlaneDown", copied(map[string]string{})) == "firing"
	})
	s.kubectl("scale", "deployment/tulle-manager", "--replicas=2")
	s.rollout("tulle-manager")
	c.eventually("its end", func() bool { return c.alert(p, "TulleControlPlaneDown", copied(map[string]string{})) == "inactive" })
}

// wantRules waits until Prometheus has all of Tulle's rules, and fails the test where one could not be evaluated.
func (c *cluster) wantRules(t *testing.T) {
	t.Helper()
	want := map[string]bool{}
	for _, rule := range c.rules() {
		for _, kind := range []string{"record", "alert"} {
			if name, ok := rule[kind].(string); ok {
				want[name] = true
			}
		}
	}
	if len(want) == 0 {
		t.Fatal("the PrometheusRule has no rules")
	}
	c.eventually("Prometheus to have every rule", func() bool {
		names, failed, err := c.prometheus().Rules(t.Context())
		if err != nil || len(failed) > 0 {
			t.Fatalf("rules that can't be evaluated: %v %v", failed, err)
		}
		have := map[string]bool{}
		for _, name := range names {
			have[name] = true
		}
		for name := range want {
			if !have[name] {
				return false
			}
		}
		return true
	})
}

// rules are those of Tulle's PrometheusRule.
func (c *cluster) rules() []map[string]any {
	c.t.Helper()
	var object struct {
		Spec struct {
			Groups []struct {
				Rules []map[string]any `json:"rules"`
			} `json:"groups"`
		} `json:"spec"`
	}
	if err := json.Unmarshal([]byte(c.kubectl("-n", system, "get", "prometheusrules.monitoring.coreos.com", "tulle", "-o", "json")), &object); err != nil {
		c.t.Fatal(err)
	}
	var rules []map[string]any
	for _, group := range object.Spec.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// impatientRules is a copy of Tulle's alerts that fire at once and are labelled as this test's.
func (c *cluster) impatientRules() string {
	c.t.Helper()
	var impatient []map[string]any
	for _, rule := range c.rules() {
		if rule["alert"] == nil {
			continue
		}
		delete(rule, "for")
		labels := map[string]any{"copy": c.namespace}
		if own, ok := rule["labels"].(map[string]any); ok {
			maps.Copy(labels, own)
		}
		rule["labels"] = labels
		impatient = append(impatient, rule)
	}
	object, err := json.Marshal(map[string]any{
		"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": map[string]any{"name": "impatient"},
		"spec": map[string]any{"groups": []any{map[string]any{"name": "impatient", "rules": impatient}}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return string(object)
}
