package prometheus

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

// answering is a server whose API gives one answer, and that remembers what it was asked.
func answering(answer string, asked *string) Server {
	return Server{Namespace: "monitoring", Service: OperatedService, Get: func(_ context.Context, path string) (string, error) {
		*asked = path
		return answer, nil
	}}
}

func TestQuery(t *testing.T) {
	var asked string
	s := answering(`{"status":"success","data":{"resultType":"vector","result":[
		{"metric":{"code":"200"},"value":[1767225600.5,"12"]},{"metric":{"code":"503"},"value":[1767225600.5,"NaN"]}]}}`, &asked)
	samples, err := s.Query(t.Context(), `sum by (code) (x{a="b"})`)
	if err != nil {
		t.Fatal(err)
	}
	if want := "/api/v1/namespaces/monitoring/services/prometheus-operated:web/proxy/api/v1/query?query=sum+by+%28code%29+%28x%7Ba%3D%22b%22%7D%29"; asked != want {
		t.Errorf("asked %s, want %s", asked, want)
	}
	if len(samples) != 2 || samples[0].Value != 12 || samples[0].Labels["code"] != "200" || !math.IsNaN(samples[1].Value) ||
		!samples[0].Time.Equal(time.UnixMilli(1767225600500)) {
		t.Errorf("got %v", samples)
	}
}

func TestValue(t *testing.T) {
	var asked string
	for answer, want := range map[string]float64{
		`{"status":"success","data":{"resultType":"scalar","result":[1,"3.5"]}}`: 3.5,
		`{"status":"success","data":{"resultType":"vector","result":[]}}`:        0,
	} {
		if got, err := answering(answer, &asked).Value(t.Context(), "x"); err != nil || got != want {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
}

func TestErrorsNameTheQuery(t *testing.T) {
	var asked string
	unreachable := Server{Get: func(context.Context, string) (string, error) { return "", errors.New("no endpoints") }}
	for want, s := range map[string]Server{
		"query rate(x): parse error": answering(`{"status":"error","error":"parse error"}`, &asked),
		"query rate(x): its result is a matrix: want an instant vector or a scalar": answering(`{"status":"success","data":{"resultType":"matrix","result":[]}}`, &asked),
		"query rate(x): no endpoints": unreachable,
		"in: <html>":                  answering("<html>", &asked),
	} {
		if _, err := s.Query(t.Context(), "rate(x)"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestTargetsAlertsAndRules(t *testing.T) {
	var asked string
	targets, err := answering(`{"status":"success","data":{"activeTargets":[
		{"labels":{"pod":"a"},"scrapePool":"podMonitor/x/y/0","health":"up","lastScrape":"2026-01-01T00:00:00Z"},
		{"labels":{"pod":"b"},"health":"down","lastError":"connection refused"}]}}`, &asked).Targets(t.Context())
	if err != nil || len(targets) != 2 || !targets[0].Up() || targets[1].Up() || targets[1].LastError != "connection refused" {
		t.Errorf("targets %+v, %v", targets, err)
	}
	alerts, err := answering(`{"status":"success","data":{"alerts":[{"labels":{"alertname":"A"},"state":"firing"}]}}`, &asked).Alerts(t.Context())
	if err != nil || len(alerts) != 1 || alerts[0].State != "firing" || alerts[0].Labels["alertname"] != "A" {
		t.Errorf("alerts %+v, %v", alerts, err)
	}
	names, failed, err := answering(`{"status":"success","data":{"groups":[{"name":"g","rules":[
		{"name":"r","health":"ok"},{"name":"s","health":"err","lastError":"many-to-many"}]}]}}`, &asked).Rules(t.Context())
	if err != nil || len(names) != 2 || len(failed) != 1 || failed[0] != (RuleError{"g", "s", "err", "many-to-many"}) {
		t.Errorf("rules %v, failed %v, %v", names, failed, err)
	}
}
