package binlog

import (
	"fmt"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"golang.org/x/text/encoding"
)

// Table is how the rows of one version of a table are turned into text. It is not changed after it was made.
type Table struct {
	columns []Column
}

// Column is one column.
type Column struct {
	Name string
	Type string // as the server names it: "bigint unsigned", "varchar", "json"

	typ      byte // what decides over the form
	meta     int
	bytesMax int // of strings: the column's width
	unsigned bool
	decode   encoding.Encoding // of text that is no UTF-8; nil otherwise
	values   []string          // of an enum or a set
	format   func(dst, b []byte) []byte
}

// Columns returns names and types, in order. The slices are the caller's.
func (t *Table) Columns() (names, types []string) {
	for _, c := range t.columns {
		names, types = append(names, c.Name), append(types, c.Type)
	}
	return names, types
}

// Server is what a server says of itself that a table map does not.
type Server struct {
	Charset func(collation uint64) string     // the character set of a collation, "" when it is unknown
	Native  func(column string) (name string) // the server's own name of a binary column's type: MariaDB's uuid, inet6, inet4; "" for any other
}

// NewTable makes a table of a table map. The map must hold names, signedness and character sets: binlog_row_metadata=FULL, else ErrNoMetadata.
func NewTable(e *replication.TableMapEvent, srv Server) (*Table, error) {
	n := int(e.ColumnCount)
	if n == 0 || n > columnsMax || len(e.ColumnType) != n || len(e.ColumnMeta) != n {
		return nil, fmt.Errorf("table map of %d columns: %w", n, ErrMalformed)
	}
	if len(e.ColumnName) != n {
		return nil, ErrNoMetadata
	}
	m := metadata{unsigned: e.UnsignedMap(), collation: e.CollationMap(), setCollation: e.EnumSetCollationMap(), enums: e.EnumStrValueMap(), sets: e.SetStrValueMap()}
	t := &Table{columns: make([]Column, n)}
	for i := range t.columns {
		c := &t.columns[i]
		c.Name = string(e.ColumnName[i])
		c.typ, c.meta = e.ColumnType[i], int(e.ColumnMeta[i])
		if err := c.set(i, m, srv); err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
	}
	return t, nil
}

// ErrNoMetadata: the binlog was written without the names of columns.
var ErrNoMetadata = fmt.Errorf("the binlog holds no column names")

// metadata is the optional part of a table map, by column.
type metadata struct {
	unsigned                map[int]bool
	collation, setCollation map[int]uint64
	enums, sets             map[int][]string
}

// MariaDB writes these for columns that are compressed; such a column's real type is hidden.
const (
	typeBlobCompressed    = 140
	typeVarcharCompressed = 141
)

// set finds out what column i is.
func (c *Column) set(i int, m metadata, srv Server) error {
	c.unsigned = m.unsigned[i]
	switch c.typ {
	case mysql.MYSQL_TYPE_STRING:
		return c.setString(i, m, srv)
	case mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING:
		c.bytesMax = c.meta
		return c.setCharset("varchar", "varbinary", m.collation[i], srv)
	case mysql.MYSQL_TYPE_BLOB:
		if c.meta < 1 || c.meta > 4 {
			return fmt.Errorf("blob with a length of %d bytes: %w", c.meta, ErrMalformed)
		}
		prefix := [...]string{"tiny", "", "medium", "long"}[c.meta-1]
		return c.setCharset(prefix+"text", prefix+"blob", m.collation[i], srv)
	case typeBlobCompressed, typeVarcharCompressed:
		return fmt.Errorf("COMPRESSED columns are not read: %w", ErrUnsupported)
	}
	name, ok := typeNames[c.typ]
	if !ok {
		return fmt.Errorf("type %d: %w", c.typ, ErrUnsupported)
	}
	c.Type = name
	if c.unsigned && c.typ != mysql.MYSQL_TYPE_YEAR {
		c.Type += " unsigned"
	}
	if c.fraction() > 6 {
		return fmt.Errorf("%s with %d digits of a second: %w", name, c.meta, ErrMalformed)
	}
	return nil
}

