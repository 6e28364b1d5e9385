package txn_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/txn"
)

// TestScripts runs testdata/*.txt: requests and time in; records, markers and answers out. Everything succeeds at once, unless "hold" says so.
// Rewrite the expectations with: go test ./broker/txn -run TestScripts -rewrite
func TestScripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := newScript()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return s.run(t, d)
		})
	})
}

type script struct {
	c       *txn.Coordinator
	now     time.Time
	hold    map[string]bool // writes, markers, ids
	writes  []txn.Write
	markers []txn.Marker
	asks    []uint64
	failW   *kerr.Error
	failM   *kerr.Error
	failP   *kerr.Error
	lastPID int64
	epoch   int32
	out     strings.Builder
}

func newScript() *script {
	s := &script{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), hold: map[string]bool{}, lastPID: 99, epoch: 1}
	s.c = txn.New(txn.Options{QueueMax: 3})
	s.c.Load(s.now, s.epoch)
	return s
}

func (s *script) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *script) drain() string {
	for {
		e := s.c.Take()
		if len(e.Writes)+len(e.Markers)+len(e.NewIDs)+len(e.Ahead)+len(e.Replies) == 0 {
			break
		}
		for _, w := range e.Writes {
			s.printf("write %s", recordString(w))
		}
		for _, m := range e.Markers {
			end := "abort"
			if m.Commit {
				end = "commit"
			}
			if m.Bumped {
				end += " bumped"
			}
			s.printf("marker %s/%d %d/%d %s coordinator=%d", m.Partition.Topic, m.Partition.Partition, m.ProducerID, m.ProducerEpoch, end, m.CoordinatorEpoch)
		}
		for range e.NewIDs {
			s.printf("allocate")
		}
		if s.hold["writes"] { // else the reply follows at once
			for _, to := range e.Ahead {
				s.printf("%v may go on", to)
			}
		}
		for _, r := range e.Replies {
			s.printf("%v <- %s", r.To, resultString(r.Result))
		}
		s.writes = append(s.writes, e.Writes...)
		s.markers = append(s.markers, e.Markers...)
		s.asks = append(s.asks, e.NewIDs...)
		s.release()
	}
	out := s.out.String()
	s.out.Reset()
	return out
}

// release lets happen what is not held.
func (s *script) release() {
	if !s.hold["writes"] {
		ws := s.writes
		s.writes = nil
		for _, w := range ws {
			if s.failW == nil {
				if err := s.c.ApplyRecord(w.Key, w.Value); err != nil {
					s.printf("apply: %v", err)
				}
			}
			s.c.Written(s.now, w.ID, s.failW)
		}
	}
	if !s.hold["markers"] {
		ms := s.markers
		s.markers = nil
		for _, m := range ms {
			s.c.MarkerWritten(s.now, m.ID, s.failM)
		}
	}
	if !s.hold["ids"] {
		as := s.asks
		s.asks = nil
		for _, a := range as {
			s.lastPID++
			s.c.ProducerID(s.now, a, s.lastPID, s.failP)
		}
	}
}

