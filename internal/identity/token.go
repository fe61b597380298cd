package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/typed/authentication/v1"

	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Keys of what the API server says of a pod's token, from k8s.io/apiserver/pkg/authentication/serviceaccount.
const (
	extraPodName = "authentication.kubernetes.io/pod-name"
	extraPodUID  = "authentication.kubernetes.io/pod-uid"
)

const serviceAccountPrefix = "system:serviceaccount:"

// maxCachedTokens bounds the memory of what was reviewed; beyond it, tokens are reviewed again.
const maxCachedTokens = 1 << 16

// Pod is what the control plane itself knows of a pod.
type Pod struct{ Namespace, Name, UID, ServiceAccount, Owner string }

// Pods is the control plane's own view of the pods.
type Pods interface {
	// Pod returns the live pod of that name.
	Pod(namespace, name string) (Pod, bool)
	// PodAt returns the live pod that alone has the address.
	PodAt(address netip.Addr) (Pod, bool)
}

// Reviewer asks whether a token is genuine. An error means that nobody could be asked; a refusal is a *Refusal.
type Reviewer interface {
	Review(ctx context.Context, token string) (TokenIdentity, error)
}

// TokenIdentity is whom a genuine token was made for.
type TokenIdentity struct{ Namespace, ServiceAccount, Pod, PodUID string }

// Refusal says why a token is not accepted.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return r.Reason }

// Authenticator verifies the token on a proxy's stream and binds the stream to the pod that the token was made for. Tokens are verified
// by the cluster's keys; the API server is asked only about those for which that decides nothing. It is safe for concurrent use.
type Authenticator struct {
	keys     *Keys
	reviewer Reviewer
	pods     Pods
	now      func() time.Time
	// reviewing has room for reviewLimit reviews.
	reviewing chan struct{}

	mu     sync.Mutex
	cached map[[sha256.Size]byte]cachedToken
}

// cachedToken is what the reviewer said of a token.
type cachedToken struct {
	identity TokenIdentity
	expiry   time.Time
}

// NewAuthenticator returns an authenticator that asks reviewer once for each token that keys can't verify.
func NewAuthenticator(keys *Keys, reviewer Reviewer, pods Pods, now func() time.Time) *Authenticator {
	return &Authenticator{
		keys: keys, reviewer: reviewer, pods: pods, now: now,
		reviewing: make(chan struct{}, reviewLimit), cached: map[[sha256.Size]byte]cachedToken{},
	}
}

// Authenticate returns the proxy that a bearer token stands for, and when the token expires. Its errors are gRPC statuses: Unauthenticated with the
// reason, or Unavailable when the token could not be verified and the proxy should try again.
func (a *Authenticator) Authenticate(ctx context.Context, token string) (resource.Proxy, time.Time, error) {
	identity, expiry, err := a.identify(ctx, token)
	if err != nil {
		return resource.Proxy{}, time.Time{}, err
	}
	proxy, err := a.bind(ctx, identity)
	return proxy, expiry, err
}

// bind finds the pod that a token was made for, and refuses one that somebody else presents.
func (a *Authenticator) bind(ctx context.Context, identity TokenIdentity) (resource.Proxy, error) {
	pod, ok := a.pods.Pod(identity.Namespace, identity.Pod)
	switch {
	case !ok:
		return resource.Proxy{}, unauthenticated("token is of pod %s/%s, which is not known (deleted, or too new: then the proxy's next try works)",
			identity.Namespace, identity.Pod)
	case pod.UID != identity.PodUID:
		return resource.Proxy{}, unauthenticated("token is of another pod: of a former %s/%s with UID %s, the one that runs has %s",
			identity.Namespace, identity.Pod, identity.PodUID, pod.UID)
	case pod.ServiceAccount != identity.ServiceAccount:
		return resource.Proxy{}, unauthenticated("token is of service account %s/%s, but pod %s/%s runs as %s",
			identity.Namespace, identity.ServiceAccount, identity.Namespace, identity.Pod, pod.ServiceAccount)
	}
	if other, ok := a.caller(ctx); ok && other.UID != pod.UID {
		return resource.Proxy{}, unauthenticated("token is of another pod: of %s/%s, but it was sent from pod %s/%s",
			pod.Namespace, pod.Name, other.Namespace, other.Name)
	}
	return resource.Proxy{Namespace: pod.Namespace, Pod: pod.Name, UID: pod.UID, ServiceAccount: pod.ServiceAccount, Owner: pod.Owner}, nil
}

