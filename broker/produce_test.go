package broker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/record"
)

func tryProduce(t testing.TB, c *rawConn, topic string, batch []byte, version int16) kmsg.ProduceResponseTopicPartition {
	t.Helper()
	return request[*kmsg.ProduceResponse](c, produceRequest(topic, 0, batch), version).Topics[0].Partitions[0]
}

// changed returns a copy of a batch that fn has changed, with its CRC put right.
func changed(batch []byte, fn func([]byte)) []byte {
	b := bytes.Clone(batch)
	fn(b)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func TestProduce_allVersions(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	id := createTopic(t, c, "t", 1).TopicID
	want := int64(0)
	for version := int16(3); version <= 13; version++ {
		req := produceRequest("t", 0, plainBatch("a", "b"))
		req.Topics[0].TopicID = id
		sp := request[*kmsg.ProduceResponse](c, req, version).Topics[0].Partitions[0]
		if sp.ErrorCode != 0 || sp.BaseOffset != want || sp.LogAppendTime != -1 {
			t.Errorf("v%d: %+v, want offset %d", version, sp, want)
		}
		want += 2
	}
	// What a request held is given back once its answer is written, which the client may see first.
	eventually(t, "memory is given back", func() bool { return n.FetchHeld() == 0 && n.BudgetFree() })
}

// B77: what is no batch of v2 that a client may send is refused with the right code, and nothing enters the log.
func TestProduce_refusesBatches(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopicWith(t, c, "t", 1, map[string]string{"max.message.bytes": "2000"})
	good := plainBatch("a", "b")
	for name, tc := range map[string]struct {
		batch []byte
		want  *kerr.Error
	}{
		"CRC":                 {func() []byte { b := bytes.Clone(good); b[len(b)-1]++; return b }(), kerr.CorruptMessage},
		"cut":                 {good[:len(good)-3], kerr.CorruptMessage},
		"shorter than a head": {good[:20], kerr.CorruptMessage},
		"empty":               {nil, kerr.InvalidRecord},
		"two batches":         {append(bytes.Clone(good), good...), kerr.InvalidRecord},
		"magic 0":             {changed(good, func(b []byte) { b[16] = 0 }), kerr.UnsupportedForMessageFormat},
		"magic 1":             {changed(good, func(b []byte) { b[16] = 1 }), kerr.UnsupportedForMessageFormat},
		"magic 9":             {changed(good, func(b []byte) { b[16] = 9 }), kerr.UnsupportedForMessageFormat},
		"last offset delta":   {changed(good, func(b []byte) { b[26]++ }), kerr.InvalidRecord},
		"record count":        {changed(good, func(b []byte) { b[60]++; b[26]++ }), kerr.CorruptMessage},
		"control":             {changed(good, func(b []byte) { b[22] |= 0x20 }), kerr.InvalidRecord},
		"codec 7":             {changed(good, func(b []byte) { b[22] |= 7 }), kerr.InvalidRecord},
		"too large":           {plainBatch(string(make([]byte, 3000))), kerr.MessageTooLarge},
		"transaction of none": {changed(idempotentBatch(1, 0, 0, "a"), func(b []byte) { b[22] |= 0x10 }), kerr.TransactionalIDAuthorizationFailed},
	} {
		if sp := tryProduce(t, c, "t", tc.batch, 9); sp.ErrorCode != tc.want.Code || sp.ErrorMessage == nil {
			t.Errorf("%s: error %d (%v), want %v", name, sp.ErrorCode, sp.ErrorMessage, tc.want)
		}
	}
	if sp := tryProduce(t, c, "t", good, 9); sp.ErrorCode != 0 || sp.BaseOffset != 0 {
		t.Errorf("something entered the log: %+v", sp)
	}
}

// B78: records are decompressed where a topic looks into them, and never beyond a limit, whatever the batch claims.
func TestProduce_bombs(t *testing.T) { // alone: others measure the process's memory
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopicWith(t, c, "t", 1, map[string]string{"cleanup.policy": "compact"})
	b := record.NewBuilder(record.NoProducer(record.CodecZstd))
	b.Add(1, []byte("k"), make([]byte, record.OutputMaxDefault), nil) // and a few bytes around it
	bomb := b.Build()
	if len(bomb) > 1<<20 {
		t.Fatalf("a batch of %d bytes", len(bomb))
	}
	if sp := tryProduce(t, c, "t", bomb, 9); sp.ErrorCode != kerr.MessageTooLarge.Code {
		t.Errorf("zstd: error %d", sp.ErrorCode)
	}
	snappy := changed(plainBatch("a"), func(b []byte) { b[22] |= byte(record.CodecSnappy) }) // its records say any length
	if sp := tryProduce(t, c, "t", snappy, 9); sp.ErrorCode != kerr.CorruptMessage.Code {
		t.Errorf("snappy: error %d", sp.ErrorCode)
	}
	if sp := tryProduce(t, c, "t", plainBatch("a"), 9); sp.ErrorCode != 0 || sp.BaseOffset != 0 {
		t.Errorf("something entered the log: %+v", sp)
	}
}

func TestProduce_refusesPartitions(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	id := createTopic(t, c, "t", 1).TopicID
	req := produceRequest("t", 0, plainBatch("a"))
	for _, bad := range []struct {
		topic     string
		partition int32
	}{{"t", 7}, {"none", 0}, {"t", -1}} {
		req.Topics = append(req.Topics, produceRequest(bad.topic, bad.partition, plainBatch("b")).Topics...)
	}
	r := request[*kmsg.ProduceResponse](c, req, 9)
	if sp := r.Topics[0].Partitions[0]; sp.ErrorCode != 0 || sp.BaseOffset != 0 {
		t.Errorf("the good partition: %+v", sp)
	}
	for _, st := range r.Topics[1:] {
		if got := st.Partitions[0].ErrorCode; got != kerr.UnknownTopicOrPartition.Code {
			t.Errorf("%s/%d: error %d", st.Topic, st.Partitions[0].Partition, got)
		}
	}
	req = produceRequest("", 0, plainBatch("a"))
	req.Topics[0].TopicID = [16]byte{1}
	if got := request[*kmsg.ProduceResponse](c, req, 13).Topics[0].Partitions[0].ErrorCode; got != kerr.UnknownTopicID.Code {
		t.Errorf("unknown topic id: %d", got)
	}
	req.Topics[0].TopicID, req.Acks = id, 2
	if got := request[*kmsg.ProduceResponse](c, req, 13).Topics[0].Partitions[0].ErrorCode; got != kerr.InvalidRequiredAcks.Code {
		t.Errorf("acks=2: %d", got)
	}
	find := kmsg.NewPtrFindCoordinatorRequest() // makes the coordinator's topic
	find.CoordinatorKey, find.CoordinatorType = "x", 1
	_ = request[*kmsg.FindCoordinatorResponse](c, find, 3)
	if got := tryProduce(t, c, "__transaction_state", plainBatch("a"), 9).ErrorCode; got != kerr.InvalidTopicException.Code {
		t.Errorf("a client writes to the coordinator's topic: %d", got)
	}
}

func initProducer(txnID string) *kmsg.InitProducerIDRequest {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionTimeoutMillis = 60_000
	if txnID != "" {
		req.TransactionalID = &txnID
	}
	return req
}

// B79: duplicates get the first answer again; gaps and old epochs their own codes; sequences wrap.
func TestProduce_idempotence(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	pid := request[*kmsg.InitProducerIDResponse](c, initProducer(""), 4).ProducerID
	steps := []struct {
		name  string
		batch []byte
		want  *kerr.Error
		base  int64
	}{
		{"first", idempotentBatch(pid, 0, 0, "a", "b"), nil, 0},
		{"second", idempotentBatch(pid, 0, 2, "c"), nil, 2},
		{"first again", idempotentBatch(pid, 0, 0, "a", "b"), nil, 0},
		{"gap", idempotentBatch(pid, 0, 9, "x"), kerr.OutOfOrderSequenceNumber, -1},
		{"third", idempotentBatch(pid, 0, 3, "d"), nil, 3},
		{"new epoch not from 0", idempotentBatch(pid, 1, 4, "x"), kerr.OutOfOrderSequenceNumber, -1},
		{"new epoch", idempotentBatch(pid, 1, 0, "e"), nil, 4},
		{"old epoch", idempotentBatch(pid, 0, 4, "x"), kerr.InvalidProducerEpoch, -1},
		{"unknown producer, any sequence", idempotentBatch(pid+1000, 0, 1<<31-2, "f", "g"), nil, 5},
		{"sequence wraps", idempotentBatch(pid+1000, 0, 0, "h"), nil, 7},
	}
	for _, s := range steps {
		sp := tryProduce(t, c, "t", s.batch, 9)
		var code int16
		if s.want != nil {
			code = s.want.Code
		}
		if sp.ErrorCode != code || s.want == nil && sp.BaseOffset != s.base {
			t.Fatalf("%s: %+v, want %v at %d", s.name, sp, s.want, s.base)
		}
	}
	n.CrashRestart()
	c = dialRaw(t, n)
	if sp := tryProduce(t, c, "t", idempotentBatch(pid, 1, 0, "e"), 9); sp.ErrorCode != 0 || sp.BaseOffset != 4 {
		t.Errorf("duplicate after a power cut: %+v", sp)
	}
}

// acks=0 is not answered; an error closes the connection, so that the client notices.
func TestProduce_withoutAcks(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	req := produceRequest("t", 0, plainBatch("a"))
	req.Acks = 0
	c.send(req, 9)
	if r := request[*kmsg.ListOffsetsResponse](c, listOffset("t", -1), 5); r.Topics[0].Partitions[0].Offset != 1 {
		t.Errorf("after acks=0: end %d", r.Topics[0].Partitions[0].Offset)
	}
	req.Topics[0].Topic = "none"
	c.send(req, 9)
	c.closed()
}

func listOffset(topic string, at int64) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Timestamp = at
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// Message sets of v0 and v1, as old clients send them, become batches of v2.
func TestProduce_oldMessageSets(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	for version := int16(0); version <= 2; version++ {
		set := kmsg.MessageV0{Key: []byte("k"), Value: []byte("v")}
		b := messageSetV0(set)
		sp := tryProduce(t, c, "t", b, version)
		if sp.ErrorCode != 0 || sp.BaseOffset != int64(version) {
			t.Fatalf("v%d: %+v", version, sp)
		}
	}
	for _, r := range collect(t, newClient(t, n, kgo.ConsumeTopics("t")), 3) {
		if string(r.Key) != "k" || string(r.Value) != "v" {
			t.Errorf("%q %q", r.Key, r.Value)
		}
	}
}

// messageSetV0 is a message set of one message of v0.
func messageSetV0(m kmsg.MessageV0) []byte {
	body := []byte{0, 0} // magic, attributes
	body = binary.BigEndian.AppendUint32(body, uint32(len(m.Key)))
	body = append(body, m.Key...)
	body = binary.BigEndian.AppendUint32(body, uint32(len(m.Value)))
	body = append(body, m.Value...)
	b := binary.BigEndian.AppendUint64(nil, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(body))
	return append(b, body...)
}

func TestProduce_logAppendTime(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopicWith(t, c, "t", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	before := time.Now().UnixMilli()
	sp := tryProduce(t, c, "t", plainBatch("a"), 9)
	if sp.ErrorCode != 0 || sp.LogAppendTime < before || sp.LogAppendTime > time.Now().UnixMilli() {
		t.Fatalf("%+v", sp)
	}
	r := collect(t, newClient(t, n, kgo.ConsumeTopics("t")), 1)[0]
	if r.Timestamp.UnixMilli() != sp.LogAppendTime || r.Attrs.TimestampType() != 1 {
		t.Errorf("record has %v, type %d", r.Timestamp, r.Attrs.TimestampType())
	}
}

// KIP-467: the answer names the record that is to blame.
func TestProduce_namesBadRecord(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopicWith(t, c, "t", 1, map[string]string{"cleanup.policy": "compact"})
	for _, codec := range []record.Codec{record.CodecNone, record.CodecZstd} {
		b := record.NewBuilder(record.NoProducer(codec))
		b.Add(1, []byte("k"), []byte("v"), nil)
		b.Add(1, nil, []byte("v"), nil)
		sp := tryProduce(t, c, "t", b.Build(), 9)
		if sp.ErrorCode != kerr.InvalidRecord.Code || len(sp.ErrorRecords) != 1 || sp.ErrorRecords[0].RelativeOffset != 1 {
			t.Errorf("%s: %+v", codec, sp)
		}
	}
}

// A full budget holds back produces alone: commits, fetches and metadata go on; and it is given back.
func TestProduce_budgetGatesNothingElse(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, func(o *broker.Options) { o.MemoryBytes = 1 << 20 })
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	// A produce that takes the whole budget and does not arrive.
	slow := dialRaw(t, n)
	f, _ := slow.frame(produceRequest("t", 0, plainBatch(string(make([]byte, 1<<20)))), 9)
	_, _ = slow.Write(f[:100])
	eventually(t, "the budget is taken", func() bool { return !n.BudgetFree() })
	blocked := dialRaw(t, n)
	blocked.send(produceRequest("t", 0, plainBatch("late")), 9)
	if r := request[*kmsg.FetchResponse](c, fetchRequest("t", 0, 0, 0), 11); r.Topics[0].Partitions[0].HighWatermark != 0 {
		t.Error("a produce overtook the budget")
	}
	_, _ = slow.Write(f[100:])
	for _, conn := range []*rawConn{slow, blocked} {
		_, b := conn.receive()
		if r := decode[*kmsg.ProduceResponse](t, setVersion(produceRequest("", 0, nil), 9), b); r.Topics[0].Partitions[0].ErrorCode != 0 && conn == blocked {
			t.Errorf("%+v", r.Topics[0].Partitions[0])
		}
	}
	eventually(t, "the budget is given back", n.BudgetFree)
	// A client that dies in the middle gives it back too.
	dying := dialRaw(t, n)
	_, _ = dying.Write(f[:100])
	eventually(t, "the budget is taken", func() bool { return !n.BudgetFree() })
	_ = dying.Close()
	eventually(t, "the budget is given back", n.BudgetFree)
}

// read_committed readers see all of a transaction or nothing, over restarts; OldestOpenTransaction says who holds them up.
func TestTransactions_readCommitted(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	createTopic(t, dialRaw(t, n), "t", 4)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cl := newClient(t, n, kgo.TransactionalID("x"), kgo.DefaultProduceTopic("t"))
	begin := func(v string, records int) {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for range records {
			if err := cl.ProduceSync(ctx, kgo.StringRecord(v)).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	end := func(how kgo.TransactionEndTry) {
		t.Helper()
		if err := cl.EndTransaction(ctx, how); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]int{}
	for i := range 12 {
		v := string(rune('a' + i))
		begin(v, 5)
		if o, ok := n.OldestOpenTransaction(); !ok || o.Topic != "t" || o.Age < 0 {
			t.Errorf("open transaction not seen: %+v %v", o, ok)
		}
		switch i % 3 {
		case 0:
			end(kgo.TryCommit)
			want[v] = 5
		case 1:
			end(kgo.TryAbort)
		default:
			n.CrashRestart()
			end(kgo.TryCommit)
			want[v] = 5
		}
	}
	if o, ok := n.OldestOpenTransaction(); ok {
		t.Errorf("still open: %+v", o)
	}
	got := map[string]int{}
	for _, r := range collect(t, newClient(t, n, kgo.ConsumeTopics("t"), kgo.FetchIsolationLevel(kgo.ReadCommitted())), 40) {
		got[string(r.Value)]++
	}
	for v, k := range want {
		if got[v] != k {
			t.Errorf("%s: %d records, want %d", v, got[v], k)
		}
	}
	if len(got) != len(want) {
		t.Errorf("aborted records were read: %v", got)
	}
}
