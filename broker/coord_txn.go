package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
)

// topicPartition names a partition in a request.
type topicPartition struct {
	topic     string
	partition int32
}

// txnBeforeProduce makes sure that the transaction owns tp before data of it is proposed (KIP-890, Produce v12+): when it returns nil, the
// transaction's state with tp in it is durable. It blocks only for the first produce of a transaction to a partition. Errors are *kerr.Error.
func (s *Server) txnBeforeProduce(ctx context.Context, txnID string, producerID int64, epoch int16, tp topicPartition) error {
	return kerr.CoordinatorNotAvailable
}
