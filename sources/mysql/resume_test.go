package mysql_test

import (
	"errors"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/testenv"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/mysql"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

// TestResumeInit takes over what an interrupted start has left where that is certain, and halts where it is not.
func TestResumeInit(t *testing.T) {
	t.Parallel()
	d := newDB(t, testenv.MariaDBServer)
	table := d.CreateOutbox(t, "outbox")
	source := func() *mysql.Source {
		return d.source(t, sourcetest.Options{Name: "shop", Tables: []string{table}}, asItIs)
	}
	s := source()
	intent, err := s.PrepareInit(ctxOf(t))
	must(t, err)
	first, err := s.Init(ctxOf(t))
	must(t, err)
	d.exec(t, "INSERT INTO outbox VALUES ('a', 'k', 1, 'p')")

	again, err := source().ResumeInit(ctxOf(t), intent)
	if err != nil || again != first {
		t.Errorf("our row: %+v %v, want %+v", again, err, first)
	}
	_, err = source().ResumeInit(ctxOf(t), `{"v":1,"nonce":"another"}`)
	wantError(t, err, outrelay.ErrDataHalt, "slot-without-position", "not this log's start", "DELETE FROM outrelay_sources WHERE source = 'shop'")
	for _, bad := range []string{"", "x", "{}", `{"v":2,"nonce":"x"}`, `{"v":1}`} {
		_, err = source().ResumeInit(ctxOf(t), bad)
		wantError(t, err, outrelay.ErrDataHalt, "intent-unreadable")
	}
	d.exec(t, "DELETE FROM outrelay_sources")
	if _, err = source().ResumeInit(ctxOf(t), intent); !errors.Is(err, sources.ErrNotBegun) {
		t.Errorf("no row: %v", err)
	}
	d.exec(t, "DROP TABLE outrelay_sources")
	if _, err = source().ResumeInit(ctxOf(t), intent); !errors.Is(err, sources.ErrNotBegun) {
		t.Errorf("no table: %v", err)
	}
	for _, sql := range s.InitSQL() {
		d.exec(t, sql)
	}
	if _, err = source().Init(ctxOf(t)); err != nil {
		t.Errorf("after InitSQL: %v", err)
	}
}
