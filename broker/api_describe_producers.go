package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeProducers, key 61: v0 (KIP-664)

func handleDescribeProducers(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.DescribeProducersRequest)
	resp := req.ResponseKind().(*kmsg.DescribeProducersResponse)
	for i := range req.Topics {
		rt := &req.Topics[i]
		st := kmsg.NewDescribeProducersResponseTopic()
		st.Topic = rt.Topic
		for _, index := range rt.Partitions {
			sp := kmsg.NewDescribeProducersResponseTopicPartition()
			sp.Partition = index
			p, err := s.lookup(rt.Topic, index)
			if err != nil {
				sp.ErrorCode, sp.ErrorMessage = err.Code, &err.Description
			} else {
				sp.ActiveProducers = p.activeProducers()
			}
			st.Partitions = append(st.Partitions, sp)
		}
		resp.Topics = append(resp.Topics, st)
	}
	return answer(resp)
}

func (p *partition) activeProducers() (active []kmsg.DescribeProducersResponseTopicPartitionActiveProducer) {
	for _, ps := range p.Producers() {
		a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
		a.ProducerID, a.ProducerEpoch = ps.ProducerID, int32(ps.Epoch)
		a.LastSequence, a.LastTimestamp = ps.LastSequence, ps.LastTimestamp
		a.CoordinatorEpoch, a.CurrentTxnStartOffset = ps.CoordinatorEpoch, ps.TxnFirstOffset
		active = append(active, a)
	}
	return active
}
