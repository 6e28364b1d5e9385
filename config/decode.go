package config

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	fileBytesMax = 1 << 20 // a configuration larger than this is a mistake or an attack
	nodesMax     = 100_000 // visited nodes, aliases counted each time they are used
)

// nodeDecoder is a value that reads itself from a YAML node.
type nodeDecoder interface {
	decodeNode(d *decoder, n *yaml.Node, path string)
}

type decoder struct {
	file      string
	problems  []Problem
	warnings  []Problem
	positions map[string]Pos
	visited   int
}

func (d *decoder) problem(n *yaml.Node, path, code, cause, fix string) {
	d.problems = append(d.problems, Problem{File: d.file, Line: n.Line, Column: n.Column, Path: path, Code: code, Cause: cause, Fix: fix})
}

func (d *decoder) warn(n *yaml.Node, path, code, cause, fix string) {
	d.warnings = append(d.warnings, Problem{File: d.file, Line: n.Line, Column: n.Column, Path: path, Code: code, Cause: cause, Fix: fix, Warning: true})
}

// parse reads the document's root mapping, nil when the file says nothing.
func (d *decoder) parse(b []byte) *yaml.Node {
	at := func(line, col int) *yaml.Node { return &yaml.Node{Line: line, Column: col} }
	if len(b) > fileBytesMax {
		d.problem(at(1, 1), "", "file-too-large", fmt.Sprintf("the file has %d bytes, more than the %d a configuration may have", len(b), fileBytesMax), "split it, or check that it is the right file")
		return nil
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	if !utf8.Valid(b) {
		d.problem(at(1, 1), "", "not-utf8", "the file is no UTF-8 text", "save it as UTF-8")
		return nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(hideReferences(b), &doc); err != nil {
		line, col := syntaxPlace(err, b)
		fix := "mend the YAML at this place"
		if l := lineAt(b, line); strings.Contains(l, "\t") {
			fix = "YAML is indented with spaces: replace the tab"
		}
		d.problem(at(line, col), "", "bad-yaml", strings.TrimPrefix(err.Error(), "yaml: "), fix)
		return nil
	}
	if doc.Kind == 0 || len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil
	}
	showReferences(&doc)
	return doc.Content[0]
}

// The braces of a reference would end a plain value inside of {…}: into: {postgres: ${env:X}} is what people write. So they are replaced by
// private-use characters while YAML is read; each is one character for one, so places stay right.
const (
	hiddenOpen  = "\ue000"
	hiddenClose = "\ue001"
)

var plainReference = regexp.MustCompile(`\$\{([^{}\n]*)\}`)

func hideReferences(b []byte) []byte {
	return plainReference.ReplaceAll(b, []byte("$$"+hiddenOpen+"${1}"+hiddenClose))
}

func showReferences(n *yaml.Node) {
	n.Value = strings.NewReplacer(hiddenOpen, "{", hiddenClose, "}").Replace(n.Value)
	for _, c := range n.Content {
		showReferences(c)
	}
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// syntaxPlace finds where the YAML reader stopped. It names the line only, and that of the construct it was in; a tab in the indentation
// on or after that line is the usual cause and gives the exact place.
func syntaxPlace(err error, b []byte) (line, col int) {
	line = 1
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
	}
	for l := line; l <= line+1; l++ {
		text := lineAt(b, l)
		if indent := len(text) - len(strings.TrimLeft(text, " \t")); strings.Contains(text[:indent], "\t") {
			return l, strings.IndexByte(text, '\t') + 1
		}
	}
	text := lineAt(b, line)
	return line, len(text) - len(strings.TrimLeft(text, " ")) + 1
}

func lineAt(b []byte, line int) string {
	lines := strings.Split(string(b), "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	return lines[line-1]
}

// decode fills v from n. Problems are gathered, so that one run shows them all.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if d.visited++; d.visited > nodesMax {
		if d.visited == nodesMax+1 {
			d.problem(n, path, "too-many-nodes", fmt.Sprintf("the file expands to more than %d values", nodesMax), "remove the nested aliases")
		}
		return
	}
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.positions[path] = Pos{n.Line, n.Column}
	nd, ok := v.Addr().Interface().(nodeDecoder)
	if n.Tag == "!!null" && (ok || v.Kind() != reflect.Struct) {
		d.problem(n, path, "empty-value", "the key has no value", "give it one, or remove the key")
		return
	}
	if ok {
		nd.decodeNode(d, n, path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), path)
	case reflect.Struct:
		d.decodeStruct(n, v, path)
	case reflect.Map:
		d.decodeMap(n, v, path)
	case reflect.Slice:
		d.decodeSlice(n, v, path)
	default:
		d.decodeScalar(n, v, path)
	}
}

