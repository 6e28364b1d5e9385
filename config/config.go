// Package config owns what a user writes: the YAML schema, its defaults, its validation with file, line and column, and references to
// secrets. It is data only: it never connects to anything, and no package but internal/daemon and cmd imports it.
//
// viper finds the file and layers environment variables and flags over it; the YAML itself is decoded from its nodes here, because viper
// lowercases keys, splits them at dots and forgets where they stood: handlers `A` and `a` differ, and topics have dots.
package config

// Config is a whole configuration, with defaults filled in. It is not changed after Load.
type Config struct {
	Data     string `yaml:"data" jsonschema_description:"Directory of the log and of this process's identity." example:"./outrelay-data"`
	Instance string `yaml:"instance,omitempty" jsonschema_description:"Name of this process in its groups, so that it is back in its seat after a restart. Default: an id kept in the data directory." example:"shop-1"`
	Roles    []Role `yaml:"roles" jsonschema_description:"What this process does: broker, relay, consumers, admin. Default: all; without broker when log.kafka is set." example:"[relay, consumers]"`

	Log       Log                  `yaml:"log,omitempty" jsonschema_description:"The log that relay and consumers use when it is not the broker of this process."`
	Broker    Broker               `yaml:"broker" jsonschema_description:"The log's own broker."`
	HTTP      HTTP                 `yaml:"http" jsonschema_description:"Health, metrics and status."`
	Topics    map[string]*Topic    `yaml:"topics,omitempty" jsonschema_description:"Topics that are created at start, by name."`
	Sources   map[string]*Source   `yaml:"sources,omitempty" jsonschema_description:"Databases whose outbox tables are tailed, by name."`
	Consumers map[string]*Consumer `yaml:"consumers,omitempty" jsonschema_description:"Groups whose handlers apply records to a sink, by name."`

	file      string
	positions map[string]Pos
	warnings  []Problem
}

// Role is one of the four things a process can do.
type Role string

// The roles.
const (
	RoleBroker    Role = "broker"
	RoleRelay     Role = "relay"
	RoleConsumers Role = "consumers"
	RoleAdmin     Role = "admin"
)

// Broker is the log's own broker.
type Broker struct {
	Listen          string               `yaml:"listen" jsonschema_description:"Address of the Kafka listener." example:"127.0.0.1:9092"`
	Advertise       string               `yaml:"advertise,omitempty" jsonschema_description:"Address that clients are told to connect to. Default: the listener's." example:"log.internal:9092"`
	Insecure        bool                 `yaml:"insecure" jsonschema_description:"Allow a listener that is not on the loopback, without TLS or authentication." example:"false"`
	TLS             ServerTLS            `yaml:"tls,omitempty" jsonschema_description:"TLS on the Kafka listener."`
	SASL            []string             `yaml:"sasl" jsonschema_description:"SASL mechanisms that are offered: SCRAM-SHA-256, SCRAM-SHA-512, PLAIN (over TLS only). Default: all that are possible where a user has a password; [] for none." example:"[SCRAM-SHA-512]"`
	SessionLifetime Duration             `yaml:"session_lifetime,omitempty" jsonschema_description:"How long a SASL authentication is good for; clients renew it by themselves. Default: as long as the connection." example:"1h"`
	Users           map[string]*User     `yaml:"users,omitempty" jsonschema_description:"Users that always exist, by name; more can be added by outrelay users. As soon as clients must authenticate, they may do only what is allowed here or by outrelay acls."`
	Listeners       map[string]*Listener `yaml:"listeners,omitempty" jsonschema_description:"More listeners, by name."`
	Limits          Limits               `yaml:"limits" jsonschema_description:"Bounds on connections."`

	AutoCreate        bool     `yaml:"auto_create" jsonschema_description:"Create a topic when a client first uses it." example:"true"`
	Partitions        int      `yaml:"partitions" jsonschema_description:"Partitions of a topic that is created without a number." example:"16"`
	ReplicationFactor int      `yaml:"replication_factor" jsonschema_description:"Copies of a partition; at most the number of nodes, which is 1." example:"1"`
	Groups            Groups   `yaml:"groups,omitempty" jsonschema_description:"Consumer groups of the new protocol (KIP-848)."`
	Retention         Duration `yaml:"retention" jsonschema_description:"How long records are kept where the topic does not say." example:"7d"`
	Memory            Size     `yaml:"memory" jsonschema_description:"Bound on bytes of Produce requests in flight, and on bytes of records in answers, of which slow readers hold twice that at most. Seven eighths of it is also the size from which the garbage collector works harder (GOMEMLIMIT overrides that)." example:"256MB"`
	Scrub             Size     `yaml:"scrub" jsonschema_description:"Bytes a second at which all segments are read and checked in the background, once a day." example:"8MB"`
	Reserve           Size     `yaml:"reserve" jsonschema_description:"Room that is kept on the disk: while less is free, producers are refused and readers served. At most an eighth of the disk." example:"64MB"`
}

