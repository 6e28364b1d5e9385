package group

// Metadata is the topics that exist, as of one moment. It never changes and is safe for concurrent use.
type Metadata interface {
	// Version tells two moments apart: it grows with every change.
	Version() uint64
	// Topic returns a topic's id and how many partitions it has.
	Topic(name string) (id [16]byte, partitions int32, ok bool)
	// TopicName returns the name of the topic with this id.
	TopicName(id [16]byte) (name string, ok bool)
	// TopicNames returns all names, in no order. The caller owns the slice.
	TopicNames() []string
}

// noTopics is the Metadata of a coordinator that was given none.
type noTopics struct{}

func (noTopics) Version() uint64                              { return 0 }
func (noTopics) Topic(string) (id [16]byte, n int32, ok bool) { return id, 0, false }
func (noTopics) TopicName([16]byte) (string, bool)            { return "", false }
func (noTopics) TopicNames() []string                         { return nil }
