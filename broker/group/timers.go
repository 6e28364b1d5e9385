package group

import (
	"container/heap"
	"time"
)

// timer calls fire once at its time. The zero value is stopped.
type timer struct {
	at    time.Time
	seq   uint64 // breaks ties, so that a run repeats exactly
	index int    // in the heap, from 1; 0 means stopped
	fire  func(now time.Time)
}

// timers are the coordinator's timers, soonest first.
type timers struct {
	heap []*timer
	seq  uint64
}

func (ts *timers) set(t *timer, at time.Time) {
	ts.seq++
	t.at, t.seq = at, ts.seq
	if t.index > 0 {
		heap.Fix(ts, t.index-1)
		return
	}
	heap.Push(ts, t)
}

func (ts *timers) stop(t *timer) {
	if t.index > 0 {
		heap.Remove(ts, t.index-1)
	}
}

// next returns the soonest time, and false when no timer runs.
func (ts *timers) next() (time.Time, bool) {
	if len(ts.heap) == 0 {
		return time.Time{}, false
	}
	return ts.heap[0].at, true
}

// run fires every timer that is due at now.
func (ts *timers) run(now time.Time) {
	for len(ts.heap) > 0 && !ts.heap[0].at.After(now) {
		heap.Pop(ts).(*timer).fire(now)
	}
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (ts *timers) Len() int { return len(ts.heap) }
func (ts *timers) Less(i, j int) bool {
	a, b := ts.heap[i], ts.heap[j]
	if !a.at.Equal(b.at) {
		return a.at.Before(b.at)
	}
	return a.seq < b.seq
}
func (ts *timers) Swap(i, j int) {
	h := ts.heap
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}
func (ts *timers) Push(x any) {
	t := x.(*timer)
	ts.heap = append(ts.heap, t)
	t.index = len(ts.heap)
}
func (ts *timers) Pop() any {
	n := len(ts.heap) - 1
	t := ts.heap[n]
	ts.heap[n] = nil
	ts.heap = ts.heap[:n]
	t.index = 0
	return t
}
