package broker_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/record"
)

func produce(t testing.TB, c *rawConn, topic string, partition int32, batch []byte) int64 {
	t.Helper()
	r := request[*kmsg.ProduceResponse](c, produceRequest(topic, partition, batch), 11)
	sp := r.Topics[0].Partitions[0]
	if sp.ErrorCode != 0 {
		t.Fatalf("produce: %v", kerr.ErrorForCode(sp.ErrorCode))
	}
	return sp.BaseOffset
}

func batches(t testing.TB, b []byte) (bs []record.Batch) {
	t.Helper()
	for batch, err := range record.Split(b) {
		if err != nil {
			t.Fatal(err)
		}
		bs = append(bs, batch)
	}
	return bs
}

// Every version answers in its own form, with the bytes that were produced apart from the stamp.
func TestFetch_allVersions(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	id := createTopic(t, c, "t", 1).TopicID
	in := plainBatch("a", "b", "c")
	produce(t, c, "t", 0, in)
	for version := int16(4); version <= 17; version++ {
		req := fetchRequest("t", 0, 1, 1000)
		req.Topics[0].TopicID = id
		r := request[*kmsg.FetchResponse](c, req, version)
		if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
			t.Fatalf("v%d: %+v", version, r)
		}
		sp := r.Topics[0].Partitions[0]
		if sp.ErrorCode != 0 || sp.HighWatermark != 3 || sp.LastStableOffset != 3 || !bytes.Equal(sp.RecordBatches[16:], in[16:]) {
			t.Errorf("v%d: %+v", version, sp)
		}
	}
}

func TestFetch_refuses(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	id := createTopic(t, c, "t", 1).TopicID
	produce(t, c, "t", 0, plainBatch("a"))
	for name, tc := range map[string]struct {
		version int16
		change  func(*kmsg.FetchRequest, *kmsg.FetchRequestTopicPartition)
		want    *kerr.Error
	}{
		"B80 above the end":    {11, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 2 }, kerr.OffsetOutOfRange},
		"B80 offset -3":        {11, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = -3 }, kerr.OffsetOutOfRange},
		"B81 replica":          {11, func(r *kmsg.FetchRequest, _ *kmsg.FetchRequestTopicPartition) { r.ReplicaID = 2 }, kerr.ClusterAuthorizationFailed},
		"B81 replica v15":      {15, func(r *kmsg.FetchRequest, _ *kmsg.FetchRequestTopicPartition) { r.ReplicaState.ID = 2 }, kerr.ClusterAuthorizationFailed},
		"unknown topic":        {11, func(r *kmsg.FetchRequest, _ *kmsg.FetchRequestTopicPartition) { r.Topics[0].Topic = "no" }, kerr.UnknownTopicOrPartition},
		"unknown topic id":     {13, func(r *kmsg.FetchRequest, _ *kmsg.FetchRequestTopicPartition) { r.Topics[0].TopicID[0]++ }, kerr.UnknownTopicID},
		"unknown partition":    {11, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.Partition = 9 }, kerr.UnknownTopicOrPartition},
		"old leader epoch":     {11, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = 0 }, kerr.FencedLeaderEpoch},
		"unknown leader epoch": {11, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = 99 }, kerr.UnknownLeaderEpoch},
	} {
		req := fetchRequest("t", 0, 0, 5000)
		req.Topics[0].TopicID = id
		tc.change(req, &req.Topics[0].Partitions[0])
		start := time.Now()
		r := request[*kmsg.FetchResponse](c, req, tc.version)
		if got := r.Topics[0].Partitions[0].ErrorCode; got != tc.want.Code {
			t.Errorf("%s: error %d, want %v", name, got, tc.want)
		}
		if time.Since(start) > 3*time.Second {
			t.Errorf("%s: an error waited for data", name)
		}
	}
}

// KIP-74: the first batch comes whatever its size; limits hold for the rest. B80: limits that make no sense hurt nobody.
func TestFetch_limits(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 2)
	for p := range int32(2) {
		for range 5 {
			produce(t, c, "t", p, plainBatch(string(make([]byte, 1000))))
		}
	}
	for name, tc := range map[string]struct{ maxBytes, partitionMax, want int32 }{
		"1 byte":             {1, 1, 1},
		"0":                  {0, 0, 1},
		"negative":           {-1, -1, 1},
		"2^31-1":             {1<<31 - 1, 1<<31 - 1, 10},
		"two of each":        {1 << 20, 2300, 4},
		"three in all":       {3400, 1 << 20, 3},
		"no whole second":    {1 << 20, 2000, 2},
		"first alone is big": {500, 1 << 20, 1},
	} {
		req := fetchRequest("t", 0, 0, 100)
		other := req.Topics[0].Partitions[0]
		other.Partition = 1
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, other)
		req.MaxBytes = tc.maxBytes
		for i := range req.Topics[0].Partitions {
			req.Topics[0].Partitions[i].PartitionMaxBytes = tc.partitionMax
		}
		r := request[*kmsg.FetchResponse](c, req, 11)
		got := 0
		for _, sp := range r.Topics[0].Partitions {
			if sp.ErrorCode != 0 {
				t.Errorf("%s: error %d", name, sp.ErrorCode)
			}
			got += len(batches(t, sp.RecordBatches))
		}
		if got != int(tc.want) {
			t.Errorf("%s: %d batches, want %d", name, got, tc.want)
		}
	}
}

