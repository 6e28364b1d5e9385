package mysql

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sinks/handler"
)

// tableName is a table as a statement names it; the database is "" where the session's is meant.
type tableName struct{ database, table string }

const (
	namePattern = "(`(?:[^`]|``)+`|[0-9A-Za-z_$\\x{80}-\\x{10ffff}]+)"
	gapPattern  = `(?:\s|/\*.*?\*/|--\s[^\n]*\n|#[^\n]*\n)`
)

// written finds the table that a statement writes, where it comes at the place where it is usual.
var written = regexp.MustCompile(`(?is)^` + gapPattern + `*(?:` +
	`(?:insert|replace)(?:` + gapPattern + `+(?:low_priority|delayed|high_priority|ignore))*(?:` + gapPattern + `+into)?` +
	`|update(?:` + gapPattern + `+(?:low_priority|ignore))*` +
	`|delete(?:` + gapPattern + `+(?:low_priority|quick|ignore))*` + gapPattern + `+from` +
	`)` + gapPattern + `+` + namePattern + `(?:` + gapPattern + `*\.` + gapPattern + `*` + namePattern + `)?`)

// writtenTable returns the table that st writes, as far as its text shows without a parser of the whole language: not behind WITH, and not the second of several.
func writtenTable(st *handler.Compiled) (tableName, bool) {
	m := written.FindStringSubmatch(st.Text(handler.MySQL))
	switch {
	case m == nil:
		return tableName{}, false
	case m[2] == "":
		return tableName{"", unquoteName(m[1])}, true
	}
	return tableName{unquoteName(m[1]), unquoteName(m[2])}, true
}

func unquoteName(s string) string {
	if strings.HasPrefix(s, "`") {
		return strings.ReplaceAll(s[1:len(s)-1], "``", "`")
	}
	return s
}

// checkEngines refuses tables that do not take part in transactions: outrelay's own, and those that handlers write.
func (s *Sink) checkEngines(ctx context.Context, c *conn, database string) error {
	own := strings.TrimSuffix(s.table, ".outrelay_offsets")
	engine, err := badEngine(ctx, c, unquoteName(own), "outrelay_offsets")
	if err != nil {
		return err
	}
	if engine != "" {
		return &outrelay.Error{
			Class: outrelay.ErrEnvironment, Code: "sink-engine", Place: "table " + s.table, Cause: "its storage engine " + engine + " takes no part in transactions, so offset and results could not commit together",
			Fix: "run: alter table " + s.table + " engine = InnoDB",
		}
	}
	var errs []error
	for _, st := range s.handlers.Statements {
		name, ok := writtenTable(st)
		if !ok {
			continue
		}
		if name.database == "" {
			name.database = database
		}
		engine, err := badEngine(ctx, c, name.database, name.table)
		if err != nil {
			return err
		}
		if engine != "" {
			errs = append(errs, handler.StatementError(st.Handler, st.Place, fmt.Errorf("the storage engine %s of table %s takes no part in transactions: what it has written stays when the batch is rolled back; run: alter table %s.%s engine = InnoDB",
				engine, name.table, identifier(name.database), identifier(name.table))))
		}
	}
	return errors.Join(errs...)
}

// badEngine returns the engine of a table, "" where it keeps transactions, and of views.
func badEngine(ctx context.Context, c *conn, database, table string) (string, error) {
	rows, err := c.query(ctx, "select t.engine from information_schema.tables t join information_schema.engines e on e.engine = t.engine where t.table_schema = "+quote(database)+
		" and t.table_name = "+quote(table)+" and t.table_type like '%TABLE' and e.transactions <> 'YES'")
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return string(rows[0][0]), nil
}
