package config

import "strings"

// debeziumOption is an option of Debezium that someone may paste, and what to write instead. docs/event-router.md lists the same ones; a test holds
// the two together.
type debeziumOption struct {
	name string
	ours string // as the page has it; empty: nothing, for the reason in why
	why  string
}

func (o debeziumOption) fix() string {
	switch {
	case o.ours == "":
		return o.why + "; see docs/event-router.md"
	case strings.HasPrefix(o.name, "table.field") || strings.HasPrefix(o.name, "table.expand") || strings.HasPrefix(o.name, "route."):
		return "write " + o.ours + " under the outbox table; see docs/event-router.md"
	}
	return "write " + o.ours + " under the source; see docs/event-router.md"
}

const (
	whyPayload = "it is not needed: the payload is published as it is"
	whyTracing = "it is refused: place the column with the trace context in a header, as additional: [{column: traceparent, place: header}]"
	whyConnect = "it is not needed: this is a setting of Kafka Connect, and only outbox tables are read"
)

// debeziumOptions are those of the event router, without `transforms.<name>.`, and those of the PostgreSQL connector that have a counterpart.
func debeziumOptions() []debeziumOption {
	return []debeziumOption{
		{"table.field.event.id", "`columns: {id: …}`", ""},
		{"table.field.event.key", "`columns: {key: …}`", ""},
		{"table.field.event.payload.id", "`columns: {key: …}`", ""},
		{"table.field.event.type", "`columns: {type: …}`", ""},
		{"table.field.event.payload", "`columns: {payload: …}`", ""},
		{"table.field.payload", "`columns: {payload: …}`", ""},
		{"table.field.event.timestamp", "`columns: {timestamp: …}`", ""},
		{"table.field.event.schema.version", "", "it is refused: there is no Connect schema here; place the column in a header with additional"},
		{"table.fields.additional.placement", "`additional: [{column: c, place: header, alias: a}]`", ""},
		{"table.fields.additional.error.on.missing", "`additional_optional: true`", ""},
		{"table.expand.json.payload", "`expand_json: true`", ""},
		{"table.json.payload.null.behavior", "", whyPayload},
		{"table.op.invalid.behavior", "", "it is not needed: an UPDATE or TRUNCATE of an outbox table is logged and counted"},
		{"debezium.op.invalid.behavior", "", "it is not needed: an UPDATE or TRUNCATE of an outbox table is logged and counted"},
		{"route.by.field", "`route: {by: …}`", ""},
		{"route.topic.regex", "`route: {regex: …}`", ""},
		{"route.topic.replacement", "`route: {replacement: …}`", ""},
		{"route.tombstone.on.empty.payload", "`tombstone_on_empty: true`", ""},
		{"tracing.span.context.field", "", whyTracing},
		{"tracing.operation.name", "", whyTracing},
		{"tracing.with.context.field.only", "", whyTracing},
		{"predicate", "", whyConnect},
		{"negate", "", whyConnect},
		{"transforms", "", whyConnect},
		{"predicates", "", whyConnect},
		{"connector.class", "`postgres: …`", ""},
		{"plugin.name", "", "it is not needed: the plugin is pgoutput"},
		{"slot.name", "`slot: …`", ""},
		{"publication.name", "`publication: …`", ""},
		{"table.include.list", "`outbox: [{table: …}]`", ""},
		{"database.hostname", "`postgres: …`", ""},
		{"database.port", "`postgres: …`", ""},
		{"database.user", "`postgres: …`", ""},
		{"database.password", "`postgres: …`", ""},
		{"database.dbname", "`postgres: …`", ""},
		{"tombstones.on.delete", "", "it is not needed: a deleted outbox row is no event"},
	}
}

// debeziumOf returns the option that a key names, with or without `transforms.<name>.` before it.
func debeziumOf(key string) (debeziumOption, bool) {
	bare := key
	if parts := strings.SplitN(key, ".", 3); len(parts) == 3 && parts[0] == "transforms" {
		bare = parts[2]
	}
	for _, o := range debeziumOptions() {
		if o.name == bare {
			return o, true
		}
	}
	if bare != key { // another option of a transform
		return debeziumOption{name: key, why: whyConnect}, true
	}
	return debeziumOption{}, false
}
