package cluster

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// Change is one write to the API server and how proxies see it.
type Change struct {
	// Ref is the resource that changes at proxies, and Matches says of its bytes whether they have the change.
	Ref     resource.Ref
	Matches func(body []byte) bool
	// Write does it, and returns when the API server had answered.
	Write func(context.Context) (time.Time, error)
}

// EndpointChange makes the last endpoint of a Service without rules ready, or not.
func (c *Cluster) EndpointChange(service int, ready bool) Change {
	want := Endpoints
	if !ready {
		want--
	}
	patch := fmt.Appendf(nil, `[{"op":"replace","path":"/endpoints/%d/conditions/ready","value":%v}]`, Endpoints-1, ready)
	return Change{
		Ref: resource.Ref{Type: resource.Endpoints, Name: fmt.Sprintf("%s/%s|80|", namespaceOf(service), nameOf(service))},
		Matches: func(body []byte) bool {
			var a endpointv3.ClusterLoadAssignment
			if err := proto.Unmarshal(body, &a); err != nil {
				return false
			}
			n := 0
			for _, l := range a.GetEndpoints() {
				n += len(l.GetLbEndpoints())
			}
			return n == want
		},
		Write: func(ctx context.Context) (time.Time, error) {
			_, err := c.Objects.DiscoveryV1().EndpointSlices(namespaceOf(service)).Patch(ctx, nameOf(service), types.JSONPatchType, patch, metav1.PatchOptions{})
			return time.Now(), err
		},
	}
}

func weights(second int32) []v1alpha1.RouteTarget {
	return []v1alpha1.RouteTarget{{Version: "v1", Weight: new(100 - second)}, {Version: "v2", Weight: new(second)}}
}

// WeightChange gives the second version of the first Service a weight, through the Mesh and its validating webhook.
func (c *Cluster) WeightChange(weight int32) Change {
	patch := fmt.Appendf(nil, `[{"op":"replace","path":"/spec/services/0/routes/0/to/0/weight","value":%d},{"op":"replace","path":"/spec/services/0/routes/0/to/1/weight","value":%d}]`, 100-weight, weight)
	return Change{
		Ref: resource.Ref{Type: resource.VirtualHost, Name: "outbound/" + c.Destination(0)},
		Matches: func(body []byte) bool {
			var host routev3.VirtualHost
			if err := proto.Unmarshal(body, &host); err != nil {
				return false
			}
			for _, route := range host.GetRoutes() {
				for _, cluster := range route.GetRoute().GetWeightedClusters().GetClusters() {
					if cluster.GetWeight().GetValue() == uint32(weight) { //nolint:gosec // 1 to 99
						return true
					}
				}
			}
			return false
		},
		Write: func(ctx context.Context) (time.Time, error) {
			m := &v1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Namespace: namespaceOf(0), Name: "bench"}}
			err := c.Client.Patch(ctx, m, client.RawPatch(types.JSONPatchType, patch))
			return time.Now(), err
		},
	}
}
