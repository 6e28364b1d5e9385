// Package record owns the bytes of Kafka's record batches, format v2: it validates, stamps, walks, builds, filters and
// compresses them, and turns message sets of v0 and v1 into them. It never does I/O, and knows no topics, offsets or clients.
//
// A batch as it stands on the wire and on disk (KIP-98; all integers big endian):
//
//	 0        8       12        16    17     21        23               27              35
//	┌────────┬────────┬─────────┬─────┬──────┬─────────┬────────────────┬───────────────┬──
//	│base    │length  │leader   │magic│CRC32C│attri-   │last offset     │base timestamp │
//	│offset 8│4       │epoch 4  │2  1 │4     │butes 2  │delta 4         │8              │
//	└────────┴────────┴─────────┴─────┴──────┴─────────┴────────────────┴───────────────┴──
//	 35            43          51       53       57      61
//	──┬─────────────┬───────────┬────────┬────────┬───────┬─────────────────────────────┐
//	  │max timestamp│producer id│producer│base    │record │records, compressed as one   │
//	  │8            │8          │epoch 2 │seq. 4  │count 4│by the codec in attributes   │
//	──┴─────────────┴───────────┴────────┴────────┴───────┴─────────────────────────────┘
//
// Length counts what follows it. The CRC covers everything from the attributes on, so the first 16 bytes (offset, length and
// leader epoch) can be stamped without touching it: nothing is encoded again on its way through the broker.
package record
