package broker_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/record"
)

// diffProducers is how many producers a trace has: the first is idempotent, the second transactional of version 1, the third of version 2.
const diffProducers = 3

const (
	diffPlainProducer = 0
	diffOldTxn        = 1
	diffNewTxn        = 2
)

func pick[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

// nextOp returns a random op. All that is random is drawn here, once for both peers.
func nextOp(rnd *rand.Rand) diffOp {
	topic, partition := pick(rnd, "a", "a", "a", "b", "b", "missing"), int32(rnd.IntN(4)-rnd.IntN(2))
	switch n := rnd.IntN(100); {
	case n < 12:
		return opCreateTopic(rnd)
	case n < 14:
		return opDeleteTopic(rnd, topic)
	case n < 17:
		return opCreatePartitions(rnd, topic)
	case n < 30:
		return opProduce(rnd, topic, partition)
	case n < 44:
		return opFetch(rnd, topic, partition)
	case n < 52:
		return opListOffsets(rnd, topic, partition)
	case n < 55:
		return opDeleteRecords(rnd, topic, partition)
	case n < 63:
		return opGroup(rnd, topic, partition)
	case n < 66:
		return opConfigs(rnd, topic)
	case n < 68:
		return opMetadata(rnd, topic)
	case n < 76:
		return opInitProducer(rnd)
	}
	return opTxn(rnd, topic, partition)
}

func opCreateTopic(rnd *rand.Rand) diffOp {
	name, partitions, v := pick(rnd, "a", "a", "b", "b", "bad name"), int32(pick(rnd, 1, 2, 3, 0)), int16(2+rnd.IntN(6))
	return opCreateTopicNamed(name, partitions, pick(rnd, "", "", "", "retention.ms=soon", "no.such=1", "max.message.bytes=200"), v)
}

func opCreateTopicNamed(name string, partitions int32, config string, v int16) diffOp {
	return diffOp{name: fmt.Sprintf("CreateTopics v%d %s partitions=%d %s", v, name, partitions, config), writes: true, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.TimeoutMillis = 10_000
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = p.prefix+name, partitions, 1
		if k, val, ok := strings.Cut(config, "="); ok {
			rt.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: k, Value: &val}}
		}
		req.Topics = append(req.Topics, rt)
		st := ask[*kmsg.CreateTopicsResponse](p, req, v).Topics[0]
		if st.ErrorCode == 0 {
			p.settle(name, partitions)
		}
		return fmt.Sprint("error ", st.ErrorCode), notReady(st.ErrorCode)
	}}
}

// settle waits until the topic has so many partitions with leaders; 0: until it is gone.
func (p *peer) settle(name string, partitions int32) {
	p.do(diffOp{run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrMetadataRequest()
		req.AllowAutoTopicCreation = false
		req.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr(p.prefix + name)}}
		mt := ask[*kmsg.MetadataResponse](p, req, 8).Topics[0]
		led := 0
		for _, mp := range mt.Partitions {
			if mp.ErrorCode == 0 && mp.Leader >= 0 {
				led++
			}
		}
		return "", led != int(partitions)
	}})
}

func opDeleteTopic(rnd *rand.Rand, topic string) diffOp {
	v := int16(1 + rnd.IntN(5))
	return diffOp{name: fmt.Sprintf("DeleteTopics v%d %s", v, topic), writes: true, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TimeoutMillis, req.TopicNames = 10_000, []string{p.prefix + topic}
		st := ask[*kmsg.DeleteTopicsResponse](p, req, v).Topics[0]
		if st.ErrorCode == 0 {
			p.settle(topic, 0)
		}
		return fmt.Sprint("error ", st.ErrorCode), notReady(st.ErrorCode)
	}}
}

func opCreatePartitions(rnd *rand.Rand, topic string) diffOp {
	v, count := int16(rnd.IntN(4)), int32(rnd.IntN(5))
	return diffOp{name: fmt.Sprintf("CreatePartitions v%d %s count=%d", v, topic, count), writes: true, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.TimeoutMillis, req.Topics = 10_000, []kmsg.CreatePartitionsRequestTopic{{Topic: p.prefix + topic, Count: count}}
		st := ask[*kmsg.CreatePartitionsResponse](p, req, v).Topics[0]
		if st.ErrorCode == 0 {
			p.settle(topic, count)
		}
		return fmt.Sprint("error ", st.ErrorCode), notReady(st.ErrorCode)
	}}
}

