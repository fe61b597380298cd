package xds

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// partingTime is how long a refused proxy's connection stays, so that the reason of the refusal reaches it.
const partingTime = 100 * time.Millisecond

// traceable are credentials by which a stream finds the connection that it came on.
type traceable struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (t traceable) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	return conn, traced{info, raw}, nil
}

// Clone implements credentials.TransportCredentials.
func (t traceable) Clone() credentials.TransportCredentials {
	return traceable{t.TransportCredentials.Clone()}
}

type traced struct {
	credentials.AuthInfo
	conn net.Conn
}

// part ends, in a moment, the connection of a stream that is refused. A proxy tries again on the connection that it has, and so
// at a replica that will not have it, as it has lost sight of the API server, for ever; on a new one it finds another.
func part(ctx context.Context) {
	if p, ok := peer.FromContext(ctx); ok {
		if t, ok := p.AuthInfo.(traced); ok {
			time.AfterFunc(partingTime, func() { t.conn.Close() })
		}
	}
}
