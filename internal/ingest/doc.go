// Package ingest feeds the model from the API server: informers, with all that nobody reads trimmed off, into a
// model.Builder that one goroutine owns.
//
// The first change after a quiet time is published at once; of a burst, one snapshot is made when it pauses, or after a
// second. Changes of endpoints never wait for others.
package ingest
