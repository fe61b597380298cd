package envoy

import (
	"context"
	"net"
	"os/exec"
	"testing"
)

// Start starts a program in the pod's namespace, beside what is there. Who calls it ends it.
func (p *Pod) Start(cmd *exec.Cmd) error { return p.ns.Start(cmd) }

// ProxyPID returns the process of the pod's Envoy.
func (p *Pod) ProxyPID() int { return p.proxy.cmd.Process.Pid }

// Binary returns the path of the Envoy of a version, for one that is no sidecar.
func Binary(t testing.TB, v Version) string {
	t.Helper()
	return binary(t, v)
}

// Roots returns the roots, as PEM, that sign the certificates of workloads.
func (w *World) Roots() []byte { return w.meshCA.bundle() }

// DialContext opens a connection from the pod.
func (p *Pod) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return p.ns.DialContext(ctx, network, address)
}
