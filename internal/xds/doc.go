// Package xds is the delta ADS server.
//
// session is the core of one stream. It does no I/O, reads no clock and starts no goroutine: it is fed what the proxy says,
// the views of the configuration, learned names, the proxy's certificate and the time, and hands back responses in the
// order in which they must be sent. Server is the edge around it: gRPC, authentication, one loop a stream, learned sets,
// certificates, metrics.
//
// What is sent when follows from what a resource says of itself (see package resource): it is sent once all it Needs is
// usable at the proxy, and removed once nothing that the proxy holds needs it any more.
package xds
