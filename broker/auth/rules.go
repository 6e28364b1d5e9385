package auth

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What outrelay keeps for itself in the log. Nobody else may see or touch it, whatever the lists say: a record in the positions topic from elsewhere would
// move a source, and a producer with a relay's transactional id would fence it.
const (
	ownTopics = "__outrelay_"
	ownTxnIDs = "outrelay-"
	ownGroup  = "outrelay-relay"
)

// Owned reports whether a resource is outrelay's own.
func Owned(t ResourceType, name string) bool {
	switch t {
	case Topic:
		return strings.HasPrefix(name, ownTopics)
	case TransactionalID:
		return strings.HasPrefix(name, ownTxnIDs)
	case Group:
		return name == ownGroup
	default:
		return false
	}
}

// Rules are the lists in force. They are immutable and may be used concurrently.
type Rules struct {
	supers map[Principal]bool
	byType map[ResourceType]*ruleSet
}

// ruleSet is the entries for one type of resource.
type ruleSet struct {
	literal  map[string][]ACL // by name; "*" is every name
	prefixed map[string][]ACL // by prefix
	lengths  []int            // of the prefixes there are, ascending
}

// NewRules returns the rules that the super users and the entries make. Internal is always a super user.
func NewRules(supers []Principal, acls ...[]ACL) *Rules {
	r := &Rules{supers: map[Principal]bool{Internal: true}, byType: map[ResourceType]*ruleSet{}}
	for _, p := range supers {
		r.supers[p] = true
	}
	for _, list := range acls {
		for _, a := range list {
			r.add(a)
		}
	}
	return r
}

func (r *Rules) add(a ACL) {
	set := r.byType[a.Type]
	if set == nil {
		set = &ruleSet{literal: map[string][]ACL{}, prefixed: map[string][]ACL{}}
		r.byType[a.Type] = set
	}
	if a.Pattern == kmsg.ACLResourcePatternTypePrefixed {
		set.prefixed[a.Name] = append(set.prefixed[a.Name], a)
		if at, found := slices.BinarySearch(set.lengths, len(a.Name)); !found {
			set.lengths = slices.Insert(set.lengths, at, len(a.Name))
		}
		return
	}
	set.literal[a.Name] = append(set.literal[a.Name], a)
}

// Super reports whether who may do everything.
func (r *Rules) Super(who Principal) bool { return r.supers[who] }

// Allows decides whether who, from host (an address without port), may do op to one resource.
func (r *Rules) Allows(who Principal, host string, op Operation, t ResourceType, name string) bool {
	switch {
	case r.supers[who]:
		return true
	case Owned(t, name), len(name) > nameBytesMax:
		return false
	}
	set := r.byType[t]
	if set == nil {
		return false
	}
	allowed := false
	for _, entries := range set.about(name) {
		for _, a := range entries {
			if !a.concerns(who, host) {
				continue
			}
			if a.Permission == kmsg.ACLPermissionTypeDeny {
				if a.Operation == op || a.Operation == All {
					return false
				}
				continue
			}
			allowed = allowed || includes(a.Operation, op)
		}
	}
	return allowed
}

// about returns the entries whose pattern matches the name.
func (s *ruleSet) about(name string) [][]ACL {
	lists := make([][]ACL, 0, 3)
	if l := s.literal[name]; l != nil && name != Wildcard {
		lists = append(lists, l)
	}
	if l := s.literal[Wildcard]; l != nil {
		lists = append(lists, l)
	}
	for _, n := range s.lengths {
		if n > len(name) {
			break
		}
		if l := s.prefixed[name[:n]]; l != nil {
			lists = append(lists, l)
		}
	}
	return lists
}

func (a ACL) concerns(who Principal, host string) bool {
	return (a.Principal == who || a.Principal == userType+Wildcard) && (a.Host == host || a.Host == Wildcard)
}

// AllowsAny decides whether who may do op to at least one resource of a type, existing or not (KIP-679: who may write to some topic may
// write idempotently). A DENY that covers all that an ALLOW allows takes it away.
func (r *Rules) AllowsAny(who Principal, host string, op Operation, t ResourceType) bool {
	if r.supers[who] {
		return true
	}
	set := r.byType[t]
	if set == nil || denies(set.literal[Wildcard], who, host, op) {
		return false
	}
	for name, entries := range set.literal {
		if allowing(entries, who, host, op) && !Owned(t, name) && (name == Wildcard || r.Allows(who, host, op, t, name)) {
			return true
		}
	}
	for prefix, entries := range set.prefixed {
		if allowing(entries, who, host, op) && !Owned(t, prefix) && !set.prefixDenied(prefix, who, host, op) {
			return true
		}
	}
	return false
}

// prefixDenied reports whether everything that begins with prefix is denied.
func (s *ruleSet) prefixDenied(prefix string, who Principal, host string, op Operation) bool {
	for _, n := range s.lengths {
		if n <= len(prefix) && denies(s.prefixed[prefix[:n]], who, host, op) {
			return true
		}
	}
	return false
}

func denies(entries []ACL, who Principal, host string, op Operation) bool {
	return slices.ContainsFunc(entries, func(a ACL) bool {
		return a.Permission == kmsg.ACLPermissionTypeDeny && a.concerns(who, host) && (a.Operation == op || a.Operation == All)
	})
}

func allowing(entries []ACL, who Principal, host string, op Operation) bool {
	return slices.ContainsFunc(entries, func(a ACL) bool {
		return a.Permission == kmsg.ACLPermissionTypeAllow && a.concerns(who, host) && includes(a.Operation, op)
	})
}

// includes reports whether being allowed one operation allows another: who may read, write, delete or alter may describe.
func includes(granted, wanted Operation) bool {
	switch {
	case granted == All, granted == wanted:
		return true
	case wanted == Describe:
		return granted == Read || granted == Write || granted == Delete || granted == Alter
	case wanted == DescribeConfigs:
		return granted == AlterConfigs
	}
	return false
}
