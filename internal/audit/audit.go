// Package audit counts, from outside, what became of every committed event: once in the log, once in the sink, in the order of its key. It
// uses nothing that relay or consumer know; it reads a table, the log as any Kafka client, and a table of the sink.
package audit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"
)

// Event is one event as a table or the log shows it.
type Event struct {
	ID   string
	Key  string
	Seq  int64  // grows with each committed event of the key; 0 where nobody keeps it
	From string // where it was seen, for people: "outbox.event.order/3@17"
}

// Scan calls fn for each event it finds, in its own order, until fn fails. It holds no more than one at a time.
type Scan func(ctx context.Context, fn func(Event) error) error

// Options says what is compared. Committed and Log are needed.
type Options struct {
	// Committed yields what the source committed, in any order.
	Committed Scan
	// CommittedIsAll says that Committed misses nothing: a table of its own, from which no row was deleted. Only then a record
	// without a row is a phantom; otherwise its row may have been deleted.
	CommittedIsAll bool
	// Log yields the committed records in offset order, partition after partition.
	Log Scan
	// Applied yields the effects in the sink in the order in which they came. nil: only the way into the log is compared.
	Applied Scan
	// Wait is how long an event that is missing further down may still arrive before it counts as lost.
	Wait time.Duration
	// Examples bounds how many findings of each kind are named. 0 means 10.
	Examples int
	// Progress, when set, is called now and then with what is being read and how much was.
	Progress func(what string, n int64)
}

// Report is what was found. Lost, Duplicated and Reordered are zero when all is well.
type Report struct {
	Committed  int64     `json:"committed"`
	InLog      int64     `json:"in_log"`  // distinct events
	Applied    int64     `json:"applied"` // distinct events
	Lost       int64     `json:"lost"`    // committed, but not in the log, or in the log, but not applied
	Duplicated int64     `json:"duplicated"`
	Reordered  int64     `json:"reordered"` // an event after a later one of its key
	Phantoms   int64     `json:"phantoms"`  // in the log or the sink without a committed row
	NoRow      int64     `json:"no_row"`    // in the log; the row may have been deleted
	Findings   []Finding `json:"findings,omitempty"`
}

// Finding names one event of which something is wrong.
type Finding struct {
	Kind string `json:"kind"` // lost, duplicated, reordered, phantom
	ID   string `json:"id"`
	Key  string `json:"key,omitempty"`
	Text string `json:"text"`
}

// Clean reports whether nothing is wrong.
func (r Report) Clean() bool {
	return r.Lost == 0 && r.Duplicated == 0 && r.Reordered == 0 && r.Phantoms == 0
}

// eventKey stands for an event id in memory: 16 bytes whatever the id's length.
type eventKey [16]byte

func keyOf(id string) eventKey {
	h := sha256.Sum256([]byte(id))
	return eventKey(h[:16])
}

// seen is what is known of one event: 16 bytes, so that ten million events fit into a few hundred megabytes.
type seen struct {
	seq       int64
	committed bool
	inLog     uint8 // saturates
	applied   uint8
}

type run struct {
	o      Options
	events map[eventKey]seen
	report Report
	counts map[string]int
}

// Run compares, again and again until nothing is missing or Wait is over. The error says what could not be read; what was
// found wrong is in the report.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Examples == 0 {
		o.Examples = 10
	}
	deadline := time.Now().Add(o.Wait)
	for {
		r := &run{o: o, events: map[eventKey]seen{}, counts: map[string]int{}}
		if err := r.once(ctx); err != nil {
			return r.report, err
		}
		if r.report.Lost == 0 || !time.Now().Before(deadline) {
			return r.report, nil
		}
		t := time.NewTimer(300 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return r.report, ctx.Err()
		}
	}
}

func (r *run) once(ctx context.Context) error {
	if err := r.scan(ctx, "committed", r.o.Committed, r.addCommitted); err != nil {
		return err
	}
	order := map[string]int64{}
	if err := r.scan(ctx, "log", r.o.Log, func(e Event) error { r.addLog(e, order); return nil }); err != nil {
		return err
	}
	if r.o.Applied != nil {
		order = map[string]int64{}
		if err := r.scan(ctx, "applied", r.o.Applied, func(e Event) error { r.addApplied(e, order); return nil }); err != nil {
			return err
		}
	}
	return r.missing(ctx)
}

