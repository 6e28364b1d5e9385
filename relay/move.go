package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// What follows moves a source from one log to another. Each takes the source's transactional id first, which fences whatever relay of it is at work
// (R3), reads what stands in the log, and writes in the same transactional id's next transaction: so nothing can come in between. Each may be called again,
// after any error, until it has returned nil.

// Depart says in the log that the source has moved to the log with the id to. From then on no relay of the source writes here: one that runs is
// fenced, one that starts halts. It returns the position, without the move. found is false, and nothing was written, where the source has none.
func Depart(ctx context.Context, o kafka.Options, s outrelay.SourceID, to string, at time.Time) (pos PositionRecord, found bool, err error) {
	err = rewrite(ctx, o, s, func(old PositionRecord, has bool) (*PositionRecord, error) {
		pos, found = old, has
		pos.MovedTo, pos.MovedAt = "", time.Time{}
		switch {
		case old.Intent != "":
			return nil, &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "source-initialising", Place: "source " + string(s),
				Cause: "its first start has not ended: it has no position yet", Fix: "run `outrelay init " + string(s) + "`, then try again"}
		case !has, old.MovedTo == to:
			return nil, nil
		case old.MovedTo != "":
			return nil, old.moved()
		}
		moved := pos
		moved.MovedTo, moved.MovedAt = to, at
		return &moved, nil
	})
	return pos, found, err
}

// Return takes back what Depart has said of a move to the log with the id to, and reports whether it had been said.
func Return(ctx context.Context, o kafka.Options, s outrelay.SourceID, to string) (was bool, err error) {
	err = rewrite(ctx, o, s, func(old PositionRecord, _ bool) (*PositionRecord, error) {
		was = old.MovedTo == to
		if !was {
			return nil, nil
		}
		old.MovedTo, old.MovedAt = "", time.Time{}
		return &old, nil
	})
	return was, err
}

// Arrive writes the position with which a source has left another log. A relay of the source that starts here afterwards goes on at it. A position that
// stands here already and is another one is a data halt, unless it says that the source has moved away: then it comes back.
func Arrive(ctx context.Context, o kafka.Options, pos PositionRecord) error {
	s := pos.Position.Source
	return rewrite(ctx, o, s, func(old PositionRecord, has bool) (*PositionRecord, error) {
		switch {
		case has && old.MovedTo == "" && old.Position == pos.Position:
			return nil, nil
		case old.Intent != "", has && old.MovedTo == "":
			return nil, PositionThere(s, old)
		}
		return &pos, nil
	})
}

// PositionThere returns the halt for a source that the new log knows already.
func PositionThere(s outrelay.SourceID, old PositionRecord) error {
	return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "position-there", Place: "source " + string(s),
		Cause: fmt.Sprintf("the new log has a position of it already (%q), which did not come from the old one: an outrelay has run there", old.Place),
		Fix:   "migrate into a log in which no outrelay has run, or with a log.kafka.prefix that none has used"}
}

const moveTxnTimeout = time.Minute

// rewrite replaces the position of a source by what change makes of it; nil leaves it as it is.
func rewrite(ctx context.Context, o kafka.Options, s outrelay.SourceID, change func(old PositionRecord, has bool) (*PositionRecord, error)) error {
	place := "position of source " + string(s)
	cl, err := kafka.NewClient(o, kgo.TransactionalID(o.TransactionalID(s)), kgo.TransactionTimeout(moveTxnTimeout),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kafka.Partitioner()), kgo.UnknownTopicRetries(unknownTopicRetries))
	if err != nil {
		return err
	}
	defer cl.Close()
	if _, err := kafka.CompleteTransaction(ctx, cl, o.TransactionalID(s)); err != nil {
		return err
	}
	if _, _, err := cl.ProducerID(ctx); err != nil {
		return kafka.Wrap(err, "take transactional id "+o.TransactionalID(s))
	}
	old, has, err := readPosition(ctx, cl, o.PositionsTopic(), s)
	if err != nil && !errors.Is(err, kafka.ErrNoTopic) {
		return err
	}
	rec, err := change(old, has)
	if err != nil || rec == nil {
		return err
	}
	if err := cl.BeginTransaction(); err != nil {
		return kafka.Wrap(err, place)
	}
	r := &kgo.Record{Topic: o.PositionsTopic(), Partition: PositionPartition(s), Key: []byte(s), Value: rec.Append(nil)}
	if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
		return kafka.Wrap(err, place)
	}
	return kafka.Wrap(kafka.Commit(ctx, cl), place)
}
