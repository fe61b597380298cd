// Package peers lets the leader know the proxies of all replicas. Each replica serves a stream of what it knows of its proxies; the
// leader reads that of every live replica, and merges them with its own. What is decided is pure: what a report says (outbox),
// what was reported (State), which pods are replicas that may have proxies (Live), and what all of them together mean (Merge).
//
// Revisions count the snapshots of one replica and mean nothing to another. Generations of Meshes do: a report says since which
// of its revisions a replica has which generation, and Merge turns each proxy's revision into one of the leader's own.
package peers
