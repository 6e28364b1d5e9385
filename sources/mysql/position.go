package mysql

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/mysql/gtid"
)

// tokenVersion is the version of the token that this package writes; docs/format/position.md.
const tokenVersion = 1

// TxnID is the id of a transaction, in the form of its family.
type TxnID struct {
	My    gtid.ID
	Maria gtid.Maria
}

// IsZero reports whether id names nothing.
func (id TxnID) IsZero() bool { return id.My.IsZero() && id.Maria.IsZero() }

// Append appends the text form.
func (id TxnID) Append(b []byte) []byte {
	if id.Maria.IsZero() {
		return id.My.Append(b)
	}
	return id.Maria.Append(b)
}

func (id TxnID) String() string {
	if id.IsZero() {
		return ""
	}
	return string(id.Append(nil))
}

func parseTxnID(f Flavor, s string) (id TxnID, err error) {
	if f == MariaDB {
		id.Maria, err = gtid.ParseMaria(s)
	} else {
		id.My, err = gtid.ParseID(s)
	}
	return id, err
}

// History is what a position has behind it: MySQL's set of transactions, or MariaDB's last one of each domain.
type History struct {
	flavor Flavor
	set    *gtid.Set
	pos    gtid.Position
}

// ParseHistory reads the text form, as @@gtid_executed and @@gtid_binlog_pos have it.
func ParseHistory(f Flavor, s string) (h History, err error) {
	h.flavor = f
	if f == MariaDB {
		h.pos, err = gtid.ParsePosition(s)
	} else {
		h.set, err = gtid.ParseSet(s)
	}
	return h, err
}

func (h *History) add(id TxnID) {
	if h.flavor == MariaDB {
		h.pos.Advance(id.Maria)
	} else {
		h.set.Add(id.My)
	}
}

// holds reports whether id is behind the position.
func (h *History) holds(id TxnID) bool {
	if h.flavor == MariaDB {
		return h.pos.Of(id.Maria.Domain).Seq >= id.Maria.Seq
	}
	return h.set.Contains(id.My)
}

// Append appends the text form.
func (h *History) Append(b []byte) []byte {
	if h.flavor == MariaDB {
		return h.pos.Append(b)
	}
	return h.set.Append(b)
}

func (h *History) String() string { return string(h.Append(nil)) }

// Stamp is a transaction and the time that its server says it committed at: together they tell it from another one that got the same id after
// the server's history was reset.
type Stamp struct {
	ID TxnID
	At int64 // microseconds since 1970; MariaDB knows seconds
}

// Place is what a position's token says. docs/format/position.md describes the text form.
type Place struct {
	Server   string  // server_uuid; of a MariaDB server_id
	Executed History // every transaction in it has been yielded
	Last     Stamp   // the last of them that came through the stream; zero before the first
	File     string  // the binlog, and the place in it, where that one ends
	Pos      uint64

	// Of the transaction Txn, the first Done events have been yielded. 0 when no transaction has been yielded in part.
	Txn  Stamp
	Done int

	CommittedAt time.Time // of the last transaction yielded, in part or whole; zero when there was none
	Events      int64     // yielded since the source's first position
}

// String returns the place as people write it: the last transaction's id, or what was executed before the first.
func (p *Place) String() string {
	switch {
	case p.Done > 0:
		return p.Txn.ID.String() + "+" + strconv.Itoa(p.Done)
	case !p.Last.ID.IsZero():
		return p.Last.ID.String()
	}
	if s := p.Executed.String(); s != "" {
		return s
	}
	return "the beginning"
}

// token is the JSON form of Place.
type token struct {
	Version     int       `json:"v"`
	Flavor      Flavor    `json:"flavor"`
	Server      string    `json:"server"`
	Executed    string    `json:"gtid"`
	Last        *stamp    `json:"last,omitempty"`
	File        string    `json:"file"`
	Pos         uint64    `json:"pos"`
	Txn         *stamp    `json:"txn,omitempty"`
	CommittedAt time.Time `json:"committed_at,omitzero"`
	Events      int64     `json:"events"`
}

type stamp struct {
	ID   string `json:"gtid"`
	At   int64  `json:"at"`
	Done int    `json:"done,omitempty"`
}

