package features

// The minor versions of Envoy that are compiled for: the pinned one and the two before. All that is generated differently
// for one of them is in this file.
const (
	oldestMinor = 38
	newestMinor = 40
)

// Class returns the compile class of an Envoy of a minor version: the nearest that is known.
func Class(minor uint32) uint32 {
	return min(max(minor, oldestMinor), newestMinor)
}

// SharedStatistics reports whether the sets of statistics of logs can be shared and limited.
func SharedStatistics(minor uint32) bool { return minor >= 39 }

// ForgetsAskedCluster reports whether a request that asked for its cluster logs nothing of it, unless it chooses its route again.
func ForgetsAskedCluster(minor uint32) bool { return minor < 39 }

// Curves returns the key exchanges of mTLS, the best first. All supported minors have the hybrid post-quantum one.
func Curves(uint32) []string { return []string{"X25519MLKEM768", "X25519", "P-256"} }
