package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/kafka"
	"github.com/outrelay/outrelay/internal/testenv"
)

const (
	relayTarget = 0.6
	relaySlot   = "bench" // outrelay's slot and publication
	relayTopic  = "outbox.event.order"
	drainMax    = 5 * time.Minute // of one backlog

	relayConfig = `sources:
  shop:
    postgres: ${env:SHOP_DSN}
    slot: bench
    publication: bench
    outbox:
      - table: public.outbox
`
)

// A row has about 1 KB: 36 bytes of id, the names, and a JSON object with one long text.
const relaySQL = `
create table outbox (id uuid primary key default gen_random_uuid(), aggregatetype text not null, aggregateid text not null, type text not null, payload jsonb);
create procedure fill(rows int, per_txn int) language plpgsql as $$
declare
  filler text := (select string_agg(md5(n::text), '') from generate_series(1, 26) n);
begin
  for i in 1 .. rows / per_txn loop
    insert into outbox (aggregatetype, aggregateid, type, payload)
      select 'order', 'c' || (i * per_txn + n) % 5000, 'OrderPlaced', jsonb_build_object('order', i * per_txn + n, 'amount', n, 'text', filler) from generate_series(1, per_txn) n;
    commit;
  end loop;
end $$;
`

// relayRun is one drain of a backlog.
type relayRun struct {
	perSec    float64 // rows, from the connection to the database to the last row written
	total     float64 // rows, from the start of the process
	ownCPU    float64 // seconds of the process that drains
	serverCPU float64 // seconds of the walsender
}

type relayShape struct {
	perTxn      int
	name        string
	debezium    float64 // ratio that Debezium, tuned, reaches
	own, theirs []relayRun
}

