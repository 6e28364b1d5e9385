package broker_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/broker/auth"
	"github.com/outrelay/outrelay/broker/brokertest"
)

func setQuota(c *rawConn, key string, value float64, remove bool, entity ...string) int16 {
	c.t.Helper()
	req := kmsg.NewPtrAlterClientQuotasRequest()
	e := kmsg.AlterClientQuotasRequestEntry{Ops: []kmsg.AlterClientQuotasRequestEntryOp{{Key: key, Value: value, Remove: remove}}}
	for i := 0; i+1 < len(entity); i += 2 {
		en := kmsg.AlterClientQuotasRequestEntryEntity{Type: entity[i]}
		if entity[i+1] != "" {
			en.Name = &entity[i+1]
		}
		e.Entity = append(e.Entity, en)
	}
	req.Entries = append(req.Entries, e)
	return request[*kmsg.AlterClientQuotasResponse](c, req, 1).Entries[0].ErrorCode
}

// TestQuotas_throttle: who uses more than its quota is told so at once, and is not read from for as long; others are not concerned.
func TestQuotas_throttle(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t, secured)
	admin := dialRaw(t, n)
	login(admin, "admin", canaryAdmin)
	createTopic(t, admin, "t", 1)
	grant(admin, need{auth.All, auth.Topic}, "t")
	for _, key := range []string{"producer_byte_rate", "consumer_byte_rate"} {
		if code := setQuota(admin, key, 1000, false, "user", "alice"); code != 0 {
			t.Fatalf("%s: %v", key, kerr.ErrorForCode(code))
		}
	}
	value := make([]byte, 10_300) // what ten seconds give, and a little more
	alice := dialRaw(t, n)
	login(alice, "alice", canaryAlice)
	r := request[*kmsg.ProduceResponse](alice, produceRequest("t", 0, plainBatch(string(value))), 9)
	if code := r.Topics[0].Partitions[0].ErrorCode; code != 0 || r.ThrottleMillis <= 0 || r.ThrottleMillis > 2000 {
		t.Fatalf("produce: code %d, throttled for %d ms", code, r.ThrottleMillis)
	}
	told := time.Now()
	f := request[*kmsg.FetchResponse](alice, fetchRequest("t", 0, 0, 0), 12)
	if waited, owed := time.Since(told), time.Duration(r.ThrottleMillis)*time.Millisecond; waited < owed-50*time.Millisecond {
		t.Fatalf("answered after %v; the connection is muted for %v", waited, owed)
	}
	if f.ThrottleMillis <= 0 || len(f.Topics[0].Partitions[0].RecordBatches) == 0 {
		t.Fatalf("fetch: throttled for %d ms", f.ThrottleMillis)
	}
	r = request[*kmsg.ProduceResponse](admin, produceRequest("t", 0, plainBatch(string(value))), 9)
	if r.ThrottleMillis != 0 {
		t.Fatalf("somebody else is throttled for %d ms", r.ThrottleMillis)
	}
}

func TestQuotas_describeAndAlter(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t) // quotas need no authentication
	c := dialRaw(t, n)
	for _, tc := range []struct {
		name   string
		key    string
		value  float64
		remove bool
		entity []string
		code   int16
	}{
		{"user", "producer_byte_rate", 1000, false, []string{"user", "alice"}, 0},
		{"default client", "request_percentage", 12.5, false, []string{"client-id", ""}, 0},
		{"both", "consumer_byte_rate", 5, false, []string{"user", "alice", "client-id", "app"}, 0},
		{"removed", "consumer_byte_rate", 0, true, []string{"user", "alice", "client-id", "app"}, 0},
		{"unknown quota", "controller_mutation_rate", 5, false, []string{"user", "alice"}, kerr.InvalidRequest.Code},
		{"nothing", "producer_byte_rate", 0, false, []string{"user", "alice"}, kerr.InvalidRequest.Code},
		{"address", "producer_byte_rate", 5, false, []string{"ip", "10.0.0.1"}, kerr.InvalidRequest.Code},
		{"twice", "producer_byte_rate", 5, false, []string{"user", "a", "user", "b"}, kerr.InvalidRequest.Code},
		{"nobody", "producer_byte_rate", 5, false, nil, kerr.InvalidRequest.Code},
	} {
		if code := setQuota(c, tc.key, tc.value, tc.remove, tc.entity...); code != tc.code {
			t.Errorf("%s: %v, want %v", tc.name, kerr.ErrorForCode(code), kerr.ErrorForCode(tc.code))
		}
	}
	describe := func(strict bool, comps ...kmsg.DescribeClientQuotasRequestComponent) *kmsg.DescribeClientQuotasResponse {
		req := kmsg.NewPtrDescribeClientQuotasRequest()
		req.Components, req.Strict = comps, strict
		return request[*kmsg.DescribeClientQuotasResponse](c, req, 1)
	}
	comp := func(kind string, match int8, name *string) kmsg.DescribeClientQuotasRequestComponent {
		return kmsg.DescribeClientQuotasRequestComponent{EntityType: kind, MatchType: kmsg.QuotasMatchType(match), Match: name}
	}
	if r := describe(false); len(r.Entries) != 2 {
		t.Fatalf("all: %+v", r)
	}
	if r := describe(true, comp("user", 0, new("alice"))); len(r.Entries) != 1 || r.Entries[0].Values[0].Value != 1000 {
		t.Fatalf("alice: %+v", r)
	}
	if r := describe(false, comp("client-id", 1, nil)); len(r.Entries) != 1 || r.Entries[0].Entity[0].Name != nil || r.Entries[0].Values[0].Value != 12.5 {
		t.Fatalf("the default of client ids: %+v", r)
	}
	if r := describe(false, comp("user", 2, nil)); len(r.Entries) != 1 {
		t.Fatalf("any user: %+v", r)
	}
	if r := describe(false, comp("user", 0, nil)); r.ErrorCode != kerr.InvalidRequest.Code {
		t.Fatalf("an exact match with nothing: %+v", r)
	}
	n.Restart()
	c = dialRaw(t, n)
	if r := describe(false); len(r.Entries) != 2 {
		t.Fatalf("after a restart: %+v", r)
	}
}
