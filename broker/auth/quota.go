package auth

import (
	"fmt"
	"maps"
	"math"
)

// The quotas that are enforced, by their names in the protocol (KIP-13, KIP-124).
const (
	ProducerByteRate  = "producer_byte_rate" // bytes a second of Produce requests
	ConsumerByteRate  = "consumer_byte_rate" // bytes a second of Fetch answers
	RequestPercentage = "request_percentage" // time of the server's, in percent of one processor
)

// Entity is whom a quota is for: a user, a client id, or one together with the other. An empty Name of a part that is set is the default of its
// kind, for all that have no quota of their own.
type Entity struct {
	User     *string `json:"user,omitempty"`
	ClientID *string `json:"client_id,omitempty"`
}

// Same reports whether both are the same entity.
func (e Entity) Same(o Entity) bool {
	return samePart(e.User, o.User) && samePart(e.ClientID, o.ClientID)
}

func samePart(a, b *string) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// Quota is what an entity may use.
type Quota struct {
	Entity Entity             `json:"entity"`
	Values map[string]float64 `json:"values"`
}

// Check returns what is wrong with the quota; nil when nothing is.
func (q Quota) Check() error {
	if q.Entity.User == nil && q.Entity.ClientID == nil {
		return fmt.Errorf("a quota is for a user, a client id or both")
	}
	for _, part := range []*string{q.Entity.User, q.Entity.ClientID} {
		if part != nil && len(*part) > userNameBytesMax {
			return fmt.Errorf("a name of %d bytes, at most %d are possible", len(*part), userNameBytesMax)
		}
	}
	for name, v := range q.Values {
		switch {
		case name != ProducerByteRate && name != ConsumerByteRate && name != RequestPercentage:
			return fmt.Errorf("quota %q is not served: %s, %s and %s are", name, ProducerByteRate, ConsumerByteRate, RequestPercentage)
		case math.IsNaN(v) || math.IsInf(v, 0) || v <= 0:
			return fmt.Errorf("quota %s of %v, want more than 0", name, v)
		case name != RequestPercentage && v != math.Trunc(v):
			return fmt.Errorf("quota %s of %v, want a whole number of bytes", name, v)
		}
	}
	return nil
}

// With returns the quota with values set and others removed.
func (q Quota) With(set map[string]float64, remove []string) Quota {
	next := Quota{Entity: q.Entity, Values: maps.Clone(q.Values)}
	if next.Values == nil {
		next.Values = map[string]float64{}
	}
	maps.Copy(next.Values, set)
	for _, name := range remove {
		delete(next.Values, name)
	}
	return next
}
