package audit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/outrelay/outrelay/internal/audit"
)

func scan(list []audit.Event) audit.Scan {
	return func(_ context.Context, fn func(audit.Event) error) error {
		for _, e := range list {
			if err := fn(e); err != nil {
				return err
			}
		}
		return nil
	}
}

// world is a clean outbox, log and sink: n events over 7 keys.
func world(n int) (committed, log, applied []audit.Event) {
	seq := map[string]int64{}
	for i := range n {
		k := fmt.Sprint("k", i%7)
		seq[k]++
		e := audit.Event{ID: fmt.Sprint("e", i), Key: k, Seq: seq[k]}
		committed = append(committed, e)
		e.Seq = 0 // log and sink do not carry it: the audit knows it from what was committed
		log = append(log, e)
		applied = append(applied, e)
	}
	return committed, log, applied
}

func TestRun_FindsExactlyWhatWasPlanted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		plant func(committed, log, applied *[]audit.Event)
		want  audit.Report
	}{
		{"clean", func(_, _, _ *[]audit.Event) {}, audit.Report{Committed: 700, InLog: 700, Applied: 700}},
		{"three lost on the way into the log", func(_, l, a *[]audit.Event) {
			*l = slices.Delete(*l, 10, 13)
			*a = slices.Delete(*a, 10, 13)
		}, audit.Report{Committed: 700, InLog: 697, Applied: 697, Lost: 3}},
		{"two lost on the way into the sink", func(_, _, a *[]audit.Event) { *a = slices.Delete(*a, 20, 22) },
			audit.Report{Committed: 700, InLog: 700, Applied: 698, Lost: 2}},
		{"doubled in the log", func(_, l, _ *[]audit.Event) { *l = append(*l, (*l)[5]) },
			audit.Report{Committed: 700, InLog: 700, Applied: 700, Duplicated: 1}},
		{"doubled in the sink", func(_, _, a *[]audit.Event) { *a = append(*a, (*a)[5], (*a)[6]) },
			audit.Report{Committed: 700, InLog: 700, Applied: 700, Duplicated: 2}},
		{"a pair of one key swapped in the sink", func(_, _, a *[]audit.Event) { (*a)[7], (*a)[14] = (*a)[14], (*a)[7] },
			audit.Report{Committed: 700, InLog: 700, Applied: 700, Reordered: 1}},
		{"a pair of one key swapped in the log", func(_, l, _ *[]audit.Event) { (*l)[7], (*l)[14] = (*l)[14], (*l)[7] },
			audit.Report{Committed: 700, InLog: 700, Applied: 700, Reordered: 1}},
		{"pairs of different keys swapped", func(_, l, a *[]audit.Event) {
			(*l)[7], (*l)[8] = (*l)[8], (*l)[7]
			(*a)[9], (*a)[10] = (*a)[10], (*a)[9]
		}, audit.Report{Committed: 700, InLog: 700, Applied: 700}},
		{"a phantom", func(_, l, _ *[]audit.Event) { *l = append(*l, audit.Event{ID: "never", Key: "k1"}) },
			audit.Report{Committed: 700, InLog: 701, Applied: 700, Phantoms: 1, Lost: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			committed, log, applied := world(700)
			c.plant(&committed, &log, &applied)
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(committed), func(i, j int) { committed[i], committed[j] = committed[j], committed[i] })
			got, err := audit.Run(context.Background(), audit.Options{Committed: scan(committed), CommittedIsAll: true, Log: scan(log), Applied: scan(applied)})
			if err != nil {
				t.Fatal(err)
			}
			if got.Clean() != (len(got.Findings) == 0) {
				t.Errorf("clean %v with findings %v", got.Clean(), got.Findings)
			}
			got.Findings = nil
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("\ngot  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestRun_DeletedRowsAreNoPhantoms(t *testing.T) {
	t.Parallel()
	committed, log, applied := world(100)
	got, err := audit.Run(context.Background(), audit.Options{Committed: scan(committed[:60]), Log: scan(log), Applied: scan(applied)})
	if err != nil {
		t.Fatal(err)
	}
	if !got.Clean() || got.NoRow != 40 || got.Applied != 100 {
		t.Errorf("%+v", got)
	}
}

func TestRun_RefusesIDsThatAreNotUnique(t *testing.T) {
	t.Parallel()
	committed, log, _ := world(10)
	if _, err := audit.Run(context.Background(), audit.Options{Committed: scan(append(committed, committed[3])), Log: scan(log)}); err == nil {
		t.Error("a committed id that stands twice was accepted")
	}
}
