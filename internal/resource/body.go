package resource

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"sync"
	"weak"

	"google.golang.org/protobuf/types/known/anypb"
)

// body is the message of a resource. What only one proxy uses is packed once it is made: it is sent once or twice in the proxy's life, and listeners are a
// third of what a proxy costs here.
type body struct {
	size int

	mu     sync.Mutex
	full   *anypb.Any // nil once it is packed
	packed []byte
	// unpacked is what was last unpacked, or packed, for as long as somebody uses it.
	unpacked weak.Pointer[anypb.Any]
	url      string
}

// WithBody returns a resource that has a message. Its version is the caller's to give.
func WithBody(r Resource, message *anypb.Any) *Resource {
	r.body = &body{full: message, size: len(message.GetValue()), url: message.GetTypeUrl()}
	return &r
}

// Body returns the message, which must not be changed; nil of a bundle.
func (r *Resource) Body() *anypb.Any {
	if r.body == nil {
		return nil
	}
	return r.body.message()
}

// Size is that of the body, in bytes.
func (r *Resource) Size() int {
	if r.body == nil {
		return 0
	}
	return r.body.size
}

// ShareBody has the resource use the body of another one, which is equal.
func (r *Resource) ShareBody(other *Resource) { r.body = other.body }

func (b *body) message() *anypb.Any {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full != nil {
		return b.full
	}
	if m := b.unpacked.Value(); m != nil {
		return m
	}
	value := make([]byte, b.size)
	if _, err := io.ReadFull(flate.NewReader(bytes.NewReader(b.packed)), value); err != nil {
		panic(fmt.Sprintf("what was packed can't be unpacked: %v", err)) // our own bytes
	}
	m := &anypb.Any{TypeUrl: b.url, Value: value}
	b.unpacked = weak.Make(m)
	return m
}

// Packer packs bodies. The zero value is ready; it may be used by several goroutines.
type Packer struct{ writers sync.Pool }

// leastPacked is the size, in bytes, from which on a body is worth packing.
const leastPacked = 1 << 10

// Pack has the body of a resource take a fraction of its size in memory. Body unpacks it, each time after nobody has used it for a while.
func (p *Packer) Pack(r *Resource) {
	b := r.body
	if b == nil || b.size < leastPacked {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full == nil {
		return
	}
	w, _ := p.writers.Get().(*flate.Writer)
	if w == nil {
		w, _ = flate.NewWriter(nil, flate.BestSpeed) // fails for unknown levels
	}
	defer p.writers.Put(w)
	var out bytes.Buffer
	w.Reset(&out)
	if _, err := w.Write(b.full.GetValue()); err != nil {
		return
	}
	if w.Close() != nil || out.Len() >= b.size {
		return
	}
	b.packed, b.unpacked, b.full = bytes.Clone(out.Bytes()), weak.Make(b.full), nil
}