func TestFetch_waits(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c, producer := dialRaw(t, n), dialRaw(t, n)
	createTopic(t, c, "t", 3)
	all := func(minBytes, waitMs int32) *kmsg.FetchRequest {
		req := fetchRequest("t", 0, 0, waitMs)
		req.MinBytes = minBytes
		for p := int32(1); p < 3; p++ {
			o := req.Topics[0].Partitions[0]
			o.Partition = p
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, o)
		}
		return req
	}
	start := time.Now()
	r := request[*kmsg.FetchResponse](c, all(1, 200), 11)
	if d := time.Since(start); d < 150*time.Millisecond || len(r.Topics[0].Partitions) != 3 {
		t.Errorf("no data: answered after %v, %d partitions", d, len(r.Topics[0].Partitions))
	}
	c.send(all(1, 20_000), 11)
	produce(t, producer, "t", 2, plainBatch("v"))
	_, b := c.receive()
	r = decode[*kmsg.FetchResponse](t, setVersion(all(1, 0), 11), b)
	if sp := r.Topics[0].Partitions[2]; len(sp.RecordBatches) == 0 {
		t.Error("woken without the data")
	}
	c.send(all(400, 20_000), 11) // what is there is not enough
	produce(t, producer, "t", 0, plainBatch(string(make([]byte, 300))))
	_, b = c.receive()
	r = decode[*kmsg.FetchResponse](t, setVersion(all(1, 0), 11), b)
	if len(r.Topics[0].Partitions[0].RecordBatches)+len(r.Topics[0].Partitions[2].RecordBatches) < 400 {
		t.Error("answered below min_bytes")
	}
	eventually(t, "no bytes are counted as being sent", func() bool { return n.FetchHeld() == 0 })
}

func setVersion[R kmsg.Request](r R, v int16) R {
	r.SetVersion(v)
	return r
}

// A client that goes away ends its wait; so does closing the server.
func TestFetch_waitEndsWithConnection(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	c.send(fetchRequest("t", 0, 0, 1<<30), 11)
	_ = c.Close()
	eventually(t, "the connection's goroutines end", func() bool { return n.Connections() == 0 })
	dialRaw(t, n).send(fetchRequest("t", 0, 0, 1<<30), 11)
	start := time.Now()
	n.Restart()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("closing took %v", d)
	}
}

// KIP-227: the first fetch makes a session, later ones name only what changed and are told only what is new.
func TestFetch_sessions(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 4)
	full := fetchRequest("t", 0, 0, 10)
	for p := int32(1); p < 4; p++ {
		o := full.Topics[0].Partitions[0]
		o.Partition = p
		full.Topics[0].Partitions = append(full.Topics[0].Partitions, o)
	}
	full.SessionEpoch = 0
	r := request[*kmsg.FetchResponse](c, full, 11)
	if r.SessionID == 0 || len(r.Topics[0].Partitions) != 4 {
		t.Fatalf("no session: %+v", r)
	}
	id := r.SessionID
	incremental := func(epoch int32) *kmsg.FetchRequest {
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionID, req.SessionEpoch = 10, 1, 1<<20, id, epoch
		return req
	}
	if r = request[*kmsg.FetchResponse](c, incremental(1), 11); r.ErrorCode != 0 || len(r.Topics) != 0 {
		t.Fatalf("nothing is new: %+v", r)
	}
	produce(t, c, "t", 2, plainBatch("v"))
	if r = request[*kmsg.FetchResponse](c, incremental(2), 11); len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || r.Topics[0].Partitions[0].Partition != 2 {
		t.Fatalf("partition 2 has data: %+v", r)
	}
	next := incremental(3)
	next.Topics = fetchRequest("t", 2, 1, 0).Topics
	if r = request[*kmsg.FetchResponse](c, next, 11); r.ErrorCode != 0 || len(r.Topics) != 0 {
		t.Fatalf("partition 2 was read to its end: %+v", r)
	}
	forget := incremental(4)
	ft := kmsg.NewFetchRequestForgottenTopic()
	ft.Topic, ft.Partitions = "t", []int32{3}
	forget.ForgottenTopics = append(forget.ForgottenTopics, ft)
	produce(t, c, "t", 3, plainBatch("v"))
	if r = request[*kmsg.FetchResponse](c, forget, 11); len(r.Topics) != 0 {
		t.Fatalf("partition 3 was forgotten: %+v", r)
	}
	if r = request[*kmsg.FetchResponse](c, incremental(4), 11); r.ErrorCode != kerr.InvalidFetchSessionEpoch.Code {
		t.Errorf("epoch 4 again: %d", r.ErrorCode)
	}
	last := incremental(-1)
	if r = request[*kmsg.FetchResponse](c, last, 11); r.ErrorCode != 0 || r.SessionID != 0 {
		t.Errorf("final fetch: %+v", r)
	}
	if r = request[*kmsg.FetchResponse](c, incremental(5), 11); r.ErrorCode != kerr.FetchSessionIDNotFound.Code {
		t.Errorf("session that was closed: %d", r.ErrorCode)
	}
}

