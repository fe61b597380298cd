package xds

import (
	"fmt"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// sharing is gRPC's codec of protos, which does not copy the bodies of resources: a response on its way refers to the bytes that were sealed,
// and so do those to all other proxies. gRPC's own copies a message into a buffer of a few fixed sizes, and what is larger than 32 kB
// takes one of 1 MB: 92 MB of memory were seen while 100 proxies were configured.
type sharing struct{ encoding.CodecV2 }

func newCodec() sharing { return sharing{encoding.GetCodecV2(protocodec.Name)} }

// Numbers of fields, from the protos.
const (
	responseResources = 2 // DeltaDiscoveryResponse.resources
	resourceBody      = 2 // Resource.resource
	anyTypeURL        = 1
	anyValue          = 2
)

// Marshal implements encoding.CodecV2.
func (c sharing) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*discoveryv3.DeltaDiscoveryResponse)
	if !ok || len(r.GetResources()) == 0 {
		return c.CodecV2.Marshal(v)
	}
	rest := &discoveryv3.DeltaDiscoveryResponse{
		SystemVersionInfo: r.GetSystemVersionInfo(), TypeUrl: r.GetTypeUrl(), Nonce: r.GetNonce(), RemovedResources: r.GetRemovedResources(),
	}
	frame, err := proto.Marshal(rest)
	if err != nil {
		return nil, err
	}
	out := make(mem.BufferSlice, 0, 2*len(r.GetResources()))
	for _, res := range r.GetResources() {
		body := res.GetResource()
		head, err := proto.Marshal(&discoveryv3.Resource{Name: res.GetName(), Version: res.GetVersion()})
		if err != nil {
			return nil, fmt.Errorf("resource %q: %w", res.GetName(), err)
		}
		packed := sizeOfAny(body)
		frame = protowire.AppendTag(frame, responseResources, protowire.BytesType)
		frame = protowire.AppendVarint(frame, uint64(len(head)+protowire.SizeTag(resourceBody)+protowire.SizeBytes(packed))) //nolint:gosec // a length
		frame = append(frame, head...)
		frame = protowire.AppendTag(frame, resourceBody, protowire.BytesType)
		frame = protowire.AppendVarint(frame, uint64(packed)) //nolint:gosec // a length
		frame = protowire.AppendTag(frame, anyTypeURL, protowire.BytesType)
		frame = protowire.AppendString(frame, body.GetTypeUrl())
		frame = protowire.AppendTag(frame, anyValue, protowire.BytesType)
		frame = protowire.AppendVarint(frame, uint64(len(body.GetValue())))
		out = append(out, mem.SliceBuffer(frame), mem.SliceBuffer(body.GetValue()))
		frame = nil
	}
	return out, nil
}

func sizeOfAny(a *anypb.Any) int {
	return protowire.SizeTag(anyTypeURL) + protowire.SizeBytes(len(a.GetTypeUrl())) + protowire.SizeTag(anyValue) + protowire.SizeBytes(len(a.GetValue()))
}
