package consumer_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/consumer"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/sinks"
)

func TestGroup_appliesWhatIsCommitted(t *testing.T) {
	e := newEnv(t, 3)
	tx := e.txnClient()
	e.produce(tx, 3, 30, true)
	e.produce(tx, 3, 30, false)
	g, _ := e.start(e.options())
	for i := range 20 {
		e.produce(tx, 3, 7, i%4 != 3)
	}
	e.drained(g)
	e.produce(tx, 2, 2, false) // only aborted data and a marker
	e.drained(g)
	if err := g.Ready(); err != nil {
		t.Fatal(err)
	}
	// Lag tools see the same.
	e.eventually("Kafka's group offsets follow", func() bool {
		offsets, err := e.admin.FetchOffsets(t.Context(), "g")
		ends, err2 := e.admin.ListEndOffsets(t.Context(), "t")
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		for p := range int32(3) {
			at, _ := offsets.Lookup("t", p)
			end, _ := ends.Lookup("t", p)
			if at.At != end.Offset {
				return false
			}
		}
		return true
	})
}

func TestGroup_start(t *testing.T) {
	e := newEnv(t, 1)
	for range 5 {
		e.put(0, "before")
	}
	mark := time.Now().Add(time.Hour)
	o := e.options()
	o.Start = consumer.Start{Latest: true}
	g, stop := e.start(o)
	e.eventually("running", func() bool { s := g.Status(); return len(s) == 1 && s[0].State == consumer.StateRunning })
	if n := e.value("select next_offset from outrelay_offsets"); n != "5" {
		t.Fatalf("latest: next_offset %s, want 5, also before the first record", n)
	}
	stop()
	for range 3 {
		e.put(0, "while it is down")
	}
	e.sent -= 5
	g, _ = e.start(o) // latest is of a new group only
	e.drained(g)

	o.Name, o.Start = "by time", consumer.Start{Time: mark}
	g2, _ := e.start(o)
	e.eventually("running", func() bool { s := g2.Status(); return len(s) == 1 && s[0].State == consumer.StateRunning })
	if n := e.value("select next_offset from outrelay_offsets where group_id = 'by time'"); n != "8" {
		t.Fatalf("a time after all records: next_offset %s, want 8", n)
	}
	o.Name, o.Start = "by early time", consumer.Start{Time: mark.Add(-2 * time.Hour)}
	e.start(o)
	e.sent += 8
	e.eventually("all eight again", func() bool { return e.effects() == e.sent })
}

func TestGroup_waitsForTopics(t *testing.T) {
	e := newEnv(t, 0)
	g, _ := e.start(e.options())
	e.eventually("joined", func() bool { return g.Ready() == nil })
	if _, err := e.admin.CreateTopic(t.Context(), 2, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	e.put(0, "a")
	e.put(1, "b")
	e.drained(g)
	if _, err := e.admin.CreatePartitions(t.Context(), 1, "t"); err != nil {
		t.Fatal(err)
	}
}

func TestGroup_boundedMemory(t *testing.T) {
	e := newEnv(t, 1)
	tx := e.txnClient()
	for range 20 {
		e.produce(tx, 1, 500, true)
	}
	o := e.options()
	o.BufferBytes, o.BatchBytes = 16<<10, 8<<10
	g, _ := e.start(o)
	e.drained(g)
}

// Members come and go while records arrive: whatever they do, each record takes effect once and in order.
func TestGroup_membersComeAndGo(t *testing.T) {
	e := newEnv(t, 4)
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 0))
	produced, enough := make(chan struct{}), make(chan struct{})
	tx := e.txnClient()
	go func() {
		defer close(produced)
		for i := 0; ; i++ {
			select {
			case <-enough:
				return
			default:
				e.produce(tx, 4, 1+i%9, i%7 != 0)
			}
		}
	}()
	type member struct {
		g    *consumer.Group
		stop func()
	}
	var members []member
	add := func() {
		g, stop := e.start(e.options())
		members = append(members, member{g, stop})
	}
	add()
	for range 10 {
		if len(members) < 3 && (len(members) == 0 || rnd.IntN(2) == 0) {
			add()
		} else {
			i := rnd.IntN(len(members))
			members[i].stop()
			members = append(members[:i], members[i+1:]...)
		}
		before := e.effects()
		e.eventually("progress", func() bool { return len(members) == 0 || e.effects() > before+20 })
	}
	close(enough)
	<-produced
	if len(members) == 0 {
		add()
	}
	var gs []*consumer.Group
	for _, m := range members {
		gs = append(gs, m.g)
	}
	e.drained(gs...)
}

// A static member that comes back at once is in its seat at once, without waiting for the session to end.
func TestGroup_staticMemberComesBack(t *testing.T) {
	e := newEnv(t, 2)
	o := e.options()
	o.InstanceID, o.SessionTimeout = "node-1", 30*time.Second
	g, stop := e.start(o)
	e.put(0, "a")
	e.drained(g)
	stop() // leaves no word: a static member keeps its seat
	e.put(1, "b")
	from := time.Now()
	g, _ = e.start(o)
	e.drained(g)
	if d := time.Since(from); d > 5*time.Second {
		t.Fatalf("back after %v", d)
	}
}

func TestNew_refuses(t *testing.T) {
	t.Parallel()
	ok := func(context.Context) (sinks.OffsetStore, error) { return nil, errors.New("unused") }
	for name, o := range map[string]consumer.Options{
		"no name":    {Topics: []string{"t"}, Sink: ok},
		"no topics":  {Name: "g", Sink: ok},
		"no sink":    {Name: "g", Topics: []string{"t"}},
		"two starts": {Name: "g", Topics: []string{"t"}, Sink: ok, Start: consumer.Start{Latest: true, Time: time.Now()}},
	} {
		if _, err := consumer.New(o); !errors.Is(err, outrelay.ErrConfig) {
			t.Errorf("%s: %v, want ErrConfig", name, err)
		}
	}
}

func TestRun_endsWithWhatWaitingDoesNotMend(t *testing.T) {
	t.Parallel()
	n := 0
	g, err := consumer.New(consumer.Options{Name: "g", Topics: []string{"t"}, Sink: func(context.Context) (sinks.OffsetStore, error) {
		if n++; n < 3 {
			return nil, []error{outrelay.ErrTransient, outrelay.ErrEnvironment}[n-1]
		}
		return nil, outrelay.ErrConfig
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); !errors.Is(err, outrelay.ErrConfig) || n != 3 {
		t.Fatalf("%v after %d attempts", err, n)
	}
}

// The names of headers stand in two packages, since sinks know nothing of Kafka clients.
func TestHeaderNames(t *testing.T) {
	t.Parallel()
	for _, n := range [][2]string{{sinks.HeaderID, kafka.HeaderID}, {sinks.HeaderType, kafka.HeaderType}, {sinks.HeaderCommittedAt, kafka.HeaderCommittedAt}} {
		if n[0] != n[1] {
			t.Errorf("%q and %q", n[0], n[1])
		}
	}
}
