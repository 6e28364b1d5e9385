package group_test

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/group"
)

func errString(code int16) string {
	if code == 0 {
		return "ok"
	}
	return kerr.TypedErrorForCode(code).Message
}

func recordString(r group.Record) string {
	if r.Key[1] > 2 {
		return consumerRecordString(r)
	}
	if r.Key[1] < 2 {
		var k kmsg.OffsetCommitKey
		must(k.ReadFrom(r.Key))
		if r.Value == nil {
			return fmt.Sprintf("offset %s %s/%d: tombstone", k.Group, k.Topic, k.Partition)
		}
		v := kmsg.NewOffsetCommitValue()
		must(v.ReadFrom(r.Value))
		return fmt.Sprintf("offset %s %s/%d: %d epoch=%d v%d", k.Group, k.Topic, k.Partition, v.Offset, v.LeaderEpoch, v.Version)
	}
	var k kmsg.GroupMetadataKey
	must(k.ReadFrom(r.Key))
	if r.Value == nil {
		return fmt.Sprintf("group %s: tombstone", k.Group)
	}
	v := kmsg.NewGroupMetadataValue()
	must(v.ReadFrom(r.Value))
	var b strings.Builder
	fmt.Fprintf(&b, "group %s: gen=%d type=%s protocol=%s leader=%s members=[", k.Group, v.Generation, v.ProtocolType, str(v.Protocol), str(v.Leader))
	for i, m := range v.Members {
		if i > 0 {
			b.WriteString(" ")
		}
		fmt.Fprintf(&b, "%s%s:%s", m.MemberID, at(m.InstanceID), assignmentString(m.Assignment))
	}
	b.WriteString("]")
	return b.String()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func str(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

func at(s *string) string {
	if s == nil {
		return ""
	}
	return "@" + *s
}

func responseString(r any) string {
	var b strings.Builder
	switch r := r.(type) {
	case *kmsg.JoinGroupResponse:
		fmt.Fprintf(&b, "join %s gen=%d member=%s", errString(r.ErrorCode), r.Generation, r.MemberID)
		if r.ErrorCode == 0 {
			fmt.Fprintf(&b, " leader=%s protocol=%s", r.LeaderID, str(r.Protocol))
			for _, m := range r.Members {
				fmt.Fprintf(&b, " %s%s", m.MemberID, at(m.InstanceID))
			}
			if r.SkipAssignment {
				b.WriteString(" skip")
			}
		}
	case *kmsg.SyncGroupResponse:
		fmt.Fprintf(&b, "sync %s", errString(r.ErrorCode))
		if r.ErrorCode == 0 {
			b.WriteString(" " + assignmentString(r.MemberAssignment))
		}
	case *kmsg.ConsumerGroupHeartbeatResponse:
		b.WriteString(beatString(r))
	case *kmsg.HeartbeatResponse:
		fmt.Fprintf(&b, "heartbeat %s", errString(r.ErrorCode))
	case *kmsg.LeaveGroupResponse:
		fmt.Fprintf(&b, "leave %s", errString(r.ErrorCode))
		for _, m := range r.Members {
			fmt.Fprintf(&b, " %s%s:%s", m.MemberID, at(m.InstanceID), errString(m.ErrorCode))
		}
	case *kmsg.OffsetCommitResponse:
		b.WriteString("commit")
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				fmt.Fprintf(&b, " %s/%d:%s", t.Topic, p.Partition, errString(p.ErrorCode))
			}
		}
	case *kmsg.TxnOffsetCommitResponse:
		b.WriteString("txncommit")
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				fmt.Fprintf(&b, " %s/%d:%s", t.Topic, p.Partition, errString(p.ErrorCode))
			}
		}
	case kmsg.OffsetFetchResponseGroup:
		fmt.Fprintf(&b, "fetch %s %s", r.Group, errString(r.ErrorCode))
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				fmt.Fprintf(&b, " %s/%d:%d", t.Topic, p.Partition, p.Offset)
				if p.ErrorCode != 0 {
					fmt.Fprintf(&b, " %s", errString(p.ErrorCode))
				}
			}
		}
	case kmsg.DeleteGroupsResponseGroup:
		fmt.Fprintf(&b, "deletegroup %s %s", r.Group, errString(r.ErrorCode))
	case *kmsg.OffsetDeleteResponse:
		fmt.Fprintf(&b, "deleteoffsets %s", errString(r.ErrorCode))
		for _, t := range r.Topics {
			for _, p := range t.Partitions {
				fmt.Fprintf(&b, " %s/%d:%s", t.Topic, p.Partition, errString(p.ErrorCode))
			}
		}
	case kmsg.DescribeGroupsResponseGroup:
		fmt.Fprintf(&b, "describe %s %s state=%s type=%q protocol=%q", r.Group, errString(r.ErrorCode), r.State, r.ProtocolType, r.Protocol)
		for _, m := range r.Members {
			fmt.Fprintf(&b, " %s%s(%s%s):%s", m.MemberID, at(m.InstanceID), m.ClientID, m.ClientHost, assignmentString(m.MemberAssignment))
		}
	default:
		fmt.Fprintf(&b, "%T", r)
	}
	return b.String()
}
