package testenv

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Start starts a stopped or killed server on the same port and waits until it takes connections.
func (m *MySQL) Start() error {
	if m.proc != nil {
		return nil
	}
	return m.start(context.Background())
}

// Stop shuts the server down in order.
func (m *MySQL) Stop() error { return m.end(syscall.SIGTERM) }

// Kill9 kills the server with SIGKILL and waits until it is gone. What it had written is in the page cache, synced or not: as after a crash of the
// process, not of the machine.
func (m *MySQL) Kill9() error { return m.end(syscall.SIGKILL) }

// Restart stops the server in order and starts it again.
func (m *MySQL) Restart() error {
	if err := m.Stop(); err != nil {
		return err
	}
	return m.Start()
}

// Signal sends sig to the server: SIGSTOP makes it hang, SIGCONT goes on.
func (m *MySQL) Signal(sig syscall.Signal) error {
	if m.proc == nil {
		return errors.New("server is stopped")
	}
	return syscall.Kill(m.proc.pid, sig)
}

// mysqlStopMax bounds a stop in order.
const mysqlStopMax = 60 * time.Second

func (m *MySQL) end(sig syscall.Signal) error {
	if m.proc == nil {
		return nil
	}
	if err := syscall.Kill(m.proc.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	late := time.NewTimer(mysqlStopMax)
	defer late.Stop()
	select {
	case <-m.proc.done:
	case <-late.C:
		_ = syscall.Kill(m.proc.pid, syscall.SIGKILL) // the wait says when it is gone
		<-m.proc.done
	}
	m.proc = nil
	return nil
}

// NewDatabase creates a database for this test alone and returns its name. It is dropped at the end of the test.
func (m *MySQL) NewDatabase(tb TB) string {
	tb.Helper()
	name := "db" + strconv.FormatInt(m.dbs.Add(1), 10)
	m.Exec(tb, "", "CREATE DATABASE "+name)
	tb.Cleanup(func() { m.dropDatabase(name) })
	return name
}

// dropDatabase tries once and gives up silently: the server may be stopped, and is removed anyway.
func (m *MySQL) dropDatabase(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = m.exec(ctx, "", "SET SESSION lock_wait_timeout = 2; DROP DATABASE IF EXISTS "+name)
}

// Connect returns one connection of root to db that is closed at the end of the test.
func (m *MySQL) Connect(tb TB, db string) *sql.Conn {
	tb.Helper()
	pool, err := m.open(db)
	if err != nil {
		tb.Fatalf("testenv: connect to %s: %v", db, err)
	}
	c, err := pool.Conn(context.Background())
	if err != nil {
		_ = pool.Close()
		tb.Fatalf("testenv: connect to %s: %v", db, err)
	}
	tb.Cleanup(func() { _, _ = c.Close(), pool.Close() })
	return c
}

// Exec runs one or several strings of statements in db ("" is none) as root, each string in a connection of its own.
func (m *MySQL) Exec(tb TB, db string, sql ...string) {
	tb.Helper()
	for _, s := range sql {
		if err := m.exec(context.Background(), db, s); err != nil {
			tb.Fatalf("testenv: %.300s: %v", s, err)
		}
	}
}

func (m *MySQL) exec(ctx context.Context, db, sql string) error {
	pool, err := m.open(db)
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = pool.ExecContext(ctx, sql)
	return err
}

// Value runs a query in db that returns one value and returns it as text; a NULL is "".
func (m *MySQL) Value(tb TB, db, query string) string {
	tb.Helper()
	pool, err := m.open(db)
	if err != nil {
		tb.Fatalf("testenv: connect to %s: %v", db, err)
	}
	defer pool.Close()
	var v sql.NullString
	if err := pool.QueryRowContext(context.Background(), query).Scan(&v); err != nil {
		tb.Fatalf("testenv: %s: %v", query, err)
	}
	return v.String
}

// SharedMySQL is a server that the tests of one package share: declare one in a test file and call Get in each test. It starts at the
// first Get and ends with the process.
type SharedMySQL struct {
	Options MySQLOptions

	once sync.Once
	my   *MySQL
	err  error
}

// Get returns the shared server.
func (s *SharedMySQL) Get(tb TB) *MySQL {
	tb.Helper()
	s.once.Do(func() { s.my, s.err = OpenMySQL(context.Background(), s.Options) })
	if s.err != nil {
		tb.Fatalf("testenv: %v", s.err)
	}
	return s.my
}
