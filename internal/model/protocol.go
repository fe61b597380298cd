package model

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// wellKnownServerFirst are ports on which the server speaks first, by common use: FTP, SSH, Telnet, SMTP, POP3, NNTP, IMAP,
// mail submission, MySQL, NATS and VNC.
func wellKnownServerFirst() []uint16 {
	return []uint16{21, 22, 23, 25, 110, 119, 143, 587, 3306, 4222, 5900}
}

// maxSkippedPorts bounds Workload.SkipDetection: a proxy compares each connection with each of these ports.
const maxSkippedPorts = 256

// tcpPorts returns the ports that Services of the namespace declare as TCP and none as HTTP.
func (n *namespace) tcpPorts() []uint16 {
	uses := map[uint16]portUse{}
	for key, s := range n.services {
		for _, p := range s.ports {
			use := uses[p.number]
			switch portProtocol(p, n.settings.claims[key.Name]) {
			case TCP:
				use.tcp = true
			case HTTP:
				use.http = true
			case Unknown:
			}
			uses[p.number] = use
		}
	}
	var ports []uint16
	for number, use := range uses {
		if use.tcp && !use.http {
			ports = append(ports, number)
		}
	}
	slices.Sort(ports)
	return ports[:min(len(ports), maxSkippedPorts)]
}

// SkipDetection returns the ports, sorted, on which a proxy that starts now in the namespace does not detect the protocol.
// They are those of the whole mesh and the namespace's own: what another namespace declares is none of its business.
func (n *Namespace) SkipDetection(w *MeshWide) []uint16 {
	ports := slices.Concat(w.ServerFirstPorts, n.TCPPorts)
	ports = ports[:min(len(ports), maxSkippedPorts)]
	slices.Sort(ports)
	return slices.Compact(ports)
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
