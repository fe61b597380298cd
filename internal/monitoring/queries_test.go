package monitoring

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// metric finds the names of Tulle's metrics and of what the rules record.
var metric = regexp.MustCompile(`\b(?:envoy_tulle|tulle)[a-z0-9_]*(?::[a-z0-9_]+)*`)

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// known are the metrics that documents say there are, and what the rules record.
func known(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, document := range []string{"../../docs/monitoring.md", "../../docs/metrics.md"} {
		for _, m := range metric.FindAllString(read(t, document), -1) {
			names[m] = true
		}
	}
	for _, g := range RuleGroups() {
		for _, r := range g.Rules {
			if r.Record != "" {
				names[r.Record] = true
			}
		}
	}
	return names
}

// Every query is about metrics that there are.
func TestQueriesUseWhatIsExported(t *testing.T) {
	t.Parallel()
	names := known(t)
	queries := Queries("shop", "web", "reviews")
	if len(queries) < 80 {
		t.Fatalf("%d queries", len(queries))
	}
	for _, q := range queries {
		if strings.ContainsAny(q.Expr, "$") || strings.Contains(q.Expr, "{{") {
			t.Errorf("%s: something is not filled in: %s", q.Of, q.Expr)
		}
		found := metric.FindAllString(q.Expr, -1)
		for _, name := range found {
			if name != Job && !names[name] && !names[strings.TrimSuffix(name, "_bucket")] {
				t.Errorf("%s: nobody exports %s", q.Of, name)
			}
		}
	}
}

// Every alert says what is wrong and where it is written what to do, which is there.
func TestAlertsAreExplained(t *testing.T) {
	t.Parallel()
	document := read(t, "../../docs/monitoring.md")
	tests := read(t, "../../test/rules/rules_test.yaml")
	alerts := 0
	for _, g := range RuleGroups() {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts++
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" || r.For == "" {
				t.Errorf("%s lacks something: %+v", r.Alert, r)
			}
			if !strings.Contains(document, "\n### "+r.Alert+"\n") || r.Annotations["runbook_url"] != Runbook+strings.ToLower(r.Alert) {
				t.Errorf("%s: its runbook %s is not in docs/monitoring.md", r.Alert, r.Annotations["runbook_url"])
			}
			if !strings.Contains(tests, "alertname: "+r.Alert) {
				t.Errorf("%s is not tested", r.Alert)
			}
		}
	}
	if alerts != 8 {
		t.Errorf("%d alerts", alerts)
	}
}

// The rules of the object are those of the file that promtool tests.
func TestRulesObject(t *testing.T) {
	t.Parallel()
	object, err := yaml.Marshal(map[string]any{"groups": Rules("tulle-system", Settings{}).Object["spec"].(map[string]any)["groups"]})
	if err != nil {
		t.Fatal(err)
	}
	file, err := yaml.Marshal(map[string]any{"groups": RuleGroups()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(file), string(object)); diff != "" {
		t.Errorf("(-file +object):\n%s", diff)
	}
}

// Panels lie beside and below each other, and have a title, a unit and a query.
func TestDashboards(t *testing.T) {
	t.Parallel()
	for _, d := range Dashboards() {
		taken := map[[2]int]string{}
		for _, item := range d.JSON()["panels"].([]any) {
			p := item.(map[string]any)
			title, pos := p["title"].(string), p["gridPos"].(map[string]any)
			for x := pos["x"].(int); x < pos["x"].(int)+pos["w"].(int); x++ {
				for y := pos["y"].(int); y < pos["y"].(int)+pos["h"].(int); y++ {
					if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
						t.Fatalf("%s: %q lies on %q", d.Name, title, other)
					}
					taken[[2]int{x, y}] = title
				}
			}
			if title == "" || len(p["targets"].([]any)) == 0 {
				t.Errorf("%s: panel %+v", d.Name, p)
			}
		}
		if !slices.ContainsFunc(d.Panels, func(p Panel) bool { return p.Unit != "" }) {
			t.Errorf("%s has no units", d.Name)
		}
	}
}
