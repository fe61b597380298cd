package inject

import (
	"encoding/json"
	"fmt"
	"strings"
)

// operation is one operation of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// patch is a JSON patch. It names only what it changes, so fields of the pod that this code does not know stay as they are.
type patch []operation

// add adds a value, or replaces the one that is there.
func (p *patch) add(value any, path ...string) {
	*p = append(*p, operation{"add", pointer(path), value})
}

func (p *patch) remove(path ...string) {
	*p = append(*p, operation{Op: "remove", Path: pointer(path)})
}

// set sets the value of a key in a map of the pod that may not be there at all.
func set[V any](p *patch, m map[string]V, values map[string]V, keys []string, path ...string) {
	if len(m) == 0 {
		p.add(values, path...)
		return
	}
	for _, key := range keys {
		p.add(values[key], append(path[:len(path):len(path)], key)...)
	}
}

func (p patch) json() ([]byte, error) {
	if len(p) == 0 {
		return nil, nil
	}
	raw, err := json.Marshal([]operation(p))
	if err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	return raw, nil
}

// pointer makes a JSON pointer (RFC 6901).
func pointer(path []string) string {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	var b strings.Builder
	for _, token := range path {
		b.WriteByte('/')
		b.WriteString(escape.Replace(token))
	}
	return b.String()
}
