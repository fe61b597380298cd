package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// testTokens: only the token that was made for the pod opens its stream, and every other is refused in words that say why.
func testTokens(t *testing.T, w *world) {
	const ns = "tokens"
	w.namespace(ns)
	w.create(mesh(ns, ns, v1alpha1.MeshSpec{}))
	p := pod(ns, "app")
	w.create(p)
	w.run(p)
	ca := w.ca(ns)

	good := w.podToken(p, sidecar.TokenAudience)
	envoy := w.dial(t, ca, good)
	w.eventually("a certificate for the pod's own token", func() error {
		_, err := envoy.certificate()
		return err
	})

	refused := func(what, token, want string) {
		t.Helper()
		stream := w.dial(t, ca, token)
		w.eventually(what+" is refused", func() error {
			s := status.Convert(stream.failure())
			if s.Code() != codes.Unauthenticated || !strings.Contains(s.Message(), want) {
				return fmt.Errorf("got %v %q, want Unauthenticated %q", s.Code(), s.Message(), want)
			}
			return nil
		})
	}
	refused("no token", "x", "the stream carries no service account token")
	kid := keyID(t, good)
	refused("a forged token", forge(t, good, kid, nil), "token is not genuine: its signature is not of the cluster's key "+strconv.Quote(kid))
	refused("a token forged with a key made up", forge(t, good, "made-up", nil), "token is not genuine: [invalid bearer token")
	refused("an expired token", forge(t, good, kid, func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() }), "token expired at ")
	refused("another audience's token", w.podToken(p, "vault"), `token is for the audience "vault", not "tulle"`)
	refused("a token of no pod", w.token(ns, "app", &authenticationv1.TokenRequestSpec{Audiences: []string{sidecar.TokenAudience}}),
		"token of service account tokens/app is not bound to a pod")

	unused := w.podToken(p, sidecar.TokenAudience)
	w.delete(p)
	w.eventually("the stream ends with the pod", func() error {
		if err := envoy.failure(); errors.Is(err, errGoesOn) {
			return err
		}
		return nil
	})
	refused("a token of a pod that is gone", good, "token is of pod tokens/app, which is not known")
	p = pod(ns, "app")
	w.create(p)
	w.run(p)
	envoy = w.dial(t, ca, w.podToken(p, sidecar.TokenAudience))
	w.eventually("a certificate for the new pod's own token", func() error {
		if !errors.Is(envoy.failure(), errGoesOn) { // the control plane did not know the pod yet
			envoy = w.dial(t, ca, w.podToken(p, sidecar.TokenAudience))
		}
		_, err := envoy.certificate()
		return err
	})
	refused("the former pod's token, seen before", good, "token is of another pod: of a former tokens/app")
	refused("the former pod's token, not seen before", unused, "token is of another pod: of a former tokens/app")
}

func parse(t *testing.T, token string) *jwt.JSONWebToken {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// keyID is the name of the key that a token was signed with.
func keyID(t *testing.T, token string) string {
	t.Helper()
	return parse(t, token).Headers[0].KeyID
}

// testTerminating: a pod that is being ended keeps its stream, and may open another, until it has ended.
func testTerminating(t *testing.T, w *world) {
	const ns = "terminating"
	w.namespace(ns)
	w.create(mesh(ns, ns, v1alpha1.MeshSpec{}))
	p := pod(ns, "app")
	p.Spec.NodeName = "node" // a kubelet would have to end it
	w.create(p)
	w.run(p)
	ca, token := w.ca(ns), w.podToken(p, sidecar.TokenAudience)
	envoy := w.dialUntilServed(t, ca, token)

	if err := w.client.Delete(context.Background(), p, client.GracePeriodSeconds(30)); err != nil {
		t.Fatal(err)
	}
	// Whoever knows a later pod knows of the deletion.
	later := pod(ns, "later")
	w.create(later)
	w.run(later)
	w.dialUntilServed(t, ca, w.podToken(later, sidecar.TokenAudience))
	if err := w.get(p); err != nil || p.DeletionTimestamp == nil {
		t.Fatalf("the pod is not terminating: %v", err)
	}
	if err := envoy.failure(); !errors.Is(err, errGoesOn) {
		t.Errorf("the stream of a terminating pod ended: %v", err)
	}
	envoy = w.dialUntilServed(t, ca, token)

	w.delete(p)
	w.eventually("the stream ends with the pod", func() error {
		s := status.Convert(envoy.failure())
		if errors.Is(envoy.failure(), errGoesOn) || s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), "the pod of this proxy is gone") {
			return fmt.Errorf("got %v %q", s.Code(), s.Message())
		}
		return nil
	})
}

// dialUntilServed opens a stream of a pod that the control plane may not know yet.
func (w *world) dialUntilServed(t *testing.T, ca, token string) *proxy {
	t.Helper()
	p := w.dial(t, ca, token)
	w.eventually("the stream is served", func() error {
		if !errors.Is(p.failure(), errGoesOn) {
			p = w.dial(t, ca, token)
		}
		_, err := p.certificate()
		return err
	})
	return p
}

// forge copies a token's claims, with edits, and signs them with another key of a given name.
func forge(t *testing.T, token, kid string, edit func(map[string]any)) string {
	t.Helper()
	parsed := parse(t, token)
	claims := map[string]any{}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(claims)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return forged
}
