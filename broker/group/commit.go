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
	if c.awaitConversion(req.Group, turn{
		run:    func(now time.Time) { c.Commit(now, req, topics, to) },
		refuse: func(e *kerr.Error) { c.reply(to, errCommit(req, e)) },
	}) {
		return
	}
	may, e := c.mayCommit(req.Group, committer{
		member: req.MemberID, instance: req.InstanceID, generation: req.Generation, version: req.Version,
	})
	r := kmsg.NewPtrOffsetCommitResponse()
	if e == nil {
		c.heardCommit(now, req.Group, req.MemberID)
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
			topicID, pe := c.mayCommitOffset(e, may, topics, tp, p.Metadata)
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
// made durable. guard goes back with the write, for the partition to refuse what comes after the transaction's end; 0 for none. The reply, a *kmsg.TxnOffsetCommitResponse, comes when the offsets are in the log; they count from the transaction's
// commit marker on.
func (c *Coordinator) CommitTxn(now time.Time, req *kmsg.TxnOffsetCommitRequest, topics Topics, guard uint64, to any) {
	if c.awaitConversion(req.Group, turn{
		run:    func(now time.Time) { c.CommitTxn(now, req, topics, guard, to) },
		refuse: func(e *kerr.Error) { c.reply(to, errCommitTxn(req, e)) },
	}) {
		return
	}
	generation := req.Generation
	if req.Version < 3 {
		generation = -1
	}
	may, e := c.mayCommit(req.Group, committer{
		member: req.MemberID, instance: req.InstanceID, generation: generation, version: req.Version, transactional: true,
	})
	r := kmsg.NewPtrTxnOffsetCommitResponse()
	var recs []Record
	for _, t := range req.Topics {
		rt := kmsg.TxnOffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, p := range t.Partitions {
			tp := TopicPartition{Topic: t.Topic, Partition: p.Partition}
			topicID, pe := c.mayCommitOffset(e, may, topics, tp, p.Metadata)
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
	w := Write{Records: recs, ProducerID: req.ProducerID, ProducerEpoch: req.ProducerEpoch, Guard: guard}
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

// awaitConversion lets a commit wait for its turn while a group becomes a consumer group, or has become a classic one and was not told yet: who is
// a member is known then. Otherwise commits do not wait for a group's step; see consumerState.mayCommit.
func (c *Coordinator) awaitConversion(name string, t turn) bool {
	g := c.consumers[name]
	if g == nil {
		return false
	}
	sg := c.store.groups[name]
	return (sg == nil || sg.consumer == nil) && g.await(t)
}

func errCommit(req *kmsg.OffsetCommitRequest, e *kerr.Error) *kmsg.OffsetCommitResponse {
	r := kmsg.NewPtrOffsetCommitResponse()
	for _, t := range req.Topics {
		rt := kmsg.OffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: e.Code})
		}
		r.Topics = append(r.Topics, rt)
	}
	return r
}

func errCommitTxn(req *kmsg.TxnOffsetCommitRequest, e *kerr.Error) *kmsg.TxnOffsetCommitResponse {
	r := kmsg.NewPtrTxnOffsetCommitResponse()
	for _, t := range req.Topics {
		rt := kmsg.TxnOffsetCommitResponseTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, kmsg.TxnOffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: e.Code})
		}
		r.Topics = append(r.Topics, rt)
	}
	return r
}

// committer is who commits: what a request says of its sender.
type committer struct {
	member        string
	instance      *string
	generation    int32 // or member epoch; -1: an administrator, or a client without group management
	version       int16 // of the request
	transactional bool
}

// mayCommit decides whether the sender may commit to the group now, and if so which partitions; a nil permit means all. Without a
// generation there need be no group: it is made, for clients that assign partitions themselves.
func (c *Coordinator) mayCommit(name string, from committer) (permit, *kerr.Error) {
	switch {
	case !c.loaded:
		return nil, kerr.NotCoordinator
	case name == "":
		return nil, kerr.InvalidGroupID
	case c.consumers[name] != nil:
		return c.stored(name).mayCommit(from)
	}
	g := c.group(name)
	switch {
	case g != nil:
		return nil, g.mayCommit(from)
	case from.generation < 0:
		if g = c.groupOrNew(name); g == nil {
			return nil, kerr.CoordinatorNotAvailable
		}
		return nil, g.mayCommit(from)
	case from.version >= 9 && !from.transactional:
		return nil, kerr.GroupIDNotFound // KIP-848
	}
	return nil, kerr.IllegalGeneration
}

func (g *group) mayCommit(from committer) *kerr.Error {
	switch {
	case g.state == dead:
		return kerr.CoordinatorNotAvailable
	case from.generation < 0 && g.state == empty:
		return nil
	case from.generation >= 0 || from.member != "" || from.instance != nil:
		if _, e := g.member(from.member, from.instance); e != nil {
			return e
		}
		if from.generation != g.generation {
			return kerr.IllegalGeneration
		}
	case !from.transactional && g.state != empty:
		return kerr.UnknownMemberID // only members commit to a group that has some
	}
	if !from.transactional && g.state == completing {
		return kerr.RebalanceInProgress // the member knows the generation, but not yet its partitions
	}
	return nil
}

// heardCommit takes a commit for a sign of life.
func (c *Coordinator) heardCommit(now time.Time, name, member string) {
	if g := c.consumers[name]; g != nil {
		if m := c.stored(name).members[member]; m != nil {
			c.heardConsumer(now, g, m)
		}
		return
	}
	g := c.group(name)
	if m := g.byID[member]; m != nil && (g.state == stable || g.state == preparing) {
		c.heard(now, g, m)
	}
}

func (c *Coordinator) mayCommitOffset(e *kerr.Error, may permit, topics Topics, tp TopicPartition, metadata *string) ([16]byte, *kerr.Error) {
	id, ok := topics(tp)
	switch {
	case !ok: // before what is wrong with the sender, as in Kafka
		return id, kerr.UnknownTopicOrPartition
	case e != nil:
		return id, e
	case len(deref(metadata)) > c.o.OffsetMetadataMax:
		return id, kerr.OffsetMetadataTooLarge
	case may != nil:
		return id, may(slot{id, tp.Partition})
	}
	return id, nil
}
