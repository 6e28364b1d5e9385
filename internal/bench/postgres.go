package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outrelay/outrelay/internal/testenv"
)

// startPostgres starts the machine's PostgreSQL, as durable as it is by default, with a little more memory than that.
func startPostgres(ctx context.Context) (*testenv.Postgres, string, error) {
	pg, err := testenv.OpenPostgres(ctx, testenv.PostgresOptions{Config: map[string]string{
		"shared_buffers": "256MB", "max_wal_size": "8GB", "min_wal_size": "1GB", "checkpoint_timeout": "30min",
		"track_commit_timestamp": "on", "autovacuum": "on",
	}})
	if err != nil {
		return nil, "", err
	}
	var version string
	if err := query(ctx, pg.DSN("postgres"), "select split_part(version(), ' on ', 1)", &version); err != nil {
		pg.Close()
		return nil, "", err
	}
	return pg, strings.TrimPrefix(version, "PostgreSQL "), nil
}

// socketDSN is how to reach a database through the server's Unix socket.
func socketDSN(pg *testenv.Postgres, db string) string {
	_, port, _ := net.SplitHostPort(pg.Addr()) // our own address
	return fmt.Sprintf("host=%s port=%s user=postgres dbname=%s sslmode=disable", filepath.Dir(pg.Data()), port, db)
}

// execute runs statements in a connection of their own; several in one string are one transaction.
func execute(ctx context.Context, dsn string, sql ...string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, s := range sql {
		if _, err := conn.PgConn().Exec(ctx, s).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", firstLine(s), err)
		}
	}
	return nil
}

func query(ctx context.Context, dsn, sql string, into ...any) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, sql).Scan(into...); err != nil {
		return fmt.Errorf("%s: %w", firstLine(sql), err)
	}
	return nil
}

func firstLine(sql string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(sql), "\n")
	return line
}

// copyTree copies a data directory of a process that has ended.
func copyTree(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(from))
}
