package compat_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/loopback"
)

// connectMax is how long a worker may take to start, or to come back with its task after it was killed.
const connectMax = 3 * time.Minute

// connect is one worker of Kafka Connect in distributed mode: its own state is in three compacted topics of the broker, and its seat in a group of the
// protocol type "connect".
type connect struct {
	t   *testing.T
	dir string
	url string // of its REST interface
	cmd *exec.Cmd
}

// connectTopics are where a worker keeps its state.
var connectTopics = map[string]int{"connect-configs": 1, "connect-offsets": 25, "connect-status": 5}

// newConnect writes a worker's configuration, and runs it.
func newConnect(t *testing.T, broker, plugins string, properties map[string]string) (*connect, error) {
	t.Helper()
	port, err := loopback.FreePort()
	if err != nil {
		return nil, err
	}
	w := &connect{t: t, dir: t.TempDir(), url: "http://" + loopback.Addr(port)}
	conf := map[string]string{
		"bootstrap.servers": broker, "group.id": "connect", "listeners": w.url, "plugin.path": plugins, "plugin.discovery": "service_load",
		"key.converter": "org.apache.kafka.connect.storage.StringConverter", "value.converter": "org.apache.kafka.connect.storage.StringConverter",
		"config.storage.topic": "connect-configs", "offset.storage.topic": "connect-offsets", "status.storage.topic": "connect-status",
		"config.storage.replication.factor": "1", "offset.storage.replication.factor": "1", "status.storage.replication.factor": "1",
		"offset.flush.interval.ms": "1000", "session.timeout.ms": "6000", "heartbeat.interval.ms": "1000",
		"scheduled.rebalance.max.delay.ms": "0", // else the tasks of a worker that was killed rest for five minutes
	}
	for name, v := range properties {
		conf[name] = v
	}
	var b strings.Builder
	for name, v := range conf {
		fmt.Fprintf(&b, "%s=%s\n", name, v)
	}
	if err := os.WriteFile(w.file("worker.properties"), []byte(b.String()), 0o600); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		_ = w.kill() // it may have ended
		if t.Failed() {
			t.Logf("the end of Connect's log:\n%s", w.tail())
		}
	})
	return w, w.start()
}

func (w *connect) file(name string) string { return filepath.Join(w.dir, name) }

func (w *connect) tail() []byte {
	b, _ := os.ReadFile(w.file("log")) // none before the first start
	return b[max(0, len(b)-6000):]
}

// start runs the worker and waits until it answers.
func (w *connect) start() error {
	log, err := os.OpenFile(w.file("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := java(w.t, "org.apache.kafka.connect.cli.ConnectDistributed", w.file("worker.properties"))
	w.cmd = exec.Command(args[0], args[1:]...)
	w.cmd.Dir, w.cmd.Stdout, w.cmd.Stderr = w.dir, log, log
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.cmd.Start(); err != nil {
		return err
	}
	return w.await("it answers", func() error { return w.rest(http.MethodGet, "/connectors", nil, nil) })
}

// kill ends the worker with SIGKILL, and waits until it is gone.
func (w *connect) kill() error {
	if err := w.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = w.cmd.Wait() // it was killed
	return nil
}

// configure creates a connector, and waits until its task runs.
func (w *connect) configure(name string, config map[string]string) error {
	if err := w.await("it takes the connector", func() error { return w.rest(http.MethodPut, "/connectors/"+name+"/config", config, nil) }); err != nil {
		return err
	}
	return w.running(name)
}

// running waits until a connector's task runs.
func (w *connect) running(name string) error {
	return w.await("the task runs", func() error {
		var status struct {
			Tasks []struct{ State, Trace string }
		}
		if err := w.rest(http.MethodGet, "/connectors/"+name+"/status", nil, &status); err != nil {
			return err
		}
		if len(status.Tasks) != 1 || status.Tasks[0].State != "RUNNING" {
			return fmt.Errorf("tasks %+v", status.Tasks)
		}
		return nil
	})
}

// rest asks the worker; it may be told to ask later.
func (w *connect) rest(method, path string, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if b, err = io.ReadAll(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %.500s", method, path, resp.Status, b)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(b, into)
}

// await tries again and again until fn returns nil.
func (w *connect) await(what string, fn func() error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(connectMax)
	defer late.Stop()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-late.C:
			return fmt.Errorf("not in %v: %s: %w", connectMax, what, err)
		case <-w.t.Context().Done():
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}
