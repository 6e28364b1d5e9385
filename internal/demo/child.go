package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/outrelay/outrelay/internal/testenv"
)

// child is outrelay in a process of its own. One goroutine at a time uses it.
type child struct {
	binary, dir string
	env         []string
	kafka, http string
	log         *os.File

	cmd      *exec.Cmd
	done     chan error
	restarts int
	slowest  time.Duration
	rss      int64
}

// readyMax is how long outrelay may take until every role works.
const readyMax = 60 * time.Second

func newChild(ctx context.Context, binary, dir string, pg *testenv.Postgres) (*child, error) {
	c := &child{binary: binary, dir: dir}
	var err error
	if c.kafka, err = freeAddr(ctx); err != nil {
		return nil, err
	}
	if c.http, err = freeAddr(ctx); err != nil {
		return nil, err
	}
	c.env = append(os.Environ(), "SHOP_DSN="+pg.DSN("shop"), "WAREHOUSE_DSN="+pg.DSN("warehouse"))
	c.log, err = os.Create(filepath.Join(dir, "outrelay.log"))
	return c, err
}

func freeAddr(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start runs outrelay and waits until every role works; it returns how long that took.
func (c *child) start(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	c.cmd = exec.Command(c.binary, "run", "-c", filepath.Join(c.dir, "outrelay.yaml"), "--data", filepath.Join(c.dir, "data"),
		"--kafka-listen", c.kafka, "--http-listen", c.http)
	c.cmd.Env = c.env
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return 0, err
	}
	cmd, done := c.cmd, make(chan error, 1)
	c.done = done
	go func() { done <- cmd.Wait() }()
	if err := c.awaitReady(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if c.restarts > 0 {
		c.slowest = max(c.slowest, took)
	}
	return took, nil
}

func (c *child) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyMax)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	last := "no answer"
	for {
		select {
		case err := <-c.done:
			c.done <- err
			return fmt.Errorf("outrelay ended: %w\n%s", err, c.tail())
		case <-ctx.Done():
			return fmt.Errorf("outrelay is not ready after %s: %s\n%s", readyMax, last, c.tail())
		case <-t.C:
		}
		ok, text := ready(ctx, c.http)
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

// kill is kill -9: outrelay gets no chance to finish anything.
func (c *child) kill() error {
	c.noteMemory()
	if err := c.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("outrelay had ended already: %w\n%s", err, c.tail())
	}
	<-c.done
	c.restarts++
	return nil
}

// stop asks outrelay to end, and waits.
func (c *child) stop() error {
	c.noteMemory()
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended: Wait tells
	select {
	case err := <-c.done:
		c.done <- err
		if err != nil {
			return fmt.Errorf("outrelay did not end well: %w\n%s", err, c.tail())
		}
		return nil
	case <-time.After(15 * time.Second):
		return fmt.Errorf("outrelay did not end within 15 s of SIGTERM\n%s", c.tail())
	}
}

func (c *child) close() {
	if c.cmd != nil && c.cmd.Process != nil {
		_ = c.cmd.Process.Kill() // usually it has ended
	}
	_ = c.log.Close()
}

// noteMemory keeps the highest resident size seen.
func (c *child) noteMemory() {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			c.rss = max(c.rss, kb<<10)
		}
	}
}

// tail returns the end of outrelay's log, for the error of a demo that failed.
func (c *child) tail() string {
	b, err := os.ReadFile(c.log.Name())
	if err != nil {
		return ""
	}
	return string(b[max(0, len(b)-4000):])
}

// relayed returns how many events the relay has put into the log, as /status says.
func (c *child) relayed(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.http+"/status", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var s struct {
		Sources []struct {
			Events int64 `json:"events"`
		} `json:"sources"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || len(s.Sources) == 0 {
		return 0, fmt.Errorf("status: %d sources, %w", len(s.Sources), err)
	}
	return s.Sources[0].Events, nil
}
