package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/inject"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/operator"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/test/bench/xdsload"
)

const (
	// perNamespace is how many Services a namespace has.
	perNamespace = 100
	// Endpoints is how many pods a Service has.
	Endpoints = 10
	// rulesEvery: so many Services are between two that have HTTP rules and two versions.
	rulesEvery = 10
	// writers is how many objects are written at the same time.
	writers = 64
)

func namespaceOf(service int) string { return fmt.Sprintf("ns-%d", service/perNamespace) }
func nameOf(service int) string      { return fmt.Sprintf("s-%d", service) }
func hasRules(service int) bool      { return service%rulesEvery == 0 }

// Grow makes the mesh have so many Services: 100 a namespace, each with ten pods of an own service account, every tenth with two versions and a weighted
// rule. Pods are as injection and a kubelet leave them. No manager may run meanwhile.
func (c *Cluster) Grow(ctx context.Context, services int) error {
	if err := c.unhook(ctx); err != nil {
		return err
	}
	from := c.services
	c.addresses = append(c.addresses, make([]string, services-from)...)
	for i := from; i < services; i += perNamespace {
		if i%perNamespace != 0 {
			return fmt.Errorf("%d Services: sizes are multiples of %d, but for the last", from, perNamespace)
		}
		if _, err := c.Objects.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceOf(i)}}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if err := parallel(from, services, func(i int) error { return c.createService(ctx, i) }); err != nil {
		return err
	}
	for i := from; i < services; i += perNamespace {
		if err := c.Client.Create(ctx, meshOf(i, min(i+perNamespace, services))); err != nil {
			return err
		}
	}
	c.services = services
	return nil
}

// parallel calls f for all numbers of a range, with so many at a time as there are writers.
func parallel(from, to int, f func(int) error) error {
	next := make(chan int)
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := from; i < to; i++ {
		next <- i
	}
	close(next)
	all.Wait()
	return errors.Join(errs[:min(len(errs), 5)]...)
}

func (c *Cluster) createService(ctx context.Context, i int) error {
	ns, name := namespaceOf(i), nameOf(i)
	if _, err := c.Objects.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	service, err := c.Objects.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	c.addresses[i] = service.Spec.ClusterIP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
	}
	for k := range Endpoints {
		p, err := c.createPod(ctx, i, k)
		if err != nil {
			return err
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIP}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: p.Name, UID: p.UID},
		})
	}
	_, err = c.Objects.DiscoveryV1().EndpointSlices(ns).Create(ctx, slice, metav1.CreateOptions{})
	return err
}

func (c *Cluster) createPod(ctx context.Context, service, k int) (*corev1.Pod, error) {
	name, hash := nameOf(service), "5d8f9c7b6"
	p, err := c.Objects.CoreV1().Pods(namespaceOf(service)).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:        podName(service, k),
			Labels:      map[string]string{"app": name, "version": fmt.Sprintf("v%d", k%2+1), "pod-template-hash": hash},
			Annotations: map[string]string{sidecar.VersionAnnotation: c.sidecar},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name + "-" + hash, UID: types.UID(name), Controller: new(true),
			}},
		},
		Spec: corev1.PodSpec{
			ServiceAccountName: name, NodeName: fmt.Sprintf("node-%d", (service*Endpoints+k)/100),
			InitContainers: []corev1.Container{{Name: sidecar.ProxyContainer, Image: "envoy:bench", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}},
			Containers:     []corev1.Container{{Name: "app", Image: "app:bench", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	n := service*Endpoints + k
	p.Status.Phase, p.Status.PodIP = corev1.PodRunning, fmt.Sprintf("10.%d.%d.%d", 128+n>>16, n>>8&255, n&255)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	return c.Objects.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{})
}

func podName(service, k int) string { return fmt.Sprintf("%s-5d8f9c7b6-%d", nameOf(service), k) }

// currentSidecar is the version of what injection gives the pods of a Mesh without settings, so that they count as current.
func currentSidecar() (string, error) {
	builder := model.NewBuilder(model.Config{OperatorNamespace: System, EnvoyImage: operator.DefaultEnvoyImage})
	builder.Set(meshOf(0, 0))
	reader := builder.Snapshot().Reader()
	return inject.Version(inject.For(operator.Installation(System, operatorImage), reader.Namespace(namespaceOf(0)), reader.MeshWide()))
}

// meshOf is the Mesh of the namespace of a range of Services.
func meshOf(from, to int) *v1alpha1.Mesh {
	m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: namespaceOf(from), Name: "bench"}}
	for i := from; i < to; i++ {
		if hasRules(i) {
			m.Spec.Services = append(m.Spec.Services, v1alpha1.ServiceSpec{
				Name: nameOf(i),
				Versions: []v1alpha1.VersionSpec{
					{Name: "v1", Labels: map[string]string{"version": "v1"}}, {Name: "v2", Labels: map[string]string{"version": "v2"}},
				},
				Routes: []v1alpha1.RouteSpec{{Name: "canary", To: weights(10)}},
			})
		}
	}
	return m
}

// Services that have a part in every measurement.
const (
	// Ruled is called by all, and has HTTP rules.
	Ruled = iota
	// Common is called by all.
	Common
	// Lonely is called by the pods of the first Service alone.
	Lonely
	special
)

// uses are the Services that the pods of a Service call: those that all call, and others, evenly.
func (c *Cluster) uses(service, n int) []int {
	used := []int{Ruled, Common}
	if service == 0 {
		used = append(used, Lonely)
	}
	for j := range n - len(used) {
		used = append(used, special+(service*(n-2)+j)%(c.services-special))
	}
	return used
}

// Proxies returns so many pods of the mesh, of as many workloads as there are, each with a token, and with so many destinations that it calls.
func (c *Cluster) Proxies(ctx context.Context, n, uses int) ([]xdsload.Proxy, error) {
	if most := c.services * Endpoints; n > most {
		return nil, fmt.Errorf("%d sidecars: the mesh has %d pods", n, most)
	}
	if uses < special || uses > c.services {
		return nil, fmt.Errorf("%d services a sidecar: want %d to %d", uses, special, c.services)
	}
	proxies := make([]xdsload.Proxy, n)
	err := parallel(0, n, func(i int) error {
		service, k := i%c.services, i/c.services
		pod, err := c.Objects.CoreV1().Pods(namespaceOf(service)).Get(ctx, podName(service, k), metav1.GetOptions{})
		if err != nil {
			return err
		}
		token, err := c.token(ctx, pod.Namespace, pod.Spec.ServiceAccountName, authenticationv1.TokenRequestSpec{
			Audiences:         []string{sidecar.TokenAudience},
			ExpirationSeconds: new(int64(24 * 3600)),
			BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
		})
		proxies[i] = xdsload.Proxy{Namespace: pod.Namespace, Pod: pod.Name, Token: token}
		for _, used := range c.uses(service, uses) {
			proxies[i].Uses = append(proxies[i].Uses, xdsload.Use{Name: c.Destination(used), Rules: hasRules(used)})
		}
		return err
	})
	return proxies, err
}

// Destination returns the name by which proxies ask for a Service.
func (c *Cluster) Destination(service int) string { return "http|" + c.addresses[service] + ":80" }

// Services returns how many there are.
func (c *Cluster) Services() int { return c.services }

// Plain says whether a Service has no HTTP rules.
func Plain(service int) bool { return !hasRules(service) }
