// Package lint_test holds the rules of the house that a compiler cannot: who may import whom, and what may be
// called where. It never runs the code it reads.
package lint_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/outrelay/outrelay"

// layers is the import order of docs/architecture.md: a package may import its own layer's parents and what stands lower, never what
// stands higher. The longest matching prefix decides.
var layers = map[string]int{
	"internal/invariant": 1, "internal/clock": 1, "internal/backoff": 1, "internal/run": 1, "internal/metrics": 1, "internal/failpoint": 1,
	"internal/topicname": 1, "internal/bytepool": 1, "internal/loopback": 1, "internal/mysqldsn": 1, "internal/doctor": 1,
	"internal/vfs": 2,
	".":            3,
	"config":       4, "sources": 4, "sources/meter": 4, "sinks": 4, "sinks/handler": 4, "sinks/sqlsink": 4, "dedup": 4, "broker/record": 4, "broker/group": 4, "broker/txn": 4,
	"sources/sourcetest": 5, "sinks/sinktest": 5,
	"sources/postgres": 5, "sources/mysql": 5, "sinks/postgres": 5, "sinks/mysql": 5, "sinks/webhook": 5, "sinks/kafka": 5, "sinks/stdout": 5,
	"broker/wal": 5, "broker/segment": 5, "broker/transport": 5, "broker/auth": 5, "internal/testenv": 5,
	"broker/replica": 6, "broker/cluster": 6, "relay": 6, "consumer": 6, "internal/kafka": 6,
	"broker": 7, "admin": 7, "broker/offline": 7, "broker/brokertest": 7, "relay/relaytest": 7,
	"internal/audit": 7, "internal/migrate": 7, "internal/demo": 8, "internal/bench": 8,
	"internal/daemon": 8,
	"cmd":             9,
	"internal/lint":   9, "test": 9,
}

type file struct {
	pkg  string // directory below the module's root
	name string
	test bool
	ast  *ast.File
	fset *token.FileSet
}

func (f file) at(p token.Pos) string { return f.name + ":" + strconv.Itoa(f.fset.Position(p).Line) }

func load(t *testing.T) []file {
	t.Helper()
	root := "../.."
	var files []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if base := d.Name(); rel != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin" || base == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		a, err := parser.ParseFile(fset, path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, file{filepath.ToSlash(filepath.Dir(rel)), rel, strings.HasSuffix(path, "_test.go"), a, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d files found: the test looks in the wrong place", len(files))
	}
	return files
}

func layerOf(pkg string) (int, bool) {
	for p := pkg; ; {
		if l, ok := layers[p]; ok {
			return l, true
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return 0, false
		}
		p = p[:i]
	}
}