// diffBatch is a batch as both get it; the producer is known by slot.
type diffBatch struct {
	slot    int // -1: none
	age     int16
	seq     int32
	records int
	txn     bool
	spoil   string
}

func (d diffBatch) build(p *peer) []byte {
	o := record.NoProducer(record.CodecNone)
	if d.slot >= 0 {
		pr := p.producers[d.slot]
		if pr.id < 0 {
			pr.id = 1<<40 + int64(d.slot) // of nobody
		}
		o.ProducerID, o.Epoch, o.Sequence, o.Transactional = pr.id, max(pr.epoch-d.age, 0), d.seq, d.txn
	}
	b := record.NewBuilder(o)
	for i := range d.records {
		b.Add(1_700_000_000_000+int64(i), []byte("k"), fmt.Append(nil, d.seq, "/", i), nil)
	}
	out := b.Build()
	switch d.spoil {
	case "crc":
		out[len(out)-1] ^= 1
	case "cut":
		out = out[:len(out)-2]
	case "magic":
		out[16] = 5
	}
	return out
}

func opProduce(rnd *rand.Rand, topic string, partition int32) diffOp {
	v := int16(3 + rnd.IntN(10))
	d := diffBatch{slot: pick(rnd, -1, -1, diffPlainProducer), records: 1 + rnd.IntN(3), seq: int32(rnd.IntN(4)), spoil: pick(rnd, "", "", "", "", "crc")}
	name := fmt.Sprintf("Produce v%d %s/%d producer=%d seq=%d n=%d %s", v, topic, partition, d.slot, d.seq, d.records, d.spoil)
	return diffOp{name: name, writes: true, run: func(p *peer) (string, bool) { return p.produce(topic, partition, d, "", v) }}
}

func (p *peer) produce(topic string, partition int32, d diffBatch, txnID string, v int16) (string, bool) {
	req := produceRequest(p.prefix+topic, partition, d.build(p))
	if txnID != "" {
		req.TransactionID = kmsg.StringPtr(p.prefix + txnID)
	}
	sp := ask[*kmsg.ProduceResponse](p, req, v).Topics[0].Partitions[0]
	if sp.ErrorCode != 0 {
		return fmt.Sprint("error ", sp.ErrorCode), notReady(sp.ErrorCode)
	}
	return fmt.Sprint("base ", sp.BaseOffset), false
}

func opFetch(rnd *rand.Rand, topic string, partition int32) diffOp {
	v, at, committed := int16(4+rnd.IntN(9)), int64(rnd.IntN(12)-1), int8(rnd.IntN(2))
	return diffOp{name: fmt.Sprintf("Fetch v%d %s/%d at=%d committed=%d", v, topic, partition, at, committed), writes: false, run: func(p *peer) (string, bool) {
		var out strings.Builder
		var aborted []string
		for next, first := at, true; ; first = false { // an answer may be shorter than it could: a client goes on
			req := fetchRequest(p.prefix+topic, partition, next, 0)
			req.IsolationLevel, req.SessionEpoch = committed, -1
			r := ask[*kmsg.FetchResponse](p, req, v)
			if len(r.Topics) == 0 {
				return fmt.Sprint("error ", r.ErrorCode), false
			}
			sp := r.Topics[0].Partitions[0]
			if sp.ErrorCode != 0 {
				return fmt.Sprint("error ", sp.ErrorCode), notReady(sp.ErrorCode)
			}
			if first {
				fmt.Fprintf(&out, "end %d stable %d", sp.HighWatermark, sp.LastStableOffset)
			}
			for _, a := range sp.AbortedTransactions {
				aborted = append(aborted, fmt.Sprintf("%s from %d", p.slot(a.ProducerID), a.FirstOffset))
			}
			bs := batches(p.t, sp.RecordBatches)
			for _, b := range bs {
				out.WriteString(recordsString(b))
				next = b.LastOffset() + 1
			}
			if len(bs) == 0 {
				slices.Sort(aborted)
				return fmt.Sprint(out.String(), " aborted ", slices.Compact(aborted)), false
			}
		}
	}}
}

