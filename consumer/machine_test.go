package consumer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/sinks"
)

// script drives a machine by events and writes down what it asks for, so that a scenario reads as a trace.
type script struct {
	t   *testing.T
	m   *machine
	act action
}

func newScript(t *testing.T) *script {
	s := &script{t: t, m: newMachine(machineConf{
		group: "g", tp: outrelay.TopicPartition{Topic: "t"}, batchRecords: 4, batchBytes: 1 << 20,
		backoff: backoff.Policy{Initial: time.Second, Max: 8 * time.Second}, blocked: backoff.Policy{Initial: time.Minute, Max: time.Hour},
		decide: func(Failure) Decision { return Block },
	}, nil)}
	s.act = s.m.step(event{kind: evStart})
	return s
}

func (s *script) describe() string {
	switch a := s.act; a.kind {
	case actApply:
		d := fmt.Sprintf("apply [%d,%d)", a.batch.From, a.batch.Next)
		for _, r := range a.batch.Records {
			d += fmt.Sprintf(" %d", r.Offset)
		}
		if a.exclusive {
			d += " alone"
		}
		return d
	case actSeek:
		return fmt.Sprintf("seek %d", a.offset)
	case actWait:
		return "wait " + a.wait.Truncate(time.Second).String()
	default:
		return a.kind.String()
	}
}

func (s *script) want(actions string) {
	s.t.Helper()
	if got := s.describe(); got != actions {
		s.t.Fatalf("%q, want %q (state %s, err %v)", got, actions, s.m.state, s.m.err)
	}
}

// on gives the event that the action asked for.
func (s *script) on(ev event) *script { s.act = s.m.step(ev); return s }

func (s *script) checked() *script {
	s.t.Helper()
	s.want("check")
	return s.on(event{kind: evChecked})
}

func (s *script) claimed(epoch, next int64) *script {
	s.t.Helper()
	s.checked().want("claim")
	s.on(event{kind: evClaimed, claim: sinks.Claim{Epoch: epoch, Next: next}})
	return s.checked()
}

func (s *script) bounded(start, end, startAt int64) *script {
	s.t.Helper()
	s.want("bounds")
	return s.on(event{kind: evBounds, bounds: bounds{start, end, startAt}})
}

func (s *script) running(next int64) *script {
	s.t.Helper()
	s.claimed(1, next).bounded(0, 1000, 0).want(fmt.Sprint("seek ", next))
	s.on(event{kind: evSeeked}).want("idle")
	return s
}

func (s *script) fetched(position int64, offsets ...int64) *script {
	s.t.Helper()
	s.want("idle")
	ev := event{kind: evFetched, fetched: position}
	for _, o := range offsets {
		ev.records = append(ev.records, sinks.Record{Offset: o})
	}
	return s.on(ev)
}

func (s *script) applied(err error) *script { return s.on(event{kind: evApplied, err: err}) }
func (s *script) waited() *script           { return s.on(event{kind: evWaited}) }

func recordError(offset int64) error {
	return &sinks.RecordError{Record: sinks.Record{Offset: offset}, Err: errors.New("bad")}
}

var (
	errDown     = fmt.Errorf("down: %w", outrelay.ErrTransient)
	errConflict = fmt.Errorf("%w: %w", outrelay.ErrTransient, sinks.ErrConflict)
)

