package config

import (
	"fmt"
	"strings"
)

// Source is a database whose outbox tables are tailed. One of the databases is set.
type Source struct {
	Postgres     Secret   `yaml:"postgres,omitempty" jsonschema_description:"Connection string of a PostgreSQL. TLS is verified (verify-full) unless the host is the loopback or sslmode says otherwise." example:"${env:SHOP_DSN}"`
	MySQL        Secret   `yaml:"mysql,omitempty" jsonschema_description:"Connection string of a MySQL, in the place of postgres: mysql://user@host:3306/database. TLS is verified (VERIFY_IDENTITY) unless the host is the loopback or ssl-mode says otherwise." example:"${env:SHOP_DSN}"`
	MariaDB      Secret   `yaml:"mariadb,omitempty" jsonschema_description:"Connection string of a MariaDB, in the place of postgres: mariadb://user@host:3306/database. TLS as for mysql." example:"${env:SHOP_DSN}"`
	Slot         string   `yaml:"slot,omitempty" jsonschema_description:"PostgreSQL: replication slot. Default: outrelay_<source>." example:"outrelay_shop"`
	Publication  string   `yaml:"publication,omitempty" jsonschema_description:"PostgreSQL: publication. Default: outrelay_<source>." example:"outrelay_shop"`
	ServerID     int      `yaml:"server_id,omitempty" jsonschema_description:"MySQL, MariaDB: the number under which the source is a replica. Default: one made of the source's name and the log's id." example:"70001"`
	Dialect      string   `yaml:"dialect" jsonschema_description:"debezium: the outbox event router's records plus our headers. debezium-strict: without them." example:"debezium" jsonschema:"enum=debezium,enum=debezium-strict"`
	OnUnroutable string   `yaml:"on_unroutable" jsonschema_description:"What to do with a row that cannot become a record: halt, or dead_letter (move it to <source>.dlq and go on)." example:"halt" jsonschema:"enum=halt,enum=dead_letter"`
	AutoCreate   bool     `yaml:"auto_create" jsonschema_description:"Create a topic when a row first needs it." example:"true"`
	RecordBytes  Size     `yaml:"record_bytes_max" jsonschema_description:"Key, value and headers of one record at most; a row beyond it cannot be routed. Topics that are created take it as max.message.bytes." example:"1000000"`
	Compression  string   `yaml:"compression" jsonschema_description:"Compression of the records in the log: none, gzip, snappy, lz4 or zstd." example:"none" jsonschema:"enum=none,enum=gzip,enum=snappy,enum=lz4,enum=zstd"`
	Outbox       []Outbox `yaml:"outbox" jsonschema_description:"The outbox tables."`
	Pos          Pos      `yaml:"-"`
}

// Database returns the source's database; that of the zero Source is a PostgreSQL without a connection string.
func (s *Source) Database() Database {
	if said := s.databases(); len(said) > 0 {
		return said[0]
	}
	return Database{FamilyPostgres, s.Postgres}
}

// databases returns all that are set.
func (s *Source) databases() []Database { return said(s.Postgres, s.MySQL, s.MariaDB) }

// fillSource fills what belongs to the family of the source's database.
func fillSource(name string, s *Source) {
	if s.Database().Family.IsMySQL() {
		return
	}
	id := strings.ReplaceAll(name, "-", "_")
	def(&s.Slot, "outrelay_"+id, s.Slot != "")
	def(&s.Publication, "outrelay_"+id, s.Publication != "")
}

func (k checker) source(name string, s *Source) {
	path := join("sources", name)
	if !nameRE.MatchString(name) {
		k.bad(path, "bad-name", "letters, digits, dots, underscores and hyphens", "%q is no name for a source", clip(name))
	}
	k.database(s.databases(), path, "a source is one database", "keep the one whose outbox is read")
	k.familyOptions(s, path)
	k.oneOf(s.Dialect, path+".dialect", "debezium", "debezium-strict")
	k.oneOf(s.OnUnroutable, path+".on_unroutable", "halt", "dead_letter")
	k.oneOf(s.Compression, path+".compression", "none", "gzip", "snappy", "lz4", "zstd")
	if s.RecordBytes < recordBytesMin || s.RecordBytes > recordBytesMax {
		k.bad(path+".record_bytes_max", "bad-record-bytes", fmt.Sprintf("write %s to %s", recordBytesMin, recordBytesMax), "records of up to %s", s.RecordBytes)
	}
	if len(s.Outbox) == 0 {
		k.bad(path+".outbox", "no-outbox", "add outbox: [{table: "+s.tableExample()+"}]", "the source has no outbox table")
	}
	seen := map[string]bool{}
	for i := range s.Outbox {
		k.outbox(s, &s.Outbox[i], fmt.Sprintf("%s.outbox[%d]", path, i), seen)
	}
}

func (s *Source) tableExample() string {
	if s.Database().Family.IsMySQL() {
		return "shop.outbox"
	}
	return "public.outbox"
}

// familyOptions checks what only one family of databases has.
func (k checker) familyOptions(s *Source, path string) {
	if s.Database().Family.IsMySQL() {
		for key, v := range map[string]string{"slot": s.Slot, "publication": s.Publication} {
			if v != "" {
				k.bad(path+"."+key, "other-database", "remove it: "+string(s.Database().Family)+" has none", "%s is PostgreSQL's", key)
			}
		}
		if s.ServerID < 0 {
			k.bad(path+".server_id", "bad-server-id", "write 1 to 2147483647, another than every replica's, or remove it", "server id %d", s.ServerID)
		}
		return
	}
	if k.c.has(path + ".server_id") {
		k.bad(path+".server_id", "other-database", "remove it: PostgreSQL has none", "server_id is of MySQL and MariaDB")
	}
	if !slotRE.MatchString(s.Slot) {
		k.bad(path+".slot", "bad-slot", "PostgreSQL takes 1 to 63 lower-case letters, digits and underscores", "%q is no slot name", clip(s.Slot))
	}
	if len(s.Publication) > 63 || s.Publication == "" {
		k.bad(path+".publication", "bad-publication", "1 to 63 bytes", "publication name of %d bytes", len(s.Publication))
	}
}

// slots refuses two sources that would share a slot, or a server id, of one server (B10).
func (k checker) slots() {
	names := sorted(k.c.Sources)
	for i, a := range names {
		for _, b := range names[:i] {
			x, y := k.c.Sources[a], k.c.Sources[b]
			switch {
			case x.Database().Family.IsMySQL():
				if x.ServerID != 0 && x.ServerID == y.ServerID && x.Database().sameServer(y.Database()) {
					k.bad(join("sources", a)+".server_id", "server-id-shared", "give each source a number of its own, or none", "server id %d of the same server is used by source %s too", x.ServerID, b)
				}
			case x.Slot == y.Slot && x.Database().sameAs(y.Database()):
				k.bad(join("sources", a)+".slot", "slot-shared", "give each source a slot of its own, or put both tables under one source",
					"slot %s of the same database is used by source %s too", x.Slot, b)
			}
		}
	}
}
