package identity

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
)

// token signs a token with a key that nobody else knows: only the reviewer of a test says whether it is genuine.
func token(t *testing.T, audience string, expiry time.Time) string {
	t.Helper()
	key := issue(t, nil, time.Hour, nil).key
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(jwt.Claims{Audience: jwt.Audience{audience}, Expiry: jwt.NewNumericDate(expiry)}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

type reviewer struct {
	identity TokenIdentity
	err      error
	calls    int
}

func (r *reviewer) Review(context.Context, string) (TokenIdentity, error) {
	r.calls++
	return r.identity, r.err
}

type pods map[string]Pod

func (p pods) Pod(namespace, name string) (Pod, bool) {
	pod, ok := p[namespace+"/"+name]
	return pod, ok
}

func (p pods) PodAt(a netip.Addr) (Pod, bool) {
	pod, ok := p[a.String()]
	return pod, ok
}

func from(address string) context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))})
}

func TestAuthenticate(t *testing.T) {
	reviewsPod := Pod{Namespace: "bookinfo", Name: "reviews-1", UID: "u1", ServiceAccount: "reviews", Owner: "Deployment/reviews"}
	known := pods{"bookinfo/reviews-1": reviewsPod, "10.0.0.1": reviewsPod, "10.0.0.2": {Namespace: "evil", Name: "thief", UID: "u2"}}
	genuine := TokenIdentity{Namespace: "bookinfo", ServiceAccount: "reviews", Pod: "reviews-1", PodUID: "u1"}
	later := epoch.Add(time.Hour)
	edit := func(f func(*TokenIdentity)) TokenIdentity { i := genuine; f(&i); return i }

	tests := []struct {
		name     string
		token    string
		address  string
		identity TokenIdentity
		err      error
		code     codes.Code
		want     string
	}{
		{name: "the pod's own", token: token(t, "tulle", later), address: "10.0.0.1:4711", identity: genuine},
		{name: "through a gateway", token: token(t, "tulle", later), address: "192.0.2.1:4711", identity: genuine},
		{name: "none", token: "", code: codes.Unauthenticated, want: "the stream carries no service account token"},
		{name: "garbage", token: "a.b.c", code: codes.Unauthenticated, want: "the stream carries no service account token"},
		{name: "forged", token: token(t, "tulle", later), err: &Refusal{Reason: "invalid signature"}, code: codes.Unauthenticated,
			want: "token is not genuine: invalid signature"},
		{name: "expired", token: token(t, "tulle", epoch), code: codes.Unauthenticated, want: "token expired at 2026-03-01T12:00:00Z"},
		{name: "wrong audience", token: token(t, "vault", later), code: codes.Unauthenticated, want: `token is for the audience "vault", not "tulle"`},
		{name: "not bound", token: token(t, "tulle", later), identity: edit(func(i *TokenIdentity) { i.Pod, i.PodUID = "", "" }),
			code: codes.Unauthenticated, want: "token of service account bookinfo/reviews is not bound to a pod"},
		{name: "of a pod that is gone", token: token(t, "tulle", later), identity: edit(func(i *TokenIdentity) { i.Pod = "reviews-0" }), code: codes.Unauthenticated,
			want: "token is of pod bookinfo/reviews-0, which is not known (deleted, or too new: then the proxy's next try works)"},
		{name: "of a former pod of that name", token: token(t, "tulle", later), identity: edit(func(i *TokenIdentity) { i.PodUID = "u0" }), code: codes.Unauthenticated,
			want: "token is of another pod: of a former bookinfo/reviews-1 with UID u0, the one that runs has u1"},
		{name: "of another service account", token: token(t, "tulle", later), identity: edit(func(i *TokenIdentity) { i.ServiceAccount = "admin" }), code: codes.Unauthenticated,
			want: "token is of service account bookinfo/admin, but pod bookinfo/reviews-1 runs as reviews"},
		{name: "stolen", token: token(t, "tulle", later), address: "10.0.0.2:4711", identity: genuine, code: codes.Unauthenticated,
			want: "token is of another pod: of bookinfo/reviews-1, but it was sent from pod evil/thief"},
		{name: "nobody to ask", token: token(t, "tulle", later), err: errors.New("connection refused"), code: codes.Unavailable,
			want: "token could not be verified: connection refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := context.Background()
			if tt.address != "" {
				ctx = from(tt.address)
			}
			a := NewAuthenticator(&reviewer{identity: tt.identity, err: tt.err}, known, clock)
			proxy, expires, err := a.Authenticate(ctx, tt.token)
			if got := status.Convert(err); got.Code() != tt.code || got.Message() != tt.want {
				t.Fatalf("got %v %q, want %v %q", got.Code(), got.Message(), tt.code, tt.want)
			}
			want := resource.Proxy{Namespace: "bookinfo", Pod: "reviews-1", UID: "u1", ServiceAccount: "reviews", Owner: "Deployment/reviews"}
			if err == nil && !expires.Equal(later) {
				t.Errorf("expires %v, want %v", expires, later)
			}
			if err == nil && proxy != want {
				t.Errorf("proxy %+v, want %+v", proxy, want)
			}
		})
	}
}

func TestTokenIsReviewedOnceUntilItExpires(t *testing.T) {
	pod := Pod{Namespace: "bookinfo", Name: "reviews-1", UID: "u1", ServiceAccount: "reviews"}
	known := pods{"bookinfo/reviews-1": pod}
	r := &reviewer{identity: TokenIdentity{Namespace: "bookinfo", ServiceAccount: "reviews", Pod: "reviews-1", PodUID: "u1"}}
	now := epoch
	a := NewAuthenticator(r, known, func() time.Time { return now })
	text := token(t, "tulle", epoch.Add(time.Hour))
	for range 3 {
		if _, _, err := a.Authenticate(context.Background(), text); err != nil {
			t.Fatal(err)
		}
	}
	if r.calls != 1 {
		t.Errorf("reviewed %d times, want once", r.calls)
	}
	delete(known, "bookinfo/reviews-1")
	if _, _, err := a.Authenticate(context.Background(), text); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the token of a deleted pod is still accepted: %v", err)
	}
	now = epoch.Add(time.Hour)
	if _, _, err := a.Authenticate(context.Background(), text); status.Code(err) != codes.Unauthenticated {
		t.Errorf("an expired token is accepted from the cache: %v", err)
	}
}
