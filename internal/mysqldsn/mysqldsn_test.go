package mysqldsn_test

import (
	"strings"
	"testing"

	"github.com/outrelay/outrelay/internal/mysqldsn"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		dsn, user, password, network, addr, db string
		encrypted, verified, fallback          bool
	}{
		{"mysql://app:s%40cret@db.example:3307/shop", "app", "s@cret", "tcp", "db.example:3307", "shop", true, true, false},
		{"mariadb://app@db.example/shop?ssl-mode=required", "app", "", "tcp", "db.example:3306", "shop", true, false, false},
		{"mysql://app@db.example/shop?ssl-mode=DISABLED", "app", "", "tcp", "db.example:3306", "shop", false, false, false},
		{"mysql://app@db.example/shop?ssl-mode=VERIFY_CA", "app", "", "tcp", "db.example:3306", "shop", true, false, false},
		{"mysql://root@127.0.0.1:3306/shop", "root", "", "tcp", "127.0.0.1:3306", "shop", true, false, true},
		{"mysql://root@[::1]:3306/", "root", "", "tcp", "[::1]:3306", "", true, false, true},
		{"mysql://root@/shop?socket=/run/my.sock", "root", "", "unix", "/run/my.sock", "shop", true, false, true},
		{"app:pw@tcp(db.example:3306)/shop", "app", "pw", "tcp", "db.example:3306", "shop", true, true, false},
	} {
		cfg, err := mysqldsn.Parse(tt.dsn)
		if err != nil {
			t.Errorf("%s: %v", tt.dsn, err)
			continue
		}
		if cfg.User != tt.user || cfg.Passwd != tt.password || cfg.Net != tt.network || cfg.Addr != tt.addr || cfg.DBName != tt.db {
			t.Errorf("%s: %q %q %q %q %q", tt.dsn, cfg.User, cfg.Passwd, cfg.Net, cfg.Addr, cfg.DBName)
		}
		verified := cfg.TLS != nil && !cfg.TLS.InsecureSkipVerify
		if (cfg.TLS != nil) != tt.encrypted || verified != tt.verified || cfg.AllowFallbackToPlaintext != tt.fallback {
			t.Errorf("%s: encrypted %v, verified %v, fallback %v", tt.dsn, cfg.TLS != nil, verified, cfg.AllowFallbackToPlaintext)
		}
	}
}

func TestParse_refuses(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres://app:hidden@h/db":                     "cannot be read",
		"mysql://app:hid%zzden@h/db":                     "cannot be read",
		"hidden":                                         "cannot be read",
		"mysql://app:hidden@/db":                         "no host",
		"mysql://app:hidden@h/db/more":                   "cannot be read",
		"mysql://app:hidden@h/db?ssl-mode=PREFERRED":     "falls back to plaintext",
		"app:hidden@tcp(h:3306)/db?tls=preferred":        "falls back to plaintext",
		"mysql://app:hidden@h/db?ssl-mode=maybe":         "ssl-mode=MAYBE",
		"mysql://app:hidden@h/db?sslmode=require":        `option "sslmode"`,
		"mysql://app:hidden@h/db?ssl-ca=/nowhere/ca.pem": "ssl-ca",
		"mysql://app:hidden@h/db?ssl-cert=/c.pem":        "go together",
	} {
		_, err := mysqldsn.Parse(dsn)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", dsn, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: the error holds the password: %v", dsn, err)
		}
	}
}