func TestMachine_scripts(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(*script){
		"a new group makes its row at the start policy's offset": func(s *script) {
			s.claimed(1, -1).bounded(5, 9, 5).want("apply [-1,5)")
			s.applied(nil).want("seek 5")
			s.on(event{kind: evSeeked}).want("idle")
		},
		"the first offset is claimed again after a doubt": func(s *script) {
			s.claimed(1, -1).bounded(5, 9, 5).want("apply [-1,5)")
			s.applied(sinks.ErrAmbiguous).waited().claimed(2, 5).bounded(5, 9, 0).want("seek 5")
		},
		"batches are what has arrived, up to the limit": func(s *script) {
			s.running(0).fetched(7, 0, 1, 2, 3, 4, 5).want("apply [0,4) 0 1 2 3")
			s.applied(nil).want("apply [4,7) 4 5")
			s.applied(nil).want("idle")
		},
		"markers alone move the offset": func(s *script) {
			s.running(3).fetched(9).want("apply [3,9)")
			s.applied(nil).want("idle")
		},
		"a fenced owner checks that it is a member before it claims again": func(s *script) {
			s.running(0).fetched(2, 0, 1).want("apply [0,2) 0 1")
			s.applied(outrelay.ErrFenced).want("wait 1s")
			s.waited().want("check")
			s.on(event{kind: evChecked, err: errDown}).want("wait 2s")
			s.waited().claimed(3, 1).bounded(0, 9, 0).want("apply [1,2) 1") // what is fetched is not fetched again
		},
		"a fenced owner seeks where the other one went on": func(s *script) {
			s.running(0).fetched(2, 0, 1)
			s.applied(outrelay.ErrFenced).waited().claimed(3, 8).bounded(0, 9, 0).want("seek 8")
		},
		"a doubt about a commit that was made": func(s *script) {
			s.running(0).fetched(6, 0, 1, 2, 3, 4, 5).want("apply [0,4) 0 1 2 3")
			s.applied(sinks.ErrAmbiguous).claimed(2, 4).bounded(0, 9, 0).want("apply [4,6) 4 5")
		},
		"a doubt about a commit that was not made": func(s *script) {
			s.running(0).fetched(2, 0, 1)
			s.applied(sinks.ErrAmbiguous).claimed(2, 0).bounded(0, 9, 0).want("apply [0,2) 0 1")
		},
		"a transient error keeps the claim and the batch": func(s *script) {
			s.running(0).fetched(2, 0, 1)
			s.applied(errDown).want("wait 1s")
			if s.m.state != StatePaused {
				s.t.Fatal(s.m.state)
			}
			s.waited().want("apply [0,2) 0 1")
			s.applied(errDown).want("wait 2s")
			s.waited().applied(nil).want("idle")
			if s.m.state != StateRunning || s.m.err != nil {
				s.t.Fatal(s.m.state, s.m.err)
			}
		},
		"conflicts: replay, halve, then alone": func(s *script) {
			s.running(0).fetched(4, 0, 1, 2, 3).want("apply [0,4) 0 1 2 3")
			s.applied(errConflict).waited().want("apply [0,4) 0 1 2 3")
			s.applied(errConflict).waited().want("apply [0,2) 0 1")
			s.applied(errConflict).waited().want("apply [0,1) 0")
			s.applied(errConflict).waited().want("apply [0,1) 0 alone")
			s.applied(nil).want("apply [1,2) 1 alone")
			s.applied(nil).applied(nil).want("apply [3,4) 3 alone")
			s.applied(nil)
			s.fetched(6, 4, 5).want("apply [4,6) 4 5")
		},
		"a named record is tried alone, after those before it": func(s *script) {
			s.running(0).fetched(4, 0, 1, 2, 3)
			s.applied(recordError(2)).want("apply [0,2) 0 1")
			s.applied(nil).want("apply [2,3) 2")
			s.applied(recordError(2)).want("wait 1m0s")
			if s.m.state != StateBlocked || s.m.blockedAt != 2 {
				s.t.Fatal(s.m.state, s.m.blockedAt)
			}
			s.waited().want("apply [2,3) 2")
			s.applied(recordError(2)).want("wait 2m0s")
			s.waited().applied(nil).want("apply [3,4) 3")
			if s.m.blockedAt != -1 {
				s.t.Fatal("still blocked")
			}
		},
		"the first of a batch is tried alone": func(s *script) {
			s.running(0).fetched(3, 0, 1, 2)
			s.applied(recordError(0)).want("apply [0,1) 0")
			s.applied(nil).want("apply [1,3) 1 2")
		},
		"a record before the suspect fails too": func(s *script) {
			s.running(0).fetched(4, 0, 1, 2, 3)
			s.applied(recordError(3)).want("apply [0,3) 0 1 2")
			s.applied(recordError(1)).want("apply [0,1) 0")
			s.applied(nil).want("apply [1,2) 1")
			s.applied(nil).want("apply [2,4) 2 3")
		},
		"an error that names no record is searched by halving": func(s *script) {
			s.running(0).fetched(4, 0, 1, 2, 3)
			s.applied(outrelay.ErrRecord).want("apply [0,2) 0 1")
			s.applied(nil).want("apply [2,4) 2 3")
			s.applied(outrelay.ErrRecord).want("apply [2,3) 2")
			s.applied(nil).want("apply [3,4) 3")
			s.applied(outrelay.ErrRecord).want("wait 1m0s")
			if s.m.blockedAt != 3 {
				s.t.Fatal(s.m.blockedAt)
			}
		},
		"another log halts, and is looked at again": func(s *script) {
			s.checked().want("claim")
			s.on(event{kind: evClaimed, err: fmt.Errorf("other: %w", outrelay.ErrDataHalt)}).want("wait 10s")
			if s.m.state != StateHalted {
				s.t.Fatal(s.m.state)
			}
			s.waited().want("check")
		},
		"an offset beyond the log halts after three looks": func(s *script) {
			for range 2 {
				s.claimed(1, 50).bounded(0, 40, 0)
				if s.m.state == StateHalted {
					s.t.Fatal("halted at once")
				}
				s.waited()
			}
			s.claimed(3, 50).bounded(0, 40, 0).want("wait 10s")
			if !errors.Is(s.m.err, outrelay.ErrDataHalt) || !strings.Contains(s.m.err.Error(), "offset-beyond-log") {
				s.t.Fatal(s.m.err)
			}
		},
		"an offset below the log names the gap": func(s *script) {
			for range 2 {
				s.claimed(1, 5).bounded(8, 40, 0).waited()
			}
			s.claimed(3, 5).bounded(8, 40, 0)
			if s.m.state != StateHalted || !strings.Contains(s.m.err.Error(), "[5, 8)") {
				s.t.Fatal(s.m.state, s.m.err)
			}
		},
		"a lost place is claimed and sought again": func(s *script) {
			s.running(0).fetched(2, 0, 1).applied(nil)
			s.on(event{kind: evLost, err: errDown}).claimed(2, 2).bounded(0, 9, 0).want("seek 2")
		},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); run(newScript(t)) })
	}
}