// Groups are the settings of consumer groups whose members use the new protocol; a group's own configs go before them.
type Groups struct {
	Session   Duration `yaml:"session,omitempty" jsonschema_description:"A member that was not heard of for so long is given up." example:"45s"`
	Heartbeat Duration `yaml:"heartbeat,omitempty" jsonschema_description:"How often members are asked to be heard of. Shorter makes rebalances quicker." example:"5s"`
}

// HTTP is the listener for health, metrics and status.
type HTTP struct {
	Listen   string `yaml:"listen" jsonschema_description:"Address of the HTTP listener; empty turns it off." example:"127.0.0.1:8080"`
	Insecure bool   `yaml:"insecure" jsonschema_description:"Allow an address that is not on the loopback: there is no authentication yet." example:"false"`
}

// Topic is a topic that is created at start.
type Topic struct {
	Partitions int               `yaml:"partitions" jsonschema_description:"Number of partitions. It is never lowered; a larger number adds partitions." example:"16"`
	Retention  Duration          `yaml:"retention" jsonschema_description:"How long records are kept." example:"7d"`
	Configs    map[string]string `yaml:"configs,omitempty" jsonschema_description:"Kafka topic configs." example:"{max.message.bytes: \"2097152\"}"`
}

// Outbox is one outbox table and how its rows become records.
type Outbox struct {
	Table      string      `yaml:"table" jsonschema_description:"The table, with its schema; of MySQL and MariaDB with its database." example:"public.outbox"`
	Topic      string      `yaml:"topic,omitempty" jsonschema_description:"Topic template; {column} is replaced by the row's value. Not together with route." example:"outbox.event.{aggregatetype}"`
	Route      *Route      `yaml:"route,omitempty" jsonschema_description:"The event router's way to name the topic, where a template does not do."`
	Partitions int         `yaml:"partitions" jsonschema_description:"Partitions of topics that are created on first use." example:"16"`
	Retention  Duration    `yaml:"retention" jsonschema_description:"Retention of topics that are created on first use." example:"7d"`
	Columns    Columns     `yaml:"columns" jsonschema_description:"Names of the columns, where they differ from Debezium's."`
	Additional []Placement `yaml:"additional,omitempty" jsonschema_description:"More columns to carry: the event router's table.fields.additional.placement."`

	AdditionalOptional bool `yaml:"additional_optional" jsonschema_description:"Leave a column of additional that the table lacks out, instead of making its rows unroutable." example:"false"`
	ExpandJSON         bool `yaml:"expand_json" jsonschema_description:"Where additional puts columns into an envelope: the payload stands in it as JSON, not as a string." example:"false"`
	TombstoneOnEmpty   bool `yaml:"tombstone_on_empty" jsonschema_description:"An empty or blank payload becomes a tombstone, as NULL does." example:"false"`
	Pos                Pos  `yaml:"-"`
}

// Route names the topic by a regular expression, as Debezium's event router does.
type Route struct {
	By          string      `yaml:"by" jsonschema_description:"The column. Default: columns.aggregatetype." example:"aggregatetype"`
	Regex       string      `yaml:"regex" jsonschema_description:"Matched against the column's whole value (RE2 syntax); a value that does not match is itself the topic." example:"(?<routedByValue>.*)"`
	Replacement Replacement `yaml:"replacement" jsonschema_description:"The topic, with $1 or ${name} for what a group of the regex has matched." example:"outbox.event.${routedByValue}"`
	Pos         Pos         `yaml:"-"`
}

