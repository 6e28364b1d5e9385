package replica_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
	"github.com/outrelay/outrelay/broker/wal"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/vfs"
)

// list is a state machine that remembers its entries.
type list struct {
	Items []string
	fail  error
}

func (l *list) Apply(e replica.Entry) any {
	if l.fail != nil {
		return replica.Fatal{Err: l.fail}
	}
	l.Items = append(l.Items, string(e.Payload))
	return len(l.Items)
}

func (l *list) Checkpoint() func() ([]byte, error) {
	items := slices.Clone(l.Items)
	return func() ([]byte, error) { return json.Marshal(items) }
}

func (l *list) Restore(blob []byte) error {
	if blob == nil {
		return nil
	}
	return json.Unmarshal(blob, &l.Items)
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func manual(t *testing.T, f vfs.FS) *replica.Node {
	t.Helper()
	n, err := replica.Open(replica.Options{
		FS: f, Dir: "data", NodeID: 1, Manual: true, Shards: 1, Clock: clock.NewFake(epoch),
		WAL: wal.Options{FileBytes: 64 << 10, ZeroStepBytes: 4 << 10},
	})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return n
}

func add(t *testing.T, n *replica.Node, g replica.GroupID, sm replica.StateMachine) {
	t.Helper()
	if err := n.AddGroup(g, sm, replica.GroupConf{ReplicaID: 7, Voters: []uint64{7}}); err != nil {
		t.Fatalf("add group %d: %v", g, err)
	}
}

func propose(t *testing.T, n *replica.Node, g replica.GroupID, payload string) any {
	t.Helper()
	var res any
	err := errors.New("not answered")
	n.Propose(g, []byte(payload), func(r any, e error) { res, err = r, e })
	n.Pump()
	if err != nil {
		t.Fatalf("propose %q: %v", payload, err)
	}
	return res
}

func TestNode_RestartAppliesAgain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name             string
		checkpoint, stop bool
	}{
		{"from the log alone", false, false},
		{"from checkpoint and log", true, false},
		{"after Close", false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewMem()
			n := manual(t, mem)
			a, b := &list{}, &list{}
			add(t, n, 0, a)
			add(t, n, 5, b)
			for i := range 10 {
				if got := propose(t, n, 5, fmt.Sprint("b", i)); got != i+1 {
					t.Fatalf("result %v, want %d", got, i+1)
				}
			}
			propose(t, n, 0, "a0")
			if tc.checkpoint {
				if err := n.Checkpoint(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			propose(t, n, 5, "b10")
			epoch1, ok := n.Leader(5)
			if !ok {
				t.Fatal("group 5 has no leader")
			}
			if tc.stop {
				if err := n.Close(); err != nil {
					t.Fatal(err)
				}
			} else {
				mem = mem.CrashClone(rand.New(rand.NewPCG(1, 1)))
			}
			n = manual(t, mem)
			a2, b2 := &list{}, &list{}
			add(t, n, 0, a2)
			add(t, n, 5, b2)
			if !slices.Equal(a.Items, a2.Items) || !slices.Equal(b.Items, b2.Items) {
				t.Fatalf("after restart %v %v, want %v %v", a2.Items, b2.Items, a.Items, b.Items)
			}
			if epoch2, _ := n.Leader(5); epoch2 <= epoch1 {
				t.Fatalf("leader epoch %d after a restart, was %d", epoch2, epoch1)
			}
		})
	}
}

func TestNode_RefusesWhatItCannotVouchFor(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		node   int32
		damage func(t *testing.T, f vfs.FS)
		want   error
	}{
		{"another node's directory", 2, nil, replica.ErrIdentity},
		{"checkpoint missing", 1, func(t *testing.T, f vfs.FS) { must(t, f.Remove("data/checkpoint")) }, replica.ErrCorrupt},
		{"checkpoint flipped", 1, func(t *testing.T, f vfs.FS) { flip(t, f, "data/checkpoint", 60) }, replica.ErrCorrupt},
		{"checkpoint of a newer version", 1, func(t *testing.T, f vfs.FS) { flip(t, f, "data/checkpoint", 11) }, replica.ErrVersion},
		{"identity missing", 1, func(t *testing.T, f vfs.FS) { must(t, f.Remove("data/node.json")) }, replica.ErrCorrupt},
		{"identity damaged", 1, func(t *testing.T, f vfs.FS) { flip(t, f, "data/node.json", 0) }, replica.ErrCorrupt},
		{"locked", 1, func(t *testing.T, f vfs.FS) {
			l, err := f.Lock("data/lock")
			must(t, err)
			t.Cleanup(func() { _ = l.Close() })
		}, vfs.ErrLocked},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewMem()
			n := manual(t, mem)
			add(t, n, 1, &list{})
			propose(t, n, 1, "x")
			must(t, n.Close())
			if tc.damage != nil {
				tc.damage(t, mem)
			}
			_, err := replica.Open(replica.Options{FS: mem, Dir: "data", NodeID: tc.node, Manual: true})
			if !errors.Is(err, tc.want) {
				t.Fatalf("open: %v, want %v", err, tc.want)
			}
		})
	}
}

