package auth_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
)

const (
	allow    = kmsg.ACLPermissionTypeAllow
	deny     = kmsg.ACLPermissionTypeDeny
	literal  = kmsg.ACLResourcePatternTypeLiteral
	prefixed = kmsg.ACLResourcePatternTypePrefixed
)

func acl(p kmsg.ACLPermissionType, who, host string, op auth.Operation, t auth.ResourceType, pattern kmsg.ACLResourcePatternType, name string) auth.ACL {
	return auth.ACL{Principal: auth.User(who), Host: host, Type: t, Name: name, Pattern: pattern, Operation: op, Permission: p}
}

func TestRules_Allows(t *testing.T) {
	t.Parallel()
	rules := auth.NewRules([]auth.Principal{"User:root"}, []auth.ACL{
		acl(allow, "alice", "*", auth.Read, auth.Topic, literal, "orders"),
		acl(allow, "alice", "*", auth.All, auth.Topic, prefixed, "app-"),
		acl(deny, "alice", "*", auth.Write, auth.Topic, literal, "app-secret"),
		acl(allow, "alice", "*", auth.All, auth.Topic, prefixed, "__outrelay_"),
		acl(allow, "bob", "10.0.0.1", auth.Write, auth.Topic, literal, "*"),
		acl(allow, "*", "*", auth.Describe, auth.Group, literal, "shared"),
		acl(allow, "carol", "*", auth.All, auth.Topic, literal, "*"),
		acl(deny, "carol", "*", auth.All, auth.Topic, prefixed, "app-s"),
		acl(allow, "dave", "*", auth.AlterConfigs, auth.Topic, literal, "t"),
		acl(allow, "eve", "*", auth.All, auth.TransactionalID, literal, "*"),
		acl(deny, "mallory", "*", auth.Describe, auth.Topic, literal, "t"),
		acl(allow, "mallory", "*", auth.Read, auth.Topic, literal, "t"),
	})
	for _, tc := range []struct {
		who, host string
		op        auth.Operation
		t         auth.ResourceType
		name      string
		want      bool
	}{
		{"root", "9.9.9.9", auth.Alter, auth.Cluster, auth.ClusterName, true},
		{"root", "9.9.9.9", auth.Write, auth.Topic, "__outrelay_positions", true},
		{"outrelay", "", auth.Write, auth.Topic, "__outrelay_positions", true},
		{"alice", "1.1.1.1", auth.Read, auth.Topic, "orders", true},
		{"alice", "1.1.1.1", auth.Describe, auth.Topic, "orders", true}, // implied by READ
		{"alice", "1.1.1.1", auth.Write, auth.Topic, "orders", false},
		{"alice", "1.1.1.1", auth.Read, auth.Topic, "orders2", false},
		{"alice", "1.1.1.1", auth.Write, auth.Topic, "app-x", true},
		{"alice", "1.1.1.1", auth.Write, auth.Topic, "app-secret", false}, // DENY wins
		{"alice", "1.1.1.1", auth.Read, auth.Topic, "app-secret", true},
		{"alice", "1.1.1.1", auth.Read, auth.Topic, "__outrelay_positions", false}, // outrelay's own
		{"alice", "1.1.1.1", auth.Read, auth.Group, "orders", false},
		{"alice", "1.1.1.1", auth.Describe, auth.Group, "shared", true},
		{"bob", "10.0.0.1", auth.Write, auth.Topic, "x", true},
		{"bob", "10.0.0.2", auth.Write, auth.Topic, "x", false},
		{"bob", "10.0.0.1", auth.Read, auth.Topic, "x", false},
		{"carol", "", auth.Read, auth.Topic, "app-a", true},
		{"carol", "", auth.Read, auth.Topic, "app-sx", false},
		{"carol", "", auth.Describe, auth.Topic, "app-sx", false},
		{"dave", "", auth.DescribeConfigs, auth.Topic, "t", true},
		{"dave", "", auth.Describe, auth.Topic, "t", false},
		{"eve", "", auth.Write, auth.TransactionalID, "mine", true},
		{"eve", "", auth.Write, auth.TransactionalID, "outrelay-shop", false},
		{"mallory", "", auth.Describe, auth.Topic, "t", false},
		{"mallory", "", auth.Read, auth.Topic, "t", true},
		{"nobody", "", auth.Read, auth.Topic, "orders", false},
		{"alic", "", auth.Read, auth.Topic, "orders", false},
	} {
		if got := rules.Allows(auth.User(tc.who), tc.host, tc.op, tc.t, tc.name); got != tc.want {
			t.Errorf("%s from %q: %v on %v %s: %v, want %v", tc.who, tc.host, tc.op, tc.t, tc.name, got, tc.want)
		}
	}
}