func (d *decoder) decodeStruct(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "wrong-type", "expected keys and values, found "+kindOf(n), "write one of: "+strings.Join(keysOf(v.Type()), ", "))
		return
	}
	if f := v.FieldByName("Pos"); f.IsValid() {
		f.Set(reflect.ValueOf(Pos{n.Line, n.Column}))
	}
	fields := fieldsOf(v.Type())
	d.pairs(n, path, func(k, val *yaml.Node) {
		i, ok := fields[k.Value]
		if o, known := debeziumOf(k.Value); !ok && known {
			d.problem(k, join(path, k.Value), "debezium-option", k.Value+" is an option of Debezium", o.fix())
			return
		}
		if !ok {
			fix := "known here: " + strings.Join(keysOf(v.Type()), ", ")
			if near := nearest(k.Value, keysOf(v.Type())); near != "" {
				fix = "did you mean " + near + "?"
			}
			d.problem(k, join(path, k.Value), "unknown-key", "unknown key "+k.Value, fix)
			return
		}
		d.decode(val, v.Field(i), join(path, k.Value))
	})
}

func (d *decoder) decodeMap(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "wrong-type", "expected names with values, found "+kindOf(n), "write name: value")
		return
	}
	m := reflect.MakeMap(v.Type())
	d.pairs(n, path, func(k, val *yaml.Node) {
		e := reflect.New(v.Type().Elem()).Elem()
		d.decode(val, e, join(path, k.Value))
		if e.Kind() != reflect.Pointer || !e.IsNil() {
			m.SetMapIndex(reflect.ValueOf(k.Value), e)
		}
	})
	v.Set(m)
}

// decodeFields decodes into a value whose type reads itself, by its fields.
func decodeFields[T any](d *decoder, n *yaml.Node, v *T, path string) {
	d.visited-- // the node was counted when its value was asked to read itself
	d.decode(n, reflect.ValueOf(v).Elem(), path)
}

// pairs calls fn for each key of a mapping, once: a key that stands twice is a problem, not the last one's win.
func (d *decoder) pairs(n *yaml.Node, path string, fn func(k, v *yaml.Node)) {
	seen := map[string]Pos{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode || k.Tag == "!!merge" {
			d.problem(k, path, "bad-key", "a key must be a plain name", "write name: value")
			continue
		}
		if first, ok := seen[k.Value]; ok {
			d.problem(k, join(path, k.Value), "duplicate-key", fmt.Sprintf("key %s stands here for the second time; the first is at line %d", k.Value, first.Line), "remove one of them")
			continue
		}
		seen[k.Value] = Pos{k.Line, k.Column}
		fn(k, v)
	}
}

func (d *decoder) decodeSlice(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n, path, "wrong-type", "expected a list, found "+kindOf(n), "write [a, b], or one `- item` a line")
		return
	}
	s := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		d.decode(c, s.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(s)
}

func (d *decoder) decodeScalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.problem(n, path, "wrong-type", "expected "+nameOf(v.Kind())+", found "+kindOf(n), "write a single value")
		return
	}
	switch v.Kind() {
	case reflect.String:
		if strings.Contains(n.Value, "${") {
			d.problem(n, path, "reference-not-allowed", "references resolve in connection strings only", "write the value itself, or override it by the environment: see outrelay config show --env")
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Tag != "!!bool" {
			d.problem(n, path, "wrong-type", fmt.Sprintf("expected true or false, found %q", n.Value), "write true or false")
			return
		}
		v.SetBool(n.Value == "true" || n.Value == "True" || n.Value == "TRUE")
	case reflect.Int:
		i, err := strconv.ParseInt(n.Value, 10, 32)
		if err != nil || n.Tag != "!!int" {
			d.problem(n, path, "wrong-type", fmt.Sprintf("expected a whole number, found %q", n.Value), "write a number, as 16")
			return
		}
		v.SetInt(i)
	default:
		panic("BUG: config field of kind " + v.Kind().String() + " at " + path)
	}
}

func fieldsOf(t reflect.Type) map[string]int {
	m := map[string]int{}
	for i := range t.NumField() {
		if k := yamlKey(t.Field(i)); k != "" {
			m[k] = i
		}
	}
	return m
}

// yamlKey returns the key of a field, empty when it has none.
func yamlKey(f reflect.StructField) string {
	k, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return strings.TrimPrefix(k, "-")
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for k := range fieldsOf(t) {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func join(path, key string) string {
	if strings.ContainsAny(key, ". ") {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func nameOf(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a number"
	}
	return "text"
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys and values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

// nearest returns the known key closest to a mistyped one, if it is close enough to be meant.
func nearest(key string, known []string) string {
	best, at := "", 1+len(key)/3
	for _, k := range known {
		if dist := editDistance(key, k); dist <= at {
			best, at = k, dist-1
		}
	}
	return best
}

func editDistance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev = cur
	}
	return prev[len(b)]
}
