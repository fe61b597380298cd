package compile

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// TestWhatIsOwedIsNamedAgain: a view names only what changed since the one before, so what did not reach everybody is named with the next.
func TestWhatIsOwedIsNamedAgain(t *testing.T) {
	var named [][]resource.ScopedRef
	var views []resource.View
	broken := true
	var p *Publisher
	p = NewPublisher(func(view resource.View, changed []resource.ScopedRef) {
		views, named = append(views, view), append(named, changed)
		if broken {
			p.Owe(changed)
		}
	}, func(ref resource.ScopedRef, err error) { t.Error(ref, err) })
	b := model.NewBuilder(model.Config{})
	publish := func(clusterIP string) {
		b.Set(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s" + clusterIP},
			Spec:       corev1.ServiceSpec{ClusterIP: clusterIP, Ports: []corev1.ServicePort{{Port: 80}}},
		})
		p.Publish(b.Snapshot())
	}
	publish("10.96.0.1")
	_, second := views[0].Resource(&resource.Proxy{}, cluster("http|10.96.0.2:80"))
	_, third := views[0].Resource(&resource.Proxy{}, cluster("http|10.96.0.3:80"))
	publish("10.96.0.2") // is told to nobody
	broken = false
	publish("10.96.0.3")
	p.Again() // owes nothing any more
	if len(named) != 3 || !slices.Contains(named[2], second) || !slices.Contains(named[2], third) {
		t.Errorf("named %v, want %v and %v together the third time, and no fourth", named, second, third)
	}
	broken = true
	p.Again(second)
	broken = false
	p.Again()
	if len(named) != 5 || !slices.Equal(named[4], []resource.ScopedRef{second}) {
		t.Errorf("named %v, want %v once more without a new snapshot", named, second)
	}
}
