//go:build !linux

package operator

// releaseProgram does nothing where the operator is only built.
func releaseProgram() error { return nil }