// typeNames are the types whose number says all.
var typeNames = map[byte]string{
	mysql.MYSQL_TYPE_TINY: "tinyint", mysql.MYSQL_TYPE_SHORT: "smallint", mysql.MYSQL_TYPE_INT24: "mediumint", mysql.MYSQL_TYPE_LONG: "int", mysql.MYSQL_TYPE_LONGLONG: "bigint",
	mysql.MYSQL_TYPE_NEWDECIMAL: "decimal", mysql.MYSQL_TYPE_FLOAT: "float", mysql.MYSQL_TYPE_DOUBLE: "double", mysql.MYSQL_TYPE_BIT: "bit", mysql.MYSQL_TYPE_YEAR: "year",
	mysql.MYSQL_TYPE_DATE: "date", mysql.MYSQL_TYPE_TIMESTAMP: "timestamp", mysql.MYSQL_TYPE_DATETIME: "datetime", mysql.MYSQL_TYPE_TIME: "time",
	mysql.MYSQL_TYPE_TIMESTAMP2: "timestamp", mysql.MYSQL_TYPE_DATETIME2: "datetime", mysql.MYSQL_TYPE_TIME2: "time",
	mysql.MYSQL_TYPE_JSON: "json", mysql.MYSQL_TYPE_GEOMETRY: "geometry", mysql.MYSQL_TYPE_VECTOR: "vector",
}

// fraction returns how many digits of a second the column has.
func (c *Column) fraction() int {
	switch c.typ {
	case mysql.MYSQL_TYPE_TIMESTAMP2, mysql.MYSQL_TYPE_DATETIME2, mysql.MYSQL_TYPE_TIME2:
		return c.meta
	}
	return 0
}

// setString tells char, binary, enum and set apart: the table map has one number for all, and hides the real one, and two bits of the width, in its metadata.
func (c *Column) setString(i int, m metadata, srv Server) error {
	real, width := byte(c.meta>>8), c.meta&0xff
	if real&0x30 != 0x30 {
		width |= int(real&0x30^0x30) << 4
		real |= 0x30
	}
	switch real {
	case mysql.MYSQL_TYPE_ENUM, mysql.MYSQL_TYPE_SET:
		c.typ, c.meta = real, width
		c.Type, c.values = "enum", m.enums[i]
		if real == mysql.MYSQL_TYPE_SET {
			c.Type, c.values = "set", m.sets[i]
		}
		if len(c.values) == 0 {
			return ErrNoMetadata
		}
		return c.decodeValues(m.setCollation[i], srv)
	case mysql.MYSQL_TYPE_STRING:
	default:
		return fmt.Errorf("string of type %d: %w", real, ErrUnsupported)
	}
	c.bytesMax = width
	if err := c.setCharset("char", "binary", m.collation[i], srv); err != nil || c.Type != "binary" {
		return err
	}
	c.format = pad(width)
	if width == 16 || width == 4 {
		if name := srv.Native(c.Name); name != "" {
			format, ok := nativeFormats[name]
			if !ok {
				return fmt.Errorf("type %s: %w", name, ErrUnsupported)
			}
			c.Type, c.format = name, format
		}
	}
	return nil
}

// setCharset names a string column and finds how its text becomes UTF-8.
func (c *Column) setCharset(text, bytes string, collation uint64, srv Server) error {
	name := srv.Charset(collation)
	if name == "binary" {
		c.Type = bytes
		return nil
	}
	c.Type = text
	var err error
	c.decode, err = charsetDecoder(name, collation)
	return err
}

// decodeValues turns the names of an enum or a set into UTF-8.
func (c *Column) decodeValues(collation uint64, srv Server) error {
	enc, err := charsetDecoder(srv.Charset(collation), collation)
	if err != nil || enc == nil {
		return err
	}
	values := make([]string, len(c.values))
	for i, v := range c.values {
		if values[i], err = enc.NewDecoder().String(v); err != nil {
			return fmt.Errorf("value %d: %w: %w", i, ErrUnsupported, err)
		}
	}
	c.values = values
	return nil
}