// world is a log and a sink, as simple as they can be, that fail at random.
type world struct {
	log     []bool // log[o]: a record, else a marker
	poison  map[int64]bool
	epoch   int64
	next    int64
	effects map[int64]int
	rnd     *rand.Rand
	stolen  int
}

// perform does what the machine asks for. position is how far the machine has fetched.
func (w *world) perform(m *machine, a action, position *int64) event {
	fail := func(p float64) bool { return w.rnd.Float64() < p }
	switch a.kind {
	case actCheck:
		if fail(0.1) {
			return event{kind: evChecked, err: errDown}
		}
		return event{kind: evChecked}
	case actClaim:
		if fail(0.1) {
			return event{kind: evClaimed, err: errDown}
		}
		w.epoch++
		return event{kind: evClaimed, claim: sinks.Claim{Epoch: w.epoch, Next: w.next}}
	case actBounds:
		return event{kind: evBounds, bounds: bounds{0, int64(len(w.log)), 0}}
	case actSeek:
		*position = a.offset
		return event{kind: evSeeked}
	case actApply:
		return event{kind: evApplied, err: w.apply(a.batch)}
	case actWait:
		return event{kind: evWaited}
	case actIdle:
		if fail(0.05) {
			return event{kind: evLost, err: errDown}
		}
		ev := event{kind: evFetched}
		for n := w.rnd.IntN(9); n > 0 && *position < int64(len(w.log)); n-- {
			if w.log[*position] {
				ev.records = append(ev.records, sinks.Record{Offset: *position})
			}
			*position++
		}
		ev.fetched = *position
		return ev
	}
	panic("action")
}

func (w *world) apply(b sinks.Batch) error {
	if w.rnd.Float64() < 0.1 { // another owner steps in, and perhaps does a batch of its own
		w.epoch++
		w.stolen++
		for n := w.rnd.IntN(3); n > 0 && w.next >= 0 && w.next < int64(len(w.log)) && !w.poison[w.next]; n-- {
			if w.log[w.next] {
				w.effects[w.next]++
			}
			w.next++
		}
	}
	switch p := w.rnd.Float64(); {
	case p < 0.05:
		return errDown
	case p < 0.1:
		return errConflict
	case p < 0.15:
		return sinks.ErrAmbiguous // not committed
	}
	if b.Claim.Epoch != w.epoch || b.From != w.next {
		return outrelay.ErrFenced
	}
	for i, r := range b.Records {
		if w.poison[r.Offset] {
			if w.rnd.IntN(3) == 0 {
				delete(w.poison, r.Offset) // somebody mended it
			}
			if i%2 == 0 {
				return outrelay.ErrRecord
			}
			return recordError(r.Offset)
		}
	}
	for _, r := range b.Records {
		w.effects[r.Offset]++
	}
	w.next = b.Next
	if w.rnd.Float64() < 0.05 {
		return sinks.ErrAmbiguous // committed
	}
	return nil
}

// Whatever fails: every record takes effect once, and in the end next_offset is the log's end.
func TestMachine_effectsExactlyOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w := &world{next: -1, effects: map[int64]int{}, poison: map[int64]bool{}, rnd: rnd, log: rapid.SliceOfN(rapid.Bool(), 0, 60).Draw(t, "log")}
		for o, rec := range w.log {
			if rec && rnd.IntN(10) == 0 {
				w.poison[int64(o)] = true
			}
		}
		m := newMachine(machineConf{batchRecords: 5, batchBytes: 1 << 20, decide: func(Failure) Decision { return Block }}, rnd)
		act := m.step(event{kind: evStart})
		var position int64
		for n := 0; ; n++ {
			if n > 100_000 {
				t.Fatalf("no end: next %d of %d, state %s, err %v", w.next, len(w.log), m.state, m.err)
			}
			if act.kind == actIdle && m.next == int64(len(w.log)) && w.next == m.next {
				break
			}
			act = m.step(w.perform(m, act, &position))
		}
		for o, rec := range w.log {
			want := 0
			if rec {
				want = 1
			}
			if w.effects[int64(o)] != want {
				t.Fatalf("offset %d took effect %d times, want %d", o, w.effects[int64(o)], want)
			}
		}
	})
}
