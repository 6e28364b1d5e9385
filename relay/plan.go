package relay

import (
	"fmt"
	"slices"
	"strings"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/topicname"
)

// tablePlan is a checked Table with its defaults.
type tablePlan struct {
	Table
	segments []segment
	rule     *topicname.Rule // of TopicRegex and TopicReplacement
	envelope bool
}

// segment of a topic template: a text or a column.
type segment struct{ text, column string }

const defaultTopic = "outbox.event.{aggregatetype}"

func newTablePlan(t Table, o Options) (*tablePlan, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("outbox table %q: %s: %w", t.Name, fmt.Sprintf(format, args...), outrelay.ErrConfig)
	}
	def(&t.Columns.ID, "id")
	def(&t.Columns.AggregateID, "aggregateid")
	def(&t.Columns.Key, t.Columns.AggregateID)
	def(&t.Columns.Type, "type")
	def(&t.Columns.Payload, "payload")
	def(&t.Partitions, o.Partitions)
	def(&t.OnUnroutable, o.OnUnroutable)
	if t.OnUnroutable != UnroutableHalt && t.OnUnroutable != UnroutableDeadLetter {
		return nil, bad("on_unroutable is %s or %s, not %q", UnroutableHalt, UnroutableDeadLetter, t.OnUnroutable)
	}
	p := &tablePlan{Table: t}
	if t.TopicRegex != "" || t.TopicReplacement != "" {
		if t.Topic != "" {
			return nil, bad("topic and a topic regex together")
		}
		rule, err := topicname.Compile(t.TopicRegex, t.TopicReplacement)
		if err != nil {
			return nil, bad("topic %v", err)
		}
		p.rule = rule
	}
	if p.rule != nil || t.RouteBy != "" {
		def(&p.RouteBy, "aggregatetype")
		p.segments = []segment{{column: p.RouteBy}}
		if p.rule == nil && t.Topic == "" {
			p.segments = []segment{{text: "outbox.event."}, {column: p.RouteBy}}
		}
	}
	if p.segments == nil || t.Topic != "" {
		def(&p.Topic, defaultTopic)
		segs, err := parseTemplate(p.Topic)
		if err != nil {
			return nil, bad("topic %q: %v", p.Topic, err)
		}
		p.segments = segs
	}
	for i, a := range t.Additional {
		if a.Alias == "" {
			p.Additional = slices.Clone(p.Additional)
			p.Additional[i].Alias = a.Column
		}
		switch a.Where {
		case PlaceHeader, PlacePartition:
		case PlaceEnvelope:
			p.envelope = true
		default:
			return nil, bad("additional column %q goes to %s, %s or %s, not %q", a.Column, PlaceHeader, PlaceEnvelope, PlacePartition, a.Where)
		}
	}
	return p, nil
}

