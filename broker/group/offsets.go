package group

import (
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// writeRecordsMax bounds the records of one write of tombstones.
const writeRecordsMax = 1000

// FetchOffsets answers OffsetFetch for one group. An unknown group or partition is offset -1 without an error, as Kafka has it:
// librdkafka takes an error for fatal. So is an offset of a topic that was deleted and made anew. With requireStable, partitions with commits
// of open transactions say UNSTABLE_OFFSET_COMMIT (KIP-447).
func (c *Coordinator) FetchOffsets(req *kmsg.OffsetFetchRequestGroup, requireStable bool, topics Topics) kmsg.OffsetFetchResponseGroup {
	r := kmsg.NewOffsetFetchResponseGroup()
	r.Group = req.Group
	if !c.loaded {
		r.ErrorCode = kerr.NotCoordinator.Code
		return r
	}
	g := c.store.groups[req.Group]
	if g != nil && g.consumer != nil {
		if e := g.consumer.mayFetch(req.MemberID, req.MemberEpoch); e != nil {
			r.ErrorCode = e.Code
			return r
		}
	}
	if req.Topics == nil {
		if g != nil {
			for _, tp := range sortedPartitions(g.offsets) {
				if g.offsets[tp].outlived(topics, tp) {
					continue
				}
				if n := len(r.Topics); n == 0 || r.Topics[n-1].Topic != tp.Topic {
					r.Topics = append(r.Topics, kmsg.OffsetFetchResponseGroupTopic{Topic: tp.Topic})
				}
				t := &r.Topics[len(r.Topics)-1]
				t.Partitions = append(t.Partitions, g.fetch(tp, requireStable, topics))
			}
		}
		return r
	}
	for _, t := range req.Topics {
		rt := kmsg.OffsetFetchResponseGroupTopic{Topic: t.Topic, TopicID: t.TopicID}
		for _, p := range t.Partitions {
			rt.Partitions = append(rt.Partitions, g.fetch(TopicPartition{Topic: t.Topic, Partition: p}, requireStable, topics))
		}
		r.Topics = append(r.Topics, rt)
	}
	return r
}

func (g *storedGroup) fetch(tp TopicPartition, requireStable bool, topics Topics) kmsg.OffsetFetchResponseGroupTopicPartition {
	p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = tp.Partition, -1, -1, kmsg.StringPtr("")
	if g == nil {
		return p
	}
	if requireStable && g.open[tp] > 0 {
		p.ErrorCode = kerr.UnstableOffsetCommit.Code
		return p
	}
	if o, ok := g.offsets[tp]; ok && !o.outlived(topics, tp) {
		p.Offset, p.LeaderEpoch, p.Metadata = o.offset, o.leaderEpoch, kmsg.StringPtr(o.metadata)
	}
	return p
}

// outlived reports whether the offset's topic is gone and another one has its name. When the topic is not known, it is kept: this node may
// only not have heard of it yet.
func (o offset) outlived(topics Topics, tp TopicPartition) bool {
	id, ok := topics(tp)
	return ok && o.topicID != [16]byte{} && id != o.topicID
}

// DeleteGroup handles one group of DeleteGroups: only a group without members goes, with all its offsets. The reply is a
// kmsg.DeleteGroupsResponseGroup.
func (c *Coordinator) DeleteGroup(now time.Time, name string, to any) {
	r := kmsg.NewDeleteGroupsResponseGroup()
	r.Group = name
	if g := c.consumers[name]; g != nil && c.loaded {
		c.deleteConsumer(now, g, r, to)
		return
	}
	e := c.mayDelete(name)
	if e != nil {
		r.ErrorCode = code(e)
		c.reply(to, r)
		return
	}
	g := c.group(name)
	g.state = dead // nobody joins or commits while the tombstones are under way
	recs := append(c.tombstones(name, func(TopicPartition) bool { return true }), Record{Key: groupKey(name)})
	c.writeAll(recs, func(_ time.Time, err *kerr.Error) {
		if r.ErrorCode = code(err); err != nil {
			g.state = empty
		} else {
			c.forget(g)
		}
		c.reply(to, r)
	})
}

func (c *Coordinator) mayDelete(name string) *kerr.Error {
	if !c.loaded {
		return kerr.NotCoordinator
	}
	if name == "" {
		return kerr.InvalidGroupID
	}
	g := c.group(name)
	switch {
	case g == nil, g.state == dead:
		return kerr.GroupIDNotFound
	case g.state != empty:
		return kerr.NonEmptyGroup
	}
	return nil
}

// DeleteOffsets handles OffsetDelete: offsets go unless a member subscribes to their topic. The reply is a *kmsg.OffsetDeleteResponse.
func (c *Coordinator) DeleteOffsets(now time.Time, req *kmsg.OffsetDeleteRequest, topics Topics, to any) {
	r := kmsg.NewPtrOffsetDeleteResponse()
	subscribed, e := c.mayDeleteOffsets(req.Group)
	if e != nil {
		r.ErrorCode = e.Code
		c.reply(to, r)
		return
	}
	var recs []Record
	for _, t := range req.Topics {
		rt := kmsg.OffsetDeleteResponseTopic{Topic: t.Topic}
		for _, p := range t.Partitions {
			rp := kmsg.OffsetDeleteResponseTopicPartition{Partition: p.Partition}
			tp := TopicPartition{Topic: t.Topic, Partition: p.Partition}
			_, known := topics(tp)
			switch {
			case !known:
				rp.ErrorCode = kerr.UnknownTopicOrPartition.Code
			case subscribed[t.Topic]:
				rp.ErrorCode = kerr.GroupSubscribedToTopic.Code
			default:
				recs = append(recs, c.tombstones(req.Group, func(o TopicPartition) bool { return o == tp })...)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		r.Topics = append(r.Topics, rt)
	}
	c.writeAll(recs, func(_ time.Time, err *kerr.Error) {
		r.ErrorCode = code(err)
		c.reply(to, r)
	})
}

// mayDeleteOffsets decides whether offsets of the group may be deleted, and returns the topics of which they may not.
func (c *Coordinator) mayDeleteOffsets(name string) (subscribed map[string]bool, e *kerr.Error) {
	g := c.group(name)
	switch {
	case !c.loaded:
		return nil, kerr.NotCoordinator
	case name == "":
		return nil, kerr.InvalidGroupID
	case c.consumers[name] != nil:
		return c.subscribedBy(c.consumers[name]), nil
	case g == nil, g.state == dead:
		return nil, kerr.GroupIDNotFound
	case g.state == empty:
		return nil, nil
	case g.protocolType != "consumer":
		return nil, kerr.NonEmptyGroup
	}
	if subscribed = g.subscribed(); subscribed == nil {
		return nil, kerr.GroupSubscribedToTopic
	}
	return subscribed, nil
}

// deleteConsumer is DeleteGroup of a consumer group.
func (c *Coordinator) deleteConsumer(now time.Time, g *consumerGroup, r kmsg.DeleteGroupsResponseGroup, to any) {
	answer := func(e *kerr.Error) {
		r.ErrorCode = code(e)
		c.reply(to, r)
	}
	if g.await(turn{run: func(now time.Time) { c.DeleteGroup(now, g.name, to) }, refuse: answer}) {
		return
	}
	s := c.stored(g.name)
	if len(s.members) > 0 {
		answer(kerr.NonEmptyGroup)
		return
	}
	recs := append(c.tombstones(g.name, func(TopicPartition) bool { return true }), s.tombstones(g.name)...)
	c.step(now, g, recs, func(_ time.Time, err *kerr.Error) { answer(err) })
}

// TopicDeleted drops the offsets of a topic that is gone. Nothing depends on it: fetches know such offsets by their topic id.
func (c *Coordinator) TopicDeleted(topicID [16]byte) {
	if !c.loaded {
		return
	}
	for _, name := range c.store.names() {
		g := c.store.groups[name]
		recs := c.tombstones(name, func(tp TopicPartition) bool { return g.offsets[tp].topicID == topicID })
		c.writeAll(recs, func(time.Time, *kerr.Error) {})
	}
}

// tombstones are the records that delete the group's offsets, those of open transactions included, for which want says so.
func (c *Coordinator) tombstones(name string, want func(TopicPartition) bool) []Record {
	g := c.store.groups[name]
	if g == nil {
		return nil
	}
	var recs []Record
	for _, tp := range sortedPartitions(g.offsets) {
		if want(tp) {
			recs = append(recs, Record{Key: offsetKey(name, tp)})
		}
	}
	for _, tp := range sortedPartitions(g.open) {
		if _, both := g.offsets[tp]; !both && want(tp) {
			recs = append(recs, Record{Key: offsetKey(name, tp)})
		}
	}
	return recs
}

// writeAll writes records in several writes if there are many; then gets the first error when all are done, at once when there are none.
func (c *Coordinator) writeAll(recs []Record, then func(now time.Time, err *kerr.Error)) {
	if len(recs) == 0 {
		then(time.Time{}, nil)
		return
	}
	left, first := (len(recs)+writeRecordsMax-1)/writeRecordsMax, (*kerr.Error)(nil)
	for part := range slices.Chunk(recs, writeRecordsMax) {
		c.write(Write{Records: part, ProducerID: -1, ProducerEpoch: -1}, func(now time.Time, err *kerr.Error) {
			if first == nil {
				first = err
			}
			if left--; left == 0 {
				then(now, first)
			}
		})
	}
}

// expireOffsets drops offsets that ran out (KIP-211), and groups of which nothing is left.
func (c *Coordinator) expireOffsets(now time.Time) {
	c.timers.set(&c.expiry, now.Add(c.o.OffsetCheckEvery))
	for _, name := range slices.Sorted(maps.Keys(c.consumers)) {
		c.expireConsumer(now, c.consumers[name])
	}
	for _, name := range c.groupNames() {
		g := c.groups[name]
		if g.state == dead {
			continue
		}
		sg := c.store.groups[name]
		left := 0
		if sg != nil {
			left = len(sg.offsets) + len(sg.open)
		}
		recs := c.tombstones(name, func(tp TopicPartition) bool {
			o, ok := sg.offsets[tp]
			return ok && sg.open[tp] == 0 && c.expired(now, g, tp, o)
		})
		gone := g.state == empty && len(g.pending) == 0 && left == len(recs)
		if gone {
			if sg == nil {
				c.forget(g) // nothing of it was ever written
				continue
			}
			recs = append(recs, Record{Key: groupKey(name)})
		}
		c.writeAll(recs, func(_ time.Time, err *kerr.Error) {
			if sg := c.store.groups[name]; gone && err == nil && g.state == empty && len(g.pending) == 0 && sg == nil {
				c.forget(g)
			}
		})
	}
}

// expireConsumer drops offsets of topics that nobody in a consumer group subscribes to, after the retention from their commit, and a group
// of which nothing is left. A group that is busy is looked at the next time.
func (c *Coordinator) expireConsumer(now time.Time, g *consumerGroup) {
	sg := c.store.groups[g.name]
	if g.writing || sg == nil {
		return
	}
	subscribed := c.subscribedBy(g)
	recs := c.tombstones(g.name, func(tp TopicPartition) bool {
		o, ok := sg.offsets[tp]
		switch {
		case !ok || sg.open[tp] > 0 || subscribed[tp.Topic]:
			return false
		case o.expireMs >= 0:
			return now.UnixMilli() >= o.expireMs
		}
		return now.UnixMilli()-o.commitMs >= c.o.OffsetRetention.Milliseconds()
	})
	if s := c.stored(g.name); len(s.members) == 0 && len(recs) == len(sg.offsets)+len(sg.open) {
		recs = append(recs, s.tombstones(g.name)...)
	}
	c.step(now, g, recs, func(time.Time, *kerr.Error) {})
}

// expired says whether an offset is kept no longer: a group with members keeps what they subscribe to; an empty one keeps all for the
// retention from when it became empty; one that never had members, from each commit.
func (c *Coordinator) expired(now time.Time, g *group, tp TopicPartition, o offset) bool {
	if o.expireMs >= 0 {
		return now.UnixMilli() >= o.expireMs && g.state == empty
	}
	since := o.commitMs
	switch {
	case g.protocolType == "" && g.state == empty:
	case g.state == empty:
		since = max(since, g.stateSinceMs)
	case g.state == stable && g.protocolType == "consumer":
		if s := g.subscribed(); s == nil || s[tp.Topic] {
			return false
		}
	default:
		return false
	}
	return now.UnixMilli()-since >= c.o.OffsetRetention.Milliseconds()
}