// caller returns the pod at the other end of the stream. On the way through a gateway or a masquerading node it is not known.
func (a *Authenticator) caller(ctx context.Context) (Pod, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Pod{}, false
	}
	tcp, ok := p.Addr.(*net.TCPAddr)
	if !ok {
		return Pod{}, false
	}
	return a.pods.PodAt(tcp.AddrPort().Addr().Unmap())
}

// identify returns whom a token was made for, and when it expires.
func (a *Authenticator) identify(ctx context.Context, text string) (TokenIdentity, time.Time, error) {
	token, err := parseToken(text)
	if err != nil {
		return TokenIdentity{}, time.Time{}, err
	}
	if err := token.check(a.now()); err != nil {
		return TokenIdentity{}, time.Time{}, err
	}
	identity, err := a.decide(ctx, token, text)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return TokenIdentity{}, time.Time{}, unauthenticated("token is not genuine: %s", refusal.Reason)
	case err != nil:
		return TokenIdentity{}, time.Time{}, status.Errorf(codes.Unavailable, "token could not be verified: %v", err)
	case identity.Pod == "" || identity.PodUID == "":
		return TokenIdentity{}, time.Time{}, unauthenticated("token of service account %s/%s is not bound to a pod", identity.Namespace, identity.ServiceAccount)
	}
	return identity, token.expiry(), nil
}

// decide verifies a token by the keys or, when these decide nothing, by what the reviewer says or once said.
func (a *Authenticator) decide(ctx context.Context, token *serviceToken, text string) (TokenIdentity, error) {
	key := sha256.Sum256([]byte(text))
	if identity, ok := a.lookup(key); ok {
		return identity, nil
	}
	identity, err := a.keys.verify(ctx, token)
	var undecided *Undecided
	if !errors.As(err, &undecided) {
		return identity, err
	}
	if identity, err = a.review(ctx, text, undecided); err == nil {
		a.store(key, cachedToken{identity: identity, expiry: token.expiry()})
	}
	return identity, err
}

func (a *Authenticator) lookup(key [sha256.Size]byte) (TokenIdentity, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.cached[key]
	return c.identity, ok && a.now().Before(c.expiry)
}

func (a *Authenticator) store(key [sha256.Size]byte, c cachedToken) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.cached) >= maxCachedTokens {
		now := a.now()
		for k, old := range a.cached {
			if !now.Before(old.expiry) {
				delete(a.cached, k)
			}
		}
	}
	if len(a.cached) < maxCachedTokens {
		a.cached[key] = c
	}
}

func unauthenticated(format string, args ...any) error {
	return status.Errorf(codes.Unauthenticated, format, args...)
}

// TokenReviewer asks the API server. The operator needs to create tokenreviews for it.
type TokenReviewer struct{ Client v1.TokenReviewInterface }

// Review implements Reviewer.
func (r TokenReviewer) Review(ctx context.Context, token string) (TokenIdentity, error) {
	review, err := r.Client.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{sidecar.TokenAudience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return TokenIdentity{}, err
	}
	if !review.Status.Authenticated || !slices.Contains(review.Status.Audiences, sidecar.TokenAudience) {
		reason := review.Status.Error
		if reason == "" {
			reason = "the API server does not accept it"
		}
		return TokenIdentity{}, &Refusal{Reason: reason}
	}
	namespace, account, ok := strings.Cut(strings.TrimPrefix(review.Status.User.Username, serviceAccountPrefix), ":")
	if !ok || !strings.HasPrefix(review.Status.User.Username, serviceAccountPrefix) {
		return TokenIdentity{}, &Refusal{Reason: review.Status.User.Username + " is no service account"}
	}
	return TokenIdentity{
		Namespace: namespace, ServiceAccount: account,
		Pod:    first(review.Status.User.Extra[extraPodName]),
		PodUID: first(review.Status.User.Extra[extraPodUID]),
	}, nil
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}
