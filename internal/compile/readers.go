package compile

import "slices"

// readers are the entries that were made from a key. Most keys have one or two, for which a map would take half a kilobyte; what is of the whole mesh
// has thousands.
type readers struct {
	few  []*entry
	many map[*entry]struct{} // all of them, once there were more than fewReaders
}

const fewReaders = 8

// add adds an entry that is not among them.
func (r *readers) add(e *entry) {
	switch {
	case r.many != nil:
		r.many[e] = struct{}{}
	case len(r.few) < fewReaders:
		r.few = append(r.few, e)
	default:
		r.many = make(map[*entry]struct{}, 2*fewReaders)
		for _, other := range r.few {
			r.many[other] = struct{}{}
		}
		r.many[e], r.few = struct{}{}, nil
	}
}

func (r *readers) remove(e *entry) {
	delete(r.many, e)
	if i := slices.Index(r.few, e); i >= 0 {
		r.few = slices.Delete(r.few, i, i+1)
	}
}

func (r *readers) empty() bool { return len(r.few)+len(r.many) == 0 }

// all returns them in a slice of its own.
func (r *readers) all() []*entry {
	all := slices.Clone(r.few)
	for e := range r.many {
		all = append(all, e)
	}
	return all
}
