package resource

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"google.golang.org/protobuf/types/known/anypb"
)

// large is a message of which much is said again and again, as in listeners.
func large() *anypb.Any {
	var value bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&value, "destination_service_namespace=%d;", i%7)
	}
	return &anypb.Any{TypeUrl: Listener.URL(), Value: value.Bytes()}
}

func TestAPackedBodyIsTheSame(t *testing.T) {
	t.Parallel()
	want := large()
	r := WithBody(Resource{Ref: Ref{Listener, "inbound"}, Version: "1"}, large())
	var p Packer
	for range 2 { // again is no change
		p.Pack(r)
		if len(r.body.packed) == 0 || len(r.body.packed) > r.Size()/5 || r.body.full != nil {
			t.Fatalf("%d of %d bytes are kept", len(r.body.packed), r.Size())
		}
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if got := r.Body(); got.GetTypeUrl() != want.GetTypeUrl() || !bytes.Equal(got.GetValue(), want.GetValue()) {
					t.Error("another body")
				}
				runtime.GC()
			}
		})
	}
	all.Wait()
	if r.Size() != len(want.GetValue()) {
		t.Errorf("size %d, want %d", r.Size(), len(want.GetValue()))
	}
	// While somebody uses it there is one.
	if got := r.Body(); got != r.Body() {
		t.Error("a body that is in use was unpacked once more")
	}
}

func TestWhatIsSmallOrNotThereStaysAsItIs(t *testing.T) {
	t.Parallel()
	var p Packer
	bundle := Group("b", Ref{Cluster, "a"})
	p.Pack(bundle)
	if bundle.Body() != nil || bundle.Size() != 0 {
		t.Error("a bundle has a body")
	}
	small := &anypb.Any{Value: []byte("small")}
	r := WithBody(Resource{}, small)
	p.Pack(r)
	if r.Body() != small {
		t.Error("a small body was packed")
	}
	same := WithBody(Resource{}, &anypb.Any{Value: []byte("small")})
	same.ShareBody(r)
	if same.Body() != small {
		t.Error("a body is not shared")
	}
}
