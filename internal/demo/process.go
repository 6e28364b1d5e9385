package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/outrelay/outrelay/internal/loopback"
)

// Process is outrelay in a process of its own, restarted on the same data directory. One goroutine at a time starts and ends it; its counters
// may be read meanwhile.
type Process struct {
	Binary string
	Dir    string   // holds outrelay.yaml; the data directory and the log are made in it
	Env    []string // added to this process's environment
	Args   []string // added to `run -c outrelay.yaml --data … --kafka-listen … --http-listen …`
	Kafka  string   // address of the Kafka listener, or of the external log
	HTTP   string   // address of the HTTP listener

	External bool // the log is not this process's own

	log  *os.File
	cmd  *exec.Cmd
	done chan error

	restarts atomic.Int64
	slowest  atomic.Int64 // nanoseconds from a start after a kill to /readyz
	rss      atomic.Int64 // highest resident size seen, bytes
}

// readyMax is how long outrelay may take until every role works.
const readyMax = 60 * time.Second

// NewProcess returns a process that does not run yet, with free addresses of the loopback.
func NewProcess(binary, dir string, env ...string) (*Process, error) {
	p := &Process{Binary: binary, Dir: dir, Env: env}
	for _, addr := range []*string{&p.Kafka, &p.HTTP} {
		port, err := loopback.FreePort()
		if err != nil {
			return nil, err
		}
		*addr = loopback.Addr(port)
	}
	var err error
	p.log, err = os.Create(filepath.Join(dir, "outrelay.log"))
	return p, err
}

// Start runs outrelay and waits until every role works; it returns how long that took.
func (c *Process) Start(ctx context.Context, env ...string) (time.Duration, error) {
	began := time.Now()
	if err := c.Launch(env...); err != nil {
		return 0, err
	}
	if err := c.awaitReady(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if c.restarts.Load() > 0 {
		c.slowest.Store(max(c.slowest.Load(), int64(took)))
	}
	return took, nil
}

// Launch runs outrelay, and waits for nothing.
func (c *Process) Launch(env ...string) error {
	args := []string{"run", "-c", filepath.Join(c.Dir, "outrelay.yaml"), "--data", filepath.Join(c.Dir, "data"), "--http-listen", c.HTTP}
	if !c.External {
		args = append(args, "--kafka-listen", c.Kafka)
	}
	args = append(args, c.Args...)
	cmd := exec.Command(c.Binary, args...)
	cmd.Env = append(append(os.Environ(), c.Env...), env...)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	c.cmd, c.done = cmd, done
	go func() { done <- cmd.Wait() }()
	return nil
}

func (c *Process) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyMax)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	last := "no answer"
	for {
		select {
		case err := <-c.done:
			c.done <- err
			return fmt.Errorf("outrelay ended: %w\n%s", err, c.Tail())
		case <-ctx.Done():
			return fmt.Errorf("outrelay is not ready after %s: %s\n%s", readyMax, last, c.Tail())
		case <-t.C:
		}
		ok, text := ready(ctx, c.HTTP)
		if ok {
			return nil
		}
		last = text
	}
}

func ready(ctx context.Context, addr string) (ok bool, text string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return false, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // only for people
	return resp.StatusCode == http.StatusOK, strings.TrimSpace(string(b))
}

// Kill is kill -9: outrelay gets no chance to finish anything.
func (c *Process) Kill() error {
	c.noteMemory()
	if err := c.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("outrelay had ended already: %w\n%s", err, c.Tail())
	}
	<-c.done
	c.restarts.Add(1)
	return nil
}

// Died waits until outrelay has ended by itself, as at a failpoint, and returns what Wait says of it.
func (c *Process) Died(ctx context.Context) error {
	select {
	case err := <-c.done:
		c.restarts.Add(1)
		c.done <- err
		return err
	case <-ctx.Done():
		return fmt.Errorf("outrelay still runs: %w\n%s", ctx.Err(), c.Tail())
	}
}

// Running reports whether the process has not ended.
func (c *Process) Running() bool { return len(c.done) == 0 }

// Signal sends a signal, as SIGSTOP and SIGCONT.
func (c *Process) Signal(sig syscall.Signal) error { return c.cmd.Process.Signal(sig) }

// Pid returns the process id of the last start.
func (c *Process) Pid() int { return c.cmd.Process.Pid }

// Restarts returns how often outrelay was killed or died.
func (c *Process) Restarts() int { return int(c.restarts.Load()) }

// Stop asks outrelay to end, and waits.
func (c *Process) Stop() error {
	c.noteMemory()
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended: Wait tells
	select {
	case err := <-c.done:
		c.done <- err
		if err != nil {
			return fmt.Errorf("outrelay did not end well: %w\n%s", err, c.Tail())
		}
		return nil
	case <-time.After(15 * time.Second):
		return fmt.Errorf("outrelay did not end within 15 s of SIGTERM\n%s", c.Tail())
	}
}

// Close ends the process if it runs.
func (c *Process) Close() {
	if c.cmd != nil && c.cmd.Process != nil {
		_ = c.cmd.Process.Kill() // usually it has ended
	}
	_ = c.log.Close()
}

// noteMemory keeps the highest resident size seen.
func (c *Process) noteMemory() {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			c.rss.Store(max(c.rss.Load(), kb<<10))
		}
	}
}

// Tail returns the end of outrelay's log, for the error of a demo that failed.
func (c *Process) Tail() string {
	b, err := os.ReadFile(c.log.Name())
	if err != nil {
		return ""
	}
	return string(b[max(0, len(b)-4000):])
}

// Stacks ends outrelay by SIGQUIT, and returns what it then says of its goroutines, for a test that failed because nothing happens any more.
func (c *Process) Stacks() string {
	before, err := os.Stat(c.log.Name())
	if err != nil || c.cmd == nil || !c.Running() || c.Signal(syscall.SIGQUIT) != nil {
		return ""
	}
	select {
	case err := <-c.done:
		c.done <- err
	case <-time.After(5 * time.Second):
	}
	b, err := os.ReadFile(c.log.Name())
	if err != nil {
		return ""
	}
	return string(b[before.Size():])
}

// Status fills into with what /status says.
func (c *Process) Status(ctx context.Context, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.HTTP+"/status", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

// relayed returns how many events the relay has put into the log.
func (c *Process) relayed(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	var s struct {
		Sources []struct {
			Events int64 `json:"events"`
		} `json:"sources"`
	}
	if err := c.Status(ctx, &s); err != nil {
		return 0, err
	}
	if len(s.Sources) == 0 {
		return 0, errors.New("no source in /status")
	}
	return s.Sources[0].Events, nil
}
