package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/postgres"
	"github.com/outrelay/outrelay/sinks/sinktest"
)

var shared testenv.Shared

// target is a database of its own whose handler inserts the record's id.
type target struct {
	pg *testenv.Postgres
	db string
}

func newTarget(tb testing.TB) *target {
	pg := shared.Get(tb)
	t := &target{pg: pg, db: pg.NewDatabase(tb)}
	pg.Exec(tb, t.db, "create table effects (n bigserial, id text, key text, num numeric, at bigint, check (id <> 'poison'))")
	return t
}

var handlers = map[string][]handler.Statement{
	"Added":  {{SQL: "insert into effects (id, key, num, at) values (:id, :key, :payload.num, :offset)", Place: "outrelay.yaml:11"}},
	"Poison": {{SQL: "insert into effects (id, num) values (:id, :payload.num)", Place: "outrelay.yaml:14"}},
}

func (t *target) options(owner string) postgres.Options {
	return postgres.Options{
		ConnString: func(context.Context) (string, error) { return t.pg.DSN(t.db), nil },
		Owner:      owner, Handlers: handlers,
	}
}

func (t *target) Open(tb testing.TB) sinks.Sink { return open(tb, t.options("sinktest")) }

func open(tb testing.TB, o postgres.Options) *postgres.Sink {
	tb.Helper()
	s, err := postgres.Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func record(typ, id, payload string) sinks.Record {
	return sinks.Record{
		Topic: "t", TopicID: [16]byte{1}, Timestamp: time.UnixMilli(1_700_000_000_123), Key: []byte("k"), Value: []byte(payload),
		Headers: []outrelay.Header{{Key: sinks.HeaderID, Value: []byte(id)}, {Key: sinks.HeaderType, Value: []byte(typ)}},
	}
}

func (t *target) Record(id string) sinks.Record { return record("Added", id, `{"num": 1}`) }
func (t *target) Poison(id string) sinks.Record { return record("Poison", id, `{"num": "x"}`) }

func (t *target) Effects(tb testing.TB) map[string]int {
	out := map[string]int{}
	rows, err := t.pg.Connect(tb, t.db).Query(tb.Context(), "select id from effects")
	if err != nil {
		tb.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	for _, id := range ids {
		out[id]++
	}
	return out
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, func(tb testing.TB) sinktest.Target { return newTarget(tb) })
}

func part(n int32) sinks.Partition {
	return sinks.Partition{LogID: "log", TopicID: [16]byte{1}, Topic: "t", Partition: n}
}

func claim(tb testing.TB, s sinks.OffsetStore, n int32) sinks.Claim {
	tb.Helper()
	c, err := s.Claim(tb.Context(), "g", part(n))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func batch(c sinks.Claim, records ...sinks.Record) sinks.Batch {
	from := max(c.Next, 0)
	for i := range records {
		records[i].Offset, records[i].Partition = from+int64(i), c.Partition.Partition
	}
	return sinks.Batch{Claim: c, From: c.Next, Next: from + int64(len(records)), Records: records}
}

func TestOpen_createsTablesOnceAndKnowsNewerOnes(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	var wg sync.WaitGroup
	for range 4 { // at the same time
		wg.Go(func() {
			s, err := postgres.Open(t.Context(), tg.options("o"))
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Close()
		})
	}
	wg.Wait()
	if v := tg.pg.Value(t, tg.db, "select value from outrelay_meta where name = 'schema_version'"); v != "1" {
		t.Fatalf("schema_version %q", v)
	}
	tg.pg.Exec(t, tg.db, "update outrelay_meta set value = '99'")
	if _, err := postgres.Open(t.Context(), tg.options("o")); !errors.Is(err, outrelay.ErrEnvironment) || !strings.Contains(err.Error(), "version 99") {
		t.Fatalf("newer tables: %v", err)
	}
}

func TestOpen_asRoleWithoutCreate(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	role := "weak_" + tg.db
	tg.pg.Exec(t, tg.db, fmt.Sprintf(`create role %q login; revoke create on schema public from public; grant insert on effects to %[1]q; grant usage on sequence effects_n_seq to %[1]q`, role))
	t.Cleanup(func() {
		c, _ := pgx.Connect(context.Background(), tg.pg.DSN(tg.db))
		_, _ = c.Exec(context.Background(), fmt.Sprintf(`drop owned by %q; drop role %[1]q`, role))
		_ = c.Close(context.Background())
	})
	o := tg.options("o")
	o.ConnString = func(context.Context) (string, error) { return tg.pg.DSNAs(tg.db, role, ""), nil }
	_, err := postgres.Open(t.Context(), o)
	if !errors.Is(err, outrelay.ErrEnvironment) || !strings.Contains(err.Error(), "create table if not exists") {
		t.Fatalf("without CREATE: %v, want the SQL to run", err)
	}
	tg.pg.Exec(t, tg.db, postgres.SchemaSQL("public"), fmt.Sprintf(`grant select, insert, update, delete on outrelay_offsets to %q`, role), fmt.Sprintf(`grant select on outrelay_meta to %q`, role))
	s := open(t, o)
	if err := s.Apply(t.Context(), batch(claim(t, s, 0), tg.Record("a"))); err != nil {
		t.Fatal(err)
	}
}

func TestOpen_refusesReadOnly(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	tg.pg.Exec(t, tg.db, fmt.Sprintf("alter database %s set default_transaction_read_only = on", pgx.Identifier{tg.db}.Sanitize()))
	if _, err := postgres.Open(t.Context(), tg.options("o")); !errors.Is(err, outrelay.ErrEnvironment) || !strings.Contains(err.Error(), "sink-read-only") {
		t.Fatal(err)
	}
}

func TestOpen_namesEveryRefusedStatement(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	o := tg.options("o")
	o.Handlers = map[string][]handler.Statement{
		"A": {{SQL: "insert into effects (id) values (:id)", Place: "outrelay.yaml:5"}, {SQL: "insert into effects (totl) values (:payload.total)", Place: "outrelay.yaml:6"}},
		"B": {{SQL: "insert into nowhere values (:id)", Place: "outrelay.yaml:9"}},
	}
	_, err := postgres.Open(t.Context(), o)
	if !errors.Is(err, outrelay.ErrConfig) {
		t.Fatalf("%v, want ErrConfig", err)
	}
	for _, want := range []string{`outrelay.yaml:6: handler A: column "totl" of relation "effects" does not exist (SQLSTATE 42703) at "totl)`, `outrelay.yaml:9: handler B: relation "nowhere" does not exist`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error\n%v\nlacks %q", err, want)
		}
	}
}

func TestApply_bindsEveryKindOfValue(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	tg.pg.Exec(t, tg.db, `create table v (i int, num numeric, txt text, js jsonb, j json, bin bytea, ts timestamptz, u uuid, b bool, whole jsonb, raw bytea, key bytea, topic text, part int, ofs bigint, h text, typ text, nul text, missing text, obj text)`)
	o := tg.options("o")
	o.Handlers = map[string][]handler.Statement{handler.AnyType: {{SQL: `insert into v values (:payload.i, :payload.num, :payload.txt, :payload.txt, :payload.obj, :payload.txt, :committed_at, :id,
		:payload.b, :payload, :payload, :key, :topic, :partition, :offset, :headers.x.y, :type, :payload.nul, :payload.no.such, :payload.obj)`}}}
	s := open(t, o)
	r := record("Odd", "7d444840-9dc0-11d1-b245-5ffdce74fad2", `{"i": 7, "num": 12345678901234567890.12345678901234567890, "txt": "O'Neil \"é\" $1 ;--", "obj": {"a": [1, 2.50]}, "b": true, "nul": null}`)
	r.Key = []byte{0, 1, 255}
	r.Headers = append(r.Headers, outrelay.Header{Key: "x.y", Value: []byte("first")}, outrelay.Header{Key: "x.y", Value: []byte("last")},
		outrelay.Header{Key: sinks.HeaderCommittedAt, Value: []byte("2026-01-02T03:04:05.678901Z")})
	if err := s.Apply(t.Context(), batch(claim(t, s, 3), r)); err != nil {
		t.Fatal(err)
	}
	for col, want := range map[string]string{
		"i": "7", "num": "12345678901234567890.12345678901234567890", "txt": `O'Neil "é" $1 ;--`, "js #>> '{}'": `O'Neil "é" $1 ;--`, "j": `{"a": [1, 2.50]}`,
		"convert_from(bin, 'UTF8')": `O'Neil "é" $1 ;--`, "ts at time zone 'UTC'": "2026-01-02 03:04:05.678901", "u": "7d444840-9dc0-11d1-b245-5ffdce74fad2", "b": "true",
		"whole->>'i'": "7", "octet_length(raw)": fmt.Sprint(len(r.Value)), "encode(key, 'hex')": "0001ff", "topic": "t", "part": "3", "ofs": "0", "h": "last", "typ": "Odd",
		"nul is null and missing is null": "true", "obj": `{"a": [1, 2.50]}`,
	} {
		if got := tg.pg.Value(t, tg.db, "select ("+col+")::text from v"); got != want {
			t.Errorf("%s: %q, want %q", col, got, want)
		}
	}
	// A tombstone: every field is NULL.
	c := claim(t, s, 3)
	tomb := record("Odd", "7d444840-9dc0-11d1-b245-5ffdce74fad2", "")
	tomb.Value, tomb.Key = nil, nil
	if err := s.Apply(t.Context(), batch(c, tomb)); err != nil {
		t.Fatal(err)
	}
	if n := tg.pg.Value(t, tg.db, "select count(*) from v where i is null and whole is null and raw is null and key is null"); n != "1" {
		t.Fatalf("%s rows of the tombstone", n)
	}
}

func TestApply_recordErrors(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	tg.pg.Exec(t, tg.db, "create table late (id text, unique (id) deferrable initially deferred)")
	o := tg.options("o")
	o.Handlers = map[string][]handler.Statement{
		"Added":  handlers["Added"],
		"Two":    {{SQL: "insert into effects (id) values (:id)", Place: "f:1"}, {SQL: "select 1 / (:payload.num::int)", Place: "f:2"}},
		"Late":   {{SQL: "insert into late values (:id)"}},
		"Silent": nil,
	}
	s := open(t, o)
	c := claim(t, s, 0)
	ok := tg.Record("a")
	for _, tc := range []struct {
		name   string
		bad    sinks.Record
		want   string
		noName bool
	}{
		{"no JSON", record("Added", "x", "hello"), "handler Added (outrelay.yaml:11): the payload is not JSON", false},
		{"empty payload", record("Added", "x", ""), "the payload is empty", false},
		{"a cast", record("Added", "x", `{"num": "many"}`), `invalid input syntax for type numeric: "many" (SQLSTATE 22P02)`, false},
		{"a constraint", record("Added", "poison", `{}`), "effects_id_check", false},
		{"a zero byte", record("Added", "a\x00b", `{}`), "SQLSTATE 22021", false},
		{"second statement", record("Two", "x", `{"num": 0}`), "division by zero", false},
		{"lone surrogate", record("Added", "x", `{"num": "\ud800"}`), ":payload.num: a string holds half of a surrogate pair", false},
		{"at commit", record("Late", "same", "{}"), "late_id_key", true},
	} {
		records := []sinks.Record{ok, tc.bad, ok}
		if tc.noName {
			records = []sinks.Record{tc.bad, tc.bad}
		}
		err := s.Apply(t.Context(), batch(c, records...))
		if !errors.Is(err, outrelay.ErrRecord) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want ErrRecord with %q", tc.name, err, tc.want)
		}
		if re := (*sinks.RecordError)(nil); errors.As(err, &re) == tc.noName || re != nil && re.Record.Offset != 1 {
			t.Errorf("%s: blamed %+v", tc.name, re)
		}
	}
	if n := tg.pg.Value(t, tg.db, "select count(*) from effects"); n != "0" {
		t.Fatalf("%s effects of failed batches", n)
	}
	// The claim still holds, and the division by zero of a handler was not taken for the move's.
	silent := record("Silent", "x", "no JSON needed")
	unknown := record("Unknown", "x", "no handler")
	if err := s.Apply(t.Context(), batch(c, ok, silent, unknown)); err != nil {
		t.Fatal(err)
	}
}

