package xdsload

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/resource"
)

const wildcard = "*"

// ready is the listener that arrives with the complete configuration: from then on the app calls others.
var ready = resource.Ref{Type: resource.Listener, Name: "stats"}

// workload is the secret that is made anew for each stream.
var workload = resource.Ref{Type: resource.Secret, Name: "workload"}

// byName are the types that Envoy asks for because a resource that it holds names them.
var byName = []resource.Type{resource.Endpoints, resource.Secret, resource.RouteConfiguration}

// sidecar is one simulated Envoy. Its maps are its stream's; mu guards them for waits.
type sidecar struct {
	fleet *Fleet
	index int
	proxy Proxy

	responses    atomic.Int64
	configured   chan struct{}
	configuredAt time.Time

	mu      sync.Mutex
	stream  discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	started map[resource.Type]bool
	// held are the versions of what it holds, names what each of these refers to, users how many refer to a name.
	held  map[resource.Ref]string
	names map[resource.Ref][]resource.Ref
	users map[resource.Ref]int
	// asked are the destinations that the app has called, await what was asked for and not answered yet.
	asked bool
	await map[resource.Ref]struct{}
	done  bool
	err   error
}

func newSidecar(f *Fleet, index int, p Proxy) *sidecar {
	return &sidecar{
		fleet: f, index: index, proxy: p,
		held: map[resource.Ref]string{}, names: map[resource.Ref][]resource.Ref{}, users: map[resource.Ref]int{},
	}
}

// runUntil keeps a stream open until ctx ends, with Envoy's pause before it tries again (0.5 s, jittered).
func (s *sidecar) runUntil(ctx context.Context) {
	s.done = false
	for {
		err := s.run(ctx)
		if ctx.Err() != nil {
			return
		}
		s.fleet.lost.Add(1)
		err = fmt.Errorf("%s/%s: %w", s.proxy.Namespace, s.proxy.Pod, err)
		s.fleet.lastLoss.Store(&err)
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(rand.Int64N(int64(500*time.Millisecond))) + time.Millisecond):
		}
	}
}

// run opens one stream and answers it to its end.
func (s *sidecar) run(ctx context.Context) error {
	connection, err := s.fleet.dial()
	if err != nil {
		return err
	}
	defer connection.Close()
	if s.stream, err = discoveryv3.NewAggregatedDiscoveryServiceClient(connection).DeltaAggregatedResources(withToken(ctx, s.proxy.Token)); err != nil {
		return err
	}
	if err := s.announce(); err != nil {
		return err
	}
	for {
		response, err := s.stream.Recv()
		if err != nil {
			return err
		}
		if err := s.take(response, time.Now()); err != nil {
			return err
		}
	}
}

// announce begins a stream: clusters first, and then, on a later stream, all types of before with what is held.
func (s *sidecar) announce() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.started
	s.started, s.await = map[resource.Type]bool{}, map[resource.Ref]struct{}{}
	if len(again) == 0 {
		return s.start(resource.Cluster)
	}
	for ref := range s.users {
		if ref.Type == resource.Endpoints || ref == workload {
			s.await[ref] = struct{}{}
		}
	}
	for _, t := range slices.Sorted(maps.Keys(again)) {
		if err := s.start(t); err != nil {
			return err
		}
	}
	return nil
}

// start sends the first request of a type on a stream.
func (s *sidecar) start(t resource.Type, names ...string) error {
	s.started[t] = true
	request := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.URL(), ResourceNamesSubscribe: names}
	if t == resource.Cluster {
		request.Node = s.node()
		if s.asked {
			for _, use := range s.proxy.Uses {
				request.ResourceNamesSubscribe = append(request.ResourceNamesSubscribe, use.Name)
			}
			request.ResourceNamesSubscribe = append(request.ResourceNamesSubscribe, wildcard)
		}
	}
	for ref, version := range s.held {
		if ref.Type == t {
			if request.InitialResourceVersions == nil {
				request.InitialResourceVersions = map[string]string{}
			}
			request.InitialResourceVersions[ref.Name] = version
		}
	}
	if len(names) == 0 {
		for ref := range s.users {
			if ref.Type == t {
				request.ResourceNamesSubscribe = append(request.ResourceNamesSubscribe, ref.Name)
			}
		}
	}
	return s.stream.Send(request)
}

func (s *sidecar) node() *corev3.Node {
	return &corev3.Node{
		Id: s.proxy.Pod + "." + s.proxy.Namespace, Cluster: s.proxy.Namespace, UserAgentName: "envoy",
		UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
			UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40}},
		},
	}
}

