package handler

import (
	"errors"
	"fmt"
	"strings"
)

// Root is what a named parameter starts from.
type Root int

// The roots.
const (
	RootPayload Root = iota
	RootKey
	RootID
	RootType
	RootTopic
	RootPartition
	RootOffset
	RootHeaders
	RootCommittedAt
)

var roots = map[string]Root{
	"payload": RootPayload, "key": RootKey, "id": RootID, "type": RootType, "topic": RootTopic,
	"partition": RootPartition, "offset": RootOffset, "headers": RootHeaders, "committed_at": RootCommittedAt,
}

const rootNames = ":payload, :payload.field, :key, :id, :type, :topic, :partition, :offset, :headers.name, :committed_at"

// Param is one occurrence of a named parameter. Every occurrence is a placeholder of its own, so that each gets the type
// its own place in the statement asks for.
type Param struct {
	Root Root
	Path []string // of RootPayload: the fields, none for the whole payload; of RootHeaders: the name
}

func (p Param) String() string {
	for name, r := range roots {
		if r == p.Root {
			return ":" + strings.Join(append([]string{name}, p.Path...), ".")
		}
	}
	return ":?"
}

// SQL is a statement whose parameters were found.
type SQL struct {
	Params []Param
	Pieces []string // the text before, between and after the parameters: one more than Params
	Verb   string   // first word, lower case
}

// Text returns the statement as a server prepares it, with a placeholder for each parameter.
func (s SQL) Text(d Dialect) string {
	var b strings.Builder
	for i, piece := range s.Pieces {
		if i > 0 {
			b.WriteString(d.Placeholder(i))
		}
		b.WriteString(piece)
	}
	return b.String()
}

// Parse finds the named parameters of a statement; values never become part of its text. It knows the dialect's lexical rules (string
// constants, dollar quotes, comments, quoted identifiers, casts, array slices), and refuses what a handler may not hold.
func Parse(d Dialect, src string) (SQL, error) {
	l := lexer{src: src, d: d}
	l.out.Grow(len(src) + 16)
	if err := l.run(); err != nil {
		return SQL{}, err
	}
	if err := d.check(l.verb); err != nil {
		return SQL{}, err
	}
	l.cut()
	last := len(l.pieces) - 1
	l.pieces[0] = strings.TrimLeft(l.pieces[0], blanks)
	l.pieces[last] = strings.TrimRight(l.pieces[last], blanks)
	return SQL{Params: l.params, Pieces: l.pieces, Verb: l.verb}, nil
}

const blanks = " \t\n\r\f\v"

// lexer walks a statement once. operand and brackets are there for one question only: whether a colon inside square brackets parts
// the bounds of a slice.
type lexer struct {
	src      string
	d        Dialect
	at       int
	out      strings.Builder // the piece that is being read
	pieces   []string
	params   []Param
	verb     string
	operand  bool   // the last token ends an operand: a name, a number, a string, a closing bracket
	array    bool   // the last token is the word ARRAY
	escape   bool   // the last token is an E'' string, which a string on a later line continues
	brackets []byte // open brackets: '(' a parenthesis, '[' a subscript, 'a' an array constructor
}

// cut ends the piece.
func (l *lexer) cut() {
	l.pieces = append(l.pieces, l.out.String())
	l.out.Reset()
}

func (l *lexer) run() error {
	for l.at < len(l.src) {
		c := l.src[l.at]
		switch {
		case strings.IndexByte(blanks, c) >= 0:
			l.copy(1)
			continue // leaves escape as it is
		case l.atLineComment():
			l.lineComment()
			continue
		case strings.HasPrefix(l.src[l.at:], "/*"):
			if err := l.blockComment(); err != nil {
				return err
			}
			continue
		}
		if done, err := l.token(c); done || err != nil {
			return err
		}
	}
	return nil
}

// token takes one significant token; done means that the statement has ended.
func (l *lexer) token(c byte) (done bool, err error) {
	wasEscape, wasArray := l.escape, l.array
	l.escape, l.array = false, false
	switch {
	case c == '\'':
		return false, l.quoted(c, wasEscape || l.d == MySQL)
	case c == '"':
		return false, l.quoted(c, l.d == MySQL) // a string there, an identifier in PostgreSQL
	case c == '`' && l.d == MySQL:
		return false, l.quoted(c, false)
	case c == '$' && l.d == PostgreSQL:
		return false, l.dollar()
	case c == '?' && l.d == MySQL:
		return false, errPositional
	case isIdentStart(c) || c == '$':
		return false, l.word()
	case c >= '0' && c <= '9':
		n := 1
		for l.at+n < len(l.src) && (isIdent(l.src[l.at+n]) || l.src[l.at+n] == '.') {
			n++
		}
		l.copy(n)
		l.operand = true
	case c == ':':
		return false, l.colon()
	case c == '(' || c == '[':
		l.open(c, wasArray)
	case c == ')' || c == ']':
		if n := len(l.brackets); n > 0 {
			l.brackets = l.brackets[:n-1]
		}
		l.copy(1)
		l.operand = true
	case c == ';':
		return true, l.end()
	case c == 0:
		return false, errors.New("the statement holds a zero byte")
	default:
		l.copy(1)
		l.operand = false
	}
	return false, nil
}

