package group

import (
	"cmp"
	"slices"
)

// The names of the server-side assignors (group.consumer.assignors); the first one is the default.
const (
	assignorUniform = "uniform"
	assignorRange   = "range"
)

// assignor returns the named assignor, nil when there is none.
func assignor(name string) func([]subscriber, []assignTopic) []slots {
	switch name {
	case assignorUniform:
		return assignUniform
	case assignorRange:
		return assignRange
	}
	return nil
}

// assignTopic is a topic that somebody subscribes to.
type assignTopic struct {
	id         [16]byte
	partitions int32
}

// subscriber is a member as an assignor sees it.
type subscriber struct {
	id, instance string
	topics       map[[16]byte]bool
	had          slots // its target so far
}

// assignRange gives each topic's partitions in contiguous ranges to those who subscribe to it, static members first, by instance id, then the
// others by member id. Members of one subscription get the same partitions of topics that have equally many.
func assignRange(members []subscriber, topics []assignTopic) []slots {
	order := make([]int, len(members))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := &members[i], &members[j]
		switch {
		case a.instance != "" && b.instance != "":
			return cmp.Compare(a.instance, b.instance)
		case a.instance != "":
			return -1
		case b.instance != "":
			return 1
		}
		return cmp.Compare(a.id, b.id)
	})
	out := emptySlots(len(members))
	for _, t := range topics {
		var subs []int
		for _, i := range order {
			if members[i].topics[t.id] {
				subs = append(subs, i)
			}
		}
		next := int32(0)
		for n, i := range subs {
			quota := t.partitions / int32(len(subs))
			if int32(n) < t.partitions%int32(len(subs)) {
				quota++
			}
			for ; quota > 0; quota-- {
				out[i][slot{t.id, next}] = 0
				next++
			}
		}
	}
	return out
}

func emptySlots(n int) []slots {
	out := make([]slots, n)
	for i := range out {
		out[i] = slots{}
	}
	return out
}

// assignUniform gives members equally many partitions, as far as their subscriptions allow, and moves as few as possible: who has a partition
// keeps it unless somebody else has two fewer.
func assignUniform(members []subscriber, topics []assignTopic) []slots {
	u := newUniform(members, topics)
	u.keep()
	if u.same {
		u.shed()
	}
	u.fill()
	if !u.same {
		u.balance()
	}
	return u.out
}

// uniform is the state of one run of assignUniform.
type uniform struct {
	members []subscriber
	topics  []assignTopic
	readers map[[16]byte][]int // topic → members that subscribe to it, in order of their ids
	same    bool               // all members subscribe to all topics
	order   []int              // members by id
	out     []slots
	placed  map[slot]bool
}

func newUniform(members []subscriber, topics []assignTopic) *uniform {
	u := &uniform{
		members: members, topics: topics, readers: map[[16]byte][]int{}, same: true,
		out: emptySlots(len(members)), placed: map[slot]bool{},
	}
	for i := range members {
		u.order = append(u.order, i)
		u.same = u.same && len(members[i].topics) == len(topics)
	}
	slices.SortFunc(u.order, func(a, b int) int { return cmp.Compare(members[a].id, members[b].id) })
	for _, t := range topics {
		for _, i := range u.order {
			if members[i].topics[t.id] {
				u.readers[t.id] = append(u.readers[t.id], i)
			}
		}
	}
	return u
}

// keep leaves with each member what it had and may still have.
func (u *uniform) keep() {
	count := map[[16]byte]int32{}
	for _, t := range u.topics {
		count[t.id] = t.partitions
	}
	for _, i := range u.order {
		for p := range u.members[i].had {
			if p.partition < count[p.topic] && u.members[i].topics[p.topic] && !u.placed[p] {
				u.out[i][p] = 0
				u.placed[p] = true
			}
		}
	}
}

// shed takes from members what is beyond their share: the whole part of the mean for all, and one more for as many as the rest allows, those
// who have most.
func (u *uniform) shed() {
	total := 0
	for _, t := range u.topics {
		total += int(t.partitions)
	}
	if len(u.members) == 0 {
		return
	}
	share, more := total/len(u.members), total%len(u.members)
	byLoad := slices.Clone(u.order)
	slices.SortStableFunc(byLoad, func(a, b int) int { return len(u.out[b]) - len(u.out[a]) })
	for n, i := range byLoad {
		quota := share
		if n < more {
			quota++
		}
		if len(u.out[i]) <= quota {
			continue
		}
		for _, p := range u.out[i].sorted()[quota:] {
			delete(u.out[i], p)
			delete(u.placed, p)
		}
	}
}

// fill gives what nobody has to those who have least; topics with few readers first, since they have the least choice.
func (u *uniform) fill() {
	topics := slices.Clone(u.topics)
	slices.SortStableFunc(topics, func(a, b assignTopic) int { return len(u.readers[a.id]) - len(u.readers[b.id]) })
	loads := newLoads(u)
	for _, t := range topics {
		if len(u.readers[t.id]) == 0 {
			continue
		}
		for n := range t.partitions {
			if p := (slot{t.id, n}); !u.placed[p] {
				i := loads.least(u.readers[t.id])
				u.out[i][p] = 0
				u.placed[p] = true
				loads.grew(i)
			}
		}
	}
}

// balance moves partitions from members to others that may have them and have at least two fewer, until there is none left to move: each
// move makes the sum of the squares smaller, so there is an end.
func (u *uniform) balance() {
	for moved := true; moved; {
		moved = false
		byLoad := slices.Clone(u.order)
		slices.SortStableFunc(byLoad, func(a, b int) int { return len(u.out[b]) - len(u.out[a]) })
		for _, from := range byLoad {
			for _, p := range u.out[from].sorted() {
				to := from
				for _, i := range u.readers[p.topic] {
					if len(u.out[i]) < len(u.out[to]) {
						to = i
					}
				}
				if len(u.out[from])-len(u.out[to]) >= 2 {
					delete(u.out[from], p)
					u.out[to][p] = 0
					moved = true
				}
			}
		}
	}
}

// loads finds the member with the fewest partitions. When all may have everything, a ring of members sorted by load does it without a search.
type loads struct {
	u    *uniform
	ring []int // by load, then id; nil when subscriptions differ
}

func newLoads(u *uniform) *loads {
	l := &loads{u: u}
	if u.same {
		l.ring = slices.Clone(u.order)
		slices.SortStableFunc(l.ring, func(a, b int) int { return len(u.out[a]) - len(u.out[b]) })
	}
	return l
}

func (l *loads) least(of []int) int {
	if l.ring != nil {
		return l.ring[0]
	}
	return slices.MinFunc(of, func(a, b int) int { return len(l.u.out[a]) - len(l.u.out[b]) })
}

// grew puts the first of the ring, which got one more, where it belongs now.
func (l *loads) grew(i int) {
	if l.ring == nil {
		return
	}
	at := 0
	for at+1 < len(l.ring) && len(l.u.out[l.ring[at+1]]) < len(l.u.out[i]) {
		l.ring[at] = l.ring[at+1]
		at++
	}
	l.ring[at] = i
}
