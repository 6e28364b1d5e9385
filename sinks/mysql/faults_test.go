package mysql_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sinks"
	"github.com/outrelay/outrelay/sinks/handler"
	"github.com/outrelay/outrelay/sinks/mysql"
)

func TestApply_schemaChangesAreNotTheRecordsFault(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		s := open(t, tg.options("o"))
		c := claim(t, s, 0)
		tg.my.Exec(t, tg.db, "alter table effects rename to elsewhere")
		err := s.Apply(t.Context(), batch(c, tg.Record("a")))
		if !errors.Is(err, outrelay.ErrTransient) || errors.Is(err, outrelay.ErrRecord) {
			t.Fatalf("a missing table: %v, want ErrTransient", err)
		}
		tg.my.Exec(t, tg.db, "alter table elsewhere rename to effects")
		if err := s.Apply(t.Context(), batch(c, tg.Record("a"))); err != nil {
			t.Fatal(err)
		}
	})
}

func TestApply_deadlockIsAConflict(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		tg.my.Exec(t, tg.db, "create table totals (k varchar(9) primary key, n bigint); insert into totals values ('a', 0), ('b', 0)")
		o := tg.options("o")
		o.Handlers = map[string][]handler.Statement{"*": {{SQL: "update totals set n = n + 1 where k = :key"}, {SQL: "select sleep(0.05)"}}}
		s := open(t, o)
		keyed := func(k string) sinks.Record {
			r := record("x", "id", "{}")
			r.Key = []byte(k)
			return r
		}
		orders := [2][]sinks.Record{{keyed("a"), keyed("b")}, {keyed("b"), keyed("a")}}
		claims := [2]sinks.Claim{claim(t, s, 0), claim(t, s, 1)}
		applied, failed := 0, 0
		for round := 0; failed == 0; round++ { // until the two have met
			if round == 50 {
				t.Fatal("never a deadlock")
			}
			errs := [2]chan error{make(chan error, 1), make(chan error, 1)}
			for i := range 2 {
				b := batch(claims[i], orders[i]...)
				claims[i].Next = b.Next
				go func() { errs[i] <- s.Apply(t.Context(), b) }()
			}
			for i := range 2 {
				err := <-errs[i]
				if err == nil {
					applied++
					continue
				}
				failed++
				if !errors.Is(err, sinks.ErrConflict) || !errors.Is(err, outrelay.ErrTransient) {
					t.Fatalf("%v, want ErrConflict and ErrTransient", err)
				}
			}
		}
		if sum := tg.my.Value(t, tg.db, "select sum(n) from totals"); failed != 1 || sum != fmt.Sprint(2*applied) {
			t.Fatalf("%d failed, sum %s after %d batches", failed, sum, applied)
		}
	})
}

// A lock that is not had in time is a conflict; nothing of the batch stays.
func TestApply_lockWaitIsAConflict(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		tg.my.Exec(t, tg.db, "create table totals (k varchar(9) primary key, n bigint); insert into totals values ('k', 0)")
		o := tg.options("o")
		o.LockTimeout = time.Second
		o.Handlers = map[string][]handler.Statement{"*": {handlers["Added"][0], {SQL: "update totals set n = n + 1 where k = :key"}}}
		s := open(t, o)
		c := claim(t, s, 0)
		holder := tg.my.Connect(t, tg.db)
		if _, err := holder.ExecContext(t.Context(), "start transaction; select * from totals for update"); err != nil {
			t.Fatal(err)
		}
		err := s.Apply(t.Context(), batch(c, tg.Record("a")))
		if !errors.Is(err, sinks.ErrConflict) || !errors.Is(err, outrelay.ErrTransient) {
			t.Fatalf("%v, want ErrConflict", err)
		}
		if _, err := holder.ExecContext(t.Context(), "rollback"); err != nil {
			t.Fatal(err)
		}
		if n := len(tg.Effects(t)); n != 0 {
			t.Fatalf("%d effects of the failed batch", n)
		}
		if err := s.Apply(t.Context(), batch(c, tg.Record("a"))); err != nil {
			t.Fatal(err)
		}
	})
}

// The orders of a connection lost around COMMIT: the claim after it says what happened. The transaction is one packet, so the commands that can be
// cut are that packet and its answers, of which the last is the COMMIT's: the only OK without more to come.
func TestApply_ambiguousCommit(t *testing.T) {
	cases := []struct {
		name string
		rule testenv.Rule
		all  bool // every round commits
		none bool // no round does
	}{
		{"before COMMIT arrives", testenv.Rule{Dir: testenv.ToServer, Pattern: []byte("\n;commit"), Action: testenv.CutBefore}, false, true},
		{"before the answer arrives", testenv.Rule{Dir: testenv.ToClient, Pattern: commitAnswer, Action: testenv.CutBefore}, true, false},
		{"while the COMMIT is answered", testenv.Rule{Dir: testenv.ToServer, Pattern: []byte("\n;commit"), Action: testenv.CutAfter}, false, false},
	}
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		for _, tc := range cases {
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel()
				tg := newTarget(t, server)
				proxy := testenv.StartProxy(t, tg.my.Addr())
				s := open(t, tg.through(proxy, "o"))
				cs := []sinks.Claim{claim(t, s, 0), claim(t, s, 1), claim(t, s, 2)}
				const rounds = 20
				effects := 0
				for i := range rounds {
					var bs []sinks.Batch
					for p, c := range cs {
						bs = append(bs, batch(c, tg.Record(fmt.Sprintf("%d of %d", i, p))))
					}
					proxy.CutOn(tc.rule)
					err := s.ApplyAll(t.Context(), bs)
					if of := (*sinks.BatchError)(nil); !errors.Is(err, sinks.ErrAmbiguous) || errors.As(err, &of) {
						t.Fatalf("round %d: %v, want ErrAmbiguous of all", i, err)
					}
					proxy.Clear()
					in := 0
					for p := range cs {
						cs[p] = claim(t, s, int32(p))
						switch cs[p].Next {
						case bs[p].Next:
							in++
						case bs[p].From:
						default:
							t.Fatalf("round %d: claim %+v after [%d, %d)", i, cs[p], bs[p].From, bs[p].Next)
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
				if tc.all && effects != 3*rounds || tc.none && effects != 0 {
					t.Fatalf("%d effects of %d", effects, 3*rounds)
				}
			})
		}
	})
}

