package auth

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The protocol's own names for what an ACL is about.
type (
	// Operation is what a client wants to do.
	Operation = kmsg.ACLOperation
	// ResourceType is the kind of thing it wants to do it to.
	ResourceType = kmsg.ACLResourceType
)

// Resource types and operations, as this package and its callers use them.
const (
	Topic           = kmsg.ACLResourceTypeTopic
	Group           = kmsg.ACLResourceTypeGroup
	Cluster         = kmsg.ACLResourceTypeCluster
	TransactionalID = kmsg.ACLResourceTypeTransactionalId

	All             = kmsg.ACLOperationAll
	Read            = kmsg.ACLOperationRead
	Write           = kmsg.ACLOperationWrite
	Create          = kmsg.ACLOperationCreate
	Delete          = kmsg.ACLOperationDelete
	Alter           = kmsg.ACLOperationAlter
	Describe        = kmsg.ACLOperationDescribe
	ClusterAction   = kmsg.ACLOperationClusterAction
	DescribeConfigs = kmsg.ACLOperationDescribeConfigs
	AlterConfigs    = kmsg.ACLOperationAlterConfigs
	IdempotentWrite = kmsg.ACLOperationIdempotentWrite
)

// Wildcard stands for every resource of a type, every user, every host.
const Wildcard = "*"

// ClusterName is the name of the one resource of type cluster.
const ClusterName = "kafka-cluster"

// ACL is one access control entry: who, from where, may or may not do what to which resources.
type ACL struct {
	Principal  Principal                   `json:"principal"` // "User:*" is everyone
	Host       string                      `json:"host"`      // an address, or "*"
	Type       ResourceType                `json:"type"`
	Name       string                      `json:"name"`
	Pattern    kmsg.ACLResourcePatternType `json:"pattern"` // literal or prefixed
	Operation  Operation                   `json:"operation"`
	Permission kmsg.ACLPermissionType      `json:"permission"`
}

// nameBytesMax bounds a resource's name, in an ACL and in a request that is asked about.
const nameBytesMax = 1024

// Check returns what is wrong with the entry; nil when nothing is.
func (a ACL) Check() error {
	name, typed := strings.CutPrefix(string(a.Principal), userType)
	switch {
	case !typed || name == "" || len(name) > userNameBytesMax:
		return fmt.Errorf("principal %q, want User:NAME or User:*", a.Principal)
	case a.Host != Wildcard && !validHost(a.Host):
		return fmt.Errorf("host %q, want an IP address or *", a.Host)
	case a.Name == "" || len(a.Name) > nameBytesMax:
		return fmt.Errorf("resource name of %d bytes, want 1 to %d", len(a.Name), nameBytesMax)
	case a.Pattern != kmsg.ACLResourcePatternTypeLiteral && a.Pattern != kmsg.ACLResourcePatternTypePrefixed:
		return fmt.Errorf("pattern type %v, want literal or prefixed", a.Pattern)
	case a.Permission != kmsg.ACLPermissionTypeAllow && a.Permission != kmsg.ACLPermissionTypeDeny:
		return fmt.Errorf("permission %v, want allow or deny", a.Permission)
	case a.Type == Cluster && (a.Name != ClusterName || a.Pattern != kmsg.ACLResourcePatternTypeLiteral):
		return fmt.Errorf("the only resource of type cluster is %s, literal", ClusterName)
	case !applies(a.Operation, a.Type):
		return fmt.Errorf("operation %v does not exist for a resource of type %v", a.Operation, a.Type)
	}
	return nil
}

// applies reports whether an operation exists for resources of a type, as Apache Kafka has them.
func applies(op Operation, t ResourceType) bool {
	if op == All {
		return t == Topic || t == Group || t == Cluster || t == TransactionalID
	}
	var ops []Operation
	switch t {
	case Topic:
		ops = []Operation{Read, Write, Create, Delete, Alter, Describe, DescribeConfigs, AlterConfigs}
	case Group:
		ops = []Operation{Read, Delete, Describe, DescribeConfigs, AlterConfigs}
	case Cluster:
		ops = []Operation{Create, Alter, Describe, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite}
	case TransactionalID:
		ops = []Operation{Write, Describe}
	default: // users and delegation tokens are not served
	}
	return slices.Contains(ops, op)
}

// Operations returns the operations that exist for a type, without ALL.
func Operations(t ResourceType) (ops []Operation) {
	for op := Read; op <= IdempotentWrite; op++ {
		if applies(op, t) {
			ops = append(ops, op)
		}
	}
	return ops
}

func validHost(h string) bool {
	_, err := netip.ParseAddr(h)
	return err == nil
}

// String returns the entry as a sentence.
func (a ACL) String() string {
	name := a.Name
	if a.Pattern == kmsg.ACLResourcePatternTypePrefixed {
		name += "*"
	}
	return fmt.Sprintf("%v %s from %s: %v on %v %s", a.Permission, a.Principal, a.Host, a.Operation, a.Type, name)
}
