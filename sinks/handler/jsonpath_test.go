package handler

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestFields_extract(t *testing.T) {
	t.Parallel()
	const null = "NULL"
	for _, c := range []struct{ name, doc, path, want string }{
		{"string", `{"a":"x"}`, "a", "x"},
		{"nested", `{"a":{"b":{"c":1}}}`, "a.b.c", "1"},
		{"object as JSON", `{"a": {"b" : [1, 2]} }`, "a", `{"b" : [1, 2]}`},
		{"array element", `{"a":[{"b":1},{"b":2}]}`, "a.1.b", "2"},
		{"index beyond", `{"a":[1]}`, "a.7", null},
		{"missing", `{"a":1}`, "b", null},
		{"null", `{"a":null}`, "a", null},
		{"below a scalar", `{"a":1}`, "a.b", null},
		{"top is no object", `17`, "a", null},
		{"top array", `[10,20]`, "1", "20"},
		{"digits of a number", `{"a":12345678901234567890.123456789012345678900}`, "a", "12345678901234567890.123456789012345678900"},
		{"exponent", `{"a":-1E+400}`, "a", "-1E+400"},
		{"true", `{"a":true}`, "a", "true"},
		{"escapes", `{"a":"q\"b\\s\/\b\f\n\r\té😀"}`, "a", "q\"b\\s/\b\f\n\r\té😀"},
		{"escaped name", `{"\u0061":1}`, "a", "1"},
		{"names differ by case", `{"A":1,"a":2}`, "a", "2"},
		{"last of a repeated name", `{"a":1,"a":2}`, "a", "2"},
		{"last of a repeated name as a whole", `{"a":{"b":1},"a":{}}`, "a.b", null},
		{"blanks", " {\n\t\"a\" : [ ] , \"b\" : \"x\" } ", "b", "x"},
		{"zero character", `{"a":"x\u0000"}`, "a", "x\x00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var f fields
			f.add(strings.Split(c.path, "."), 0)
			out := make([][]byte, 1)
			if err := f.extract([]byte(c.doc), out); err != nil {
				t.Fatal(err)
			}
			v, err := Text(out[0])
			if err != nil {
				t.Fatal(err)
			}
			got := null
			if v != nil {
				got = string(v)
			}
			if got != c.want {
				t.Fatalf("%s of %s: %q, want %q", c.path, c.doc, got, c.want)
			}
		})
	}
}

func TestFields_extract_refuses(t *testing.T) {
	t.Parallel()
	var f fields
	f.add([]string{"a"}, 0)
	for _, doc := range []string{"", "{", `{"a":}`, "not json", `{"a":1} x`, strings.Repeat("[", 20000)} {
		if err := f.extract([]byte(doc), make([][]byte, 1)); err == nil {
			t.Errorf("%.20q: no error", doc)
		}
	}
	if _, err := Text([]byte(`"\ud800x"`)); err == nil {
		t.Error("a lone surrogate: no error")
	}
}

// The walker agrees with encoding/json on every document that can be made of maps, slices and scalars.
func TestFields_extract_agreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	name := rapid.SampledFrom([]string{"a", "b", "c", "0", "1", "ä", `q"`})
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		return rapid.Custom(func(t *rapid.T) any {
			kind := rapid.IntRange(0, 5).Draw(t, "kind")
			if depth == 0 && kind < 2 {
				kind += 2
			}
			switch kind {
			case 0:
				return rapid.MapOfN(name, value(depth-1), 0, 3).Draw(t, "object")
			case 1:
				return rapid.SliceOfN(value(depth-1), 0, 3).Draw(t, "array")
			case 2:
				return rapid.String().Draw(t, "string")
			case 3:
				return rapid.Float64().Draw(t, "number")
			case 4:
				return rapid.Bool().Draw(t, "bool")
			}
			return nil
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		v := value(3).Draw(t, "doc")
		doc, err := json.MarshalIndent(v, "", rapid.SampledFrom([]string{"", " "}).Draw(t, "indent"))
		if err != nil {
			t.Skip()
		}
		path := rapid.SliceOfN(name, 1, 3).Draw(t, "path")
		var want any = v
		for _, p := range path {
			switch x := want.(type) {
			case map[string]any:
				want = x[p]
			case []any:
				want = nil
				if i := strings.Index("01", p); len(p) == 1 && i >= 0 && i < len(x) {
					want = x[i]
				}
			default:
				want = nil
			}
		}
		var f fields
		f.add(path, 0)
		out := make([][]byte, 1)
		if err := f.extract(doc, out); err != nil {
			t.Fatal(err)
		}
		if s, ok := want.(string); ok {
			if got, err := Text(out[0]); err != nil || string(got) != s {
				t.Fatalf("%q, %v; want %q", got, err, s)
			}
			return
		}
		var got any
		if out[0] != nil {
			_ = json.Unmarshal(out[0], &got)
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if string(a) != string(b) {
			t.Fatalf("%v of %s: %s, want %s", path, doc, a, b)
		}
	})
}
