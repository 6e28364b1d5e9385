// Package segment owns the files of one replica of one partition: log segments, their indexes, retention and compaction.
// It knows nothing of raft, topics or clients, and it never holds anything that is not committed.
//
//	<base offset>.log   record batches v2, one after the other, nothing else: any run of them answers a fetch
//	<base offset>.idx   sparse index: offset and time → byte. A cache: checked by use, rebuilt when wrong
//	<base offset>.txn   aborted transactions whose marker stands in the segment. A cache too
//	<base>-<limit>.cleaned, .swap   a compaction under way
//
// Only applied batches come here, and what must survive a crash is in the write-ahead log until a checkpoint holds the [State] that
// [Log.Sync] returned. So there is no torn tail to search for: [Open] cuts the active segment to the size in State and drops
// what came later, which is applied again. For the same reason Append need not reach the disk, or even the kernel, before Sync.
//
// The numbered rules that the code cites (docs/format/segment.md tells why):
//
//   - S1: what a State says is durable before Sync returns it.
//   - S2: no file is removed or replaced that the durable State, or any later one, needs.
//   - S3: an offset never changes; the ranges [base, limit) of the segments follow one another without a gap.
//   - S4: bytes below the flushed size of a file never change while a reader can hold it.
//   - S5: what an index says is checked against the log when it is used; a wrong one costs time, not truth.
package segment
