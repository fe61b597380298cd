package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnified(t *testing.T) {
	text := func(s string) []string { return strings.Fields(s) }
	tests := []struct{ name, a, b, want string }{
		{"equal", "a b c", "a b c", ""},
		{"new", "", "a b", "@@ -1,0 +1,2 @@\n+a\n+b\n"},
		{"gone", "a b", "", "@@ -1,2 +1,0 @@\n-a\n-b\n"},
		{"middle", "1 2 3 4 x 5 6 7 8", "1 2 3 4 y 5 6 7 8", "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-x\n+y\n 5\n 6\n 7\n"},
		{"near ones share a hunk", "x 1 2 3 4 5 6 y", "1 2 3 4 5 6", "@@ -1,8 +1,6 @@\n-x\n 1\n 2\n 3\n 4\n 5\n 6\n-y\n"},
		{"far ones don't", "x 1 2 3 4 5 6 7 y", "1 2 3 4 5 6 7", "@@ -1,4 +1,3 @@\n-x\n 1\n 2\n 3\n@@ -6,4 +5,3 @@\n 5\n 6\n 7\n-y\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, unified(text(tt.a), text(tt.b))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestDifferenceOfLongTexts: the memory that a difference takes does not grow with the square of a Service's endpoints.
func TestDifferenceOfLongTexts(t *testing.T) {
	lines := func(mark string) []string {
		list := make([]string, 50_000)
		for i := range list {
			list[i] = fmt.Sprint("line ", i)
		}
		list[10_000], list[40_000] = mark, mark
		return list
	}
	got := unified(lines("before"), lines("after"))
	if n := strings.Count(got, "\n"); n != 1+2*30_001+2*context {
		t.Errorf("%d lines, want all between the first and the last that differ, with %d around them", n, context)
	}
	if !strings.HasPrefix(got, "@@ -9998,30007 +9998,30007 @@\n line 9997\n") || !strings.HasSuffix(got, " line 40003\n") {
		t.Errorf("it begins with %q and ends with %q", got[:60], got[len(got)-40:])
	}
}
