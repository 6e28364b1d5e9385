package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	readyMax = 60 * time.Second // how long outrelay may take until every role works
	stopMax  = 15 * time.Second // how long it may take to end
)

// child is outrelay in a process of its own. One goroutine at a time uses it.
type child struct {
	name        string
	kafka, http string
	cmd         *exec.Cmd
	logName     string
	done        chan error
	ready       time.Duration // from the start of the process to /readyz
	began       time.Time
}

// childOptions says how outrelay is run.
type childOptions struct {
	name    string // of this run: its log and profile are named by it
	config  string // path of the YAML; empty runs the log alone
	data    string
	env     []string
	profile bool // take a CPU profile if the run is to take any
}

// start runs outrelay and waits until every role works.
func (e *env) start(ctx context.Context, o childOptions) (*child, error) {
	c := &child{name: o.name, done: make(chan error, 1), logName: e.path(o.name + ".log")}
	var err error
	if c.kafka, err = freeAddr(ctx); err != nil {
		return nil, err
	}
	if c.http, err = freeAddr(ctx); err != nil {
		return nil, err
	}
	args := []string{"run", "--data", o.data, "--kafka-listen", c.kafka, "--http-listen", c.http}
	if o.config == "" {
		args = append(args, "--log-only")
	} else {
		args = append(args, "-c", o.config)
	}
	c.cmd = exec.Command(e.o.Binary, args...)
	c.cmd.Env = append(os.Environ(), o.env...)
	if e.o.Profile != "" && o.profile {
		c.cmd.Env = append(c.cmd.Env, "OUTRELAY_CPUPROFILE="+e.profileName(o.name))
	}
	if err := c.launch(); err != nil {
		return nil, err
	}
	if err := c.awaitReady(ctx); err != nil {
		c.kill()
		return nil, err
	}
	c.ready = time.Since(c.began)
	return c, nil
}

// launch starts the process, which dies with this one.
func (c *child) launch() error {
	log, err := os.Create(c.logName)
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd.Stderr = log
	if c.cmd.Stdout == nil {
		c.cmd.Stdout = log
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.began = time.Now()
	if err := c.cmd.Start(); err != nil {
		return err
	}
	go func() { c.done <- c.cmd.Wait() }()
	return nil
}

func (c *child) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyMax)
	defer cancel()
	last := "no answer"
	err := every(ctx, 5*time.Millisecond, func() (bool, error) {
		select {
		case err := <-c.done:
			c.done <- err
			return false, fmt.Errorf("%s ended: %w\n%s", c.name, err, c.tail())
		default:
		}
		body, code, err := get(ctx, c.http, "/readyz")
		if err == nil {
			last = string(body)
		}
		return code == http.StatusOK, nil
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%s is not ready after %s: %s\n%s", c.name, readyMax, last, c.tail())
	}
	return err
}

// awaitRelay waits until the source is relayed by this process.
func (c *child) awaitRelay(ctx context.Context, source string) error {
	ctx, cancel := context.WithTimeout(ctx, readyMax)
	defer cancel()
	err := every(ctx, 10*time.Millisecond, func() (bool, error) {
		m, err := c.metrics(ctx)
		if err != nil {
			return false, nil //nolint:nilerr // the next answer will do
		}
		return m.sum("outrelay_relay_running", strconv.Quote(source)) == 1, nil
	})
	if err != nil {
		return fmt.Errorf("%s: source %s is not relayed after %s\n%s", c.name, source, readyMax, c.tail())
	}
	return nil
}

// stop asks the process to end, and waits.
func (c *child) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended: Wait tells
	select {
	case err := <-c.done:
		c.done <- err
		if err != nil {
			return fmt.Errorf("%s did not end well: %w\n%s", c.name, err, c.tail())
		}
		return nil
	case <-time.After(stopMax):
		c.kill()
		return fmt.Errorf("%s did not end within %s of SIGTERM\n%s", c.name, stopMax, c.tail())
	}
}

