package lint_test

import (
	"go/ast"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// citedTest is a test that a page names; with a star, a family of them.
var citedTest = regexp.MustCompile("`(Test[A-Za-z0-9_]+)(\\*?)`")

// TestDocs_namedTestsExist: what a page says is held by a test is held by one that is there.
func TestDocs_namedTestsExist(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	for _, f := range load(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil {
				tests[fn.Name.Name] = true
			}
		}
	}
	cited := 0
	err := filepath.WalkDir("../../docs", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".md") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(b), "\n") {
			for _, m := range citedTest.FindAllStringSubmatch(line, -1) {
				cited++
				found := tests[m[1]]
				for name := range tests {
					found = found || m[2] == "*" && strings.HasPrefix(name, m[1])
				}
				if !found {
					t.Errorf("%s:%d: there is no test %s%s", path, i+1, m[1], m[2])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if cited < 20 {
		t.Fatalf("only %d tests are named in docs: this one looks in the wrong place", cited)
	}
}
