package testenv

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay/internal/loopback"
	"github.com/outrelay/outrelay/internal/mysqldsn"
)

// MySQLFlavor tells the two families of servers apart.
type MySQLFlavor string

// The families.
const (
	MariaDBServer MySQLFlavor = "mariadb"
	MySQLServer   MySQLFlavor = "mysql"
)

// MySQLOptions says how a server is set up. The zero value is MariaDB with a row binlog, GTIDs, and all that it commits synced to disk.
type MySQLOptions struct {
	Flavor       MySQLFlavor       // "" is MariaDBServer
	Config       map[string]string // options of the server over the defaults of this package, as "max-connections"; "" is an option without a value
	NoFsync      bool              // nothing waits for the disk: a killed process loses nothing, a killed machine would
	StartTimeout time.Duration     // 0 means 60 s
}

// MySQL is a running MariaDB or MySQL, with root@localhost without a password. Its methods may be called concurrently, Start, Stop,
// Kill9 and Restart by one goroutine at a time.
type MySQL struct {
	opts MySQLOptions
	prog mysqlProgram
	dir  string // holds data, log and the socket
	port int

	guard *guard
	proc  *process // nil while the server is stopped

	started bool // it has run once, so that its port is known to others
	dbs     atomic.Int64
	once    sync.Once
}

// StartMariaDB starts a MariaDB that is stopped and removed at the end of tb's test. It returns when the server takes connections.
func StartMariaDB(tb TB, o MySQLOptions) *MySQL {
	tb.Helper()
	o.Flavor = MariaDBServer
	return StartMySQL(tb, o)
}

// StartMySQL starts a server of the family that o names, MariaDB by default, and is otherwise as StartMariaDB.
func StartMySQL(tb TB, o MySQLOptions) *MySQL {
	tb.Helper()
	m, err := OpenMySQL(context.Background(), o)
	if err != nil {
		tb.Fatalf("testenv: %v", err)
	}
	tb.Cleanup(m.Close)
	return m
}

// OpenMySQL is StartMySQL for those that have no test: the caller must Close the server. Should the process die before, the server
// is stopped and removed all the same.
func OpenMySQL(ctx context.Context, o MySQLOptions) (*MySQL, error) {
	if o.StartTimeout == 0 {
		o.StartTimeout = 60 * time.Second
	}
	if o.Flavor == "" {
		o.Flavor = MariaDBServer
	}
	prog, err := findMySQL(o.Flavor)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "outrelay-my-") // /tmp and not TMPDIR: a socket's path must be short
	if err != nil {
		return nil, err
	}
	m := &MySQL{opts: o, prog: prog, dir: dir}
	if m.guard, err = startGuard(m.pidFile(), "KILL", dir); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	err = m.setUp(ctx)
	if err == nil {
		err = m.start(ctx)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Flavor returns the family of the server.
func (m *MySQL) Flavor() MySQLFlavor { return m.opts.Flavor }

// Data returns the server's data directory.
func (m *MySQL) Data() string { return filepath.Join(m.dir, "data") }

// Addr returns the server's address, host:port on loopback.
func (m *MySQL) Addr() string { return loopback.Addr(m.port) }

// Root returns the directory of the server's installation, where that is not the machine's own: bin/mysqlbinlog is below its usr. "" is the machine's own.
func (m *MySQL) Root() string { return m.prog.root }

// DSN returns a connection string for root in the database db.
func (m *MySQL) DSN(db string) string { return m.DSNAs(db, "root", "") }

// DSNAs returns a connection string for user in the database db; both db and password may be "".
func (m *MySQL) DSNAs(db, user, password string) string {
	return MySQLDSN(m.opts.Flavor, m.Addr(), db, user, password)
}

// MySQLDSN returns a connection string for a server at addr, which may be a Proxy's.
func MySQLDSN(flavor MySQLFlavor, addr, db, user, password string) string {
	u := url.URL{Scheme: string(flavor), Host: addr, Path: "/" + db, User: url.User(user), RawQuery: "ssl-mode=DISABLED"}
	if password != "" {
		u.User = url.UserPassword(user, password)
	}
	return u.String()
}

// Pid returns the server's process id, 0 while it is stopped.
func (m *MySQL) Pid() int {
	if m.proc == nil {
		return 0
	}
	return m.proc.pid
}

// Log returns what the server has logged so far.
func (m *MySQL) Log() string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "log"))
	return string(b)
}

// pidFile is where the server writes its process id, for the guard.
func (m *MySQL) pidFile() string { return filepath.Join(m.dir, "pid") }

