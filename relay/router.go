package relay

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
)

// unroutable says why a row cannot become a record.
type unroutable struct {
	code  string
	cause string
	fix   string
	topic string // the topic it was meant for, if known
}

func (u *unroutable) Error() string { return u.cause }

// halt is the error that stops the source at this row, with the ways out.
func (u *unroutable) halt(source outrelay.SourceID, t *outrelay.Txn, ev *outrelay.Event, table *tablePlan) error {
	id := "(unknown)"
	if v, ok := ev.Get(table.Columns.ID); ok && v != nil {
		id = clip(v)
	}
	return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: u.code,
		Place: fmt.Sprintf("source %s, table %s, at %s, row %s (no. %d of its transaction)", source, ev.Schema.Table, t.Place, id, ev.Ordinal),
		Cause: u.cause,
		Fix:   fmt.Sprintf("%s; or set on_unroutable: dead_letter to move such rows to %s and go on; then restart", u.fix, DeadLetterTopic(source))}
}

// topicEntry is a topic that the router has met. It is shared by all rows that go there.
type topicEntry struct {
	name       string
	partitions int32       // 0: not known
	bad        *unroutable // no row can go there
}

// ensureFunc makes sure that a topic exists before records go there. It blocks.
type ensureFunc func(ctx context.Context, name string, t *tablePlan) (partitions int32, bad *unroutable, err error)

// topicsMax bounds what the router remembers: topic names come from rows.
const topicsMax = 10_000

// router turns rows into records, without allocating where the row is of a kind it has met. One goroutine owns it.
type router struct {
	source   outrelay.SourceID
	strict   bool // no headers of ours
	bytesMax int
	ensure   ensureFunc

	tables map[string]*tablePlan // by Table.Name
	plans  map[*outrelay.Schema]*plan
	topics map[string]*topicEntry
	last   *plan

	sourceValue []byte
	txn         txnHeaders
	scratch     []byte
}

// txnHeaders are the header values that all events of a transaction share.
type txnHeaders struct {
	place, at []byte
	placeText string
	atTime    time.Time
}

func newRouter(o Options, ensure ensureFunc) (*router, error) {
	r := &router{
		source: o.Source, strict: o.Dialect == DialectDebeziumStrict, bytesMax: o.RecordBytesMax, ensure: ensure,
		tables: map[string]*tablePlan{}, plans: map[*outrelay.Schema]*plan{}, topics: map[string]*topicEntry{},
		sourceValue: []byte(o.Source),
	}
	if o.Dialect != DialectOutrelay && o.Dialect != DialectDebeziumStrict {
		return nil, fmt.Errorf("dialect %q: %w: it is %s or %s", o.Dialect, outrelay.ErrConfig, DialectOutrelay, DialectDebeziumStrict)
	}
	for _, t := range append([]Table{{}}, o.Tables...) { // the empty one is the default, unless there is another
		tp, err := newTablePlan(t, o)
		if err != nil {
			return nil, err
		}
		r.tables[t.Name] = tp
	}
	return r, nil
}

// table returns the plan for an outbox table; the default one where it has none of its own.
func (r *router) table(name string) *tablePlan {
	if t, ok := r.tables[name]; ok {
		return t
	}
	return r.tables[""]
}

func (r *router) forgetTopics() {
	clear(r.topics)
	clear(r.plans)
	r.last = nil
}

// begin prepares the headers of t's events. The values live as long as the records that hold them.
func (r *router) begin(t *outrelay.Txn) {
	if r.strict {
		return
	}
	if t.Place != r.txn.placeText || r.txn.place == nil {
		r.txn.placeText, r.txn.place = t.Place, []byte(t.Place)
	}
	if !t.CommittedAt.Equal(r.txn.atTime) || r.txn.at == nil {
		r.txn.atTime, r.txn.at = t.CommittedAt, t.CommittedAt.UTC().AppendFormat(nil, timeFormat)
	}
}

// route appends the record of ev to g. It returns *unroutable when the row cannot become one, and another error when the log could not be
// asked about the topic.
func (r *router) route(ctx context.Context, g *gather, ev *outrelay.Event) error {
	p := r.last
	if p == nil || p.schema != ev.Schema {
		p = r.plan(ev.Schema)
		r.last = p
	}
	if p.bad != nil {
		return p.bad
	}
	topic, err := r.topic(ctx, p, ev)
	if err != nil {
		return err
	}
	g.recs = append(g.recs, kgo.Record{Topic: topic.name, Partition: kafka.AnyPartition})
	rec := &g.recs[len(g.recs)-1]
	rec.Key = p.key(g, ev)
	if rec.Value, err = p.value(g, ev); err != nil {
		return r.undo(g, topic, err)
	}
	h0 := len(g.hdrs)
	if err := r.headers(g, p, ev, rec, topic.partitions); err != nil {
		g.hdrs = g.hdrs[:h0]
		return r.undo(g, topic, err)
	}
	rec.Headers = g.hdrs[h0:len(g.hdrs):len(g.hdrs)]
	n := recordBytes(rec)
	if n > r.bytesMax {
		g.hdrs = g.hdrs[:h0]
		return r.undo(g, topic, &unroutable{
			code:  "record-too-large",
			cause: fmt.Sprintf("the record has %d bytes (payload %d, key %d), the limit is %d", n, len(rec.Value), len(rec.Key), r.bytesMax),
			fix:   "raise record_bytes_max (and max.message.bytes of the topic)",
		})
	}
	g.bytes += n
	return nil
}

