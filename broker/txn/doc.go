// Package txn decides for transactional producers: ids, epochs, and the two-phase end of a transaction. It never does I/O, starts no
// goroutine and reads no clock: time comes in with each call, and what is to be done goes out as [Effects].
//
// # States
//
//	          add partition               end, or timeout                markers applied
//	Empty ───────────────────▶ Ongoing ───────────────────▶ Prepare* ───────────────────▶ Complete* ──add──▶ Ongoing
//	  ▲                           │ InitProducerId: abort first                              │
//	  └───────────────────────────┴────────────────── InitProducerId: epoch + 1 ────────────┘
//
// Each arrow is one record of __transaction_state, and no crash keeps what follows from it and loses the record: the partition is in a
// record that has its place in the log ([Coordinator.Placed]) before its data is proposed, Prepare* before the first marker. On a single voter that
// place is known long before the record is durable, so that a transaction costs two syncs: one for its record and its data, one for the decision
// and its markers. Whoever asked is answered when both are durable. The one exception is Complete*: the answer to EndTxn goes
// out when decision and markers are applied, and the record is written a moment later, or not at all when the next transaction's first record comes
// before. That is safe because whatever the producer does next needs a record that stands behind Prepare* in the same log: as long as
// Prepare* is the last one, no partition holds data of a later transaction, and after a restart the markers can be written again
// without harm (T3 of docs/invariants.md). It saves a busy producer one fsync in five.
//
// # Epochs (KIP-890, transaction version 2)
//
// EndTxn v5 and up raises the epoch with each transaction: the markers carry epoch + 1, so data of the ended transaction that arrives
// late is refused by the partition. Older clients keep their epoch. A timeout and an InitProducerId that meets an open transaction raise
// it whatever the client. Before an epoch would pass 32766, the producer gets a new id.
//
// # Waiting instead of CONCURRENT_TRANSACTIONS
//
// A request that meets a transition under way waits in the transaction's queue and is decided when it has settled; CONCURRENT_TRANSACTIONS
// is answered only when the queue is full or the wait too long. KIPs: 98, 360, 447, 890.
package txn
