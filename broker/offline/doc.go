// Package offline examines and mends a data directory that no process has open: verify, dump and repair, and restore from a backup. It never runs a
// broker, and never deletes what it does not understand.
//
// Everything here reads the formats through the packages that own them (wal, segment, replica, cluster). docs/operations/log-tools.md is the operator's page.
package offline
