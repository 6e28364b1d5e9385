package group

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// owns is what a member says it has at the moment; said is false when it says nothing, which means no change.
type owns struct {
	said bool
	ps   slots
}

func ownsOf(ts []kmsg.ConsumerGroupHeartbeatRequestTopic) owns {
	o := owns{said: ts != nil, ps: slots{}}
	for _, t := range ts {
		for _, p := range t.Partitions {
			o.ps[slot{t.TopicID, p}] = 0
		}
	}
	return o
}

// any reports whether the member may have one of these still: it has not said that it has not.
func (o owns) any(ps slots) bool {
	if !o.said {
		return true
	}
	for p := range ps {
		if _, ok := o.ps[p]; ok {
			return true
		}
	}
	return false
}

// within reports whether the member says that it has nothing but some of these.
func (o owns) within(ps slots) bool {
	if !o.said {
		return false
	}
	for p := range o.ps {
		if _, ok := ps[p]; !ok {
			return false
		}
	}
	return true
}

// reconcile takes a member one step towards its target, if it can be taken; otherwise it returns m. Partitions are revoked before any are
// assigned, and assigned only when nobody else has them: so no partition is with two members (G6).
//
//	Stable ──target has another epoch──▶ revoke ──confirmed──▶ assign what is free ──all there──▶ Stable
//	                                  (Unrevoked,            (epoch of the target;
//	                                   epoch stays)           Unreleased while some is taken)
func (m *consumerMember) reconcile(epoch int32, target slots, has owns, taken func(slot) bool) *consumerMember {
	switch {
	case m.reconciled(epoch):
		return m
	case m.state == memberUnrevoked && has.any(m.revoking):
		return m
	}
	keep, revoke, missing := slots{}, slots{}, false
	for p, at := range m.assigned {
		if _, ok := target[p]; ok {
			keep[p] = at
		} else {
			revoke[p] = at
		}
	}
	n := *m
	if len(revoke) > 0 && has.any(revoke) {
		n.state, n.assigned, n.revoking = memberUnrevoked, keep, revoke
		return &n
	}
	for p := range target {
		if _, ok := keep[p]; ok {
			continue
		}
		if taken(p) {
			missing = true
			continue
		}
		keep[p] = epoch
	}
	n.state, n.assigned, n.revoking = memberStable, keep, nil
	if missing {
		n.state = memberUnreleased
	}
	if n.epoch != epoch {
		n.previous, n.epoch = n.epoch, epoch
	}
	if n.sameStand(m) {
		return m
	}
	return &n
}
