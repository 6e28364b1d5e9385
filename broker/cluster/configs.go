package cluster

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/broker/replica"
)

// ConfigType is the type of a config's value, as DescribeConfigs names them.
type ConfigType int8

// The types in use, with the protocol's numbers.
const (
	ConfigBoolean ConfigType = 1
	ConfigString  ConfigType = 2
	ConfigInt     ConfigType = 3
	ConfigLong    ConfigType = 5
	ConfigDouble  ConfigType = 6
	ConfigList    ConfigType = 7
)

// ConfigDef describes one topic config.
type ConfigDef struct {
	Name    string
	Type    ConfigType
	Default string
	Doc     string
	// Served is false for a config that clients and tools set and that has no effect here; its doc says why.
	Served bool

	min, max float64
	oneOf    []string
}

// The names of topic configs that code refers to.
const (
	CleanupPolicy     = "cleanup.policy"
	CompressionType   = "compression.type"
	DeleteRetentionMs = "delete.retention.ms"
	MaxCompactionLag  = "max.compaction.lag.ms"
	MaxMessageBytes   = "max.message.bytes"
	TimestampAfter    = "message.timestamp.after.max.ms"
	TimestampBefore   = "message.timestamp.before.max.ms"
	TimestampType     = "message.timestamp.type"
	MinCleanableRatio = "min.cleanable.dirty.ratio"
	MinCompactionLag  = "min.compaction.lag.ms"
	MinInsyncReplicas = "min.insync.replicas"
	RetentionBytes    = "retention.bytes"
	RetentionMs       = "retention.ms"
	SegmentBytes      = "segment.bytes"
	SegmentMs         = "segment.ms"
)

// The values of CompressionType that are no codec's name.
const (
	CompressionProducer = "producer"
	CompressionNone     = "uncompressed"
)

const (
	day       = int64(24 * time.Hour / time.Millisecond)
	noMax     = float64(math.MaxInt64)
	maxInt    = float64(math.MaxInt32)
	batchHead = 61
	// messageMax leaves room for an entry's own fields below replica.Options.EntryBytesMax.
	messageMax = 32<<20 - 1<<10
)

// ConfigDefs returns every topic config that may be set, by name. The caller owns the slice.
func ConfigDefs() []ConfigDef {
	long := func(name string, def int64, low, high float64, doc string) ConfigDef {
		return ConfigDef{Name: name, Type: ConfigLong, Default: strconv.FormatInt(def, 10), Doc: doc, Served: true, min: low, max: high}
	}
	integer := func(name string, def int64, low, high float64, doc string) ConfigDef {
		d := long(name, def, low, high, doc)
		d.Type = ConfigInt
		return d
	}
	defs := []ConfigDef{
		{
			Name: CleanupPolicy, Type: ConfigList, Default: "delete", Served: true, oneOf: []string{"delete", "compact"},
			Doc: "What becomes of old segments: delete by retention, compact to the last record of each key, or both.",
		},
		{
			Name: CompressionType, Type: ConfigString, Default: CompressionProducer, Served: true,
			oneOf: []string{CompressionProducer, CompressionNone, "gzip", "snappy", "lz4", "zstd"},
			Doc:   "How batches are kept: as the producer compressed them, or compressed anew where that is another way.",
		},
		long(DeleteRetentionMs, day, 0, noMax, "How long a tombstone or transaction marker outlives the compaction that first saw it, so that readers meet it."),
		long(MaxCompactionLag, math.MaxInt64, 1, noMax, "A record is compacted at the latest so long after it was written; a segment is closed when it is older."),
		integer(MaxMessageBytes, 1_048_588, batchHead, messageMax, "The largest record batch, as sent."),
		long(TimestampAfter, 60*60*1000, 0, noMax, "How far ahead of the leader's clock a producer's timestamp may be."),
		long(TimestampBefore, math.MaxInt64, 0, noMax, "How far behind the leader's clock a producer's timestamp may be."),
		{
			Name: TimestampType, Type: ConfigString, Default: "CreateTime", Served: true, oneOf: []string{"CreateTime", "LogAppendTime"},
			Doc: "Whether a record keeps its producer's timestamp or gets the leader's.",
		},
		{
			Name: MinCleanableRatio, Type: ConfigDouble, Default: "0.5", Served: true, min: 0, max: 1,
			Doc: "A log is compacted when this share of it has not been compacted yet.",
		},
		long(MinCompactionLag, 0, 0, noMax, "A record stays uncompacted for at least so long."),
		integer(MinInsyncReplicas, 1, 1, 1, "Writes always wait for a majority of the replicas; 1 is the only value until there are more."),
		long(RetentionBytes, -1, -1, noMax, "Bytes a partition keeps; -1: no limit."),
		long(RetentionMs, 7*day, -1, noMax, "How long a segment is kept after its latest record; -1: for ever."),
		integer(SegmentBytes, 128<<20, 1<<14, maxInt, "A segment is closed before it grows beyond."),
		long(SegmentMs, 7*day, 1, noMax, "A segment is closed when it is older."),
	}
	defs = append(defs, unserved()...)
	slices.SortFunc(defs, func(a, b ConfigDef) int { return strings.Compare(a.Name, b.Name) })
	return defs
}

