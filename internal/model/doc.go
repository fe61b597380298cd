// Package model is the typed mesh. It is the only place that interprets API objects and standards.
//
// A Builder is fed API objects and makes Snapshots. A Snapshot is immutable; its nodes (services, endpoint sets,
// workloads, namespaces, addresses) are shared with the one before as far as they did not change, and it names the keys
// of those that did. Everything that is made from a snapshot reads it through a Reader, which records the keys that were
// read: a change therefore reaches exactly what depends on it, and nobody keeps lists of dependencies by hand.
package model
