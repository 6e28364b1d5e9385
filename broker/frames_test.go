package broker_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
)

func sized(n uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, n), rest...)
}

// B68, B71–B74, B85: what is no request closes the connection, and no other. Each is counted by why.
func TestFrames_badOnesClose(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	metadata := []byte{0, 3, 0, 1, 0, 0, 0, 1, 0, 0}
	want := map[string]float64{}
	for _, c := range []struct {
		name string
		b    []byte
		why  string
	}{
		{"B68 size -1", sized(0xffffffff), "frame size"},
		{"B68 size 0", sized(0), "frame size"},
		{"B68 size below a header", sized(7), "frame size"},
		{"B68 size 2^31-1", sized(0x7fffffff), "frame size"},
		{"B68 size above the cap of its key", sized(50<<20, metadata...), "frame too large"},
		{"B70 unknown key", sized(10, 0x03, 0xe7, 0, 0, 0, 0, 0, 1, 0, 0), "unknown api"},
		{"B70 key not served", sized(10, 0, 4, 0, 0, 0, 0, 0, 1, 0, 0), "unknown api"},
		{"B70 version not served", sized(10, 0, 3, 0, 99, 0, 0, 0, 1, 0, 0), "unsupported version"},
		{"B71 array of 2^31-1", sized(14, append(slices.Clone(metadata), 0x7f, 0xff, 0xff, 0xff)...), "malformed"},
		{"B72 client id beyond the frame", sized(10, 0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff), "malformed"},
		{"B74 trailing bytes", sized(15, append(slices.Clone(metadata), 0, 0, 0, 0, 9)...), "malformed"},
		{"B85 HTTP", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "http"},
		{"B85 TLS", []byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, "tls"},
	} {
		want[c.why]++
		t.Run(c.name, func(t *testing.T) {
			conn := dialRaw(t, n)
			if _, err := conn.Write(c.b); err != nil {
				t.Fatal(err)
			}
			conn.closed()
			alive(t, n)
			eventually(t, "it is counted", func() bool { return n.Refused(c.why) == want[c.why] })
		})
	}
}

// B69: a frame that was begun must arrive in time; a connection that asks nothing is closed later.
func TestFrames_slowOnesClose(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, func(o *broker.Options) { o.FrameTimeout, o.IdleTimeout = 100*time.Millisecond, 300*time.Millisecond })
	t.Run("B69 begun", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, n)
		_, _ = c.Write(sized(100, 0, 3))
		c.closed()
	})
	t.Run("B69 body", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, n)
		_, _ = c.Write(sized(100, 0, 3, 0, 1, 0, 0, 0, 1, 0, 0))
		c.closed()
	})
	t.Run("B69 byte by byte", func(t *testing.T) {
		t.Parallel()
		c := dialRaw(t, n)
		f, _ := c.frame(produceRequest("t", 0, plainBatch(string(make([]byte, 10_000)))), 9)
		go func() { // each byte comes soon after the one before, and all of them too late
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for i := range f {
				if _, err := c.Write(f[i : i+1]); err != nil {
					return // closed
				}
				<-tick.C
			}
		}()
		c.closed()
	})
	t.Run("B84 idle", func(t *testing.T) {
		t.Parallel()
		dialRaw(t, n).closed()
	})
}

// B70: ApiVersions answers a version from the future with version 0 and its own range.
func TestApiVersions_fallsBack(t *testing.T) {
	t.Parallel()
	c := dialRaw(t, brokertest.New(t))
	if _, err := c.Write(sized(10, 0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff)); err != nil {
		t.Fatal(err)
	}
	corr, b := c.receive()
	var r kmsg.ApiVersionsResponse
	if err := r.ReadFrom(b); err != nil || corr != 7 {
		t.Fatalf("answer %d: %v", corr, err)
	}
	if r.ErrorCode != kerr.UnsupportedVersion.Code || len(r.ApiKeys) != 1 || r.ApiKeys[0].ApiKey != 18 || r.ApiKeys[0].MaxVersion != 4 {
		t.Errorf("%+v", r)
	}
	// The connection goes on.
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "test", "1.0"
	r3 := request[*kmsg.ApiVersionsResponse](c, req, 3)
	if r3.ErrorCode != 0 {
		t.Fatalf("error %d", r3.ErrorCode)
	}
	for _, k := range r3.ApiKeys {
		if k.ApiKey == 0 && (k.MinVersion != 0 || k.MaxVersion < 12) {
			t.Errorf("Produce %d-%d: librdkafka needs 0, KIP-890 needs 12", k.MinVersion, k.MaxVersion)
		}
	}
	levels := map[string]int16{}
	for _, f := range r3.FinalizedFeatures {
		levels[f.Name] = f.MaxVersionLevel
	}
	if !maps.Equal(levels, map[string]int16{"group.version": 1, "transaction.version": 2}) {
		t.Errorf("finalized features %+v", r3.FinalizedFeatures)
	}
	req.ClientSoftwareName = "bad name!"
	if r := request[*kmsg.ApiVersionsResponse](c, req, 3); r.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("KIP-511: software name accepted: %d", r.ErrorCode)
	}
}

