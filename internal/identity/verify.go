package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// clockSkew is how far the API server's clock may be ahead of ours. One that is behind needs none: the kubelet replaces a token
// long before it expires.
const clockSkew = time.Minute

// Undecided says why a token could be neither accepted nor refused.
type Undecided struct{ Reason string }

func (u *Undecided) Error() string { return u.Reason }

// serviceToken is a service account token, as presented.
type serviceToken struct {
	parsed *jwt.JSONWebToken
	// claims are what it says of itself: worth nothing until its signature is verified.
	claims claims
}

type claims struct {
	jwt.Claims
	// Kubernetes is what the API server adds, see k8s.io/kubernetes/pkg/serviceaccount.
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		ServiceAccount named  `json:"serviceaccount"`
		Pod            named  `json:"pod"`
	} `json:"kubernetes.io"`
}

type named struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// parseToken reads a token. Only asymmetric algorithms are read at all: neither "none" nor HS256 with a public key as its secret.
func parseToken(text string) (*serviceToken, error) {
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512,
	})
	if err != nil {
		return nil, unauthenticated("the stream carries no service account token")
	}
	t := &serviceToken{parsed: parsed}
	if err := parsed.UnsafeClaimsWithoutVerification(&t.claims); err != nil || t.claims.Expiry == nil {
		return nil, unauthenticated("the stream carries no service account token that expires")
	}
	return t, nil
}

// check refuses a token for what it says of itself, which is bad enough whether it is genuine or not.
func (t *serviceToken) check(now time.Time) error {
	c := &t.claims
	switch {
	case !now.Before(t.expiry()):
		return unauthenticated("token expired at %s", stamp(t.expiry()))
	case c.NotBefore != nil && now.Add(clockSkew).Before(c.NotBefore.Time()):
		return unauthenticated("token is not valid before %s; here it is %s", stamp(c.NotBefore.Time()), stamp(now))
	case !slices.Equal(c.Audience, jwt.Audience{sidecar.TokenAudience}):
		return unauthenticated("token is for the audience %q, not %q", strings.Join(c.Audience, ", "), sidecar.TokenAudience)
	}
	return nil
}

func (t *serviceToken) expiry() time.Time { return t.claims.Expiry.Time() }

// identity is whom the claims name.
func (t *serviceToken) identity() TokenIdentity {
	k := &t.claims.Kubernetes
	return TokenIdentity{Namespace: k.Namespace, ServiceAccount: k.ServiceAccount.Name, Pod: k.Pod.Name, PodUID: k.Pod.UID}
}

// verify says, by the cluster's keys, whom a token was made for. The error is a *Refusal for a token that is not genuine, an *Undecided
// for one of a key or an issuer that is not known here.
func (k *Keys) verify(ctx context.Context, t *serviceToken) (TokenIdentity, error) {
	id := t.parsed.Headers[0].KeyID
	if id == "" {
		return TokenIdentity{}, &Undecided{"it names no key"}
	}
	issuer, keys, err := k.find(ctx, id)
	if err != nil {
		return TokenIdentity{}, &Undecided{err.Error()}
	}
	if !slices.ContainsFunc(keys, t.signedBy) {
		return TokenIdentity{}, &Refusal{fmt.Sprintf("its signature is not of the cluster's key %q", id)}
	}
	if t.claims.Issuer != issuer {
		// The API server publishes one of the issuers that it may accept.
		return TokenIdentity{}, &Undecided{fmt.Sprintf("its issuer is %q, the cluster's %q", t.claims.Issuer, issuer)}
	}
	identity := t.identity()
	if subject := serviceAccountPrefix + identity.Namespace + ":" + identity.ServiceAccount; t.claims.Subject != subject {
		return TokenIdentity{}, &Refusal{fmt.Sprintf("its subject is %q, not %q", t.claims.Subject, subject)}
	}
	return identity, nil
}

// signedBy verifies the signature. The key says by which algorithm, as far as it does.
func (t *serviceToken) signedBy(key jose.JSONWebKey) bool {
	if key.Algorithm != "" && key.Algorithm != t.parsed.Headers[0].Algorithm {
		return false
	}
	var verified jwt.Claims
	return t.parsed.Claims(key, &verified) == nil
}

// reviewLimit bounds how many tokens are reviewed at the same time: those that nobody can verify here may be made up by anybody.
const reviewLimit = 8

// reviewTimeout bounds one review, and the wait for its turn.
const reviewTimeout = 10 * time.Second

// review has the API server decide what could not be decided here.
func (a *Authenticator) review(ctx context.Context, text string, undecided *Undecided) (TokenIdentity, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	select {
	case a.reviewing <- struct{}{}:
		defer func() { <-a.reviewing }()
	case <-ctx.Done():
		return TokenIdentity{}, fmt.Errorf("%d other tokens are being reviewed: %w", reviewLimit, ctx.Err())
	}
	identity, err := a.reviewer.Review(ctx, text)
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return TokenIdentity{}, &Refusal{Reason: fmt.Sprintf("%s (%s)", refusal.Reason, undecided.Reason)}
	}
	if err != nil {
		return TokenIdentity{}, fmt.Errorf("%s, and the API server can't be asked: %w", undecided.Reason, err)
	}
	return identity, nil
}
