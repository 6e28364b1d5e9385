package system_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// halted waits until the group stands still for the reason that code names, checks that status and /readyz say so with the ways out, and returns
// the reason of one partition.
func (w *world) halted(code string, waysOut ...string) string {
	w.t.Helper()
	w.awaitReadyz(503, append([]string{"consumers: ", group, "[" + code + "]"}, waysOut...)...)
	s := w.status()
	if s.Ready || len(s.Groups) != 1 || s.Groups[0].Ready || !strings.Contains(s.Groups[0].Error, "["+code+"]") {
		w.t.Fatalf("status says ready=%v, groups %+v; want a halt %s", s.Ready, s.Groups, code)
	}
	text := w.cli("status", "--http", w.Process.HTTP)
	if !strings.Contains(text, "not ready") || !strings.Contains(text, "["+code+"]") {
		w.t.Fatalf("status does not say [%s]:\n%s", code, text)
	}
	for _, p := range s.Groups[0].Partitions {
		if p.State == "halted" {
			if !containsAll(p.LastError, append(waysOut, "["+code+"]")) {
				w.t.Fatalf("%s: %s; want [%s] and %q", p.TopicPartition, p.LastError, code, waysOut)
			}
			return p.LastError
		}
	}
	w.t.Fatalf("no partition is halted: %+v", s.Groups[0].Partitions)
	return ""
}

// reset is the way out, and waits until the group works.
func (w *world) reset(to string) {
	w.t.Helper()
	before := rows(w.t, w.Warehouse, "select partition || ' ' || topic_id || ' ' || next_offset from outrelay_offsets where next_offset >= 0 order by 1")
	plan := w.cli("groups", "reset", group, "--to", to)
	if !strings.Contains(plan, "nothing was changed; say --yes to do it") {
		w.t.Fatalf("a reset without --yes should only show its plan:\n%s", plan)
	}
	if after := rows(w.t, w.Warehouse, "select partition || ' ' || topic_id || ' ' || next_offset from outrelay_offsets where next_offset >= 0 order by 1"); fmt.Sprint(after) != fmt.Sprint(before) {
		w.t.Fatalf("a reset without --yes changed rows: %v, was %v", after, before)
	}
	w.cli("groups", "reset", group, "--to", to, "--yes")
	w.awaitReadyz(200)
	await(w.t, "status no longer tells of the halt", 20*time.Second, func() bool {
		return !strings.Contains(w.cli("status", "--http", w.Process.HTTP), "[o")
	})
}

// served commits n orders and waits until they are applied.
func (w *world) served(n int) {
	w.t.Helper()
	w.place(n)
	w.drained()
}

// The data directory is deleted while database and sink go on: the source finds its slot without a position, then the group an offset of another log.
func TestHalt_dataDirectoryDeleted(t *testing.T) {
	ownLog(t, "its data directory")
	t.Parallel() // it waits most of the time
	w := newWorld(t, worldOptions{})
	w.start()
	w.served(200)
	w.verify()
	w.stop()
	w.wipeData()
	w.launch()
	slot := "w_" + w.db
	w.awaitReadyz(503, "relay: ", "[slot-without-position]", "pg_drop_replication_slot('"+slot+"')", "outrelay source repair shop --from-table")
	s := w.status()
	if len(s.Sources) != 1 || s.Sources[0].State != "halted" || !strings.Contains(s.Sources[0].Error, "[slot-without-position]") {
		t.Fatalf("sources: %+v", s.Sources)
	}
	// The halt is told at once and stays: it neither ends the process nor touches the slot.
	if n := w.pg.Value(t, w.db, "select count(*) from pg_replication_slots where slot_name = '"+slot+"'"); n != "1" {
		t.Fatalf("%s slots of this name", n)
	}
	w.stop()
	w.pg.Exec(t, w.db, "select pg_drop_replication_slot('"+slot+"')")
	w.launch()
	w.awaitReadyz(200) // the group waits for its topic
	w.place(100)
	reason := w.halted("other-log", "groups reset "+group, "--to earliest", "--to latest")
	if !strings.Contains(reason, w.status().Log.ID) {
		t.Errorf("the reason does not name this log %s: %s", w.status().Log.ID, reason)
	}
	if show := w.cli("groups", "show", group); !strings.Contains(show, "the row belongs to log") {
		t.Errorf("groups show says nothing of the other log:\n%s", show)
	}
	w.reset("earliest")
	w.drained()
	w.sinkExact()
	w.explained(200)
}

// explained runs the audit, which must miss in the log exactly what the log no longer holds, and find nothing else wrong.
func (w *world) explained(gone int64) {
	w.t.Helper()
	r := w.audit(4)
	if r.Lost != gone || r.Duplicated != 0 || r.Reordered != 0 || r.InLog != r.Committed-gone || r.Applied != r.Committed {
		w.t.Fatalf("the audit should miss %d events in the log and nothing else: %+v", gone, r)
	}
}

