package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/mysqldsn"
)

// The oldest servers that are served, as major*100+minor: MySQL 8.0 and MariaDB 10.6.
const (
	mysqlMin   = 800
	mariadbMin = 1006
)

// conn is a connection for SQL.
type conn struct {
	pool *sql.DB
	*sql.Conn
	cfg *driver.Config
}

// quiet drops what the driver logs of broken connections: whoever uses them gets the error.
type quiet struct{}

func (quiet) Print(...any) {}

// connect opens a connection for SQL, which the caller hangs up.
func (s *Source) connect(ctx context.Context) (*conn, error) {
	dsn, err := s.o.ConnString(ctx)
	if err != nil {
		return nil, s.classify("connection string", err)
	}
	cfg, err := mysqldsn.Parse(dsn)
	if err != nil {
		return nil, s.fail(outrelay.ErrConfig, "connection-string", err.Error(), "", nil)
	}
	if cfg.DBName == "" {
		return nil, s.fail(outrelay.ErrConfig, "connection-string", "the connection string names no database", "add one: it is where the table "+markTable+" goes", nil)
	}
	cfg.Timeout, cfg.Logger, cfg.InterpolateParams = s.o.ConnectTimeout, quiet{}, true
	cfg.ConnectionAttributes = "program_name:outrelay"
	connector, err := driver.NewConnector(cfg)
	if err != nil {
		return nil, s.fail(outrelay.ErrConfig, "connection-string", "the connection string cannot be used", "", nil)
	}
	pool := sql.OpenDB(connector)
	pool.SetMaxOpenConns(1)
	c, err := pool.Conn(ctx)
	if err != nil {
		_ = pool.Close()
		return nil, s.classify("connect", err)
	}
	return &conn{pool: pool, Conn: c, cfg: cfg}, nil
}

func (c *conn) hangUp() {
	_ = c.Close()
	_ = c.pool.Close()
}

// rows runs one query and returns its rows by the names of their columns, which differ between the servers' versions; NULL is "".
func (c *conn) rows(ctx context.Context, query string, args ...any) ([]map[string]string, error) {
	rs, err := c.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	names, err := rs.Columns()
	if err != nil {
		return nil, err
	}
	var out []map[string]string
	for rs.Next() {
		values := make([]sql.NullString, len(names))
		into := make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rs.Scan(into...); err != nil {
			return nil, err
		}
		row := make(map[string]string, len(names))
		for i, n := range names {
			row[strings.ToLower(n)] = values[i].String
		}
		out = append(out, row)
	}
	return out, rs.Err()
}

// value runs a query that returns one value; NULL is "".
func (c *conn) value(ctx context.Context, query string, args ...any) (string, error) {
	var v sql.NullString
	err := c.QueryRowContext(ctx, query, args...).Scan(&v)
	return v.String, err
}

// server is what a server says of itself.
type server struct {
	flavor   Flavor
	version  string
	number   int    // major*100+minor
	id       string // server_uuid; of a MariaDB server_id
	serverID uint32
	database string // of the connection string
	user     string
	foldCase bool              // names of tables are the same in any case
	vars     map[string]string // global variables
	tls      bool              // the connection is encrypted
}

// variables are the global variables that decide whether a server can be a source. Not every version has all.
var variables = []string{"log_bin", "binlog_format", "binlog_row_image", "binlog_row_metadata", "binlog_checksum", "gtid_mode", "server_id", "server_uuid",
	"lower_case_table_names", "log_replica_updates", "log_slave_updates"}

