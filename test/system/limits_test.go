package system_test

import (
	be "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/internal/demo"
)

// What docs/operations/limits.md says that clients may cost, held against the resident memory of the real binary.
const (
	limitMemory      = 32 << 20 // broker.memory of these tests
	idleConnBytes    = 32 << 10 // an open connection that asks nothing
	slowReaderBytes  = 64 << 10 // a connection that does not read its answers, beside broker.memory
	memorySlackBytes = 48 << 20 // what the collector has not given back yet, and the program's own pages
)

// limits is a broker alone, in a process of its own.
type limits struct {
	t *testing.T
	p *demo.Process
}

// startLimits runs the log alone, through a shell that sets the process's limits first.
func startLimits(t *testing.T, shell, config string) *limits {
	t.Helper()
	ownLog(t, "it measures its memory")
	dir := t.TempDir()
	config = fmt.Sprintf("broker:\n  memory: %dMB\n%s", limitMemory>>20, config)
	if err := os.WriteFile(filepath.Join(dir, "outrelay.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "outrelay.sh")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\n%s\nexec %s \"$@\"\n", shell, absolute(t)), 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := demo.NewProcess(script, dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Args = []string{"--log-only"}
	t.Cleanup(p.Close)
	if _, err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &limits{t, p}
}

// absolute returns outrelay's absolute path: the script runs elsewhere.
func absolute(t *testing.T) string {
	t.Helper()
	b, err := filepath.Abs(binary(t, false))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// status returns a line of the process's status, in bytes: VmRSS is what is resident, VmHWM the most there was.
func (l *limits) status(name string) int64 {
	l.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.p.Pid()))
	if err != nil {
		l.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				l.t.Fatal(err)
			}
			return kb << 10
		}
	}
	l.t.Fatalf("no %s in\n%s", name, b)
	return 0
}

// dial opens a connection, or returns the system's error.
func (l *limits) dial() net.Conn {
	l.t.Helper()
	c, err := net.Dial("tcp", l.p.Kafka)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	return c
}

func frame(req kmsg.Request, version int16, corr int32) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("limits")).AppendRequest(nil, versioned(req, version), corr)
}

func versioned(req kmsg.Request, version int16) kmsg.Request {
	req.SetVersion(version)
	return req
}

// receive reads one answer and returns its correlation id.
func receive(c net.Conn) (int32, error) {
	var head [8]byte
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, err
	}
	_, err := io.CopyN(io.Discard, c, int64(be.BigEndian.Uint32(head[:]))-4)
	return int32(be.BigEndian.Uint32(head[4:])), err
}

// works fails the test unless a client writes a record and reads it.
func (l *limits) works(topic string) {
	l.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.p.Kafka), kgo.AllowAutoTopicCreation(), kgo.ProducerLinger(0), kgo.ConsumeTopics(topic))
	if err != nil {
		l.t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(l.t.Context(), &kgo.Record{Topic: topic, Value: []byte("v")}).FirstErr(); err != nil {
		l.t.Fatalf("produce: %v", err)
	}
	for fs := cl.PollFetches(l.t.Context()); fs.NumRecords() == 0; fs = cl.PollFetches(l.t.Context()) {
		if err := errors.Join(fs.Err(), l.t.Context().Err()); err != nil {
			l.t.Fatalf("consume: %v", err)
		}
	}
}

// settled returns the resident memory once it grows no more.
func (l *limits) settled() int64 {
	l.t.Helper()
	var most int64
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for quiet := 0; quiet < 25; quiet++ {
		if now := l.status("VmRSS"); now > most+1<<20 {
			most, quiet = now, 0
		}
		<-tick.C
	}
	return most
}

// holds fails the test if the broker holds more than bound over before, and reports what it does hold.
func (l *limits) holds(before int64, what string, bound int64) {
	l.t.Helper()
	grown := l.settled() - before
	l.t.Logf("%s: %d MiB resident, %.1f MiB more than before; at most %.1f are meant to be", what, (before+grown)>>20, float64(grown)/(1<<20), float64(bound)/(1<<20))
	if grown > bound {
		l.t.Errorf("%s: the broker holds %d MiB more, at most %d are meant to be", what, grown>>20, bound>>20)
	}
}

// size is the number for `make test`, or for soak.
func size(brief, long int) int {
	if soak() {
		return long
	}
	return brief
}

