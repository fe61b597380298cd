package xdsload

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

// dial opens a connection, counted, for one sidecar alone. The buffers are small: thousands of them are in one process.
func (f *Fleet) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+f.target.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: f.target.Roots, ServerName: f.target.ServerName, MinVersion: tls.VersionTLS13})),
		grpc.WithReadBufferSize(16<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			var dialer net.Dialer
			c, err := dialer.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			return counted{c, &f.received, &f.sent}, nil
		}))
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// counted is a connection whose bytes are counted, below TLS.
type counted struct {
	net.Conn
	received, sent *atomic.Int64
}

// Read implements net.Conn.
func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received.Add(int64(n))
	return n, err
}

// Write implements net.Conn.
func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}
