package relay

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/backoff"
	"github.com/outrelay/outrelay/internal/clock"
	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/sources"
)

// Dialect says which headers records carry.
type Dialect string

// The dialects. Topic, key, value and the header `id` are Debezium's in both.
const (
	DialectOutrelay       Dialect = "outrelay"        // Debezium's record plus our headers; the default
	DialectDebeziumStrict Dialect = "debezium-strict" // Debezium's record, nothing more
)

// OnUnroutable says what to do with a row that cannot become a record.
type OnUnroutable string

// The choices for a row that cannot be routed.
const (
	UnroutableHalt       OnUnroutable = "halt"        // stop the source and say so; the default
	UnroutableDeadLetter OnUnroutable = "dead_letter" // write it to <source>.dlq in the same transaction, and go on
)

// Columns names the columns of an outbox table. An empty name takes the default in brackets.
type Columns struct {
	ID          string // event id, header `id` [id]
	Key         string // record key; where it is NULL, AggregateID is taken [aggregateid]
	AggregateID string // the fallback of Key [aggregateid]
	Type        string // event type, header `outrelay.type`; may be missing from the table [type]
	Payload     string // record value [payload]
}

// Where a further column goes.
const (
	PlaceHeader    = "header"
	PlaceEnvelope  = "envelope"
	PlacePartition = "partition"
)

// Placement puts a further column into the record: EventRouter's table.fields.additional.placement.
type Placement struct {
	Column string
	Where  string // PlaceHeader, PlaceEnvelope or PlacePartition
	Alias  string // name there [Column]
}

// Table says how rows of one outbox table become records.
type Table struct {
	Name string // schema-qualified, as the source says it; "" holds for every table that has no entry of its own

	Topic string // template: text and {column} [outbox.event.{aggregatetype}]
	// RouteBy, TopicRegex and TopicReplacement are EventRouter's way to the same: when TopicRegex matches the whole value of the column RouteBy
	// [aggregatetype], the topic is TopicReplacement with $1 or ${name} filled in (as Java does), else the value itself. Where one of them is
	// given, the other's default is EventRouter's: (?<routedByValue>.*) and outbox.event.${routedByValue}. Not together with Topic.
	RouteBy, TopicRegex, TopicReplacement string

	Columns          Columns
	Additional       []Placement
	AdditionalOK     bool // a missing column of Additional is left out instead of making the row unroutable
	ExpandJSON       bool // in an envelope, a JSON payload is put in as JSON, not as a string
	TombstoneOnEmpty bool // a payload that is blank becomes a tombstone, as NULL does

	Partitions   int32             // of topics that are created [Options.Partitions]
	Configs      map[string]string // of topics that are created, over Options.TopicConfigs
	NoAutoCreate bool              // a topic that does not exist makes the row unroutable
	OnUnroutable OnUnroutable      // [Options.OnUnroutable]
}

// Topic is a topic to be created at start.
type Topic struct {
	Name       string
	Partitions int32
	Configs    map[string]string
}

// Options says what one source's relay does. Source and From are needed, and Kafka.Seeds; the rest has defaults.
type Options struct {
	Source outrelay.SourceID
	From   sources.Source
	Kafka  kafka.Options

	Tables       []Table
	Topics       []Topic // created at start
	Dialect      Dialect
	OnUnroutable OnUnroutable
	Partitions   int32             // of topics created on first use [16]
	TopicConfigs map[string]string // of topics created on first use

	GatherBytesMax  int           // gathered while a transaction commits [8 MiB]
	RecordBytesMax  int           // key, value and headers of one record [1,000,000]
	LargeBytesMax   int64         // a larger source transaction is committed in several [4 GiB]
	TxnTimeout      time.Duration // of ordinary transactions [60 s]
	LargeTxnTimeout time.Duration // of a source transaction that comes in parts [15 min]; after 2/3 of it, what is in is committed
	IdleEvery       time.Duration // an idle source commits a position alone at most this often [10 s]
	IndexEvery      time.Duration // index records, at most one per [1 s] …
	IndexBytes      int64         // … or after so many bytes of records [4 MiB]
	Compression     string        // none, gzip, snappy, lz4, zstd [none]

	// External: the log is not outrelay's own. What its coordinator has left undone after a crash is then mended before it is read.
	External bool

	// Owned is asked before each InitProducerId, which fences whoever else relays this source. outrelay.ErrFenced means that the source is not
	// ours any more, another error that nobody could tell. nil: it is ours.
	Owned func(ctx context.Context) error

	Metrics *Metrics
	Clock   clock.Clock
	Backoff backoff.Policy
	Logger  *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Source == "" || o.From == nil {
		return o, fmt.Errorf("relay: no source: %w", outrelay.ErrConfig)
	}
	o = o.settings()
	if o.Kafka.ClientID == "" {
		o.Kafka.ClientID = "outrelay-relay-" + string(o.Source)
	}
	if o.Kafka.Logger == nil {
		o.Kafka.Logger = o.Logger
	}
	return o, nil
}

// settings fills in the defaults of everything that has one.
func (o Options) settings() Options {
	def(&o.Dialect, DialectOutrelay)
	def(&o.OnUnroutable, UnroutableHalt)
	def(&o.Partitions, 16)
	def(&o.GatherBytesMax, 8<<20)
	def(&o.RecordBytesMax, 1_000_000)
	def(&o.LargeBytesMax, 4<<30)
	def(&o.TxnTimeout, time.Minute)
	def(&o.LargeTxnTimeout, 15*time.Minute)
	def(&o.IdleEvery, 10*time.Second)
	def(&o.IndexEvery, time.Second)
	def(&o.IndexBytes, 4<<20)
	def(&o.Compression, "none")
	def(&o.Backoff, backoff.Default())
	if o.Clock == nil {
		o.Clock = clock.Real{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Owned == nil {
		o.Owned = func(context.Context) error { return nil }
	}
	return o
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}
