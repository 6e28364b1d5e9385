// Package replica owns the raft groups of a node and the partition state machine that turns their entries into segments. It never
// speaks the Kafka protocol, and never decides where a replica lives.
//
// One [Node] per process: a shared write-ahead log, a committer, and a few shards that own the groups. A [Partition] is the
// state machine of one group: an entry becomes a batch in the partition's segments when it is applied, that is committed.
//
//	Propose ─▶ shard: RawNode.Propose, Ready ─▶ committer: one write, one fdatasync for all groups
//	                                              │
//	   done ◀─ shard: apply (offset, duplicate, transaction, segment) ◀─ Responses
//
// Formats: docs/format/entry.md (an entry's payload), docs/format/checkpoint.md (node identity and checkpoint).
package replica
