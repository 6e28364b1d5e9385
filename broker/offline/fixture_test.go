package offline_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/offline"
	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/vfs"
)

const dataDir = "data"

// node starts a broker whose segments are small.
func node(t testing.TB, opts ...brokertest.Option) *brokertest.Node {
	t.Helper()
	return brokertest.New(t, append([]brokertest.Option{func(o *broker.Options) {
		o.SegmentBytes, o.CheckpointEvery = 16<<10, time.Hour // only when a test asks
	}}, opts...)...)
}

func client(t testing.TB, n *brokertest.Node, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(n.TCPAddr()), kgo.ProducerLinger(0), kgo.MetadataMinAge(20 * time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MaxVersions(kversion.V3_0_0()), // requests made by hand name topics
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// seeded returns bytes that do not repeat themselves.
func seeded(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// fill makes topic "plain" of two partitions, with some segments each.
func fill(t testing.TB, n *brokertest.Node) {
	t.Helper()
	ctx, cl := t.Context(), client(t, n)
	if _, err := kadm.NewClient(cl).CreateTopics(ctx, 2, 1, nil, "plain"); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		r := &kgo.Record{Topic: "plain", Partition: int32(i % 2), Key: fmt.Appendf(nil, "k%d", i%7), Value: seeded(rnd, 1500)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// file returns the nth file with an extension in a partition's directory.
func file(t testing.TB, mem *vfs.Mem, partition int, ext string, nth int) string {
	t.Helper()
	dirs, err := mem.List(path.Join(dataDir, "partitions"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !strings.Contains(d.Name, fmt.Sprintf("-%d-", partition)) {
			continue
		}
		files, err := mem.List(path.Join(dataDir, "partitions", d.Name))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f.Name, ext) {
				if nth == 0 {
					return path.Join(dataDir, "partitions", d.Name, f.Name)
				}
				nth--
			}
		}
	}
	t.Fatalf("partition %d has too few %s", partition, ext)
	return ""
}

func flip(t testing.TB, mem *vfs.Mem, name string, at int64, bit byte) {
	t.Helper()
	f, err := mem.OpenRW(name)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatalf("%s at %d: %v", name, at, err)
	}
	b[0] ^= bit
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

func size(t testing.TB, mem *vfs.Mem, name string) int64 {
	t.Helper()
	info, err := mem.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size
}

func truncate(t testing.TB, mem *vfs.Mem, name string, to int64) {
	t.Helper()
	f, err := mem.OpenRW(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(to); err != nil {
		t.Fatal(err)
	}
}

func verify(t testing.TB, mem *vfs.Mem) *offline.Report {
	t.Helper()
	r, err := offline.Verify(context.WithoutCancel(t.Context()), offline.Options{FS: mem, Dir: dataDir})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// snapshot is every file below a directory with its content.
func snapshot(t testing.TB, mem *vfs.Mem, dir string) string {
	t.Helper()
	infos, err := mem.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s strings.Builder
	for _, i := range infos {
		name := path.Join(dir, i.Name)
		if i.Dir {
			s.WriteString(snapshot(t, mem, name))
			continue
		}
		if i.Name != "lock" {
			fmt.Fprintf(&s, "%s %d %x\n", name, i.Size, sha256.Sum256(content(t, mem, name)))
		}
	}
	return s.String()
}

func content(t testing.TB, mem *vfs.Mem, name string) []byte {
	t.Helper()
	f, err := mem.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if n > 0 {
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func oneRecord() []byte {
	b := record.NewBuilder(record.NoProducer(record.CodecNone))
	b.Add(1, []byte("k"), []byte("v"), nil)
	return b.Build()
}

// lastOffset returns the last offset of fetched batches, having checked each; -1 for none.
func lastOffset(t testing.TB, bytes []byte) int64 {
	t.Helper()
	last := int64(-1)
	for b, err := range record.Split(bytes) {
		if err == nil {
			err = record.CheckCRC(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		last = b.LastOffset()
	}
	return last
}