func TestApply_schemaChangesAreNotTheRecordsFault(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	s := open(t, tg.options("o"))
	c := claim(t, s, 0)
	tg.pg.Exec(t, tg.db, "alter table effects rename to elsewhere")
	err := s.Apply(t.Context(), batch(c, tg.Record("a")))
	if !errors.Is(err, outrelay.ErrTransient) || errors.Is(err, outrelay.ErrRecord) {
		t.Fatalf("a missing table: %v, want ErrTransient", err)
	}
	tg.pg.Exec(t, tg.db, "alter table elsewhere rename to effects")
	if err := s.Apply(t.Context(), batch(c, tg.Record("a"))); err != nil {
		t.Fatal(err)
	}
}

func TestApply_deadlockIsAConflict(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	tg.pg.Exec(t, tg.db, "create table totals (k text primary key, n bigint); insert into totals values ('a', 0), ('b', 0)", fmt.Sprintf("alter database %s set deadlock_timeout = '20ms'", pgx.Identifier{tg.db}.Sanitize()))
	o := tg.options("o")
	o.Handlers = map[string][]handler.Statement{"*": {{SQL: "update totals set n = n + 1 where k = :key"}, {SQL: "select pg_sleep(0.05)"}}}
	s := open(t, o)
	keyed := func(k string) sinks.Record {
		r := record("x", "id", "{}")
		r.Key = []byte(k)
		return r
	}
	orders := [2][]sinks.Record{{keyed("a"), keyed("b")}, {keyed("b"), keyed("a")}}
	errs := make(chan error, 2)
	for i := range int32(2) {
		c := claim(t, s, i)
		go func() { errs <- s.Apply(t.Context(), batch(c, orders[i]...)) }()
	}
	failed := 0
	for range 2 {
		if err := <-errs; err != nil {
			failed++
			if !errors.Is(err, sinks.ErrConflict) || !errors.Is(err, outrelay.ErrTransient) {
				t.Fatalf("%v, want ErrConflict and ErrTransient", err)
			}
		}
	}
	if failed != 1 {
		t.Fatalf("%d of 2 batches failed, want the deadlock's victim alone", failed)
	}
}

