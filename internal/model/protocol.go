package model

import (
	"strings"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// wellKnownServerFirst are ports on which the server speaks first, by common use: FTP, SSH, Telnet, SMTP, POP3, NNTP, IMAP,
// mail submission, MySQL, NATS and VNC.
func wellKnownServerFirst() []uint16 {
	return []uint16{21, 22, 23, 25, 110, 119, 143, 587, 3306, 4222, 5900}
}

// portProtocol returns what a Service's port speaks: what the Mesh says, else appProtocol, else the port's name.
func portProtocol(port servicePort, c *claim) Protocol {
	if c != nil {
		if said, ok := c.ports[port.number]; ok {
			return said.protocol
		}
	}
	if p := appProtocol(port.appProtocol); p != Unknown {
		return p
	}
	// As everywhere where ports are named so: http, or http-anything.
	name, _, _ := strings.Cut(port.name, "-")
	if name == "kubernetes.io" {
		return Unknown
	}
	return appProtocol(name)
}

// appProtocol knows the standard names of KEP-3726, IANA's names of what meshes meet often, and those of gRPC.
// TLS is TCP to a proxy that does not hold the application's key.
func appProtocol(name string) Protocol {
	switch strings.ToLower(name) {
	case "http", "http2", "grpc", "grpc-web", "h2c", "kubernetes.io/h2c", "kubernetes.io/ws":
		return HTTP
	case "tcp", "tls", "https", "kubernetes.io/wss", "mongo", "mongodb", "mysql", "redis", "postgres", "postgresql",
		"amqp", "amqps", "kafka", "nats", "ldap", "ldaps", "smtp", "imap", "ssh", "ftp", "mqtt", "cassandra", "memcached":
		return TCP
	}
	return Unknown
}

func specProtocol(p v1alpha1.Protocol) Protocol {
	switch p {
	case v1alpha1.ProtocolHTTP, v1alpha1.ProtocolGRPC:
		return HTTP
	case v1alpha1.ProtocolTCP:
		return TCP
	}
	return Unknown
}
