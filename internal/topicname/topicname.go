// Package topicname reads the topic names of Debezium's event router: a regular expression and a replacement, as Java understands them. It knows no
// topics and no rows.
package topicname

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The event router's defaults (route.topic.regex, route.topic.replacement).
const (
	DefaultRegex       = "(?<routedByValue>.*)"
	DefaultReplacement = "outbox.event.${routedByValue}"
)

// Rule gives a topic name for a value.
type Rule struct {
	re       *regexp.Regexp
	template string // the replacement in Go's form
}

// Compile checks both; an empty one takes its default. The expression is of RE2: Java's look-around, back-references and possessive
// quantifiers are refused.
func Compile(regex, replacement string) (*Rule, error) {
	if regex == "" {
		regex = DefaultRegex
	}
	if replacement == "" {
		replacement = DefaultReplacement
	}
	re, err := regexp.Compile(`\A(?:` + regex + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w (Java's look-around and back-references are not supported)", regex, err)
	}
	template, err := fromJava(replacement, re)
	if err != nil {
		return nil, fmt.Errorf("replacement %q: %w", replacement, err)
	}
	return &Rule{re, template}, nil
}

// Replace appends the topic for value to dst. A value that the expression does not match as a whole is itself the topic.
func (r *Rule) Replace(dst, value []byte) []byte {
	m := r.re.FindSubmatchIndex(value)
	if m == nil {
		return append(dst, value...)
	}
	return r.re.Expand(dst, []byte(r.template), value, m)
}

// fromJava writes a replacement of java.util.regex.Matcher for Go: there `$1x` is group 1 and an x, here it would be a group "1x", which
// is nothing. A reference to a group that is not there is refused, as in Java.
func fromJava(s string, re *regexp.Regexp) (string, error) {
	var out strings.Builder
	for s != "" {
		switch {
		case strings.HasPrefix(s, "${"):
			name, rest, ok := strings.Cut(s[2:], "}")
			if !ok || name == "" || !slices.Contains(re.SubexpNames(), name) {
				return "", fmt.Errorf("the regex has no group named %q", name)
			}
			out.WriteString("${" + name + "}")
			s = rest
		case s[0] == '$':
			n, digits := 0, 0
			for _, c := range s[1:] {
				// As in Java, a further digit belongs to the number only where there is such a group.
				if c < '0' || c > '9' || digits > 0 && n*10+int(c-'0') > re.NumSubexp() {
					break
				}
				n, digits = n*10+int(c-'0'), digits+1
			}
			if digits == 0 || n > re.NumSubexp() {
				return "", fmt.Errorf("%.3q: the regex has %d groups; write $1 or ${name}", s, re.NumSubexp())
			}
			fmt.Fprintf(&out, "${%d}", n)
			s = s[1+digits:]
		case s[0] == '\\':
			return "", fmt.Errorf("a backslash: no character of a topic name needs one")
		default:
			out.WriteByte(s[0])
			s = s[1:]
		}
	}
	return out.String(), nil
}
