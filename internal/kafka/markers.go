package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/clock"
)

const (
	endingPause = 50 * time.Millisecond
	endingMax   = 30 * time.Second // how long the coordinator may take to end a transaction that it has decided
)

// Markers are the ends of a transaction that CompleteTransaction has written.
type Markers struct {
	Commit     bool
	Partitions int
}

// CompleteTransaction writes the end of the last transaction of a transactional id into partitions that lack it. An Apache Kafka broker that is killed between its decision
// to commit and the markers, and starts again, may note the transaction as complete without having written them (seen with 4.3.1 on one node: its coordinator is
// loaded before it knows the partitions' leaders). Readers of committed data then wait there for ever, and who takes the transactional id next makes
// the coordinator forget what it had decided: call it before that, with nobody at work under the id. It looks at every topic that cl may see, once the
// coordinator has a decision. Only transactions of version 2 can be told from others (KIP-890: the marker's epoch is the data's plus one); for older
// ones it does nothing. Errors: outrelay.ErrEnvironment where the cluster refuses the markers, which need the right to alter it.
func CompleteTransaction(ctx context.Context, cl *kgo.Client, txnID string) (Markers, error) {
	adm := kadm.NewClient(cl)
	t, err := decided(ctx, adm, txnID)
	if err != nil || t == nil {
		return Markers{}, err
	}
	topics, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return Markers{}, wrap(err, "list topics")
	}
	topics.FilterInternal()
	producers, err := adm.DescribeProducers(ctx, topics.TopicsSet())
	if err != nil && len(producers) == 0 {
		return Markers{}, wrap(err, "describe producers")
	}
	m := kadm.TxnMarkers{ProducerID: t.ProducerID, ProducerEpoch: t.ProducerEpoch, Commit: t.State == "CompleteCommit", Topics: kadm.TopicsSet{}}
	n := 0
	for _, p := range producers.SortedProducers() {
		if p.ProducerID == t.ProducerID && p.ProducerEpoch == t.ProducerEpoch-1 && p.CurrentTxnStartOffset >= 0 {
			m.Topics.Add(p.Topic, p.Partition)
			m.CoordinatorEpoch = max(m.CoordinatorEpoch, p.CoordinatorEpoch)
			n++
		}
	}
	if n == 0 {
		return Markers{}, nil
	}
	return Markers{m.Commit, n}, writeMarkers(ctx, adm, txnID, m)
}

// decided returns the last transaction of an id once the coordinator is there and says how it ended; nil where there was none, or another one is under way.
func decided(ctx context.Context, adm *kadm.Client, txnID string) (*kadm.DescribedTransaction, error) {
	for waited := time.Duration(0); ; waited += endingPause {
		all, err := adm.DescribeTransactions(ctx, txnID)
		t := all[txnID]
		switch {
		case err != nil && (waited >= endingMax || !errors.Is(wrap(err, "coordinator"), outrelay.ErrTransient)):
			return nil, wrap(err, "describe transaction %s", txnID)
		case err != nil: // it is being elected, or made: this is the cluster's first transaction
		case errors.Is(t.Err, kerr.TransactionalIDNotFound), errors.Is(t.Err, kerr.TransactionalIDAuthorizationFailed):
			return nil, nil // never used; or whoever takes it will be told
		case t.Err != nil:
			return nil, wrap(t.Err, "describe transaction %s", txnID)
		case t.State == "CompleteCommit", t.State == "CompleteAbort":
			return &t, nil
		case !strings.HasPrefix(t.State, "Prepare") || waited >= endingMax:
			return nil, nil
		}
		if err := backoff.Sleep(ctx, clock.Real{}, endingPause); err != nil {
			return nil, wrap(err, "describe transaction %s", txnID)
		}
	}
}

func writeMarkers(ctx context.Context, adm *kadm.Client, txnID string, m kadm.TxnMarkers) error {
	resp, err := adm.WriteTxnMarkers(ctx, m)
	if err == nil {
		for _, p := range resp.Sorted() {
			for _, t := range p.Topics.Sorted() {
				for _, r := range t.Partitions.Sorted() {
					err = errors.Join(err, r.Err)
				}
			}
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		end := "abort"
		if m.Commit {
			end = "commit"
		}
		return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "markers-missing", Place: "transactional id " + txnID, Err: err,
			Cause: fmt.Sprintf("the log's coordinator decided to %s the last transaction, and its end was not written to %s: readers wait there", end, partitionsText(m.Topics)),
			Fix:   "give outrelay's principal the right to alter the cluster (kafka-acls.sh --add --cluster --operation Alter --operation ClusterAction --allow-principal …); it then writes the ends by itself"}
	}
	return wrap(err, "write the end of the last transaction of %s", txnID)
}

// partitionsText names partitions for people.
func partitionsText(s kadm.TopicsSet) string {
	var all []string
	for _, t := range s.Sorted() {
		all = append(all, fmt.Sprintf("%s %v", t.Topic, t.Partitions))
	}
	return strings.Join(all, ", ")
}
