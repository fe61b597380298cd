// Package bench measures what the mesh costs, on real Envoys, each figure with its baseline from the same run.
package bench

import (
	"bufio"
	"context"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/envoy"
)

// BenchmarkGreeting measures the time from opening a connection to the first byte of a server that speaks first: without any
// proxy (the baseline), through two proxies on a port of which it is known, and on one of which it is not, where the client's
// proxy first waits for the client in vain.
func BenchmarkGreeting(b *testing.B) {
	w := envoy.Start(b, "../envoy/testdata/greetings.yaml")
	client, bare := w.Pod("client"), w.Pod("bare")
	for _, c := range []struct {
		name    string
		from    *envoy.Pod
		address string
	}{
		{"direct", bare, bare.IP4().String() + ":3306"},
		{"listed", client, "10.96.0.5:3306"},
		{"unlisted", client, "10.96.0.5:7003"},
	} {
		b.Run(c.name, func(b *testing.B) {
			greeting(b, c.from, c.address) // the first call of an address also asks the control plane
			began := time.Now()
			n := 0
			for b.Loop() {
				greeting(b, c.from, c.address)
				n++
			}
			b.ReportMetric(float64(time.Since(began).Microseconds())/1000/float64(n), "ms/first-byte")
		})
	}
}

func greeting(b *testing.B, from *envoy.Pod, address string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
	defer cancel()
	conn, err := from.Dial(ctx, address)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		b.Fatal(err)
	}
	if _, err := bufio.NewReader(conn).ReadByte(); err != nil {
		b.Fatal(err)
	}
}
