// Package accesslog lets proxies log what their apps are sent. The other side of each request is in the log of the client's
// app; logging both would only double it.
package accesslog

import (
	"maps"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
)

// Feature returns the feature.
func Feature() features.Feature {
	return features.Feature{Name: "accesslog", Inbound: inbound, Chain: chain}
}

// inbound logs refused connections (plaintext on a Strict port, certificates that are not of the mesh) and those of chains that pass bytes.
func inbound(l *features.Inbound) {
	mode := l.Namespace.AccessLog
	if mode == v1alpha1.AccessLogNone {
		return
	}
	passed := envoy.Where(features.OnTCPChains)
	if errors := unless(mode, envoy.Failed()); errors != nil {
		passed = envoy.AllOf(errors, passed)
	}
	l.AccessLog = append(l.AccessLog, envoy.StdoutLog(envoy.AnyOf(envoy.Refused(), passed), connection()))
}

func chain(c *features.Chain) {
	mode := c.Namespace.AccessLog
	if mode == v1alpha1.AccessLogNone || c.HTTP == nil {
		return
	}
	filter := unless(mode, envoy.AnyOf(envoy.StatusAtLeast(500), envoy.Failed()))
	if c.Permissive {
		filter = envoy.AtEnd(filter) // what is reported (package plaintext) is also logged while it lasts
	}
	c.HTTP.AccessLog = append(c.HTTP.AccessLog, envoy.StdoutLog(filter, request()))
}

// unless returns the filter of mode Errors, and none for mode All.
func unless(mode v1alpha1.AccessLogMode, errors *accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	if mode == v1alpha1.AccessLogAll {
		return nil
	}
	return errors
}

// connection are the fields of a connection. The client is the one that connected: what X-Forwarded-For says, anybody can say.
func connection() map[string]string {
	return map[string]string{
		"time":             "%START_TIME%",
		"direction":        "inbound",
		"flags":            "%RESPONSE_FLAGS%",
		"details":          "%CONNECTION_TERMINATION_DETAILS%",
		"tls_failure":      "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
		"upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
		"duration_ms":      "%DURATION%",
		"bytes_in":         "%BYTES_RECEIVED%",
		"bytes_out":        "%BYTES_SENT%",
		"peer":             "%DOWNSTREAM_PEER_URI_SAN%",
		"peer_serial":      "%DOWNSTREAM_PEER_SERIAL%",
		"tls_version":      "%DOWNSTREAM_TLS_VERSION%",
		"client":           "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
		"server":           "%DOWNSTREAM_LOCAL_ADDRESS%",
		"upstream":         "%UPSTREAM_HOST%",
	}
}

// request are the fields of an HTTP request.
func request() map[string]string {
	fields := connection()
	maps.Copy(fields, map[string]string{
		"protocol":  "%PROTOCOL%",
		"method":    "%REQ(:METHOD)%",
		"path":      "%REQ(:PATH)%",
		"authority": "%REQ(:AUTHORITY)%",
		"status":    "%RESPONSE_CODE%",
		"details":   "%RESPONSE_CODE_DETAILS%",
	})
	return fields
}
