// Package prometheus asks a Prometheus in a cluster, through the API server's proxy: for whoever has kubectl and no route
// to the cluster's pods.
package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Server is one Prometheus.
type Server struct {
	// Namespace and Service are where it is; the port has the name web, as the prometheus-operator calls it.
	Namespace, Service string
	// Get returns what the API server answers at a path, as `kubectl get --raw` does.
	Get func(ctx context.Context, path string) (string, error)
}

// OperatedService is the Service that the prometheus-operator makes in each namespace for all Prometheuses in it.
const OperatedService = "prometheus-operated"

// Sample is one series' value at one moment.
type Sample struct {
	Labels map[string]string
	Value  float64
	Time   time.Time
}

// Target is something that the server scrapes, or tries to.
type Target struct {
	Labels map[string]string `json:"labels"`
	// Pool is the scrape configuration that it is of: kind/namespace/name/index of a monitor.
	Pool      string    `json:"scrapePool"`
	URL       string    `json:"scrapeUrl"`
	Health    string    `json:"health"`
	LastError string    `json:"lastError"`
	Scraped   time.Time `json:"lastScrape"`
}

// Up says whether the last scrape succeeded.
func (t Target) Up() bool { return t.Health == "up" }

// Alert is one that is pending or firing.
type Alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	State       string            `json:"state"`
}

// Query evaluates a PromQL expression, an instant vector or a scalar, now.
func (s Server) Query(ctx context.Context, expression string) ([]Sample, error) {
	var result struct {
		Type   string          `json:"resultType"`
		Result json.RawMessage `json:"result"`
	}
	if err := s.ask(ctx, "query?query="+url.QueryEscape(expression), &result); err != nil {
		return nil, fmt.Errorf("query %s: %w", expression, err)
	}
	samples, err := decode(result.Type, result.Result)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", expression, err)
	}
	return samples, nil
}

// Value evaluates an expression whose result is one number; 0 when there is no series.
func (s Server) Value(ctx context.Context, expression string) (float64, error) {
	samples, err := s.Query(ctx, expression)
	if err != nil || len(samples) == 0 {
		return 0, err
	}
	if len(samples) > 1 {
		return 0, fmt.Errorf("query %s: %d series, want one", expression, len(samples))
	}
	return samples[0].Value, nil
}

// LastScrapes is PromQL for when targets with these labels were last scraped, in Unix seconds, of those whose last scrape
// succeeded. Of a comparison, timestamp would be that of the query.
func LastScrapes(labels string) string {
	return "timestamp(up{" + labels + "}) and up{" + labels + "} == 1"
}

// Targets returns what the server scrapes.
func (s Server) Targets(ctx context.Context) ([]Target, error) {
	var result struct {
		Active []Target `json:"activeTargets"`
	}
	err := s.ask(ctx, "targets?state=active", &result)
	return result.Active, err
}

// Alerts returns what is pending or firing.
func (s Server) Alerts(ctx context.Context) ([]Alert, error) {
	var result struct {
		Alerts []Alert `json:"alerts"`
	}
	err := s.ask(ctx, "alerts", &result)
	return result.Alerts, err
}

// RuleError is a rule that could not be evaluated.
type RuleError struct{ Group, Rule, Health, LastError string }

// Rules returns the names of all rules that the server has, and those that it could not evaluate.
func (s Server) Rules(ctx context.Context) (names []string, failed []RuleError, err error) {
	var result struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Name      string `json:"name"`
				Health    string `json:"health"`
				LastError string `json:"lastError"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := s.ask(ctx, "rules", &result); err != nil {
		return nil, nil, err
	}
	for _, group := range result.Groups {
		for _, rule := range group.Rules {
			names = append(names, rule.Name)
			if rule.Health == "err" {
				failed = append(failed, RuleError{group.Name, rule.Name, rule.Health, rule.LastError})
			}
		}
	}
	return names, failed, nil
}

// Path is where the API server's proxy has a path of the server.
func (s Server) Path(path string) string {
	return fmt.Sprintf("/api/v1/namespaces/%s/services/%s:web/proxy/%s", s.Namespace, s.Service, path)
}

// ask calls the server's API and decodes the data of its answer.
func (s Server) ask(ctx context.Context, path string, data any) error {
	text, err := s.Get(ctx, s.Path("api/v1/"+path))
	if err != nil {
		return err
	}
	answer := struct {
		Status string `json:"status"`
		Error  string `json:"error"`
		Data   any    `json:"data"`
	}{Data: data}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return fmt.Errorf("%w in: %.200s", err, text)
	}
	if answer.Status != "success" {
		return errors.New(strings.TrimSpace(answer.Error))
	}
	return nil
}

// decode reads a query's result.
func decode(kind string, text json.RawMessage) ([]Sample, error) {
	switch kind {
	case "vector":
		var series []struct {
			Metric map[string]string `json:"metric"`
			Value  point             `json:"value"`
		}
		if err := json.Unmarshal(text, &series); err != nil {
			return nil, err
		}
		samples := make([]Sample, len(series))
		for i, one := range series {
			samples[i] = Sample{Labels: one.Metric, Value: one.Value.value, Time: one.Value.time}
		}
		return samples, nil
	case "scalar":
		var one point
		if err := json.Unmarshal(text, &one); err != nil {
			return nil, err
		}
		return []Sample{{Value: one.value, Time: one.time}}, nil
	default:
		return nil, fmt.Errorf("its result is a %s: want an instant vector or a scalar", kind)
	}
}

// point is a pair of Unix time in seconds and a number as text.
type point struct {
	time  time.Time
	value float64
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *point) UnmarshalJSON(text []byte) error {
	var pair [2]any
	if err := json.Unmarshal(text, &pair); err != nil {
		return err
	}
	seconds, isNumber := pair[0].(float64)
	number, isText := pair[1].(string)
	if !isNumber || !isText {
		return fmt.Errorf("%s is no pair of time and value", text)
	}
	p.time = time.UnixMilli(int64(seconds * 1000))
	var err error
	p.value, err = strconv.ParseFloat(number, 64)
	return err
}