// Requests may be pipelined; answers come in their order, whatever takes how long.
func TestConn_answersInOrder(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	var want []int32
	var kinds []kmsg.Request
	for i := range 200 {
		var req kmsg.Request
		var version int16
		switch i % 3 {
		case 0:
			req, version = produceRequest("t", 0, plainBatch("v")), 9
		case 1:
			req, version = fetchRequest("t", 0, 1<<40, 30), 11 // out of range, at once; below a long poll
			if i%2 == 0 {
				req = fetchRequest("t", 0, 0, 30)
			}
		default:
			req, version = kmsg.NewPtrMetadataRequest(), 7
		}
		want = append(want, c.send(req, version))
		kinds = append(kinds, req)
	}
	for i, corr := range want {
		got, b := c.receive()
		if got != corr {
			t.Fatalf("answer %d in place of %d", got, corr)
		}
		if p, ok := kinds[i].(*kmsg.ProduceRequest); ok {
			r := decode[*kmsg.ProduceResponse](t, p, b)
			if sp := r.Topics[0].Partitions[0]; sp.ErrorCode != 0 || sp.BaseOffset != int64(i/3) {
				t.Fatalf("produce %d: %+v", i, sp)
			}
		}
	}
}

// B86: who pipelines and does not read is held back by the socket, in bounded memory, and gets every answer in the end.
func TestConn_pipelinesWithoutEnd(t *testing.T) { // alone: it measures the process's memory
	n := brokertest.New(t)
	c := dialRaw(t, n)
	const requests = 100_000
	before := memoryInUse()
	var written atomic.Int64
	go func() {
		var b []byte
		for range requests {
			f, _ := c.frame(kmsg.NewPtrMetadataRequest(), 1)
			if b = append(b, f...); len(b) > 1<<16 {
				if _, err := c.Write(b); err != nil {
					return
				}
				written.Add(int64(len(b)))
				b = b[:0]
			}
		}
		_, _ = c.Write(b)
	}()
	// As much as sockets take stands in the kernel; the server holds no more than it may have in hand.
	var last int64
	still := 0
	eventually(t, "the writer is held back, or done", func() bool {
		if now := written.Load(); now != last || now == 0 {
			last, still = now, 0
		}
		still++
		return still > 50
	})
	if grown := memoryInUse() - before; grown > 64<<20 {
		t.Errorf("a client that does not read makes the server hold %d MiB", grown>>20)
	}
	for i := range int32(requests) {
		if corr, _ := c.receive(); corr != i+1 {
			t.Fatalf("answer %d in place of %d", corr, i+1)
		}
	}
}

// B84: connections that ask nothing cost little, and more than the limit are refused.
func TestConn_idleOnesCostLittle(t *testing.T) {
	t.Parallel()
	const limit = 1000
	n := brokertest.New(t, func(o *broker.Options) { o.MaxConnections = limit })
	before := memoryInUse()
	for range limit {
		n.Dial()
	}
	c := dialRaw(t, n)
	c.closed()
	if grown := memoryInUse() - before; grown > limit*64<<10 {
		t.Errorf("%d connections hold %d bytes", limit, grown)
	}
}

func memoryInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// Sizes that are claimed are not allocated: many connections say they send large requests, and send nothing.
func TestConn_claimedSizesAreNotAllocated(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, func(o *broker.Options) { o.MemoryBytes = 4 << 20 })
	before := memoryInUse()
	for i := range 200 {
		c := dialRaw(t, n)
		claim := sized(90<<20, 0, 0, 0, 9, 0, 0, 0, 1) // Produce
		if i%2 == 0 {
			claim = sized(7<<20, 0, 14, 0, 5, 0, 0, 0, 1) // SyncGroup
		}
		_, _ = c.Write(claim)
	}
	// Produce bodies wait for the budget; everything else goes on.
	alive(t, n)
	if grown := memoryInUse() - before; grown > 120<<20 {
		t.Errorf("claims made the server hold %d MiB", grown>>20)
	}
}

// The in-memory listener answers with its own name, which the dialer accepts; TCP clients get the TCP address.
func TestListeners_advertiseThemselves(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	tcp := request[*kmsg.MetadataResponse](dialRaw(t, n), kmsg.NewPtrMetadataRequest(), 8)
	if got := fmt.Sprintf("%s:%d", tcp.Brokers[0].Host, tcp.Brokers[0].Port); got != n.TCPAddr() {
		t.Errorf("TCP listener advertises %s, not %s", got, n.TCPAddr())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	mem, err := n.Dialer()(ctx, "tcp", n.InternalAddr())
	if err != nil {
		t.Fatal(err)
	}
	c := &rawConn{Conn: mem, t: t}
	m := request[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 8)
	got := fmt.Sprintf("%s:%d", m.Brokers[0].Host, m.Brokers[0].Port)
	if got != n.InternalAddr() {
		t.Errorf("internal listener advertises %s, not %s", got, n.InternalAddr())
	}
	if _, err := n.Dialer()(ctx, "tcp", got); err != nil {
		t.Errorf("dialer refuses the name that was advertised: %v", err)
	}
	if *m.ClusterID != n.ClusterID() || len(n.ClusterID()) != 22 {
		t.Errorf("cluster id %q, %q", *m.ClusterID, n.ClusterID())
	}
}