func TestRules_AllowsAny(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		acls []auth.ACL
		want bool
	}{
		{"nothing", nil, false},
		{"a literal", []auth.ACL{acl(allow, "a", "*", auth.Write, auth.Topic, literal, "t")}, true},
		{"a prefix", []auth.ACL{acl(allow, "a", "*", auth.Write, auth.Topic, prefixed, "t")}, true},
		{"another operation", []auth.ACL{acl(allow, "a", "*", auth.Read, auth.Topic, literal, "t")}, false},
		{"denied literal", []auth.ACL{acl(allow, "a", "*", auth.Write, auth.Topic, literal, "t"), acl(deny, "a", "*", auth.Write, auth.Topic, literal, "t")}, false},
		{"denied everywhere", []auth.ACL{acl(allow, "a", "*", auth.Write, auth.Topic, prefixed, "t"), acl(deny, "a", "*", auth.All, auth.Topic, literal, "*")}, false},
		{"denied wider prefix", []auth.ACL{acl(allow, "a", "*", auth.Write, auth.Topic, prefixed, "tt"), acl(deny, "a", "*", auth.Write, auth.Topic, prefixed, "t")}, false},
		{"denied narrower prefix", []auth.ACL{acl(allow, "a", "*", auth.Write, auth.Topic, prefixed, "t"), acl(deny, "a", "*", auth.Write, auth.Topic, prefixed, "tt")}, true},
		{"denied one of all", []auth.ACL{acl(allow, "a", "*", auth.Write, auth.Topic, literal, "*"), acl(deny, "a", "*", auth.Write, auth.Topic, literal, "t")}, true},
		{"only outrelay's own", []auth.ACL{acl(allow, "a", "*", auth.Write, auth.Topic, prefixed, "__outrelay_")}, false},
	} {
		if got := auth.NewRules(nil, tc.acls).AllowsAny("User:a", "h", auth.Write, auth.Topic); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestACL_Check(t *testing.T) {
	t.Parallel()
	good := acl(allow, "a", "*", auth.Read, auth.Topic, literal, "t")
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*auth.ACL){
		"no type of principal":    func(a *auth.ACL) { a.Principal = "alice" },
		"a name as host":          func(a *auth.ACL) { a.Host = "example.org" },
		"no name":                 func(a *auth.ACL) { a.Name = "" },
		"pattern MATCH":           func(a *auth.ACL) { a.Pattern = kmsg.ACLResourcePatternTypeMatch },
		"permission ANY":          func(a *auth.ACL) { a.Permission = kmsg.ACLPermissionTypeAny },
		"operation ANY":           func(a *auth.ACL) { a.Operation = kmsg.ACLOperationAny },
		"CLUSTER_ACTION on topic": func(a *auth.ACL) { a.Operation = auth.ClusterAction },
		"another cluster":         func(a *auth.ACL) { a.Type, a.Operation, a.Name = auth.Cluster, auth.Alter, "mine" },
		"prefixed cluster": func(a *auth.ACL) {
			a.Type, a.Operation, a.Name, a.Pattern = auth.Cluster, auth.Alter, "kafka-", prefixed
		},
		"delegation token": func(a *auth.ACL) { a.Type, a.Operation = kmsg.ACLResourceTypeDelegationToken, auth.Describe },
	} {
		a := good
		change(&a)
		if a.Check() == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}
