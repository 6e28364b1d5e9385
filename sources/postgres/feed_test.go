package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources/postgres"
	"github.com/outrelay/outrelay/sources/postgres/pgoutput"
)

// frames builds what a server sends.
type frames struct{ b []byte }

func (f *frames) copyData(body []byte) *frames {
	f.b = append(f.b, 'd')
	f.b = binary.BigEndian.AppendUint32(f.b, uint32(4+len(body)))
	f.b = append(f.b, body...)
	return f
}

func (f *frames) wal(msg []byte) *frames {
	return f.copyData(append(append([]byte{'w'}, make([]byte, 24)...), msg...))
}

func (f *frames) keepalive(end postgres.LSN, reply byte) *frames {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, uint64(end))
	return f.copyData(append(binary.BigEndian.AppendUint64(b, 0), reply))
}

func (f *frames) begin(final postgres.LSN) *frames {
	b := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(final))
	b = binary.BigEndian.AppendUint64(b, 1_000_000)
	return f.wal(binary.BigEndian.AppendUint32(b, 7))
}

func (f *frames) commit(final, end postgres.LSN) *frames {
	b := binary.BigEndian.AppendUint64([]byte{'C', 0}, uint64(final))
	b = binary.BigEndian.AppendUint64(b, uint64(end))
	return f.wal(binary.BigEndian.AppendUint64(b, 1_000_000))
}

func (f *frames) relation(oid uint32, table string, columns ...string) *frames {
	b := binary.BigEndian.AppendUint32([]byte{'R'}, oid)
	b = append(b, "public\x00"+table+"\x00d"...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(columns)))
	for _, c := range columns {
		b = append(b, 0)
		b = append(b, c+"\x00"...)
		b = binary.BigEndian.AppendUint32(b, 25)
		b = binary.BigEndian.AppendUint32(b, 0xffffffff)
	}
	return f.wal(b)
}