// Columns maps what the router needs to columns of the table.
type Columns struct {
	ID            string `yaml:"id" jsonschema_description:"Event id." example:"id"`
	AggregateType string `yaml:"aggregatetype" jsonschema_description:"Names the topic." example:"aggregatetype"`
	Key           string `yaml:"key" jsonschema_description:"Record key." example:"aggregateid"`
	Type          string `yaml:"type" jsonschema_description:"Event type." example:"type"`
	Payload       string `yaml:"payload" jsonschema_description:"Record value." example:"payload"`
	Timestamp     string `yaml:"timestamp,omitempty" jsonschema_description:"Event time, into a header." example:"created_at"`
}

// Placement carries one more column.
type Placement struct {
	Column string `yaml:"column" jsonschema_description:"The column." example:"tenant"`
	Place  string `yaml:"place" jsonschema_description:"Where it goes: header, partition, or envelope (the value becomes {payload: …, alias: …})." example:"header" jsonschema:"enum=header,enum=partition,enum=envelope"`
	Alias  string `yaml:"alias" jsonschema_description:"Name there. Default: the column's." example:"tenant-id"`
	Pos    Pos    `yaml:"-"`
}

// Consumer is a group whose handlers apply records to a sink.
type Consumer struct {
	Topics    []string              `yaml:"topics" jsonschema_description:"Topics to read." example:"[outbox.event.order]"`
	Into      Into                  `yaml:"into" jsonschema_description:"The sink."`
	Offsets   *Into                 `yaml:"offsets,omitempty" jsonschema_description:"The database that keeps the offsets. It must be the sink's own, so it need not be said."`
	Handle    map[string]Statements `yaml:"handle" jsonschema_description:"SQL by event type; * for types that have none of their own. A list runs in order, in one transaction."`
	Start     Start                 `yaml:"start" jsonschema_description:"Where a new group begins: earliest, latest, or a time (RFC 3339)." example:"earliest"`
	OnFailure string                `yaml:"on_failure" jsonschema_description:"What a record that fails by itself does: block its partition and say so." example:"block" jsonschema:"enum=block"`
	Attempts  int                   `yaml:"attempts" jsonschema_description:"How often a failing record is tried before it counts as failing by itself." example:"5"`
	Backoff   Backoff               `yaml:"backoff" jsonschema_description:"Waits between attempts while the sink has trouble."`
	Batch     Batch                 `yaml:"batch" jsonschema_description:"How much goes into one transaction of the sink."`
	Pos       Pos                   `yaml:"-"`
}

// Backoff is min(max, initial·2^attempt) plus up to jitter.
type Backoff struct {
	Initial Duration `yaml:"initial" jsonschema_description:"First wait." example:"50ms"`
	Max     Duration `yaml:"max" jsonschema_description:"Longest wait." example:"5s"`
	Jitter  Duration `yaml:"jitter" jsonschema_description:"Random part, added." example:"50ms"`
}

// Batch bounds one transaction of the sink.
type Batch struct {
	Records int  `yaml:"records" jsonschema_description:"Records at most." example:"500"`
	Bytes   Size `yaml:"bytes" jsonschema_description:"Bytes of records at most." example:"4MB"`
}

// Has reports whether this process has the role.
func (c *Config) Has(r Role) bool {
	for _, x := range c.Roles {
		if x == r {
			return true
		}
	}
	return false
}

// File returns the path of the file that was read; empty when there was none.
func (c *Config) File() string { return c.file }

// Warnings returns what is allowed but unwise.
func (c *Config) Warnings() []Problem { return c.warnings }

// Place returns "file:line:column" of a value by its path, as "consumers.totals.handle.OrderPlaced"; the file alone when
// the value does not stand in it.
func (c *Config) Place(path string) string { return place(c.file, c.positions[path]) }
