package broker_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The ops of a trace that coordinators answer.

func opGroup(rnd *rand.Rand, topic string, partition int32) diffOp {
	switch rnd.IntN(8) {
	case 0, 1, 2:
		return opOffsetCommit(rnd, topic, partition)
	case 3, 4:
		return opOffsetFetch(rnd, topic, partition)
	case 5:
		return opOffsetDelete(topic, partition)
	case 6:
		return diffOp{name: "DescribeGroups g", writes: false, run: func(p *peer) (string, bool) {
			req := kmsg.NewPtrDescribeGroupsRequest()
			req.Groups = []string{p.prefix + "g"}
			g := ask[*kmsg.DescribeGroupsResponse](p, req, 5).Groups[0]
			return fmt.Sprintf("error %d %s members %d", g.ErrorCode, g.State, len(g.Members)), notReady(g.ErrorCode)
		}}
	}
	return diffOp{name: "DeleteGroups g", writes: true, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Groups = []string{p.prefix + "g"}
		g := ask[*kmsg.DeleteGroupsResponse](p, req, 2).Groups[0]
		return fmt.Sprint("error ", g.ErrorCode), notReady(g.ErrorCode)
	}}
}

func opOffsetCommit(rnd *rand.Rand, topic string, partition int32) diffOp {
	v, offset, generation := pick[int16](rnd, 2, 3, 4, 5, 6, 7, 8, 10), int64(rnd.IntN(9)), int32(pick(rnd, -1, -1, -1, 3))
	metadata := strings.Repeat("m", pick(rnd, 0, 3, 5000))
	name := fmt.Sprintf("OffsetCommit v%d %s/%d offset=%d generation=%d metadata of %d", v, topic, partition, offset, generation, len(metadata))
	return diffOp{name: name, writes: true, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group, req.Generation, req.RetentionTimeMillis = p.prefix+"g", generation, -1
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.Metadata = partition, offset, &metadata
		req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: p.prefix + topic, TopicID: p.topicID(topic, v), Partitions: []kmsg.OffsetCommitRequestTopicPartition{rp}}}
		code := ask[*kmsg.OffsetCommitResponse](p, req, v).Topics[0].Partitions[0].ErrorCode
		return fmt.Sprint("error ", code), notReady(code)
	}}
}

func opOffsetFetch(rnd *rand.Rand, topic string, partition int32) diffOp {
	v, stable := pick[int16](rnd, 2, 3, 4, 5, 6, 7, 10), rnd.IntN(2) == 0
	if v >= 8 {
		return opOffsetFetchByID(topic, partition, v, stable)
	}
	return diffOp{name: fmt.Sprintf("OffsetFetch v%d %s/%d stable=%v", v, topic, partition, stable), writes: false, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Group, req.RequireStable = p.prefix+"g", stable
		req.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: p.prefix + topic, Partitions: []int32{partition}}}
		r := ask[*kmsg.OffsetFetchResponse](p, req, v)
		if r.ErrorCode != 0 || len(r.Topics) == 0 {
			return fmt.Sprint("error ", r.ErrorCode), notReady(r.ErrorCode)
		}
		sp := r.Topics[0].Partitions[0]
		metadata := ""
		if sp.Metadata != nil {
			metadata = *sp.Metadata
		}
		return fmt.Sprintf("error %d offset %d %q", sp.ErrorCode, sp.Offset, metadata), false
	}}
}

func opOffsetFetchByID(topic string, partition int32, v int16, stable bool) diffOp {
	return diffOp{name: fmt.Sprintf("OffsetFetch v%d %s/%d stable=%v", v, topic, partition, stable), writes: false, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.RequireStable = stable
		rg := kmsg.NewOffsetFetchRequestGroup()
		rg.Group, rg.Topics = p.prefix+"g", []kmsg.OffsetFetchRequestGroupTopic{{TopicID: p.topicID(topic, v), Partitions: []int32{partition}}}
		req.Groups = append(req.Groups, rg)
		g := ask[*kmsg.OffsetFetchResponse](p, req, v).Groups[0]
		if g.ErrorCode != 0 || len(g.Topics) == 0 {
			return fmt.Sprint("error ", g.ErrorCode), notReady(g.ErrorCode)
		}
		sp := g.Topics[0].Partitions[0]
		metadata := ""
		if sp.Metadata != nil {
			metadata = *sp.Metadata
		}
		return fmt.Sprintf("error %d offset %d %q", sp.ErrorCode, sp.Offset, metadata), false
	}}
}