// Relay drains a backlog of a PostgreSQL outbox into the log, by turns with pg_recvlogical, which writes the same backlog to a file.
func Relay(ctx context.Context, o Options) (*Report, error) {
	began := time.Now()
	if o.Rows <= 0 {
		o.Rows = 300_000
	}
	e, err := open(o)
	if err != nil {
		return nil, err
	}
	defer e.close()
	shapes := []*relayShape{{perTxn: 100, name: "transactions of 100 rows", debezium: 0.3}, {perTxn: 1, name: "transactions of 1 row", debezium: 0.6}}
	version := ""
	for _, s := range shapes {
		if version, err = e.relayShape(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return e.finish(e.relayReport(shapes), began, version)
}

// relayBacklog is a server with a backlog, and what is needed to drain it as often as one likes: a slot before it, and a data directory of outrelay
// with a position before it.
type relayBacklog struct {
	e     *env
	pg    *testenv.Postgres
	dsn   string
	rows  int
	end   string // LSN behind the backlog
	fresh string // the data directory
	conf  string
	wal   int64 // bytes
}

func (e *env) relayShape(ctx context.Context, s *relayShape) (version string, err error) {
	pg, version, err := startPostgres(ctx)
	if err != nil {
		return "", err
	}
	defer pg.Close()
	b := &relayBacklog{e: e, pg: pg, dsn: pg.DSN("shop"), rows: e.o.Rows, fresh: e.path("fresh-" + strconv.Itoa(s.perTxn)), conf: e.path("relay.yaml")}
	if err := b.build(ctx, s.perTxn); err != nil {
		return "", err
	}
	e.say("%s: backlog of %d rows is there, %d MB of WAL", s.name, b.rows, b.wal>>20)
	for round := range e.o.Rounds {
		theirs, err := b.recvlogical(ctx, round)
		if err != nil {
			return "", fmt.Errorf("pg_recvlogical: %w", err)
		}
		own, err := b.outrelay(ctx, fmt.Sprintf("relay-%d-%d", s.perTxn, round+1), round+1 == e.o.Rounds)
		if err != nil {
			return "", err
		}
		s.theirs, s.own = append(s.theirs, theirs), append(s.own, own)
		e.say("%s, round %d: pg_recvlogical %s rows/s, outrelay %s rows/s, ratio %.2f", s.name, round+1, num(theirs.perSec), num(own.perSec), own.perSec/theirs.perSec)
	}
	return version, nil
}

// build creates slot and position, by a first run of outrelay as a user would have it, and then the backlog.
func (b *relayBacklog) build(ctx context.Context, perTxn int) error {
	if err := execute(ctx, b.pg.DSN("postgres"), "create database shop"); err != nil {
		return err
	}
	if err := execute(ctx, b.dsn, relaySQL); err != nil {
		return err
	}
	if err := os.WriteFile(b.conf, []byte(relayConfig), 0o600); err != nil {
		return err
	}
	c, err := b.e.start(ctx, childOptions{name: filepath.Base(b.fresh), config: b.conf, data: b.fresh, env: []string{"SHOP_DSN=" + b.dsn}})
	if err != nil {
		return err
	}
	defer c.kill()
	if err := c.awaitRelay(ctx, "shop"); err != nil {
		return err
	}
	if err := c.stop(); err != nil {
		return err
	}
	err = execute(ctx, b.dsn, "select pg_copy_logical_replication_slot('"+relaySlot+"', 'before')",
		"set synchronous_commit = off", fmt.Sprintf("call fill(%d, %d)", b.rows, perTxn))
	if err != nil {
		return err
	}
	// Nothing may follow the last commit: pg_recvlogical ends at its message.
	err = query(ctx, b.dsn, `select pg_current_wal_insert_lsn()::text, (pg_current_wal_insert_lsn() - confirmed_flush_lsn)::bigint from pg_replication_slots where slot_name = 'before'`, &b.end, &b.wal)
	if err != nil {
		return err
	}
	return execute(ctx, b.dsn, "checkpoint")
}

// rewind makes the slot stand before the backlog again.
func (b *relayBacklog) rewind(ctx context.Context, slot string) error {
	err := execute(ctx, b.dsn, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '"+slot+"'",
		"select pg_copy_logical_replication_slot('before', '"+slot+"')")
	if err != nil {
		return err
	}
	// Everything is read once, so that neither side finds the WAL colder than the other.
	return exec.CommandContext(ctx, "sh", "-c", "cat "+filepath.Join(b.pg.Data(), "pg_wal")+"/0* > /dev/null").Run()
}

func (b *relayBacklog) recvlogical(ctx context.Context, round int) (relayRun, error) {
	const slot = "peer"
	if err := b.rewind(ctx, slot); err != nil {
		return relayRun{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, drainMax)
	defer cancel()
	out := b.e.path("recvlogical.out")
	defer os.Remove(out)
	w, err := b.watch(ctx, slot)
	if err != nil {
		return relayRun{}, err
	}
	defer w.close()
	began := time.Now()
	cmd := exec.Command(filepath.Join(b.pg.BinDir(), "pg_recvlogical"), "--dbname", b.dsn, "--slot", slot, "--start", "--no-loop", "--endpos", b.end,
		"-o", "proto_version=1", "-o", "publication_names="+relaySlot, "--file", out)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return relayRun{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	w.await(ctx)
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	err = w.sample(ctx, waited)
	ended := time.Now()
	if err != nil {
		return relayRun{}, fmt.Errorf("round %d: %w: %s", round+1, err, stderr.String())
	}
	own := cmd.ProcessState.SystemTime() + cmd.ProcessState.UserTime()
	return b.result(began, w, ended, own), nil
}

// outrelay drains the backlog and returns when a Kafka client would see the last row. With verify, one counts all of them.
func (b *relayBacklog) outrelay(ctx context.Context, name string, verify bool) (relayRun, error) {
	if err := b.rewind(ctx, relaySlot); err != nil {
		return relayRun{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, drainMax)
	defer cancel()
	data := b.e.path(name)
	if err := copyTree(b.fresh, data); err != nil {
		return relayRun{}, err
	}
	defer os.RemoveAll(data)
	w, err := b.watch(ctx, relaySlot)
	if err != nil {
		return relayRun{}, err
	}
	defer w.close()
	c, err := b.e.start(ctx, childOptions{name: name, config: b.conf, data: data, env: []string{"SHOP_DSN=" + b.dsn}, profile: true})
	if err != nil {
		return relayRun{}, err
	}
	defer c.kill()
	w.await(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := c.awaitCount(ctx, "outrelay_relay_events_total", `"shop"`, float64(b.rows))
		done <- err
	}()
	err = w.sample(ctx, done)
	ended := time.Now()
	if err != nil {
		return relayRun{}, fmt.Errorf("%s: %w\n%s", name, err, c.tail())
	}
	r := b.result(c.began, w, ended, c.cpu())
	if verify {
		if err := b.verify(ctx, c); err != nil {
			return r, err
		}
	}
	return r, c.stop()
}

func (b *relayBacklog) result(began time.Time, w *walsender, ended time.Time, own time.Duration) relayRun {
	return relayRun{
		perSec: float64(b.rows) / ended.Sub(w.began).Seconds(), total: float64(b.rows) / ended.Sub(began).Seconds(),
		ownCPU: own.Seconds(), serverCPU: w.cpu.Seconds(),
	}
}

// verify reads the whole topic at read_committed and counts.
func (b *relayBacklog) verify(ctx context.Context, c *child) error {
	cl, err := kafka.NewClient(kafka.Options{Seeds: []string{c.kafka}}, kgo.ConsumeTopics(relayTopic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer cl.Close()
	seen := make(map[string]bool, b.rows)
	n := 0
	for n < b.rows {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			return fmt.Errorf("%d of %d records read: %w", n, b.rows, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			n++
			for _, h := range r.Headers {
				if h.Key == kafka.HeaderID {
					seen[string(h.Value)] = true
				}
			}
		})
	}
	if n != b.rows || len(seen) != b.rows {
		return fmt.Errorf("the log holds %d records with %d ids, the outbox %d rows", n, len(seen), b.rows)
	}
	return nil
}

// walsender is the server's process that decodes for a slot.
type walsender struct {
	conn  *pgx.Conn
	slot  string
	pid   int
	began time.Time // of its connection
	cpu   time.Duration
}

func (b *relayBacklog) watch(ctx context.Context, slot string) (*walsender, error) {
	conn, err := pgx.Connect(ctx, b.dsn)
	return &walsender{conn: conn, slot: slot}, err
}

// await waits until somebody reads the slot. When it takes longer than a whole drain could, its time is that of the call.
func (w *walsender) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	w.began = time.Now()
	_ = every(ctx, 2*time.Millisecond, func() (bool, error) { // an error is a slot nobody reads
		err := w.conn.QueryRow(ctx, `select pid, backend_start from pg_stat_activity where pid = (select active_pid from pg_replication_slots where slot_name = $1)`, w.slot).Scan(&w.pid, &w.began)
		return err == nil, nil
	})
}

// sample notes the walsender's processor time until done yields.
func (w *walsender) sample(ctx context.Context, done <-chan error) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		if w.pid != 0 {
			w.cpu = max(w.cpu, cpuOf(w.pid))
		}
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

func (w *walsender) close() { _ = w.conn.Close(context.Background()) } // only read from

func (e *env) relayReport(shapes []*relayShape) *Report {
	r := &Report{Name: "relay", Title: "Draining a PostgreSQL backlog into the log, beside pg_recvlogical"}
	rate := func(rs []relayRun) (xs []float64) {
		for _, x := range rs {
			xs = append(xs, x.perSec)
		}
		return xs
	}
	t := Table{Title: "Rounds", Header: []string{"backlog", "round", "by", "rows/s", "rows/s from process start", "own CPU s", "walsender CPU s", "ratio"},
		Note: "Rows/s counts from the connection to the database to the last row: in pg_recvlogical's file, not synced; in outrelay's log committed, with fdatasync. CPU of outrelay includes the broker's."}
	for _, s := range shapes {
		r.Figures = append(r.Figures, Figure{Name: "rows/s ÷ pg_recvlogical's, " + s.name, Value: median(ratios(rate(s.own), rate(s.theirs))), Target: relayTarget,
			Peer: fmt.Sprintf("%s rows/s; pg_recvlogical %s rows/s; Debezium 3.6.1, tuned: %.1f of it", num(median(rate(s.own))), num(median(rate(s.theirs))), s.debezium)})
		for i := range s.own {
			a, p := s.own[i], s.theirs[i]
			t.add(s.name, strconv.Itoa(i+1), "pg_recvlogical", num(p.perSec), num(p.total), num(p.ownCPU), num(p.serverCPU), "")
			t.add(s.name, strconv.Itoa(i+1), "outrelay", num(a.perSec), num(a.total), num(a.ownCPU), num(a.serverCPU), fmt.Sprintf("%.2f", a.perSec/p.perSec))
		}
	}
	r.Tables = []Table{t}
	r.Method = []string{
		fmt.Sprintf("%d rows of 1 KB (an outbox row as Debezium's event router knows it, the payload a jsonb of about 900 bytes), committed in transactions of 100 and, in another server, of 1. A first run of outrelay makes the publication, the slot and the first position; its data directory and a copy of its slot (pg_copy_logical_replication_slot) from before the backlog are where each round begins.", e.o.Rows),
		"pg_recvlogical: `--start --endpos … -o proto_version=1 -o publication_names=… --file F`, from its connection to its exit. outrelay: `run` with the YAML of a source and nothing else, its own broker with 16 partitions, from the connection of its replication stream until `outrelay_relay_events_total` says that all rows are committed in the log; in the last round a Kafka client then reads the topic at read_committed and finds every id once. The WAL is in the page cache for both. By turns; the figure is the median of the rounds' ratios.",
		"Debezium's figures were measured on another day on a machine of the same kind (2 cores): 18,700 of 63,000 rows/s, and 19,600 of 33,000; they are no part of this run.",
	}
	return r
}
