//go:build linux

package supervise

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func TestProbeWaitsForTheAnswer(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (Probe{URL: server.URL, CA: ca}).wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 3 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := (Probe{Socket: filepath.Join(t.TempDir(), "absent.sock")}).wait(ctx); err == nil {
		t.Error("a socket that is not there accepts connections")
	}
}

// TestForwardPassesHalfCloses is what a port-forward and kubectl exec rely on:
// one side may have said everything while the other still speaks.
func TestForwardPassesHalfCloses(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	go func() {
		connection, err := inner.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		said, _ := io.ReadAll(connection) // ends with the client's half-close
		fmt.Fprintf(connection, "you said %s", said)
	}()
	outer, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	go func() { _ = forward(outer, inner.Addr().String()) }()
	client, err := net.Dial("tcp", outer.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := client.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(client)
	if err != nil || string(answer) != "you said hello" {
		t.Errorf("answer %q, %v", answer, err)
	}
}

func TestInitRefusesToRunOutsideANamespace(t *testing.T) {
	if err := Main("absent"); err == nil {
		t.Error("it ran as an ordinary process")
	}
}