func recordsString(b record.Batch) string {
	var out strings.Builder
	err := record.Records(b, func(r record.Record) error {
		switch {
		case b.Control():
			fmt.Fprintf(&out, " %d:marker%d", b.Offset(r), binary.BigEndian.Uint16(r.Key[2:]))
		default:
			fmt.Fprintf(&out, " %d:%s", b.Offset(r), r.Value)
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return out.String()
}

func opListOffsets(rnd *rand.Rand, topic string, partition int32) diffOp {
	v, at, committed := int16(1+rnd.IntN(8)), pick[int64](rnd, -1, -1, -2, -3, -4, 1_700_000_000_000, 1_700_000_000_001, 1<<50), int8(rnd.IntN(2))
	if at == -3 {
		v = max(v, 7)
	}
	if at == -4 {
		v = 8
	}
	return diffOp{name: fmt.Sprintf("ListOffsets v%d %s/%d at=%d committed=%d", v, topic, partition, at, committed), writes: false, run: func(p *peer) (string, bool) {
		req := listOffset(p.prefix+topic, at)
		req.ReplicaID, req.IsolationLevel = -1, committed
		req.Topics[0].Partitions[0].Partition, req.Topics[0].Partitions[0].CurrentLeaderEpoch = partition, -1
		sp := ask[*kmsg.ListOffsetsResponse](p, req, v).Topics[0].Partitions[0]
		if sp.ErrorCode != 0 {
			return fmt.Sprint("error ", sp.ErrorCode), notReady(sp.ErrorCode)
		}
		if sp.Timestamp > 1_700_000_001_000 { // a marker's is by the clock
			sp.Timestamp = 0
		}
		return fmt.Sprintf("offset %d time %d", sp.Offset, sp.Timestamp), false
	}}
}

func opDeleteRecords(rnd *rand.Rand, topic string, partition int32) diffOp {
	v, before := int16(rnd.IntN(3)), int64(rnd.IntN(6)-2)
	return diffOp{name: fmt.Sprintf("DeleteRecords v%d %s/%d before=%d", v, topic, partition, before), writes: true, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.TimeoutMillis = 10_000
		req.Topics = []kmsg.DeleteRecordsRequestTopic{{
			Topic: p.prefix + topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: before}},
		}}
		sp := ask[*kmsg.DeleteRecordsResponse](p, req, v).Topics[0].Partitions[0]
		if sp.ErrorCode != 0 {
			return fmt.Sprint("error ", sp.ErrorCode), notReady(sp.ErrorCode)
		}
		return fmt.Sprint("start ", sp.LowWatermark), false
	}}
}

func opMetadata(rnd *rand.Rand, topic string) diffOp {
	v := int16(4 + rnd.IntN(9))
	return diffOp{name: fmt.Sprintf("Metadata v%d %s", v, topic), writes: false, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrMetadataRequest()
		req.AllowAutoTopicCreation = false
		req.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr(p.prefix + topic)}}
		mt := ask[*kmsg.MetadataResponse](p, req, v).Topics[0]
		return fmt.Sprintf("error %d partitions %d internal %v", mt.ErrorCode, len(mt.Partitions), mt.IsInternal), notReady(mt.ErrorCode)
	}}
}

func opConfigs(rnd *rand.Rand, topic string) diffOp {
	config := pick(rnd, "retention.ms=5000000", "retention.ms=x", "max.message.bytes=150", "max.message.bytes=100000", "no.such=1")
	if rnd.IntN(2) == 0 {
		return diffOp{name: "IncrementalAlterConfigs " + topic + " " + config, writes: true, run: func(p *peer) (string, bool) {
			name, value, _ := strings.Cut(config, "=")
			code, _ := alter(p.c, aTopic, p.prefix+topic, kmsg.IncrementalAlterConfigOpSet, name, &value)
			if code == 0 { // and wait until it is in force
				p.do(diffOp{run: func(p *peer) (string, bool) {
					return "", *describeConfig(p.c, aTopic, p.prefix+topic, name).Value != value
				}})
			}
			return fmt.Sprint("error ", code), notReady(code)
		}}
	}
	return diffOp{name: "DescribeConfigs " + topic, writes: false, run: func(p *peer) (string, bool) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		rr := kmsg.NewDescribeConfigsRequestResource()
		rr.ResourceType, rr.ResourceName, rr.ConfigNames = aTopic, p.prefix+topic, []string{"retention.ms", "max.message.bytes", "cleanup.policy"}
		req.Resources = append(req.Resources, rr)
		r := ask[*kmsg.DescribeConfigsResponse](p, req, 4).Resources[0]
		out := []string{fmt.Sprint("error ", r.ErrorCode)}
		for _, cf := range r.Configs {
			out = append(out, fmt.Sprintf("%s=%s %v", cf.Name, *cf.Value, cf.Source))
		}
		slices.Sort(out)
		return strings.Join(out, " "), notReady(r.ErrorCode)
	}}
}