// In a session, a partition that gave data goes behind the others: none starves.
func TestFetch_sessionRotates(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 3)
	req := fetchRequest("t", 0, 0, 10)
	for p := range int32(3) {
		for range 9 {
			produce(t, c, "t", p, plainBatch(string(make([]byte, 500))))
		}
		if p > 0 {
			o := req.Topics[0].Partitions[0]
			o.Partition = p
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, o)
		}
	}
	req.MaxBytes, req.SessionEpoch = 1, 0 // one batch at a time
	var order []int32
	for range 6 {
		r := request[*kmsg.FetchResponse](c, req, 11)
		for _, sp := range r.Topics[0].Partitions {
			if len(sp.RecordBatches) > 0 {
				order = append(order, sp.Partition)
			}
		}
		next := kmsg.NewPtrFetchRequest()
		next.MaxWaitMillis, next.MinBytes, next.MaxBytes, next.SessionID, next.SessionEpoch = 10, 1, 1, r.SessionID, req.SessionEpoch+1
		req = next
	}
	if want := []int32{0, 1, 2, 0, 1, 2}; !slices.Equal(order, want) {
		t.Errorf("read in the order %v, want %v", order, want)
	}
}

// A slow reader's answers are counted; beyond the limit answers get smaller, and nobody waits for it.
func TestFetch_slowReadersGetLess(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, func(o *broker.Options) { o.MemoryBytes = 16 << 20 })
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	for range 20 {
		produce(t, c, "t", 0, plainBatch(string(make([]byte, 1_000_000))))
	}
	big := fetchRequest("t", 0, 0, 0)
	big.MaxBytes, big.Topics[0].Partitions[0].PartitionMaxBytes = 50<<20, 50<<20
	for range 8 {
		dialRaw(t, n).send(big, 11) // and read nothing
	}
	eventually(t, "answers are held", func() bool { return n.FetchHeld() >= 16<<20 })
	r := request[*kmsg.FetchResponse](c, big, 11)
	if got := len(r.Topics[0].Partitions[0].RecordBatches); got == 0 || got > 2<<20 {
		t.Errorf("%d bytes with memory short", got)
	}
}

// What has been read from the disk before is sent from the file: the same bytes, and no memory for them.
func TestFetch_sendsFromTheFile(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]brokertest.Option{"disk": {brokertest.OnDisk(t)}, "memory": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := brokertest.New(t, opts...)
			c := dialRaw(t, n)
			createTopic(t, c, "t", 1)
			var in [][]byte
			for i := range 30 { // beyond what is kept in memory
				in = append(in, plainBatch(string(bytes.Repeat([]byte{byte(i)}, 50_000+i))))
				produce(t, c, "t", 0, in[i])
			}
			first := fetchAll(t, c, "t", 30)
			if n.FetchedFromFiles() != 0 {
				t.Error("what nobody has checked was sent from the file")
			}
			for i, b := range batches(t, first) {
				if !bytes.Equal(b[record.PrefixBytes:], in[i][record.PrefixBytes:]) {
					t.Errorf("batch %d is another than was produced", i)
				}
			}
			if !bytes.Equal(fetchAll(t, c, "t", 30), first) {
				t.Error("other bytes from the file")
			}
			if sent := n.FetchedFromFiles(); sent < len(first)/2 {
				t.Errorf("%d bytes of %d were sent from the file", sent, len(first))
			}
			eventually(t, "no bytes are counted as being sent", func() bool { return n.FetchHeld() == 0 })
		})
	}
}

// fetchAll reads a partition up to an offset, in several answers.
func fetchAll(t *testing.T, c *rawConn, topic string, to int64) (all []byte) {
	t.Helper()
	for next := int64(0); next < to; {
		req := fetchRequest(topic, 0, next, 0)
		req.MaxBytes, req.Topics[0].Partitions[0].PartitionMaxBytes = 400_000, 400_000
		r := request[*kmsg.FetchResponse](c, req, 11)
		sp := r.Topics[0].Partitions[0]
		if sp.ErrorCode != 0 || len(sp.RecordBatches) == 0 {
			t.Fatalf("fetch at %d: %+v", next, sp)
		}
		for _, b := range batches(t, sp.RecordBatches) {
			next = b.LastOffset() + 1
		}
		all = append(all, sp.RecordBatches...)
	}
	return all
}
