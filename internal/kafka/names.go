package kafka

import "github.com/outrelay/outrelay"

// PositionsTopic returns the name of the topic of positions in this log.
func (o Options) PositionsTopic() string { return o.Prefix + PositionsTopic }

// IndexTopic returns the name of the topic of index records in this log.
func (o Options) IndexTopic() string { return o.Prefix + IndexTopic }

// MigrationTopic returns the name of the topic in which `outrelay log migrate` keeps how far it has copied into this log.
func (o Options) MigrationTopic() string { return o.Prefix + MigrationTopic }

// MigrationID returns the transactional id under which the log with that id is copied into this one.
func (o Options) MigrationID(fromLog string) string { return o.Prefix + "outrelay-migrate-" + fromLog }

// RelayGroup returns the consumer group by which sources are shared out among processes: a source runs where the partition of the positions
// topic that holds it is assigned.
func (o Options) RelayGroup() string { return o.Prefix + "outrelay-relay" }

// TransactionalID returns the id under which the relay of a source writes.
func (o Options) TransactionalID(s outrelay.SourceID) string { return o.Prefix + s.TransactionalID() }

// Internal reports whether a topic is one that outrelay keeps for itself in this log.
func (o Options) Internal(topic string) bool {
	return topic == o.PositionsTopic() || topic == o.IndexTopic() || topic == o.MigrationTopic()
}