func (r *run) scan(ctx context.Context, what string, s Scan, fn func(Event) error) error {
	n := int64(0)
	err := s(ctx, func(e Event) error {
		if n++; n%10_000 == 0 && r.o.Progress != nil {
			r.o.Progress(what, n)
		}
		return fn(e)
	})
	if err != nil {
		return fmt.Errorf("audit: %s: %w", what, err)
	}
	return nil
}

func (r *run) find(kind string, e Event, format string, args ...any) {
	if r.counts[kind]++; r.counts[kind] <= r.o.Examples {
		r.report.Findings = append(r.report.Findings, Finding{Kind: kind, ID: e.ID, Key: e.Key, Text: fmt.Sprintf(format, args...)})
	}
}

func (r *run) addCommitted(e Event) error {
	k := keyOf(e.ID)
	if r.events[k].committed {
		return fmt.Errorf("event id %s is committed twice: ids must be unique", e.ID)
	}
	r.events[k] = seen{seq: e.Seq, committed: true}
	r.report.Committed++
	return nil
}

// inOrder reports whether seq may follow what was seen of the key, and remembers it. Events without a sequence are always in order.
func inOrder(order map[string]int64, key string, seq int64) (last int64, ok bool) {
	last = order[key]
	if seq == 0 || seq >= last {
		order[key] = max(seq, last)
		return last, true
	}
	return last, false
}

func (r *run) addLog(e Event, order map[string]int64) {
	k := keyOf(e.ID)
	s, known := r.events[k]
	if !known {
		if r.o.CommittedIsAll {
			r.report.Phantoms++
			r.find("phantom", e, "%s has no committed row", e.From)
		} else {
			r.report.NoRow++
		}
	}
	if s.seq == 0 {
		s.seq = e.Seq
	}
	if s.inLog > 0 {
		r.report.Duplicated++
		r.find("duplicated", e, "%s is in the log already", e.From)
	} else {
		r.report.InLog++
		// A second copy is a duplicate, not a disorder as well.
		if last, ok := inOrder(order, e.Key, s.seq); !ok {
			r.report.Reordered++
			r.find("reordered", e, "%s: event %d of its key stands after event %d", e.From, s.seq, last)
		}
	}
	if s.inLog < 255 {
		s.inLog++
	}
	r.events[k] = s
}

func (r *run) addApplied(e Event, order map[string]int64) {
	k := keyOf(e.ID)
	s, known := r.events[k]
	if !known {
		r.report.Phantoms++
		r.find("phantom", e, "applied (%s), but neither committed nor in the log", e.From)
	}
	if s.applied > 0 {
		r.report.Duplicated++
		r.find("duplicated", e, "applied again (%s)", e.From)
	} else {
		r.report.Applied++
		if last, ok := inOrder(order, e.Key, s.seq); !ok {
			r.report.Reordered++
			r.find("reordered", e, "applied (%s): event %d of its key after event %d", e.From, s.seq, last)
		}
	}
	if s.applied < 255 {
		s.applied++
	}
	r.events[k] = s
}

// missing counts what did not arrive. Events that exist only by their hash are named by a second look at what was committed, when there is
// something to name.
func (r *run) missing(ctx context.Context) error {
	var notInLog, notApplied int64
	for _, s := range r.events {
		switch {
		case s.committed && s.inLog == 0:
			notInLog++
		case r.o.Applied != nil && s.inLog > 0 && s.applied == 0:
			notApplied++
		}
	}
	r.report.Lost = notInLog + notApplied
	if r.report.Lost == 0 {
		return nil
	}
	return r.scan(ctx, "committed", r.o.Committed, func(e Event) error {
		s := r.events[keyOf(e.ID)]
		switch {
		case s.committed && s.inLog == 0:
			r.find("lost", e, "committed, but not in the log")
		case r.o.Applied != nil && s.inLog > 0 && s.applied == 0:
			r.find("lost", e, "in the log, but not applied")
		}
		return nil
	})
}