func parseTemplate(s string) ([]segment, error) {
	var out []segment
	rest := s
	for rest != "" {
		text, after, found := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return nil, fmt.Errorf("a } without {")
		}
		if text != "" {
			out = append(out, segment{text: text})
		}
		if !found {
			break
		}
		col, next, closed := strings.Cut(after, "}")
		if !closed || col == "" || strings.Contains(col, "{") {
			return nil, fmt.Errorf("a { without a column name and }")
		}
		out = append(out, segment{column: col})
		rest = next
	}
	if len(out) == 1 && out[0].column == "" {
		if err := kafka.CheckTopicName(out[0].text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// kind is how a column's text becomes bytes of a record.
type kind uint8

const (
	kindText   kind = iota // as the server prints it
	kindBytea              // PostgreSQL's \x hex, decoded
	kindBool               // PostgreSQL's t and f, said true and false as Debezium says them
	kindJSON               // text; raw in an envelope when ExpandJSON
	kindNumber             // text; bare in an envelope
)

func kindOf(typ string) kind {
	switch strings.TrimSuffix(strings.ToLower(typ), " unsigned") {
	case "bytea":
		return kindBytea
	case "bool", "boolean":
		return kindBool
	case "json", "jsonb":
		return kindJSON
	case "int2", "int4", "int8", "smallint", "integer", "int", "bigint", "tinyint", "mediumint", "oid", "serial", "bigserial":
		return kindNumber
	}
	return kindText
}

// plan is how rows of one version of a table become records.
type plan struct {
	schema *outrelay.Schema
	table  *tablePlan
	bad    *unroutable // a column is missing: no row of this schema can be routed

	id, keyCol, fallback, typ, payload int // column indexes; -1: none
	idSerial                           bool
	idKind, keyKind, fallbackKind      kind
	payloadKind                        kind
	topicCol                           int                    // the only column of the topic, where there is one
	byValue                            map[string]*topicEntry // by that column's value
	cols                               []int                  // columns of table.segments; -1 for text
	additional                         []placed
}

type placed struct {
	col         int
	name, where string
	alias       string
	kind        kind
}

// plansMax bounds the schema versions that are remembered.
const plansMax = 1024

func (r *router) plan(s *outrelay.Schema) *plan {
	if p, ok := r.plans[s]; ok {
		return p
	}
	p := newPlan(s, r.table(s.Table))
	if len(r.plans) >= plansMax {
		clear(r.plans)
	}
	r.plans[s] = p
	return p
}

func newPlan(s *outrelay.Schema, t *tablePlan) *plan {
	p := &plan{schema: s, table: t, topicCol: -1}
	c := t.Columns
	need := func(column, what string) int {
		i := s.Column(column)
		if i < 0 && p.bad == nil {
			p.bad = &unroutable{code: "missing-column", cause: fmt.Sprintf("the table has no column %q for the %s (it has %s)", column, what, strings.Join(s.Columns, ", ")),
				fix: "name the column under columns: of this outbox table, or add it to the table"}
		}
		return i
	}
	p.id = need(c.ID, "event id")
	p.payload = need(c.Payload, "payload")
	p.typ = s.Column(c.Type)
	p.fallback = s.Column(c.AggregateID)
	p.keyCol = p.fallback
	if c.Key != c.AggregateID || p.fallback < 0 {
		p.keyCol = need(c.Key, "key")
	}
	for _, seg := range t.segments {
		i := -1
		if seg.column != "" {
			i = need(seg.column, "topic")
			p.topicCol = i
		}
		p.cols = append(p.cols, i)
	}
	for _, a := range t.Additional {
		i := s.Column(a.Column)
		if i < 0 && t.AdditionalOK {
			continue
		}
		i = need(a.Column, a.Where)
		if i >= 0 {
			p.additional = append(p.additional, placed{col: i, name: a.Column, where: a.Where, alias: a.Alias, kind: kindOf(s.Types[i])})
		}
	}
	if p.bad != nil {
		return p
	}
	p.idKind, p.payloadKind, p.keyKind = kindOf(s.Types[p.id]), kindOf(s.Types[p.payload]), kindOf(s.Types[p.keyCol])
	p.idSerial = p.idKind == kindNumber
	if p.fallback >= 0 {
		p.fallbackKind = kindOf(s.Types[p.fallback])
	}
	if n := len(p.cols) - count(p.cols, -1); n == 1 {
		p.byValue = map[string]*topicEntry{}
	}
	return p
}

func count(s []int, v int) (n int) {
	for _, x := range s {
		if x == v {
			n++
		}
	}
	return n
}

// topicName appends the name of ev's topic to b.
func (p *plan) topicName(b []byte, ev *outrelay.Event) ([]byte, *unroutable) {
	for i, seg := range p.table.segments {
		if seg.column == "" {
			b = append(b, seg.text...)
			continue
		}
		v := ev.Values[p.cols[i]]
		if v == nil {
			return b, &unroutable{code: "null-topic", cause: fmt.Sprintf("column %s, which the topic is made of, is NULL", seg.column),
				fix: "write a value to that column (ALTER TABLE … SET NOT NULL keeps it so)"}
		}
		b = append(b, v...)
	}
	if p.table.rule != nil {
		return p.table.rule.Replace(nil, b), nil
	}
	return b, nil
}
