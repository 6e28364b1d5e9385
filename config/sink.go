package config

import (
	"fmt"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/outrelay/outrelay/internal/mysqldsn"
)

// Into is a sink. One of the databases is set.
type Into struct {
	Postgres Secret `yaml:"postgres,omitempty" jsonschema_description:"Connection string of a PostgreSQL. TLS is verified (verify-full) unless the host is the loopback or sslmode says otherwise." example:"${env:WAREHOUSE_DSN}"`
	MySQL    Secret `yaml:"mysql,omitempty" jsonschema_description:"Connection string of a MySQL, in the place of postgres: mysql://user@host:3306/database. TLS is verified (VERIFY_IDENTITY) unless the host is the loopback or ssl-mode says otherwise." example:"${env:WAREHOUSE_DSN}"`
	MariaDB  Secret `yaml:"mariadb,omitempty" jsonschema_description:"Connection string of a MariaDB, in the place of postgres: mariadb://user@host:3306/database. TLS as for mysql." example:"${env:WAREHOUSE_DSN}"`
	Schema   string `yaml:"schema,omitempty" jsonschema_description:"Schema (MySQL, MariaDB: database) of outrelay_offsets and outrelay_meta. Default: the first of the search path, the database of the connection string." example:"outrelay"`
}

// Family is the family of a database, by its key in the file.
type Family string

// The families.
const (
	FamilyPostgres Family = "postgres"
	FamilyMySQL    Family = "mysql"
	FamilyMariaDB  Family = "mariadb"
)

// IsMySQL reports whether databases of the family speak MySQL's protocol and dialect.
func (f Family) IsMySQL() bool { return f == FamilyMySQL || f == FamilyMariaDB }

// Database is a database as the file names it.
type Database struct {
	Family Family
	DSN    Secret
}

// Database returns the sink's database; that of the zero Into is a PostgreSQL without a connection string.
func (i *Into) Database() Database {
	if said := i.databases(); len(said) > 0 {
		return said[0]
	}
	return Database{FamilyPostgres, i.Postgres}
}

// databases returns all that are set.
func (i *Into) databases() []Database { return said(i.Postgres, i.MySQL, i.MariaDB) }

// said returns the databases that have a connection string.
func said(postgres, mysql, mariadb Secret) []Database {
	var said []Database
	for _, d := range []Database{{FamilyPostgres, postgres}, {FamilyMySQL, mysql}, {FamilyMariaDB, mariadb}} {
		if !d.DSN.IsZero() {
			said = append(said, d)
		}
	}
	return said
}

// ConnString returns the connection string with its references resolved now, TLS as it is by default. Call it for each
// connection, so that a rotated password is used. Errors never hold a secret.
func (d Database) ConnString() (string, error) {
	if d.Family.IsMySQL() {
		return MySQLConnString(d.DSN)
	}
	return PostgresConnString(d.DSN)
}

// MySQLConnString is PostgresConnString for MySQL and MariaDB: internal/mysqldsn, which reads it again, says how TLS is by default.
func MySQLConnString(s Secret) (string, error) {
	dsn, err := s.Resolve()
	if err != nil {
		return "", err
	}
	if _, err := mysqldsn.Parse(dsn); err != nil {
		return "", fmt.Errorf("connection string %s cannot be used: %w", s, err)
	}
	return dsn, nil
}

// mysqlConfig returns what s says, nil where it says nothing that can be read.
func mysqlConfig(s Secret) *mysql.Config {
	dsn, err := s.Resolve()
	if err != nil {
		return nil
	}
	cfg, err := mysqldsn.Parse(dsn)
	if err != nil {
		return nil
	}
	return cfg
}

// sameAs reports whether two connection strings name the same database of the same server.
func (d Database) sameAs(o Database) bool {
	if d.Family.IsMySQL() != o.Family.IsMySQL() {
		return false
	}
	if !d.Family.IsMySQL() {
		return sameDatabase(d.DSN, o.DSN)
	}
	a, b := mysqlConfig(d.DSN), mysqlConfig(o.DSN)
	return a != nil && b != nil && a.Net == b.Net && a.Addr == b.Addr && a.DBName == b.DBName
}

// sameServer reports whether two connection strings of MySQL or MariaDB name the same server.
func (d Database) sameServer(o Database) bool {
	if !d.Family.IsMySQL() || !o.Family.IsMySQL() {
		return false
	}
	a, b := mysqlConfig(d.DSN), mysqlConfig(o.DSN)
	return a != nil && b != nil && a.Net == b.Net && a.Addr == b.Addr
}

// into checks a sink.
func (k checker) into(i *Into, path string) {
	k.database(i.databases(), path, "a group has one sink", "keep the one that the results go to")
}

// database checks that one database is said, and its connection string.
func (k checker) database(said []Database, path, rule, fix string) {
	switch {
	case len(said) > 1:
		var keys []string
		for _, d := range said {
			keys = append(keys, string(d.Family))
		}
		k.bad(path, "two-databases", fix, "%s, and here are %s", rule, strings.Join(keys, " and "))
	case len(said) == 1 && said[0].Family.IsMySQL():
		k.mysql(said[0].DSN, path+"."+string(said[0].Family), true)
	case len(said) == 1:
		k.postgres(said[0].DSN, path+".postgres")
	case k.c.has(path + ".mysql"), k.c.has(path + ".mariadb"): // the decoder has said what is wrong with it
	default:
		k.postgres(Secret{}, path+".postgres")
	}
}

// mysql checks a connection string of MySQL or MariaDB; named: it must name a database.
func (k checker) mysql(s Secret, path string, named bool) {
	const form = "write mysql://user@host:3306/database, with ssl-mode=VERIFY_IDENTITY, REQUIRED or DISABLED where it must be said"
	if _, unresolved := s.Resolve(); unresolved != nil {
		return // reported by the decoder
	}
	if _, err := MySQLConnString(s); err != nil {
		k.bad(path, "bad-dsn", form, "%v", err)
		return
	}
	cfg := mysqlConfig(s)
	if named && cfg.DBName == "" {
		k.bad(path, "bad-dsn", form, "the connection string %s names no database", s)
	}
	verified := cfg.TLS != nil && (!cfg.TLS.InsecureSkipVerify || cfg.TLS.VerifyConnection != nil)
	if !verified && !mysqldsn.IsLocal(cfg) {
		k.warn(k.at(path), path, "tls-not-verified", "the server is not verified", "use ssl-mode=VERIFY_IDENTITY")
	}
}
