package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Options says what is measured and where. Binary is needed.
type Options struct {
	Binary   string        // outrelay's own path
	Version  string        // of the binary
	Commit   string        // of the source it was built from
	Out      string        // directory for <name>.md; empty writes none
	Dir      string        // where data directories are made; empty: the system's temporary directory
	Rounds   int           // how often both sides are measured, by turns
	Rows     int           // size of a backlog
	For      time.Duration // length of a timed run
	Rate     int           // events a second, where the load is paced
	Only     []string      // what Log measures, of LogCases; none: everything
	Profile  string        // directory for CPU profiles of outrelay; empty takes none
	Keep     bool          // leave the working directory behind
	Progress io.Writer     // where everything but the report goes; nil: nowhere
	Logger   *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Binary == "" {
		return o, fmt.Errorf("bench: no binary to measure")
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Rounds <= 0 {
		o.Rounds = 3
	}
	return o, nil
}

// env is one run: its working directory and what it has to say.
type env struct {
	o     Options
	dir   string
	began usage
}

// open makes the working directory; the caller closes it.
func open(o Options) (*env, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Dir, "outrelay-bench-")
	if err != nil {
		return nil, err
	}
	return &env{o: o, dir: dir, began: readUsage()}, nil
}

func (e *env) close() {
	if e.o.Keep {
		e.say("kept: %s", e.dir)
		return
	}
	_ = os.RemoveAll(e.dir) // what is left is the temporary directory's
}

func (e *env) path(name ...string) string { return filepath.Join(append([]string{e.dir}, name...)...) }

func (e *env) say(format string, args ...any) {
	fmt.Fprintf(e.o.Progress, "bench: "+format+"\n", args...)
}

// every calls fn at once and then each time d has passed, until it returns true or an error, or ctx ends.
func every(ctx context.Context, d time.Duration, fn func() (done bool, err error)) error {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		done, err := fn()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}
