package system_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/daemon"
	"github.com/outrelay/outrelay/internal/demo"
)

// seats are the sources that run in a process, and since when.
type seats map[string]time.Time

// seatsOf returns the sources that a process runs, and how many partitions of the group it has.
func seatsOf(t *testing.T, p *demo.Process) (seats, int) {
	t.Helper()
	var s daemon.Status
	if err := p.Status(t.Context(), &s); err != nil {
		return nil, 0
	}
	running := seats{}
	for _, src := range s.Sources {
		if src.State == "running" {
			running[string(src.Source)] = src.Since
		}
	}
	n := 0
	for _, g := range s.Groups {
		n += len(g.Partitions)
	}
	return running, n
}

// manySources gives the world further sources, each with a table of its own, so that there is something to share.
func (s *sidecar) manySources(n int) []string {
	s.t.Helper()
	names := []string{"shop"}
	var more strings.Builder
	for i := range n {
		name := fmt.Sprintf("shop%d", i)
		names = append(names, name)
		s.pg.Exec(s.t, s.db, fmt.Sprintf("create table outbox_%d (like outbox including all)", i))
		fmt.Fprintf(&more, "  %s:\n    postgres: ${env:SHOP_DSN}\n    slot: %s_%d\n    publication: %s_%d\n    outbox: [{table: public.outbox_%d, topic: side.events}]\n", name, s.db, i, s.db, i, i)
	}
	s.edit(strings.Replace(s.Config, "consumers:\n", more.String()+"consumers:\n", 1))
	return names
}

// Two processes share sources and partitions; a dead one's move, a live one's are never taken; one that comes back at once finds its seat.
func TestSidecar_shareMoveAndReturn(t *testing.T) {
	s := newSidecar(t)
	names := s.manySources(5)
	a, b := s.Process, s.second()
	s.start()
	l := s.load(100)
	s.appliedMore(50, 30*time.Second)
	if _, err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var ofA, ofB seats
	await(t, "sources and partitions are shared", 60*time.Second, func() bool {
		var pa, pb int
		ofA, pa = seatsOf(t, a)
		ofB, pb = seatsOf(t, b)
		return len(ofA) > 0 && len(ofB) > 0 && len(ofA)+len(ofB) == len(names) && pa == 8 && pb == 8
	})
	for name := range ofA {
		if _, both := ofB[name]; both {
			t.Errorf("source %s runs in both processes", name)
		}
	}
	s.appliedMore(50, 30*time.Second)

	// Killed and started at once: nobody has taken its seat meanwhile.
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	took, err := b.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("back after %s", took)
	await(t, "the same sources run in the process that came back", 30*time.Second, func() bool {
		now, _ := seatsOf(t, b)
		return slices.Equal(slices.Sorted(maps.Keys(now)), slices.Sorted(maps.Keys(ofB)))
	})
	if now, n := seatsOf(t, a); !maps.EqualFunc(now, ofA, time.Time.Equal) || n != 8 {
		t.Errorf("the other process was disturbed: %v and %d partitions, before %v", now, n, ofA)
	}
	s.appliedMore(50, 30*time.Second)

	// Killed for good: what it had moves, what the other had stays.
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, "everything has moved", 90*time.Second, func() bool {
		now, n := seatsOf(t, a)
		return len(now) == len(names) && n == 16
	})
	now, _ := seatsOf(t, a)
	for name, since := range ofA {
		if !now[name].Equal(since) {
			t.Errorf("source %s of the living process was interrupted: runs since %s, ran since %s", name, now[name], since)
		}
	}
	s.appliedMore(50, 30*time.Second)
	s.stopLoad(l)
	s.verify()
}
