package mysql

import "github.com/outrelay/outrelay"

// Feed decodes recorded events, as if a server of the source's flavor had sent them, and returns what they yield and what ended them, if anything did.
func Feed(s *Source, at Place, events [][]byte) (txns []outrelay.Txn, err error) {
	st := newStream(s, nil, server{flavor: s.o.Flavor, id: at.Server, database: "db"}, at)
	st.charsets = map[uint64]string{45: "utf8mb4", 63: "binary"}
	for _, e := range events {
		if err = st.event(e); err != nil {
			err = st.readError(err)
			break
		}
	}
	if st.zstd != nil {
		st.zstd.Close()
	}
	items, _ := st.q.take(nil)
	for _, it := range items {
		txns = append(txns, it.txn)
	}
	return txns, err
}

// ParseTable is parseTable, for its test.
func ParseTable(s string) (database, name string, err error) {
	t, err := parseTable(s)
	return t.database, t.name, err
}

// ParseStatement is parseStatement, for its test: the verb's number, and the names.
func ParseStatement(sql string) (verb int, database, name string) {
	s := parseStatement(sql)
	return int(s.verb), s.database, s.name
}

// Mentions is mentions, for its test.
func Mentions(sql, word string) bool { return mentions(sql, word) }
