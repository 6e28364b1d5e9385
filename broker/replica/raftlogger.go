package replica

import (
	"fmt"
	"log/slog"
)

// raftLogger gives raft's own messages to slog, one level down: what raft calls info is ours to debug.
type raftLogger struct{ l *slog.Logger }

func (r raftLogger) Debug(v ...any)           {}
func (r raftLogger) Debugf(string, ...any)    {}
func (r raftLogger) Info(v ...any)            { r.l.Debug(fmt.Sprint(v...)) }
func (r raftLogger) Infof(f string, v ...any) { r.l.Debug("raft", "text", lazy{f, v}) }
func (r raftLogger) Warning(v ...any)         { r.l.Info(fmt.Sprint(v...)) }
func (r raftLogger) Warningf(f string, v ...any) {
	r.l.Info("raft", "text", lazy{f, v})
}
func (r raftLogger) Error(v ...any)            { r.l.Error(fmt.Sprint(v...)) }
func (r raftLogger) Errorf(f string, v ...any) { r.l.Error("raft", "text", lazy{f, v}) }
func (r raftLogger) Fatal(v ...any)            { panic("BUG: raft: " + fmt.Sprint(v...)) }
func (r raftLogger) Fatalf(f string, v ...any) { panic("BUG: raft: " + fmt.Sprintf(f, v...)) }
func (r raftLogger) Panic(v ...any)            { panic("BUG: raft: " + fmt.Sprint(v...)) }
func (r raftLogger) Panicf(f string, v ...any) { panic("BUG: raft: " + fmt.Sprintf(f, v...)) }

// lazy formats only when a handler wants the text.
type lazy struct {
	f string
	v []any
}

func (l lazy) LogValue() slog.Value { return slog.StringValue(fmt.Sprintf(l.f, l.v...)) }
