package bench

import (
	"fmt"
	"time"
)

// stageTimes are means over a phase, in ms, out of the child's own histograms.
type stageTimes struct {
	relayTxn, relayTxns   float64 // begin to commit of a Kafka transaction, and how many there were
	produce, endTxn       float64 // requests at the broker
	apply, applies        float64 // a transaction in the sink
	eventsPerTxn, perSink float64
	together              float64 // partitions in a transaction of the sink
}

func stagesOf(before, after metrics) stageTimes {
	var s stageTimes
	s.relayTxn, s.relayTxns = after.meanMS(before, "outrelay_relay_commit_seconds", "")
	s.produce, _ = after.meanMS(before, "outrelay_broker_request_seconds", `"Produce"`)
	s.endTxn, _ = after.meanMS(before, "outrelay_broker_request_seconds", `"EndTxn"`)
	s.apply, s.applies = after.meanMS(before, "outrelay_consumer_apply_seconds", "")
	diff := func(name string) float64 { return after.sum(name, "") - before.sum(name, "") }
	if s.relayTxns > 0 {
		s.eventsPerTxn = diff("outrelay_relay_events_total") / s.relayTxns
	}
	if s.applies > 0 {
		s.perSink = diff("outrelay_consumer_records_applied_total") / s.applies
		s.together = diff("outrelay_consumer_transaction_batches_sum") / s.applies
	}
	return s
}

func (e *env) latencyReport(f *latencyFound) *Report {
	r := &Report{Name: "latency", Title: "From commit in the source to commit in the sink, and what outrelay needs for it"}
	probe := spanOf(f.probes)
	r.Figures = []Figure{
		{Name: fmt.Sprintf("commit to commit at %d events/s, p50", e.o.Rate), Value: f.main.p50, Unit: "ms", Target: latencyP50TargetMS, AtMost: true, Peer: "Debezium with its JDBC sink, tuned: 23 ms"},
		{Name: "the same, p99", Value: f.main.p99, Unit: "ms", Target: latencyP99TargetMS, AtMost: true, Peer: "Debezium with its JDBC sink, tuned: 81 ms"},
		{Name: "resident memory, highest (VmHWM)", Value: float64(f.hwm) / (1 << 20), Unit: "MB", Target: memoryTargetMB, AtMost: true, Peer: fmt.Sprintf("at the end %s MB; Kafka Connect alone: 1.7 GB", num(float64(f.rss)/(1<<20)))},
		{Name: "ready after a first start", Value: f.ready[0], Unit: "ms", Target: readyTargetMS, AtMost: true, Peer: "Kafka Connect: 12 s"},
		{Name: "ready after a restart", Value: f.ready[1], Unit: "ms", Target: readyTargetMS, AtMost: true},
		{Name: "ready after kill -9", Value: f.ready[2], Unit: "ms", Target: readyTargetMS, AtMost: true},
		{Name: "size of the binary", Value: float64(f.binary) / (1 << 20), Unit: "MB", Target: binaryTargetMB, AtMost: true},
	}
	lat := Table{Title: "Latency, ms", Header: []string{"from … to", "p50", "p90", "p99", "max", "events"},
		Note: "A server notes a commit's time as it begins to write it: the source's sync is in the first line, the sink's is not. The second line has both, and the probe's own queries, one a ms."}
	row := func(name string, s span) {
		lat.add(name, num(s.p50), num(s.p90), num(s.p99), num(s.max), num(s.n))
	}
	row("commit in the source … commit in the sink, by the servers' own clocks", f.main)
	row("commit answered … row seen by a client of the sink (probes)", probe)
	row("the first line again, while a Kafka client reads the topic too", f.observed)
	row("commit in the source … record at that Kafka client", spanOf(f.inLog))
	r.Tables = []Table{lat, e.stageTable(f), e.runTable(f)}
	r.Method = e.latencyMethod()
	return r
}

// stageTable says where the milliseconds go. What is measured and what is a difference is said in each line.
func (e *env) stageTable(f *latencyFound) Table {
	s := f.stages
	stamped, inLog := mean(f.stamped), mean(f.inLog)
	t := Table{Title: "Where the milliseconds go (means)", Header: []string{"stage", "ms", "how it is known"},
		Note: fmt.Sprintf("Means, not medians, so that they add up. A Kafka transaction carried %s events, one in the sink %s.", num(s.eventsPerTxn), num(s.perSink))}
	t.add("source commit → record made: WAL sync, decoding, the stream, waiting for the Kafka transaction before it", num(stamped),
		"the record's timestamp minus the source's commit time; a timestamp has whole ms, cut off, so this is 0.5 too low")
	t.add("record made → readable at read_committed, at a Kafka client", num(inLog-stamped), "that client's clock minus the record's timestamp; so this is 0.5 too high")
	t.add("— of it: begin to commit of the Kafka transaction", num(s.relayTxn), "outrelay_relay_commit_seconds")
	t.add("— — Produce at the broker: one or two a transaction, each with a sync", num(s.produce), "outrelay_broker_request_seconds")
	t.add("— — EndTxn at the broker: the decision, the markers", num(s.endTxn), "outrelay_broker_request_seconds")
	t.add("readable → commit in the sink", num(f.observed.mean-inLog), "the mean of the whole, in the same phase, minus the two above")
	t.add("— of it: the transaction in the sink, its sync included", num(s.apply), "outrelay_consumer_apply_seconds")
	return t
}

func (e *env) runTable(f *latencyFound) Table {
	t := Table{Title: "The run", Header: []string{"what", "value"}}
	t.add("events a second, reached", num(f.rate))
	t.add("Kafka transactions a second", num(f.stages.relayTxns/e.o.For.Seconds()))
	t.add("sink transactions a second", num(f.stages.applies/e.o.For.Seconds()))
	t.add("partitions in a sink transaction", num(f.stages.together))
	t.add("share of one core: outrelay / PostgreSQL / load and probes", fmt.Sprintf("%.0f / %.0f / %.0f %%", 100*f.cpu, 100*f.pgCPU, 100*f.ownCPU))
	for i, what := range []string{"first start, slot and topics created", "after SIGTERM", "after kill -9"} {
		t.add("ready / source relayed, "+what, fmt.Sprintf("%s / %s ms", num(f.ready[i]), num(f.working[i])))
	}
	return t
}

func (e *env) latencyMethod() []string {
	return []string{
		fmt.Sprintf("One PostgreSQL holds the shop and the warehouse; outrelay runs with the YAML of a first deployment and one statement more, which notes each event's id. %d connections commit %d transactions a second, each a business row and an outbox row in one statement, for %s after %s of warm-up. Everything shares the cores: load, server, outrelay, probes.",
			loadConns, e.o.Rate, e.o.For, latencyWarm),
		fmt.Sprintf("Latency is pg_xact_commit_timestamp(xmin) of the event's row in the sink minus that of its row in the outbox (track_commit_timestamp), for every event of the phase; one server, one clock. Besides, %d events a second are committed by a probe that then asks the sink for them until they are there.", latencyProbes),
		fmt.Sprintf("In a second phase of %s, a Kafka client reads the topic at read_committed and notes when each record arrives; it costs time of its own, which is why it is not part of the first.", latencyObserved.Round(time.Second)),
		"Ready is from the start of the process to 200 at /readyz. Debezium's figures were measured on another day on a machine of the same kind (2 cores); they are no part of this run.",
	}
}
