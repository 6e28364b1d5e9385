package group

import "github.com/twmb/franz-go/pkg/kmsg"

func groupKey(name string) []byte {
	k := kmsg.GroupMetadataKey{Version: 2, Group: name}
	return k.AppendTo(nil)
}

func offsetKey(group string, tp TopicPartition) []byte {
	k := kmsg.OffsetCommitKey{Version: 1, Group: group, Topic: tp.Topic, Partition: tp.Partition}
	return k.AppendTo(nil)
}

// offsetRecord is Kafka's own: version 4, which names the topic by id too, or 1 where a client of OffsetCommit v2–4 chose a retention
// (KIP-211 keeps honouring it).
func offsetRecord(group string, tp TopicPartition, o offset) Record {
	v := kmsg.NewOffsetCommitValue()
	v.Version, v.Offset, v.LeaderEpoch, v.Metadata, v.CommitTimestamp = 3, o.offset, o.leaderEpoch, o.metadata, o.commitMs
	switch {
	case o.expireMs >= 0:
		v.Version, v.ExpireTimestamp = 1, o.expireMs
	case o.topicID != [16]byte{}:
		v.Version, v.TopicID = 4, o.topicID
	}
	return Record{Key: offsetKey(group, tp), Value: v.AppendTo(nil)}
}

// groupWrite is the group's metadata as a write.
func groupWrite(g *group) Write {
	v := kmsg.NewGroupMetadataValue()
	v.Version, v.ProtocolType, v.Generation = 3, g.protocolType, g.generation
	v.Protocol, v.Leader = orNil(g.protocol), orNil(g.leader)
	v.CurrentStateTimestamp = g.stateSinceMs
	for _, m := range g.members {
		mm := kmsg.NewGroupMetadataValueMember()
		mm.MemberID, mm.InstanceID, mm.ClientID, mm.ClientHost = m.id, orNil(m.instance), m.client.ID, m.client.Host
		mm.RebalanceTimeoutMillis, mm.SessionTimeoutMillis = int32(m.rebalance.Milliseconds()), int32(m.sessionFor.Milliseconds())
		mm.Subscription, mm.Assignment = m.metadata(g.protocol), []byte{}
		if m.assignment != nil {
			mm.Assignment = m.assignment
		}
		v.Members = append(v.Members, mm)
	}
	return Write{ProducerID: -1, ProducerEpoch: -1, Records: []Record{{Key: groupKey(g.name), Value: v.AppendTo(nil)}}}
}
