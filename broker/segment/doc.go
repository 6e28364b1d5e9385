// Package segment owns the files of one replica of one partition: log segments, their indexes, retention and compaction.
// It knows nothing of raft, topics or clients, and it never holds anything that is not committed.
package segment
