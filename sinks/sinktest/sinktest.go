// Package sinktest is the conformance suite of sinks: what a sink must keep for the guarantee it declares. It tests no particular sink by
// itself.
package sinktest
