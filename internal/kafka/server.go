package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// Server is what a log says of itself.
type Server struct {
	ClusterID          string `json:"cluster_id"`
	Version            string `json:"version"` // as the versions of its requests suggest: v4.3, or words where they suggest none
	Brokers            int    `json:"brokers"`
	TransactionVersion int    `json:"transaction_version"` // 2: KIP-890 is in force
	TopicIDs           bool   `json:"topic_ids"`           // KIP-516
}

// Guarantee is one thing that holds with a log, or does not.
type Guarantee struct {
	Holds bool   `json:"holds"`
	Text  string `json:"text"`
}

// Request versions from which a log can do what is asked of it.
const (
	metadataWithTopicIDs  = 10 // KIP-516
	joinGroupWithInstance = 5  // KIP-345
	featureTransactions   = "transaction.version"
)

// Describe asks the log what it is.
func Describe(ctx context.Context, cl *kgo.Client) (Server, error) {
	m, err := metadata(ctx, cl)
	if err != nil {
		return Server{}, wrap(err, "describe the log")
	}
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "outrelay", "v0"
	resp, err := req.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return Server{}, wrap(err, "describe the log")
	}
	v := kversion.FromApiVersionsResponse(resp)
	s := Server{Version: versionOf(v), Brokers: len(m.Brokers), TransactionVersion: 1}
	if m.ClusterID != nil {
		s.ClusterID = *m.ClusterID
	}
	for _, f := range resp.FinalizedFeatures {
		if f.Name == featureTransactions {
			s.TransactionVersion = max(s.TransactionVersion, int(f.MaxVersionLevel))
		}
	}
	if n, ok := v.LookupMaxKeyVersion(int16(kmsg.Metadata)); ok {
		s.TopicIDs = n >= metadataWithTopicIDs
	}
	if n, ok := v.LookupMaxKeyVersion(int16(kmsg.JoinGroup)); !ok || n < joinGroupWithInstance {
		return s, fmt.Errorf("describe the log: %w: it is of version %s; outrelay needs Kafka 2.3 or later (static membership, KIP-345)", kerr.UnsupportedVersion, s.Version)
	}
	return s, nil
}

// versionOf names the version of Apache Kafka that the requests are of; a server of another make has a set of its own.
func versionOf(v *kversion.Versions) string {
	guess := v.VersionGuess()
	if !strings.HasPrefix(guess, "v") {
		return "of no version of Apache Kafka"
	}
	return guess
}

// Guarantees says what holds with this log, the worst first.
func (s Server) Guarantees() []Guarantee {
	var gs []Guarantee
	if s.TransactionVersion >= 2 {
		gs = append(gs, Guarantee{true, "exactly once: transaction version 2 (KIP-890): a delayed message of an earlier transaction is refused"})
	} else {
		gs = append(gs, Guarantee{false, "exactly once has a window: transaction version 1: a produce or EndTxn of a relay that was fenced, delayed in the network, can still end in or end a later transaction (KAFKA-17754); " +
			"`kafka-features.sh upgrade --feature transaction.version=2` on Kafka 4.0 or later closes it"})
	}
	if s.TopicIDs {
		gs = append(gs, Guarantee{true, "a topic that was deleted and created again is told from the old one (topic ids, KIP-516)"})
	} else {
		gs = append(gs, Guarantee{false, "a topic that was deleted and created again is taken for the old one: no topic ids before Kafka 2.8 (KIP-516)"})
	}
	if s.Brokers > 1 {
		gs = append(gs, Guarantee{true, fmt.Sprintf("%d brokers: an acknowledged record is in the memory of min.insync.replicas of them; whether it is on disk is the cluster's to say (flush.messages)", s.Brokers)})
	} else {
		gs = append(gs, Guarantee{false, "one broker: Apache Kafka acknowledges from its memory unless flush.messages is 1, and a crash of its machine loses what was acknowledged (outrelay's own log syncs first)"})
	}
	return gs
}

// TopicDurability is what decides whether a topic keeps what it has acknowledged.
type TopicDurability struct {
	Replicas      int    // of partition 0
	MinInsync     string // min.insync.replicas
	CleanupPolicy string // cleanup.policy
	Readable      bool   // whether the log let us read the configs
}

// Durability reads what decides whether a topic keeps what it has acknowledged.
func Durability(ctx context.Context, cl *kgo.Client, topic string) (TopicDurability, error) {
	t, err := topicMetadata(ctx, cl, topic)
	if err != nil {
		return TopicDurability{}, err
	}
	var d TopicDurability
	if len(t.Partitions) > 0 {
		d.Replicas = len(t.Partitions[0].Replicas)
	}
	configs, err := topicConfigs(ctx, cl, topic)
	if errors.Is(err, errNotReadable) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	d.MinInsync, d.CleanupPolicy, d.Readable = configs["min.insync.replicas"], configs["cleanup.policy"], true
	return d, nil
}
