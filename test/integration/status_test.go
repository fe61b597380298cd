package integration

import (
	"context"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// ready is nil once the operator says that it can serve.
func (w *world) ready() error {
	response, err := http.Get("http://" + w.host + ":8081/readyz?verbose=1")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("readyz: %s", response.Status)
	}
	return nil
}

// condition waits until a condition of a Mesh is as wanted, for its newest generation.
func (w *world) condition(namespace, name, condition string, status metav1.ConditionStatus, reason, message string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s=%s of Mesh %s/%s", condition, status, namespace, name), func() error {
		var mesh v1alpha1.Mesh
		if err := w.client.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, &mesh); err != nil {
			return err
		}
		c := meta.FindStatusCondition(mesh.Status.Conditions, condition)
		if c == nil {
			return fmt.Errorf("no such condition yet in %+v", mesh.Status)
		}
		if c.Status != status || c.Reason != reason || c.Message != message || c.ObservedGeneration != mesh.Generation {
			return fmt.Errorf("got %s %s of generation %d:\n%s\nwant %s %s of generation %d:\n%s",
				c.Status, c.Reason, c.ObservedGeneration, c.Message, status, reason, mesh.Generation, message)
		}
		return nil
	})
}
