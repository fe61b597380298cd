package model

import (
	"slices"

	"cmp"

	"github.com/tidwall/btree"
)

// Snapshot is the mesh at one moment. It is immutable, and everything that it returns must not be changed.
type Snapshot struct {
	revision uint64
	tree     *btree.BTreeG[entry]
	changed  []Key
	// reported: an entry that is no node, such as the problems of a Service, differs from that of the snapshot before.
	reported bool
}

// entry is a node of a snapshot, or one of the internal kinds.
type entry struct {
	key   Key
	value any
}

// Internal kinds of entries: they are no nodes, and nothing that is compiled depends on them.
const (
	kindSummary     KeyKind = 100 + iota // what status asks of a namespace; Name is empty
	kindProblems                         // the Problems that were found at a Service
	kindSplitReport                      // the SplitReport of a TrafficSplit
)

func (k KeyKind) internal() bool { return k >= kindSummary }

// newTree returns an empty tree. Its copies share what did not change since, and may be read while it is written.
func newTree() *btree.BTreeG[entry] {
	return btree.NewBTreeGOptions(func(a, b entry) bool { return compareKeys(a.key, b.key) < 0 }, btree.Options{NoLocks: true})
}

func compareKeys(a, b Key) int {
	return cmp.Or(
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Cluster, b.Cluster),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Name, b.Name),
	)
}

// Revision grows by one with each snapshot.
func (s *Snapshot) Revision() uint64 { return s.revision }

// Changed returns the keys, sorted, of the nodes that differ from those of the snapshot before.
func (s *Snapshot) Changed() []Key { return s.changed }

// OnlyEndpoints says whether it differs from the snapshot before in nothing but endpoints: no status, and nothing that is made of Meshes, depends on those.
func (s *Snapshot) OnlyEndpoints() bool {
	return !s.reported && len(s.changed) > 0 && !slices.ContainsFunc(s.changed, func(k Key) bool { return k.Kind != KindEndpoints })
}

// Reader returns a reader that has read nothing yet.
func (s *Snapshot) Reader() *Reader { return &Reader{snapshot: s, seen: map[Key]bool{}} }

// Namespaces returns the names, sorted, of all namespaces that hold something.
func (s *Snapshot) Namespaces() []string {
	var names []string
	scan(s, Key{Kind: KindNamespace}, func(key Key, _ *Namespace) { names = append(names, key.Namespace) })
	return names
}

// Workloads returns the pods of a namespace that have not finished, by name.
func (s *Snapshot) Workloads(namespace string) []*Workload {
	var workloads []*Workload
	scan(s, Key{Kind: KindWorkload, Namespace: namespace}, func(_ Key, w *Workload) { workloads = append(workloads, w) })
	return workloads
}

// Services returns the number of Services of a namespace.
func (s *Snapshot) Services(namespace string) int { return s.summary(namespace).services }

// Meshes returns a report for each Mesh, by namespace and name.
func (s *Snapshot) Meshes() []MeshReport {
	var reports []MeshReport
	scan(s, Key{Kind: kindSummary}, func(key Key, sum *summary) {
		if len(sum.reports) > 0 {
			reports = append(reports, s.reports(key.Namespace, sum)...)
		}
	})
	return reports
}

func (s *Snapshot) summary(namespace string) *summary {
	if sum, ok := get[*summary](s, Key{Kind: kindSummary, Namespace: namespace}); ok {
		return sum
	}
	return &summary{}
}

func get[V any](s *Snapshot, key Key) (V, bool) {
	e, ok := s.tree.Get(entry{key: key})
	value, _ := e.value.(V)
	return value, ok
}

// scan calls f with all entries of from's kind, and of its namespace if it has one.
func scan[V any](s *Snapshot, from Key, f func(Key, V)) {
	s.tree.Ascend(entry{key: from}, func(e entry) bool {
		if e.key.Kind != from.Kind || from.Namespace != "" && e.key.Namespace != from.Namespace {
			return false
		}
		if value, ok := e.value.(V); ok {
			f(e.key, value)
		}
		return true
	})
}

// Key returns the key of the Service's node.
func (k ServiceKey) Key() Key {
	return Key{Kind: KindService, Cluster: k.Cluster, Namespace: k.Namespace, Name: k.Name}
}

// EndpointsKey returns the key of the node of the Service's endpoints.
func (k ServiceKey) EndpointsKey() Key {
	return Key{Kind: KindEndpoints, Cluster: k.Cluster, Namespace: k.Namespace, Name: k.Name}
}

// Key returns the key of the pod's node.
func (k WorkloadKey) Key() Key {
	return Key{Kind: KindWorkload, Cluster: k.Cluster, Namespace: k.Namespace, Name: k.Name}
}

func (k ServiceKey) problemsKey() Key {
	return Key{Kind: kindProblems, Cluster: k.Cluster, Namespace: k.Namespace, Name: k.Name}
}

func (k ServiceKey) compare(other ServiceKey) int { return compareKeys(k.Key(), other.Key()) }

func (k WorkloadKey) compare(other WorkloadKey) int { return compareKeys(k.Key(), other.Key()) }
