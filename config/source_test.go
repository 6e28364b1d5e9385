package config_test

import (
	"strings"
	"testing"

	"github.com/outrelay/outrelay/config"
)

// sourceFile is a file with the source's lines in the place of PostgreSQL's.
func sourceFile(source string) string {
	return "sources:\n  shop:\n    " + strings.ReplaceAll(source, "\n", "\n    ") + "\n"
}

func TestSource_MySQL(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		source string
		family config.Family
		id     int
	}{
		{"mysql: 'mysql://relay@127.0.0.1/shop'\noutbox: [{table: shop.outbox}]", config.FamilyMySQL, 0},
		{"mariadb: 'mariadb://relay@db.example:3307/shop?ssl-mode=VERIFY_CA'\nserver_id: 70001\noutbox: [{table: shop.outbox}, {table: Shop.Outbox}]", config.FamilyMariaDB, 70001},
	} {
		c, err := load(t, sourceFile(tc.source))
		if err != nil || len(c.Warnings()) > 0 {
			t.Errorf("%s: %v %v", tc.source, err, c.Warnings())
			continue
		}
		s := c.Sources["shop"]
		if d := s.Database(); d.Family != tc.family || s.ServerID != tc.id || s.Slot != "" || s.Publication != "" || s.Outbox[0].Columns.Payload != "payload" {
			t.Errorf("%s: %+v", tc.source, s)
		}
		b, err := c.YAML()
		if err != nil || strings.Contains(string(b), "slot:") {
			t.Errorf("%s: config show: %v\n%s", tc.source, err, b)
		}
		if _, err := load(t, string(b)); err != nil {
			t.Errorf("%s: what config show prints does not load: %v\n%s", tc.source, err, b)
		}
	}
}

func TestSource_refuses(t *testing.T) {
	t.Parallel()
	const outbox = "\noutbox: [{table: shop.outbox}]"
	for source, want := range map[string]string{
		"dialect: debezium" + outbox: "sources.shop.postgres: there is no database [no-database]",
		"mysql: 'mysql://u@127.0.0.1/d'\nmariadb: 'mysql://u@127.0.0.1/d'" + outbox: ":3:5: sources.shop: a source is one database, and here are mysql and mariadb [two-databases]; keep the one whose outbox is read",
		"mysql: 'mysql://u:CANARY@127.0.0.1'" + outbox:                              ":3:12: sources.shop.mysql: the connection string mysql://u:***@127.0.0.1 names no database [bad-dsn]",
		"mysql: 'mysql://u@127.0.0.1/d'\nslot: s" + outbox:                          ":4:11: sources.shop.slot: slot is PostgreSQL's [other-database]; remove it: mysql has none",
		"mysql: 'mysql://u@127.0.0.1/d'\npublication: p" + outbox:                   "publication is PostgreSQL's [other-database]",
		"mysql: 'mysql://u@127.0.0.1/d'\nserver_id: -1" + outbox:                    "server id -1 [bad-server-id]",
		"mysql: 'mysql://u@127.0.0.1/d'\nserver_id: 4294967296" + outbox:            "expected a whole number",
		"postgres: 'postgres://u@127.0.0.1/d'\nserver_id: 5" + outbox:               "server_id is of MySQL and MariaDB [other-database]",
		"mysql: 'mysql://u@127.0.0.1/d'\noutbox: [{table: outbox}]":                 `"outbox" is no table with its database [bad-table]; write database.table, as shop.outbox`,
		"mysql: 'mysql://u@127.0.0.1/d'":                                            "add outbox: [{table: shop.outbox}]",
		"mysql: '${env:OUTRELAY_TEST_UNSET}'" + outbox:                              "environment variable OUTRELAY_TEST_UNSET is not set",
	} {
		_, err := load(t, sourceFile(source))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "CANARY") || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%s:\n%v\nwant %q alone", source, err, want)
		}
	}
	two := sourceFile("mysql: 'mysql://u@127.0.0.1/d'\nserver_id: 5"+outbox) + "  other:\n    mariadb: 'mariadb://v@127.0.0.1:3306/e'\n    server_id: 5\n    outbox: [{table: e.outbox}]\n"
	if _, err := load(t, two); err == nil || !strings.Contains(err.Error(), "server id 5 of the same server is used by source other too [server-id-shared]") {
		t.Errorf("a server id twice: %v", err)
	}
}
