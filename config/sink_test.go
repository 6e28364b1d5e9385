package config_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/outrelay/outrelay/config"
)

// intoMySQL is the first deployment with another sink.
func intoMySQL(t *testing.T, into string) string {
	t.Helper()
	const old = `into: {postgres: "host=127.0.0.1 dbname=warehouse user=w"}`
	if !strings.Contains(first, old) {
		t.Fatalf("the base file has no %q", old)
	}
	return strings.Replace(first, old, "into: "+into, 1)
}

func TestInto_MySQL(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		into     string
		family   config.Family
		warnings string
	}{
		{"{mysql: 'mysql://app@127.0.0.1/warehouse'}", config.FamilyMySQL, ""},
		{"{mariadb: 'mariadb://app@db.example:3307/warehouse'}", config.FamilyMariaDB, ""},
		{"{mariadb: 'mysql://app@/warehouse?socket=/run/my.sock', schema: outrelay}", config.FamilyMariaDB, ""},
		{"{mysql: 'mysql://app@db.example/warehouse?ssl-mode=REQUIRED'}", config.FamilyMySQL, "tls-not-verified"},
		{"{mysql: 'mysql://app@db.example/warehouse?ssl-mode=VERIFY_CA'}", config.FamilyMySQL, ""},
		{"{mysql: 'app:CANARY_3@tcp(db.example:3306)/warehouse?tls=true'}", config.FamilyMySQL, "secret-in-file"},
		{"{mysql: 'mysql://app:CANARY_3@127.0.0.1/warehouse'}", config.FamilyMySQL, "secret-in-file"},
	} {
		c, err := load(t, intoMySQL(t, tc.into))
		if err != nil {
			t.Errorf("%s: %v", tc.into, err)
			continue
		}
		d := c.Consumers["order-totals"].Into.Database()
		if _, err := d.ConnString(); err != nil || d.Family != tc.family {
			t.Errorf("%s: family %s, %v", tc.into, d.Family, err)
		}
		var codes []string
		for _, w := range c.Warnings() {
			codes = append(codes, w.Code)
		}
		if got := strings.Join(codes, " "); got != tc.warnings {
			t.Errorf("%s: warnings %q, want %q", tc.into, got, tc.warnings)
		}
		b, err := c.YAML()
		if err != nil || bytes.Contains(b, []byte("CANARY")) {
			t.Errorf("%s: config show: %v\n%s", tc.into, err, b)
		}
		if _, err := load(t, string(b)); err != nil {
			t.Errorf("%s: what config show prints does not load: %v\n%s", tc.into, err, b)
		}
	}
}

func TestInto_refuses(t *testing.T) {
	t.Parallel()
	for into, want := range map[string]string{
		"{}": "consumers.order-totals.into.postgres: there is no database [no-database]",
		"{postgres: 'postgres://h/d', mysql: 'mysql://u@127.0.0.1/d'}":          ":9:11: consumers.order-totals.into: a group has one sink, and here are postgres and mysql [two-databases]",
		"{mysql: 'mysql://u:CANARY@127.0.0.1'}":                                 ":9:19: consumers.order-totals.into.mysql: the connection string mysql://u:***@127.0.0.1 names no database [bad-dsn]; write mysql://user@host:3306/database",
		"{mariadb: 'postgres://u:CANARY@h/d'}":                                  "consumers.order-totals.into.mariadb: connection string postgres://u:***@h/d cannot be used: the connection string cannot be read",
		"{mysql: 'mysql://u:CANARY@db.example/d?ssl-mode=PREFERRED'}":           "falls back to plaintext",
		"{mysql: '${env:OUTRELAY_TEST_UNSET}'}":                                 "environment variable OUTRELAY_TEST_UNSET is not set [unresolved-reference]",
		"{mysql: }":                                                             "consumers.order-totals.into.mysql: the key has no value [empty-value]",
		"{mysql: 'mysql://u@h/d'}\n    offsets: {mysql: 'mysql://u@h/other'}":   "must be in one database [offsets-elsewhere]",
		"{mysql: 'mysql://u@h/d'}\n    offsets: {postgres: 'postgres://u@h/d'}": "must be in one database [offsets-elsewhere]",
	} {
		_, err := load(t, intoMySQL(t, into))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n%v\nwant %q", into, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "CANARY") || strings.Count(err.Error(), "\n") > 0) {
			t.Errorf("%s: more than one problem, or a secret: %v", into, err)
		}
	}
	if _, err := load(t, intoMySQL(t, "{mysql: 'mysql://u@h/d'}\n    offsets: {mariadb: 'mysql://u@h:3306/d'}")); err != nil {
		t.Errorf("offsets in the same database: %v", err)
	}
}