// The two orders of a connection lost around COMMIT: the claim after it says what happened.
func TestApply_ambiguousCommit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name      string
		rule      testenv.Rule
		committed bool
	}{
		{"before COMMIT arrives", testenv.Rule{Dir: testenv.ToServer, Pattern: []byte("\x00outrelay_commit\x00"), Action: testenv.CutBefore}, false},
		{"before the answer arrives", testenv.Rule{Dir: testenv.ToClient, Pattern: []byte("COMMIT\x00"), Action: testenv.CutBefore}, true},
		{"while the COMMIT is answered", testenv.Rule{Dir: testenv.ToServer, Pattern: []byte("\x00outrelay_commit\x00"), Action: testenv.CutAfter}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tg := newTarget(t)
			proxy := testenv.StartProxy(t, tg.pg.Addr())
			o := tg.options("o")
			o.ConnString = func(context.Context) (string, error) { return testenv.DSN(proxy.Addr(), tg.db, "postgres", ""), nil }
			s := open(t, o)
			c := claim(t, s, 0)
			effects := 0
			for i := range 20 {
				proxy.CutOn(tc.rule)
				b := batch(c, tg.Record(fmt.Sprint("a", i)), tg.Record(fmt.Sprint("b", i)))
				if err := s.Apply(t.Context(), b); !errors.Is(err, sinks.ErrAmbiguous) {
					t.Fatalf("round %d: %v, want ErrAmbiguous", i, err)
				}
				proxy.Clear()
				c = claim(t, s, 0)
				switch {
				case c.Next == b.Next:
					effects += 2
				case c.Next != b.From:
					t.Fatalf("round %d: claim %+v after [%d, %d)", i, c, b.From, b.Next)
				}
			}
			if got := len(tg.Effects(t)); got != effects {
				t.Fatalf("%d effects, the claims said %d", got, effects)
			}
			if tc.committed && tc.rule.Dir == testenv.ToClient && effects != 40 || !tc.committed && effects != 0 {
				t.Fatalf("%d effects of 40", effects)
			}
		})
	}
}

