package demo

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay/internal/mysqldsn"
	"github.com/outrelay/outrelay/internal/testenv"
)

const warehouseSQL = `
create table order_totals (customer text primary key, total numeric(14, 2) not null);
create table applied (n bigint generated always as identity primary key, id text not null, key text not null, committed_at timestamptz);
`

// MySQL keeps no commit times: applied_at is when the row was written.
const warehouseMySQL = "create table order_totals (customer varchar(100) primary key, total decimal(14, 2) not null) engine = InnoDB;" +
	"create table applied (n bigint auto_increment primary key, id char(36) not null, `key` varchar(100) not null, committed_at datetime(6), applied_at datetime(6) not null default current_timestamp(6)) engine = InnoDB"

// The databases of a demo: of its shop, and of its warehouse.
const (
	SinkPostgres = "postgres"
	SinkMariaDB  = "mariadb"
	SinkMySQL    = "mysql"
)

// Into returns the configuration with another database as the sink.
func Into(config, sink string) string {
	if sink == SinkPostgres {
		return config
	}
	for _, r := range [][2]string{
		{"into: {postgres: ", "into: {" + sink + ": "},
		{"on conflict (customer) do update set total = order_totals.total + excluded.total", "on duplicate key update total = total + values(total)"},
		{"(id, key, committed_at)", "(id, `key`, committed_at)"},
	} {
		config = strings.Replace(config, r[0], r[1], 1)
	}
	return config
}

// warehouse is the sink's database, as the count from outside sees it: one of the two.
type warehouse struct {
	pg *pgx.Conn
	my *sql.DB
}

func isMySQL(dsn string) bool {
	return strings.HasPrefix(dsn, "mysql://") || strings.HasPrefix(dsn, "mariadb://")
}

func openWarehouse(ctx context.Context, dsn string) (warehouse, error) {
	if !isMySQL(dsn) {
		conn, err := pgx.Connect(ctx, dsn)
		return warehouse{pg: conn}, err
	}
	cfg, err := mysqldsn.Parse(dsn)
	if err != nil {
		return warehouse{}, err
	}
	cfg.MultiStatements = true
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return warehouse{}, err
	}
	return warehouse{my: sql.OpenDB(connector)}, nil // connects when it is first used
}

func (w warehouse) close(ctx context.Context) {
	if w.pg != nil {
		_ = w.pg.Close(context.WithoutCancel(ctx)) // nothing is left undone
		return
	}
	_ = w.my.Close()
}

func (w warehouse) setUp(ctx context.Context) error {
	if w.pg != nil {
		_, err := w.pg.PgConn().Exec(ctx, warehouseSQL).ReadAll()
		return err
	}
	_, err := w.my.ExecContext(ctx, warehouseMySQL)
	return err
}

func (w warehouse) count(ctx context.Context) (n int64, err error) {
	const q = "select count(*) from applied"
	if w.pg != nil {
		err = w.pg.QueryRow(ctx, q).Scan(&n)
	} else {
		err = w.my.QueryRowContext(ctx, q).Scan(&n)
	}
	return n, err
}

// latencies returns the milliseconds from the shop's commit to the warehouse's, sorted, of the rows above after, and the last of them.
func (w warehouse) latencies(ctx context.Context, after int64) (ms []float64, last int64, err error) {
	q := fmt.Sprintf("select n, extract(epoch from pg_xact_commit_timestamp(xmin) - committed_at) * 1000 from applied where n > %d", after)
	if w.pg == nil {
		q = fmt.Sprintf("select n, timestampdiff(microsecond, committed_at, applied_at) / 1000 from applied where n > %d", after)
	}
	last = after
	err = w.each(ctx, q, func(scan func(...any) error) error {
		var n int64
		var v float64
		if err := scan(&n, &v); err != nil {
			return err
		}
		ms, last = append(ms, v), max(last, n)
		return nil
	})
	slices.Sort(ms)
	return ms, last, err
}

func (w warehouse) totals(ctx context.Context) (map[string]string, error) {
	m := map[string]string{}
	err := w.each(ctx, "select customer, cast(total as char(30)) from order_totals", func(scan func(...any) error) error {
		var k, v string
		if err := scan(&k, &v); err != nil {
			return err
		}
		m[k] = strings.TrimRight(v, " ")
		return nil
	})
	return m, err
}

func (w warehouse) each(ctx context.Context, q string, row func(scan func(...any) error) error) error {
	var rows interface {
		Next() bool
		Scan(...any) error
		Err() error
	}
	if w.pg != nil {
		r, err := w.pg.Query(ctx, q)
		if err != nil {
			return err
		}
		defer r.Close()
		rows = r
	} else {
		r, err := w.my.QueryContext(ctx, q)
		if err != nil {
			return err
		}
		defer r.Close()
		rows = r
	}
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// quantile returns the q-th part of sorted values, 0 of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// startWarehouse starts a throwaway server of the machine's own programs for a sink that is no PostgreSQL, and returns the connection string of an empty database.
func startWarehouse(ctx context.Context, sink string) (dsn string, closeServer func(), err error) {
	return startMySQL(ctx, testenv.MySQLFlavor(sink), "warehouse")
}

func startMySQL(ctx context.Context, flavor testenv.MySQLFlavor, database string) (dsn string, closeServer func(), err error) {
	my, err := testenv.OpenMySQL(ctx, testenv.MySQLOptions{Flavor: flavor})
	if err != nil {
		return "", nil, err
	}
	w, err := openWarehouse(ctx, my.DSN(""))
	if err == nil {
		_, err = w.my.ExecContext(ctx, "create database "+database)
		w.close(ctx)
	}
	if err != nil {
		my.Close()
		return "", nil, err
	}
	return my.DSN(database), my.Close, nil
}
