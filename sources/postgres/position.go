package postgres

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// LSN is a byte position in PostgreSQL's write-ahead log.
type LSN = pgoutput.LSN

// tokenVersion is the version of the token that this package writes; docs/format/position.md.
const tokenVersion = 1

// Place is what a position's token says. docs/format/position.md describes the text form.
type Place struct {
	System   string // the server's system identifier
	Timeline int32
	LSN      LSN // every transaction that ended at or before this has been yielded

	// Of the transaction whose commit record stands at Commit, the first Done events have been yielded. 0 when no
	// transaction has been yielded in part.
	Commit LSN
	Done   int

	CommittedAt time.Time // of the last transaction yielded, in part or whole; zero when there was none
	Events      int64     // yielded since the source's first position
}

func (p Place) String() string {
	if p.Commit != 0 {
		return fmt.Sprintf("%s+%d", p.Commit, p.Done)
	}
	return p.LSN.String()
}

// token is the JSON form of Place.
type token struct {
	Version     int       `json:"v"`
	System      string    `json:"system"`
	Timeline    int32     `json:"timeline"`
	LSN         string    `json:"lsn"`
	Txn         *tokenTxn `json:"txn,omitempty"`
	CommittedAt time.Time `json:"committed_at,omitzero"`
	Events      int64     `json:"events"`
}

type tokenTxn struct {
	Commit string `json:"commit"`
	Done   int    `json:"done"`
}

// appendToken appends p's token, and returns where in it the LSN's text begins and ends: callers show that text without another
// allocation. This runs once for every transaction.
func (p Place) appendToken(b []byte) (out []byte, lsnFrom, lsnTo int) {
	b = append(b, `{"v":1,"system":"`...)
	b = append(b, p.System...)
	b = append(b, `","timeline":`...)
	b = strconv.AppendInt(b, int64(p.Timeline), 10)
	b = append(b, `,"lsn":"`...)
	lsnFrom = len(b)
	b = p.LSN.Append(b)
	lsnTo = len(b)
	b = append(b, '"')
	if p.Commit != 0 {
		b = append(b, `,"txn":{"commit":"`...)
		b = p.Commit.Append(b)
		b = append(b, `","done":`...)
		b = strconv.AppendInt(b, int64(p.Done), 10)
		b = append(b, '}')
	}
	if !p.CommittedAt.IsZero() {
		b = append(b, `,"committed_at":"`...)
		b = p.CommittedAt.AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	b = append(b, `,"events":`...)
	b = strconv.AppendInt(b, p.Events, 10)
	return append(b, '}'), lsnFrom, lsnTo
}

// Token returns the text form of p.
func (p Place) Token() string {
	b, _, _ := p.appendToken(make([]byte, 0, 160))
	return string(b)
}

// ParsePlace reads the token of a position that this package minted. Errors are outrelay.ErrDataHalt: a position that cannot be read
// must not be guessed.
func ParsePlace(p outrelay.Position) (Place, error) {
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
	lsn, err := pgoutput.ParseLSN(t.LSN)
	if err != nil || lsn == 0 {
		return Place{}, bad("no LSN")
	}
	if _, err := strconv.ParseUint(t.System, 10, 64); err != nil || t.Timeline < 1 || t.Events < 0 {
		return Place{}, bad("no system identifier, timeline or count")
	}
	pl := Place{System: t.System, Timeline: t.Timeline, LSN: lsn, CommittedAt: t.CommittedAt, Events: t.Events}
	if t.Txn != nil {
		if pl.Commit, err = pgoutput.ParseLSN(t.Txn.Commit); err != nil || pl.Commit < lsn || t.Txn.Done < 1 {
			return Place{}, bad("no place inside a transaction")
		}
		pl.Done = t.Txn.Done
	}
	return pl, nil
}