// A topic is deleted and created again by the relay's next record: the group notices by its id, and neither repeats nor skips by itself.
func TestHalt_topicRecreated(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t, worldOptions{})
	w.start()
	w.served(200)
	w.cli("topics", "delete", orders, "--yes")
	w.place(150)
	w.halted("other-topic", "groups reset "+group+" --topic "+orders, "--to earliest", "--to latest")
	w.reset("earliest")
	w.drained()
	w.sinkExact()
	w.explained(200)
}

// snapshot keeps the state of the sink as a backup would: results and offsets of one moment.
func (w *world) snapshot(name string) {
	w.t.Helper()
	execute(w.t, w.Warehouse, fmt.Sprintf("create schema %[1]s; create table %[1]s.applied as table applied; create table %[1]s.order_totals as table order_totals; create table %[1]s.outrelay_offsets as table outrelay_offsets", name))
}

// restore brings it back.
func (w *world) restore(name string) {
	w.t.Helper()
	execute(w.t, w.Warehouse, fmt.Sprintf(`truncate applied, order_totals, outrelay_offsets;
		insert into applied overriding system value table %[1]s.applied; insert into order_totals table %[1]s.order_totals; insert into outrelay_offsets table %[1]s.outrelay_offsets`, name))
}

// The sink is restored to an older state that the log still covers: it catches up to the right state by itself.
func TestHalt_sinkRestoredWithinTheLog(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t, worldOptions{})
	w.start()
	w.served(200)
	w.stop()
	w.snapshot("old")
	w.start()
	w.served(300)
	w.stop()
	w.restore("old")
	w.start()
	w.served(10)
	w.verify()
}

// The sink is restored to a state older than the log's start: the group halts with the gap; a newer state of the sink, or accepting the gap, gets it going.
func TestHalt_sinkRestoredBelowTheLog(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t, worldOptions{})
	w.start()
	w.served(200)
	w.stop()
	w.snapshot("old")
	w.start()
	w.served(200)
	w.deleteRecords()
	w.stop()
	w.snapshot("new")
	w.restore("old")
	w.launch()
	reason := w.halted("offset-below-log", "groups reset "+group, "--to earliest")
	w.gapIsExact(reason)
	w.stop()
	w.restore("new")
	w.start()
	w.served(50)
	w.sinkExact()

	// The same again, and the gap is accepted: what was in it is missing in the sink, and nothing else.
	w.stop()
	w.restore("old")
	w.launch()
	w.halted("offset-below-log")
	w.reset("earliest")
	w.place(20)
	await(t, "what the log holds is applied", 30*time.Second, func() bool {
		return len(rows(t, w.Warehouse, "select id from applied")) == 200+50+20
	})
	if dup := rows(t, w.Warehouse, "select id from applied group by id having count(*) > 1"); len(dup) > 0 {
		t.Errorf("applied twice: %v", dup)
	}
}

// deleteRecords moves the log's start to its end, as retention would.
func (w *world) deleteRecords() {
	w.t.Helper()
	adm := kadm.NewClient(w.client())
	ends, err := adm.ListCommittedOffsets(w.t.Context(), orders)
	if err != nil {
		w.t.Fatal(err)
	}
	rs, err := adm.DeleteRecords(w.t.Context(), ends.Offsets())
	if err == nil {
		err = rs.Error()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

var gapRE = regexp.MustCompile(`group \S+, (\S+)/(\d+): the next offset to process is (\d+), but the log starts at (\d+): offsets \[(\d+), (\d+)\)`)

// gapIsExact compares the gap that a halt names with the sink's row and the log's start.
func (w *world) gapIsExact(reason string) {
	w.t.Helper()
	m := gapRE.FindStringSubmatch(reason)
	if m == nil {
		w.t.Fatalf("no gap in: %s", reason)
	}
	p, err := strconv.Atoi(m[2])
	if err != nil {
		w.t.Fatal(err)
	}
	starts, err := kadm.NewClient(w.client()).ListStartOffsets(w.t.Context(), orders)
	if err != nil {
		w.t.Fatal(err)
	}
	start, _ := starts.Lookup(orders, int32(p))
	next := rows(w.t, w.Warehouse, "select next_offset::text from outrelay_offsets where partition = $1", p)
	if len(next) != 1 || m[3] != next[0] || m[5] != next[0] || m[4] != fmt.Sprint(start.Offset) || m[6] != fmt.Sprint(start.Offset) {
		w.t.Fatalf("the sink says %v, the log starts at %d, the halt says: %s", next, start.Offset, reason)
	}
}

// The sink has processed more than the log holds, as after a restore of the log: new records would get offsets that count as processed.
func TestHalt_offsetBeyondTheLog(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t, worldOptions{})
	w.start()
	w.served(200)
	w.stop()
	execute(t, w.Warehouse, "update outrelay_offsets set next_offset = next_offset + 1000")
	w.launch()
	w.halted("offset-beyond-log", "groups reset "+group+" --topic "+orders, "--to latest", "--to earliest")
	if show := w.cli("groups", "show", group); !strings.Contains(show, "is beyond the log's end") {
		t.Errorf("groups show says nothing of it:\n%s", show)
	}
	w.reset("latest")
	w.served(100)
	w.verify()
}
