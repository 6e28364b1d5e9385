package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/relay"
)

// process is one process of several that share sources.
type process struct {
	m    *relay.Manager
	reg  *prometheus.Registry
	stop func() error
}

func (b *bench) process(instance string) *process {
	b.T.Helper()
	reg := prometheus.NewRegistry()
	o := relay.ManagerOptions{Kafka: b.Options.Kafka, InstanceID: instance, SessionTimeout: 6 * time.Second, HeartbeatInterval: 50 * time.Millisecond,
		Sources: []relay.Options{b.Options}, Metrics: relay.NewMetrics(reg)}
	if os.Getenv("RELAY_TEST_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	m, err := relay.NewManager(o)
	if err != nil {
		b.T.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stopped := false
	var out error
	p := &process{m: m, reg: reg, stop: func() error {
		if !stopped {
			stopped = true
			cancel()
			out = <-done
		}
		return out
	}}
	b.T.Cleanup(func() { _ = p.stop() })
	return p
}

func (p *process) state() relay.State { return p.m.Status()[0].State }

// A member has a generation before it knows what is assigned to it. It is not ready then: what commits at the source would be before the slot.
func TestManager_IsNotReadyBeforeItsAssignment(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var syncs atomic.Int64
	var hold atomic.Bool
	hold.Store(true)
	b.log.ControlKey(14, func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.log.KeepControl()
		syncs.Add(1)
		if !hold.Load() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
		resp.ErrorCode = kerr.RebalanceInProgress.Code
		return resp, nil, true
	})
	p := b.process("one")
	b.Wait("it has joined again and again", func() bool {
		if p.m.Ready() == nil {
			t.Errorf("ready without an assignment, the source is %s", p.state())
			return true
		}
		return syncs.Load() >= 4
	})
	hold.Store(false)
	b.Wait("ready", func() bool { return p.m.Ready() == nil })
	if st := p.state(); st != relay.StateRunning {
		t.Errorf("ready, but the source is %s", st)
	}
}

func TestManager_RelaysWhatIsAssignedAndTellsHowItIs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.process("one")
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("it is in", b.Drained)
	b.Wait("ready", func() bool { return p.m.Ready() == nil })
	b.Wait("counted", func() bool { return p.m.Status()[0].Events == 1 })
	families, err := p.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	for _, want := range []string{"outrelay_relay_events_total", "outrelay_relay_lag_seconds", "outrelay_relay_running", "outrelay_relay_open_txn_seconds"} {
		if !strings.Contains(fmt.Sprint(names), want) {
			t.Errorf("no metric %s in %v", want, names)
		}
	}
	if err := p.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if s := p.state(); s != relay.StateUnassigned {
		t.Errorf("state after stop: %s", s)
	}
}

func TestManager_StaticMemberIsBackInItsSeatAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.process("one")
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("the first is in", b.Drained)
	if err := p.stop(); err != nil { // a static member does not leave: for the group this is a kill
		t.Fatal(err)
	}
	began := time.Now()
	b.process("one")
	b.DB.Commit([]row{order("2", "k")})
	b.Wait("the second is in", b.Drained)
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("back after %v: it waited for its own session to end", d)
	}
	b.CheckExactlyOnce()
}

func TestManager_ALeavingProcessesSourceMovesAndALiveOnesStays(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.process("")
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("the first is in", b.Drained)
	two := b.process("")
	b.Wait("two is a member", func() bool { return two.m.Ready() == nil })
	running := func(p *process) bool { return p.state() == relay.StateRunning }
	b.Wait("exactly one relays", func() bool { return running(one) != running(two) })
	owner, other := one, two
	if running(two) {
		owner, other = two, one
	}
	for i := range 10 {
		b.DB.Commit([]row{order(fmt.Sprint("x", i), "k")})
	}
	b.Wait("all is in", b.Drained)
	if running(other) {
		t.Error("both relay")
	}
	if err := owner.stop(); err != nil {
		t.Fatal(err)
	}
	b.DB.Commit([]row{order("last", "k")})
	b.Wait("the other took over", b.Drained)
	b.CheckExactlyOnce()
}

// TestManager_AnOwnerThatWasFencedBeginsAgain: somebody outside the group takes the transactional id, as a process does that was stopped for
// long; the group still says that the source is ours.
func TestManager_AnOwnerThatWasFencedBeginsAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.process("one")
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("the first is in", b.Drained)
	late, stopLate := b.Start()
	b.Wait("the late one runs", func() bool { return late.Status().State == relay.StateRunning })
	b.DB.Commit([]row{order("2", "k")})
	b.Wait("the second is in", b.Drained)
	for i := 3; late.Status().State != relay.StateFenced; i++ {
		b.DB.Commit([]row{order(fmt.Sprint(i), "k")})
		b.Wait("it is in", b.Drained)
	}
	if err := stopLate(); !errors.Is(err, outrelay.ErrFenced) {
		t.Errorf("the late one: %v, want ErrFenced", err)
	}
	b.Wait("the owner runs", func() bool { return p.state() == relay.StateRunning })
	b.CheckExactlyOnce()
}

// TestManager_AskedForItsMembershipBeforeItFences: a process that the group has forgotten does not take the transactional id.
func TestManager_AskedForItsMembershipBeforeItFences(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.process("one")
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("the first is in", b.Drained)
	var inits atomic.Int64
	b.log.ControlKey(22, func(kmsg.Request) (kmsg.Response, error, bool) {
		b.log.KeepControl()
		inits.Add(1)
		return nil, nil, false
	})
	var forgotten atomic.Bool
	forgotten.Store(true)
	b.log.ControlKey(12, func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.log.KeepControl()
		if !forgotten.Load() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	b.log.ControlKey(11, func(req kmsg.Request) (kmsg.Response, error, bool) { // nor may it join again
		b.log.KeepControl()
		if !forgotten.Load() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return resp, nil, true
	})
	b.Wait("it gave the source up", func() bool { return p.state() != relay.StateRunning })
	b.DB.Commit([]row{order("2", "k")})
	if n := inits.Load(); n != 0 {
		t.Errorf("%d InitProducerId of a process that is no member", n)
	}
	forgotten.Store(false)
	b.Wait("it is back", b.Drained)
	b.CheckExactlyOnce()
}

func TestManager_TwoProcessesUnderOneInstanceAreTold(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.process("same")
	b.DB.Commit([]row{order("1", "k")})
	b.Wait("the first is in", b.Drained)
	two := b.process("same")
	b.Wait("the second is a member", func() bool { return two.m.Ready() == nil })
	b.Wait("the first gave up", func() bool { return one.state() != relay.StateRunning })
	if err := one.stop(); err != nil && !strings.Contains(err.Error(), "instance-taken") {
		t.Errorf("Run: %v", err)
	}
	b.DB.Commit([]row{order("2", "k")})
	b.Wait("the second is in", b.Drained)
	b.CheckExactlyOnce()
}

func TestNewManager_RefusesASourceTwice(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := relay.NewManager(relay.ManagerOptions{Kafka: b.Options.Kafka, Sources: []relay.Options{b.Options, b.Options}})
	if !errors.Is(err, outrelay.ErrConfig) {
		t.Errorf("err %v, want ErrConfig", err)
	}
}