// kill is kill -9. A process that has ended is left alone.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	err := <-c.done
	c.done <- err
}

func (c *child) tail() string {
	b, err := os.ReadFile(c.logName)
	if err != nil {
		return ""
	}
	return string(b[max(0, len(b)-3000):])
}

// status returns a line of the process's /proc status in bytes: VmHWM, VmRSS.
func (c *child) status(key string) int64 {
	v := lineOf(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid), key)
	kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 10, 64)
	return kb << 10
}

// cpu returns the processor time that the process has used.
func (c *child) cpu() time.Duration { return cpuOf(c.cmd.Process.Pid) }

// metrics reads /metrics once.
func (c *child) metrics(ctx context.Context) (metrics, error) {
	body, code, err := get(ctx, c.http, "/metrics")
	if err != nil {
		return nil, err
	}
	if code != http.StatusOK {
		return nil, fmt.Errorf("/metrics: %d: %s", code, body)
	}
	return parseMetrics(body), nil
}

// A page of metrics costs the child about a millisecond: while a count is far from its end it is asked for rarely.
const (
	countEveryMax = 250 * time.Millisecond
	countEveryMin = 15 * time.Millisecond
)

// sample is a count at a time.
type sample struct {
	at time.Time
	n  float64
}

// awaitCount waits until a counter has reached want, and returns what it saw: from the last sample before the counter moved on. It looks more often the nearer
// the end is.
func (c *child) awaitCount(ctx context.Context, name, labels string, want float64) ([]sample, error) {
	var seen []sample
	wait := countEveryMin
	for {
		select {
		case err := <-c.done:
			c.done <- err
			return seen, fmt.Errorf("%s ended: %w", c.name, err)
		case <-ctx.Done():
			return seen, fmt.Errorf("%s: %s did not reach %s: %w", c.name, name, num(want), ctx.Err())
		case <-time.After(wait):
		}
		m, err := c.metrics(ctx)
		if err != nil {
			continue // the next answer will do
		}
		now := sample{time.Now(), m.sum(name, labels)}
		if now.n == 0 && len(seen) > 0 {
			seen = seen[:0]
		}
		seen = append(seen, now)
		if now.n >= want {
			return seen, nil
		}
		wait = countEveryMin
		if first := seen[0]; now.n > first.n {
			left := time.Duration((want - now.n) / (now.n - first.n) * float64(now.at.Sub(first.at)))
			wait = min(max(left/2, countEveryMin), countEveryMax)
		}
	}
}

// metrics are the samples of a Prometheus page by their full name, labels included.
type metrics map[string]float64

func parseMetrics(page []byte) metrics {
	m := metrics{}
	for line := range bytes.Lines(page) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		i := bytes.LastIndexByte(line, ' ')
		if i < 0 {
			continue
		}
		if v, err := strconv.ParseFloat(string(line[i+1:]), 64); err == nil {
			m[string(line[:i])] = v
		}
	}
	return m
}

// sum adds the samples of a name over all labels that contain want.
func (m metrics) sum(name, want string) float64 {
	total := 0.0
	for k, v := range m {
		base, labels, _ := strings.Cut(k, "{")
		if base == name && strings.Contains(labels, want) {
			total += v
		}
	}
	return total
}

// meanMS is the mean of what a histogram of seconds observed between before and m, in milliseconds, and how often it did.
func (m metrics) meanMS(before metrics, name, want string) (mean float64, n float64) {
	n = m.sum(name+"_count", want) - before.sum(name+"_count", want)
	if n == 0 {
		return 0, 0
	}
	return 1000 * (m.sum(name+"_sum", want) - before.sum(name+"_sum", want)) / n, n
}

func get(ctx context.Context, addr, path string) ([]byte, int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept-Encoding", "identity") // a compressed page costs the child as much again
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return b, resp.StatusCode, err
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
