package topicname_test

import (
	"strings"
	"testing"

	"github.com/outrelay/outrelay/internal/topicname"
)

func TestRule_ReplacesAsJavaDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ regex, replacement, value, want string }{
		{"", "", "order", "outbox.event.order"},
		{"", "events.${routedByValue}.v1", "order", "events.order.v1"},
		{"(.*)_(.*)", "$2.$1", "order_eu", "eu.order"},
		{"(.*)", "$1_all", "order", "order_all"}, // in Go's own form that is group "1_all"
		{"(.*)", "$10", "order", "order0"},
		{"(?<a>o.*)", "x.${a}", "order", "x.order"},
		{"order", "orders", "order", "orders"},
		{"order", "orders", "orders", "orders"}, // no match as a whole: itself
		{"ord", "x", "order", "order"},
		{"(.*)", "$0!", "order", "order!"},
	} {
		r, err := topicname.Compile(c.regex, c.replacement)
		if err != nil {
			t.Errorf("%q → %q: %v", c.regex, c.replacement, err)
			continue
		}
		if got := string(r.Replace(nil, []byte(c.value))); got != c.want {
			t.Errorf("%q → %q of %q is %q, want %q", c.regex, c.replacement, c.value, got, c.want)
		}
	}
}

func TestCompile_Refuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ regex, replacement, want string }{
		{"(", "x", "missing closing"},
		{"(?=a)", "x", "look-around"},
		{"(.*)", "$2", "the regex has 1 groups"},
		{"(.*)", "$", "write $1"},
		{"(.*)", "$x", "write $1"},
		{"(.*)", "${routedByValue}", `no group named "routedByValue"`},
		{"(.*)", "", `no group named "routedByValue"`},
		{"(.*)", "${a", "no group named"},
		{"(.*)", `a\$`, "backslash"},
	} {
		if _, err := topicname.Compile(c.regex, c.replacement); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q → %q: %v, want %q", c.regex, c.replacement, err, c.want)
		}
	}
}
