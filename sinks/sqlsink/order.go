package sqlsink

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/outrelay/outrelay/sinks"
)

// MoveOrder is the order in which the batches' offsets are moved, by index: the same for every owner, so that an old one and a new one never
// wait for each other's rows in a circle. (At READ COMMITTED of PostgreSQL an old one does not wait: its epoch no longer matches. At other
// levels its snapshot may.)
func MoveOrder(bs []sinks.Batch) ([]int, error) {
	order := make([]int, len(bs))
	for i := range bs {
		if b := &bs[i]; b.From > b.Next || b.Claim.Next < -1 {
			return nil, fmt.Errorf("BUG: batch [%d, %d)", b.From, b.Next)
		}
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return comparePartitions(&bs[i].Claim, &bs[j].Claim) })
	for n := 1; n < len(order); n++ {
		if a, b := &bs[order[n-1]].Claim, &bs[order[n]].Claim; comparePartitions(a, b) == 0 {
			return nil, fmt.Errorf("BUG: two batches of %s/%d in one transaction", a.Partition.Topic, a.Partition.Partition)
		}
	}
	return order, nil
}

func comparePartitions(a, b *sinks.Claim) int {
	return cmp.Or(
		cmp.Compare(a.Partition.LogID, b.Partition.LogID), cmp.Compare(a.Group, b.Group),
		bytes.Compare(a.Partition.TopicID[:], b.Partition.TopicID[:]), cmp.Compare(a.Partition.Partition, b.Partition.Partition),
	)
}
