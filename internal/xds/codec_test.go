package xds

import (
	"bytes"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// What the codec makes of a response is read as that response, whatever is in it, and refers to the bytes of the resources.
func TestCodecSharesBodies(t *testing.T) {
	body := bytes.Repeat([]byte("listener "), 10_000)
	full := &discoveryv3.Resource{Name: "inbound", Version: "1", Resource: &anypb.Any{TypeUrl: "t/L", Value: body}}
	for name, r := range map[string]*discoveryv3.DeltaDiscoveryResponse{
		"resources": {TypeUrl: "t/L", Nonce: "7", SystemVersionInfo: "3", Resources: []*discoveryv3.Resource{
			full, {Name: "empty", Version: "2", Resource: &anypb.Any{TypeUrl: "t/L"}}, {Name: "outbound", Version: "3", Resource: full.GetResource()}}},
		"removals": {TypeUrl: "t/C", Nonce: "8", RemovedResources: []string{"a", "b"}},
		"both":     {TypeUrl: "t/C", Nonce: "9", RemovedResources: []string{"a"}, Resources: []*discoveryv3.Resource{full}},
		"nothing":  {},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCodec()
			buffers, err := c.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			got := &discoveryv3.DeltaDiscoveryResponse{}
			if err := c.Unmarshal(buffers, got); err != nil || !proto.Equal(got, r) {
				t.Errorf("read as %v, error %v", got, err)
			}
			shared := 0
			for _, b := range buffers {
				if raw := b.ReadOnlyData(); len(raw) == len(body) && &raw[0] == &body[0] {
					shared++
				}
			}
			want := 0
			for _, res := range r.GetResources() {
				if len(res.GetResource().GetValue()) > 0 {
					want++
				}
			}
			if shared != want {
				t.Errorf("%d of %d bodies are shared, the others were copied", shared, want)
			}
		})
	}
}