func recordString(w txn.Write) string {
	var k kmsg.TxnMetadataKey
	if err := k.ReadFrom(w.Key); err != nil {
		panic(err)
	}
	if w.Value == nil {
		return k.TransactionalID + ": tombstone"
	}
	v := kmsg.NewTxnMetadataValue()
	if err := v.ReadFrom(w.Value); err != nil {
		panic(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s %d/%d", k.TransactionalID, txn.State(v.State), v.ProducerID, v.ProducerEpoch)
	if v.PreviousProducerID >= 0 {
		fmt.Fprintf(&b, " prev=%d", v.PreviousProducerID)
	}
	if v.NextProducerID >= 0 {
		fmt.Fprintf(&b, " next=%d", v.NextProducerID)
	}
	for _, t := range v.Topics {
		fmt.Fprintf(&b, " %s%v", t.Topic, t.Partitions)
	}
	return b.String()
}

func resultString(r txn.Result) string {
	if r.Err != nil {
		return r.Err.Message
	}
	if r.ProducerID < 0 {
		return "ok"
	}
	return fmt.Sprintf("ok %d/%d", r.ProducerID, r.ProducerEpoch)
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	a := map[string]string{}
	for _, ca := range d.CmdArgs {
		a[ca.Key] = strings.Join(ca.Vals, ",")
	}
	str := func(key, def string) string {
		if v, ok := a[key]; ok {
			return v
		}
		return def
	}
	num := func(key string, def int64) int64 {
		v, ok := a[key]
		if !ok || v == "" {
			return def
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			t.Fatalf("%s: %s=%s: %v", d.Pos, key, v, err)
		}
		return n
	}
	dur := func(key, def string) time.Duration {
		dd, err := time.ParseDuration(str(key, def))
		if err != nil {
			t.Fatalf("%s: %v", d.Pos, err)
		}
		return dd
	}
	id, to := str("id", "x"), str("as", "client")
	pid, epoch := num("pid", 100), int16(num("epoch", 0))
	switch d.Cmd {
	case "init":
		s.c.InitProducerID(s.now, txn.Init{
			ID: id, Timeout: dur("timeout", "60s"), ExpectedProducerID: num("pid", -1), ExpectedProducerEpoch: int16(num("epoch", -1)),
		}, to)
	case "add":
		s.c.AddPartitions(s.now, id, pid, epoch, int16(num("v", 2)), partitions(t, str("to", "t/0")), to)
	case "verify":
		if err := s.c.Verify(id, pid, epoch, partitions(t, str("to", "t/0"))...); err != nil {
			return err.Message + "\n"
		}
		return "ok\n"
	case "describe":
		d, err := s.c.Describe(id)
		if err != nil {
			return err.Message + "\n"
		}
		return describe(s.now, d)
	case "list":
		var b strings.Builder
		for _, d := range s.c.List() {
			b.WriteString(describe(s.now, d))
		}
		return b.String()
	case "owns":
		var b strings.Builder
		for _, tp := range partitions(t, str("to", "t/0")) {
			fmt.Fprintf(&b, "%s/%d %v\n", tp.Topic, tp.Partition, s.c.Owns(pid, tp))
		}
		return b.String()
	case "commit", "abort":
		s.c.EndTxn(s.now, txn.End{ID: id, ProducerID: pid, ProducerEpoch: epoch, Commit: d.Cmd == "commit", Bump: num("v", 5) >= 5}, to)
	case "tick":
		s.now = s.now.Add(dur("by", "1s"))
		s.c.Tick(s.now)
	case "hold":
		for _, ca := range d.CmdArgs {
			s.hold[ca.Key] = true
		}
	case "place": // the writes that are held have their places in the log
		for _, w := range s.writes {
			s.c.Placed(s.now, w.ID)
		}
	case "release":
		code := func(key string) *kerr.Error {
			if n := num(key, 0); n != 0 {
				return kerr.TypedErrorForCode(int16(n))
			}
			return nil
		}
		s.failW, s.failM, s.failP = code("writes"), code("markers"), code("ids")
		for _, ca := range d.CmdArgs {
			delete(s.hold, ca.Key)
		}
		if len(d.CmdArgs) == 0 {
			s.hold = map[string]bool{}
		}
		s.release()
		s.failW, s.failM, s.failP = nil, nil, nil
	case "set": // as if a record had been written long ago
		v := kmsg.NewTxnMetadataValue()
		v.Version, v.ProducerID, v.ProducerEpoch, v.TimeoutMillis = 1, pid, epoch, 60_000
		v.LastUpdateTimestamp, v.StartTimestamp = s.now.UnixMilli(), -1
		k := kmsg.TxnMetadataKey{TransactionalID: id}
		if err := s.c.ApplyRecord(k.AppendTo(nil), v.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
		s.c.Unload(s.now)
		s.c.Load(s.now, s.epoch)
	case "unload":
		s.c.Unload(s.now)
	case "load":
		s.epoch++
		s.c.Load(s.now, s.epoch)
	case "restart": // what was not applied is lost; the store comes back from a snapshot
		blob := s.c.Snapshot()
		s.writes, s.markers, s.asks, s.hold = nil, nil, nil, map[string]bool{}
		s.c = txn.New(txn.Options{QueueMax: 3})
		if err := s.c.Restore(blob); err != nil {
			t.Fatal(err)
		}
		s.epoch++
		s.c.Load(s.now, s.epoch)
	default:
		t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
	return s.drain()
}

func describe(now time.Time, d txn.Description) string {
	open := "not open"
	if d.StartMs >= 0 {
		open = "open for " + now.Sub(time.UnixMilli(d.StartMs)).String()
	}
	return fmt.Sprintf("%s: %v %d/%d, %s of %v, %v\n", d.ID, d.State, d.ProducerID, d.ProducerEpoch, open, d.Timeout, d.Partitions)
}

func partitions(t *testing.T, s string) (out []txn.TopicPartition) {
	t.Helper()
	for _, f := range strings.Split(s, ",") {
		topic, p, _ := strings.Cut(f, "/")
		n, err := strconv.Atoi(p)
		if err != nil {
			t.Fatalf("partition %q: %v", f, err)
		}
		out = append(out, txn.TopicPartition{Topic: topic, Partition: int32(n)})
	}
	return out
}
