package bench

import (
	"fmt"
	"strconv"
	"time"
)

func (s *scaleRun) report() *Report {
	r := &Report{Name: "scale", Title: "The log with many partitions, gigabytes and members"}
	var growth []float64
	catchUp := Table{Title: "Catch-up", Header: []string{"round", "p99 ms, producer alone", "p99 ms, beside the reader", "times", "records/s read"}}
	for i := range s.alone {
		growth = append(growth, s.while[i].p99/s.alone[i].p99)
		catchUp.add(strconv.Itoa(i+1), num(s.alone[i].p99), num(s.while[i].p99), num(growth[i]), num(s.readPerSec[i]))
	}
	restarts := Table{Title: "Restarts", Header: []string{"round", "seconds from kill -9's next start to ready"}}
	for i, x := range s.restarts {
		restarts.add(strconv.Itoa(i+1), num(x))
	}
	slowest := time.Duration(0)
	groups := Table{Title: "Rebalances", Header: []string{"protocol", "what happens", "until every partition is owned, ms"}}
	for _, x := range s.rebalances {
		groups.add(x.protocol, x.what, num(ms(x.took)))
		slowest = max(slowest, x.took)
	}
	idle := Table{Title: "Idle", Header: []string{"partitions", "resident MB", "% of a core"}}
	idle.add("0", num(s.rss[0]), num(s.cpu[0]))
	idle.add(strconv.Itoa(scalePartitions), num(s.rss[1]), num(s.cpu[1]))
	r.Figures = []Figure{
		{Name: "1,000 idle partitions, memory", Value: s.rss[1] - s.rss[0], Unit: "MB more", Target: idleTargetMB, AtMost: true},
		{Name: "1,000 idle partitions, processor", Value: max(0, s.cpu[1]-s.cpu[0]), Unit: "% of a core more", Target: idleTargetPercent, AtMost: true},
		{Name: "p99 of a producer of 10,000 records/s while the backlog is read", Value: median(growth), Unit: "times its p99 alone", Target: catchUpTarget, AtMost: true,
			Peer: fmt.Sprintf("%s records/s read by one connection", num(median(s.readPerSec)))},
		{Name: "start after kill -9, to ready", Value: median(s.restarts), Unit: "s", Target: restartTargetSec, AtMost: true},
		{Name: "rebalance of 100 members, the slowest", Value: slowest.Seconds(), Unit: "s", Target: rebalanceTargetSec, AtMost: true},
	}
	r.Tables = []Table{idle, groups, catchUp, restarts}
	r.Method = []string{
		fmt.Sprintf("outrelay runs as `outrelay run --log-only` in a process of its own; client and broker share the machine. Idle: one topic of %d partitions that nobody writes or reads; resident memory (VmRSS) and processor time over %s, %s after they were created.",
			scalePartitions, scaleIdleWatch, scaleIdleWatch/2),
		fmt.Sprintf("Rebalances: franz-go, %d members in one process on one topic of %d partitions, range assignor, heartbeats each %s: members learn of a rebalance by a heartbeat (KIP-848: the group's `consumer.heartbeat.interval.ms`, and a partition that moves takes two: to give it up, and to take it). From the change to the moment when the members own all partitions evenly.",
			scaleMembers, 2*scaleMembers, scaleHeartbeat),
		fmt.Sprintf("Catch-up: %s records of 1 KiB in 16 partitions; a producer as in `bench log` (10,000 records/s, latency from when each record is due) for %s alone, then as long while one connection of a third process reads the backlog as fast as it comes, records not decoded; %d rounds, median of the ratios.",
			num(float64(s.e.o.Rows)), s.e.o.For, s.e.o.Rounds),
		fmt.Sprintf("Restarts: with that backlog, and %d records in each of the %d partitions, kill -9, start, and the time until /readyz says 200.", scaleBackPerPart, scalePartitions),
	}
	return r
}
