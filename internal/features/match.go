package features

import (
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Matches returns one match for each of anyOf; for none, one of every request.
func Matches(anyOf []model.HTTPMatch) []*routev3.RouteMatch {
	if len(anyOf) == 0 {
		return []*routev3.RouteMatch{envoy.EveryRequest()}
	}
	out := make([]*routev3.RouteMatch, 0, len(anyOf))
	for _, m := range anyOf {
		out = append(out, match(m))
	}
	return out
}

func match(m model.HTTPMatch) *routev3.RouteMatch {
	headers := make([]*routev3.HeaderMatcher, 0, len(m.Headers)+1)
	switch len(m.Methods) {
	case 0:
	case 1:
		headers = append(headers, envoy.Header(":method", envoy.Exact(m.Methods[0])))
	default:
		headers = append(headers, envoy.Header(":method", envoy.Regex(strings.Join(m.Methods, "|"))))
	}
	for _, h := range m.Headers {
		value := envoy.Exact(h.Value)
		if h.Regex {
			value = envoy.Regex(h.Value)
		}
		headers = append(headers, envoy.Header(h.Name, value))
	}
	if m.Path != "" {
		return envoy.PathRegex(m.Path, headers...)
	}
	return envoy.EveryRequest(headers...)
}
