package config

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Secret is a string that may hold references: ${env:NAME} and ${file:/path}. They resolve each time Resolve is called, so that a
// rotated password is picked up on the next connection. It never prints what it resolves to.
type Secret struct{ raw string }

// NewSecret returns a Secret for text as it would stand in the file.
func NewSecret(raw string) Secret { return Secret{raw} }

var reference = regexp.MustCompile(`\$\{([^}]*)\}`)

// secretFileBytesMax bounds a referenced file: a secret is a line, not a disk image.
const secretFileBytesMax = 64 << 10

// Resolve returns the text with its references replaced. Errors name the reference, never a value.
func (s Secret) Resolve() (string, error) {
	var failed error
	out := reference.ReplaceAllStringFunc(s.raw, func(ref string) string {
		kind, name, _ := strings.Cut(ref[2:len(ref)-1], ":")
		var v string
		var err error
		switch kind {
		case "env":
			var ok bool
			if v, ok = os.LookupEnv(name); !ok {
				err = fmt.Errorf("environment variable %s is not set", name)
			}
		case "file":
			v, err = readSecretFile(name)
		default:
			err = fmt.Errorf("unknown reference %s: use ${env:NAME} or ${file:/path}", ref)
		}
		if err != nil && failed == nil {
			failed = err
		}
		return v
	})
	if failed != nil {
		return "", failed
	}
	return out, nil
}

func readSecretFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("file %s: %w", name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return "", fmt.Errorf("file %s: %w", name, err)
	case st.IsDir():
		return "", fmt.Errorf("file %s is a directory", name)
	case st.Size() > secretFileBytesMax:
		return "", fmt.Errorf("file %s has %d bytes, more than the %d a secret may have", name, st.Size(), secretFileBytesMax)
	}
	b := make([]byte, st.Size())
	n, err := f.Read(b)
	if err != nil && n == 0 && st.Size() > 0 {
		return "", fmt.Errorf("file %s: %w", name, err)
	}
	return strings.TrimRight(string(b[:n]), "\r\n"), nil
}

// worldReadable returns the referenced files that every user of the machine can read.
func (s Secret) worldReadable() []string {
	var names []string
	for _, m := range reference.FindAllStringSubmatch(s.raw, -1) {
		if name, ok := strings.CutPrefix(m[1], "file:"); ok {
			if st, err := os.Stat(name); err == nil && st.Mode().Perm()&0o004 != 0 {
				names = append(names, name)
			}
		}
	}
	return names
}

// IsZero reports whether nothing was written.
func (s Secret) IsZero() bool { return s.raw == "" }

// IsReference reports whether the whole text is made of references, so that the file holds no secret itself.
func (s Secret) IsReference() bool {
	return s.raw != "" && strings.TrimSpace(reference.ReplaceAllString(s.raw, "")) == ""
}

// String returns references as they are and connection strings without their password.
func (s Secret) String() string { return Redact(s.raw) }

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalJSON writes the redacted text.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(fmt.Sprintf("%q", s.String())), nil }

// MarshalYAML writes the redacted text.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// LogValue logs the redacted text.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

func (s *Secret) decodeNode(dec *decoder, n *yaml.Node, path string) {
	if n.Kind != yaml.ScalarNode {
		dec.problem(n, path, "wrong-type", "expected a connection string, found "+kindOf(n), "write postgres: ${env:SHOP_DSN}")
		return
	}
	s.raw = n.Value
	for _, m := range reference.FindAllStringSubmatch(n.Value, -1) {
		kind, name, _ := strings.Cut(m[1], ":")
		if (kind != "env" && kind != "file") || name == "" {
			dec.problem(n, path, "bad-reference", "unknown reference "+m[0], "use ${env:NAME} or ${file:/path}")
			return
		}
	}
	if _, err := s.Resolve(); err != nil {
		dec.problem(n, path, "unresolved-reference", err.Error(), "set it for the user that runs outrelay")
		return
	}
	for _, name := range s.worldReadable() {
		dec.warn(n, path, "secret-world-readable", "file "+name+" can be read by every user of this machine", "chmod 600 "+name)
	}
	if !s.IsReference() && hasPassword(n.Value) {
		dec.warn(n, path, "secret-in-file", "the password stands in the file", "put it into an environment variable or a file and write ${env:NAME} or ${file:/path}")
	}
}

var keywordPassword = regexp.MustCompile(`(?i)(\b(?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)`)

func hasPassword(dsn string) bool {
	if strings.Contains(dsn, "://") {
		if u, err := url.Parse(dsn); err == nil {
			p, ok := u.User.Password()
			return (ok && !strings.HasPrefix(p, "$")) || u.Query().Has("password")
		}
	}
	if m := driverUserinfo.FindStringSubmatch(dsn); m != nil {
		return !reference.MatchString(m[3])
	}
	m := keywordPassword.FindStringSubmatch(dsn)
	return m != nil && !strings.HasPrefix(m[2], "${")
}

var userinfo = regexp.MustCompile(`(://[^:/@\s]*):([^@\s]*)@`)

// driverUserinfo is user:password@tcp(host:3306)/database, as go-sql-driver writes it.
var driverUserinfo = regexp.MustCompile(`(^|\s)([^:/@\s]*):([^\s]*)@([a-z0-9]+\()`)

// Redact returns text without the passwords of connection strings in it, whether as URLs, as key=value pairs or in go-sql-driver's form. References stay.
func Redact(s string) string {
	s = driverUserinfo.ReplaceAllStringFunc(s, func(m string) string {
		p := driverUserinfo.FindStringSubmatch(m)
		if reference.MatchString(p[3]) {
			return m
		}
		return p[1] + p[2] + ":***@" + p[4]
	})
	s = userinfo.ReplaceAllStringFunc(s, func(m string) string {
		p := userinfo.FindStringSubmatch(m)
		if reference.MatchString(p[2]) {
			return m
		}
		return p[1] + ":***@"
	})
	return keywordPassword.ReplaceAllStringFunc(s, func(m string) string {
		p := keywordPassword.FindStringSubmatch(m)
		if strings.HasPrefix(p[2], "${") {
			return m
		}
		return p[1] + "***"
	})
}
