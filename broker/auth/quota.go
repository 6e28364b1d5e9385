package auth

import (
	"fmt"
	"maps"
	"math"
	"time"
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

// Quotas are the quotas in force. They are immutable; nil has none.
type Quotas struct {
	byEntity map[entityKey]map[string]float64
}

// entityKey is an Entity that can be compared.
type entityKey struct {
	user, client         string
	withUser, withClient bool
}

func keyOf(e Entity) (k entityKey) {
	if e.User != nil {
		k.user, k.withUser = *e.User, true
	}
	if e.ClientID != nil {
		k.client, k.withClient = *e.ClientID, true
	}
	return k
}

// NewQuotas returns the quotas of a list, nil when it is empty.
func NewQuotas(list []Quota) *Quotas {
	if len(list) == 0 {
		return nil
	}
	q := &Quotas{byEntity: make(map[entityKey]map[string]float64, len(list))}
	for _, e := range list {
		q.byEntity[keyOf(e.Entity)] = e.Values
	}
	return q
}

// Share names what a client's use is counted with: all connections that have the same share the quota.
type Share struct {
	User, ClientID string
	Quota          string
}

// Find returns what a client may use of one quota, and whom it shares it with. The most specific quota counts (KIP-55): user and client id, then the
// user with the default of client ids, then the user; the same for the default user; then client id, then its default. ok is false when there is none.
func (q *Quotas) Find(user, clientID, name string) (rate float64, share Share, ok bool) {
	if q == nil {
		return 0, share, false
	}
	for _, k := range [...]entityKey{
		{user, clientID, true, true}, {user, "", true, true}, {user, "", true, false},
		{"", clientID, true, true}, {"", "", true, true}, {"", "", true, false},
		{"", clientID, false, true}, {"", "", false, true},
	} {
		if rate, ok = q.byEntity[k][name]; !ok {
			continue
		}
		share.Quota = name
		if k.withUser {
			share.User = userType + user
		}
		if k.withClient {
			share.ClientID = "id:" + clientID
		}
		return rate, share, true
	}
	return 0, share, false
}

// QuotaWindow is over how long a rate is meant: so much may be used at once after a rest. Apache Kafka counts eleven samples of a second.
const QuotaWindow = 10 * time.Second

// ThrottleMax bounds one wait. What is not worked off by then is waited for the next time.
const ThrottleMax = 10 * time.Second

// Bucket counts the use of one Share. The zero Bucket is full. It is not safe for concurrent use.
type Bucket struct {
	left float64 // below zero: owed
	at   time.Time
}

// Use counts n at rate a second, and returns how long whoever used it must wait until nothing is owed.
func (b *Bucket) Use(now time.Time, rate, n float64) time.Duration {
	full := rate * QuotaWindow.Seconds()
	if b.at.IsZero() {
		b.left = full
	} else if d := now.Sub(b.at); d > 0 {
		b.left += d.Seconds() * rate
	}
	b.left, b.at = min(b.left, full)-n, now
	if b.left >= 0 {
		return 0
	}
	return min(ThrottleMax, time.Duration(-b.left/rate*float64(time.Second)))
}

// Rested reports whether the bucket is as good as new at whatever rate it has.
func (b *Bucket) Rested(now time.Time) bool { return now.Sub(b.at) > 2*QuotaWindow && b.left >= 0 }
