package lint_test

import (
	"go/ast"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// called is where the code names failpoints: by name as docs/failpoints.md has it, the files.
func called(t *testing.T, files []file) map[string][]string {
	t.Helper()
	m := map[string][]string{}
	for _, f := range files {
		if f.test || f.pkg == "internal/failpoint" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if x, isName := receiver(sel); !ok || !isName || x != "failpoint" || sel.Sel.Name != "Hit" && sel.Sel.Name != "Bug" {
				return true
			}
			lit, ok := call.Args[0].(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				t.Errorf("%s: a failpoint's name must be a literal, so that it can be found", f.at(call.Pos()))
				return true
			}
			name, _ := strconv.Unquote(lit.Value)
			if sel.Sel.Name == "Bug" {
				name = "bug." + name
			}
			if !slices.Contains(m[name], f.name) {
				m[name] = append(m[name], f.name)
			}
			return true
		})
	}
	return m
}

func receiver(s *ast.SelectorExpr) (string, bool) {
	if s == nil {
		return "", false
	}
	id, ok := s.X.(*ast.Ident)
	if !ok {
		return "", false
	}
	return id.Name, true
}

var inQuotes = regexp.MustCompile("`([^`]+)`")

func TestFailpoints_AreWrittenDownAndUsed(t *testing.T) {
	t.Parallel()
	files := load(t)
	code := called(t, files)
	tests, texts := map[string]bool{}, &strings.Builder{}
	for _, f := range files {
		if !f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				tests[n.Name.Name] = true
			case *ast.BasicLit:
				texts.WriteString(n.Value + "\n")
			}
			return true
		})
	}
	page, err := os.ReadFile("../../docs/failpoints.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 6 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		name := inQuotes.FindStringSubmatch(cells[1])[1]
		seen[name] = true
		var in []string
		for _, m := range inQuotes.FindAllStringSubmatch(cells[2], -1) {
			in = append(in, m[1])
		}
		slices.Sort(in)
		slices.Sort(code[name])
		if !slices.Equal(in, code[name]) {
			t.Errorf("docs/failpoints.md has %s in %v, the code in %v", name, in, code[name])
		}
		test := inQuotes.FindAllStringSubmatch(cells[len(cells)-2], -1)
		if len(test) == 0 || !tests[test[len(test)-1][1]] {
			t.Errorf("docs/failpoints.md: %s names no test that exists: %s", name, cells[len(cells)-2])
		}
	}
	for name, in := range code {
		if !seen[name] {
			t.Errorf("%s is hit in %v and not in docs/failpoints.md", name, in)
		}
		if !regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `\b`).MatchString(texts.String()) {
			t.Errorf("no test uses %s", name)
		}
	}
}
