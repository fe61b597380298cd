package model

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// dump writes a snapshot for people: what is empty or the default is left out.
func dump(t *testing.T, s *Snapshot) string {
	t.Helper()
	sections := map[string]map[string]any{}
	put := func(section, name string, value any) {
		if sections[section] == nil {
			sections[section] = map[string]any{}
		}
		sections[section][name] = value
	}
	s.tree.Scan(func(e entry) bool {
		name := e.key.Namespace + "/" + e.key.Name
		switch v := e.value.(type) {
		case *MeshWide:
			put("meshWide", "mesh", dumpMeshWide(v))
		case *Namespace:
			put("namespaces", v.Name, dumpNamespace(s, v))
		case *Service:
			put("services", name, dumpService(v))
		case *Split:
			put("splits", name, dumpSplit(v))
		case *SplitReport:
			if len(v.Problems) > 0 {
				put("splitProblems", name, dumpProblems(v.Problems))
			}
		case *Endpoints:
			put("endpoints", name, dumpEndpoints(v))
		case *Workload:
			put("workloads", name, dumpWorkload(v))
		case *owner:
			put("addresses", e.key.Name, dumpOwner(v))
		}
		return true
	})
	for _, r := range s.Meshes() {
		put("meshes", r.Namespace+"/"+r.Name, dumpReport(r))
	}
	return marshal(t, sections)
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	raw, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// fields drops empty values.
func fields(all map[string]any) map[string]any {
	for name, value := range all {
		switch text := fmt.Sprint(value); text {
		case "", "[]", "map[]", "0", "nil", "false", "<nil>", "invalid IP":
			delete(all, name)
		}
	}
	return all
}

func dumpMeshWide(w *MeshWide) any {
	issuer := ""
	if w.Issuer != nil {
		issuer = w.Issuer.Kind + " " + w.Issuer.Name
	}
	return fields(map[string]any{
		"trustDomain": w.TrustDomain, "trustBundle": string(w.TrustBundle), "certificateDuration": w.CertificateDuration.String(),
		"serviceRanges": texts(w.ServiceRanges), "podRanges": texts(w.PodRanges),
		"serverFirstPorts": fmt.Sprint(w.ServerFirstPorts), "envoyImage": w.EnvoyImage, "issuer": issuer,
	})
}

func dumpNamespace(s *Snapshot, n *Namespace) any {
	if !n.Meshed {
		return fmt.Sprintf("not meshed, %d services", s.Services(n.Name))
	}
	selector := ""
	if n.Proxy.PodSelector != nil {
		selector = n.Proxy.PodSelector.String()
		if _, some := n.Proxy.PodSelector.Requirements(); !some {
			selector = "nothing"
		}
	}
	monitors := ""
	if m := n.Monitors; m.Mode != "Auto" || m.Labels != nil || m.Interval != 0 {
		monitors = fmt.Sprintf("%s, labels %s, every %s", m.Mode, labels.FormatLabels(m.Labels), m.Interval)
	}
	return fields(map[string]any{
		"monitors": monitors,
		"mode":     n.Mode, "ports": texts(n.Ports), "concurrency": n.Proxy.Concurrency, "logLevel": n.Proxy.LogLevel,
		"drainDuration": n.Proxy.DrainDuration.String(), "resources": n.Proxy.Resources, "podSelector": selector,
		"tcpPorts": fmt.Sprint(n.TCPPorts), "invalidSelector": n.InvalidSelector, "accessLog": n.AccessLog, "services": s.Services(n.Name),
	})
}

func dumpService(s *Service) any {
	ports := make([]string, len(s.Ports))
	for i, p := range s.Ports {
		ports[i] = strings.TrimSpace(fmt.Sprintf("%s %d %s %s", p.Name, p.Number, dumpProtocol(p.Protocol), p.Mode))
	}
	versions := make([]string, len(s.Versions))
	for i, v := range s.Versions {
		versions[i] = v.Name + ": " + labels.FormatLabels(v.Labels)
	}
	routes := make([]any, len(s.Routes))
	for i, r := range s.Routes {
		routes[i] = dumpRoute(r)
	}
	mesh := ""
	if s.Mesh.Name != "" {
		mesh = s.Mesh.Name + " " + s.Mesh.Field
	}
	return fields(map[string]any{
		"addresses": texts(s.Addresses), "ports": ports, "meshed": s.Meshed, "identities": s.Identities,
		"versions": versions, "routes": routes, "mesh": mesh,
	})
}

func dumpRoute(r Route) any {
	var to []string
	for _, target := range r.To {
		version := target.Version
		if version == "" {
			version = "all"
		}
		to = append(to, fmt.Sprintf("%s %d", version, target.Weight))
	}
	return fields(map[string]any{"name": r.Name, "match": dumpMatches(r.Match), "to": to, "invalid": r.Invalid, "origin": r.Origin.Field})
}

func dumpMatches(all []HTTPMatch) []string {
	var match []string
	for _, m := range all {
		var parts []string
		if m.Path != "" {
			parts = append(parts, "path~"+m.Path)
		}
		if len(m.Methods) > 0 {
			parts = append(parts, "method="+strings.Join(m.Methods, "|"))
		}
		for _, h := range m.Headers {
			operator := "="
			if h.Regex {
				operator = "~"
			}
			parts = append(parts, h.Name+operator+h.Value)
		}
		match = append(match, strings.Join(parts, " and "))
	}
	return match
}

func dumpEndpoints(e *Endpoints) any {
	ports := map[string]any{}
	for number, list := range e.Ports {
		lines := make([]string, len(list))
		for i, p := range list {
			words := []string{p.Address.String()}
			for word, is := range map[string]bool{"mTLS": p.Proxied, "plaintext": p.Plaintext} {
				if is {
					words = append(words, word)
				}
			}
			if p.Draining {
				words = append(words, "draining")
			}
			if len(p.Versions) > 0 {
				words = append(words, "versions="+strings.Join(p.Versions, ","))
			}
			if p.Zone != "" {
				words = append(words, "zone="+p.Zone)
			}
			lines[i] = strings.Join(words, " ")
		}
		ports[fmt.Sprint(number)] = lines
	}
	return ports
}

func dumpWorkload(w *Workload) any {
	var ports []string
	for _, p := range w.Ports {
		ports = append(ports, fmt.Sprintf("%d %s %s", p.Number, dumpProtocol(p.Protocol), p.Mode))
	}
	var probes []string
	for _, p := range w.Probes {
		probes = append(probes, fmt.Sprintf("%s -> %d%s host=%q tls=%t timeout=%s", p.Path, p.Port, p.TargetPath, p.Host, p.TLS, p.Timeout))
	}
	var metrics []string
	for _, m := range w.Metrics {
		metrics = append(metrics, fmt.Sprintf("%d%s", m.Port, m.Path))
	}
	return fields(map[string]any{
		"metrics": metrics,
		"uid":     w.UID, "addresses": texts(w.Addresses), "account": w.ServiceAccount, "owner": w.Owner, "labels": w.Labels, "zone": w.Zone,
		"selected": w.Selected, "meshed": w.Meshed, "sidecar": w.Sidecar, "skipDetection": fmt.Sprint(w.SkipDetection),
		"ports": ports, "mode": w.Mode, "probes": probes,
	})
}

func dumpOwner(o *owner) any {
	switch o.kind {
	case ownerVanished:
		return "vanished"
	case ownedByNode:
		return "node"
	case ownedByService:
		return "service " + o.namespace + "/" + o.name
	}
	return "pod " + o.namespace + "/" + o.name
}

func dumpReport(r MeshReport) any {
	return fields(map[string]any{
		"generation": r.Generation, "root": r.Root, "fields": r.Fields, "services": r.Services, "splits": texts(r.Splits),
		"problems": dumpProblems(r.Problems), "omitted": r.Omitted,
	})
}

func dumpProblems(all []Problem) []string {
	var problems []string
	for _, p := range all {
		grade := "False"
		if !p.Fatal {
			grade = "(note)"
		}
		problems = append(problems, fmt.Sprintf("%s %s %s %s: %s", p.Condition, grade, p.Reason, p.Origin.Field, p.Message))
	}
	return problems
}

func dumpSplit(s *Split) any {
	shares := map[string]any{}
	for port, list := range s.Shares {
		lines := make([]string, len(list))
		for i, share := range list {
			lines[i] = fmt.Sprintf("%s/%s %d", share.Service.Namespace, share.Service.Name, share.Weight)
		}
		shares[fmt.Sprint(port)] = lines
	}
	return fields(map[string]any{
		"by": s.Name, "invalid": s.Invalid, "restricted": s.Restricted, "match": dumpMatches(s.Match), "shares": shares,
	})
}

func dumpProtocol(p Protocol) string { return [...]string{"Unknown", "HTTP", "TCP"}[p] }

func texts[T any](values []T) []string {
	list := make([]string, len(values))
	for i, v := range values {
		list[i] = fmt.Sprint(v)
	}
	return list
}
