package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/doctor"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/relay"
	"github.com/outrelay/outrelay/sources"
)

// examineMax bounds the checks of one place, positionMax the question for a source's position.
const (
	examineMax  = 20 * time.Second
	positionMax = 5 * time.Second
)

// Doctor makes the checks of docs/operations/doctor.md: of each source's database, each group's sink and the log. ko is how the log is reached. It changes nothing, and
// takes a few seconds; what cannot be reached is a finding, no error.
func (d *Daemon) Doctor(ctx context.Context, ko kafka.Options) []doctor.Finding {
	var examine []func(context.Context) []doctor.Finding
	for _, name := range slices.Sorted(maps.Keys(d.c.Sources)) {
		examine = append(examine, func(ctx context.Context) []doctor.Finding { return d.examineSource(ctx, ko, name) })
	}
	for _, name := range slices.Sorted(maps.Keys(d.c.Consumers)) {
		examine = append(examine, func(ctx context.Context) []doctor.Finding { return d.examineGroup(ctx, name) })
	}
	examine = append(examine, func(ctx context.Context) []doctor.Finding { return d.examineLog(ctx, ko) })
	found := make([][]doctor.Finding, len(examine))
	var wg sync.WaitGroup
	for i, fn := range examine {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, examineMax)
			defer cancel()
			found[i] = fn(ctx)
		})
	}
	wg.Wait()
	return slices.Concat(found...)
}

func (d *Daemon) examineSource(ctx context.Context, ko kafka.Options, name string) []doctor.Finding {
	place := doctor.Report{Place: "source " + name}
	src, err := d.examinedSource(name)
	if err != nil {
		place.Fail("P1", "correct the file", "%v", err)
		return place.Findings
	}
	x, ok := src.(sources.Examiner)
	if !ok {
		place.Skip("P1", "there are no checks for this kind of source")
		return place.Findings
	}
	columns := map[string][]string{}
	for _, t := range d.c.Sources[name].Outbox {
		columns[t.Table] = columnsOf(t)
	}
	return x.Examine(ctx, func(ctx context.Context) outrelay.Position { return d.positionOf(ctx, ko, name) }, columns)
}

// examinedSource returns the source that runs here, or one like it.
func (d *Daemon) examinedSource(name string) (sources.Source, error) {
	d.mu.Lock()
	src := d.from[name]
	d.mu.Unlock()
	if src != nil {
		return src, nil
	}
	return d.NewSource(name)
}

// columnsOf names the columns that an outbox table must have.
func columnsOf(t config.Outbox) []string {
	names := []string{t.Columns.ID, t.Columns.AggregateType, t.Columns.Key, t.Columns.Type, t.Columns.Payload, t.Columns.Timestamp}
	for _, p := range t.Additional {
		if !t.AdditionalOptional {
			names = append(names, p.Column)
		}
	}
	return slices.DeleteFunc(names, func(n string) bool { return n == "" })
}

// positionOf returns the position that the log holds of a source, zero where the log cannot be asked or has none.
func (d *Daemon) positionOf(ctx context.Context, ko kafka.Options, name string) outrelay.Position {
	ctx, cancel := context.WithTimeout(ctx, positionMax)
	defer cancel()
	cl, err := kafka.NewClient(ko)
	if err != nil {
		return outrelay.Position{}
	}
	defer cl.Close()
	p, ok, err := relay.ReadPosition(ctx, cl, ko.PositionsTopic(), outrelay.SourceID(name))
	if err != nil || !ok {
		return outrelay.Position{}
	}
	return p.Position
}

func (d *Daemon) examineGroup(ctx context.Context, name string) []doctor.Finding {
	place := fmt.Sprintf("group %s, sink", name)
	s, err := d.sink(name, "doctor", false)
	if err != nil {
		r := doctor.Report{Place: place}
		r.Fail("S2", "correct the file", "%v", err)
		return r.Findings
	}
	return s.examine(ctx, place)
}
