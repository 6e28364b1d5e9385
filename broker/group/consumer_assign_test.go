package group_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/outrelay/outrelay/broker/group"
)

type shares = []map[[2]int32]bool

// randomMembers makes members over so many topics; same says that all subscribe to all.
func randomMembers(r *rand.Rand, topics int, same bool) []group.AssignMember {
	members := make([]group.AssignMember, 1+r.IntN(8))
	for i := range members {
		members[i].ID = fmt.Sprintf("m%02d", r.IntN(100)*100+i)
		for t := range topics {
			if same || r.IntN(2) == 0 {
				members[i].Topics = append(members[i].Topics, byte(t+1))
			}
		}
	}
	return members
}

// checkShares: every partition that somebody subscribes to is with one member, who subscribes to it.
func checkShares(t *testing.T, members []group.AssignMember, partitions []int32, got shares) {
	t.Helper()
	for i, n := range partitions {
		wanted := slices.ContainsFunc(members, func(m group.AssignMember) bool { return slices.Contains(m.Topics, byte(i+1)) })
		for p := range n {
			var owners []int
			for k := range got {
				if got[k][[2]int32{int32(i + 1), p}] {
					owners = append(owners, k)
				}
			}
			switch {
			case !wanted && len(owners) == 0:
			case len(owners) != 1 || !slices.Contains(members[owners[0]].Topics, byte(i+1)):
				t.Fatalf("topic %d partition %d is with %v of %+v", i+1, p, owners, members)
			}
		}
	}
}

// Both assignors give every partition once; uniform leaves nobody with two more than another who might have them, whatever was before.
func TestAssign_random(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		partitions := make([]int32, 1+r.IntN(4))
		for i := range partitions {
			partitions[i] = int32(r.IntN(12))
		}
		members := randomMembers(r, len(partitions), r.IntN(2) == 0)
		for round := range 3 {
			checkShares(t, members, partitions, group.RunAssignor("range", members, partitions))
			got := group.RunAssignor("uniform", members, partitions)
			checkShares(t, members, partitions, got)
			for a := range got {
				for p := range got[a] {
					for b := range got {
						if len(got[a])-len(got[b]) >= 2 && slices.Contains(members[b].Topics, byte(p[0])) {
							t.Fatalf("round %d: member %d has %d, member %d has %d and may have %v", round, a, len(got[a]), b, len(got[b]), p)
						}
					}
				}
			}
			// what they have next time, after a topic grew
			for i := range members {
				members[i].Had = got[i]
			}
			partitions[r.IntN(len(partitions))] += int32(r.IntN(3))
		}
	}
}

// uniform moves what it must: when a member comes, only what it gets; when one goes, only what it had.
func TestAssign_uniformMovesLittle(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		partitions := []int32{int32(1 + r.IntN(30)), int32(r.IntN(30))}
		members := randomMembers(r, 2, true)
		before := group.RunAssignor("uniform", members, partitions)
		for i := range members {
			members[i].Had = before[i]
		}
		if again := group.RunAssignor("uniform", members, partitions); moved(before, again) != 0 {
			t.Fatalf("nothing has changed, and %d partitions moved", moved(before, again))
		}
		more := append(slices.Clone(members), group.AssignMember{ID: "new", Topics: []byte{1, 2}})
		after := group.RunAssignor("uniform", more, partitions)
		if n := moved(before, after); n != len(after[len(members)]) {
			t.Fatalf("the new member has %d, and %d partitions moved", len(after[len(members)]), n)
		}
		if len(members) > 1 {
			less := group.RunAssignor("uniform", members[1:], partitions)
			if n := moved(before[1:], less); n != 0 {
				t.Fatalf("of those who stay, %d partitions moved", n)
			}
		}
	}
}

// moved counts what members had and have no longer.
func moved(before, after shares) (n int) {
	for i := range before {
		for p := range before[i] {
			if !after[i][p] {
				n++
			}
		}
	}
	return n
}

// range gives members of one subscription the same partitions of topics of one size, so that what is keyed alike comes together.
func TestAssign_rangeKeepsTopicsTogether(t *testing.T) {
	t.Parallel()
	members := []group.AssignMember{{ID: "c", Topics: []byte{1, 2}}, {ID: "a", Topics: []byte{1, 2}}, {ID: "b", Instance: "z", Topics: []byte{1, 2}}}
	got := group.RunAssignor("range", members, []int32{7, 7})
	want := [][]int32{{5, 6}, {3, 4}, {0, 1, 2}} // c, a, and b, which is static and first
	for i := range want {
		for topic := int32(1); topic <= 2; topic++ {
			for p := range int32(7) {
				if got[i][[2]int32{topic, p}] != slices.Contains(want[i], p) {
					t.Errorf("member %s, topic %d, partition %d", members[i].ID, topic, p)
				}
			}
		}
	}
}