// inspect asks the server who it is, and refuses one that cannot be a source.
func (s *Source) inspect(ctx context.Context, c *conn) (server, error) {
	row, err := c.rows(ctx, "SELECT VERSION() AS version, DATABASE() AS db, CURRENT_USER() AS user")
	if err != nil {
		return server{}, s.classify("server version", err)
	}
	srv := server{flavor: MySQL, version: row[0]["version"], database: row[0]["db"], user: row[0]["user"], vars: map[string]string{}}
	if strings.Contains(srv.version, "MariaDB") {
		srv.flavor = MariaDB
	}
	srv.number = versionNumber(srv.version)
	vars, err := c.rows(ctx, "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('"+strings.Join(variables, "', '")+"')")
	if err != nil {
		return server{}, s.classify("server variables", err)
	}
	for _, v := range vars {
		srv.vars[v["variable_name"]] = v["value"]
	}
	cipher, err := c.rows(ctx, "SHOW SESSION STATUS LIKE 'Ssl_cipher'")
	if err != nil {
		return server{}, s.classify("session status", err)
	}
	srv.tls = len(cipher) > 0 && cipher[0]["value"] != ""
	id, err := strconv.ParseUint(srv.vars["server_id"], 10, 32)
	if err != nil {
		return server{}, s.fail(outrelay.ErrEnvironment, "server-id", "the server's server_id is "+srv.vars["server_id"], "", nil)
	}
	srv.serverID, srv.id = uint32(id), srv.vars["server_uuid"]
	if srv.flavor == MariaDB {
		srv.id = srv.vars["server_id"]
	}
	srv.foldCase = srv.vars["lower_case_table_names"] != "0"
	return srv, s.refuse(srv)
}

// versionNumber reads major and minor from a version's text.
func versionNumber(version string) int {
	f := strings.SplitN(version, ".", 3)
	if len(f) < 2 {
		return 0
	}
	major, _ := strconv.Atoi(f[0])
	minor, _ := strconv.Atoi(f[1])
	return major*100 + minor
}

// refuse says what keeps srv from being a source.
func (s *Source) refuse(srv server) error {
	no := func(code, cause, fix string) error { return s.fail(outrelay.ErrEnvironment, code, cause, fix, nil) }
	set := func(name, value string) string {
		if srv.flavor == MariaDB {
			return fmt.Sprintf("SET GLOBAL %s = %s, and the same in the server's configuration file; sessions that are open keep what they had", name, value)
		}
		return fmt.Sprintf("SET PERSIST %s = %s; sessions that are open keep what they had", name, value)
	}
	oldest := map[Flavor]int{MySQL: mysqlMin, MariaDB: mariadbMin}[srv.flavor]
	switch v := srv.vars; {
	case srv.flavor != s.o.Flavor:
		return no("server-flavor", fmt.Sprintf("the server is %s, the source is said to be %s", srv.version, s.o.Flavor), fmt.Sprintf("write `%s:` in place of `%s:`", srv.flavor, s.o.Flavor))
	case srv.number < oldest:
		return no("server-version", "the server is too old: "+srv.version, "MySQL 8.0 and newer, MariaDB 10.6 and newer are served")
	case v["log_bin"] != "ON":
		return no("binlog-off", "the server writes no binlog", "start it with log_bin")
	case v["binlog_format"] != "" && v["binlog_format"] != "ROW":
		return no("binlog-format", "binlog_format is "+v["binlog_format"]+": the binlog holds statements, not rows", set("binlog_format", "ROW"))
	case v["binlog_row_image"] != "FULL":
		return no("row-image", "binlog_row_image is "+v["binlog_row_image"]+": rows lack columns", set("binlog_row_image", "FULL"))
	case v["binlog_row_metadata"] != "FULL":
		return no("row-metadata", "binlog_row_metadata is "+v["binlog_row_metadata"]+": the binlog does not name the columns", set("binlog_row_metadata", "FULL"))
	case srv.flavor == MySQL && v["gtid_mode"] != "ON":
		return no("gtid-mode", "gtid_mode is "+v["gtid_mode"]+": transactions have no ids", "turn it on by its steps, OFF_PERMISSIVE, ON_PERMISSIVE, ON, with enforce_gtid_consistency = ON; no restart is needed")
	case !plainName(srv.id):
		return no("server-id", fmt.Sprintf("the server calls itself %q", srv.id), "")
	}
	return nil
}

// dialer returns how connections are made: dead peers are found by keepalive.
func (s *Source) dialer() *net.Dialer {
	return &net.Dialer{Timeout: s.o.ConnectTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}}
}
