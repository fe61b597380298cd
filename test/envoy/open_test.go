//go:build open

package envoy_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/test/envoy"
)

// The tests of this file are of promises that are not kept yet: `make test-open` runs them, and docs/status.md says what is known.

// TestSplitOfConnectionsUnderLoad: connections are lost to a TrafficSplit's change about once in a thousand, for a reason not found yet.
func TestSplitOfConnectionsUnderLoad(t *testing.T) {
	onEachVersion(t, func(t *testing.T, v envoy.Version) { splitConnections(t, v, 2) })
}