// setUp fills the data directory from the cached template. The server makes a UUID of its own when it starts.
func (m *MySQL) setUp(ctx context.Context) error {
	tmpl, err := m.prog.template(ctx)
	if err != nil {
		return err
	}
	if err := copyDir(ctx, tmpl, m.Data()); err != nil {
		return err
	}
	m.port, err = loopback.FreePort()
	return err
}

// arguments returns the command line of the server.
func (m *MySQL) arguments() []string {
	conf := map[string]string{
		"datadir": m.Data(), "port": strconv.Itoa(m.port), "bind-address": "127.0.0.1",
		"socket": filepath.Join(m.dir, "sock"), "pid-file": m.pidFile(),
		"server-id": "1", "log-bin": "binlog", "binlog-format": "ROW", "binlog-row-image": "FULL", "binlog-row-metadata": "FULL",
		"max-connections": "300", "innodb-buffer-pool-size": "64M", "performance-schema": "OFF",
		"character-set-server": "utf8mb4", "secure-file-priv": "", "max-allowed-packet": "256M",
		"sync-binlog": "1", "innodb-flush-log-at-trx-commit": "1",
	}
	if m.opts.Flavor == MySQLServer {
		conf["gtid-mode"], conf["enforce-gtid-consistency"], conf["mysqlx"] = "ON", "ON", "OFF"
		conf["innodb-redo-log-capacity"] = "256M"
	} else {
		conf["innodb-log-file-size"] = "128M"
	}
	if m.opts.NoFsync {
		conf["sync-binlog"], conf["innodb-flush-log-at-trx-commit"], conf["innodb-doublewrite"] = "0", "2", "OFF"
	}
	for k, v := range m.opts.Config {
		conf[k] = v
	}
	return append(m.prog.arguments(), optionsOf(conf)...)
}

// optionsOf returns conf as a command line, in an order that does not change.
func optionsOf(conf map[string]string) []string {
	var args []string
	for k, v := range conf {
		if v == "" && k != "secure-file-priv" {
			args = append(args, "--"+k)
			continue
		}
		args = append(args, "--"+k+"="+v)
	}
	sort.Strings(args)
	return args
}

// start runs the server. At the first start another port is tried when somebody has taken ours since we looked; a server that ran before keeps its
// port, as its clients know it.
func (m *MySQL) start(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		err := m.launch(ctx)
		if err == nil || m.started || attempt == 5 || !strings.Contains(err.Error(), "Address already in use") {
			m.started = m.started || err == nil
			return err
		}
		if m.port, err = loopback.FreePort(); err != nil {
			return err
		}
	}
}

func (m *MySQL) launch(ctx context.Context) error {
	logFile, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	from, err := logFile.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	cmd := exec.Command(m.prog.command, m.arguments()...)
	cmd.Dir = m.Data()
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL} // the guard removes what is left
	proc, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("start of %s: %w", m.opts.Flavor, err)
	}
	if err := m.waitReady(ctx, proc, int(from)); err != nil {
		_ = syscall.Kill(proc.pid, syscall.SIGKILL)
		<-proc.done
		return err
	}
	m.proc = proc
	return nil
}

// waitReady polls: the server tells nobody when it takes connections. from is where this start's part of the log begins.
func (m *MySQL) waitReady(ctx context.Context, proc *process, from int) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.StartTimeout)
	defer cancel()
	db, err := m.open("")
	if err != nil {
		return err
	}
	defer db.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-proc.done:
			return fmt.Errorf("%s ended at start: %v: %s", m.opts.Flavor, proc.err, tail(m.Log()[from:], 2000))
		case <-ctx.Done():
			return fmt.Errorf("%s not ready: %w; last: %v: %s", m.opts.Flavor, ctx.Err(), err, tail(m.Log()[from:], 2000))
		case <-tick.C:
		}
	}
}

// Close kills the server and removes its directory. A second call does nothing.
func (m *MySQL) Close() {
	m.once.Do(func() {
		_ = m.Kill9()
		m.guard.close()
	})
}

// quietDriver drops what the driver logs of connections that a dying server breaks: whoever uses them gets the error.
type quietDriver struct{}

func (quietDriver) Print(...any) {}

// open returns a pool of connections of root in db.
func (m *MySQL) open(db string) (*sql.DB, error) {
	cfg, err := mysqldsn.Parse(m.DSN(db))
	if err != nil {
		return nil, err
	}
	cfg.MultiStatements, cfg.Logger = true, quietDriver{}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

// errNoMySQL says how to get what is missing.
var errNoMySQL = errors.New("run scripts/install-deps mysql (make deps-mysql): it unpacks one into the user's cache")
