package auth_test

import (
	"math"
	"testing"
	"time"

	"github.com/outrelay/outrelay/broker/auth"
)

func quota(user, client *string, rate float64) auth.Quota {
	return auth.Quota{Entity: auth.Entity{User: user, ClientID: client}, Values: map[string]float64{auth.ProducerByteRate: rate}}
}

// TestQuotas_Find: the most specific counts, and says who shares it.
func TestQuotas_Find(t *testing.T) {
	t.Parallel()
	all := []auth.Quota{
		quota(new("alice"), new("app"), 1), quota(new("alice"), new(""), 2), quota(new("alice"), nil, 3), quota(new(""), new("app"), 4),
		quota(new(""), new(""), 5), quota(new(""), nil, 6), quota(nil, new("app"), 7), quota(nil, new(""), 8),
	}
	for _, tc := range []struct {
		without      int // so many of the first are left out
		user, client string
		rate         float64
		share        auth.Share
	}{
		{0, "alice", "app", 1, auth.Share{User: "User:alice", ClientID: "id:app"}},
		{0, "alice", "other", 2, auth.Share{User: "User:alice", ClientID: "id:other"}},
		{2, "alice", "other", 3, auth.Share{User: "User:alice"}},
		{0, "bob", "app", 4, auth.Share{User: "User:bob", ClientID: "id:app"}},
		{0, "bob", "other", 5, auth.Share{User: "User:bob", ClientID: "id:other"}},
		{5, "bob", "other", 6, auth.Share{User: "User:bob"}},
		{6, "bob", "app", 7, auth.Share{ClientID: "id:app"}},
		{6, "bob", "other", 8, auth.Share{ClientID: "id:other"}},
	} {
		tc.share.Quota = auth.ProducerByteRate
		rate, share, ok := auth.NewQuotas(all[tc.without:]).Find(tc.user, tc.client, auth.ProducerByteRate)
		if !ok || rate != tc.rate || share != tc.share {
			t.Errorf("%s, %s without the first %d: %v, %+v, %v; want %v, %+v", tc.user, tc.client, tc.without, rate, share, ok, tc.rate, tc.share)
		}
	}
	if _, _, ok := auth.NewQuotas(all).Find("alice", "app", auth.ConsumerByteRate); ok {
		t.Error("a quota of another kind counts")
	}
	if _, _, ok := auth.NewQuotas(nil).Find("alice", "app", auth.ProducerByteRate); ok {
		t.Error("no quotas, and one is found")
	}
}

// TestBucket: over a long time, who waits as told uses its rate, and no more.
func TestBucket(t *testing.T) {
	t.Parallel()
	var b auth.Bucket
	start := time.Unix(1_700_000_000, 0)
	now := start
	if d := b.Use(now, 100, 1000); d != 0 {
		t.Fatalf("a window's worth at once waits %v", d)
	}
	if d := b.Use(now, 100, 50); d != 500*time.Millisecond {
		t.Fatalf("half a second's worth more waits %v", d)
	}
	used := 1050.0
	for now.Sub(start) < time.Hour {
		now = now.Add(b.Use(now, 100, 300))
		used += 300
		if d := b.Use(now, 100, 0); d > 0 && d != auth.ThrottleMax {
			t.Fatalf("after waiting, %v are still owed", d)
		}
	}
	if rate := (used - 1000) / now.Sub(start).Seconds(); math.Abs(rate-100) > 1 {
		t.Fatalf("%v a second over an hour, want 100", rate)
	}
	if d := b.Use(now, 100, 1e9); d != auth.ThrottleMax {
		t.Fatalf("a wait of %v, at most %v are possible", d, auth.ThrottleMax)
	}
	if b.Rested(now.Add(time.Hour)) {
		t.Fatal("who owes has not rested")
	}
}
