package monitoring

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
)

// namespaceName is the only label of other namespaces that Tulle knows, as it has no rights on Namespaces.
const namespaceName = "kubernetes.io/metadata.name"

// Selection says which Prometheus takes up a monitor.
type Selection struct {
	// By are those that select it, as namespace/name.
	By []string
	// Refusals say why the others don't, and what to change.
	Refusals []string
}

// selectors are the fields of a Prometheus that say which objects of a kind it takes up. In the API, no selector of objects selects
// none, an empty one all; no selector of namespaces is the Prometheus's own, an empty one all.
func selectors(kind string) (object, namespace string) {
	switch kind {
	case PodMonitor:
		return "podMonitorSelector", "podMonitorNamespaceSelector"
	case PrometheusRule:
		return "ruleSelector", "ruleNamespaceSelector"
	}
	return "serviceMonitorSelector", "serviceMonitorNamespaceSelector"
}

// Select says which of the Prometheuses take up an object of ours.
func Select(prometheuses []unstructured.Unstructured, object *unstructured.Unstructured) Selection {
	var s Selection
	for i := range prometheuses {
		p := &prometheuses[i]
		name := p.GetNamespace() + "/" + p.GetName()
		if refusal := refuses(p, object); refusal != "" {
			s.Refusals = append(s.Refusals, fmt.Sprintf("Prometheus %s %s", name, refusal))
		} else {
			s.By = append(s.By, name)
		}
	}
	slices.Sort(s.By)
	slices.Sort(s.Refusals)
	return s
}

// refuses says why a Prometheus does not take up an object; empty when it does or, as far as is known, may do.
func refuses(p, object *unstructured.Unstructured) string {
	objects, namespaces := selectors(object.GetKind())
	selector, found, err := selectorAt(p, objects)
	switch {
	case err != nil:
		return fmt.Sprintf("has a %s that can't be read (%v)", objects, err)
	case !found:
		return fmt.Sprintf("selects no %s: it has no %s", object.GetKind(), objects)
	case !selector.Matches(labels.Set(object.GetLabels())):
		return fmt.Sprintf("selects by %s (%s): %s", selector, objects, remedy(selector))
	}
	selector, found, err = selectorAt(p, namespaces)
	switch {
	case err != nil:
		return fmt.Sprintf("has a %s that can't be read (%v)", namespaces, err)
	case !found && object.GetNamespace() != p.GetNamespace():
		return fmt.Sprintf("looks in its own namespace only: set its %s", namespaces)
	case found && !mayMatch(selector, object.GetNamespace()):
		return fmt.Sprintf("looks in other namespaces (%s: %s)", namespaces, selector)
	}
	return ""
}

// selectorAt reads a label selector of a Prometheus's spec.
func selectorAt(p *unstructured.Unstructured, field string) (labels.Selector, bool, error) {
	value, found, err := unstructured.NestedMap(p.Object, "spec", field)
	if err != nil || !found {
		return nil, false, err
	}
	var selector metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(value, &selector); err != nil {
		return nil, false, err
	}
	parsed, err := metav1.LabelSelectorAsSelector(&selector)
	return parsed, err == nil, err
}

// remedy says which labels of a Mesh's monitors fit a selector, where that is plain.
func remedy(selector labels.Selector) string {
	set := map[string]string{}
	requirements, _ := selector.Requirements()
	for _, r := range requirements {
		switch r.Operator() {
		case selection.In, selection.Equals, selection.DoubleEquals:
			set[r.Key()] = slices.Min(r.Values().UnsortedList())
		}
	}
	if len(set) == 0 {
		return "set spec.observability.metrics.labels to labels that fit"
	}
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(set)) {
		pairs = append(pairs, key+": "+set[key])
	}
	return fmt.Sprintf("set spec.observability.metrics.labels to {%s}", strings.Join(pairs, ", "))
}

// mayMatch says whether a selector of namespaces can select one of which nothing but the name is known.
func mayMatch(selector labels.Selector, namespace string) bool {
	requirements, selectable := selector.Requirements()
	for _, r := range requirements {
		if r.Key() == namespaceName && !r.Matches(labels.Set{namespaceName: namespace}) {
			return false
		}
	}
	return selectable
}
