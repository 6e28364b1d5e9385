package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Commit commits the client's transaction. Its records must have been flushed. A nil error means that it is committed; after any other, nobody knows.
//
// It is the one way to commit. franz-go (1.22.2) asks its list of topics which partitions the transaction has. A topic that the client did not know goes into that list
// only after its first records were handed to the connection, so a log that answers quickly lets EndTransaction come first: it finds no partition, takes the
// transaction for one in which no produce has succeeded, aborts it, and returns no error. AbortBufferedRecords takes the lock under which the list is written, and
// so waits until it is. It aborts nothing: nothing is buffered.
func Commit(ctx context.Context, cl *kgo.Client) error {
	if n := cl.BufferedProduceRecords(); n > 0 {
		return fmt.Errorf("BUG: commit of a transaction with %d records that were not flushed", n)
	}
	if err := cl.AbortBufferedRecords(ctx); err != nil {
		return err
	}
	return cl.EndTransaction(ctx, kgo.TryCommit)
}
