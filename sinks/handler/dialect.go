package handler

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Dialect is the SQL of a family of servers, as far as finding parameters in it goes.
type Dialect int

// The dialects.
const (
	// PostgreSQL expects standard_conforming_strings, which the sink's sessions set.
	PostgreSQL Dialect = iota
	// MySQL is MariaDB's too. It expects an sql_mode without ANSI_QUOTES and NO_BACKSLASH_ESCAPES, which the sink's sessions set.
	MySQL
)

// Placeholder returns what stands for the n-th parameter of a prepared statement, from 1.
func (d Dialect) Placeholder(n int) string {
	if d == MySQL {
		return "?"
	}
	return "$" + strconv.Itoa(n)
}

// verbs are the statements that a handler may hold, in the order in which they are named to people.
func (d Dialect) verbs() []string {
	if d == MySQL {
		return []string{"select", "insert", "update", "delete", "replace", "with", "values", "table"}
	}
	return []string{"select", "insert", "update", "delete", "merge", "with", "values", "call", "table", "lock", "notify"}
}

// transactionVerbs would take the offset apart from the effects.
var transactionVerbs = []string{
	"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare", "set", "reset", "discard", "xa",
}

// implicitCommits are statements of MySQL that commit what is open, on their own.
var implicitCommits = []string{
	"create", "alter", "drop", "rename", "truncate", "grant", "revoke", "lock", "unlock", "analyze", "optimize", "repair", "check", "cache", "flush", "install", "uninstall",
}

// check refuses, by name, whatever may not be a handler's statement.
func (d Dialect) check(verb string) error {
	word := strings.ToUpper(verb)
	switch {
	case verb == "":
		return fmt.Errorf("the statement is empty")
	case slices.Contains(d.verbs(), verb):
		return nil
	case slices.Contains(transactionVerbs, verb):
		return fmt.Errorf("%s is not allowed in a handler: outrelay opens and commits the transaction that also moves the offset", word)
	case d == MySQL && slices.Contains(implicitCommits, verb):
		return fmt.Errorf("%s is not allowed in a handler: it commits the transaction that it runs in, and would take the effects before it apart from the offset", word)
	case d == MySQL && verb == "call":
		return fmt.Errorf("CALL is not allowed in a handler: a procedure can commit the transaction that also moves the offset; write its statements, or use a function or a trigger, which cannot")
	}
	names := strings.ToUpper(strings.Join(d.verbs(), ", "))
	last := strings.LastIndex(names, ", ")
	return fmt.Errorf("%s is not allowed in a handler: it takes %s and %s", word, names[:last], names[last+2:])
}

// isIdent reports whether c goes on a name. A dollar does in MySQL; in PostgreSQL it does, too, but placeholders begin with it.
func (d Dialect) isIdent(c byte) bool { return isIdent(c) || d == MySQL && c == '$' }
