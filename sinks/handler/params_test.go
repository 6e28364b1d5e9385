package handler

import (
	"strings"
	"testing"
)

func TestParseSQL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, src, want, params string }{
		{"plain", "insert into t values (:id, :key)", "insert into t values ($1, $2)", ":id :key"},
		{"every root", "select :payload,:key,:id,:type,:topic,:partition,:offset,:headers.x,:committed_at",
			"select $1,$2,$3,$4,$5,$6,$7,$8,$9", ":payload :key :id :type :topic :partition :offset :headers.x :committed_at"},
		{"path", "select :payload.customer.name", "select $1", ":payload.customer.name"},
		{"path with digits", "select :payload.items.0.sku", "select $1", ":payload.items.0.sku"},
		{"quoted path", `select :payload."first name"."a""b"`, "select $1", `:payload.first name.a"b`},
		{"header with dots", `select :headers.a.b, :headers."x-trace"`, "select $1, $2", ":headers.a.b :headers.x-trace"},
		{"repeated", "select :id, :id", "select $1, $2", ":id :id"},
		{"cast", "select :payload.n::numeric, a::text", "select $1::numeric, a::text", ":payload.n"},
		{"named argument", "select f(a := :id)", "select f(a := $1)", ":id"},
		{"string", "select ':id', 'it''s :id', :id", "select ':id', 'it''s :id', $1", ":id"},
		{"backslash is plain", `select 'a\', :id`, `select 'a\', $1`, ":id"},
		{"escape string", `select E'a\':id', :id`, `select E'a\':id', $1`, ":id"},
		{"escape string continued", "select e'a'\n 'b\\':id', :id", "select e'a'\n 'b\\':id', $1", ":id"},
		{"word ending in e", `select code'x'`, `select code'x'`, ""},
		{"quoted identifier", `select "a:id""b", :id`, `select "a:id""b", $1`, ":id"},
		{"dollar quotes", "select $$:id$$, $a$ $$ :id $a$, :id", "select $$:id$$, $a$ $$ :id $a$, $1", ":id"},
		{"dollar in a name", "select a$b$ , :id, c$b$", "select a$b$ , $1, c$b$", ":id"},
		{"line comment", "select 1 -- :id '\n, :id", "select 1 -- :id '\n, $1", ":id"},
		{"block comments nest", "select 1 /* :id /* ' */ :id */, :id", "select 1 /* :id /* ' */ :id */, $1", ":id"},
		{"slice", "select a[1:2], a[lo:hi], a[:hi], a[lo:], a[1:id]", "select a[1:2], a[lo:hi], a[:hi], a[lo:], a[1:id]", ""},
		{"subscript", "select a[:payload.i], a[:payload.i : :payload.j]", "select a[$1], a[$2 : $3]", ":payload.i :payload.i :payload.j"},
		{"array constructor", "select array[:id, f(:key)], ARRAY[[:id],[x]]", "select array[$1, f($2)], ARRAY[[$3],[x]]", ":id :key :id"},
		{"case in a subscript", "select a[case when :payload.x then 1 end]", "select a[case when $1 then 1 end]", ":payload.x"},
		{"trailing semicolon", "select 1; -- done\n ;", "select 1", ""},
		{"no space after", "select :partition\n", "select $1", ":partition"},
		{"no space before", "select:id from t where a=:id", "select $1 from t where a=$2", ":id :id"},
		{"unicode", "select :payload.größe", "select $1", ":payload.größe"},
		{"json operators", `select data->>'a:id', data @> '{"a":1}', :payload::jsonb ? 'x'`, `select data->>'a:id', data @> '{"a":1}', $1::jsonb ? 'x'`, ":payload"},
		{"case differs", "select :payload.A, :payload.a", "select $1, $2", ":payload.A :payload.a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(PostgreSQL, c.src)
			if err != nil {
				t.Fatal(err)
			}
			var ps []string
			for _, p := range got.Params {
				ps = append(ps, p.String())
			}
			if got.Text(PostgreSQL) != c.want && strings.TrimSpace(strings.Split(got.Text(PostgreSQL), "-- done")[0]) != c.want {
				t.Errorf("sql\n got %q\nwant %q", got.Text(PostgreSQL), c.want)
			}
			if s := strings.Join(ps, " "); s != c.params {
				t.Errorf("params\n got %s\nwant %s", s, c.params)
			}
		})
	}
}

