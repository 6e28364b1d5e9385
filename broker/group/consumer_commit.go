package group

import (
	"github.com/twmb/franz-go/pkg/kerr"
)

// permit says of each partition whether a commit for it is taken.
type permit func(slot) *kerr.Error

// mayCommit decides whether the sender may commit to a consumer group now. A member commits with its epoch, or with an older one for
// partitions that it has had since then (KIP-1251); anybody else only to a group without members.
//
// It is decided on what was applied, whatever is being written: what a write takes from this member reaches another one only by a later write,
// which comes after the commit in the log.
func (s *consumerState) mayCommit(from committer) (permit, *kerr.Error) {
	epoch := from.generation
	if epoch < 0 && len(s.members) == 0 {
		return nil, nil
	}
	m := s.members[from.member]
	if from.instance != nil {
		if seat := s.static[*from.instance]; seat != "" && seat != from.member {
			return nil, kerr.FencedInstanceID
		}
	}
	switch {
	case m == nil:
		return nil, kerr.UnknownMemberID
	case m.classic != nil && epoch != m.epoch:
		return nil, kerr.IllegalGeneration
	case m.classic != nil:
		return nil, nil
	case !from.transactional && from.version < 9:
		return nil, kerr.UnsupportedVersion
	case epoch > m.epoch || epoch < 0:
		return nil, kerr.StaleMemberEpoch
	case epoch == m.epoch:
		return nil, nil
	}
	return func(p slot) *kerr.Error {
		if at, ok := m.assigned[p]; !ok || at > epoch {
			return kerr.StaleMemberEpoch
		}
		return nil
	}, nil
}

// mayFetch decides whether the sender may ask for the offsets of a consumer group; who does not say who it is may.
func (s *consumerState) mayFetch(memberID *string, epoch int32) *kerr.Error {
	if memberID == nil && epoch < 0 {
		return nil
	}
	m := s.members[deref(memberID)]
	switch {
	case m == nil:
		return kerr.UnknownMemberID
	case epoch == m.epoch:
		return nil
	case m.classic != nil:
		return kerr.IllegalGeneration
	}
	return kerr.StaleMemberEpoch
}