func (f *frames) insert(oid uint32, values ...string) *frames {
	b := binary.BigEndian.AppendUint32([]byte{'I'}, oid)
	b = append(b, 'N')
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	for _, v := range values {
		b = append(b, 't')
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return f.wal(b)
}

func (f *frames) row(final, end postgres.LSN, value string) *frames {
	return f.begin(final).relation(1, "outbox", "id").insert(1, value).commit(final, end)
}

func (f *frames) message(m pgproto3.BackendMessage) *frames {
	f.b, _ = m.Encode(f.b)
	return f
}

func feedSource(t *testing.T, change func(*postgres.Options)) *postgres.Source {
	t.Helper()
	o := postgres.Options{Name: "shop", Slot: "s", Publication: "p", Tables: []string{"public.outbox"},
		ConnString: func(context.Context) (string, error) { return "", errors.New("no server in this test") }}
	if change != nil {
		change(&o)
	}
	s, err := postgres.New(o)
	must(t, err)
	return s
}

var feedAt = postgres.Place{System: "7", Timeline: 1, LSN: 0x1000, Events: 40}

// TestStream_foreignBytes alters what the server says (B47–B57): the stream must end, name the place, and yield nothing after it.
func TestStream_foreignBytes(t *testing.T) {
	t.Parallel()
	good := func() *frames { return new(frames).row(0x1100, 0x1200, "good") }
	for _, tt := range []struct {
		name  string
		f     *frames
		class error
		code  string
	}{
		{"B47 unknown message", good().wal([]byte("?x")), outrelay.ErrDataHalt, "stream-malformed"},
		{"B48 column count", good().begin(0x1300).insert(1, "a", "b"), outrelay.ErrDataHalt, "stream-malformed"},
		{"B49 column length", good().begin(0x1300).wal([]byte("I\x00\x00\x00\x01N\x00\x01t\xff\xff\xff\xffx")), outrelay.ErrDataHalt, "stream-malformed"},
		{"B49 unchanged value in an insert", good().begin(0x1300).wal([]byte("I\x00\x00\x00\x01N\x00\x01u")), outrelay.ErrDataHalt, "stream-malformed"},
		{"B50 unknown relation", good().begin(0x1300).insert(9, "x"), outrelay.ErrDataHalt, "stream-malformed"},
		{"B51 commit without begin", good().commit(0x1300, 0x1400), outrelay.ErrDataHalt, "stream-malformed"},
		{"B51 insert without begin", good().insert(1, "x"), outrelay.ErrDataHalt, "stream-malformed"},
		{"B51 begin in begin", good().begin(0x1300).begin(0x1400), outrelay.ErrDataHalt, "stream-malformed"},
		{"B51 streamed transaction", good().wal([]byte("S\x00\x00\x00\x01\x01")), outrelay.ErrDataHalt, "stream-malformed"},
		{"B51 another commit", good().begin(0x1300).commit(0x1310, 0x1400), outrelay.ErrDataHalt, "stream-malformed"},
		{"B52 commit goes back", good().row(0x1180, 0x1300, "x"), outrelay.ErrDataHalt, "stream-malformed"},
		{"B52 commit before a keepalive", good().keepalive(0x5000, 0).row(0x4000, 0x6000, "x"), outrelay.ErrDataHalt, "stream-malformed"},
		{"B53 empty copy data", good().copyData(nil), outrelay.ErrDataHalt, "stream-malformed"},
		{"B53 short XLogData", good().copyData([]byte("w123")), outrelay.ErrDataHalt, "stream-malformed"},
		{"B53 short keepalive", good().copyData([]byte("k123")), outrelay.ErrDataHalt, "stream-malformed"},
		{"row over the limit", good().begin(0x1300).insert(1, string(make([]byte, 2000))), outrelay.ErrDataHalt, "row-too-large"},
		{"B57 PostgreSQL 18 skips a publication", good().message(&pgproto3.NoticeResponse{Severity: "WARNING", Code: "55000",
			Message: `skipped loading publication "p"`, Routine: "LoadPublications"}), outrelay.ErrPositionLost, "publication-missing"},
		{"B57 translated", good().message(&pgproto3.NoticeResponse{Severity: "WARNUNG", Code: "55000", Message: "etwas", Routine: "LoadPublications"}),
			outrelay.ErrPositionLost, "publication-missing"},
		{"publication error of 17 and older", good().message(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42704", Message: `publication "p" does not exist`}),
			outrelay.ErrPositionLost, "publication-missing"},
		{"WAL gone", good().message(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "58P01", Message: "requested WAL segment has already been removed"}),
			outrelay.ErrPositionLost, "wal-missing"},
		{"shutdown", good().message(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P01", Message: "terminating connection"}), outrelay.ErrTransient, "server-error"},
		{"end of stream", good().message(&pgproto3.CopyDone{}), outrelay.ErrTransient, "connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := feedSource(t, func(o *postgres.Options) { o.MaxRowBytes = 1000 })
			st, _ := postgres.Feed(s, feedAt, tt.f.b)
			defer st.Close()
			txn, err := st.Next(ctxOf(t))
			must(t, err)
			if string(txn.Events[0].Values[0]) != "good" || txn.Place != "0/1200" {
				t.Fatalf("first: %+v", txn)
			}
			txn, err = st.Next(ctxOf(t))
			if err == nil {
				t.Fatalf("yielded %+v", txn)
			}
			wantError(t, err, tt.class, tt.code)
		})
	}
}

// TestStream_tolerates feeds what must not end the stream.
func TestStream_tolerates(t *testing.T) {
	t.Parallel()
	f := new(frames).
		message(&pgproto3.ParameterStatus{Name: "TimeZone", Value: "UTC"}).
		message(&pgproto3.NoticeResponse{Severity: "WARNING", Code: "55000", Message: `replication slot "sb" specified in parameter "synchronized_standby_slots" does not have active_pid`}).
		wal([]byte("A\x00\x00\x00\x01\x00\x00\x00\x02")).                                                // PostgreSQL 18's stray abort
		keepalive(0x10, 0).                                                                              // before our position
		begin(0x1100).wal([]byte("O\x00\x00\x00\x00\x00\x00\x00\x01origin\x00")).commit(0x1100, 0x1180). // nothing in it
		wal([]byte("M\x00\x00\x00\x00\x00\x00\x00\x00\x01p\x00\x00\x00\x00\x01x")).
		row(0x1180, 0x1200, "a").row(0x1200, 0x1300, string(make([]byte, 600_000)))
	st, _ := postgres.Feed(feedSource(t, nil), feedAt, f.b)
	defer st.Close()
	for i, want := range []struct {
		place string
		size  int
	}{{"0/1200", 1}, {"0/1300", 600_000}} {
		txn, err := st.Next(ctxOf(t))
		must(t, err)
		place, err := postgres.ParsePlace(txn.Position)
		must(t, err)
		if txn.Place != want.place || len(txn.Events[0].Values[0]) != want.size || place.Events != int64(41+i) {
			t.Errorf("transaction at %s, %d bytes, %d events", txn.Place, len(txn.Events[0].Values[0]), place.Events)
		}
	}
}

// status is a standby status update as the server reads it.
type status struct {
	write, flush, apply postgres.LSN
	reply               bool
}

func nextStatus(t *testing.T, c *postgres.FakeConn) status {
	t.Helper()
	select {
	case b := <-c.Written:
		if len(b) < 39 || b[0] != 'd' || b[5] != 'r' {
			t.Fatalf("wrote % x", b)
		}
		u := func(i int) postgres.LSN { return postgres.LSN(binary.BigEndian.Uint64(b[i:])) }
		return status{u(6), u(14), u(22), b[38] != 0}
	case <-time.After(30 * time.Second):
		t.Fatal("no status was sent")
	}
	panic("unreachable")
}

// TestStream_status shows what is confirmed: never what was only received, never a zero that a server takes for something else.
func TestStream_status(t *testing.T) {
	t.Parallel()
	f := new(frames).row(0x1100, 0x1200, "a").row(0x1200, 0x1300, "b").begin(0x1400).keepalive(0x9000, 1)
	st, c := postgres.Feed(feedSource(t, func(o *postgres.Options) { o.KeepaliveInterval = 20 * time.Millisecond }), feedAt, f.b)
	defer st.Close()
	a, err := st.Next(ctxOf(t))
	must(t, err)
	_, err = st.Next(ctxOf(t))
	must(t, err)
	seen := nextStatus(t, c)
	for ; seen.write != 0x1300; seen = nextStatus(t, c) {
	}
	if seen.flush != 0x1000 || seen.apply != 0x1000 {
		t.Fatalf("unconfirmed, but sent %+v", seen)
	}
	must(t, st.Confirm(context.Background(), a.Position))
	for ; seen.flush == 0x1000; seen = nextStatus(t, c) {
	}
	if seen.flush != 0x1200 || seen.apply != 0x1200 || seen.write != 0x1300 {
		t.Fatalf("confirmed the first, sent %+v", seen)
	}
	for range 3 { // a keepalive within a transaction moves nothing
		if seen = nextStatus(t, c); seen.write != 0x1300 || seen.flush != 0x1200 {
			t.Fatalf("sent %+v", seen)
		}
	}
}

// TestStream_bare yields a position alone when the server moved on and nothing is under way, and not oftener than asked.
func TestStream_bare(t *testing.T) {
	t.Parallel()
	f := new(frames).row(0x1100, 0x1200, "a").keepalive(0x2000, 0).keepalive(0x3000, 0)
	st, _ := postgres.Feed(feedSource(t, func(o *postgres.Options) {
		o.KeepaliveInterval, o.IdleInterval = 5*time.Millisecond, 10*time.Millisecond
	}), feedAt, f.b)
	defer st.Close()
	a, err := st.Next(ctxOf(t))
	must(t, err)
	b, err := st.Next(ctxOf(t))
	must(t, err)
	if a.Place != "0/1200" || b.Place != "0/3000" || len(b.Events) != 0 || !b.Last || !b.CommittedAt.Equal(a.CommittedAt) {
		t.Fatalf("%+v, then %+v", a, b)
	}
	must(t, st.Confirm(context.Background(), b.Position))
}

// TestStream_inside opens at a position inside a transaction.
func TestStream_inside(t *testing.T) {
	t.Parallel()
	at := feedAt
	at.Commit, at.Done = 0x1400, 2
	whole := func(f *frames) *frames {
		return f.begin(0x1400).relation(1, "outbox", "id").insert(1, "a").insert(1, "b").insert(1, "c").commit(0x1400, 0x1500)
	}
	t.Run("skips what is in", func(t *testing.T) {
		t.Parallel()
		st, _ := postgres.Feed(feedSource(t, nil), at, whole(new(frames).begin(0x1100).commit(0x1100, 0x1200)).b)
		defer st.Close()
		txn, err := st.Next(ctxOf(t))
		must(t, err)
		if len(txn.Events) != 1 || string(txn.Events[0].Values[0]) != "c" || txn.Events[0].Ordinal != 2 || !txn.Last || txn.Place != "0/1500" {
			t.Fatalf("%+v", txn)
		}
	})
	for name, f := range map[string]*frames{
		"another transaction comes": new(frames).row(0x1600, 0x1700, "x"),
		"the server is beyond it":   new(frames).keepalive(0x1500, 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, _ := postgres.Feed(feedSource(t, nil), at, f.b)
			defer st.Close()
			_, err := st.Next(ctxOf(t))
			wantError(t, err, outrelay.ErrPositionLost, "transaction-vanished", "0/1400")
		})
	}
}

// TestStream_backpressure lets nobody take: the reader stops at its limit, and status goes on.
func TestStream_backpressure(t *testing.T) {
	t.Parallel()
	f := new(frames)
	for i := range postgres.LSN(1000) {
		f.row(0x1100+i*0x100, 0x1200+i*0x100, string(make([]byte, 1000)))
	}
	st, c := postgres.Feed(feedSource(t, func(o *postgres.Options) {
		o.PrefetchBytes, o.KeepaliveInterval, o.SilenceTimeout = 20_000, 5*time.Millisecond, 300*time.Millisecond
	}), feedAt, f.b)
	defer st.Close()
	var stuck status
	for same := 0; same < 100; { // longer than the silence allowed
		s := nextStatus(t, c)
		if s.write == stuck.write && s.write != 0x1000 {
			same++
		}
		stuck = s
	}
	if stuck.write > 0x1200+20*0x100 {
		t.Errorf("read up to %s with room for 20 rows", stuck.write)
	}
	for i := range 1000 {
		txn, err := st.Next(ctxOf(t))
		if err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		if len(txn.Events) != 1 {
			t.Fatalf("%d: %+v", i, txn)
		}
	}
}

// TestStream_silence gives up a server that sends nothing though it is asked.
func TestStream_silence(t *testing.T) {
	t.Parallel()
	st, c := postgres.Feed(feedSource(t, func(o *postgres.Options) {
		o.KeepaliveInterval, o.SilenceTimeout = 5*time.Millisecond, 50*time.Millisecond
	}), feedAt, nil)
	defer st.Close()
	if s := nextStatus(t, c); !s.reply {
		t.Errorf("the first status asks for no reply")
	}
	_, err := st.Next(ctxOf(t))
	wantError(t, err, outrelay.ErrTransient, "server-silent")
}

func TestPlace_roundTrip(t *testing.T) {
	t.Parallel()
	for _, p := range []postgres.Place{
		feedAt,
		{System: "18446744073709551615", Timeline: 2147483647, LSN: 0xffffffffffffffff},
		{System: "1", Timeline: 3, LSN: 0x100000000, Commit: 0x1ffffffff, Done: 12, CommittedAt: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC), Events: 9},
	} {
		got, err := postgres.ParsePlace(outrelay.Position{Source: "s", Token: p.Token()})
		must(t, err)
		if got != p {
			t.Errorf("%s read as %+v, was %+v", p.Token(), got, p)
		}
	}
	for _, token := range []string{"", "{}", `{"v":2,"system":"7","timeline":1,"lsn":"0/10","events":0}`, `{"v":1,"system":"x","timeline":1,"lsn":"0/10"}`,
		`{"v":1,"system":"7","timeline":0,"lsn":"0/10"}`, `{"v":1,"system":"7","timeline":1,"lsn":"0/0"}`, `{"v":1,"system":"7","timeline":1,"lsn":"0/G"}`,
		`{"v":1,"system":"7","timeline":1,"lsn":"0/10","txn":{"commit":"0/1","done":1}}`, `{"v":1,"system":"7","timeline":1,"lsn":"0/10","txn":{"commit":"0/20"}}`, "[1]"} {
		_, err := postgres.ParsePlace(outrelay.Position{Source: "s", Token: token})
		wantError(t, err, outrelay.ErrDataHalt, "position-unreadable")
	}
}

