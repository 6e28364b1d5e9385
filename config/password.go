package config

import (
	"log/slog"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Password is a Secret that is one as a whole: what is no reference is never printed.
type Password struct{ Secret }

// String returns references as they are, and of anything else that it is there.
func (p Password) String() string {
	if p.IsZero() || p.IsReference() {
		return p.raw
	}
	return "***"
}

// GoString is String, for %#v.
func (p Password) GoString() string { return p.String() }

// MarshalJSON writes the redacted text.
func (p Password) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(p.String())), nil }

// MarshalYAML writes the redacted text.
func (p Password) MarshalYAML() (any, error) { return p.String(), nil }

// LogValue logs the redacted text.
func (p Password) LogValue() slog.Value { return slog.StringValue(p.String()) }

func (p *Password) decodeNode(dec *decoder, n *yaml.Node, path string) {
	if n.Kind != yaml.ScalarNode {
		dec.problem(n, path, "wrong-type", "expected a password, found "+kindOf(n), "write ${env:NAME} or ${file:/path}")
		return
	}
	p.Secret.decodeNode(dec, n, path)
}
