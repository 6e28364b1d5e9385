// Package cluster owns group 0: the state machine that holds the cluster's id, nodes, topics, configurations, producer id
// blocks, users, ACLs and quotas, and the client that changes them. It never opens a partition: who follows the state does.
//
// Commands are JSON with a version ({"v":1,"op":…}), since they are few, are read by people after an incident, and must
// be understood by the versions before and after. Everything random or timed is in the command: Apply is deterministic.
// The checkpoint blob is one byte of version and the JSON of the whole state. See docs/format/entry.md.
package cluster
