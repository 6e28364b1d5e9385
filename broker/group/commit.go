package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Topics says whether a partition exists, and what its topic's id is.
type Topics func(TopicPartition) (topicID [16]byte, ok bool)

// Commit handles OffsetCommit. topics says which partitions exist. The reply, a *kmsg.OffsetCommitResponse, comes when the offsets
// were applied: G1, a commit is answered after it is durable.
func (c *Coordinator) Commit(now time.Time, req *kmsg.OffsetCommitRequest, topics Topics, to any) {
	g, e := c.commitGroup(req.Group, req.Generation, req.Version >= 9)
	if e == nil {
		e = g.mayCommit(req.MemberID, req.InstanceID, req.Generation, false)
	}
	r := kmsg.NewPtrOffsetCommitResponse()
	if e == nil {
		if m := g.byID[req.MemberID]; m != nil && (g.state == stable || g.state == preparing) {
			c.heard(now, g, m) // a commit is a sign of life
		}
	}
	expire := int64(-1)
	if req.Version >= 2 && req.Version <= 4 && req.RetentionTimeMillis >= 0 {
		expire = now.UnixMilli() + req.RetentionTimeMillis
	}
	var recs []Record
	for _, t := range req.Topics {
		rt := kmsg.OffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, p := range t.Partitions {
			tp := TopicPartition{Topic: t.Topic, Partition: p.Partition}
			topicID, pe := c.mayCommitOffset(e, topics, tp, p.Metadata)
			rt.Partitions = append(rt.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: code(pe)})
			if pe != nil {
				continue
			}
			o := offset{offset: p.Offset, leaderEpoch: -1, metadata: deref(p.Metadata), topicID: topicID, commitMs: now.UnixMilli(), expireMs: expire}
			if req.Version >= 6 {
				o.leaderEpoch = p.LeaderEpoch
			}
			recs = append(recs, offsetRecord(req.Group, tp, o))
		}
		r.Topics = append(r.Topics, rt)
	}
	if len(recs) == 0 {
		c.reply(to, r)
		return
	}
	c.write(Write{Records: recs, ProducerID: -1, ProducerEpoch: -1}, func(_ time.Time, err *kerr.Error) {
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				if p := &r.Topics[i].Partitions[j]; p.ErrorCode == 0 {
					p.ErrorCode = code(err)
				}
			}
		}
		c.reply(to, r)
	})
}

// CommitTxn handles TxnOffsetCommit (KIP-98, KIP-447). That the transaction owns this partition of __consumer_offsets is the caller's to have
// made durable. The reply, a *kmsg.TxnOffsetCommitResponse, comes when the offsets are in the log; they count from the transaction's
// commit marker on.
func (c *Coordinator) CommitTxn(now time.Time, req *kmsg.TxnOffsetCommitRequest, topics Topics, to any) {
	generation := req.Generation
	if req.Version < 3 {
		generation = -1
	}
	g, e := c.commitGroup(req.Group, generation, false)
	if e == nil {
		e = g.mayCommit(req.MemberID, req.InstanceID, generation, true)
	}
	r := kmsg.NewPtrTxnOffsetCommitResponse()
	var recs []Record
	for _, t := range req.Topics {
		rt := kmsg.TxnOffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, p := range t.Partitions {
			tp := TopicPartition{Topic: t.Topic, Partition: p.Partition}
			topicID, pe := c.mayCommitOffset(e, topics, tp, p.Metadata)
			rt.Partitions = append(rt.Partitions, kmsg.TxnOffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: code(pe)})
			if pe != nil {
				continue
			}
			o := offset{offset: p.Offset, leaderEpoch: -1, metadata: deref(p.Metadata), topicID: topicID, commitMs: now.UnixMilli(), expireMs: -1}
			if req.Version >= 2 {
				o.leaderEpoch = p.LeaderEpoch
			}
			recs = append(recs, offsetRecord(req.Group, tp, o))
		}
		r.Topics = append(r.Topics, rt)
	}
	if len(recs) == 0 {
		c.reply(to, r)
		return
	}
	w := Write{Records: recs, ProducerID: req.ProducerID, ProducerEpoch: req.ProducerEpoch}
	c.write(w, func(_ time.Time, err *kerr.Error) {
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				if p := &r.Topics[i].Partitions[j]; p.ErrorCode == 0 {
					p.ErrorCode = code(err)
				}
			}
		}
		c.reply(to, r)
	})
}

// commitGroup finds the group to commit to. Without a generation there need be none: it is made, for clients that assign partitions
// themselves. reportMissing is for versions that know GROUP_ID_NOT_FOUND (KIP-848).
func (c *Coordinator) commitGroup(name string, generation int32, reportMissing bool) (*group, *kerr.Error) {
	if !c.loaded {
		return nil, kerr.NotCoordinator
	}
	if name == "" {
		return nil, kerr.InvalidGroupID
	}
	if g := c.group(name); g != nil {
		return g, nil
	}
	switch {
	case generation < 0:
		if g := c.groupOrNew(name); g != nil {
			return g, nil
		}
		return nil, kerr.CoordinatorNotAvailable
	case reportMissing:
		return nil, kerr.GroupIDNotFound
	}
	return nil, kerr.IllegalGeneration
}

// mayCommit decides whether the sender may commit to the group now.
func (g *group) mayCommit(memberID string, instance *string, generation int32, transactional bool) *kerr.Error {
	switch {
	case g.state == dead:
		return kerr.CoordinatorNotAvailable
	case generation < 0 && g.state == empty:
		return nil // an administrator, or a client without group management
	case generation >= 0 || memberID != "" || instance != nil:
		if _, e := g.member(memberID, instance); e != nil {
			return e
		}
		if generation != g.generation {
			return kerr.IllegalGeneration
		}
	case !transactional && g.state != empty:
		return kerr.UnknownMemberID // only members commit to a group that has some
	}
	if !transactional && g.state == completing {
		return kerr.RebalanceInProgress // the member knows the generation, but not yet its partitions
	}
	return nil
}

func (c *Coordinator) mayCommitOffset(e *kerr.Error, topics Topics, tp TopicPartition, metadata *string) ([16]byte, *kerr.Error) {
	id, ok := topics(tp)
	switch {
	case e != nil:
		return id, e
	case len(deref(metadata)) > c.o.OffsetMetadataMax:
		return id, kerr.OffsetMetadataTooLarge
	case !ok:
		return id, kerr.UnknownTopicOrPartition
	}
	return id, nil
}