func TestNode_RecyclesTheLogBelowTheCheckpoint(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	n := manual(t, mem)
	sm := &list{}
	add(t, n, 3, sm)
	add(t, n, 4, &list{})
	big := strings.Repeat("x", 10<<10)
	for i := range 60 {
		propose(t, n, 3, fmt.Sprint(i, big))
		if i%10 == 9 {
			must(t, n.Checkpoint(context.Background()))
		}
	}
	if got := walFiles(t, mem); got > 6 {
		t.Fatalf("%d write-ahead log files after a checkpoint of everything", got)
	}
	must(t, n.Close())
	n = manual(t, mem)
	if got := n.Orphans(); !slices.Equal(got, []replica.GroupID{3, 4}) {
		t.Fatalf("orphans %v, want [3 4]", got)
	}
	must(t, n.RemoveGroup(4))
	sm2 := &list{}
	add(t, n, 3, sm2)
	if len(sm2.Items) != 60 {
		t.Fatalf("%d items after restart, want 60", len(sm2.Items))
	}
	if got := n.Orphans(); len(got) != 0 {
		t.Fatalf("orphans %v, want none", got)
	}
}

func TestNode_RemoveGroupAnswersAndForgets(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	n := manual(t, mem)
	add(t, n, 3, &list{})
	propose(t, n, 3, "x")
	var got error
	n.Propose(3, []byte("y"), func(_ any, err error) { got = err })
	must(t, n.RemoveGroup(3))
	n.Pump()
	if !errors.Is(got, replica.ErrUnknownGroup) && got != nil {
		t.Fatalf("proposal in flight: %v", got)
	}
	n.Propose(3, []byte("z"), func(_ any, err error) { got = err })
	n.Pump()
	if !errors.Is(got, replica.ErrUnknownGroup) {
		t.Fatalf("proposal after removal: %v, want ErrUnknownGroup", got)
	}
	must(t, n.Checkpoint(context.Background()))
	must(t, n.Close())
	if err := n.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
}

func TestNode_FailedApplyStopsTheNode(t *testing.T) {
	t.Parallel()
	n := manual(t, vfs.NewMem())
	sm := &list{}
	add(t, n, 3, sm)
	fatal := make(chan error, 2)
	n.OnFatal(func(err error) { fatal <- err })
	sm.fail = errors.New("disk gone")
	var got error
	n.Propose(3, []byte("x"), func(_ any, err error) { got = err })
	n.Pump()
	if !errors.Is(got, replica.ErrClosed) {
		t.Fatalf("proposal: %v, want ErrClosed", got)
	}
	if err := <-fatal; !errors.Is(err, sm.fail) {
		t.Fatalf("fatal: %v", err)
	}
	n.Propose(3, []byte("x"), func(_ any, err error) { got = err })
	if !errors.Is(got, replica.ErrClosed) {
		t.Fatalf("proposal after failure: %v, want ErrClosed", got)
	}
}

func TestNode_FailedSyncIsFatal(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	n := manual(t, mem)
	add(t, n, 3, &list{})
	fatal := make(chan error, 2)
	n.OnFatal(func(err error) { fatal <- err })
	mem.Fail(vfs.OpSync, 1, errors.New("EIO"))
	var got error
	n.Propose(3, []byte("x"), func(_ any, err error) { got = err })
	n.Pump()
	if !errors.Is(got, replica.ErrClosed) {
		t.Fatalf("proposal: %v, want ErrClosed", got)
	}
	if err := <-fatal; !errors.Is(err, wal.ErrPoisoned) {
		t.Fatalf("fatal: %v", err)
	}
}

func TestNode_ConcurrentProposersInOrder(t *testing.T) {
	t.Parallel()
	n, err := replica.Open(replica.Options{FS: vfs.NewMem(), Dir: "data", NodeID: 1, CheckpointEvery: time.Millisecond})
	must(t, err)
	const groups, each = 6, 300
	sms := make([]*list, groups)
	var opening sync.WaitGroup
	for g := range sms {
		sms[g] = &list{}
		opening.Go(func() {
			if err := n.AddGroup(replica.GroupID(g), sms[g], replica.GroupConf{ReplicaID: 1, Voters: []uint64{1}}); err != nil {
				t.Errorf("add group %d: %v", g, err)
			}
		})
	}
	opening.Wait()
	var all sync.WaitGroup
	for g := range sms {
		all.Go(func() {
			last := make(chan int, each)
			for i := range each {
				n.Propose(replica.GroupID(g), fmt.Append(nil, i), func(r any, err error) {
					if err != nil {
						t.Errorf("group %d: %v", g, err)
						r = -1
					}
					last <- r.(int)
				})
			}
			for i := range each {
				if got := <-last; got != i+1 {
					t.Errorf("group %d: answer %d, want %d", g, got, i+1)
				}
			}
		})
	}
	all.Wait()
	must(t, n.Close())
	for g, sm := range sms {
		for i, item := range sm.Items {
			if item != fmt.Sprint(i) {
				t.Fatalf("group %d: item %d is %q", g, i, item)
			}
		}
	}
}

