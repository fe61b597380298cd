package model

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

var (
	// gepDuration is GEP-2257's grammar.
	gepDuration = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)
	domain      = regexp.MustCompile(`^[a-z0-9]([-._a-z0-9]*[a-z0-9])?$`)
	// image is looser than the grammar of references: what a registry does not have is the kubelet's to say.
	image = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@+-]*$`)
)

// Validate returns what is wrong with a Mesh by itself: what depends on no other object. root says whether it is the root Mesh.
func Validate(o *v1alpha1.Mesh, root bool) []Problem { return validate(readMesh(o), root) }

func validate(m *mesh, root bool) []Problem {
	v := &validation{mesh: m}
	v.values(m.spec)
	switch {
	case root && len(m.spec.Services) > 0:
		v.refuse("spec.services", ReasonNotForRoot, "the root Mesh enrols no Service; move these rules to a Mesh in the Services' namespace")
	case !root:
		v.services(m.spec.Services)
	}
	switch {
	case root && m.spec.MeshWide != nil:
		v.meshWide(m.spec.MeshWide)
	case m.spec.MeshWide != nil:
		v.refuse("spec.meshWide", ReasonNotRoot,
			"only the root Mesh, named %s in the operator's namespace, may set this; it is ignored here, move it there", v1alpha1.RootName)
	}
	return v.problems
}

type validation struct {
	mesh     *mesh
	problems []Problem
}

func (v *validation) refuse(field, reason, format string, args ...any) {
	v.problems = append(v.problems, Problem{v.mesh.origin(field), v1alpha1.ConditionAccepted, reason, fmt.Sprintf(format, args...), true})
}

func (v *validation) values(spec *v1alpha1.MeshSpec) {
	set := valuesOf(spec)
	if set.podSelector != nil {
		if _, err := metav1.LabelSelectorAsSelector(set.podSelector); err != nil {
			v.refuse("spec.proxy.podSelector", ReasonInvalidPodSelector,
				"%v; until it is corrected, new pods of the namespace are refused and pods without a sidecar stay without", err)
		}
	}
	if c := set.concurrency; c != nil && (*c < 1 || *c > maxConcurrency) {
		v.refuse("spec.proxy.concurrency", ReasonInvalidValue, "%d is not from 1 to %d", *c, maxConcurrency)
	}
	if set.logLevel != "" && !validLogLevel(set.logLevel) {
		v.refuse("spec.proxy.logLevel", ReasonInvalidValue,
			"unknown level %q; give Trace, Debug, Info, Warning, Error or Critical", set.logLevel)
	}
	v.duration("spec.proxy.drainDuration", set.drain, 0)
	if set.mode != "" && !validMode(set.mode) {
		v.refuse("spec.mtls.mode", ReasonInvalidValue, "unknown mode %q counts as Strict; give Strict, Permissive or Disabled", set.mode)
	}
	v.ports(set.ports)
	if set.accessLog != "" && !validAccessLog(set.accessLog) {
		v.refuse("spec.observability.accessLog.mode", ReasonInvalidValue, "unknown mode %q; give None, Errors or All", set.accessLog)
	}
	v.monitors(set)
}

func (v *validation) ports(ports []v1alpha1.PortMTLS) {
	seen := map[int32]bool{}
	for i, p := range ports {
		field := fmt.Sprintf("spec.mtls.ports[%d]", i)
		switch _, ok := portNumber(p.Port); {
		case !ok:
			v.refuse(field+".port", ReasonInvalidValue, "%d is no port; give one from 1 to 65535", p.Port)
		case seen[p.Port]:
			v.refuse(field+".port", ReasonDuplicateName, "port %d is already in the list, and the first entry holds; remove one", p.Port)
		case !validMode(p.Mode):
			v.refuse(field+".mode", ReasonInvalidValue, "unknown mode %q counts as Strict; give Strict, Permissive or Disabled", p.Mode)
		}
		seen[p.Port] = true
	}
}

func (v *validation) services(services []v1alpha1.ServiceSpec) {
	seen := map[string]bool{}
	for i := range services {
		name := services[i].Name
		if seen[name] {
			v.refuse(fmt.Sprintf("spec.services[%d].name", i), ReasonDuplicateName,
				"service %s is already in the list, and the first entry holds; merge them", name)
			continue
		}
		seen[name] = true
		v.problems = append(v.problems, newClaim(v.mesh, i, &services[i]).problems...)
	}
}

func (v *validation) meshWide(spec *v1alpha1.MeshWideSpec) {
	trust, network := deref(spec.Trust), deref(spec.Network)
	if trust.Domain != "" && !validTrustDomain(trust.Domain) {
		v.refuse("spec.meshWide.trust.domain", ReasonInvalidValue,
			"%q is no trust domain, %s holds; use lower-case letters, digits, -, _ and .", trust.Domain, defaultTrustDomain)
	}
	v.duration("spec.meshWide.trust.certificateDuration", trust.CertificateDuration, leastCertificateDuration)
	v.ranges("spec.meshWide.network.serviceRanges", network.ServiceRanges)
	v.ranges("spec.meshWide.network.podRanges", network.PodRanges)
	for i, p := range network.ServerFirstPorts {
		if _, ok := portNumber(int32(p)); !ok {
			v.refuse(fmt.Sprintf("spec.meshWide.network.serverFirstPorts[%d]", i), ReasonInvalidValue, "%d is no port; give one from 1 to 65535", p)
		}
	}
	if img := deref(spec.Envoy).Image; img != "" && !validImage(img) {
		v.refuse("spec.meshWide.envoy.image", ReasonInvalidValue, "%q is no image; give one such as registry.example/envoy:v1.40.0", img)
	}
}

func (v *validation) ranges(field string, ranges []v1alpha1.CIDR) {
	for i, r := range ranges {
		if _, err := parsePrefix(string(r)); err != nil {
			v.refuse(fmt.Sprintf("%s[%d]", field, i), ReasonInvalidValue, "%q is no range; give one such as 10.96.0.0/16 or fd00::/108", r)
		}
	}
}

func (v *validation) duration(field string, d *v1alpha1.Duration, least time.Duration) {
	if d == nil {
		return
	}
	switch parsed, ok := parseDuration(*d); {
	case !ok:
		v.refuse(field, ReasonInvalidValue, "%q is no duration; give one such as 30s or 1h30m", *d)
	case parsed < least:
		v.refuse(field, ReasonInvalidValue, "%q is shorter than %s and does not hold; give one such as 30s or 1h30m", *d, least)
	}
}

func parseDuration(d v1alpha1.Duration) (time.Duration, bool) {
	if !gepDuration.MatchString(string(d)) {
		return 0, false
	}
	parsed, err := time.ParseDuration(string(d))
	return parsed, err == nil
}

func validTrustDomain(name string) bool { return len(name) <= 253 && domain.MatchString(name) }

func validImage(name string) bool { return len(name) <= 512 && image.MatchString(name) }

func validMode(m v1alpha1.MTLSMode) bool {
	return m == v1alpha1.MTLSStrict || m == v1alpha1.MTLSPermissive || m == v1alpha1.MTLSDisabled
}

func validAccessLog(m v1alpha1.AccessLogMode) bool {
	return m == v1alpha1.AccessLogNone || m == v1alpha1.AccessLogErrors || m == v1alpha1.AccessLogAll
}

func validLogLevel(l v1alpha1.LogLevel) bool {
	switch l {
	case "Trace", "Debug", "Info", "Warning", "Error", "Critical":
		return true
	}
	return false
}

// compareFields orders paths as they stand in the object: the tenth item comes after the second.
func compareFields(a, b string) int {
	for a != "" && b != "" {
		na, ra := leadingNumber(a)
		nb, rb := leadingNumber(b)
		if ra != a && rb != b {
			if c := cmp.Or(cmp.Compare(len(na), len(nb)), strings.Compare(na, nb)); c != 0 {
				return c
			}
			a, b = ra, rb
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func leadingNumber(s string) (number, rest string) {
	rest = strings.TrimLeft(s, "0123456789")
	return s[:len(s)-len(rest)], rest
}