func (l *lexer) copy(n int) {
	l.out.WriteString(l.src[l.at : l.at+n])
	l.at += n
}

func (l *lexer) open(c byte, afterArray bool) {
	kind := c
	if c == '[' {
		inArray := len(l.brackets) > 0 && l.brackets[len(l.brackets)-1] == 'a'
		if afterArray || inArray && !l.operand {
			kind = 'a'
		}
	}
	l.brackets = append(l.brackets, kind)
	l.copy(1)
	l.operand = false
}

// errPositional: a positional parameter's value could come from nowhere.
var errPositional = errors.New("positional parameters as $1 or ? are not known here: write named ones, as :payload.field")

// atLineComment reports whether a comment to the end of the line begins here. In MySQL two dashes need a blank behind them.
func (l *lexer) atLineComment() bool {
	rest := l.src[l.at:]
	if l.d == MySQL {
		return rest[0] == '#' || strings.HasPrefix(rest, "--") && (len(rest) == 2 || rest[2] <= ' ' || rest[2] == 0x7f)
	}
	return strings.HasPrefix(rest, "--")
}

// comments are copied: server messages point into the text.
func (l *lexer) lineComment() {
	n := strings.IndexByte(l.src[l.at:], '\n')
	if n < 0 {
		n = len(l.src) - l.at
	}
	l.copy(n)
}

func (l *lexer) blockComment() error {
	if rest := l.src[l.at+2:]; l.d == MySQL && (strings.HasPrefix(rest, "!") || strings.HasPrefix(rest, "M!")) {
		return errors.New("a comment /*! is run by the server: write what it holds as it is")
	}
	depth, i := 0, l.at
	for i < len(l.src) {
		switch {
		case strings.HasPrefix(l.src[i:], "/*") && (depth == 0 || l.d == PostgreSQL): // MySQL's do not nest
			depth++
			i += 2
		case strings.HasPrefix(l.src[i:], "*/"):
			depth--
			i += 2
			if depth == 0 {
				l.copy(i - l.at)
				return nil
			}
		default:
			i++
		}
	}
	return errors.New("a comment /* is not closed")
}

// quoted copies a string constant or a quoted identifier. A doubled quote stands for one. backslash: a backslash escapes what follows it, as in
// PostgreSQL's E” and in every string of MySQL.
func (l *lexer) quoted(q byte, backslash bool) error {
	for i := l.at + 1; i < len(l.src); i++ {
		switch {
		case l.src[i] == '\\' && backslash:
			i++
		case l.src[i] == q && i+1 < len(l.src) && l.src[i+1] == q:
			i++
		case l.src[i] == q:
			l.copy(i + 1 - l.at)
			l.operand, l.escape = true, backslash
			if l.verb == "" && q != '\'' {
				l.verb = string(q)
			}
			return nil
		}
	}
	if q == '`' || q == '"' && l.d == PostgreSQL {
		return errors.New(`a quoted identifier is not closed`)
	}
	return errors.New("a string constant is not closed")
}

// dollar copies a dollar-quoted string.
func (l *lexer) dollar() error {
	rest := l.src[l.at+1:]
	if rest != "" && rest[0] >= '0' && rest[0] <= '9' {
		return errPositional
	}
	n := 0
	for n < len(rest) && (isIdentStart(rest[n]) || n > 0 && rest[n] >= '0' && rest[n] <= '9') {
		n++
	}
	if n >= len(rest) || rest[n] != '$' {
		l.copy(1) // not a quote: the server says what it makes of it
		l.operand = false
		return nil
	}
	tag := l.src[l.at : l.at+n+2]
	end := strings.Index(l.src[l.at+len(tag):], tag)
	if end < 0 {
		return fmt.Errorf("the dollar-quoted string %s is not closed", tag)
	}
	l.copy(len(tag) + end + len(tag))
	l.operand = true
	return nil
}

