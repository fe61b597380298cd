package v1alpha4

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// UnmarshalJSON reads a list of maps with one entry each, or one map; the entries of a map come in the order of their names.
func (h *HTTPHeaders) UnmarshalJSON(data []byte) error {
	*h = nil
	var list []map[string]string
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		list = make([]map[string]string, 1)
		if err := json.Unmarshal(data, &list[0]); err != nil {
			return errors.New("headers: every value must be a string, a regular expression")
		}
	} else if err := json.Unmarshal(data, &list); err != nil {
		return errors.New("headers must be a list of maps from a header's name to a regular expression, or one such map")
	}
	for _, entries := range list {
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			*h = append(*h, HTTPHeader{Name: name, Value: entries[name]})
		}
	}
	return nil
}

// MarshalJSON writes the list of maps with one entry each that SMI's SDK reads.
func (h HTTPHeaders) MarshalJSON() ([]byte, error) {
	list := make([]map[string]string, 0, len(h))
	for _, header := range h {
		list = append(list, map[string]string{header.Name: header.Value})
	}
	out, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("headers: %w", err)
	}
	return out, nil
}
