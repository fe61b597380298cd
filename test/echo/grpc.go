package echo

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// service is gRPC's own test service: an Answer as the payload of each response.
type service struct {
	grpc_testing.UnimplementedTestServiceServer
	server *Server
}

func (s *Server) newGRPC() *grpc.Server {
	g := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(g, &service{server: s})
	return g
}

func (s *service) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	s.server.count(GRPC)
	if wanted := r.GetResponseStatus(); wanted.GetCode() != 0 {
		return nil, status.Error(codes.Code(wanted.GetCode()), wanted.GetMessage()) //nolint:gosec // a test may ask for any
	}
	payload, err := s.payload(ctx, GRPC, r.GetPayload())
	if err != nil {
		return nil, err
	}
	return &grpc_testing.SimpleResponse{Payload: payload}, nil
}

func (s *service) FullDuplexCall(stream grpc_testing.TestService_FullDuplexCallServer) error {
	s.server.count(GRPCStream)
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		payload, err := s.payload(stream.Context(), GRPCStream, r.GetPayload())
		if err != nil {
			return err
		}
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: payload}); err != nil {
			return err
		}
	}
}

func (s *service) payload(ctx context.Context, p Protocol, sent *grpc_testing.Payload) (*grpc_testing.Payload, error) {
	a := s.server.answer(p, "")
	if from, ok := peer.FromContext(ctx); ok {
		a.Client = from.Addr.String()
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		a.Headers = md
		if authority := md.Get(":authority"); len(authority) > 0 {
			a.Host = authority[0]
		}
	}
	a.Body, a.BodyBytes = string(sent.GetBody()), int64(len(sent.GetBody()))
	raw, err := json.Marshal(a)
	return &grpc_testing.Payload{Body: raw}, err
}
