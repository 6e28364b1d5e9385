package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
	"github.com/outrelay/outrelay/sources/postgres"
	"github.com/outrelay/outrelay/sources/sourcetest"
)

// TestResumeInit takes over what an interrupted start has left where that is certain, and halts where it is not.
func TestResumeInit(t *testing.T) {
	t.Parallel()
	type world struct {
		*database
		s      *postgres.Source
		intent string
		first  outrelay.Position
	}
	source := func(t *testing.T, d *database, change func(*postgres.Options)) *postgres.Source {
		return d.source(t, sourcetest.Options{Name: "shop", Tables: []string{"outbox"}}, change)
	}
	for _, tt := range []struct {
		name  string
		init  bool // the slot was created before the crash
		since func(t *testing.T, w *world)
		want  func(t *testing.T, w *world, pos outrelay.Position, err error)
	}{
		{"our slot, with rows behind it", true, func(t *testing.T, w *world) {
			w.exec(t, "INSERT INTO outbox VALUES ('a')")
		}, func(t *testing.T, w *world, pos outrelay.Position, err error) {
			must(t, err)
			if pos != w.first {
				t.Errorf("resumed at %s, began at %s", pos.Token, w.first.Token)
			}
		}},
		{"no slot", false, func(*testing.T, *world) {}, notBegun[*world]},
		{"a slot that somebody has dropped", true, func(t *testing.T, w *world) {
			w.exec(t, "SELECT pg_drop_replication_slot('"+w.slot()+"')")
		}, notBegun[*world]},
		{"the configuration names another slot now", true, func(t *testing.T, w *world) {
			w.s = source(t, w.database, func(o *postgres.Options) { o.Slot += "2" })
		}, notBegun[*world]},
		{"the configuration names another database now", true, func(t *testing.T, w *world) {
			other := newDB(t)
			other.CreateOutbox(t, "outbox")
			w.s = source(t, w.database, func(o *postgres.Options) {
				o.ConnString = func(context.Context) (string, error) { return other.pg.DSN(other.name), nil }
			})
		}, notBegun[*world]},
		{"somebody has read from the slot", true, func(t *testing.T, w *world) {
			st, err := w.s.Open(ctxOf(t), w.first)
			must(t, err)
			w.publish(t, st, "a")
			must(t, st.Close())
			w.waitValue(t, "SELECT total_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = '"+w.slot()+"'", "t")
		}, func(t *testing.T, _ *world, _ outrelay.Position, err error) {
			wantError(t, err, outrelay.ErrDataHalt, "slot-without-position", "has read", "pg_drop_replication_slot")
		}},
		{"the slot is older than the intent", true, func(t *testing.T, w *world) {
			w.exec(t, "INSERT INTO outbox VALUES ('a')", "CHECKPOINT") // which flushes the log, whatever the server's settings are
			later := source(t, w.database, func(o *postgres.Options) { o.Slot += "2" })
			intent, err := later.PrepareInit(ctxOf(t))
			must(t, err)
			w.exec(t, "SELECT pg_copy_logical_replication_slot('"+w.slot()+"', '"+w.slot()+"2')")
			t.Cleanup(func() { w.exec(t, "SELECT pg_drop_replication_slot('"+w.slot()+"2')") })
			w.s, w.intent = later, intent
		}, func(t *testing.T, _ *world, _ outrelay.Position, err error) {
			wantError(t, err, outrelay.ErrDataHalt, "slot-without-position", "older than")
		}},
		{"the publication is gone", true, func(t *testing.T, w *world) {
			w.exec(t, `DROP PUBLICATION "pub shop"`)
		}, func(t *testing.T, _ *world, _ outrelay.Position, err error) {
			wantError(t, err, outrelay.ErrDataHalt, "publication-missing")
		}},
		{"an intent of a newer version", true, func(_ *testing.T, w *world) {
			w.intent = `{"v":2}`
		}, func(t *testing.T, _ *world, _ outrelay.Position, err error) {
			wantError(t, err, outrelay.ErrDataHalt, "intent-unreadable")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := &world{database: newDB(t)}
			w.CreateOutbox(t, "outbox")
			w.s = source(t, w.database, func(*postgres.Options) {})
			var err error
			w.intent, err = w.s.PrepareInit(ctxOf(t))
			must(t, err)
			if tt.init {
				w.first, err = w.s.Init(ctxOf(t))
				must(t, err)
			}
			tt.since(t, w)
			pos, err := w.s.ResumeInit(ctxOf(t), w.intent)
			tt.want(t, w, pos, err)
		})
	}
}

func notBegun[W any](t *testing.T, _ W, _ outrelay.Position, err error) {
	t.Helper()
	if !errors.Is(err, sources.ErrNotBegun) || errors.Is(err, outrelay.ErrDataHalt) {
		t.Errorf("%v, want ErrNotBegun", err)
	}
}