func TestNew_refuses(t *testing.T) {
	t.Parallel()
	ok := postgres.Options{Name: "s", Slot: "s", Publication: "p", Tables: []string{"t"}, ConnString: func(context.Context) (string, error) { return "", nil }}
	for name, change := range map[string]func(*postgres.Options){
		"no name": func(o *postgres.Options) { o.Name = "" }, "B11 slot": func(o *postgres.Options) { o.Slot = "My-Slot" },
		"no tables": func(o *postgres.Options) { o.Tables = nil }, "twice": func(o *postgres.Options) { o.Tables = []string{"t", "public.t"} },
		"long": func(o *postgres.Options) { o.Tables = []string{string(make([]byte, 64))} }, "negative": func(o *postgres.Options) { o.MaxRowBytes = -1 },
		"open quote": func(o *postgres.Options) { o.Tables = []string{`"a`} }, "three parts": func(o *postgres.Options) { o.Tables = []string{"a.b.c"} },
		"no publication": func(o *postgres.Options) { o.Publication = "" },
	} {
		o := ok
		change(&o)
		if _, err := postgres.New(o); !errors.Is(err, outrelay.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for given, want := range map[string]string{"t": "public|t", "a.b": "a|b", `"a.b"."c""d"`: `a.b|c"d`, `X."y z"`: "X|y z"} {
		schema, name, err := postgres.ParseTable(given)
		if err != nil || schema+"|"+name != want {
			t.Errorf("%s: %s|%s, %v", given, schema, name, err)
		}
	}
}

func TestSwitchPoint(t *testing.T) {
	t.Parallel()
	const h = "1\t0/3000000\tno recovery target specified\n\n# comment\n2\t5/A0\tbefore 2026\n"
	for tli, want := range map[int32]postgres.LSN{1: 0x3000000, 2: 0x5000000A0, 3: 0} {
		if got, ok := postgres.SwitchPoint(h, tli); got != want || ok != (want != 0) {
			t.Errorf("timeline %d: %s, %v", tli, got, ok)
		}
	}
	if s := fmt.Sprint(pgoutput.LSN(0x10A)); s != "0/10A" {
		t.Error(s)
	}
}
