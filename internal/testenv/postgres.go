package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outrelay/outrelay/internal/loopback"
)

// PostgresOptions says how a server is set up. The zero value is a server for logical replication that syncs to disk.
type PostgresOptions struct {
	BinDir        string            // where postgres and initdb are; "" takes the first of PostgresBinDirs
	Config        map[string]string // postgresql.conf settings over the defaults of this package
	NoFsync       bool              // fsync=off, synchronous_commit=off: for tests in which no server crashes
	Users         map[string]string // users that must give this password (scram-sha-256); all others are trusted
	HBA           []string          // pg_hba.conf lines before all others
	FreshIdentity bool              // run initdb for this server alone, so that its system identifier is its own
	StartTimeout  time.Duration     // 0 means 60 s
}

// Postgres is a running server. Its methods may be called concurrently, Start, Stop, Kill9, Snapshot and Restore by one goroutine
// at a time.
type Postgres struct {
	opts PostgresOptions
	bin  string
	dir  string // holds data, log and the socket
	port int
	cred *syscall.Credential

	guard *guard
	proc  *process // nil while the server is stopped

	started bool // it has run once, so that its port is known to others
	dbs     atomic.Int64
	once    sync.Once
}

// StartPostgres starts a server that is stopped and removed at the end of tb's test. It returns when the server takes connections.
func StartPostgres(tb TB, o PostgresOptions) *Postgres {
	tb.Helper()
	p, err := OpenPostgres(context.Background(), o)
	if err != nil {
		tb.Fatalf("testenv: %v", err)
	}
	tb.Cleanup(p.Close)
	return p
}

// OpenPostgres is StartPostgres for those that have no test: the caller must Close the server. Should the process die before, the server
// is stopped and removed all the same.
func OpenPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	if o.StartTimeout == 0 {
		o.StartTimeout = 60 * time.Second
	}
	bin := o.BinDir
	if bin == "" {
		dirs := PostgresBinDirs()
		if len(dirs) == 0 {
			return nil, errors.New("no PostgreSQL server found in PATH or /usr/lib/postgresql/*/bin; install one (Debian: apt-get install postgresql)")
		}
		bin = dirs[0]
	}
	cred, err := credential()
	if err != nil {
		return nil, fmt.Errorf("a user to run PostgreSQL under: %w", err)
	}
	dir, err := os.MkdirTemp("/tmp", "outrelay-pg-") // /tmp and not TMPDIR: a socket's path must be short
	if err != nil {
		return nil, err
	}
	p := &Postgres{opts: o, bin: bin, dir: dir, cred: cred}
	if p.guard, err = startGuard(filepath.Join(p.Data(), "postmaster.pid"), "QUIT", dir); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := p.setUp(ctx); err != nil {
		p.Close()
		return nil, err
	}
	if err := p.start(ctx); err != nil {
		p.Close()
		return nil, err
	}
	if err := p.createUsers(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Data returns the server's data directory.
func (p *Postgres) Data() string { return filepath.Join(p.dir, "data") }

// BinDir returns the directory of the server's programs.
func (p *Postgres) BinDir() string { return p.bin }

// Addr returns the server's address, host:port on loopback.
func (p *Postgres) Addr() string { return loopback.Addr(p.port) }

// DSN returns a connection string for the superuser in the database db.
func (p *Postgres) DSN(db string) string { return p.DSNAs(db, "postgres", "") }

// DSNAs returns a connection string for user in the database db; password may be "".
func (p *Postgres) DSNAs(db, user, password string) string { return DSN(p.Addr(), db, user, password) }

// DSN returns a connection string for a server at addr, which may be a Proxy's.
func DSN(addr, db, user, password string) string {
	cred := user
	if password != "" {
		cred += ":" + password
	}
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", cred, addr, db)
}

// Pid returns the postmaster's process id, 0 while the server is stopped.
func (p *Postgres) Pid() int {
	if p.proc == nil {
		return 0
	}
	return p.proc.pid
}

// Log returns what the server has logged so far.
func (p *Postgres) Log() string {
	b, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	return string(b)
}

// setUp fills the data directory from the cached template, or by an initdb of its own, and writes the configuration.
func (p *Postgres) setUp(ctx context.Context) error {
	if p.opts.FreshIdentity {
		if err := os.MkdirAll(p.Data(), 0o700); err != nil {
			return err
		}
		if err := chownTree(p.dir, p.cred); err != nil {
			return err
		}
		if err := p.initdb(ctx, p.Data()); err != nil {
			return err
		}
	} else {
		tmpl, err := p.template(ctx)
		if err != nil {
			return err
		}
		if err := copyDir(ctx, tmpl, p.Data()); err != nil {
			return err
		}
	}
	port, err := loopback.FreePort()
	if err != nil {
		return err
	}
	p.port = port
	if err := p.writeConfig(); err != nil {
		return err
	}
	return chownTree(p.dir, p.cred)
}

func (p *Postgres) initdb(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), "-D", dir, "-U", "postgres", "-A", "trust",
		"-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	cmd.Dir = "/"
	cmd.Env = serverEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// template returns a data directory made once per server version and kept in the user's cache directory.
func (p *Postgres) template(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(p.bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s/postgres --version: %w", p.bin, err)
	}
	sum := sha256.Sum256([]byte(p.bin + string(out) + "template 1"))
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "outrelay-cache-"+strconv.Itoa(os.Geteuid()))
	}
	cache = filepath.Join(cache, "outrelay", "testenv")
	dir := filepath.Join(cache, "postgres-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	// initdb runs as another user, who may not enter the cache: make it in /tmp and copy it in, then rename. Of two
	// processes that do this at once, the second finds the name taken and drops its own.
	tmp, err := os.MkdirTemp("/tmp", "outrelay-initdb-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := chownTree(tmp, p.cred); err != nil {
		return "", err
	}
	if err := p.initdb(ctx, filepath.Join(tmp, "data")); err != nil {
		return "", err
	}
	staged, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(staged)
	if err := copyDir(ctx, filepath.Join(tmp, "data"), filepath.Join(staged, "data")); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(staged, "data"), dir); err != nil {
		if _, serr := os.Stat(filepath.Join(dir, "PG_VERSION")); serr != nil {
			return "", err
		}
	}
	return dir, nil
}