// topicID returns the id of a topic for requests from v10 on, and one that names nothing where there is no such topic.
func (p *peer) topicID(topic string, v int16) [16]byte {
	if v < 10 {
		return [16]byte{}
	}
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(p.prefix + topic)
	req.Topics = append(req.Topics, rt)
	if t := ask[*kmsg.MetadataResponse](p, req, 12).Topics[0]; t.ErrorCode == 0 {
		return t.TopicID
	}
	return [16]byte{0: 0xde, 15: 0xad}
}

func opOffsetDelete(topic string, partition int32) diffOp {
	return diffOp{name: fmt.Sprintf("OffsetDelete %s/%d", topic, partition), writes: true, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = p.prefix + "g"
		req.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: p.prefix + topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: partition}}}}
		r := ask[*kmsg.OffsetDeleteResponse](p, req, 0)
		if r.ErrorCode != 0 || len(r.Topics) == 0 {
			return fmt.Sprint("error ", r.ErrorCode), notReady(r.ErrorCode)
		}
		return fmt.Sprint("partition error ", r.Topics[0].Partitions[0].ErrorCode), false
	}}
}

// txnOf is the transactional id of a slot; "" for the idempotent producer.
func txnOf(slot int) string { return []string{"", "x1", "x2"}[slot] }

func opInitProducer(rnd *rand.Rand) diffOp {
	slot, v, timeout := rnd.IntN(diffProducers), int16(rnd.IntN(6)), pick[int32](rnd, 60_000, 60_000, 60_000, 1<<30)
	return diffOp{name: fmt.Sprintf("InitProducerId v%d producer=%d timeout=%d", v, slot, timeout), writes: true, anew: slot == diffOldTxn, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = timeout, -1, -1
		if id := txnOf(slot); id != "" {
			req.TransactionalID = kmsg.StringPtr(p.prefix + id)
		}
		r := ask[*kmsg.InitProducerIDResponse](p, req, v)
		was := p.producers[slot]
		if r.ErrorCode == 0 {
			p.producers[slot] = diffProducer{r.ProducerID, r.ProducerEpoch}
		}
		if r.ErrorCode != 0 {
			return fmt.Sprint("error ", r.ErrorCode), notReady(r.ErrorCode)
		}
		return fmt.Sprintf("epoch %d same id %v", r.ProducerEpoch, was.id == r.ProducerID), false
	}}
}

func opTxn(rnd *rand.Rand, topic string, partition int32) diffOp {
	slot, seq, age := pick(rnd, diffOldTxn, diffNewTxn), int32(rnd.IntN(3)), int16(pick(rnd, 0, 0, 0, 0, 0, 1))
	id := txnOf(slot)
	switch rnd.IntN(12) {
	case 0, 1, 2:
		return opAddPartitions(topic, partition, age)
	case 3, 4, 5, 6:
		d := diffBatch{slot: slot, age: age, records: 1 + rnd.IntN(2), seq: seq, txn: true}
		v := map[int]int16{diffOldTxn: 11, diffNewTxn: 12}[slot]
		return diffOp{
			name:   fmt.Sprintf("Produce v%d %s %s/%d seq=%d n=%d age=%d", v, id, topic, partition, seq, d.records, age),
			writes: true, joins: true, data: map[int]string{diffOldTxn: fmt.Sprint(topic, "/", partition)}[slot],
			run: func(p *peer) (string, bool) { return p.produce(topic, partition, d, id, v) },
		}
	case 7, 8:
		return opTxnOffsets(rnd, slot, topic, partition, age)
	case 9, 10:
		return opEndTxn(slot, rnd.IntN(2) == 0, age)
	}
	if rnd.IntN(2) == 0 {
		return opDescribeProducers(topic, partition)
	}
	return diffOp{name: "DescribeTransactions " + id, writes: false, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{p.prefix + id}
		st := ask[*kmsg.DescribeTransactionsResponse](p, req, 0).TransactionStates[0]
		if st.ErrorCode != 0 {
			return fmt.Sprint("error ", st.ErrorCode), notReady(st.ErrorCode)
		}
		var topics []string
		for _, t := range st.Topics {
			slices.Sort(t.Partitions)
			topics = append(topics, fmt.Sprint(strings.TrimPrefix(t.Topic, p.prefix), len(t.Partitions)))
		}
		slices.Sort(topics)
		return fmt.Sprintf("%s %s epoch %d %v", st.State, p.slot(st.ProducerID), st.ProducerEpoch, topics), strings.HasPrefix(st.State, "Prepare")
	}}
}