func TestParseSQL_refuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, src, want string }{
		{"empty", " -- nothing\n", "empty"},
		{"unknown parameter", "select :customer", ":payload.customer"},
		{"wrong case", "select :Payload", "unknown parameter :Payload"},
		{"headers without a name", "select :headers", ":headers needs a name"},
		{"field of a key", "select :key.a", ":key has no fields"},
		{"dot without a name", "select :payload. a", "missing after the dot"},
		{"positional", "select $1", "named ones"},
		{"commit", "commit", "COMMIT is not allowed"},
		{"rollback behind a comment", "/* x */ Rollback", "ROLLBACK is not allowed"},
		{"begin", "begin", "moves the offset"},
		{"set", "set search_path = x", "SET is not allowed"},
		{"ddl", "create table x()", "CREATE is not allowed"},
		{"truncate", "truncate t", "TRUNCATE is not allowed"},
		{"do", "do $$ begin commit; end $$", "DO is not allowed"},
		{"copy", "copy t from program 'x'", "COPY is not allowed"},
		{"two statements", "select 1; commit", "write them as a list"},
		{"open string", "select 'a", "not closed"},
		{"open identifier", `select "a`, "not closed"},
		{"open dollar quote", "select $a$ $$", "not closed"},
		{"open comment", "select /* /* */", "not closed"},
		{"open quoted field", `select :payload."a`, "not closed"},
		{"zero byte", "select \x00", "zero byte"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := Parse(PostgreSQL, c.src); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestParseSQL_MySQL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, src, want, params string }{
		{"plain", "insert into t values (:id, :key)", "insert into t values (?, ?)", ":id :key"},
		{"path", `select :payload."first name".0, :headers.a.b`, "select ?, ?", `:payload.first name.0 :headers.a.b`},
		{"no space around", "select:id from t where a=:id", "select ? from t where a=?", ":id :id"},
		{"a dollar belongs to a name", "select a$:id", "select a$ ?", ":id"},
		{"assignment", "select @a := :id, @@sql_mode", "select @a := ?, @@sql_mode", ":id"},
		{"string", "select ':id', 'it''s :id', :id", "select ':id', 'it''s :id', ?", ":id"},
		{"a backslash escapes", `select 'a\':id', "b\":id", :id`, `select 'a\':id', "b\":id", ?`, ":id"},
		{"double quotes are a string", `select "a:id""b", :id`, `select "a:id""b", ?`, ":id"},
		{"backquotes", "select `a:id``\\`, :id", "select `a:id``\\`, ?", ":id"},
		{"line comments", "select 1 -- :id\n, 2 # :id '\n, :id", "select 1 -- :id\n, 2 # :id '\n, ?", ":id"},
		{"two dashes without a blank", "select 5--:partition", "select 5--?", ":partition"},
		{"block comments do not nest", "select 1 /* :id /* ' */, :id", "select 1 /* :id /* ' */, ?", ":id"},
		{"a hint", "select /*+ max_execution_time(1000) */ :id", "select /*+ max_execution_time(1000) */ ?", ":id"},
		{"introducers", "select _utf8mb4'x:id', x'3A', N':id', :id", "select _utf8mb4'x:id', x'3A', N':id', ?", ":id"},
		{"JSON paths", "select a->'$.b', a->>\"$[0]\", :payload->'$.c'", "select a->'$.b', a->>\"$[0]\", ?->'$.c'", ":payload"},
		{"upsert", "insert into t (a) values (:id) on duplicate key update a = values(a);", "insert into t (a) values (?) on duplicate key update a = values(a)", ":id"},
		{"replace", "replace t values (:id)", "replace t values (?)", ":id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(MySQL, c.src)
			if err != nil {
				t.Fatal(err)
			}
			var ps []string
			for _, p := range got.Params {
				ps = append(ps, p.String())
			}
			if text := got.Text(MySQL); text != c.want || strings.Join(ps, " ") != c.params {
				t.Errorf("got %q with %v\nwant %q with %s", text, ps, c.want, c.params)
			}
		})
	}
}

func TestParseSQL_MySQL_refuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, src, want string }{
		{"empty", "# nothing\n", "empty"},
		{"positional", "select ?", "named ones"},
		{"commit", "commit", "COMMIT is not allowed"},
		{"xa", "xa start 'x'", "moves the offset"},
		{"set", "set sql_mode = ''", "SET is not allowed"},
		{"ddl commits", "create table x(a int)", "CREATE is not allowed in a handler: it commits"},
		{"ddl behind a comment", "/* x */ Alter table x add b int", "ALTER is not allowed in a handler: it commits"},
		{"truncate", "truncate t", "TRUNCATE is not allowed in a handler: it commits"},
		{"lock", "lock tables t write", "LOCK is not allowed in a handler: it commits"},
		{"call", "call p(:id)", "a procedure can commit"},
		{"load", "load data infile 'x' into table t", "it takes SELECT, INSERT, UPDATE, DELETE, REPLACE, WITH, VALUES and TABLE"},
		{"merge", "merge into t", "MERGE is not allowed"},
		{"executable comment", "insert into t /*!80000 select */ values (1)", "run by the server"},
		{"executable comment of MariaDB", "/*M! insert */ into t values (1)", "run by the server"},
		{"two statements", "select 1; commit", "write them as a list"},
		{"a comment does not hide a statement", "select 1 --commit", ""},
		{"open string", `select 'a\'`, "not closed"},
		{"open double quotes", `select "a`, "a string constant is not closed"},
		{"open backquotes", "select `a", "identifier is not closed"},
		{"open comment", "select /*", "not closed"},
		{"zero byte", "select \x00", "zero byte"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse(MySQL, c.src)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// FuzzParams: no panic; what is not a parameter comes out as it went in; and what comes out holds no parameter any more.
func FuzzParams(f *testing.F) {
	for _, s := range []string{
		"insert into t values (:payload.a, :key)", "select a[1:2], array[:id], $$:x$$, E'\\':id', \"q\"\"\", x::int", "select /* /* */ */ :headers.\"a b\" -- x",
		"select a[:payload.i : 2]", "with x as (select :committed_at) select * from x;", "select $a$:id$a$", "select 'a'\n'b' , e'\\\\'",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		for _, d := range []Dialect{PostgreSQL, MySQL} {
			p, err := Parse(d, src)
			if err != nil {
				continue
			}
			text := p.Text(d)
			again, err := Parse(d, text)
			if len(p.Params) == 0 {
				if err != nil || again.Text(d) != text || len(again.Params) != 0 {
					t.Fatalf("%q became %q, which parses as %q, %v", src, text, again.Text(d), err)
				}
				continue
			}
			// With placeholders the text is refused as positional, and for no other reason.
			if err == nil || !strings.Contains(err.Error(), "positional") {
				t.Fatalf("%q became %q: %v", src, text, err)
			}
		}
	})
}
