package audit

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay/internal/mysqldsn"
)

// MySQLTable is Table for MySQL and MariaDB. Name is the table's, with that of its database before it where it is not the connection's.
type MySQLTable struct {
	ConnString                  func(ctx context.Context) (string, error)
	Name                        []string
	ID, Key, Seq, OrderBy, From string
}

// Scan returns the table as a Scan. Each call connects anew and reads one snapshot.
func (t MySQLTable) Scan() Scan {
	return func(ctx context.Context, fn func(Event) error) (err error) {
		dsn, err := t.ConnString(ctx)
		if err != nil {
			return err
		}
		cfg, err := mysqldsn.Parse(dsn)
		if err != nil {
			return err
		}
		connector, err := mysql.NewConnector(cfg)
		if err != nil {
			return err
		}
		db := sql.OpenDB(connector)
		defer db.Close()
		rows, err := db.QueryContext(ctx, t.sql())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e Event
			if err := rows.Scan(&e.ID, &e.Key, &e.Seq, &e.From); err != nil {
				return err
			}
			if err := fn(e); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

func (t MySQLTable) sql() string {
	quoted := func(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }
	var names []string
	for _, n := range t.Name {
		names = append(names, quoted(n))
	}
	table := strings.Join(names, ".")
	text := func(col string) string {
		if col == "" {
			return "''"
		}
		return "coalesce(cast(" + quoted(col) + " as char), '')"
	}
	seq := "0"
	if t.Seq != "" {
		seq = "coalesce(" + quoted(t.Seq) + ", 0)"
	}
	from := quoteLiteral("a row of " + strings.ReplaceAll(table, `\`, `\\`))
	if t.From != "" {
		from = text(t.From)
	}
	q := fmt.Sprintf("select %s, %s, %s, %s from %s", text(t.ID), text(t.Key), seq, from, table)
	if t.OrderBy != "" {
		q += " order by " + quoted(t.OrderBy)
	}
	return q
}
