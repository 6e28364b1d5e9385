package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Stop shuts the server down in order (fast mode: sessions are ended, a checkpoint is written). Start brings it back.
func (p *Postgres) Stop() error {
	if p.proc == nil {
		return nil
	}
	return p.signalAndWait(syscall.SIGINT)
}

// Start starts a stopped or killed server on the same port and waits until it takes connections.
func (p *Postgres) Start() error {
	if p.proc != nil {
		return nil
	}
	return p.start(context.Background())
}

// Restart stops the server in order and starts it again.
func (p *Postgres) Restart() error {
	if err := p.Stop(); err != nil {
		return err
	}
	return p.Start()
}

// Kill9 kills the postmaster and all its processes with SIGKILL, as a crash of the machine would, and waits until they are gone.
// What the server had synced is on disk; replication slots fall back to the last checkpoint.
func (p *Postgres) Kill9() error {
	if p.proc == nil {
		return nil
	}
	return p.signalAndWait(syscall.SIGKILL)
}

// Signal sends sig to the postmaster and all its processes: SIGSTOP makes the server hang, SIGCONT goes on.
func (p *Postgres) Signal(sig syscall.Signal) error {
	if p.proc == nil {
		return errors.New("server is stopped")
	}
	for _, pid := range append([]int{p.proc.pid}, children(p.proc.pid)...) {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

func (p *Postgres) signalAndWait(sig syscall.Signal) error {
	proc := p.proc
	kids := children(proc.pid)
	if err := syscall.Kill(proc.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	if sig == syscall.SIGKILL {
		for _, k := range kids {
			_ = syscall.Kill(k, sig)
		}
	}
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	select {
	case <-proc.done:
	case <-limit.C:
		_ = syscall.Kill(proc.pid, syscall.SIGKILL)
		<-proc.done
	}
	p.proc = nil
	// A child that still holds the shared memory keeps the next start from taking the data directory.
	deadline := time.Now().Add(10 * time.Second)
	for _, k := range kids {
		for alive(k) && time.Now().Before(deadline) {
			_ = syscall.Kill(k, syscall.SIGKILL)
			time.Sleep(2 * time.Millisecond) // these are not our children: nothing tells when they end
		}
	}
	return nil
}

// children returns the process ids of pid's direct children.
func children(pid int) []int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	return ok && !strings.HasPrefix(rest, "Z")
}

// Snapshot copies the data directory of the stopped server aside and returns the copy's path, for Restore.
func (p *Postgres) Snapshot() (string, error) {
	if p.proc != nil {
		return "", errors.New("snapshot of a running server")
	}
	to := filepath.Join(p.dir, "snapshot-"+strconv.FormatInt(p.dbs.Add(1), 10))
	return to, copyDir(context.Background(), p.Data(), to)
}

// Restore puts a copy made by Snapshot in the place of the stopped server's data directory.
func (p *Postgres) Restore(snapshot string) error {
	if p.proc != nil {
		return errors.New("restore over a running server")
	}
	if err := os.RemoveAll(p.Data()); err != nil {
		return err
	}
	return copyDir(context.Background(), snapshot, p.Data())
}

// NewDatabase creates a database for this test alone and returns its name. At the end of the test its replication slots and
// the database are dropped.
func (p *Postgres) NewDatabase(tb TB) string {
	tb.Helper()
	name := "db" + strconv.FormatInt(p.dbs.Add(1), 10)
	p.Exec(tb, "postgres", "CREATE DATABASE "+name+" TEMPLATE template0")
	tb.Cleanup(func() { p.dropDatabase(name) })
	return name
}

// dropDatabase tries for a few seconds and gives up silently: the server may be stopped, and is removed anyway.
func (p *Postgres) dropDatabase(name string) {
	if p.proc == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = p.exec(ctx, "postgres", `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND database = '`+name+`'`)
	for ctx.Err() == nil {
		err := p.exec(ctx, "postgres", `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '`+name+`'`)
		if err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = p.exec(ctx, "postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

// Connect returns a connection of the superuser to db that is closed at the end of the test.
func (p *Postgres) Connect(tb TB, db string) *pgx.Conn {
	tb.Helper()
	c, err := pgx.Connect(context.Background(), p.DSN(db))
	if err != nil {
		tb.Fatalf("testenv: connect to %s: %v", db, err)
	}
	tb.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// Exec runs one or several statements in db as the superuser, in a connection of its own. Several statements in one string are
// one transaction.
func (p *Postgres) Exec(tb TB, db string, sql ...string) {
	tb.Helper()
	for _, s := range sql {
		if err := p.exec(context.Background(), db, s); err != nil {
			tb.Fatalf("testenv: %s: %v", s, err)
		}
	}
}

func (p *Postgres) exec(ctx context.Context, db, sql string) error {
	c, err := pgx.Connect(ctx, p.DSN(db))
	if err != nil {
		return err
	}
	defer c.Close(context.Background())
	_, err = c.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// Value runs a query in db that returns one value and returns it as text; a NULL is "".
func (p *Postgres) Value(tb TB, db, sql string) string {
	tb.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, p.DSN(db))
	if err != nil {
		tb.Fatalf("testenv: connect to %s: %v", db, err)
	}
	defer c.Close(ctx)
	rs, err := c.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		tb.Fatalf("testenv: %s: %v", sql, err)
	}
	if len(rs) != 1 || len(rs[0].Rows) != 1 || len(rs[0].Rows[0]) != 1 {
		tb.Fatalf("testenv: %s: not one value", sql)
	}
	return string(rs[0].Rows[0][0])
}

// Shared is a server that the tests of one package share: declare one in a test file and call Get in each test. It starts at the
// first Get and ends with the process.
type Shared struct {
	Options PostgresOptions

	once sync.Once
	pg   *Postgres
	err  error
}

// Get returns the shared server.
func (s *Shared) Get(tb TB) *Postgres {
	tb.Helper()
	s.once.Do(func() { s.pg, s.err = OpenPostgres(context.Background(), s.Options) })
	if s.err != nil {
		tb.Fatalf("testenv: %v", s.err)
	}
	return s.pg
}
