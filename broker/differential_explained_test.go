package broker_test

import "strings"

// difference is one that is known and meant, or the oracle's.
type difference struct {
	who          oracle // "" is both
	op           string // the op's name begins with it
	ours, theirs string // the answers begin with them
	why          string
}

// differences is everything that may differ.
func differences() []difference {
	return []difference{
		{
			oracleKafka, "DescribeGroups", "error 0 Empty", "error 0 Dead",
			"a commit without a generation makes the group, also when it is refused; Kafka deletes it as we do, but describes what was written only",
		},
		{
			oracleKafka, "ListOffsets", "offset", "offset -1 time -1",
			"after DeleteRecords Kafka does not find a record above the new start by a time that one below it has, too",
		},
		{oracleKafka, "OffsetFetch", "error 0 offset -1", "error 0 offset", "Kafka forgets the offsets of a deleted topic a moment later"},
		{oracleFake, "CreateTopics", "error 17", "error", "takes any topic name"},
		{oracleFake, "CreateTopics", "error 40", "error", "takes any topic config"},
		{oracleFake, "IncrementalAlterConfigs", "error 40", "error", "takes any topic config"},
		{oracleFake, "CreatePartitions", "error 37", "error 0", "takes the number of partitions that there are"},
		{oracleFake, "OffsetCommit", "error 12", "error 0", "takes metadata of any size"},
		{oracleFake, "OffsetCommit", "error", "error", "looks at the group before the topic, and calls what is wrong with a generation otherwise"},
		{oracleFake, "TxnOffsetCommit", "error", "error", "looks at the producer before the topic"},
		{oracleFake, "Produce", "base", "error 45", "wants sequence 0 of a producer that it does not know; Kafka takes any, since what it knew may have expired"},
		{oracleFake, "Produce", "error 45", "base", "takes any sequence at the start of a transaction that has an epoch of its own"},
		{oracleFake, "Produce", "error", "error", "looks for what is wrong with a producer in another order, and knows no TRANSACTION_ABORTABLE"},
		{oracleFake, "EndTxn", "error 48", "error 0", "ends a transaction that was not begun"},
		{oracleFake, "EndTxn", "error 90", "error 0", "takes the epoch before"},
		{oracleFake, "InitProducerId", "epoch", "epoch", "raises the epoch once where Kafka does it twice: for the abort, and for the new owner"},
		{oracleFake, "OffsetFetch", "error", "error", "says GROUP_ID_NOT_FOUND of an unknown group, and keeps offsets of a transaction that were refused, or whose topic is gone"},
		{oracleFake, "OffsetDelete", "", "", "makes groups at other times"},
		{oracleFake, "DescribeGroups", "error 0", "error 0", "makes groups at other times"},
		{oracleFake, "DeleteGroups", "", "", "makes groups at other times"},
		{oracleFake, "EndTxn", "error 0", "error 90", "refuses an abort of the epoch before when it is asked for again"},
		{oracleFake, "EndTxn", "error 90", "error 48", "looks at the state before the epoch"},
		{oracleFake, "EndTxn", "error 48", "error 90", "looks at the epoch otherwise"},
		{oracleFake, "DescribeTransactions", "Ongoing", "Ongoing", "leaves out the partitions of group offsets"},
		{oracleFake, "DescribeTransactions", "Complete", "Ongoing", "begins a transaction with what is refused"},
		{oracleFake, "DescribeTransactions", "Empty", "Ongoing", "begins a transaction with what is refused"},
		{oracleFake, "DescribeTransactions", "CompleteCommit", "Empty", "does not say how a transaction without partitions ended"},
		{oracleFake, "DescribeTransactions", "CompleteAbort", "Empty", "does not say how a transaction without partitions ended"},
		{oracleFake, "DescribeProducers", "error 0", "error 0", "knows a producer that was refused"},
	}
}

// explained returns why two answers may differ; "" when nobody knows.
func explained(who oracle, op, ours, theirs string) string {
	for _, d := range differences() {
		if (d.who == "" || d.who == who) && strings.HasPrefix(op, d.op) && strings.HasPrefix(ours, d.ours) && strings.HasPrefix(theirs, d.theirs) {
			return d.why
		}
	}
	return ""
}
