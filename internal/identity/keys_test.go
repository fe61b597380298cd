package identity

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// TestKeysOutliveTheAPIServer: what was read stays good when nothing can be read any more.
func TestKeysOutliveTheAPIServer(t *testing.T) {
	key := newSigningKey(t, "k1")
	source := &published{issuer: issuer, keys: []jose.JSONWebKey{key.public()}}
	keys := NewKeys(source, clock, discard())
	<-keys.read(0)
	source.err = errors.New("connection refused")
	<-keys.read(0)
	if keys.failure() == nil {
		t.Fatal("the reading did not fail")
	}
	a := NewAuthenticator(keys, &reviewer{err: errors.New("nobody to ask")}, pods{"bookinfo/reviews-1": reviewsPod}, clock)
	if _, _, err := a.Authenticate(context.Background(), key.token(t, nil)); err != nil {
		t.Error(err)
	}
}

// TestKeysFollowRotation: a token of a new key has the keys read again; made-up keys do that once in ten seconds. A key that is
// not published any more is not good any more.
func TestKeysFollowRotation(t *testing.T) {
	now := epoch
	old, next := newSigningKey(t, "old"), newSigningKey(t, "new")
	source := &published{issuer: issuer, keys: []jose.JSONWebKey{old.public()}}
	keys := NewKeys(source, func() time.Time { return now }, discard())
	r := &reviewer{err: &Refusal{Reason: "unknown"}}
	a := NewAuthenticator(keys, r, pods{"bookinfo/reviews-1": reviewsPod}, clock)
	try := func(k signingKey) codes.Code {
		_, _, err := a.Authenticate(context.Background(), k.token(t, nil))
		return status.Code(err)
	}
	if c := try(old); c != codes.OK || source.reads != 1 {
		t.Fatalf("got %v after %d readings", c, source.reads)
	}
	for range 5 {
		try(newSigningKey(t, "made up"))
	}
	if source.reads != 1 || r.calls != 5 {
		t.Errorf("made-up keys: read %d times and reviewed %d, want 1 and 5", source.reads, r.calls)
	}
	source.keys = []jose.JSONWebKey{next.public()}
	now = now.Add(keysPause)
	if c := try(next); c != codes.OK || source.reads != 2 || r.calls != 5 {
		t.Errorf("new key: got %v after %d readings and %d reviews, want OK, 2, 5", c, source.reads, r.calls)
	}
	if c := try(old); c != codes.Unauthenticated || r.calls != 6 {
		t.Errorf("former key: got %v after %d reviews, want Unauthenticated by the 6th", c, r.calls)
	}
}

// TestAPIServerKeys reads keys from where an API server has them. Keys that can't verify, or that nobody knows how to read, are left out.
func TestAPIServerKeys(t *testing.T) {
	good := newSigningKey(t, "good").public()
	secret := jose.JSONWebKey{Key: []byte("a shared secret"), KeyID: "secret"}
	private := jose.JSONWebKey{Key: newSigningKey(t, "").key, KeyID: "private"}
	encryption := newSigningKey(t, "encryption").public()
	encryption.Use = "enc"
	set := []any{good, secret, private, encryption, map[string]any{"kty": "new", "kid": "new"}}

	answers := map[string]any{"/.well-known/openid-configuration": map[string]any{"issuer": issuer}, "/openid/v1/jwks": map[string]any{"keys": set}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answers[r.URL.Path] == nil {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(answers[r.URL.Path])
	}))
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	source := APIServer{Client: client.RESTClient()}

	name, keys, err := source.SigningKeys(context.Background())
	if err != nil || name != issuer || len(keys) != 1 || keys[0].KeyID != "good" {
		t.Errorf("got issuer %q, keys %v, %v; want the one that is good", name, keys, err)
	}
	answers["/openid/v1/jwks"] = map[string]any{"keys": set[1:]}
	if _, _, err := source.SigningKeys(context.Background()); err == nil || !strings.Contains(err.Error(), "0 usable keys of 4") {
		t.Errorf("got %v, want no usable keys", err)
	}
	delete(answers, "/openid/v1/jwks")
	if _, _, err := source.SigningKeys(context.Background()); err == nil || !strings.Contains(err.Error(), "/openid/v1/jwks") {
		t.Errorf("got %v, want an error that names the path", err)
	}
}
