package xds

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// authenticate returns whose stream it is, by its bearer token. The error is a gRPC status.
func (s *Server) authenticate(ctx context.Context) (resource.Proxy, time.Time, error) {
	token, err := bearer(ctx)
	if err != nil {
		return resource.Proxy{}, time.Time{}, err
	}
	proxy, expires, err := s.config.Authenticator.Authenticate(ctx, token)
	if err != nil {
		st, ok := status.FromError(err)
		if !ok {
			st = status.New(codes.Unauthenticated, err.Error())
		}
		reason := "unauthenticated"
		if st.Code() == codes.Unavailable {
			reason = "unverified"
		}
		return resource.Proxy{}, time.Time{}, &ending{reason, st}
	}
	return proxy, expires, nil
}

func bearer(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return "", endingf("unauthenticated", codes.Unauthenticated, "want one authorization header with the pod's token, got %d", len(values))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", endingf("unauthenticated", codes.Unauthenticated, "the authorization header is not of the form: Bearer <token>")
	}
	return token, nil
}

// envoyVersion returns the version that a proxy's first request states, and its minor. The error is a gRPC status.
func (s *Server) envoyVersion(node *corev3.Node) (string, uint32, error) {
	var major, minor, patch uint32
	if v := node.GetUserAgentBuildVersion().GetVersion(); v != nil {
		major, minor, patch = v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch()
	} else if _, err := fmt.Sscanf(node.GetUserAgentVersion(), "%d.%d.%d", &major, &minor, &patch); err != nil {
		return "", 0, endingf("unsupported", codes.InvalidArgument, "the first request's node states no version of Envoy")
	}
	version := fmt.Sprintf("%d.%d.%d", major, minor, patch)
	if major != 1 || minor < s.config.MinMinor || minor > s.config.MaxMinor {
		return "", 0, endingf("unsupported", codes.FailedPrecondition,
			"Envoy %s is not supported by this control plane, which serves 1.%d to 1.%d: restart the pod to get its current sidecar",
			version, s.config.MinMinor, s.config.MaxMinor)
	}
	return version, minor, nil
}
