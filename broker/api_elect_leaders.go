package broker

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ElectLeaders, key 43: v0–2
//
//   - v0: preferred leaders (KIP-183); v1: unclean elections, an error for the whole answer (KIP-460); v2: flexible
//
// A partition has one replica, which is the preferred leader and leads: ELECTION_NOT_NEEDED. Asked for all partitions, those that need
// none are left out, as in Kafka.

// The kinds of election.
const (
	electPreferred int8 = 0
	electUnclean   int8 = 1
)

func handleElectLeaders(s *Server, _ *conn, kreq kmsg.Request) pending {
	req := kreq.(*kmsg.ElectLeadersRequest)
	resp := req.ResponseKind().(*kmsg.ElectLeadersResponse)
	if req.ElectionType != electPreferred && req.ElectionType != electUnclean {
		resp.ErrorCode = kerr.InvalidRequest.Code
		return answer(resp)
	}
	set := s.topics.set()
	asked, all := req.Topics, req.Topics == nil
	if all {
		for _, name := range sortedNames(set) {
			rt := kmsg.NewElectLeadersRequestTopic()
			rt.Topic = name
			for i := range set.byName[name].partitions {
				rt.Partitions = append(rt.Partitions, int32(i))
			}
			asked = append(asked, rt)
		}
	}
	for i := range asked {
		rt := &asked[i]
		st := kmsg.NewElectLeadersResponseTopic()
		st.Topic = rt.Topic
		for _, index := range rt.Partitions {
			err, text := set.byName[rt.Topic].election(rt.Topic, index, req.ElectionType)
			if all && err == kerr.ElectionNotNeeded {
				continue
			}
			sp := kmsg.NewElectLeadersResponseTopicPartition()
			sp.Partition, sp.ErrorCode, sp.ErrorMessage = index, err.Code, &text
			st.Partitions = append(st.Partitions, sp)
		}
		if len(st.Partitions) > 0 || !all {
			resp.Topics = append(resp.Topics, st)
		}
	}
	return answer(resp)
}

// election says why nobody is elected: the leader is elected by raft, and the one voter there is cannot lose.
func (t *topic) election(name string, index int32, kind int8) (*kerr.Error, string) {
	switch {
	case t == nil:
		return kerr.UnknownTopicOrPartition, fmt.Sprintf("no topic %q", name)
	case index < 0 || int(index) >= len(t.partitions):
		return kerr.UnknownTopicOrPartition, fmt.Sprintf("topic %q has no partition %d", name, index)
	}
	if p := t.partitions[index]; p != nil && p.Leads() {
		return kerr.ElectionNotNeeded, "the preferred replica leads"
	}
	if kind == electUnclean {
		return kerr.EligibleLeadersNotAvailable, "its replica is not up"
	}
	return kerr.PreferredLeaderNotAvailable, "its replica is not up"
}
