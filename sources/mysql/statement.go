package mysql

import "strings"

// verb is what a statement of the binlog is about.
type verb int

const (
	verbOther verb = iota // DDL and all else that holds no rows
	verbBegin
	verbCommit
	verbRollback
	verbSavepoint
	verbRollbackTo
	verbXAStart
	verbXAEnd
	verbXADone // COMMIT or ROLLBACK of a transaction that was prepared
	verbTruncate
	verbInsert // INSERT, REPLACE, LOAD: rows in the form of a statement
	verbChange // UPDATE, DELETE
)

// statement is what is understood of one: its verb, and the first name behind it for those that have one.
type statement struct {
	verb     verb
	database string // of verbTruncate; "" is the session's
	name     string // the savepoint, or the table of verbTruncate
}

// parseStatement looks at the first words of a statement. It need not understand more: rows come as rows, and what comes as text is either of these forms, which
// the server writes itself, or no affair of an outbox.
func parseStatement(sql string) statement {
	word, rest := nextWord(sql)
	switch word {
	case "BEGIN":
		return statement{verb: verbBegin}
	case "COMMIT":
		return statement{verb: verbCommit}
	case "ROLLBACK":
		return rollback(rest)
	case "SAVEPOINT":
		name, _ := nextName(rest)
		return statement{verb: verbSavepoint, name: name}
	case "XA":
		return xa(rest)
	case "TRUNCATE":
		if w, after := nextWord(rest); w == "TABLE" {
			rest = after
		}
		first, rest := nextName(rest)
		if rest = skipBlanks(rest); strings.HasPrefix(rest, ".") {
			second, _ := nextName(rest[1:])
			return statement{verb: verbTruncate, database: first, name: second}
		}
		return statement{verb: verbTruncate, name: first}
	case "INSERT", "REPLACE", "LOAD":
		return statement{verb: verbInsert}
	case "UPDATE", "DELETE", "WITH":
		return statement{verb: verbChange}
	}
	return statement{}
}

// rollback reads ROLLBACK [WORK] [TO [SAVEPOINT] name].
func rollback(rest string) statement {
	for {
		word, after := nextWord(rest)
		switch word {
		case "WORK":
			rest = after
		case "TO":
			if w, more := nextWord(after); w == "SAVEPOINT" {
				after = more
			}
			name, _ := nextName(after)
			return statement{verb: verbRollbackTo, name: name}
		default:
			return statement{verb: verbRollback}
		}
	}
}

func xa(rest string) statement {
	switch word, _ := nextWord(rest); word {
	case "START", "BEGIN":
		return statement{verb: verbXAStart}
	case "COMMIT", "ROLLBACK":
		return statement{verb: verbXADone}
	}
	return statement{verb: verbXAEnd}
}

// skipBlanks passes white space and comments. What stands in a comment for some servers alone (/*! and /*M!) is part of the statement.
func skipBlanks(s string) string {
	for {
		s = strings.TrimLeft(s, " \t\r\n\f\v;(")
		switch {
		case strings.HasPrefix(s, "/*!"), strings.HasPrefix(s, "/*M!"):
			s = strings.TrimLeft(s[strings.IndexByte(s, '!')+1:], "0123456789")
		case strings.HasPrefix(s, "*/"):
			s = s[2:]
		case strings.HasPrefix(s, "/*"):
			_, after, ok := strings.Cut(s[2:], "*/")
			if !ok {
				return ""
			}
			s = after
		case strings.HasPrefix(s, "#"), strings.HasPrefix(s, "-- "), strings.HasPrefix(s, "--\n"), strings.HasPrefix(s, "--\t"):
			_, after, ok := strings.Cut(s, "\n")
			if !ok {
				return ""
			}
			s = after
		default:
			return s
		}
	}
}

// nextWord returns the next keyword in capitals, "" where something else stands.
func nextWord(s string) (word, rest string) {
	s = skipBlanks(s)
	i := 0
	for i < len(s) && (s[i]|0x20 >= 'a' && s[i]|0x20 <= 'z' || s[i] == '_') {
		i++
	}
	return strings.ToUpper(s[:i]), s[i:]
}

// nextName returns the next name, in quotes of either kind or bare.
func nextName(s string) (name, rest string) {
	s = skipBlanks(s)
	if s == "" {
		return "", ""
	}
	if q := s[0]; q == '`' || q == '"' {
		var b strings.Builder
		for i := 1; i < len(s); i++ {
			if s[i] == q {
				if i+1 == len(s) || s[i+1] != q {
					return b.String(), s[i+1:]
				}
				i++
			}
			b.WriteByte(s[i])
		}
		return b.String(), ""
	}
	i := strings.IndexAny(s, " \t\r\n.;,()/")
	if i < 0 {
		i = len(s)
	}
	return s[:i], s[i:]
}

// mentions reports whether a statement holds a word, whatever its case.
func mentions(sql, word string) bool {
	sql, word = strings.ToLower(sql), strings.ToLower(word)
	for at := 0; ; {
		i := strings.Index(sql[at:], word)
		if i < 0 {
			return false
		}
		from, to := at+i, at+i+len(word)
		if (from == 0 || !isNameByte(sql[from-1])) && (to == len(sql) || !isNameByte(sql[to])) {
			return true
		}
		at = to
	}
}

func isNameByte(b byte) bool {
	return b == '_' || b == '$' || b >= 0x80 || b >= '0' && b <= '9' || b|0x20 >= 'a' && b|0x20 <= 'z'
}