// The same for a transaction of three partitions: it is in for all of them or for none.
func TestApplyAll_ambiguousCommit(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]testenv.Rule{
		"before COMMIT arrives":        {Dir: testenv.ToServer, Pattern: []byte("\x00outrelay_commit\x00"), Action: testenv.CutBefore},
		"before the answer arrives":    {Dir: testenv.ToClient, Pattern: []byte("COMMIT\x00"), Action: testenv.CutBefore},
		"while the COMMIT is answered": {Dir: testenv.ToServer, Pattern: []byte("\x00outrelay_commit\x00"), Action: testenv.CutAfter},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tg := newTarget(t)
			proxy := testenv.StartProxy(t, tg.pg.Addr())
			o := tg.options("o")
			o.ConnString = func(context.Context) (string, error) { return testenv.DSN(proxy.Addr(), tg.db, "postgres", ""), nil }
			s := open(t, o)
			cs := []sinks.Claim{claim(t, s, 0), claim(t, s, 1), claim(t, s, 2)}
			effects := 0
			for i := range 10 {
				var bs []sinks.Batch
				for p, c := range cs {
					bs = append(bs, batch(c, tg.Record(fmt.Sprintf("%d of %d", i, p))))
				}
				proxy.CutOn(rule)
				err := s.ApplyAll(t.Context(), bs)
				if of := (*sinks.BatchError)(nil); !errors.Is(err, sinks.ErrAmbiguous) || errors.As(err, &of) {
					t.Fatalf("round %d: %v, want ErrAmbiguous of all", i, err)
				}
				proxy.Clear()
				in := 0
				for p := range cs {
					cs[p] = claim(t, s, int32(p))
					if cs[p].Next == bs[p].Next {
						in++
					}
				}
				if in != 0 && in != 3 {
					t.Fatalf("round %d: %d of 3 batches are in", i, in)
				}
				effects += in
			}
			if got := len(tg.Effects(t)); got != effects {
				t.Fatalf("%d effects, the claims said %d", got, effects)
			}
		})
	}
}

