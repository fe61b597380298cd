package integration

import (
	"testing"
)

func TestMesh(t *testing.T) {
	w := newWorld(t)
	w.installCertManager()
	w.start(nil)
	w.eventually("ready", func() error { return w.ready() })
}
