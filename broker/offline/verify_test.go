package offline_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/offline"
	"github.com/outrelay/outrelay/internal/vfs"
)

// TestVerify_clean: a log as it is after an orderly stop, and after a power cut.
func TestVerify_clean(t *testing.T) {
	t.Parallel()
	n := node(t)
	fill(t, n)
	n.RestartAfter(func(mem *vfs.Mem) {
		before := snapshot(t, mem, dataDir)
		r := verify(t, mem)
		if !r.Clean || len(r.Damages) != 0 || r.Records != 60 || r.Partitions != 2 || r.Topics != 1 || r.ClusterID == "" || r.WALRecords == 0 || r.Bytes < 60*1500 {
			t.Fatalf("%+v", r)
		}
		if snapshot(t, mem, dataDir) != before {
			t.Fatal("verify has changed something")
		}
	})
	fill2 := client(t, n)
	if err := fill2.ProduceSync(t.Context(), &kgo.Record{Topic: "plain", Value: []byte("not in a checkpoint")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	n.CrashRestart()
	if _, err := offline.Verify(t.Context(), offline.Options{FS: n.FS(), Dir: dataDir}); !errors.Is(err, outrelay.ErrEnvironment) {
		t.Fatalf("a log that runs: %v", err)
	}
	if _, err := offline.Verify(t.Context(), offline.Options{FS: vfs.NewMem(), Dir: dataDir}); !errors.Is(err, outrelay.ErrEnvironment) {
		t.Fatalf("no log: %v", err)
	}
	mem := n.FS()
	n.RestartAfter(func(*vfs.Mem) {
		if r := verify(t, mem); !r.Clean || r.Records != 61 {
			t.Fatalf("%+v", r)
		}
	})
}

func TestVerify_endsWithItsContext(t *testing.T) {
	t.Parallel()
	n := node(t)
	fill(t, n)
	n.RestartAfter(func(mem *vfs.Mem) {
		ctx, cancel := context.WithCancel(t.Context())
		seen := int64(0)
		_, err := offline.Verify(ctx, offline.Options{FS: mem, Dir: dataDir, Progress: func(done, total int64) {
			if seen = done; done > total/2 {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) || seen == 0 {
			t.Fatal(seen, err)
		}
	})
}

// damage is what can happen to one partition of the log that fill makes.
type damage struct {
	name   string
	damage func(t *testing.T, mem *vfs.Mem) string // returns the file
	text   string
	read   bool // found only by reading
}

func damages() []damage {
	return []damage{
		{"flipped bit in a sealed segment", func(t *testing.T, mem *vfs.Mem) string {
			f := file(t, mem, 1, ".log", 0)
			flip(t, mem, f, 5000, 1)
			return f
		}, "CRC32C", true},
		{"flipped base offset", func(t *testing.T, mem *vfs.Mem) string {
			f := file(t, mem, 1, ".log", 0)
			flip(t, mem, f, 7, 0x40)
			return f
		}, "offsets", true},
		{"flipped leader epoch", func(t *testing.T, mem *vfs.Mem) string {
			f := file(t, mem, 1, ".log", 0)
			flip(t, mem, f, 15, 4)
			return f
		}, "leader epoch", true},
		{"flipped bit in the active segment", func(t *testing.T, mem *vfs.Mem) string {
			f := file(t, mem, 1, ".log", 2)
			flip(t, mem, f, size(t, mem, f)-10, 1)
			return f
		}, "CRC32C", false},
		{"active segment cut", func(t *testing.T, mem *vfs.Mem) string {
			f := file(t, mem, 1, ".log", 2)
			truncate(t, mem, f, size(t, mem, f)-1)
			return f
		}, "are incomplete", false},
		{"sealed segment cut", func(t *testing.T, mem *vfs.Mem) string {
			f := file(t, mem, 1, ".log", 1)
			truncate(t, mem, f, 1569)
			return f
		}, "its index was sealed at", false},
		{"segment gone in the middle", func(t *testing.T, mem *vfs.Mem) string {
			gone := file(t, mem, 1, ".log", 1)
			if err := mem.Remove(gone); err != nil {
				t.Fatal(err)
			}
			return file(t, mem, 1, ".log", 0)
		}, "offsets are missing", false},
		{"first segment gone", func(t *testing.T, mem *vfs.Mem) string {
			f := file(t, mem, 1, ".log", 0)
			if err := mem.Remove(f); err != nil {
				t.Fatal(err)
			}
			return f
		}, "offsets are missing", false},
	}
}

// TestDamage_onePartition: verify names the place, the broker refuses the partition with the same text, and serves the other one.
func TestDamage_onePartition(t *testing.T) {
	t.Parallel()
	for _, tc := range damages() {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := node(t)
			fill(t, n)
			var place string
			n.RestartAfter(func(mem *vfs.Mem) {
				place = tc.damage(t, mem)
				r := verify(t, mem)
				if r.Clean || r.Damages[0].File != place || r.Damages[0].Topic != "plain" || *r.Damages[0].Partition != 1 || !strings.Contains(r.Damages[0].Text, tc.text) {
					t.Fatalf("%s: %+v", place, r.Damages)
				}
				place = r.Damages[0].Text
			})
			if tc.read {
				if got := readToEnd(t, n, 1); got != kerr.KafkaStorageError {
					t.Fatalf("read of the damaged partition: %v", got)
				}
			}
			ds := n.Damaged()
			if len(ds) != 1 || ds[0].Topic != "plain" || ds[0].Partition != 1 || ds[0].Damage != place {
				t.Fatalf("the broker says %+v\nverify said %s", ds, place)
			}
			if code, text := produceTo(t, n, 1); code != kerr.KafkaStorageError.Code || text != place {
				t.Fatalf("produce: %d %s", code, text)
			}
			if got := readToEnd(t, n, 0); got != nil {
				t.Fatalf("read of the other partition: %v", got)
			}
			if code, text := produceTo(t, n, 0); code != 0 {
				t.Fatalf("produce to the other: %d %s", code, text)
			}
		})
	}
}

// readToEnd fetches a partition from its start to its end; nil when all of it could be read.
func readToEnd(t testing.TB, n *brokertest.Node, partition int32) error {
	t.Helper()
	cl := client(t, n)
	lo := kmsg.NewPtrListOffsetsRequest()
	lo.ReplicaID = -1
	lt := kmsg.NewListOffsetsRequestTopic()
	lt.Topic = "plain"
	lp := kmsg.NewListOffsetsRequestTopicPartition()
	lp.Partition, lp.Timestamp, lp.CurrentLeaderEpoch = partition, -1, -1
	lt.Partitions = append(lt.Partitions, lp)
	lo.Topics = append(lo.Topics, lt)
	lr, err := lo.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	if code := lr.Topics[0].Partitions[0].ErrorCode; code != 0 {
		return kerr.ErrorForCode(code)
	}
	end := lr.Topics[0].Partitions[0].Offset
	for next := int64(0); next < end; {
		p := fetchFrom(t, cl, partition, next)
		if p.ErrorCode != 0 {
			return kerr.ErrorForCode(p.ErrorCode)
		}
		got := lastOffset(t, p.RecordBatches)
		if got < next {
			t.Fatalf("nothing at offset %d of %d", next, end)
		}
		next = got + 1
	}
	return nil
}

func fetchFrom(t testing.TB, cl *kgo.Client, partition int32, offset int64) kmsg.FetchResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MinBytes, req.MaxBytes, req.SessionEpoch = -1, 1, 3000, -1
	ft := kmsg.NewFetchRequestTopic()
	ft.Topic = "plain"
	fp := kmsg.NewFetchRequestTopicPartition()
	fp.Partition, fp.FetchOffset, fp.PartitionMaxBytes, fp.CurrentLeaderEpoch, fp.LastFetchedEpoch = partition, offset, 3000, -1, -1
	ft.Partitions = append(ft.Partitions, fp)
	req.Topics = append(req.Topics, ft)
	r, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	return r.Topics[0].Partitions[0]
}

func produceTo(t testing.TB, n *brokertest.Node, partition int32) (code int16, text string) {
	t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = "plain"
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, oneRecord()
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	r, err := req.RequestWith(t.Context(), client(t, n))
	if err != nil {
		t.Fatal(err)
	}
	p := r.Topics[0].Partitions[0]
	if p.ErrorMessage != nil {
		text = *p.ErrorMessage
	}
	return p.ErrorCode, text
}
