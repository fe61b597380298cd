// Package plaintext has proxies report to the control plane who connects without mTLS where a Permissive port lets them, so that
// one can tell when Strict is safe.
package plaintext

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"

	"github.com/tulle-mesh/tulle/internal/envoy"
	"github.com/tulle-mesh/tulle/internal/features"
)

const (
	// logName tells the reports from other logs of the proxy; it is also what the control plane takes them by.
	logName = "plaintext"
	// interval is how often a connection that lasts is reported again.
	interval = 30 * time.Second
	// flush is how long a worker gathers reports, and size for how many bytes of them (some 150).
	flush = 5 * time.Second
	size  = 64 << 10
)

// Feature returns the feature; reports go to the access log service of the given cluster.
func Feature(controlPlane string) features.Feature {
	report := func(filter *accesslogv3.AccessLogFilter) *accesslogv3.AccessLog {
		return envoy.GRPCLog(filter, logName, controlPlane, flush, size)
	}
	return features.Feature{Name: "plaintext", Chain: func(c *features.Chain) {
		switch {
		case !c.Permissive:
		case c.HTTP != nil:
			envoy.ReportHTTP(c.HTTP, interval, report)
		default:
			envoy.ReportTCP(c.TCP, interval, report)
		}
	}}
}