// family reports whether two packages of one layer belong together: a package and its own sub-package.
func family(a, b string) bool {
	return strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

func imports(f file) map[string]token.Pos {
	m := map[string]token.Pos{}
	for _, s := range f.ast.Imports {
		p, _ := strconv.Unquote(s.Path.Value)
		if p == module {
			m["."] = s.Pos()
		} else if rest, ok := strings.CutPrefix(p, module+"/"); ok {
			m[rest] = s.Pos()
		}
	}
	return m
}

func TestImports_RunDownward(t *testing.T) {
	t.Parallel()
	// A layer's own order, where packages of one layer build on each other.
	sameLayer := map[string][]string{
		"internal/backoff": {"internal/clock"}, "internal/run": {"internal/clock"},
		"broker/cluster": {"broker/replica"},
		"relay":          {"internal/kafka"}, "consumer": {"internal/kafka"},
		"internal/demo": {"internal/daemon"}, "internal/bench": {"internal/daemon"},
		"broker/segment":               {"broker/wal"},
		"test/compat/goclients/sarama": {"test/compat/goclients/check"}, "test/compat/goclients/segmentio": {"test/compat/goclients/check"},
	}
	for _, f := range load(t) {
		if f.test {
			continue
		}
		from, ok := layerOf(f.pkg)
		if !ok {
			t.Errorf("%s: package %s has no layer; add it to the table and to docs/architecture.md", f.name, f.pkg)
			continue
		}
		for dep, pos := range imports(f) {
			to, ok := layerOf(dep)
			if ok && (to < from || (to == from && (family(f.pkg, dep) || slices.Contains(sameLayer[f.pkg], dep)))) {
				continue
			}
			t.Errorf("%s: %s (layer %d) imports %s (layer %d); imports run downward only", f.at(pos), f.pkg, from, dep, to)
		}
	}
}

func TestImports_RelayConsumerAndSinksKnowNoBroker(t *testing.T) {
	t.Parallel()
	for _, f := range load(t) {
		if !within(f.pkg, "relay") && !within(f.pkg, "consumer") && !within(f.pkg, "sinks") {
			continue
		}
		for dep, pos := range imports(f) {
			if within(dep, "broker") {
				t.Errorf("%s: %s imports %s; it reaches the log as a Kafka client only (D1)", f.at(pos), f.pkg, dep)
			}
		}
	}
}

func TestImports_OnlyDaemonAndCmdKnowTheConfiguration(t *testing.T) {
	t.Parallel()
	for _, f := range load(t) {
		if within(f.pkg, "config") || within(f.pkg, "internal/daemon") || within(f.pkg, "cmd") || within(f.pkg, "test") {
			continue
		}
		for dep, pos := range imports(f) {
			if within(dep, "config") {
				t.Errorf("%s: %s imports config; every package has its own Options", f.at(pos), f.pkg)
			}
		}
	}
}

// TestContracts_StandInTheParent: an implementation of a family imports its parent, and what stands at its parent's layer, never a sibling.
func TestContracts_StandInTheParent(t *testing.T) {
	t.Parallel()
	for _, f := range load(t) {
		for _, parent := range []string{"sources", "sinks", "dedup"} {
			if !strings.HasPrefix(f.pkg, parent+"/") || f.test {
				continue
			}
			own := strings.Join(strings.SplitN(f.pkg, "/", 3)[:2], "/")
			for dep, pos := range imports(f) {
				if strings.HasPrefix(dep, parent+"/") && !within(dep, own) && layers[dep] != layers[parent] {
					t.Errorf("%s: %s imports its sibling %s", f.at(pos), f.pkg, dep)
				}
			}
		}
	}
}

// TestFiles_OnlyVFSOpensDataFiles: below broker, files are reached through vfs alone, so that a test can crash them.
func TestFiles_OnlyVFSOpensDataFiles(t *testing.T) {
	t.Parallel()
	openers := []string{"Open", "OpenFile", "Create", "ReadFile", "WriteFile", "Rename", "Remove", "RemoveAll", "Mkdir", "MkdirAll", "Truncate"}
	for _, f := range load(t) {
		if f.test || !within(f.pkg, "broker") || within(f.pkg, "broker/brokertest") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if id, ok := s.X.(*ast.Ident); ok && id.Name == "os" && slices.Contains(openers, s.Sel.Name) {
				t.Errorf("%s: os.%s in %s; data files are opened by internal/vfs only", f.at(s.Pos()), s.Sel.Name, f.pkg)
			}
			return true
		})
	}
}

// TestConfirm_HasOneCallSite: confirm after durable, in one function (D2).
func TestConfirm_HasOneCallSite(t *testing.T) {
	t.Parallel()
	var sites []string
	for _, f := range load(t) {
		if f.test || within(f.pkg, "sources/sourcetest") || within(f.pkg, "test") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if s, ok := c.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Confirm" {
				sites = append(sites, f.at(s.Pos()))
			}
			return true
		})
	}
	if len(sites) != 1 || !strings.HasPrefix(sites[0], "relay") {
		t.Errorf("Confirm is called at %v; want exactly one place, in relay", sites)
	}
}

// TestPackages_HaveNoInitAndNoFlags: nothing happens by importing a package.
func TestPackages_HaveNoInitAndNoFlags(t *testing.T) {
	t.Parallel()
	for _, f := range load(t) {
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init; nothing may happen by importing a package", f.at(fn.Pos()))
			}
		}
		for _, s := range f.ast.Imports {
			if s.Path.Value == `"flag"` {
				t.Errorf("%s: package flag; options are passed in", f.at(s.Pos()))
			}
		}
	}
}

// TestPackages_SayWhatTheyOwn: the first sentence of a package's comment says what it owns, the second what it never does.
func TestPackages_SayWhatTheyOwn(t *testing.T) {
	t.Parallel()
	docs := map[string]string{}
	for _, f := range load(t) {
		if f.test || f.ast.Name.Name == "main" {
			continue
		}
		if f.ast.Doc != nil {
			docs[f.pkg] += f.ast.Doc.Text()
		} else if _, ok := docs[f.pkg]; !ok {
			docs[f.pkg] = ""
		}
	}
	for pkg, doc := range docs {
		if strings.Count(strings.ReplaceAll(doc, ".\n", ". "), ". ") < 2 {
			t.Errorf("package %s: its comment needs two sentences, what it owns and what it never does", pkg)
		}
	}
}

// TestFormats_AreWrittenDown: each format frozen on disk, in the log or in a table has its page.
func TestFormats_AreWrittenDown(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"wal", "segment", "index-files", "checkpoint", "entry", "position", "position-record", "index-record", "offsets-tables"} {
		b, err := os.ReadFile("../../docs/format/" + page + ".md")
		if err != nil || len(b) < 500 {
			t.Errorf("docs/format/%s.md: %d bytes, %v", page, len(b), err)
		}
	}
}

func within(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }
