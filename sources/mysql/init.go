package mysql

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
)

// markTable is the table that says where each source began, in the database of the connection string. A server keeps nothing for its replicas, so it is
// what tells a source that has begun from one that has not (R7).
const markTable = "outrelay_sources"

// intentVersion is the version of the intent that this package writes; docs/format/position.md.
const intentVersion = 1

// intent says what Init is about to create: a row of markTable with that secret.
type intent struct {
	Version  int    `json:"v"`
	Flavor   Flavor `json:"flavor"`
	Server   string `json:"server"`
	Database string `json:"database"`
	Nonce    string `json:"nonce"`
}

// InitSQL returns the statements that Init would run, for an administrator to run before. The row is then made by Init.
func (s *Source) InitSQL() []string { return []string{markTableSQL} }

// The name of a source compares as bytes; a position is text of JSON, at most 16 MiB.
const markTableSQL = "CREATE TABLE IF NOT EXISTS " + markTable + " (source varbinary(255) NOT NULL PRIMARY KEY, nonce varchar(64) CHARACTER SET ascii NOT NULL, " +
	"position mediumtext CHARACTER SET utf8mb4 NOT NULL, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP) ENGINE = InnoDB"

// mark is a row of markTable.
type mark struct{ nonce, position string }

// readMark returns the row of this source; nil when there is none, or no table yet.
func (s *Source) readMark(ctx context.Context, c *conn) (*mark, error) {
	rows, err := c.rows(ctx, "SELECT nonce, position FROM "+markTable+" WHERE source = ?", string(s.o.Name))
	switch {
	case isServerError(err, errNoSuchTable):
		return nil, nil
	case err != nil:
		return nil, s.classify("table "+markTable, err)
	case len(rows) == 0:
		return nil, nil
	}
	return &mark{rows[0]["nonce"], rows[0]["position"]}, nil
}

// begin connects and refuses a server that cannot be a source, tables that are none, and a source that has begun.
func (s *Source) begin(ctx context.Context) (*conn, server, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, server{}, err
	}
	srv, err := s.inspect(ctx, c)
	if err == nil {
		err = s.checkTables(ctx, c, srv)
	}
	var m *mark
	if err == nil {
		m, err = s.readMark(ctx, c)
	}
	if err == nil && m != nil {
		err = s.markWithoutPosition(m, "the log's data was deleted, or another outrelay has a source of that name here")
	}
	if err != nil {
		c.hangUp()
		return nil, srv, err
	}
	return c, srv, nil
}

func (s *Source) markWithoutPosition(m *mark, why string) error {
	return s.fail(outrelay.ErrDataHalt, "slot-without-position",
		fmt.Sprintf("table %s says that this source began, at %s, but the log holds no position of it: %s", markTable, m.position, why),
		fmt.Sprintf("if nothing of it is needed, run DELETE FROM %s WHERE source = '%s' and start again; `outrelay source repair %[2]s --from-table` also publishes what the outbox still holds; "+
			"or give the source another name", markTable, s.o.Name), nil)
}

// PrepareInit keeps sources.Source. It creates the table of marks where it is missing.
func (s *Source) PrepareInit(ctx context.Context) (string, error) {
	c, srv, err := s.begin(ctx)
	if err != nil {
		return "", err
	}
	defer c.hangUp()
	if err := s.ensureMarks(ctx, c); err != nil {
		return "", err
	}
	b, err := json.Marshal(intent{Version: intentVersion, Flavor: srv.flavor, Server: srv.id, Database: srv.database, Nonce: s.nonce()})
	return string(b), err
}

// nonce returns what marks the rows of this Source.
func (s *Source) nonce() string {
	s.nonceOnce.Do(func() { s.nonceText = rand.Text() })
	return s.nonceText
}

func (s *Source) ensureMarks(ctx context.Context, c *conn) error {
	rows, err := c.rows(ctx, "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?", markTable)
	if err != nil {
		return s.classify("information_schema.TABLES", err)
	}
	if len(rows) > 0 {
		return nil
	}
	_, err = c.ExecContext(ctx, markTableSQL)
	return s.classifyWrite("create table "+markTable, err)
}

// classifyWrite is classify for statements that a read-only server refuses.
func (s *Source) classifyWrite(doing string, err error) error {
	if isServerError(err, errReadOnly, errReadOnlyTxn) {
		_, text, _ := serverError(err)
		return s.fail(outrelay.ErrEnvironment, "server-read-only", doing+": the server says: "+text,
			"a source begins on the primary: connect there, or run `outrelay init` once with the primary's address; the row reaches its replicas", nil)
	}
	return s.classify(doing, err)
}

// Init keeps sources.Source. The place is read before the row is written, so that nothing that commits between the two is left out.
func (s *Source) Init(ctx context.Context) (outrelay.Position, error) {
	c, srv, err := s.begin(ctx)
	if err != nil {
		return outrelay.Position{}, err
	}
	defer c.hangUp()
	if err := s.ensureMarks(ctx, c); err != nil {
		return outrelay.Position{}, err
	}
	end, err := s.readEnd(ctx, c, srv)
	if err != nil {
		return outrelay.Position{}, err
	}
	at := Place{Server: srv.id, Executed: end.executed, File: end.file, Pos: end.pos}
	token := at.Token()
	_, err = c.ExecContext(ctx, "INSERT INTO "+markTable+" (source, nonce, position) VALUES (?, ?, ?)", string(s.o.Name), s.nonce(), token)
	if isServerError(err, errDuplicateKey) {
		return outrelay.Position{}, s.markWithoutPosition(&mark{position: "an unknown place"}, "somebody else has just begun it")
	}
	if err != nil {
		return outrelay.Position{}, s.classifyWrite("table "+markTable, err)
	}
	s.log.Info("source begun", "table", markTable, "position", at.String(), "file", at.File, "pos", at.Pos)
	return outrelay.Position{Source: s.o.Name, Token: token}, nil
}

// ResumeInit keeps sources.Source. The row is known again by the intent's secret. That somebody has read the binlog since changes nothing in it.
func (s *Source) ResumeInit(ctx context.Context, text string) (outrelay.Position, error) {
	var in intent
	if err := json.Unmarshal([]byte(text), &in); err != nil || in.Version < 1 || in.Version > intentVersion || in.Nonce == "" {
		return outrelay.Position{}, s.fail(outrelay.ErrDataHalt, "intent-unreadable", fmt.Sprintf("intent %.200q", text), "run the version of outrelay that wrote it, or a newer one", nil)
	}
	c, err := s.connect(ctx)
	if err != nil {
		return outrelay.Position{}, err
	}
	defer c.hangUp()
	srv, err := s.inspect(ctx, c)
	if err != nil {
		return outrelay.Position{}, err
	}
	m, err := s.readMark(ctx, c)
	if err != nil {
		return outrelay.Position{}, err
	}
	if m == nil {
		return outrelay.Position{}, fmt.Errorf("%s: table %s of database %s has no row of it: %w", s.place(), markTable, srv.database, sources.ErrNotBegun)
	}
	if m.nonce != in.Nonce {
		return outrelay.Position{}, s.markWithoutPosition(m, "it was not this log's start that wrote so")
	}
	pos := outrelay.Position{Source: s.o.Name, Token: m.position}
	at, err := ParsePlace(s.o.Flavor, pos)
	if err != nil {
		return outrelay.Position{}, err
	}
	if _, err := s.checkPosition(ctx, c, srv, &at); err != nil {
		return outrelay.Position{}, err
	}
	s.log.Info("interrupted start taken over", "position", at.String())
	return pos, nil
}