// commitAnswer is an OK packet of no rows and no id, with autocommit on, nothing more to come and no warning: status 0x0002, warnings 0.
var commitAnswer = []byte{0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00}

// through are options that reach the server by a proxy.
func (t *target) through(proxy *testenv.Proxy, owner string) mysql.Options {
	o := t.options(owner)
	o.ConnString = func(context.Context) (string, error) {
		return testenv.MySQLDSN(t.my.Flavor(), proxy.Addr(), t.db, "root", ""), nil
	}
	return o
}

// What is cut before the packet with the COMMIT is on its way is no riddle: nothing can have been committed.
func TestApply_cutBeforeTheLastPacketIsTransient(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		proxy := testenv.StartProxy(t, tg.my.Addr())
		o := tg.through(proxy, "o")
		o.PacketBytesMax = 1500
		s := open(t, o)
		c := claim(t, s, 0)
		var records []sinks.Record
		for i := range 20 {
			records = append(records, tg.Record(fmt.Sprint("r", i)))
		}
		proxy.CutOn(testenv.Rule{Dir: testenv.ToServer, Pattern: []byte("'r7'"), Action: testenv.CutBefore})
		err := s.Apply(t.Context(), batch(c, records...))
		if !errors.Is(err, outrelay.ErrTransient) || errors.Is(err, sinks.ErrAmbiguous) {
			t.Fatalf("%v, want ErrTransient", err)
		}
		if err := s.Apply(t.Context(), batch(c, records...)); err != nil {
			t.Fatal(err)
		}
		if n := len(tg.Effects(t)); n != 20 {
			t.Fatalf("%d effects", n)
		}
	})
}

// A server that is restarted while the connections idle costs nothing: a dead session is found before anything is sent.
func TestApply_serverRestart(t *testing.T) {
	t.Parallel()
	my := testenv.StartMariaDB(t, testenv.MySQLOptions{NoFsync: true})
	tg := &target{my: my, db: my.NewDatabase(t)}
	my.Exec(t, tg.db, "create table effects (id varchar(200), k varbinary(200), num decimal(30,2), at bigint)")
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
	c := claim(t, s, 0)
	if err := my.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), batch(c, tg.Record("after"))); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
}

// An owner that was stopped between two packets holds rows; the server ends its transaction, and the next one's claim goes on (C15).
func TestClaim_outlastsAStuckOwner(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		o := tg.options("stopped")
		o.PacketBytesMax, o.OpenMax = 1500, time.Second
		held, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, network, addr)
			return &gate{c, func(b []byte) {
				if bytes.Contains(b, []byte("\n;commit")) {
					once.Do(func() { close(held); <-release })
				}
			}}, err
		}
		old := open(t, o)
		c := claim(t, old, 0)
		big := record("Added", strings.Repeat("x", 150), `{"num": 1}`)
		result := make(chan error, 1)
		go func() { result <- old.Apply(t.Context(), batch(c, big, big, big, big)) }()
		<-held // the move of the offset may be with the server, the COMMIT is not
		s := open(t, tg.options("new"))
		if c := claim(t, s, 0); c.Next != -1 || c.Epoch != 2 {
			t.Fatalf("claim %+v", c)
		}
		close(release)
		if err := <-result; err == nil {
			t.Fatal("the stuck owner's batch was applied")
		}
		if n := len(tg.Effects(t)); n != 0 {
			t.Fatalf("%d effects of the stuck owner", n)
		}
	})
}

// gate is a connection that calls before with all that it is to write.
type gate struct {
	net.Conn
	before func([]byte)
}

func (g *gate) Write(b []byte) (int, error) {
	g.before(b)
	return g.Conn.Write(b)
}

func TestConnString_isReadAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, server *testenv.SharedMySQL) {
		tg := newTarget(t, server)
		account := "again_" + tg.db
		tg.my.Exec(t, "", fmt.Sprintf("create user %s identified by 'CANARY_secret'", account), fmt.Sprintf("grant all on %s.* to %s", tg.db, account))
		t.Cleanup(func() { tg.my.Exec(t, "", "drop user "+account) })
		proxy := testenv.StartProxy(t, tg.my.Addr())
		var mu sync.Mutex
		asked := 0
		o := tg.options("o")
		o.ConnString = func(context.Context) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			return testenv.MySQLDSN(tg.my.Flavor(), proxy.Addr(), tg.db, account, "CANARY_secret"), nil
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
	})
}
