package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"fortio.org/fortio/fgrpc"
	"fortio.org/fortio/fhttp"
	"google.golang.org/grpc"
)

// Where the server listens. ControlPort tells what was counted.
const (
	httpPort    = ":8080"
	grpcPort    = ":8079"
	tcpPort     = ":8078"
	controlPort = ":8077"
)

// message is the size of fortio's messages over TCP, in bytes.
const message = 24

// served counts what was answered: requests over HTTP and gRPC, bytes over TCP.
type served struct{ requests, bytes atomic.Int64 }

// serve answers as fortio's server does, and counts.
func serve() error {
	s := &served{}
	if fhttp.HTTPServerWithHandler("echo", httpPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		fhttp.EchoHandler(w, r)
	})) == nil {
		return fmt.Errorf("no HTTP on %s", httpPort)
	}
	calls, err := net.Listen("tcp", grpcPort)
	if err != nil {
		return err
	}
	bytes, err := net.Listen("tcp", tcpPort)
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	fgrpc.RegisterPingServerServer(g, s)
	failed := make(chan error, 3)
	go func() { failed <- g.Serve(calls) }()
	go func() { failed <- s.echo(bytes) }()
	go func() {
		failed <- http.ListenAndServe(controlPort, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, s.requests.Load()+s.bytes.Load()/message)
		}))
	}()
	return <-failed
}

// Ping implements fortio's service, as its own server does.
func (s *served) Ping(_ context.Context, in *fgrpc.PingMessage) (*fgrpc.PingMessage, error) {
	s.requests.Add(1)
	return &fgrpc.PingMessage{Seq: in.Seq, Ts: time.Now().UnixNano(), Payload: in.Payload, DelayNanos: in.DelayNanos}, nil
}

// echo returns all bytes of all connections.
func (s *served) echo(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, counting{conn, &s.bytes}) // its end is the client's
		}()
	}
}

type counting struct {
	net.Conn
	n *atomic.Int64
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}
