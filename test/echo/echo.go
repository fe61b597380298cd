// Package echo is the application of the tests: a backend that says what it got and counts it, over every protocol that
// the mesh carries, and a client for it that never retries. The same code runs in the real-Envoy tests, inside network
// namespaces, and as a program in a pod (test/apps/echo).
package echo

import (
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// Protocol is how a client calls a backend.
type Protocol string

// The protocols. All but the last two are served on the same ports.
const (
	HTTP1      Protocol = "http/1.1"
	HTTP2      Protocol = "http/2" // in plaintext, by prior knowledge
	GRPC       Protocol = "grpc"
	GRPCStream Protocol = "grpc-stream" // both directions, several messages
	WebSocket  Protocol = "websocket"
	TCP        Protocol = "tcp"      // the client speaks first
	Greeting   Protocol = "greeting" // TCP, the server speaks first
)

// Protocols returns all protocols.
func Protocols() []Protocol {
	return []Protocol{HTTP1, HTTP2, GRPC, GRPCStream, WebSocket, TCP, Greeting}
}

// Answer is what a backend says of a request.
type Answer struct {
	// Name and Version of the backend.
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// Protocol as the backend saw it.
	Protocol Protocol `json:"protocol"`
	Method   string   `json:"method,omitempty"`
	Path     string   `json:"path,omitempty"`
	Host     string   `json:"host,omitempty"`
	// Client is the address that the backend was called from.
	Client string `json:"client"`
	// Headers of an HTTP request, metadata of a gRPC call.
	Headers map[string][]string `json:"headers,omitempty"`
	// Body is what was sent; of a large HTTP body, only its size and hash.
	Body       string `json:"body,omitempty"`
	BodyBytes  int64  `json:"bodyBytes,omitempty"`
	BodySHA256 string `json:"bodySHA256,omitempty"`
}

// Config says what a backend is and where it listens. Its flags are the program's.
type Config struct {
	Name, Version string
	// HTTPPorts serve HTTP/1.1, HTTP/2, gRPC and WebSocket; TCPPorts and GreetingPorts the protocols of these names.
	HTTPPorts, TCPPorts, GreetingPorts []uint16
}

// ParseConfig parses a backend's arguments, such as -name=reviews -version=v1 -http=8080 -tcp=9000 -greeting=9001.
func ParseConfig(args []string) (Config, error) {
	var c Config
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	hostname, err := os.Hostname()
	if err != nil {
		return c, err
	}
	flags.StringVar(&c.Name, "name", hostname, "what the backend calls itself")
	flags.StringVar(&c.Version, "version", "", "its version")
	flags.Func("http", "ports, comma-separated, for HTTP/1.1, HTTP/2, gRPC and WebSocket", ports(&c.HTTPPorts))
	flags.Func("tcp", "ports, comma-separated, for lines of text that are echoed", ports(&c.TCPPorts))
	flags.Func("greeting", "ports, comma-separated, where the server speaks first", ports(&c.GreetingPorts))
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return c, nil
}

func ports(dst *[]uint16) func(string) error {
	return func(list string) error {
		for item := range strings.SplitSeq(list, ",") {
			port, err := strconv.ParseUint(item, 10, 16)
			if err != nil {
				return fmt.Errorf("port %q: must be a number from 1 to 65535", item)
			}
			*dst = append(*dst, uint16(port))
		}
		return nil
	}
}

// ListenFunc is net.Listen, or that of a network namespace.
type ListenFunc func(network, address string) (net.Listener, error)