// take applies a response, acknowledges it, and asks for what follows from it.
func (s *sidecar) take(r *discoveryv3.DeltaDiscoveryResponse, now time.Time) error {
	s.responses.Add(1)
	s.fleet.responses.Add(1)
	kind, ok := resource.TypeOf(r.GetTypeUrl())
	if !ok {
		return fmt.Errorf("a response of the unknown type %q", r.GetTypeUrl())
	}
	s.fleet.note(kind, proto.Size(r))
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started[kind] {
		return fmt.Errorf("%s was sent before it was asked for", kind)
	}
	changes := newChanges()
	for _, res := range r.GetResources() {
		ref := resource.Ref{Type: kind, Name: res.GetName()}
		if w, ok := s.fleet.watches.Load(ref); ok {
			w.(*Receipts).note(s.index, res.GetVersion(), res.GetResource().GetValue(), now)
		}
		refers, err := s.fleet.refers(ref, res)
		if err != nil {
			return err
		}
		s.held[ref] = res.GetVersion()
		s.refer(changes, ref, refers)
		delete(s.await, ref)
	}
	for _, name := range r.GetRemovedResources() {
		ref := resource.Ref{Type: kind, Name: name}
		delete(s.held, ref)
		delete(s.await, ref)
		s.refer(changes, ref, nil)
	}
	if err := s.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}); err != nil {
		return err
	}
	if err := s.follow(kind, changes); err != nil {
		return err
	}
	s.settle(now)
	return nil
}

// changes are the names that a response has Envoy begin and cease to ask for.
type changes struct{ begun, ceased map[resource.Ref]bool }

func newChanges() *changes {
	return &changes{begun: map[resource.Ref]bool{}, ceased: map[resource.Ref]bool{}}
}

// refer notes what a resource refers to now.
func (s *sidecar) refer(c *changes, ref resource.Ref, refers []resource.Ref) {
	for _, name := range refers {
		if s.users[name]++; s.users[name] == 1 && !c.ceased[name] {
			c.begun[name] = true
		}
		delete(c.ceased, name)
	}
	for _, name := range s.names[ref] {
		if s.users[name]--; s.users[name] == 0 {
			delete(s.users, name)
			if !c.begun[name] {
				c.ceased[name] = true
			}
			delete(c.begun, name)
		}
	}
	if s.names[ref] = refers; len(refers) == 0 {
		delete(s.names, ref)
	}
}

// follow asks for what follows from a response.
func (s *sidecar) follow(kind resource.Type, c *changes) error {
	for _, t := range byName {
		var begun, ceased []string
		for ref := range c.begun {
			if ref.Type == t {
				begun = append(begun, ref.Name)
				s.await[ref] = struct{}{}
			}
		}
		for ref := range c.ceased {
			if ref.Type == t {
				ceased = append(ceased, ref.Name)
				delete(s.held, ref)
				delete(s.await, ref)
			}
		}
		if err := s.ask(t, begun, ceased); err != nil {
			return err
		}
	}
	if kind == resource.Cluster && !s.started[resource.Listener] {
		return s.start(resource.Listener)
	}
	if kind == resource.RouteConfiguration && !s.started[resource.VirtualHost] {
		return s.start(resource.VirtualHost)
	}
	if _, isReady := s.held[ready]; isReady && !s.asked {
		return s.call()
	}
	return nil
}

func (s *sidecar) ask(t resource.Type, begun, ceased []string) error {
	switch {
	case len(begun)+len(ceased) == 0:
		return nil
	case !s.started[t]:
		return s.start(t, begun...)
	}
	return s.stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.URL(), ResourceNamesSubscribe: begun, ResourceNamesUnsubscribe: ceased})
}

// call is the app calling all its destinations for the first time: each is a request of its own.
func (s *sidecar) call() error {
	s.asked = true
	for _, use := range s.proxy.Uses {
		s.await[resource.Ref{Type: resource.Cluster, Name: use.Name}] = struct{}{}
		if use.Rules {
			if host := (resource.Ref{Type: resource.VirtualHost, Name: "outbound/" + use.Name}); s.held[host] == "" {
				s.await[host] = struct{}{}
			}
		}
		if err := s.ask(resource.Cluster, []string{use.Name}, nil); err != nil {
			return err
		}
	}
	return nil
}

// settle notes when the sidecar first holds all that it uses.
func (s *sidecar) settle(now time.Time) {
	if _, isReady := s.held[ready]; s.done || !isReady || !s.asked || len(s.await) > 0 {
		return
	}
	s.done, s.configuredAt = true, now
	close(s.configured)
}

// waits says, for a failure, what the sidecar waits for.
func (s *sidecar) waits() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err.Error()
	}
	var refs []string
	for ref := range s.await {
		refs = append(refs, ref.String())
	}
	slices.Sort(refs)
	return fmt.Sprintf("it waits for %d names, %q first, and holds %d", len(refs), refs[:min(len(refs), 5)], len(s.held))
}