// unserved are Kafka's other topic configs. Their values are checked as Kafka's are.
func unserved() []ConfigDef {
	number := func(name, def string, low float64) ConfigDef {
		return ConfigDef{Name: name, Type: ConfigLong, Default: def, min: low, max: noMax}
	}
	level := func(name, def string, low, high float64) ConfigDef {
		return ConfigDef{Name: name, Type: ConfigInt, Default: def, min: low, max: high}
	}
	yesNo := func(name, def string, oneOf ...string) ConfigDef {
		return ConfigDef{Name: name, Type: ConfigBoolean, Default: def, oneOf: oneOf}
	}
	const forever = "9223372036854775807"
	defs := []ConfigDef{
		number("file.delete.delay.ms", "60000", 0), number("flush.messages", forever, 1), number("flush.ms", forever, 0),
		{Name: "follower.replication.throttled.replicas", Type: ConfigList}, {Name: "leader.replication.throttled.replicas", Type: ConfigList},
		{Name: "index.interval.bytes", Type: ConfigInt, Default: "4096", max: noMax},
		{Name: "segment.index.bytes", Type: ConfigInt, Default: "10485760", min: 4, max: noMax},
		number("local.retention.bytes", "-2", -2), number("local.retention.ms", "-2", -2),
		yesNo("message.downconversion.enable", "true"), {Name: "message.format.version", Type: ConfigString, Default: "3.0-IV1"},
		level("compression.gzip.level", "-1", -1, 9), level("compression.lz4.level", "9", 1, 17), level("compression.zstd.level", "3", -131072, 22),
		number("message.timestamp.difference.max.ms", forever, 0), yesNo("preallocate", "false"),
		yesNo("remote.log.copy.disable", "false"), yesNo("remote.log.delete.on.disable", "false"), yesNo("remote.storage.enable", "false", "false"),
		number("segment.jitter.ms", "0", 0), yesNo("unclean.leader.election.enable", "false"),
	}
	for i := range defs {
		defs[i].Doc = "Accepted so that tools made for Kafka work; without effect here."
		if defs[i].oneOf != nil {
			defs[i].Doc = "Tiered storage is not served."
		}
	}
	return defs
}

// ConfigDefOf returns the definition of the named config.
func ConfigDefOf(name string) (ConfigDef, bool) {
	for _, d := range ConfigDefs() {
		if d.Name == name {
			return d, true
		}
	}
	return ConfigDef{}, false
}

// Check says what is wrong with a value, or nil. The error wraps kerr.InvalidConfig.
func (d ConfigDef) Check(value string) error {
	bad := func(format string, args ...any) error {
		return errorf(kerr.InvalidConfig, "%s: %q: %s", d.Name, value, fmt.Sprintf(format, args...))
	}
	switch d.Type {
	case ConfigList:
		for _, v := range strings.Split(value, ",") {
			if d.oneOf != nil && !slices.Contains(d.oneOf, strings.TrimSpace(v)) {
				return bad("want a list of %s", strings.Join(d.oneOf, ", "))
			}
		}
	case ConfigInt, ConfigLong:
		v, err := strconv.ParseInt(value, 10, 64)
		if err != nil || float64(v) < d.min || float64(v) > d.max || d.Type == ConfigInt && float64(v) > maxInt {
			return bad("want a whole number from %.0f to %.0f", d.min, d.max)
		}
	case ConfigBoolean:
		oneOf := d.oneOf
		if oneOf == nil {
			oneOf = []string{"true", "false"}
		}
		if !slices.Contains(oneOf, strings.ToLower(value)) {
			return bad("want %s", strings.Join(oneOf, " or "))
		}
	case ConfigDouble:
		v, err := strconv.ParseFloat(value, 64)
		if err != nil || !(v >= d.min && v <= d.max) { // not: v < min, which lets NaN pass
			return bad("want a number from %g to %g", d.min, d.max)
		}
	case ConfigString:
		if d.oneOf != nil && !slices.Contains(d.oneOf, value) {
			return bad("want %s", strings.Join(d.oneOf, " or "))
		}
	}
	return nil
}

