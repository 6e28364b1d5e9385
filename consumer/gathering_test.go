package consumer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks"
)

// gatherScript drives a gathering and names its jobs, so that a scenario reads as a trace.
type gatherScript struct {
	t    *testing.T
	g    gathering
	jobs map[string]*job
}

// submit adds jobs, written "name" or "name:records" or "name:records:bytes".
func (s *gatherScript) submit(specs ...string) *gatherScript {
	for _, spec := range specs {
		name, size, _ := strings.Cut(spec, ":")
		records, bytes := 1, 1
		_, _ = fmt.Sscanf(size, "%d:%d", &records, &bytes)
		s.jobs[name] = &job{batch: sinks.Batch{Records: make([]sinks.Record, records)}, bytes: bytes}
		s.g.submit(s.jobs[name])
	}
	return s
}

// want checks which jobs begin now, "" for none, and returns them.
func (s *gatherScript) want(names string) (set []*job) { s.t.Helper(); return s.next(false, names) }

func (s *gatherScript) insist(names string) (set []*job) { s.t.Helper(); return s.next(true, names) }

func (s *gatherScript) next(insist bool, names string) []*job {
	s.t.Helper()
	set := s.g.next(insist)
	var got []string
	for _, j := range set {
		for name, k := range s.jobs {
			if k == j {
				got = append(got, name)
			}
		}
	}
	if g := strings.Join(got, " "); g != names {
		s.t.Fatalf("begins %q, want %q", g, names)
	}
	return set
}

