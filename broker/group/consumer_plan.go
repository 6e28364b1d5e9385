package group

import (
	"hash/fnv"
	"maps"
	"regexp"
	"slices"
	"strconv"
)

// plan is one step of a consumer group: the state as it will be, and the records that make it so.
type plan struct {
	c       *Coordinator
	g       *consumerGroup
	was     *consumerState // what the log says
	now     *consumerState // with the step
	removed map[string]bool
	records []Record
	topics  Metadata
}

func (c *Coordinator) newPlan(g *consumerGroup) *plan {
	was := c.stored(g.name)
	p := &plan{c: c, g: g, was: was, now: was.clone(), removed: map[string]bool{}, topics: c.o.Metadata()}
	if g.from != nil {
		p.add(Record{Key: groupKey(g.name)})
		if len(g.from.members) > 0 {
			p.add(g.from.records(g.name)...)
		}
	}
	return p
}

func (p *plan) add(recs ...Record) { p.records = append(p.records, recs...) }

// bump begins a new group epoch.
func (p *plan) bump() {
	p.now.epoch++
	p.add(groupRecord(p.g.name, p.now.epoch, p.now.hash))
}

func (p *plan) remove(m *consumerMember) {
	p.now.remove(m.id)
	p.removed[m.id] = true
	p.add(memberTombstones(p.g.name, m.id)...)
}

// replace gives a static member's seat, with its partitions and its target, to a new member id.
func (p *plan) replace(old *consumerMember, id string) *consumerMember {
	target := p.now.target[old.id]
	p.remove(old)
	m := *old
	m.id, m.epoch, m.previous = id, 0, 0
	p.now.put(&m)
	if target != nil {
		p.now.target[id] = target
		p.add(targetRecord(p.g.name, id, target))
	}
	return &m
}

// say records what a member says of itself, if that is new.
func (p *plan) say(m *consumerMember) {
	if old := p.before(m.id); old == nil || !old.sameSelf(m) {
		p.add(memberRecord(p.g.name, m))
	}
	p.now.put(m)
}

// stand records where a member stands, if that is new.
func (p *plan) stand(m *consumerMember) {
	if old := p.before(m.id); old == nil || !old.sameStand(m) {
		p.add(standRecord(p.g.name, m))
	}
	p.now.put(m)
}

// before is the member as the records before those of say and stand leave it.
func (p *plan) before(id string) *consumerMember {
	if p.removed[id] {
		return nil
	}
	return p.was.members[id]
}

// follow begins a new epoch when a member is new or subscribes to something else (changed), or when the topics that the group subscribes to
// have changed; and makes the target for the epoch if there is none yet.
func (p *plan) follow(changed bool) {
	hash := p.now.hash
	if changed || p.g.seen != p.topics.Version() || p.now.epoch > p.now.targetEpoch {
		hash = p.hash()
	}
	if hash != p.now.hash && p.now.epoch == p.now.targetEpoch {
		changed = true
	}
	switch {
	case changed:
		p.now.hash = hash
		p.bump()
	case hash != p.now.hash:
		p.now.hash = hash
		p.add(groupRecord(p.g.name, p.now.epoch, hash))
	}
	if p.now.epoch > p.now.targetEpoch {
		p.assign()
	}
}

// assign makes the target assignment of the group's epoch.
func (p *plan) assign() {
	ids := p.now.ids()
	members := make([]subscriber, len(ids))
	known := map[string]assignTopic{}
	for i, id := range ids {
		m := p.now.members[id]
		members[i] = subscriber{id: id, instance: m.instance, topics: map[[16]byte]bool{}, had: p.now.target[id]}
		for _, name := range p.subscription(m) {
			if topicID, n, ok := p.topics.Topic(name); ok {
				members[i].topics[topicID] = true
				known[name] = assignTopic{id: topicID, partitions: n}
			}
		}
	}
	topics := make([]assignTopic, 0, len(known))
	for _, name := range slices.Sorted(maps.Keys(known)) {
		topics = append(topics, known[name])
	}
	for i, target := range assignor(p.now.preferred())(members, topics) {
		if had, ok := p.now.target[ids[i]]; !ok || !had.same(target) {
			p.now.target[ids[i]] = target
			p.add(targetRecord(p.g.name, ids[i], target))
		}
	}
	p.now.targetEpoch = p.now.epoch
	p.add(epochRecord(p.g.name, p.now.targetEpoch))
}

// preferred is the assignor that most members want; of equally many, and when nobody says, the default.
func (s *consumerState) preferred() string {
	votes := map[string]int{}
	for _, m := range s.members {
		if assignor(m.assignor) != nil {
			votes[m.assignor]++
		}
	}
	if votes[assignorRange] > votes[assignorUniform] {
		return assignorRange
	}
	return assignorUniform
}

// subscription returns the names a member subscribes to, sorted: those it names and those that its regular expression matches as a whole.
func (p *plan) subscription(m *consumerMember) []string {
	if m.regex == "" {
		return m.topics
	}
	names := slices.Clone(m.topics)
	if re, err := p.g.pattern(m.regex); err == nil {
		for _, name := range p.topics.TopicNames() {
			if re.MatchString(name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// patternsMax bounds the compiled expressions that a group keeps.
const patternsMax = 100

// pattern compiles a subscription's regular expression (RE2), which must match a topic's whole name.
func (g *consumerGroup) pattern(expr string) (*regexp.Regexp, error) {
	if re := g.matches[expr]; re != nil {
		return re, nil
	}
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		return nil, err
	}
	if len(g.matches) >= patternsMax {
		clear(g.matches)
	}
	g.matches[expr] = re
	return re, nil
}

// hash stands for the topics that the group subscribes to: their names, ids and numbers of partitions. 0 when there is none.
func (p *plan) hash() int64 {
	names := map[string]bool{}
	for _, m := range p.now.members {
		for _, name := range p.subscription(m) {
			names[name] = true
		}
	}
	h, none := fnv.New64a(), true
	for _, name := range slices.Sorted(maps.Keys(names)) {
		id, n, ok := p.topics.Topic(name)
		if !ok {
			continue
		}
		none = false
		for _, b := range [][]byte{[]byte(name), id[:], []byte(strconv.Itoa(int(n)))} {
			_, _ = h.Write(b) // never fails
			_, _ = h.Write([]byte{0})
		}
	}
	if none {
		return 0
	}
	return int64(h.Sum64())
}