// A server that is restarted while the connections idle costs one failed batch, not one per connection.
func TestApply_serverRestart(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{})
	tg := &target{pg: pg, db: "postgres"}
	pg.Exec(t, tg.db, "create table effects (n bigserial, id text, key text, num numeric, at bigint)")
	s := open(t, tg.options("o"))
	var wg sync.WaitGroup
	for i := range int32(4) {
		wg.Go(func() {
			c, err := s.Claim(t.Context(), "g", part(i))
			if err == nil {
				err = s.Apply(t.Context(), batch(c, tg.Record(fmt.Sprint(i))))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := pg.Restart(); err != nil {
		t.Fatal(err)
	}
	c, err := s.Claim(t.Context(), "g", part(0))
	if err != nil {
		t.Fatalf("claim after a restart: %v", err)
	}
	if err := s.Apply(t.Context(), batch(c, tg.Record("after"))); err != nil {
		t.Fatal(err)
	}
}

// An owner that was stopped in the middle of a batch holds the row; the next one's claim ends its session (C15).
func TestClaim_endsAStuckOwner(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	old := open(t, tg.options("stopped"))
	c := claim(t, old, 0)
	// A session named as ours that took the row and never comes back.
	conf, err := pgx.ParseConfig(tg.pg.DSN(tg.db))
	if err != nil {
		t.Fatal(err)
	}
	conf.RuntimeParams["application_name"] = "outrelay stopped"
	zombie, err := pgx.ConnectConfig(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer zombie.Close(context.Background())
	if _, err := zombie.Exec(t.Context(), "begin; update outrelay_offsets set next_offset = 5"); err != nil {
		t.Fatal(err)
	}
	o := tg.options("new")
	o.StuckOwnerAfter = 100 * time.Millisecond
	s := open(t, o)
	if c := claim(t, s, 0); c.Next != -1 || c.Epoch != 2 {
		t.Fatalf("claim %+v", c)
	}
	if err := old.Apply(t.Context(), batch(c)); !errors.Is(err, outrelay.ErrFenced) {
		t.Fatalf("the stuck owner: %v", err)
	}
}

func TestConnString_isReadAgain(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	proxy := testenv.StartProxy(t, tg.pg.Addr())
	var mu sync.Mutex
	asked := 0
	o := tg.options("o")
	o.ConnString = func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		return testenv.DSN(proxy.Addr(), tg.db, "postgres", "CANARY_secret"), nil
	}
	s := open(t, o)
	c := claim(t, s, 0)
	proxy.Cut()
	proxy.Refuse(true)
	err := s.Apply(t.Context(), batch(c, tg.Record("a")))
	for range 3 {
		if err == nil {
			t.Fatal("applied without a network")
		}
		if strings.Contains(err.Error(), "CANARY") {
			t.Fatalf("the error tells the password: %v", err)
		}
		_, err = s.Claim(t.Context(), "g", part(0))
		if !errors.Is(err, outrelay.ErrTransient) {
			t.Fatalf("%v, want ErrTransient", err)
		}
	}
	proxy.Refuse(false)
	c = claim(t, s, 0)
	if err := s.Apply(t.Context(), batch(c, tg.Record("a"))); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if asked < 3 {
		t.Fatalf("asked %d times for the connection string", asked)
	}
}

func TestOpen_unreachableIsTransient(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	_, err = postgres.Open(t.Context(), postgres.Options{ConnString: func(context.Context) (string, error) { return testenv.DSN(addr, "x", "u", "CANARY"), nil }})
	if !errors.Is(err, outrelay.ErrTransient) || strings.Contains(err.Error(), "CANARY") {
		t.Fatal(err)
	}
}