// undo drops the record that route has just begun.
func (r *router) undo(g *gather, topic *topicEntry, err error) error {
	n := len(g.recs) - 1
	g.recs[n] = kgo.Record{}
	g.recs = g.recs[:n]
	if u, ok := err.(*unroutable); ok && u.topic == "" {
		u.topic = topic.name
	}
	return err
}

// recordOverhead is about what a record costs in a batch beside its key, value and headers.
const recordOverhead = 24

func recordBytes(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value) + recordOverhead
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value) + 4
	}
	return n
}

func (r *router) headers(g *gather, p *plan, ev *outrelay.Event, rec *kgo.Record, partitions int32) error {
	id := p.idValue(g, ev)
	g.hdrs = append(g.hdrs, kgo.RecordHeader{Key: kafka.HeaderID, Value: id})
	for i := range p.additional {
		a := &p.additional[i]
		v := ev.Values[a.col]
		switch a.where {
		case PlaceHeader:
			g.hdrs = append(g.hdrs, kgo.RecordHeader{Key: a.alias, Value: a.kind.text(v)})
		case PlacePartition:
			n, err := strconv.ParseInt(string(v), 10, 32)
			if err != nil || n < 0 || partitions > 0 && int32(n) >= partitions {
				return &unroutable{code: "bad-partition", cause: fmt.Sprintf("column %s holds %q, which is no partition of the topic's %d", a.name, clip(v), partitions),
					fix: "write a partition number to that column, or remove it from additional placement"}
			}
			rec.Partition = int32(n)
		}
	}
	if r.strict {
		return nil
	}
	if p.typ >= 0 && ev.Values[p.typ] != nil {
		g.hdrs = append(g.hdrs, kgo.RecordHeader{Key: kafka.HeaderType, Value: ev.Values[p.typ]})
	}
	g.hdrs = append(g.hdrs,
		kgo.RecordHeader{Key: kafka.HeaderSource, Value: r.sourceValue},
		kgo.RecordHeader{Key: kafka.HeaderPlace, Value: r.txn.place},
		kgo.RecordHeader{Key: kafka.HeaderOrdinal, Value: g.arena.take(strconv.AppendInt(g.arena.reserve(20), int64(ev.Ordinal), 10))},
		kgo.RecordHeader{Key: kafka.HeaderCommittedAt, Value: r.txn.at})
	if p.idSerial || id == nil {
		g.hdrs = append(g.hdrs, kgo.RecordHeader{Key: kafka.HeaderEventID, Value: r.derivedID(g, ev)})
	}
	return nil
}

// derivedID makes an id of the source's identity and place: a serial number alone is used again after an asynchronous failover.
func (r *router) derivedID(g *gather, ev *outrelay.Event) []byte {
	b := g.arena.reserve(len(r.sourceValue) + len(r.txn.place) + 22)
	b = append(b, r.sourceValue...)
	b = append(b, '/')
	b = append(b, r.txn.place...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(ev.Ordinal), 10)
	return g.arena.take(b)
}

// topic finds where ev goes, and makes sure, once, that it can.
func (r *router) topic(ctx context.Context, p *plan, ev *outrelay.Event) (*topicEntry, error) {
	if p.byValue != nil { // one column decides: its value is all that need be looked up
		v := ev.Values[p.topicCol]
		if e, ok := p.byValue[string(v)]; ok && v != nil {
			return e.ok()
		}
	}
	name, bad := p.topicName(r.scratch[:0], ev)
	r.scratch = name
	if bad != nil {
		return nil, bad
	}
	e, ok := r.topics[string(name)]
	if !ok {
		var err error
		if e, err = r.meet(ctx, p.table, string(name)); err != nil {
			return nil, err
		}
	}
	if p.byValue != nil && len(p.byValue) < topicsMax {
		p.byValue[string(ev.Values[p.topicCol])] = e
	}
	return e.ok()
}

func (e *topicEntry) ok() (*topicEntry, error) {
	if e.bad != nil {
		return nil, e.bad
	}
	return e, nil
}

func (r *router) meet(ctx context.Context, t *tablePlan, name string) (*topicEntry, error) {
	e := &topicEntry{name: name}
	if err := kafka.CheckTopicName(name); err != nil {
		e.bad = &unroutable{code: "bad-topic", cause: err.Error(), fix: "correct the rows' routing column or the topic template", topic: name}
	} else if r.ensure != nil {
		var err error
		if e.partitions, e.bad, err = r.ensure(ctx, name, t); err != nil {
			return nil, err
		}
	}
	if len(r.topics) >= topicsMax {
		r.forgetTopics()
	}
	r.topics[name] = e
	return e, nil
}

// clip shortens a value for an error text.
func clip(v []byte) string {
	if len(v) > 64 {
		return string(v[:64]) + "…"
	}
	return string(v)
}