func opAddPartitions(topic string, partition int32, age int16) diffOp {
	return diffOp{name: fmt.Sprintf("AddPartitionsToTxn v3 x1 %s/%d age=%d", topic, partition, age), writes: true, adds: fmt.Sprint(topic, "/", partition), run: func(p *peer) (string, bool) {
		pr := p.producers[diffOldTxn]
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch = p.prefix+"x1", pr.id, pr.epoch-age
		req.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: p.prefix + topic, Partitions: []int32{partition}}}
		code := ask[*kmsg.AddPartitionsToTxnResponse](p, req, 3).Topics[0].Partitions[0].ErrorCode
		return fmt.Sprint("error ", code), notReady(code)
	}}
}

func opTxnOffsets(rnd *rand.Rand, slot int, topic string, partition int32, age int16) diffOp {
	id, offset := txnOf(slot), int64(rnd.IntN(9))
	return diffOp{name: fmt.Sprintf("TxnOffsetCommit %s %s/%d offset=%d age=%d", id, topic, partition, offset, age), writes: true, run: func(p *peer) (string, bool) {
		pr := p.producers[slot]
		v := int16(5)
		if slot == diffOldTxn {
			v = 3
			req := kmsg.NewPtrAddOffsetsToTxnRequest()
			req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = p.prefix+id, pr.id, pr.epoch-age, p.prefix+"g"
			if code := ask[*kmsg.AddOffsetsToTxnResponse](p, req, 3).ErrorCode; code != 0 {
				return fmt.Sprint("add: error ", code), notReady(code)
			}
		}
		req := kmsg.NewPtrTxnOffsetCommitRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group, req.Generation = p.prefix+id, pr.id, pr.epoch-age, p.prefix+"g", -1
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.Metadata = partition, offset, kmsg.StringPtr("")
		req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: p.prefix + topic, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{rp}}}
		code := ask[*kmsg.TxnOffsetCommitResponse](p, req, v).Topics[0].Partitions[0].ErrorCode
		return fmt.Sprint("error ", code), notReady(code)
	}}
}

func opEndTxn(slot int, commit bool, age int16) diffOp {
	id, v := txnOf(slot), int16(5)
	if slot == diffOldTxn {
		v = 3
	}
	return diffOp{name: fmt.Sprintf("EndTxn v%d %s commit=%v age=%d", v, id, commit, age), writes: true, ends: slot == diffOldTxn, run: func(p *peer) (string, bool) {
		pr := p.producers[slot]
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = p.prefix+id, pr.id, pr.epoch-age, commit
		r := ask[*kmsg.EndTxnResponse](p, req, v)
		if r.ErrorCode != 0 {
			return fmt.Sprint("error ", r.ErrorCode), notReady(r.ErrorCode)
		}
		bumped := int16(0)
		if v >= 5 {
			bumped = r.ProducerEpoch - pr.epoch
			p.producers[slot] = diffProducer{r.ProducerID, r.ProducerEpoch}
		}
		p.do(p.ended(id))
		return fmt.Sprintf("error 0 bumped %d", bumped), false
	}}
}

// ended waits until the transaction's markers are written: Apache Kafka answers before.
func (p *peer) ended(id string) diffOp {
	return diffOp{run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{p.prefix + id}
		st := ask[*kmsg.DescribeTransactionsResponse](p, req, 0).TransactionStates[0]
		return "", notReady(st.ErrorCode) || strings.HasPrefix(st.State, "Prepare")
	}}
}

func opDescribeProducers(topic string, partition int32) diffOp {
	return diffOp{name: fmt.Sprintf("DescribeProducers %s/%d", topic, partition), writes: false, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrDescribeProducersRequest()
		req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: p.prefix + topic, Partitions: []int32{partition}}}
		sp := ask[*kmsg.DescribeProducersResponse](p, req, 0).Topics[0].Partitions[0]
		var out []string
		for _, a := range sp.ActiveProducers {
			out = append(out, fmt.Sprintf("%s epoch %d seq %d open from %d", p.slot(a.ProducerID), a.ProducerEpoch, a.LastSequence, a.CurrentTxnStartOffset))
		}
		slices.Sort(out)
		return fmt.Sprint("error ", sp.ErrorCode, " ", strings.Join(out, "; ")), notReady(sp.ErrorCode)
	}}
}
