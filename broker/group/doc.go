// Package group decides for consumer groups: membership, generations, assignments, committed offsets. It never does I/O, starts no
// goroutine and reads no clock: time comes in with each call, and what is to be done goes out as [Effects].
//
// # Two halves
//
// The store is what the log of one partition of __consumer_offsets says: offsets, offsets of open transactions, group metadata. It is
// fed at apply, in log order, on every replica, and travels in checkpoints. The coordinator is what only the partition's leader
// knows on top: who waits for which answer, which session runs out when. It is built from the store by [Coordinator.Load] and dropped by
// [Coordinator.Unload], so a restart and a change of leader are the same thing.
//
//	requests, time ──▶ Coordinator ──▶ Effects: records to write, answers to send
//	                        ▲   │ reads
//	 Written ───────────────┘   ▼
//	 ApplyRecord, ApplyMarker ▶ store (offsets, group metadata)
//
// A commit is answered when its records were applied, that is durable (Kafka's promise, and invariant G1 of docs/invariants.md).
//
// # The classic protocol
//
//	Empty ──join──▶ PreparingRebalance ──all joined, or time──▶ CompletingRebalance ──leader's sync, durable──▶ Stable
//	  ▲                    ▲   │ nobody left                          │ join, leave, expiry                       │
//	  └────────────────────┼───┘                                      ▼                                           ▼
//	                       └──────────────────────────────────────────┴───────────────────────────────────────────┘
//
// Dead is a group that is being deleted.
//
// # The consumer protocol (KIP-848)
//
// Members say by heartbeats what they subscribe to and what they have; the coordinator assigns. A change of members, subscriptions or topics makes
// the group's epoch grow, and a new target assignment with it; each member goes from its own assignment to its target by heartbeats, revoking
// before others are assigned (consumer_reconcile.go). The state is what the log says, and nothing else: a step is decided on what was
// applied, written, and answered once applied (consumer_group.go).
//
//	heartbeat ──▶ plan: member, epoch, target, stand ──▶ records ──applied──▶ answer
//	                 ▲ reads                                │
//	               consumerState ◀──────ApplyRecord─────────┘
//
// A name is a classic or a consumer group. A classic one becomes a consumer group when a member of the consumer protocol joins, and its members go on
// as classic members of it (consumer_classic.go); when the last one of the consumer protocol leaves, it becomes a classic group again
// (consumer_migrate.go).
//
// KIPs: 62 (timeouts), 211 (offset expiry), 345 (static membership), 394 (member id first),
// 429 (cooperative: the broker only needs to let members keep consuming while they rejoin), 447 (transactional commits fenced by
// generation), 814 (static leader skips the assignment), 848 (consumer groups), 1251 (commits with an older epoch).
package group