// ValidateConfigs says what is wrong with a set of topic configs, or nil. The error wraps kerr.InvalidConfig and names the config.
func ValidateConfigs(configs map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		d, ok := ConfigDefOf(name)
		if !ok {
			return errorf(kerr.InvalidConfig, "unknown topic config %q", name)
		}
		if err := d.Check(configs[name]); err != nil {
			return err
		}
	}
	e := Effective(configs, nil)
	least, _ := strconv.ParseInt(e[MinCompactionLag], 10, 64) // checked above
	if most, _ := strconv.ParseInt(e[MaxCompactionLag], 10, 64); least > most {
		return errorf(kerr.InvalidConfig, "%s is %d, above %s, %d", MinCompactionLag, least, MaxCompactionLag, most)
	}
	return nil
}

// Settings is a topic's configuration in the form code acts on.
type Settings struct {
	Replica         replica.TopicConfig
	MaxMessageBytes int
	Compact         bool
	LogAppendTime   bool
	// Compression is the codec that batches are kept with; Recompress is false where they stay as the producer compressed them.
	Recompress  bool
	Compression record.Codec
	// TimestampBefore and TimestampAfter bound a producer's timestamps around the leader's clock.
	TimestampBefore, TimestampAfter time.Duration
}

// Effective returns the value of every config: what is set, else the node's default, else the table's.
func Effective(configs, defaults map[string]string) map[string]string {
	m := map[string]string{}
	for _, d := range ConfigDefs() {
		m[d.Name] = d.Default
	}
	maps.Copy(m, defaults)
	maps.Copy(m, configs)
	return m
}

// SettingsOf returns the settings of a topic with the given configs. defaults are the node's, and may be nil. Values that are not valid,
// as a newer version may have accepted, count as the table's default.
func SettingsOf(configs, defaults map[string]string) Settings {
	e := Effective(configs, defaults)
	for _, d := range ConfigDefs() {
		if d.Check(e[d.Name]) != nil {
			e[d.Name] = d.Default
		}
	}
	i := func(name string) int64 { v, _ := strconv.ParseInt(e[name], 10, 64); return v } // checked above
	ratio, _ := strconv.ParseFloat(e[MinCleanableRatio], 64)
	r := replica.TopicConfig{
		Compact: strings.Contains(e[CleanupPolicy], "compact"), Delete: strings.Contains(e[CleanupPolicy], "delete"),
		RetentionMs: i(RetentionMs), RetentionBytes: i(RetentionBytes), SegmentBytes: i(SegmentBytes), SegmentMs: i(SegmentMs),
		LogAppendTime: e[TimestampType] == "LogAppendTime", DeleteRetentionMs: i(DeleteRetentionMs),
		MinCompactionLag: millis(i(MinCompactionLag)), MaxCompactionLag: millis(i(MaxCompactionLag)), MinCleanableRatio: ratio,
	}
	codec, recompress := codecOf(e[CompressionType])
	return Settings{
		Replica: r, MaxMessageBytes: int(i(MaxMessageBytes)), Compact: r.Compact, LogAppendTime: r.LogAppendTime,
		Recompress: recompress, Compression: codec, TimestampBefore: millis(i(TimestampBefore)), TimestampAfter: millis(i(TimestampAfter)),
	}
}

// codecOf returns the codec that a value of CompressionType names; ok is false where batches stay as they are.
func codecOf(name string) (c record.Codec, ok bool) {
	if name == CompressionNone {
		return record.CodecNone, true
	}
	for c := record.CodecGzip; c <= record.CodecZstd; c++ {
		if c.String() == name {
			return c, true
		}
	}
	return 0, false
}

// millis is ms as a duration, without overflow.
func millis(ms int64) time.Duration {
	if ms > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}
