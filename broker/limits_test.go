package broker_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker"
	"github.com/outrelay/outrelay/broker/brokertest"
)

func TestConnectionsAllowed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		configured int
		files      uint64
		want       int
	}{
		{10_000, 0, 10_000}, {10_000, 20_000, 10_000}, {10_000, 1024, 768}, {10_000, 99, 74}, {10, 1024, 10}, {10_000, math.MaxUint64, 10_000},
	} {
		if got := broker.ConnectionsAllowed(tc.configured, tc.files); got != tc.want {
			t.Errorf("%d configured, %d files: %d, want %d", tc.configured, tc.files, got, tc.want)
		}
	}
}

// logs is a log that is read while it is written.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines returns the lines that hold a text.
func (l *logs) lines(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// B84: clients get three quarters of the files that the process may open, whatever is configured, and the log keeps the rest; it is said at the start.
func TestConnections_leaveFilesToTheLog(t *testing.T) {
	t.Parallel()
	var said logs
	n := brokertest.New(t, func(o *broker.Options) { o.FilesMax, o.Logger = 40, slog.New(slog.NewTextHandler(&said, nil)) })
	for range 30 {
		n.Dial()
	}
	eventually(t, "30 connections are open", func() bool { return n.Connections() == 30 })
	dialRaw(t, n).closed()
	if l := said.lines("fewer connections than configured"); len(l) != 1 || !strings.Contains(l[0], "connections=30") || !strings.Contains(l[0], "ulimit -Hn") {
		t.Errorf("said: %q", l)
	}
}

// emptyHanded is a listener that has no file descriptor left for the next `left` connections.
type emptyHanded struct {
	net.Listener
	left int
}

func (l *emptyHanded) Accept() (net.Conn, error) {
	if l.left > 0 {
		l.left--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

// B84: running out of file descriptors ends no listener: what is open goes on, and connections are accepted again once there are some. It is said once, with
// the way to mend it.
func TestListener_outOfFiles(t *testing.T) {
	t.Parallel()
	var said logs
	s := broker.New(broker.Options{DataDir: t.TempDir(), Listeners: []broker.Listener{{Addr: "127.0.0.1:0"}}, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	s.WrapListeners(func(l net.Listener) net.Listener { return &emptyHanded{Listener: l, left: 3} })
	go func() { _ = s.Run(t.Context()) }()
	conn, err := net.Dial("tcp", s.Addr("client"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := &rawConn{Conn: conn, t: t}
	if r := request[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0); r.ErrorCode != 0 {
		t.Errorf("ApiVersions: error %d", r.ErrorCode)
	}
	if got := s.AcceptErrors(); got != 3 {
		t.Errorf("%v failures were counted, want 3", got)
	}
	if l := said.lines("no connection can be accepted"); len(l) != 1 || !strings.Contains(l[0], "raise the limit of open files") {
		t.Errorf("said: %q", l)
	}
}

// settled returns the memory in use once it stays the same: the server does nothing more, since its clients do not read.
func settled(t *testing.T) (used int64) {
	t.Helper()
	quiet := 0
	eventually(t, "the server is held back", func() bool {
		if now := memoryInUse(); now != used {
			used, quiet = now, 0
		}
		quiet++
		return quiet > 20
	})
	return used
}

// longNames is a request about as large as n bytes, whose answer is larger: topics that are not there.
func longNames(n int) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	for i := range n / 24 {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(fmt.Sprintf("no-such-topic-%08d", i))
		req.Topics = append(req.Topics, rt)
	}
	return req
}

// B86: of large requests one is in hand, not as many as may be pipelined.
func TestConn_largeRequestsComeAlone(t *testing.T) { // alone: it measures the process's memory
	n := brokertest.New(t)
	c := dialRaw(t, n)
	frame, _ := c.frame(longNames(broker.PipelinedBytesMax*3/4), 4)
	before := memoryInUse()
	var writer sync.WaitGroup
	writer.Go(func() {
		for range 120 { // below what may be pipelined
			if _, err := c.Write(frame); err != nil {
				return // the test has ended
			}
		}
	})
	if grown := settled(t) - before; grown > 96<<20 {
		t.Errorf("a client that does not read makes the server hold %d MiB", grown>>20)
	}
	for range 3 {
		c.receive()
	}
	_ = c.Close()
	writer.Wait()
}

// B86: answers that are large are made one after the other, as the client reads them.
func TestConn_largeAnswersAreNotHeld(t *testing.T) { // alone: it measures the process's memory
	n := brokertest.New(t)
	setup := dialRaw(t, n)
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.IncludeSynonyms, req.IncludeDocumentation = true, true
	for i := range 24 {
		name := fmt.Sprint("t", i)
		createTopic(t, setup, name, 1)
		req.Resources = append(req.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: name})
	}
	before := memoryInUse()
	var conns []*rawConn
	const each = 120 // below what may be pipelined; their answers are more than sockets take
	for range 4 {
		c := dialRaw(t, n)
		for range each {
			c.send(req, 3)
		}
		conns = append(conns, c)
	}
	if grown := settled(t) - before; grown > 16<<20 {
		t.Errorf("%d clients that do not read make the server hold %d MiB", len(conns), grown>>20)
	}
	size := 0
	for _, c := range conns {
		for i := range each {
			corr, b := c.receive()
			if size += len(b); corr != int32(i+1) {
				t.Fatalf("answer %d in place of %d", corr, i+1)
			}
		}
	}
	if size < 4*each*100_000 {
		t.Errorf("%d bytes in all: the answers are not large", size)
	}
}

// B84: frames that arrive slowly are bounded over all connections, and hold up nothing that is small.
func TestConn_slowWritersAreBounded(t *testing.T) { // alone: it measures the process's memory
	n := brokertest.New(t, func(o *broker.Options) { o.MemoryBytes = 16 << 20 })
	const bound = 8 << 20
	if got := broker.ArrivingBytes(broker.Options{MemoryBytes: 16 << 20}); got != bound {
		t.Fatalf("%d bytes may arrive", got)
	}
	before := memoryInUse()
	assign := kmsg.NewPtrSyncGroupRequest()
	assign.Group, assign.MemberID = "g", "m"
	assign.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: "m", MemberAssignment: make([]byte, 4<<20)}}
	var slow []*rawConn
	var writers sync.WaitGroup
	for range 40 {
		c := dialRaw(t, n)
		f, _ := c.frame(assign, 3)
		writers.Go(func() { _, _ = c.Write(f[:3<<20]) }) // held back by the socket, most of them
		slow = append(slow, c)
	}
	eventually(t, "the connections are open", func() bool { return n.Connections() == 40 })
	alive(t, n)
	if grown := memoryInUse() - before; grown > 40<<20+2*bound { // the test itself holds a frame, which all share
		t.Errorf("clients that write slowly make the server hold %d MiB", grown>>20)
	}
	for _, c := range slow {
		_ = c.Close()
	}
	writers.Wait()
	if r := request[*kmsg.SyncGroupResponse](dialRaw(t, n), assign, 3); r.ErrorCode == 0 {
		t.Error("an assignment for a group that is not there was taken")
	}
}

// B84: what answers to slow readers hold is bounded, also while many read at once.
func TestFetch_slowReadersAreBounded(t *testing.T) { // alone: others measure the process's memory
	const memory, readers = 8 << 20, 24
	n := brokertest.New(t, func(o *broker.Options) { o.MemoryBytes = memory })
	c := dialRaw(t, n)
	createTopic(t, c, "t", 1)
	for range 80 {
		batch := plainBatch(string(make([]byte, 200_000)))
		produce(t, c, "t", 0, batch)
	}
	big := fetchRequest("t", 0, 0, 0)
	big.MaxBytes, big.Topics[0].Partitions[0].PartitionMaxBytes = 50<<20, 50<<20
	for range readers {
		r := dialRaw(t, n)
		for range 10 {
			r.send(big, 11) // and read nothing
		}
	}
	var most int64
	quiet := 0
	eventually(t, "what is held stays the same", func() bool {
		held := n.FetchHeld()
		if held > most {
			most, quiet = held, 0
		}
		quiet++
		return quiet > 200 && most >= memory/2
	})
	const oneBatch = 201_000 // is answered whatever the limit
	if bound := int64(2*memory + readers*max(broker.FetchShortBytesMin, oneBatch)); most > bound {
		t.Errorf("answers hold %d bytes, at most %d are meant to", most, bound)
	}
}
