package broker

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/txn"
)

// A transactional producer's partitions join its transaction before their data is proposed (KIP-890, Produce v12+). The data does not wait
// until the record that names them is durable: it is proposed as soon as that record has its place in the write-ahead log (N7), so that both share
// a sync, and the producer is answered when both are applied.

// joining is the part of a produceCall that joins partitions to a transaction. produceCall.mu guards it.
type joining struct {
	joins   []*txnJoin
	behind  int           // joins whose record has no place in the log yet, and one while they are being asked for
	begun   bool          // the batches are proposed, or will never be
	started chan struct{} // closed when the batches are proposed
}

// txnJoin is the partitions of one producer that join its transaction by one record. A request has one producer, unless its client is wrong.
// It is who the coordinator answers.
type txnJoin struct {
	call       *produceCall
	producerID int64
	epoch      int16
	slots      []int
	partitions []txn.TopicPartition

	// Guarded by call.mu.
	passed   bool // its data may be proposed, or will not be
	answered bool
}

// startInTxn proposes the batches as start does, once the transaction owns their partitions. It blocks the connection's reader until they are
// proposed, so that later batches of the same producer stay behind, but does not wait for the disk; partitions that are in already cost
// nothing. Before v12 the client adds partitions itself: then it only checks that they were.
func (call *produceCall) startInTxn(ctx context.Context) {
	call.started = make(chan struct{})
	call.behind = 1
	call.s.node.Together(func() {
		for _, j := range call.prepareJoins() {
			call.join(j)
		}
		call.pass(nil)
	})
	select {
	case <-call.started:
	case <-ctx.Done():
		call.abandon()
	}
}

// prepareJoins returns the joins that are needed, and fails the batches of older clients that added nothing (KIP-890); a guard that is taken
// before has that checked again when the batch is applied.
func (call *produceCall) prepareJoins() []*txnJoin {
	implicit := call.req.version >= 12
	if !implicit {
		call.guards = make([]replica.TxnGuard, len(call.results))
	}
	set := call.s.topics.set()
	slot := 0
	for i := range call.req.topics {
		rt := &call.req.topics[i]
		t, _ := set.find(rt.name, rt.id, call.req.version >= 13)
		for j := range rt.partitions {
			at := slot
			slot++
			if rt.denied != nil {
				continue
			}
			p, err := t.served(rt.partitions[j].index)
			b := record.Batch(rt.partitions[j].records)
			if err != nil || len(b) < record.HeaderBytes || b.Magic() != record.Magic || !b.Transactional() {
				continue
			}
			if !implicit {
				call.guards[at] = p.TxnGuard(b.ProducerID())
			}
			if p.HasOpenTxn(b.ProducerID(), b.ProducerEpoch()) {
				continue
			}
			tp := txn.TopicPartition{Topic: p.topic, Partition: p.index}
			if implicit {
				call.addJoin(b.ProducerID(), b.ProducerEpoch(), at, tp)
			} else if err := call.s.txnVerifyProduce(*call.req.txnID, b.ProducerID(), b.ProducerEpoch(), call.req.version >= 11, tp); err != nil {
				call.fail(at, kafkaError(err), "", -1)
			}
		}
	}
	return call.joins
}

func (call *produceCall) addJoin(producerID int64, epoch int16, slot int, tp txn.TopicPartition) {
	call.mu.Lock()
	defer call.mu.Unlock()
	i := slices.IndexFunc(call.joins, func(j *txnJoin) bool { return j.producerID == producerID && j.epoch == epoch })
	if i < 0 {
		i = len(call.joins)
		call.joins = append(call.joins, &txnJoin{call: call, producerID: producerID, epoch: epoch})
		call.left++
		call.behind++
	}
	j := call.joins[i]
	j.slots, j.partitions = append(j.slots, slot), append(j.partitions, tp)
}

func (call *produceCall) join(j *txnJoin) {
	if call.s.startJoinTxn(*call.req.txnID, j.producerID, j.epoch, 2, j, j.partitions...) {
		j.answer(txn.Result{}) // they are in
	}
}

// ahead implements aheadAnswerer.
func (j *txnJoin) ahead() { j.call.pass(j) }

// answer takes the coordinator's txn.Result.
func (j *txnJoin) answer(r any) {
	call := j.call
	if err := r.(txn.Result).Err; err != nil {
		call.mu.Lock()
		call.refuseAll(j, produceError(err))
		call.mu.Unlock()
	}
	call.pass(j)
	call.mu.Lock()
	j.answered = true
	call.settled()
	call.mu.Unlock()
}

// refuseAll makes err the outcome of every batch of j, also of one that was applied: it is in the log without being known to be part of the
// transaction, and the producer's retry will find it there. Called with mu held.
func (call *produceCall) refuseAll(j *txnJoin, err *kerr.Error) {
	if call.sent {
		return
	}
	for _, slot := range j.slots {
		done := call.results[slot].done
		call.results[slot] = refused(err, "", -1)
		if !done {
			call.settled()
		}
	}
}

// pass notes that j (nil: the asking) holds the batches back no more, and proposes them when nothing does.
func (call *produceCall) pass(j *txnJoin) {
	call.mu.Lock()
	if j != nil {
		if j.passed {
			call.mu.Unlock()
			return
		}
		j.passed = true
	}
	call.behind--
	begin := call.behind == 0 && !call.begun
	call.begun = call.begun || begin
	call.mu.Unlock()
	if begin {
		call.start()
		close(call.started)
	}
}

// abandon makes sure that no batch is proposed after it returns: the connection has ended, and with it the request's memory.
func (call *produceCall) abandon() {
	call.mu.Lock()
	begun := call.begun
	call.begun = true
	call.mu.Unlock()
	if begun {
		<-call.started
	}
}
