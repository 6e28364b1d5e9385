package compat_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/demo"
)

// clientMax is how long one client's program may take.
const clientMax = 5 * time.Minute

// subject is one client under test, with a broker of its own.
type subject struct {
	t      *testing.T
	broker *demo.Process
	kafka  *kgo.Client // the other client, which writes what this one reads and reads what this one writes
	admin  *kadm.Client
	row    *row
}

var build struct {
	sync.Mutex
	path string
}

// binary returns outrelay's path: what make built, or one built now.
func binary(t *testing.T) string {
	t.Helper()
	if b := os.Getenv("OUTRELAY_BIN"); b != "" {
		return b
	}
	build.Lock()
	defer build.Unlock()
	if build.path == "" {
		b := filepath.Join(os.TempDir(), fmt.Sprintf("outrelay-compat-test-%d", os.Getpid()))
		if out, err := exec.Command("go", "build", "-o", b, "github.com/outrelay/outrelay/cmd/outrelay").CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
		build.path = b
	}
	return build.path
}

// startBroker runs the log alone, in a process of its own, with the configuration and the environment given.
func startBroker(t *testing.T, config string, env ...string) *demo.Process {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "outrelay.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := demo.NewProcess(binary(t), dir, env...)
	if err != nil {
		t.Fatal(err)
	}
	p.Args = []string{"--log-only"}
	t.Cleanup(func() {
		p.Close()
		if t.Failed() {
			t.Logf("the end of the broker's log:\n%s", p.Tail())
		}
	})
	if _, err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// client starts a broker for one client, fills the topics that it is to read, and gives it a row of the table.
func client(t *testing.T, name string) *subject {
	t.Helper()
	s := bareClient(t, name)
	s.fill()
	return s
}

// bareClient is client with an empty broker.
func bareClient(t *testing.T, name string) *subject {
	t.Helper()
	s := &subject{t: t, row: results.add(name), broker: startBroker(t, "")}
	var err error
	if s.kafka, err = kgo.NewClient(kgo.SeedBrokers(s.broker.Kafka), kgo.ProducerLinger(0), kgo.RecordPartitioner(kgo.ManualPartitioner())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kafka.Close)
	s.admin = kadm.NewClient(s.kafka)
	return s
}

// passed, failed and skipped note what a check has shown.
func (s *subject) passed(check string) {
	s.t.Logf("passed: %s", check)
	s.row.passed++
}

func (s *subject) failed(check string, why any) {
	s.t.Helper()
	s.t.Errorf("%s: %v", check, why)
	s.row.failed = append(s.row.failed, fmt.Sprintf("%s: %v", check, why))
}

func (s *subject) skipped(check, why string) {
	s.t.Logf("skipped: %s: %s", check, why)
	s.row.skipped = append(s.row.skipped, check+": "+why)
}

// check runs f and notes its outcome.
func (s *subject) check(name string, f func() error) {
	s.t.Helper()
	if err := f(); err != nil {
		s.failed(name, err)
		return
	}
	s.passed(name)
}

// line is what a client's program writes, one JSON object a line, on its standard output:
//
//	{"version": "2.2.4"}                              once, first
//	{"check": "…", "result": "passed"}                or failed, or skipped, with "why"
//	{"check": "…", "result": "passed", "wrote": "T"}  passed if topic T holds the corpus, which is looked up at once
//	{"ask": "restart"}                                the broker is killed and started again, then "ok" is written to its standard input
//	{"done": true}                                    once, last: a program that ends without it has failed
type line struct {
	Version, Check, Result, Why, Wrote, Ask string
	Done                                    bool
}

// talk runs a client's program to its end and notes what it reports. The program finds the broker's address in OUTRELAY_COMPAT_BOOTSTRAP.
func (s *subject) talk(cmd *exec.Cmd) {
	s.t.Helper()
	cmd.Env = append(append(os.Environ(), cmd.Env...), "OUTRELAY_COMPAT_BOOTSTRAP="+s.broker.Kafka)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	timer := time.AfterFunc(clientMax, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	done := s.listen(stdout, stdin)
	if err := cmd.Wait(); err != nil || !done {
		b := stderr.Bytes()
		s.failed("the program's end", fmt.Sprintf("%v, said done: %t; its last words: %s", err, done, b[max(0, len(b)-4000):]))
	}
}

// listen follows a program's lines until it closes its output, and reports whether it said that it was done.
func (s *subject) listen(stdout io.Reader, stdin io.Writer) (done bool) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			s.t.Logf("%s", lines.Bytes()) // a library that talks
			continue
		}
		switch {
		case l.Version != "":
			s.row.version = l.Version
		case l.Done:
			done = true
		case l.Ask == "restart":
			if err := s.restart(); err != nil {
				s.failed("restart", err)
				return false
			}
			fmt.Fprintln(stdin, "ok")
		case l.Result == "skipped":
			s.skipped(l.Check, l.Why)
		case l.Result == "passed" && l.Wrote != "":
			s.check(l.Check, func() error { return s.holdsCorpus(l.Wrote) })
		case l.Result == "passed":
			s.passed(l.Check)
		default:
			s.failed(l.Check, l.Why)
		}
	}
	return done
}

func (s *subject) restart() error {
	if err := s.broker.Kill(); err != nil {
		return err
	}
	_, err := s.broker.Start(s.t.Context())
	return err
}

// within gives a step of the other client time to finish.
func (s *subject) within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.t.Context(), 30*time.Second)
}
