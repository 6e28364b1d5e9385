package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"text/tabwriter"

	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/term"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/config"
	"github.com/outrelay/outrelay/internal/daemon"
	"github.com/outrelay/outrelay/internal/kafka"
)

// app is what the verbs share: the persistent flags and where output goes.
type app struct {
	file  string
	json  bool
	kafka string

	user, passwordFile string
	tls                kafka.TLSFiles

	out io.Writer
}

// load reads the configuration. Its warnings go to standard error.
func (a *app) load(flags *pflag.FlagSet, logOnly bool) (*config.Config, error) {
	c, err := config.Load(config.LoadOptions{File: a.file, Flags: flags, LogOnly: logOnly, NoFile: logOnly && a.fileless()})
	if err != nil {
		return nil, err
	}
	for _, w := range c.Warnings() {
		fmt.Fprintln(os.Stderr, "warning:", w)
	}
	return c, nil
}

// loadIfAny reads the configuration when there is a file, else returns the defaults: verbs that only talk to a log need none.
func (a *app) loadIfAny() (*config.Config, error) {
	return config.Load(config.LoadOptions{File: a.file, NoFile: a.fileless(), LogOnly: true})
}

// fileless reports whether no file is named and the default one is not there.
func (a *app) fileless() bool {
	if a.file != "" {
		return false
	}
	_, err := os.Stat(config.DefaultFile)
	return errors.Is(err, fs.ErrNotExist)
}

// log says how the log is reached: --kafka, else log.kafka, else the broker's own listener.
func (a *app) log(c *config.Config) (kafka.Options, error) {
	var seeds []string
	if a.kafka != "" {
		seeds = []string{a.kafka}
	}
	o, err := daemon.LogOptions(c, seeds...)
	if err != nil {
		return o, err
	}
	if (a.user == "") != (a.passwordFile == "") {
		return o, usageError{errors.New("--user and --password-file go together")}
	}
	return daemon.Login(o, a.tls, a.user, a.passwordFile)
}

// client returns a Kafka client of the log.
func (a *app) client(opts ...kgo.Opt) (*kgo.Client, error) {
	c, err := a.loadIfAny()
	if err != nil {
		return nil, err
	}
	o, err := a.log(c)
	if err != nil {
		return nil, err
	}
	return kafka.NewClient(daemon.CLI(o, "outrelay-cli"), opts...)
}

// reach turns the failure to talk to a log into an error that says what to do.
func (a *app) reach(err error) error {
	var answer *kerr.Error
	if err == nil || errors.Is(err, outrelay.ErrConfig) || errors.Is(err, outrelay.ErrEnvironment) || errors.As(err, &answer) || errors.Is(err, kafka.ErrNoTopic) {
		return err // what the log has answered was reached
	}
	if errors.Is(kafka.Class(err), outrelay.ErrTransient) {
		return &outrelay.Error{Class: outrelay.ErrEnvironment, Code: "log-unreachable", Cause: "the log", Err: err,
			Fix: "start it with `outrelay run`, or name its address with --kafka host:port"}
	}
	return err
}

// printJSON writes v, indented, followed by a newline.
func (a *app) printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s\n", b)
	return err
}

// table returns a writer of aligned columns; the caller flushes it.
func (a *app) table(header string) *tabwriter.Writer {
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, header)
	return w
}

// isTerminal reports whether f is one, so that colour and live lines are used there only.
func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// logger writes text on a terminal and JSON elsewhere.
func logger(level slog.Level) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if isTerminal(os.Stderr) {
		return slog.New(slog.NewTextHandler(os.Stderr, o))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o))
}
