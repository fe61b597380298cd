// Package fakeauth authenticates streams in tests without an API server. It is the one fake of the real-Envoy tests: a
// token is the name of the pod that it stands for, and whoever says the name is believed. The linter keeps this package
// out of everything but tests.
package fakeauth

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// prefix keeps a real token from being taken for a name.
const prefix = "fake:"

// Token returns the token of a pod.
func Token(namespace, pod string) string { return prefix + namespace + "/" + pod }

// Authenticator believes tokens made by Token.
type Authenticator struct {
	// Proxy returns what is known of a pod; false when there is none of that name.
	Proxy func(namespace, pod string) (resource.Proxy, bool)
}

// Authenticate implements xds.Authenticator. These tokens do not expire.
func (a Authenticator) Authenticate(_ context.Context, token string) (resource.Proxy, time.Time, error) {
	name, ok := strings.CutPrefix(token, prefix)
	if !ok {
		return resource.Proxy{}, time.Time{}, fmt.Errorf("token %q: not made by fakeauth.Token", token)
	}
	namespace, pod, _ := strings.Cut(name, "/")
	p, ok := a.Proxy(namespace, pod)
	if !ok {
		return resource.Proxy{}, time.Time{}, fmt.Errorf("token of pod %s: no such pod", name)
	}
	return p, time.Time{}, nil
}
