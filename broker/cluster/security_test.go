package cluster_test

import (
	"context"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/broker/cluster"
	"github.com/outrelay/outrelay/internal/vfs"
)

func TestSecurity_survivesARestart(t *testing.T) {
	t.Parallel()
	ctx, mem := context.Background(), vfs.NewMem()
	m, c, n := open(t, mem)
	must(t, c.EnsureMask(ctx))
	mask := m.State().Security.Mask
	must(t, c.EnsureMask(ctx))
	cred, err := auth.NewCredential(auth.ScramSHA256, "pencil", nil, auth.IterationsMin)
	must(t, err)
	other, err := auth.NewCredential(auth.ScramSHA512, "pencil", nil, auth.IterationsMin)
	must(t, err)
	must(t, c.AlterUser(ctx, cluster.UserChange{User: "alice", Credential: &cred}))
	must(t, c.AlterUser(ctx, cluster.UserChange{User: "alice", Credential: &other}))
	must(t, c.AlterUser(ctx, cluster.UserChange{User: "bob", Credential: &cred}))
	must(t, c.AlterUser(ctx, cluster.UserChange{User: "bob", Delete: auth.ScramSHA256}))
	wants(t, "delete what is not there", c.AlterUser(ctx, cluster.UserChange{User: "bob", Delete: auth.ScramSHA256}), kerr.ResourceNotFound)
	wants(t, "a reserved name", c.AlterUser(ctx, cluster.UserChange{User: "outrelay", Credential: &cred}), kerr.UnacceptableCredential)
	broken := cred
	broken.Iterations = 1
	wants(t, "few iterations", c.AlterUser(ctx, cluster.UserChange{User: "eve", Credential: &broken}), kerr.UnacceptableCredential)

	a := auth.ACL{Principal: "User:alice", Host: "*", Type: auth.Topic, Name: "t", Pattern: kmsg.ACLResourcePatternTypeLiteral,
		Operation: auth.Read, Permission: kmsg.ACLPermissionTypeAllow}
	b := a
	b.Permission = kmsg.ACLPermissionTypeDeny
	must(t, c.CreateACLs(ctx, []auth.ACL{a, b, a}))
	must(t, c.DeleteACLs(ctx, []auth.ACL{b}))
	wants(t, "a broken ACL", c.CreateACLs(ctx, []auth.ACL{{}}), kerr.InvalidRequest)
	q := auth.Quota{Entity: auth.Entity{User: new("alice")}, Values: map[string]float64{auth.ProducerByteRate: 1024}}
	must(t, c.AlterQuota(ctx, q))
	gone := auth.Quota{Entity: auth.Entity{ClientID: new("")}, Values: map[string]float64{auth.ConsumerByteRate: 1}}
	must(t, c.AlterQuota(ctx, gone))
	gone.Values = nil
	must(t, c.AlterQuota(ctx, gone))
	wants(t, "a quota of nobody", c.AlterQuota(ctx, auth.Quota{}), kerr.InvalidRequest)

	want := cluster.Security{Mask: mask, Users: map[string]cluster.User{"alice": {cred, other}}, ACLs: []auth.ACL{a}, Quotas: []auth.Quota{q}}
	if got := m.State().Security; !reflect.DeepEqual(got, want) {
		t.Fatalf("state %+v, want %+v", got, want)
	}
	blob, err := m.Checkpoint()()
	must(t, err)
	must(t, n.Close())
	m, _, n = open(t, mem)
	if got := m.State().Security; !reflect.DeepEqual(got, want) {
		t.Fatalf("after a restart %+v, want %+v", got, want)
	}
	must(t, n.Close())
	restored := cluster.New()
	must(t, restored.Restore(blob))
	if got := restored.State().Security; !reflect.DeepEqual(got, want) {
		t.Fatalf("from a checkpoint %+v, want %+v", got, want)
	}
}

// TestSnapshot_readsVersion1: what the program before users and ACLs wrote.
func TestSnapshot_readsVersion1(t *testing.T) {
	t.Parallel()
	m := cluster.New()
	must(t, m.Restore(append([]byte{1}, `{"cluster_id":"abc","nodes":null,"topics":null,"deleted":null,"version":7,"next_group":3,"next_replica":1001,"next_producer_id":5}`...)))
	if s := m.State(); s.ClusterID != "abc" || s.Version != 7 || s.Security.Users != nil || s.Security.Mask != nil {
		t.Fatalf("state %+v", s)
	}
	if err := m.Restore([]byte{3, '{', '}'}); err == nil {
		t.Fatal("a newer version was read")
	}
	if err := m.Restore(append([]byte{2}, `{"users":{"alice":[{"mechanism":"SCRAM-SHA-256"}]}}`...)); err == nil {
		t.Fatal("a credential that is not whole was read")
	}
}
