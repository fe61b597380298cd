package redirect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// The rules of each version, hashed. Other rules need another version, or pods that have the old ones would pass as current.
func TestRulesHaveTheirVersion(t *testing.T) {
	t.Parallel()
	hashes := map[int]string{
		1: "c9c7f6cb6a36c810",
		2: "f984802e08ecf6e2",
	}
	var text strings.Builder
	for _, c := range chains(Config{}) {
		fmt.Fprintf(&text, "%s %s %d %d\n", c.name, c.kind, *c.hook, *c.priority)
		for _, r := range c.rules {
			fmt.Fprintf(&text, "  %s\n", r.name)
			for _, e := range r.exprs {
				fmt.Fprintf(&text, "    %T%+v\n", e, reflect.ValueOf(e).Elem().Interface())
			}
		}
	}
	sum := sha256.Sum256([]byte(text.String()))
	if got := hex.EncodeToString(sum[:8]); hashes[sidecar.RedirectVersion] != got {
		t.Errorf("the rules changed (%s): raise sidecar.RedirectVersion and add its hash here:\n%s", got, text.String())
	}
}
