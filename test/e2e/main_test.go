package e2e

import (
	"os"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func TestMain(m *testing.M) {
	// The client has nothing to say that its errors don't.
	log.SetLogger(logr.Discard())
	os.Exit(m.Run())
}
