package broker_test

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/internal/vfs"
)

const mib = 1 << 20

// fillDisk produces until it is refused, and returns how many batches went in.
func fillDisk(t *testing.T, c *rawConn, value string) (batches int) {
	t.Helper()
	for ; ; batches++ {
		p := request[*kmsg.ProduceResponse](c, produceRequest("t", 0, plainBatch(value)), 9).Topics[0].Partitions[0]
		if p.ErrorCode == 0 {
			if batches > 1000 {
				t.Fatal("a full disk refuses nothing")
			}
			continue
		}
		if p.ErrorCode != kerr.KafkaStorageError.Code || p.ErrorMessage == nil || !bytes.Contains([]byte(*p.ErrorMessage), []byte("kept in reserve")) {
			t.Fatalf("batch %d: %+v", batches, p)
		}
		return batches
	}
}

func commitOffset(t *testing.T, c *rawConn) int16 {
	t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = "g", -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = "t"
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Offset = 1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return request[*kmsg.OffsetCommitResponse](c, req, 7).Topics[0].Partitions[0].ErrorCode
}

// TestDiskFull: producers are refused before the disk is full; readers, group offsets and a restart go on; more room is used at once (C51, B104).
func TestDiskFull(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	mem.Limit(40 * mib)
	n := brokertest.New(t, func(o *broker.Options) { o.FS = mem })
	reserve := func() bool { _, err := mem.Stat("data/reserve"); return err == nil }
	eventually(t, "the reserve file is made", reserve)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	fc := kmsg.NewPtrFindCoordinatorRequest()
	fc.CoordinatorKey = "g"
	request[*kmsg.FindCoordinatorResponse](c, fc, 3)
	eventually(t, "a coordinator for the group", func() bool { return commitOffset(t, c) == 0 })
	big := string(bytes.Repeat([]byte("x"), mib/2))
	in := fillDisk(t, c, big)
	if free, total, _ := mem.Space("data"); in < 5 || free < total/16 || n.DiskFull() == "" {
		t.Fatalf("%d batches, %d of %d bytes free, %q", in, free, total, n.DiskFull())
	}
	f := request[*kmsg.FetchResponse](c, fetchRequest("t", 0, int64(in)-1, 0), 11).Topics[0].Partitions[0]
	if f.ErrorCode != 0 || len(f.RecordBatches) < mib/2 {
		t.Fatalf("fetch: error %d, %d bytes", f.ErrorCode, len(f.RecordBatches))
	}
	if code := commitOffset(t, c); code != 0 {
		t.Fatalf("commit: error %d", code)
	}
	// Somebody else takes the rest.
	free, _, _ := mem.Space("data")
	other, err := mem.Create("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Allocate(free - mib/4); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reserve is given up", func() bool { return !reserve() })
	if code := commitOffset(t, c); code != 0 {
		t.Fatalf("commit on a disk that others have filled: error %d", code)
	}
	c.Close()
	n.Restart()
	c = dialRaw(t, n)
	fillDisk(t, c, big) // refused at once, or nearly
	if err := mem.Remove("other"); err != nil {
		t.Fatal(err)
	}
	mem.Limit(200 * mib)
	p := request[*kmsg.ProduceResponse](c, produceRequest("t", 0, plainBatch(big)), 9).Topics[0].Partitions[0]
	if p.ErrorCode != 0 || n.DiskFull() != "" {
		t.Fatalf("with room again: %+v %q", p, n.DiskFull())
	}
	eventually(t, "the reserve file is made again", reserve)
}
