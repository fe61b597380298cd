package compile

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/contain"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// A resource that makes its compilation panic is missing and told of until it can be made; whoever else waits for it waits for no longer,
// and all others are made.
func TestCompilationThatPanics(t *testing.T) {
	t.Parallel()
	b := model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"})
	set := func(name, address string) {
		b.Set(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec:       corev1.ServiceSpec{ClusterIP: address, Ports: []corev1.ServicePort{{Port: 80}}},
		})
	}
	set("good", "10.96.0.1")
	set("bad", "10.96.0.2")
	var told []error
	c := NewCompiler(func(_ resource.ScopedRef, err error) { told = append(told, err) })
	broken := true
	entered, leave := make(chan struct{}), make(chan struct{})
	c.translate = func(r *model.Reader, s resource.Scope, ref resource.Ref) (*resource.Resource, error) {
		made, err := Compile(r, s, ref)
		if broken && strings.Contains(ref.Name, "10.96.0.2") {
			close(entered)
			<-leave
			panic("a bug")
		}
		return made, err
	}
	view, _ := c.Advance(b.Snapshot())
	proxy := &resource.Proxy{Namespace: "shop", Pod: "web", Minor: 40}
	read := func(v resource.View, address string) *resource.Resource {
		r, _ := v.Resource(proxy, resource.Ref{Type: resource.Cluster, Name: "http|" + address + ":80"})
		return r
	}
	answers := make(chan *resource.Resource, 2)
	go func() { answers <- read(view, "10.96.0.2") }()
	<-entered
	go func() { answers <- read(view, "10.96.0.2") }() // waits for the first, whenever it comes
	close(leave)
	if first, second := <-answers, <-answers; first != nil || second != nil {
		t.Errorf("got %v and %v", first, second)
	}
	if read(view, "10.96.0.1") == nil {
		t.Error("the other Service has no cluster")
	}
	failures := c.failures()
	var caught *contain.Error
	if len(failures) != 1 || !slices.Equal(failures[0].Namespaces, []string{"shop"}) || !errors.As(failures[0].Err, &caught) {
		t.Errorf("failures: %+v", failures)
	}
	if len(told) != 1 || !errors.As(told[0], &caught) || len(caught.Stack) == 0 {
		t.Errorf("told: %v", told)
	}

	broken = false
	b.Delete(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "bad"}})
	set("better", "10.96.0.2")
	view, _ = c.Advance(b.Snapshot())
	if read(view, "10.96.0.2") == nil || len(c.failures()) != 0 {
		t.Errorf("it can be made again: failures %+v", c.failures())
	}
}
