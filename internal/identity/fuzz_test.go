package identity

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// FuzzToken holds of whatever a stream carries as its token: it is refused in words, and never accepted unless the cluster's key signed it, for us,
// for the pod that it names.
func FuzzToken(f *testing.F) {
	key, foreign := newSigningKey(f, "k1"), newSigningKey(f, "k1")
	genuine := key.token(f, nil)
	for _, text := range []string{
		genuine, foreign.token(f, nil), unsigned(genuine), swapped(genuine, foreign.token(f, nil)), "", "..", "a.b.c", genuine + ".", genuine[1:],
		key.token(f, set("aud", "tulle")), key.token(f, set("exp", 1e308)), key.token(f, set("kubernetes.io", nil)), key.token(f, binding("pod", "reviews-1")),
	} {
		f.Add(text)
	}
	keys := NewKeys(&published{issuer: issuer, keys: []jose.JSONWebKey{key.public()}}, clock, discard())
	<-keys.read(0)
	a := NewAuthenticator(keys, &reviewer{err: &Refusal{Reason: "unknown"}}, pods{"bookinfo/reviews-1": reviewsPod}, clock)
	f.Fuzz(func(t *testing.T, text string) {
		proxy, expires, err := a.Authenticate(context.Background(), text)
		var refusal *Refusal
		switch code := status.Code(err); {
		case err != nil && err.Error() == "":
			t.Error("refused without a word")
		case err != nil && code != codes.Unauthenticated && code != codes.PermissionDenied && !errors.As(err, &refusal):
			t.Errorf("refused with %v", err)
		case err != nil:
		case !genuinely(keys, text):
			t.Errorf("%q is taken for one of %s/%s", text, proxy.Namespace, proxy.Pod)
		case proxy.Namespace != "bookinfo" || proxy.Pod != "reviews-1" || proxy.ServiceAccount != "reviews" || !expires.After(epoch):
			t.Errorf("%q is one of %+v until %s", text, proxy, expires)
		}
	})
}

// genuinely verifies a token's signature by itself.
func genuinely(k *Keys, text string) bool {
	parsed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return false
	}
	_, published, err := k.find(context.Background(), "k1")
	if err != nil || len(published) != 1 {
		return false
	}
	_, err = parsed.Verify(published[0])
	return err == nil
}

// FuzzKeySet holds of whatever is published as the cluster's keys: only public keys that verify signatures are used, and a token that was made up
// with what is published is not accepted.
func FuzzKeySet(f *testing.F) {
	key := newSigningKey(f, "k1")
	public, err := json.Marshal(key.public())
	if err != nil {
		f.Fatal(err)
	}
	for _, set := range []string{
		"[" + string(public) + "]", `[{"kty":"oct","k":"AAAA","kid":"k1"}]`, `[{"kty":"RSA","n":"AQ","e":"AQAB","kid":"k1"}, null, 7, {}]`,
		`[{"kty":"EC","crv":"P-256","x":"","y":"","kid":"k1"}]`, `[{"kty":"OKP","crv":"Ed25519","x":"AA","use":"enc"}]`,
	} {
		f.Add([]byte(set))
	}
	token := newSigningKey(f, "k1").token(f, nil) // of a key that is not published
	f.Fuzz(func(t *testing.T, raw []byte) {
		var set []json.RawMessage
		if json.Unmarshal(raw, &set) != nil {
			return
		}
		found := usable(set)
		for _, k := range found {
			if !k.IsPublic() || !k.Valid() || k.Use != "" && k.Use != "sig" {
				t.Errorf("%+v is used", k)
			}
		}
		keys := NewKeys(&published{issuer: issuer, keys: found}, func() time.Time { return epoch }, discard())
		<-keys.read(0)
		a := NewAuthenticator(keys, &reviewer{err: &Refusal{Reason: "unknown"}}, pods{"bookinfo/reviews-1": reviewsPod}, clock)
		if proxy, _, err := a.Authenticate(context.Background(), token); err == nil {
			t.Errorf("a made-up token is one of %+v", proxy)
		}
	})
}
