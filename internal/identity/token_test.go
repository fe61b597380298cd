package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/resource"
)

const issuer = "https://cluster.example"

// signingKey is a key as the API server has them.
type signingKey struct {
	id  string
	key *ecdsa.PrivateKey
}

func newSigningKey(t testing.TB, id string) signingKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{id, key}
}

func (k signingKey) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.key.Public(), KeyID: k.id, Algorithm: string(jose.ES256), Use: "sig"}
}

// token is one that the API server would make for the pod reviews-1, but for an edit.
func (k signingKey) token(t testing.TB, edit func(claims map[string]any)) string {
	t.Helper()
	return serialize(t, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k.key, KeyID: k.id}}, edit)
}

func serialize(t testing.TB, key jose.SigningKey, edit func(claims map[string]any)) string {
	t.Helper()
	claims := map[string]any{
		"iss": issuer, "sub": "system:serviceaccount:bookinfo:reviews", "aud": []string{"tulle"},
		"exp": epoch.Add(time.Hour).Unix(), "nbf": epoch.Unix(), "iat": epoch.Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "bookinfo", "serviceaccount": map[string]any{"name": "reviews", "uid": "a1"},
			"pod": map[string]any{"name": "reviews-1", "uid": "u1"},
		},
	}
	if edit != nil {
		edit(claims)
	}
	signer, err := jose.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func set(name string, value any) func(map[string]any) {
	return func(c map[string]any) { c[name] = value }
}

// binding replaces one of the API server's own claims.
func binding(name string, value any) func(map[string]any) {
	return func(c map[string]any) { c["kubernetes.io"].(map[string]any)[name] = value }
}

// unsigned is a token with the algorithm "none".
func unsigned(token string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none","kid":"k1"}`)) + "." + strings.Split(token, ".")[1] + "."
}

// symmetric is a token whose secret is the public key that everybody knows.
func symmetric(t *testing.T, public crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return serialize(t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: der, KeyID: "k1"}}, nil)
}

// swapped has the signature of another token.
func swapped(token, other string) string {
	return token[:strings.LastIndex(token, ".")] + other[strings.LastIndex(other, "."):]
}

// published is a KeySource.
type published struct {
	issuer string
	keys   []jose.JSONWebKey
	err    error
	reads  int
}

func (p *published) SigningKeys(context.Context) (string, []jose.JSONWebKey, error) {
	p.reads++
	return p.issuer, p.keys, p.err
}