// appendToken appends p's token. This runs once for every transaction. Nothing in it needs an escape: Server and File are checked where they come from.
func (p *Place) appendToken(b []byte) []byte {
	b = append(b, `{"v":1,"flavor":"`...)
	b = append(b, p.Executed.flavor...)
	b = append(b, `","server":"`...)
	b = append(b, p.Server...)
	b = append(b, `","gtid":"`...)
	b = p.Executed.Append(b)
	b = append(b, '"')
	if !p.Last.ID.IsZero() {
		b = append(p.Last.append(append(b, `,"last":{"gtid":"`...)), '}')
	}
	b = append(b, `,"file":"`...)
	b = append(b, p.File...)
	b = append(b, `","pos":`...)
	b = strconv.AppendUint(b, p.Pos, 10)
	if p.Done > 0 {
		b = append(p.Txn.append(append(b, `,"txn":{"gtid":"`...)), `,"done":`...)
		b = append(strconv.AppendInt(b, int64(p.Done), 10), '}')
	}
	if !p.CommittedAt.IsZero() {
		b = append(b, `,"committed_at":"`...)
		b = append(p.CommittedAt.AppendFormat(b, time.RFC3339Nano), '"')
	}
	b = append(b, `,"events":`...)
	return append(strconv.AppendInt(b, p.Events, 10), '}')
}

func (s Stamp) append(b []byte) []byte {
	b = append(s.ID.Append(b), `","at":`...)
	return strconv.AppendInt(b, s.At, 10)
}

// Token returns the text form of p.
func (p *Place) Token() string { return string(p.appendToken(make([]byte, 0, 256))) }

// ParsePlace reads the token of a position that this package minted for a server of that family. Errors are outrelay.ErrDataHalt: a position that cannot be
// read must not be guessed.
func ParsePlace(f Flavor, p outrelay.Position) (Place, error) {
	bad := func(cause string) error {
		return &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "position-unreadable", Place: "source " + string(p.Source),
			Cause: fmt.Sprintf("position %.200q: %s", p.Token, cause), Fix: "run the version of outrelay that wrote it, or a newer one"}
	}
	var t token
	if err := json.Unmarshal([]byte(p.Token), &t); err != nil {
		return Place{}, bad("no position token")
	}
	if t.Version < 1 || t.Version > tokenVersion {
		return Place{}, bad(fmt.Sprintf("version %d; this outrelay knows 1 to %d", t.Version, tokenVersion))
	}
	if t.Flavor != f {
		return Place{}, &outrelay.Error{Class: outrelay.ErrDataHalt, Code: "position-foreign", Place: "source " + string(p.Source),
			Cause: fmt.Sprintf("the position in the log is one of %q, the source is of %s", t.Flavor, f), Fix: "write `" + string(t.Flavor) + ":` in the file, or give the source another name"}
	}
	pl := Place{Server: t.Server, File: t.File, Pos: t.Pos, CommittedAt: t.CommittedAt, Events: t.Events}
	var err error
	if pl.Executed, err = ParseHistory(f, t.Executed); err != nil {
		return Place{}, bad(err.Error())
	}
	if !plainName(t.Server) || !plainName(t.File) || t.Events < 0 {
		return Place{}, bad("no server, file or count")
	}
	if t.Last != nil {
		if pl.Last.ID, err = parseTxnID(f, t.Last.ID); err != nil {
			return Place{}, bad(err.Error())
		}
		pl.Last.At = t.Last.At
	}
	if t.Txn != nil {
		if pl.Txn.ID, err = parseTxnID(f, t.Txn.ID); err != nil || t.Txn.Done < 1 {
			return Place{}, bad("no place inside a transaction")
		}
		pl.Txn.At, pl.Done = t.Txn.At, t.Txn.Done
	}
	return pl, nil
}

// plainName reports whether s is something that stands in JSON as it is, and is no path: what a server calls itself or a file.
func plainName(s string) bool {
	if s == "" || len(s) > 512 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == '"' || r == '\\' || r == '/' || r == 0xfffd })
}

// after reports whether p lies behind q on one server.
func (p *Place) after(q *Place) bool {
	if a, b := fileNumber(p.File), fileNumber(q.File); a != b {
		return a > b
	}
	return p.Pos > q.Pos || p.Pos == q.Pos && p.Done > q.Done
}

// fileNumber is what a binlog's name ends with.
func fileNumber(file string) uint64 {
	n, _ := strconv.ParseUint(file[strings.LastIndexByte(file, '.')+1:], 10, 64)
	return n
}
