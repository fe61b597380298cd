package addons

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/test/lab/internal/topology"
)

// object is what the tests read of a manifest.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	RoleRef  struct{ Name string }
	Rules    []struct{ APIGroups, Resources, Verbs []string }
	Spec     struct {
		PodCIDRs       []string
		ClusterIPs     []string
		IPFamilyPolicy string
	}
}

func objects(t *testing.T, cluster topology.Cluster) []object {
	t.Helper()
	stream, err := Manifests(cluster, Images{CoreDNS: "example/dns:1", CertManager: "example/cm:1"})
	if err != nil {
		t.Fatal(err)
	}
	var list []object
	for document := range strings.SplitSeq(string(stream), "\n---\n") {
		var o object
		if err := yaml.UnmarshalStrict([]byte(document), &map[string]any{}); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		if o.Kind != "" {
			list = append(list, o)
		}
	}
	return list
}

func find(t *testing.T, list []object, kind, name string) object {
	t.Helper()
	for _, o := range list {
		if o.Kind == kind && o.Metadata.Name == name {
			return o
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return object{}
}

func TestManifestsFollowTheTopology(t *testing.T) {
	for _, test := range []struct {
		ipv6              bool
		policy            string
		podRanges, dnsIPs []string
	}{
		{true, "RequireDualStack", []string{"10.244.0.0/24", "fd00:244::/64"}, []string{"10.96.0.10", "fd00:96::a"}},
		{false, "SingleStack", []string{"10.244.0.0/24"}, []string{"10.96.0.10"}},
	} {
		list := objects(t, topology.New(test.ipv6))
		if node := find(t, list, "Node", "lab"); !slices.Equal(node.Spec.PodCIDRs, test.podRanges) {
			t.Errorf("pod ranges %v, want %v", node.Spec.PodCIDRs, test.podRanges)
		}
		dns := find(t, list, "Service", "kube-dns")
		if !slices.Equal(dns.Spec.ClusterIPs, test.dnsIPs) || dns.Spec.IPFamilyPolicy != test.policy {
			t.Errorf("DNS at %v, %s; want %v, %s", dns.Spec.ClusterIPs, dns.Spec.IPFamilyPolicy, test.dnsIPs, test.policy)
		}
	}
}

// TestNobodyIsAdministrator holds cert-manager and CoreDNS to what they need.
func TestNobodyIsAdministrator(t *testing.T) {
	for _, o := range objects(t, topology.New(true)) {
		if o.RoleRef.Name == "cluster-admin" {
			t.Errorf("%s %s makes somebody administrator", o.Kind, o.Metadata.Name)
		}
		for _, rule := range o.Rules {
			if slices.Contains(rule.Verbs, "*") || slices.Contains(rule.Resources, "*") || slices.Contains(rule.APIGroups, "*") {
				t.Errorf("%s %s: a rule for everything: %+v", o.Kind, o.Metadata.Name, rule)
			}
		}
	}
}
