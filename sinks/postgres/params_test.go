package postgres

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
			got, err := parseSQL(c.src)
			if err != nil {
				t.Fatal(err)
			}
			var ps []string
			for _, p := range got.params {
				ps = append(ps, p.String())
			}
			if got.sql != c.want && strings.TrimSpace(strings.Split(got.sql, "-- done")[0]) != c.want {
				t.Errorf("sql\n got %q\nwant %q", got.sql, c.want)
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
			if _, err := parseSQL(c.src); err == nil || !strings.Contains(err.Error(), c.want) {
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
		p, err := parseSQL(src)
		if err != nil {
			return
		}
		if len(p.params) == 0 {
			again, err := parseSQL(p.sql)
			if err != nil || again.sql != p.sql || len(again.params) != 0 {
				t.Fatalf("%q became %q, which parses as %q, %v", src, p.sql, again.sql, err)
			}
			return
		}
		// With placeholders the text is refused as positional, and for no other reason.
		if _, err := parseSQL(p.sql); err == nil || !strings.Contains(err.Error(), "positional") {
			t.Fatalf("%q became %q: %v", src, p.sql, err)
		}
	})
}