func TestNode_RemovalBesideCheckpointsAndHousekeeping(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	n, err := replica.Open(replica.Options{FS: mem, Dir: "data", NodeID: 1, CheckpointEvery: 100 * time.Microsecond, MaintainEvery: 100 * time.Microsecond})
	must(t, err)
	n.OnFatal(func(err error) { t.Errorf("the node failed: %v", err) })
	for i := range 40 {
		id := replica.GroupID(i + 1)
		p := replica.NewPartition(replica.PartitionOptions{
			FS: mem, Dir: replica.PartitionDir("data/partitions", [16]byte{byte(i)}, 0, 1), Topic: fmt.Sprint("t", i),
			Config: func() replica.TopicConfig {
				return replica.TopicConfig{Delete: true, Compact: true, RetentionBytes: 100, SegmentBytes: 1 << 10}
			},
		})
		must(t, n.AddGroup(id, p, replica.GroupConf{ReplicaID: 1, Voters: []uint64{1}}))
		done := make(chan replica.ProduceResult, 20)
		for range 20 {
			p.Produce(seedPlain(100), replica.ProduceOptions{}, func(r replica.ProduceResult) { done <- r })
		}
		for range 10 {
			if r := <-done; r.Err != nil {
				t.Fatalf("produce: %v", r.Err)
			}
		}
		must(t, n.RemoveGroup(id))
		must(t, p.Destroy())
	}
	must(t, n.Checkpoint(context.Background()))
	must(t, n.Close())
	n = manual(t, mem)
	must(t, n.Close())
}

func seedPlain(size int) []byte {
	b := record.NewBuilder(record.BuilderOptions{ProducerID: -1, Epoch: -1, Sequence: -1})
	b.Add(1, []byte("k"), make([]byte, size), nil)
	return b.Build()
}

func TestNode_OrphansHoldTheLog(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	n := manual(t, mem)
	kept := &list{}
	add(t, n, 3, kept)
	add(t, n, 4, &list{})
	propose(t, n, 3, "in the log alone")
	mem = mem.CrashClone(rand.New(rand.NewPCG(1, 1)))
	n = manual(t, mem)
	add(t, n, 4, &list{})
	big := strings.Repeat("x", 10<<10)
	for range 40 {
		propose(t, n, 4, big)
		must(t, n.Checkpoint(context.Background()))
	}
	must(t, n.Close())
	n = manual(t, mem)
	again := &list{}
	add(t, n, 3, again)
	if !slices.Equal(again.Items, kept.Items) {
		t.Fatalf("a group that was not opened for a while holds %v, want %v", again.Items, kept.Items)
	}
}

func TestNode_ProposalLimits(t *testing.T) {
	t.Parallel()
	n, err := replica.Open(replica.Options{FS: vfs.NewMem(), Dir: "data", NodeID: 1, Manual: true, EntryBytesMax: 100, InFlightBytes: 150})
	must(t, err)
	add(t, n, 1, &list{})
	answer := func(size int) (err error) {
		err = errPending
		n.Propose(1, make([]byte, size), func(_ any, e error) { err = e })
		return err
	}
	if err := answer(101); !errors.Is(err, replica.ErrTooLarge) {
		t.Fatalf("101 bytes: %v, want ErrTooLarge", err)
	}
	if err := answer(0); !errors.Is(err, replica.ErrTooLarge) {
		t.Fatalf("0 bytes: %v, want ErrTooLarge", err)
	}
	if err := answer(100); !errors.Is(err, errPending) {
		t.Fatalf("100 bytes: %v, want pending", err)
	}
	if err := answer(100); !errors.Is(err, replica.ErrTooManyInFlight) {
		t.Fatalf("100 bytes more: %v, want ErrTooManyInFlight", err)
	}
	n.Pump()
	if err := answer(100); !errors.Is(err, errPending) {
		t.Fatalf("after the first was answered: %v, want pending", err)
	}
}

var errPending = errors.New("pending")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, f vfs.FS, name string, at int64) {
	t.Helper()
	h, err := f.OpenRW(name)
	must(t, err)
	defer h.Close()
	b := make([]byte, 1)
	if _, err := h.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	_, err = h.WriteAt(b, at)
	must(t, err)
}

func walFiles(t *testing.T, f vfs.FS) int {
	t.Helper()
	is, err := f.List("data/wal")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return len(is)
}