// expectsOperand are words after which an operand follows, so that a colon after them starts a parameter also in a subscript.
var expectsOperand = map[string]bool{
	"and": true, "or": true, "not": true, "in": true, "like": true, "ilike": true, "is": true, "between": true, "case": true, "when": true,
	"then": true, "else": true, "any": true, "all": true, "some": true, "select": true, "where": true, "from": true, "distinct": true,
	"by": true, "on": true, "limit": true, "offset": true, "values": true, "set": true, "using": true, "to": true, "escape": true, "array": true,
}

func (l *lexer) word() error {
	n := 1
	for l.at+n < len(l.src) && (isIdent(l.src[l.at+n]) || l.src[l.at+n] == '$') {
		n++
	}
	w := strings.ToLower(l.src[l.at : l.at+n])
	if l.verb == "" {
		l.verb = w
	}
	l.copy(n)
	if w == "e" && l.d == PostgreSQL && l.at < len(l.src) && l.src[l.at] == '\'' {
		return l.quoted('\'', true)
	}
	l.array = w == "array"
	l.operand = !expectsOperand[w]
	return nil
}

// colon decides between a cast, a named argument, a slice and a parameter.
func (l *lexer) colon() error {
	rest := l.src[l.at+1:]
	switch {
	case strings.HasPrefix(rest, ":"), strings.HasPrefix(rest, "="):
		l.copy(2)
		l.operand = false
		return nil
	case rest == "" || !isIdentStart(rest[0]):
		l.copy(1)
		l.operand = false
		return nil
	}
	name, _ := ident(rest)
	r, known := roots[name]
	if len(l.brackets) > 0 && l.brackets[len(l.brackets)-1] == '[' && (l.operand || !known) {
		l.copy(1) // arr[lo:hi], arr[:hi]
		l.operand = false
		return nil
	}
	if !known {
		return fmt.Errorf("unknown parameter :%s; a field of the payload is :payload.%s; the parameters are %s", name, name, rootNames)
	}
	p, start := Param{Root: r}, l.at
	l.at += 1 + len(name)
	path, err := l.path(name)
	if err != nil {
		return err
	}
	p.Path = path
	switch {
	case r == RootHeaders && len(path) == 0:
		return errors.New(":headers needs a name, as :headers.trace_id")
	case r == RootHeaders:
		p.Path = []string{strings.Join(path, ".")}
	case r != RootPayload && len(path) > 0:
		return fmt.Errorf(":%s has no fields, but .%s follows", name, path[0])
	}
	if len(l.params) >= paramsMax {
		return fmt.Errorf("more than %d parameters", paramsMax)
	}
	l.params = append(l.params, p)
	// A word right before or after would melt into the placeholder (select$1, $1x).
	if start > 0 && (isIdent(l.src[start-1]) || l.src[start-1] == '$') {
		l.out.WriteByte(' ')
	}
	l.cut()
	if l.at < len(l.src) && l.d.isIdent(l.src[l.at]) {
		l.out.WriteByte(' ')
	}
	l.operand = true
	return nil
}

// paramsMax is the wire protocol's limit for one statement.
const paramsMax = 65535

// path takes `.segment` as often as it follows; a segment is a name, digits, or anything in double quotes.
func (l *lexer) path(name string) ([]string, error) {
	var path []string
	for strings.HasPrefix(l.src[l.at:], ".") {
		rest := l.src[l.at+1:]
		if strings.HasPrefix(rest, `"`) {
			seg, n, ok := quotedSegment(rest)
			if !ok {
				return nil, fmt.Errorf("the quoted name after :%s is not closed", name)
			}
			path = append(path, seg)
			l.at += 1 + n
			continue
		}
		seg, n := ident(rest)
		if n == 0 {
			return nil, fmt.Errorf("a name is missing after the dot of :%s", strings.Join(append([]string{name}, path...), "."))
		}
		path = append(path, seg)
		l.at += 1 + n
	}
	return path, nil
}

func quotedSegment(s string) (seg string, n int, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		return b.String(), i + 1, true
	}
	return "", 0, false
}

// end takes the semicolon: only blanks and comments may follow.
func (l *lexer) end() error {
	l.at++
	for l.at < len(l.src) {
		switch c := l.src[l.at]; {
		case strings.IndexByte(blanks, c) >= 0 || c == ';':
			l.at++
		case l.atLineComment():
			l.lineComment()
		case strings.HasPrefix(l.src[l.at:], "/*"):
			if err := l.blockComment(); err != nil {
				return err
			}
		default:
			return errors.New("two statements in one text: write them as a list")
		}
	}
	return nil
}

func ident(s string) (name string, n int) {
	for n < len(s) && isIdent(s[n]) {
		n++
	}
	return s[:n], n
}

func isIdentStart(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func isIdent(c byte) bool { return isIdentStart(c) || c >= '0' && c <= '9' }