func (p *Postgres) writeConfig() error {
	conf := map[string]string{
		"listen_addresses":           "127.0.0.1",
		"port":                       strconv.Itoa(p.port),
		"unix_socket_directories":    p.dir,
		"wal_level":                  "logical",
		"max_wal_senders":            "30",
		"max_replication_slots":      "30",
		"max_connections":            "100",
		"shared_buffers":             "64MB",
		"max_wal_size":               "4GB",
		"min_wal_size":               "80MB",
		"dynamic_shared_memory_type": "posix",
		"autovacuum":                 "off", // a vacuum of its own accord moves the WAL under tests that count it
		"log_min_messages":           "log",
		"log_line_prefix":            "%m [%p] ",
		"timezone":                   "UTC",
	}
	if p.opts.NoFsync {
		conf["fsync"], conf["synchronous_commit"], conf["full_page_writes"] = "off", "off", "off"
	}
	for k, v := range p.opts.Config {
		conf[k] = v
	}
	keys := make([]string, 0, len(conf))
	for k := range conf {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "%s = '%s'\n", k, strings.ReplaceAll(conf[k], "'", "''"))
	}
	if err := os.WriteFile(filepath.Join(p.Data(), "postgresql.auto.conf"), []byte(b.String()), 0o600); err != nil {
		return err
	}
	var hba strings.Builder
	for _, l := range p.opts.HBA {
		fmt.Fprintln(&hba, l)
	}
	for u := range p.opts.Users {
		fmt.Fprintf(&hba, "host all %s 127.0.0.1/32 scram-sha-256\nhost replication %s 127.0.0.1/32 scram-sha-256\n", u, u)
	}
	hba.WriteString("local all all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n")
	return os.WriteFile(filepath.Join(p.Data(), "pg_hba.conf"), []byte(hba.String()), 0o600)
}

// start runs the server and waits until it takes connections. At the first start another port is tried when somebody has taken ours
// since we looked; a server that ran before keeps its port, as its clients know it.
func (p *Postgres) start(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		err := p.launch(ctx)
		if err == nil || p.started || attempt == 5 || !strings.Contains(err.Error(), "could not bind") {
			p.started = p.started || err == nil
			return err
		}
		if p.port, err = loopback.FreePort(); err != nil {
			return err
		}
		if err := p.writeConfig(); err != nil {
			return err
		}
	}
}

func (p *Postgres) createUsers(ctx context.Context) error {
	for u, pw := range p.opts.Users {
		sql := "CREATE ROLE " + quoteIdent(u) + " LOGIN REPLICATION PASSWORD " + quoteLiteral(pw)
		if err := p.exec(ctx, "postgres", sql); err != nil {
			return err
		}
	}
	return nil
}

func (p *Postgres) launch(ctx context.Context) error {
	logFile, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), "-D", p.Data())
	cmd.Dir = p.Data()
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: p.cred,
		Setsid:     true,
		Pdeathsig:  syscall.SIGQUIT, // an immediate shutdown; the guard removes what is left
	}
	proc, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("start of postgres: %w", err)
	}
	if err := p.waitReady(ctx, proc); err != nil {
		_ = syscall.Kill(proc.pid, syscall.SIGKILL)
		<-proc.done
		return err
	}
	p.proc = proc
	return nil
}

func (p *Postgres) waitReady(ctx context.Context, proc *process) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.StartTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgconn.Connect(ctx, p.DSN("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-proc.done:
			return fmt.Errorf("postgres ended at start: %v: %s", proc.err, tail(p.Log(), 2000))
		case <-ctx.Done():
			return fmt.Errorf("postgres not ready: %w; last: %v: %s", ctx.Err(), err, tail(p.Log(), 2000))
		case <-tick.C:
		}
	}
}

// Close stops the server and removes its directory. A second call does nothing.
func (p *Postgres) Close() {
	p.once.Do(func() {
		if p.proc != nil {
			p.signalAndWait(syscall.SIGQUIT)
		}
		p.guard.close()
	})
}

func serverEnv() []string {
	return []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
}

func copyDir(ctx context.Context, from, to string) error {
	out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy of %s: %w: %s", from, err, out)
	}
	return nil
}

func tail(s string, n int) string {
	if len(s) > n {
		return s[len(s)-n:]
	}
	return s
}

func quoteIdent(s string) string   { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
func quoteLiteral(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }
