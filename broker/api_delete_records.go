package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DeleteRecords, key 21: v0–2
//
//   - v0: KIP-107; v2: flexible
//
// The log start offset moves by a command in the partition's log; segments wholly below it go later. Offset -1 means the high
// watermark. A topic that is compacted and not also deleted from refuses, as Kafka's does.

func handleDeleteRecords(s *Server, c *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DeleteRecordsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteRecordsResponse)
	type outcome struct {
		start int64
		err   error
	}
	var waits []chan outcome
	for i := range req.Topics {
		rt := &req.Topics[i]
		st := kmsg.NewDeleteRecordsResponseTopic()
		st.Topic = rt.Topic
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			sp := kmsg.NewDeleteRecordsResponseTopicPartition()
			sp.Partition, sp.LowWatermark = rp.Partition, -1
			done := make(chan outcome, 1)
			if p, err := s.deletable(rt.Topic, rp); err != nil {
				done <- outcome{-1, err}
			} else {
				p.DeleteRecords(rp.Offset, func(start int64, err error) { done <- outcome{start, err} })
			}
			waits = append(waits, done)
			st.Partitions = append(st.Partitions, sp)
		}
		resp.Topics = append(resp.Topics, st)
	}
	return func() kmsg.Response {
		ctx, cancel := adminContext(c.ctx, req.TimeoutMillis)
		defer cancel()
		n := 0
		for i := range resp.Topics {
			for j := range resp.Topics[i].Partitions {
				sp := &resp.Topics[i].Partitions[j]
				select {
				case o := <-waits[n]:
					if sp.LowWatermark = o.start; o.err != nil {
						sp.LowWatermark, sp.ErrorCode = -1, kafkaError(o.err).Code
					}
				case <-ctx.Done():
					sp.ErrorCode = kerr.RequestTimedOut.Code
				}
				n++
			}
		}
		return resp
	}
}

func (s *Server) deletable(name string, rp *kmsg.DeleteRecordsRequestTopicPartition) (*partition, error) {
	p, err := s.lookupServed(name, rp.Partition)
	switch {
	case err != nil:
		return nil, err
	case isInternal(name):
		return nil, kerr.InvalidTopicException
	case rp.Offset < -1 || rp.Offset > p.HighWatermark():
		return nil, kerr.OffsetOutOfRange
	case !p.conf.Load().replica.Delete:
		return nil, kerr.PolicyViolation
	}
	return p, nil
}

// adminContext bounds what a request waits for; its own timeout counts where it names one.
func adminContext(ctx context.Context, timeoutMs int32) (context.Context, context.CancelFunc) {
	d := adminTimeout
	if timeoutMs > 0 {
		d = time.Duration(timeoutMs) * time.Millisecond
	}
	return context.WithTimeout(ctx, d)
}
