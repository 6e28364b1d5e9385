package testenv_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay/internal/testenv"
)

// echo starts a server that answers every line with the same line, and tells what it got.
func echo(t *testing.T) (addr string, got chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	got = make(chan string, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					l, err := r.ReadString('\n')
					if err != nil {
						return
					}
					got <- l
					if _, err := io.WriteString(c, l); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String(), got
}

func dial(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, bufio.NewReader(c)
}

func TestProxy_cutsAroundAPattern(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		rule       testenv.Rule
		serverSees bool
		clientSees bool
	}{
		{"request lost", testenv.Rule{Dir: testenv.ToServer, Pattern: []byte("COMMIT"), Action: testenv.CutBefore}, false, false},
		{"request delivered, answer lost", testenv.Rule{Dir: testenv.ToServer, Pattern: []byte("COMMIT"), Action: testenv.CutAfter}, true, false},
		{"answer lost", testenv.Rule{Dir: testenv.ToClient, Pattern: []byte("COMMIT"), Action: testenv.CutBefore}, true, false},
		{"cut after the answer", testenv.Rule{Dir: testenv.ToClient, Pattern: []byte("COMMIT"), Action: testenv.CutAfter}, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr, got := echo(t)
			p := testenv.StartProxy(t, addr)
			p.CutOn(tt.rule)
			c, r := dial(t, p.Addr())
			io.WriteString(c, "hello\n")
			if l, err := r.ReadString('\n'); err != nil || l != "hello\n" {
				t.Fatalf("before the pattern: %q, %v", l, err)
			}
			<-got
			io.WriteString(c, "COM")
			io.WriteString(c, "MIT\n")
			l, err := r.ReadString('\n')
			if clientSees := err == nil && l == "COMMIT\n"; clientSees != tt.clientSees {
				t.Errorf("client read %q, %v", l, err)
			}
			if tt.serverSees {
				if l := <-got; l != "COMMIT\n" {
					t.Errorf("server got %q", l)
				}
			}
			<-p.Hits()
			if _, err := r.ReadString('\n'); err == nil {
				t.Error("connection still open")
			}
			c2, r2 := dial(t, p.Addr())
			io.WriteString(c2, "COMMIT\n")
			if l, err := r2.ReadString('\n'); err != nil || l != "COMMIT\n" {
				t.Errorf("the rule acted twice: %q, %v", l, err)
			}
			if !tt.serverSees {
				if l := <-got; l != "COMMIT\n" || len(got) != 0 {
					t.Errorf("server got %q", l)
				}
			}
		})
	}
}

func TestProxy_stallCutAndLimit(t *testing.T) {
	t.Parallel()
	addr, got := echo(t)
	p := testenv.StartProxy(t, addr)
	c, r := dial(t, p.Addr())
	p.Stall(testenv.ToClient, true)
	io.WriteString(c, "a\n")
	<-got
	p.Stall(testenv.ToClient, false)
	if l, err := r.ReadString('\n'); err != nil || l != "a\n" {
		t.Fatalf("after a stall: %q, %v", l, err)
	}
	p.CutAfterBytes(testenv.ToServer, 3)
	io.WriteString(c, "bcdef\n")
	if _, err := r.ReadString('\n'); err == nil {
		t.Fatal("limit did not cut")
	}
	c, r = dial(t, p.Addr())
	io.WriteString(c, "x\n")
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	if _, err := r.ReadString('\n'); err == nil {
		t.Fatal("Cut did not cut")
	}
	p.Refuse(true)
	refused, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return // the reset came before Dial looked
	}
	defer refused.Close()
	io.WriteString(refused, "x\n")
	if _, err := bufio.NewReader(refused).ReadString('\n'); err == nil {
		t.Fatal("refused connection works")
	}
}

// TestProxy_postgresCommit shows the three fates of a COMMIT that a client hears nothing of.
func TestProxy_postgresCommit(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, testenv.PostgresOptions{NoFsync: true})
	pg.Exec(t, "postgres", "CREATE TABLE t (name text)")
	for name, tt := range map[string]struct {
		rule testenv.Rule
		want string
	}{
		"request lost":  {testenv.Rule{Dir: testenv.ToServer, Pattern: []byte("commit\x00"), Action: testenv.CutBefore}, "0"},
		"answer lost":   {testenv.Rule{Dir: testenv.ToServer, Pattern: []byte("commit\x00"), Action: testenv.CutAfter}, "1"},
		"answer caught": {testenv.Rule{Dir: testenv.ToClient, Pattern: []byte("COMMIT\x00"), Action: testenv.CutBefore}, "1"},
	} {
		p := testenv.StartProxy(t, pg.Addr())
		ctx := context.Background()
		c, err := pgx.Connect(ctx, testenv.DSN(p.Addr(), "postgres", "postgres", ""))
		if err != nil {
			t.Fatal(err)
		}
		p.CutOn(tt.rule)
		tx, err := c.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(ctx, "INSERT INTO t VALUES ($1)", name); err != nil {
			t.Fatal(err)
		}
		pid := c.PgConn().PID()
		if err := tx.Commit(ctx); err == nil {
			t.Fatalf("%s: commit returned no error", name)
		}
		waitFor(t, "the backend to end", func() bool {
			return pg.Value(t, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE pid = "+itoa(pid)) == "0"
		})
		if got := pg.Value(t, "postgres", "SELECT count(*) FROM t WHERE name = '"+name+"'"); got != tt.want {
			t.Errorf("%s: %s rows, want %s", name, got, tt.want)
		}
	}
}
