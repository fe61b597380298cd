package model

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What a pod says of its metrics is bounded, and is never a port of its proxy or something that is no plain path.
func TestReadMetrics(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 2 * maxMetrics {
		many = append(many, fmt.Sprintf("%d/metrics", 9000+i))
	}
	for text, want := range map[string][]AppMetrics{
		"":                                    nil,
		"9090/metrics":                        {{9090, "/metrics"}},
		" 9090/metrics , 9091/a/b":            {{9090, "/metrics"}, {9091, "/a/b"}},
		"9090/":                               {{9090, "/"}},
		"9090":                                nil,
		"0/metrics,65536/metrics,-1/metrics":  nil,
		"15020/metrics,15001/x,15006/x":       nil,
		"9090/m?x=1,9090/m#x,9090/a b,9090/é": nil,
		"9090/" + strings.Repeat("x", 2000):   nil,
		"x/metrics,9090/metrics":              {{9090, "/metrics"}},
	} {
		if got, none := readMetrics(text); !slices.Equal(got, want) || none {
			t.Errorf("%q: %v, %t", text, got, none)
		}
	}
	if got, none := readMetrics("none"); got != nil || !none {
		t.Error(got, none)
	}
	if got, _ := readMetrics(strings.Join(many, ",")); len(got) != maxMetrics {
		t.Errorf("%d of %d", len(got), len(many))
	}
}