func TestGathering_scripts(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(*gatherScript){
		"a lone batch goes at once": func(s *gatherScript) {
			s.want("")
			s.submit("a").want("a")
			s.want("")
		},
		"what comes while a transaction is under way gathers for the next": func(s *gatherScript) {
			s.submit("a").want("a")
			s.submit("b", "c").want("")
			s.g.ended()
			s.want("b c")
		},
		"what is expected is waited for": func(s *gatherScript) {
			s.g.expect(3)
			s.submit("a").g.expect(-1)
			s.want("")
			s.g.expect(-1) // this one had nothing
			s.want("")
			s.submit("b").g.expect(-1)
			s.want("a b")
		},
		"full by records goes beside the one under way": func(s *gatherScript) {
			s.submit("a").want("a")
			s.submit("b:4", "c:5").want("")
			s.submit("d:2").want("b c")
			s.want("")
			s.submit("e:10").want("d") // e is too large to go with d
			s.want("e")
			s.want("")
		},
		"full by bytes": func(s *gatherScript) {
			s.submit("a").want("a")
			s.submit("b:1:60", "c:1:60").want("b")
			s.want("")
			s.submit("d:1:40").want("c d")
		},
		"a batch above the limits goes alone": func(s *gatherScript) { s.submit("a:50:900", "b").want("a") },
		"batches that only move offsets count, too": func(s *gatherScript) {
			s.submit("a").want("a")
			s.submit("b:0", "c:0", "d:0", "e:0", "f:0", "g:0", "h:0", "i:0", "j:0").want("")
			s.submit("k:0").want("b c d e f g h i j k")
		},
		"slow statements are not put one behind the other": func(s *gatherScript) {
			for range 20 {
				s.submit("a")
				set := s.want("a")
				s.g.ended()
				s.g.learn(set, 60*time.Millisecond)
			}
			s.submit("a").want("a")
			s.submit("b").want("")
			s.submit("c").want("b c") // two of them are expected to take the span of 100 ms
		},
		"who has waited too long goes beside a stuck transaction": func(s *gatherScript) {
			s.submit("a").want("a")
			s.submit("b", "c").want("")
			s.insist("b c")
			s.g.expect(1) // not even a worker that was expected and never comes holds them for ever
			s.submit("d").insist("d")
		},
		"a batch is taken back": func(s *gatherScript) {
			s.submit("a").want("a")
			s.submit("b", "c")
			if !s.g.withdraw(s.jobs["b"]) || s.g.withdraw(s.jobs["b"]) || s.g.withdraw(s.jobs["a"]) {
				s.t.Fatal("only what waits can be taken back, once")
			}
			s.g.ended()
			s.want("c")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(&gatherScript{t: t, jobs: map[string]*job{}, g: gathering{conf: gatheringConf{transactions: 1, records: 10, bytes: 100, span: 100 * time.Millisecond}}})
		})
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	record, fenced := recordError(3), fmt.Errorf("late: %w", outrelay.ErrFenced)
	for _, tc := range []struct {
		name string
		err  error
		n    int
		want []error
	}{
		{"applied", nil, 3, []error{nil, nil, nil}},
		{"in doubt", sinks.ErrAmbiguous, 3, []error{sinks.ErrAmbiguous, sinks.ErrAmbiguous, sinks.ErrAmbiguous}},
		{"fenced", &sinks.BatchError{Index: 1, Err: fenced}, 3, []error{errApart, fenced, errApart}},
		{"fenced, nobody knows who", fenced, 2, []error{errApart, errApart}},
		{"a record", &sinks.BatchError{Index: 0, Err: record}, 2, []error{errApart, errApart}},
		{"a conflict", errConflict, 2, []error{errApart, errApart}},
		{"the sink is away", errDown, 2, []error{errApart, errApart}},
		{"alone, whatever it is", record, 1, []error{record}},
	} {
		if got := outcomes(tc.err, tc.n); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// farm is a few partitions, each with its machine and its world, that share a gathering and a sink.
type farm struct {
	t        *rapid.T
	rnd      *rand.Rand
	g        gathering
	worlds   []*world
	machines []*machine
	acts     []action
	at       []int64 // fetch positions
	jobs     []*job  // of those that wait for an outcome
	expected []bool
	sets     [][]*job // under way
	together int      // transactions of several batches that were applied
}

// applyAll is a transaction of several partitions: all of it, or nothing.
func (f *farm) applyAll(set []*job) error {
	var of []int
	for _, j := range set {
		of = append(of, slices.Index(f.jobs, j))
	}
	switch p := f.rnd.Float64(); {
	case p < 0.05:
		return errDown
	case p < 0.1:
		return errConflict
	case p < 0.15:
		return sinks.ErrAmbiguous // not committed
	}
	for n, i := range of {
		w, b := f.worlds[i], &set[n].batch
		for _, r := range b.Records {
			if w.poison[r.Offset] {
				return &sinks.BatchError{Index: n, Err: recordError(r.Offset)}
			}
		}
		if f.rnd.IntN(10) == 0 {
			w.epoch++ // another owner steps in
		}
		if b.Claim.Epoch != w.epoch || b.From != w.next {
			return &sinks.BatchError{Index: n, Err: outrelay.ErrFenced}
		}
	}
	for n, i := range of {
		for _, r := range set[n].batch.Records {
			f.worlds[i].effects[r.Offset]++
		}
		f.worlds[i].next = set[n].batch.Next
	}
	f.together++
	if f.rnd.IntN(20) == 0 {
		return sinks.ErrAmbiguous // committed
	}
	return nil
}

// step does what machine i asks for, unless it waits for an outcome.
func (f *farm) step(i int) {
	if f.jobs[i] != nil {
		return
	}
	act := f.acts[i]
	if act.kind == actApply && !act.apart {
		f.jobs[i] = &job{batch: act.batch, bytes: act.bytes}
		f.g.submit(f.jobs[i])
		f.unexpect(i)
		return
	}
	f.unexpect(i)
	if act.kind == actIdle && f.rnd.IntN(2) == 0 {
		f.g.expect(1)
		f.expected[i] = true
	}
	f.tell(i, f.worlds[i].perform(f.machines[i], act, &f.at[i]))
}

func (f *farm) tell(i int, ev event) { f.acts[i] = f.machines[i].step(ev) }

func (f *farm) unexpect(i int) {
	if f.expected[i] {
		f.expected[i] = false
		f.g.expect(-1)
	}
}

// end ends one of the transactions under way.
func (f *farm) end() {
	n := f.rnd.IntN(len(f.sets))
	set := f.sets[n]
	f.sets = slices.Delete(f.sets, n, n+1)
	var err error
	if len(set) == 1 {
		err = f.worlds[slices.Index(f.jobs, set[0])].apply(set[0].batch)
	} else {
		err = f.applyAll(set)
	}
	f.g.ended()
	f.g.expect(len(set))
	for n, o := range outcomes(err, len(set)) {
		i := slices.Index(f.jobs, set[n])
		f.jobs[i], f.expected[i] = nil, true
		if errors.Is(o, errApart) {
			f.unexpect(i)
			o = f.worlds[i].apply(set[n].batch)
		}
		f.tell(i, event{kind: evApplied, err: o})
	}
}

func (f *farm) done() bool {
	for i, w := range f.worlds {
		if f.jobs[i] != nil || f.acts[i].kind != actIdle || f.machines[i].next != int64(len(w.log)) || w.next != f.machines[i].next {
			return false
		}
	}
	return true
}

// Several partitions share transactions, and whatever fails, together or alone: every record takes effect once, and nobody waits for ever.
func TestGathering_effectsExactlyOnce(t *testing.T) {
	t.Parallel()
	together := 0
	rapid.Check(t, func(t *rapid.T) {
		f := &farm{t: t, rnd: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)),
			g: gathering{conf: gatheringConf{transactions: rapid.IntRange(1, 2).Draw(t, "transactions"), records: 12, bytes: 1 << 20, span: time.Hour}}}
		n := rapid.IntRange(2, 5).Draw(t, "partitions")
		f.at, f.jobs, f.expected = make([]int64, n), make([]*job, n), make([]bool, n)
		for range n {
			w := &world{next: -1, effects: map[int64]int{}, poison: map[int64]bool{}, rnd: f.rnd, log: rapid.SliceOfN(rapid.Bool(), 20, 150).Draw(t, "log")}
			for o, rec := range w.log {
				if rec && f.rnd.IntN(30) == 0 {
					w.poison[int64(o)] = true
				}
			}
			m := newMachine(machineConf{batchRecords: 5, batchBytes: 1 << 20, decide: func(Failure) Decision { return Block }}, f.rnd)
			f.worlds, f.machines, f.acts = append(f.worlds, w), append(f.machines, m), append(f.acts, m.step(event{kind: evStart}))
		}
		for steps := 0; !f.done(); steps++ {
			if steps > 200_000 {
				t.Fatalf("no end: %d wait, %d are expected, %d are under way", len(f.g.waiting), f.g.expected, f.g.running)
			}
			f.step(f.rnd.IntN(n))
			for set := f.g.next(f.rnd.IntN(50) == 0); set != nil; set = f.g.next(false) {
				f.sets = append(f.sets, set)
			}
			if len(f.sets) > 0 && f.rnd.IntN(2*n) == 0 {
				f.end()
			}
		}
		for p, w := range f.worlds {
			for o, rec := range w.log {
				want := 0
				if rec {
					want = 1
				}
				if w.effects[int64(o)] != want {
					t.Fatalf("partition %d: offset %d took effect %d times, want %d", p, o, w.effects[int64(o)], want)
				}
			}
			f.unexpect(p)
		}
		if f.g.expected != 0 || f.g.running != 0 || len(f.g.waiting) != 0 {
			t.Fatalf("at the end %d are expected, %d under way, %d wait", f.g.expected, f.g.running, len(f.g.waiting))
		}
		together += f.together
	})
	if together == 0 {
		t.Fatal("no transaction was shared")
	}
}