// B84: connections that ask nothing, or nothing more.
func TestLimits_idleConnections(t *testing.T) {
	t.Parallel()
	n := size(1000, 10_000)
	l := startLimits(t, "", fmt.Sprintf("  limits: {connections: %d}\n", n+10))
	l.works("before")
	before := l.settled()
	ask := frame(kmsg.NewPtrApiVersionsRequest(), 0, 1)
	for i := range n {
		c := l.dial()
		if i%2 == 0 {
			continue
		}
		if _, err := c.Write(ask); err != nil {
			t.Fatal(err)
		}
		if _, err := receive(c); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	l.holds(before, fmt.Sprintf("%d idle connections", n), int64(n*idleConnBytes+memorySlackBytes/4))
	l.works("after")
}

// B84: clients get three quarters of the files that the process may open; the log works beside them, and whoever is refused gets in once others have gone.
func TestLimits_fileDescriptors(t *testing.T) {
	t.Parallel()
	const files, allowed = 200, 200 * 3 / 4
	l := startLimits(t, fmt.Sprintf("ulimit -Sn 64; ulimit -Hn %d", files), "")
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", l.p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var soft int // one below the hard limit, as Go's runtime leaves it, or the same
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			soft, _ = strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	if soft < files-1 {
		t.Errorf("the soft limit is %d, not raised to the hard one\n%s", soft, limits)
	}
	if log := l.p.Tail(); !strings.Contains(log, "fewer connections than configured") || !strings.Contains(log, "LimitNOFILE") {
		t.Errorf("nothing is said of the limit:\n%s", log)
	}
	ask := frame(kmsg.NewPtrApiVersionsRequest(), 0, 1)
	var open []net.Conn
	refused := 0
	for range 2 * files {
		c := l.dial()
		_, werr := c.Write(ask)
		if _, err := receive(c); werr != nil || err != nil {
			refused++
			continue
		}
		open = append(open, c)
	}
	if len(open) < allowed-10 || len(open) > allowed || refused < files {
		t.Errorf("%d connections are open and %d refused, with %d files", len(open), refused, files)
	}
	for _, c := range open[:20] {
		_ = c.Close()
	}
	l.works("beside") // 16 partitions more, and a client
	for _, c := range open[20:] {
		if _, err := c.Write(ask); err != nil {
			t.Fatal(err)
		}
		if _, err := receive(c); err != nil {
			t.Errorf("a connection that was open: %v", err)
		}
	}
}

// B86: a client that pipelines and does not read.
func TestLimits_pipelined(t *testing.T) {
	t.Parallel()
	l := startLimits(t, "", "")
	l.works("before")
	before := l.settled()
	const requests = 100_000
	c := l.dial()
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range int32(requests) {
			if _, err := c.Write(frame(kmsg.NewPtrMetadataRequest(), 1, i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	l.holds(before, fmt.Sprintf("%d pipelined requests whose answers are not read", requests), memorySlackBytes)
	l.works("beside")
	for i := range int32(requests) {
		if corr, err := receive(c); err != nil || corr != i {
			t.Fatalf("answer %d in place of %d: %v", corr, i, err)
		}
	}
	writer.Wait()
	l.holds(before, "afterwards", memorySlackBytes)
}

// B84: clients that ask for all there is, and do not read.
func TestLimits_slowReaders(t *testing.T) {
	t.Parallel()
	n := size(100, 1000)
	l := startLimits(t, "", "")
	l.works("data")
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.p.Kafka), kgo.DefaultProduceTopic("data"), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(slowReaderBytes))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range 2000 { // 64 MB, in batches below slowReaderBytes
		cl.Produce(t.Context(), &kgo.Record{Value: make([]byte, 32<<10), Partition: int32(i % 4)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := l.settled()
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes = 50 << 20
	ft := kmsg.NewFetchRequestTopic()
	ft.Topic = "data"
	for p := range int32(4) {
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.Partition, fp.PartitionMaxBytes, fp.CurrentLeaderEpoch = p, 50<<20, -1
		ft.Partitions = append(ft.Partitions, fp)
	}
	req.Topics = append(req.Topics, ft)
	for range n {
		c := l.dial()
		for corr := range int32(20) { // more than the sockets take
			if _, err := c.Write(frame(req, 11, corr)); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.holds(before, fmt.Sprintf("%d clients that do not read", n), int64(2*limitMemory+n*(idleConnBytes+slowReaderBytes)+memorySlackBytes))
	l.works("beside")
}

// B69, B84: clients that send a part of large requests and then nothing.
func TestLimits_slowWriters(t *testing.T) {
	t.Parallel()
	n := size(100, 1000)
	l := startLimits(t, "", "")
	l.works("before")
	before := l.settled()
	assign := kmsg.NewPtrSyncGroupRequest()
	assign.Group, assign.MemberID = "g", "m"
	assign.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: "m", MemberAssignment: make([]byte, 6<<20)}}
	large := frame(assign, 3, 1)
	var writers sync.WaitGroup
	var conns []net.Conn
	for range n {
		c := l.dial()
		writers.Go(func() { _, _ = c.Write(large[:5<<20]) }) // held back by the sockets, most of them, until they are closed
		conns = append(conns, c)
	}
	l.holds(before, fmt.Sprintf("%d clients that write slowly", n), int64(limitMemory+n*idleConnBytes+memorySlackBytes))
	l.works("beside")
	for _, c := range conns {
		_ = c.Close()
	}
	writers.Wait()
}
