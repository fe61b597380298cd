package model

import (
	"iter"
	"slices"
)

// few are the values that an index has for a key, by another one. It is almost always one value, for which a map would take half a
// kilobyte, and there is one for each pod's address.
type few[L comparable, V any] []member[L, V]

type member[L comparable, V any] struct {
	key   L
	value V
}

func (f few[L, V]) at(key L) int {
	return slices.IndexFunc(f, func(m member[L, V]) bool { return m.key == key })
}

// get returns the zero value of what is not there.
func (f few[L, V]) get(key L) (value V) {
	if i := f.at(key); i >= 0 {
		value = f[i].value
	}
	return value
}

func (f few[L, V]) all() iter.Seq2[L, V] {
	return func(yield func(L, V) bool) {
		for _, m := range f {
			if !yield(m.key, m.value) {
				return
			}
		}
	}
}

func addFew[K, L comparable, V any](index map[K]few[L, V], key K, of L, value V) {
	f := index[key]
	if i := f.at(of); i >= 0 {
		f[i].value = value
		return
	}
	index[key] = append(slices.Grow(f, 1), member[L, V]{of, value})
}

func removeFew[K, L comparable, V any](index map[K]few[L, V], key K, of L) {
	f := index[key]
	switch i := f.at(of); {
	case i < 0:
	case len(f) == 1:
		delete(index, key)
	default:
		index[key] = slices.Delete(f, i, i+1)
	}
}
