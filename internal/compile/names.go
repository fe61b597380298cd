package compile

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
)

// ProxyBundle is the bundle of all that a proxy gets unasked.
const ProxyBundle = "proxy"

// Listeners.
const (
	outboundListener = "outbound"
	inboundListener  = "inbound"
	rerouteListener  = "reroute"
	silentListener   = "silent"
	probesListener   = "probes"
	statsListener    = "stats"
)

// Clusters besides those of addresses and Services.
const (
	inboundCluster     = "inbound"
	passthroughCluster = "passthrough"
	localPrefix        = "local|"
)

// outboundRoutes is the route configuration of the outbound and the reroute listener.
const outboundRoutes = "outbound"

// noneVirtualHost is always there: Envoy's listener waits until VHDS has named at least one virtual host.
const noneVirtualHost = outboundRoutes + "/none"

// The names of addresses: a prefix, then the address as Envoy's %DOWNSTREAM_LOCAL_ADDRESS% writes it.
const (
	httpPrefix = "http|"
	tcpPrefix  = "tcp|"
	rawPrefix  = "raw|"
	svcPrefix  = "svc|"
)

// addressName is the name of an address that a proxy called.
type addressName struct {
	name    string
	prefix  string
	address netip.AddrPort
}

// http reports whether HTTP is spoken.
func (a addressName) http() bool { return a.prefix == httpPrefix }

// parseAddress parses http|<ip:port>, tcp|<ip:port> and raw|<ip:port>.
func parseAddress(name string) (addressName, bool) {
	for _, prefix := range []string{httpPrefix, tcpPrefix, rawPrefix} {
		if text, ok := strings.CutPrefix(name, prefix); ok {
			a, err := netip.ParseAddrPort(text)
			ok := err == nil && a.Addr().Zone() == "" && a.Port() != 0
			return addressName{name, prefix, netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}, ok
		}
	}
	return addressName{}, false
}

// serviceName is a version of a Service on a port.
type serviceName struct {
	key     model.ServiceKey
	port    uint16
	version string
}

// parseService parses <namespace>/<name>|<port>|<version>.
func parseService(name string) (serviceName, bool) {
	parts := strings.Split(name, "|")
	if len(parts) != 3 {
		return serviceName{}, false
	}
	key, ok := parseKey(parts[0])
	port, err := parsePort(parts[1])
	if !ok || err != nil {
		return serviceName{}, false
	}
	return serviceName{key, port, parts[2]}, true
}

// parseKey parses <namespace>/<name>.
func parseKey(s string) (model.ServiceKey, bool) {
	namespace, name, ok := strings.Cut(s, "/")
	return model.ServiceKey{Namespace: namespace, Name: name}, ok && namespace != "" && name != ""
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

func compareRefs(a, b resource.ScopedRef) int {
	return cmp.Or(
		cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Minor, b.Minor))
}