func keysOf(keys ...signingKey) *Keys {
	p := &published{issuer: issuer}
	for _, k := range keys {
		p.keys = append(p.keys, k.public())
	}
	return NewKeys(p, clock, discard())
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

var reviewsPod = Pod{Namespace: "bookinfo", Name: "reviews-1", UID: "u1", ServiceAccount: "reviews", Owner: "Deployment/reviews"}

// TestAuthenticate: tokens of the cluster's own keys are decided without the API server, in words that say what is wrong.
func TestAuthenticate(t *testing.T) {
	key, stranger := newSigningKey(t, "k1"), newSigningKey(t, "k1")
	known := pods{"bookinfo/reviews-1": reviewsPod, "10.0.0.1": reviewsPod, "10.0.0.2": {Namespace: "evil", Name: "thief", UID: "u2"}}
	good := key.token(t, nil)

	tests := []struct {
		name    string
		token   string
		address string
		want    string // why it is refused
	}{
		{name: "the pod's own", token: good, address: "10.0.0.1:4711"},
		{name: "through a gateway", token: good, address: "192.0.2.1:4711"},
		{name: "of a clock a minute ahead", token: key.token(t, set("nbf", epoch.Add(time.Minute).Unix()))},
		{name: "none", token: "", want: "the stream carries no service account token"},
		{name: "garbage", token: "a.b.c", want: "the stream carries no service account token"},
		{name: "algorithm none", token: unsigned(good), want: "the stream carries no service account token"},
		{name: "public key as a secret", token: symmetric(t, key.key.Public()), want: "the stream carries no service account token"},
		{name: "forged", token: stranger.token(t, nil), want: `token is not genuine: its signature is not of the cluster's key "k1"`},
		{name: "another token's signature", token: swapped(key.token(t, binding("namespace", "kube-system")), good),
			want: `token is not genuine: its signature is not of the cluster's key "k1"`},
		{name: "that never expires", token: key.token(t, func(c map[string]any) { delete(c, "exp") }),
			want: "the stream carries no service account token that expires"},
		{name: "expired", token: key.token(t, set("exp", epoch.Unix())), want: "token expired at 2026-03-01T12:00:00Z"},
		{name: "not valid yet", token: key.token(t, set("nbf", epoch.Add(61*time.Second).Unix())),
			want: "token is not valid before 2026-03-01T12:01:01Z; here it is 2026-03-01T12:00:00Z"},
		{name: "wrong audience", token: key.token(t, set("aud", "vault")), want: `token is for the audience "vault", not "tulle"`},
		{name: "more than one audience", token: key.token(t, set("aud", []string{"tulle", "vault"})), want: `token is for the audience "tulle, vault", not "tulle"`},
		{name: "of a user", token: key.token(t, set("sub", "admin")),
			want: `token is not genuine: its subject is "admin", not "system:serviceaccount:bookinfo:reviews"`},
		{name: "not bound", token: key.token(t, binding("pod", nil)), want: "token of service account bookinfo/reviews is not bound to a pod"},
		{name: "of a pod that is gone", token: key.token(t, binding("pod", map[string]any{"name": "reviews-0", "uid": "u0"})),
			want: "token is of pod bookinfo/reviews-0, which is not known (deleted, or too new: then the proxy's next try works)"},
		{name: "of a former pod of that name", token: key.token(t, binding("pod", map[string]any{"name": "reviews-1", "uid": "u0"})),
			want: "token is of another pod: of a former bookinfo/reviews-1 with UID u0, the one that runs has u1"},
		{name: "of another service account", token: key.token(t, func(c map[string]any) {
			binding("serviceaccount", map[string]any{"name": "admin"})(c)
			c["sub"] = "system:serviceaccount:bookinfo:admin"
		}), want: "token is of service account bookinfo/admin, but pod bookinfo/reviews-1 runs as reviews"},
		{name: "stolen", token: good, address: "10.0.0.2:4711", want: "token is of another pod: of bookinfo/reviews-1, but it was sent from pod evil/thief"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := context.Background()
			if tt.address != "" {
				ctx = from(tt.address)
			}
			r := &reviewer{err: errors.New("the API server is paused")}
			proxy, expires, err := NewAuthenticator(keysOf(key), r, known, clock).Authenticate(ctx, tt.token)
			if r.calls != 0 {
				t.Error("the API server was asked")
			}
			if tt.want != "" {
				if got := status.Convert(err); got.Code() != codes.Unauthenticated || got.Message() != tt.want {
					t.Errorf("got %v %q, want Unauthenticated %q", got.Code(), got.Message(), tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if later := epoch.Add(time.Hour); !expires.Equal(later) {
				t.Errorf("expires %v, want %v", expires, later)
			}
			want := resource.Proxy{Namespace: "bookinfo", Pod: "reviews-1", UID: "u1", ServiceAccount: "reviews", Owner: "Deployment/reviews"}
			if proxy != want {
				t.Errorf("proxy %+v, want %+v", proxy, want)
			}
		})
	}
}

// TestReview: the API server decides what the keys can't.
func TestReview(t *testing.T) {
	key, unknown := newSigningKey(t, "k1"), newSigningKey(t, "k2")
	genuine := TokenIdentity{Namespace: "bookinfo", ServiceAccount: "reviews", Pod: "reviews-1", PodUID: "u1"}
	no := &Refusal{Reason: "invalid bearer token"}
	unread := NewKeys(&published{err: errors.New("forbidden")}, clock, discard())
	nameless := signingKey{"", key.key}

	tests := []struct {
		name     string
		keys     *Keys
		token    string
		identity TokenIdentity
		err      error
		code     codes.Code
		want     string
	}{
		{name: "key not published", keys: keysOf(key), token: unknown.token(t, nil), identity: genuine},
		{name: "key not published, forged", keys: keysOf(key), token: unknown.token(t, nil), err: no, code: codes.Unauthenticated,
			want: `token is not genuine: invalid bearer token (the cluster publishes no key "k2")`},
		{name: "no key named", keys: keysOf(key), token: nameless.token(t, nil), identity: genuine},
		{name: "keys not to be read", keys: unread, token: key.token(t, nil), identity: genuine},
		{name: "keys not to be read, forged", keys: unread, token: key.token(t, nil), err: no, code: codes.Unauthenticated,
			want: "token is not genuine: invalid bearer token (the cluster's keys can't be read: forbidden)"},
		{name: "a former issuer", keys: keysOf(key), token: key.token(t, set("iss", "https://former")), identity: genuine},
		{name: "another issuer", keys: keysOf(key), token: key.token(t, set("iss", "https://other")), err: no, code: codes.Unauthenticated,
			want: `token is not genuine: invalid bearer token (its issuer is "https://other", the cluster's "https://cluster.example")`},
		{name: "not bound", keys: unread, token: key.token(t, nil), identity: TokenIdentity{Namespace: "bookinfo", ServiceAccount: "reviews"},
			code: codes.Unauthenticated, want: "token of service account bookinfo/reviews is not bound to a pod"},
		{name: "nobody to ask", keys: keysOf(key), token: unknown.token(t, nil), err: errors.New("connection refused"), code: codes.Unavailable,
			want: `token could not be verified: the cluster publishes no key "k2", and the API server can't be asked: connection refused`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &reviewer{identity: tt.identity, err: tt.err}
			_, _, err := NewAuthenticator(tt.keys, r, pods{"bookinfo/reviews-1": reviewsPod}, clock).Authenticate(context.Background(), tt.token)
			if got := status.Convert(err); got.Code() != tt.code || got.Message() != tt.want {
				t.Errorf("got %v %q, want %v %q", got.Code(), got.Message(), tt.code, tt.want)
			}
			if r.calls != 1 {
				t.Errorf("reviewed %d times, want once", r.calls)
			}
		})
	}
}

func TestTokenIsReviewedOnceUntilItExpires(t *testing.T) {
	known := pods{"bookinfo/reviews-1": reviewsPod}
	r := &reviewer{identity: TokenIdentity{Namespace: "bookinfo", ServiceAccount: "reviews", Pod: "reviews-1", PodUID: "u1"}}
	now := epoch
	a := NewAuthenticator(keysOf(), r, known, func() time.Time { return now })
	text := newSigningKey(t, "k1").token(t, nil)
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

// TestReviewsAreBounded: made-up tokens take a few places at the API server, and none of those that the keys verify.
func TestReviewsAreBounded(t *testing.T) {
	key := newSigningKey(t, "k1")
	slow := &slowReviewer{began: make(chan struct{}, 2*reviewLimit), release: make(chan struct{})}
	a := NewAuthenticator(keysOf(key), slow, pods{"bookinfo/reviews-1": reviewsPod}, clock)
	done := make(chan error, reviewLimit)
	for range reviewLimit {
		text := newSigningKey(t, "made up").token(t, nil)
		go func() {
			_, _, err := a.Authenticate(context.Background(), text)
			done <- err
		}()
	}
	for range reviewLimit {
		<-slow.began
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 20 {
		_, _, err := a.Authenticate(ctx, newSigningKey(t, "made up").token(t, nil))
		if status.Code(err) != codes.Unavailable || len(slow.began) > 0 {
			t.Fatalf("got %v and %d more reviews, want Unavailable and none", err, len(slow.began))
		}
	}
	if _, _, err := a.Authenticate(context.Background(), key.token(t, nil)); err != nil {
		t.Errorf("a genuine token waits for reviews of others: %v", err)
	}
	close(slow.release)
	for range reviewLimit {
		if err := <-done; status.Code(err) != codes.Unauthenticated {
			t.Errorf("got %v, want Unauthenticated", err)
		}
	}
}

type slowReviewer struct{ began, release chan struct{} }

func (r *slowReviewer) Review(ctx context.Context, _ string) (TokenIdentity, error) {
	r.began <- struct{}{}
	select {
	case <-r.release:
		return TokenIdentity{}, &Refusal{Reason: "invalid"}
	case <-ctx.Done():
		return TokenIdentity{}, ctx.Err()
	}
}
