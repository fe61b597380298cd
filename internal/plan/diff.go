package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// context is the number of equal lines around a difference.
const context = 3

// edit is one line of a difference.
type edit struct {
	sign byte // ' ', '-' or '+'
	line string
	a, b int // how many lines of each side come before it
}

// unified returns the difference of two texts in the unified format, without a header of files.
func unified(a, b []string) string {
	all := edits(a, b)
	var out strings.Builder
	for i := 0; i < len(all); i++ {
		if all[i].sign == ' ' {
			continue
		}
		begin := max(0, i-context)
		end, equal := i, 0
		for ; end < len(all) && equal <= 2*context; end++ {
			if all[end].sign == ' ' {
				equal++
			} else {
				equal = 0
			}
		}
		end -= max(0, equal-context)
		hunk(&out, all[begin:end])
		i = end - 1
	}
	return out.String()
}

func hunk(out *strings.Builder, part []edit) {
	var as, bs int
	for _, e := range part {
		if e.sign != '+' {
			as++
		}
		if e.sign != '-' {
			bs++
		}
	}
	fmt.Fprintf(out, "@@ -%d,%d +%d,%d @@\n", part[0].a+1, as, part[0].b+1, bs)
	for _, e := range part {
		fmt.Fprintf(out, "%c%s\n", e.sign, e.line)
	}
}

// maxCells bounds the memory for one difference to 64 MB: beyond it, everything between the first and the last line that differ is shown.
const maxCells = 1 << 24

// edits is a way from a to b: the shortest one, unless that takes too much memory to find.
func edits(a, b []string) []edit {
	var all []edit
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		all = append(all, edit{' ', a[head], head, head})
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	between := commonEdits
	if (len(x)+1)*(len(y)+1) > maxCells {
		between = allEdits
	}
	for _, e := range between(x, y) {
		all = append(all, edit{e.sign, e.line, e.a + head, e.b + head})
	}
	for i := tail; i > 0; i-- {
		all = append(all, edit{' ', a[len(a)-i], len(a) - i, len(b) - i})
	}
	return all
}

// allEdits takes everything away and adds everything.
func allEdits(a, b []string) []edit {
	all := make([]edit, 0, len(a)+len(b))
	for i, line := range a {
		all = append(all, edit{'-', line, i, 0})
	}
	for i, line := range b {
		all = append(all, edit{'+', line, len(a), i})
	}
	return all
}

// commonEdits is the shortest way, by the longest common subsequence.
func commonEdits(a, b []string) []edit {
	longest := make([][]int32, len(a)+1)
	for i := range longest {
		longest[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	var all []edit
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			all = append(all, edit{' ', a[i], i, j})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && longest[i+1][j] >= longest[i][j+1]:
			all = append(all, edit{'-', a[i], i, j})
			i++
		default:
			all = append(all, edit{'+', b[j], i, j})
			j++
		}
	}
	return all
}

// changedFields says what differs between two objects, one line a field.
func changedFields(before, after client.Object) []string {
	a, errA := runtime.DefaultUnstructuredConverter.ToUnstructured(before)
	b, errB := runtime.DefaultUnstructuredConverter.ToUnstructured(after)
	if errA != nil || errB != nil {
		return nil
	}
	var out []string
	compareValues("", a, b, &out)
	return out
}

func compareValues(path string, a, b any, out *[]string) {
	x, isMap := a.(map[string]any)
	y, isMap2 := b.(map[string]any)
	if isMap && isMap2 {
		keys := maps.Clone(x)
		maps.Copy(keys, y)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			compareValues(strings.TrimPrefix(path+"."+k, "."), x[k], y[k], out)
		}
		return
	}
	l, isList := a.([]any)
	m, isList2 := b.([]any)
	if (isList || a == nil) && (isList2 || b == nil) && (isList || isList2) {
		compareLists(path, l, m, out)
		return
	}
	if before, after := short(a), short(b); before != after {
		*out = append(*out, fmt.Sprintf("%s: %s → %s", path, before, after))
	}
}

// compareLists compares items by the name that they have, or what they are about: a backend's Service, an endpoint's port; all others by their value.
func compareLists(path string, a, b []any, out *[]string) {
	x, y := named(a), named(b)
	for _, name := range slices.Sorted(maps.Keys(x)) {
		if other, both := y[name]; both {
			compareValues(path+"["+name+"]", x[name], other, out)
		} else {
			*out = append(*out, path+": - "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(y)) {
		if _, both := x[name]; !both {
			*out = append(*out, path+": + "+name)
		}
	}
}

func named(list []any) map[string]any {
	items := map[string]any{}
	for _, item := range list {
		fields, _ := item.(map[string]any)
		name := short(item)
		for _, field := range []string{"name", "key", "service", "port"} {
			if text, ok := fields[field].(string); ok {
				name = text
				break
			}
		}
		items[name] = item
	}
	return items
}

func short(v any) string {
	if v == nil {
		return "none"
	}
	return fmt.Sprint(v)
}
