package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/client-go/rest"
)

const (
	// keysPeriod is how often the keys are read again, so also how long a key that the cluster gave up is still accepted.
	keysPeriod = 5 * time.Minute
	// keysTimeout bounds one reading.
	keysTimeout = 5 * time.Second
	// keysPause is the least time between two readings that tokens of unknown keys cause: whoever makes such tokens up can't
	// have the API server asked more often than that.
	keysPause                  = 10 * time.Second
	minKeysRetry, maxKeysRetry = time.Second, 30 * time.Second
)

// KeySource is where the keys come from that the cluster signs service account tokens with.
type KeySource interface {
	// SigningKeys returns the issuer that new tokens name, and the public keys of all tokens.
	SigningKeys(ctx context.Context) (issuer string, keys []jose.JSONWebKey, err error)
}

// Keys are the cluster's keys, kept in memory: to verify a token with them asks nobody. It is safe for concurrent use.
//
// When the API server does not answer, the keys that were read last stay: tokens that it signed are still good.
type Keys struct {
	source KeySource
	now    func() time.Time
	log    *slog.Logger

	mu     sync.Mutex
	issuer string
	byID   map[string][]jose.JSONWebKey
	// tried is when reading was last begun; failed is why the last reading failed.
	tried  time.Time
	failed error
	// reading is closed when the reading that is under way is over; nil: none is.
	reading chan struct{}
}

// NewKeys returns keys that are first read by Run, or when a token needs them.
func NewKeys(source KeySource, now func() time.Time, log *slog.Logger) *Keys {
	return &Keys{source: source, now: now, log: log}
}

// Run reads the keys again and again until ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	retry := minKeysRetry
	for {
		<-k.read(0)
		wait := keysPeriod/2 + rand.N(keysPeriod/2)
		if k.failure() == nil {
			retry = minKeysRetry
		} else {
			wait = retry
			retry = min(2*retry, maxKeysRetry)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// read begins to read the keys, unless that was last done less than pause ago, and returns a channel that is closed once no
// reading is under way.
func (k *Keys) read(pause time.Duration) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reading != nil {
		return k.reading
	}
	over := make(chan struct{})
	if !k.tried.IsZero() && k.now().Sub(k.tried) < pause {
		close(over)
		return over
	}
	k.tried, k.reading = k.now(), over
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), keysTimeout)
		defer cancel()
		issuer, keys, err := k.source.SigningKeys(ctx)
		k.take(issuer, keys, err)
		close(over)
	}()
	return over
}

func (k *Keys) take(issuer string, keys []jose.JSONWebKey, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reading = nil
	if err != nil {
		if k.failed == nil || k.failed.Error() != err.Error() {
			k.log.Warn("the cluster's token keys can't be read; those read before stay, other tokens are reviewed by the API server",
				"keys", len(k.byID), "error", err)
		}
		k.failed = err
		return
	}
	if k.failed != nil || k.byID == nil {
		k.log.Info("read the cluster's token keys", "issuer", issuer, "keys", len(keys))
	}
	k.issuer, k.failed, k.byID = issuer, nil, map[string][]jose.JSONWebKey{}
	for _, key := range keys {
		k.byID[key.KeyID] = append(k.byID[key.KeyID], key)
	}
}

func (k *Keys) failure() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed
}

// find returns the issuer and the keys of an ID. Keys that are not known are looked for again, at the API server, now and then.
// The error says why there are none.
func (k *Keys) find(ctx context.Context, id string) (string, []jose.JSONWebKey, error) {
	issuer, keys, err := k.lookup(id)
	if err == nil {
		return issuer, keys, nil
	}
	select {
	case <-k.read(keysPause):
	case <-ctx.Done():
		return "", nil, ctx.Err()
	}
	return k.lookup(id)
}

func (k *Keys) lookup(id string) (string, []jose.JSONWebKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := k.byID[id]
	switch {
	case len(keys) > 0:
		return k.issuer, keys, nil
	case k.failed != nil:
		return "", nil, fmt.Errorf("the cluster's keys can't be read: %w", k.failed)
	case k.byID == nil:
		return "", nil, errors.New("the cluster's keys are not read yet")
	default:
		return "", nil, fmt.Errorf("the cluster publishes no key %q", id)
	}
}

// APIServer reads the keys where every API server publishes them. The operator needs to get these two paths, which the ClusterRole
// system:service-account-issuer-discovery allows.
type APIServer struct{ Client rest.Interface }

// SigningKeys implements KeySource.
func (a APIServer) SigningKeys(ctx context.Context) (string, []jose.JSONWebKey, error) {
	var configuration struct {
		Issuer string `json:"issuer"`
	}
	if err := a.get(ctx, "/.well-known/openid-configuration", &configuration); err != nil {
		return "", nil, err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := a.get(ctx, "/openid/v1/jwks", &set); err != nil {
		return "", nil, err
	}
	keys := usable(set.Keys)
	if configuration.Issuer == "" || len(keys) == 0 {
		return "", nil, fmt.Errorf("the API server names the issuer %q and %d usable keys of %d", configuration.Issuer, len(keys), len(set.Keys))
	}
	return configuration.Issuer, keys, nil
}

// usable returns the keys that tokens may be verified with. A kind of key that this version does not know takes nothing from the others.
func usable(set []json.RawMessage) []jose.JSONWebKey {
	var keys []jose.JSONWebKey
	for _, raw := range set {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(raw); err == nil && signs(key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// signs says whether a key may verify signatures. A symmetric one never may: whoever can verify with it can sign with it.
func signs(key jose.JSONWebKey) bool {
	return key.IsPublic() && key.Valid() && (key.Use == "" || key.Use == "sig")
}

func (a APIServer) get(ctx context.Context, path string, into any) error {
	raw, err := a.Client.Get().AbsPath(path).DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}
