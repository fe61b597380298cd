package smi

import (
	"fmt"
	"slices"
)

func same(c content) (content, error) { return c, nil }

func then(first, second func(content) (content, error)) func(content) (content, error) {
	return func(c content) (content, error) {
		c, err := first(c)
		if err != nil {
			return nil, err
		}
		return second(c)
	}
}

// object returns a field that must be an object; nil when it is not there.
func object(c content, field string) (content, error) {
	switch value := c[field].(type) {
	case nil:
		return nil, nil
	case content:
		return value, nil
	}
	return nil, fmt.Errorf("%s must be an object", field)
}

// objects returns a field that must be a list of objects; nil when it is not there. path is its name for people.
func objects(c content, field, path string) ([]content, error) {
	value, ok := c[field]
	if !ok || value == nil {
		return nil, nil
	}
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("%s must be a list", path)
	}
	all := make([]content, len(list))
	for i, item := range list {
		if all[i], ok = item.(content); !ok {
			return nil, fmt.Errorf("%s[%d] must be an object", path, i)
		}
	}
	return all, nil
}

// keepInSpec keeps a field of the spec, with null and empty lists as they are.
func keepInSpec(field string) func(content) any {
	return func(hub content) any {
		if o, _ := object(hub, "spec"); o != nil {
			if value, ok := o[field]; ok {
				return content{field: value}
			}
		}
		return nil
	}
}

func fillInSpec(field string) func(content, any) {
	return func(hub content, kept any) {
		k, ok := kept.(content)
		if !ok {
			return
		}
		value, ok := k[field]
		if !ok {
			return
		}
		o, _ := hub["spec"].(content)
		if o == nil {
			o = content{}
			hub["spec"] = o
		}
		o[field] = value
	}
}

// withoutMatches leaves out the matches, which the version does not have.
func withoutMatches(c content) (content, error) {
	o, err := object(c, "spec")
	if err != nil {
		return nil, err
	}
	delete(o, "matches")
	return c, nil
}

// renamed is a field that is at the top of an old version and in the spec of the hub.
type renamed struct{ top, inSpec string }

func intoSpec(fields ...renamed) func(content) (content, error) {
	return func(c content) (content, error) {
		spec := content{}
		for _, f := range fields {
			if value, ok := c[f.top]; ok {
				spec[f.inSpec] = value
			}
		}
		return content{"spec": spec}, nil
	}
}

func outOfSpec(fields ...renamed) func(content) (content, error) {
	return func(c content) (content, error) {
		spec, err := object(c, "spec")
		if err != nil {
			return nil, err
		}
		top := content{}
		for _, f := range fields {
			if value, ok := spec[f.inSpec]; ok {
				top[f.top] = value
			}
		}
		return top, nil
	}
}

// HTTPRouteGroup v1alpha1 has no headers.

// keptHeaders is one match's; the name finds the match again after others came or went.
func keepHeaders(hub content) any {
	var kept []any
	spec, _ := object(hub, "spec")
	matches, err := objects(spec, "matches", "spec.matches")
	if err != nil {
		return nil // down says what is wrong
	}
	for i, match := range matches {
		if headers, ok := match["headers"]; ok {
			kept = append(kept, content{"match": int64(i), "name": match["name"], "headers": headers})
		}
	}
	if kept == nil {
		return nil
	}
	return kept
}

func fillHeaders(hub content, kept any) {
	list, _ := kept.([]any)
	spec, _ := object(hub, "spec")
	matches, err := objects(spec, "matches", "spec.matches")
	if err != nil {
		return
	}
	for _, item := range list {
		k, _ := item.(content)
		headers, ok := k["headers"]
		if !ok {
			continue
		}
		// A name is the same text, or none at both.
		named := func(match content) bool {
			name, isText := k["name"].(string)
			other, otherIsText := match["name"].(string)
			return isText == otherIsText && name == other
		}
		at, _ := k["match"].(int64)
		i := int(at)
		if i < 0 || i >= len(matches) || !named(matches[i]) {
			i = slices.IndexFunc(matches, named)
		}
		if i >= 0 {
			if _, has := matches[i]["headers"]; !has {
				matches[i]["headers"] = headers
			}
		}
	}
}

func withoutHeaders(c content) (content, error) {
	spec, err := object(c, "spec")
	if err != nil {
		return nil, err
	}
	matches, err := objects(spec, "matches", "spec.matches")
	if err != nil {
		return nil, err
	}
	for _, match := range matches {
		delete(match, "headers")
	}
	return outOfSpec(renamed{"matches", "matches"})(c)
}

// routeForms are those of TCPRoute and UDPRoute: nothing, then an empty spec, then ports.
func routeForms() map[string]form {
	nothing := form{
		up:   func(content) (content, error) { return content{}, nil },
		down: func(content) (content, error) { return content{}, nil },
		keep: func(hub content) any {
			if spec, ok := hub["spec"]; ok {
				return content{"spec": spec}
			}
			return nil
		},
		fill: func(hub content, kept any) {
			if k, ok := kept.(content); ok && k["spec"] != nil {
				hub["spec"] = k["spec"]
			}
		},
	}
	return map[string]form{
		"v1alpha1": nothing, "v1alpha2": nothing,
		"v1alpha3": {up: withoutMatches, down: withoutMatches, keep: keepInSpec("matches"), fill: fillInSpec("matches")},
	}
}

// withoutPorts takes the port out of the subjects of a TrafficTarget: v1alpha3 leaves that to TCPRoutes.
func withoutPorts(c content) (content, error) {
	spec, err := object(c, "spec")
	if err != nil {
		return nil, err
	}
	destination, err := object(spec, "destination")
	if err != nil {
		return nil, fmt.Errorf("spec.%w", err)
	}
	sources, err := objects(spec, "sources", "spec.sources")
	if err != nil {
		return nil, err
	}
	for _, subject := range append(sources, destination) {
		delete(subject, "port")
	}
	return c, nil
}
