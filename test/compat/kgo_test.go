package compat_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrelay/outrelay/internal/loopback"
	"github.com/outrelay/outrelay/internal/testenv"
)

const (
	suiteMax     = 12 * time.Minute // how long franz-go's suite may take
	suiteRecords = 50_000           // what each of its tests of many clients moves
	killedAfter  = 8 * time.Second  // how long the broker lives while it is killed in a loop
)

// suiteGroups lets members of the new protocol speak every second, as the suite expects.
const suiteGroups = "broker:\n  groups: {heartbeat: 1s}\n"

// franz-go's own suite, whole, against one node.
func TestKgoSuite(t *testing.T) {
	onlyFull(t)
	b := startBroker(t, suiteGroups)
	kgoSuite(t, results.add("franz-go's kgo suite"), "kgo.test", "KGO_SEEDS="+b.Kafka, fmt.Sprintf("KGO_TEST_RECORDS=%d", suiteRecords))
}

// The same with every client behind TLS and SCRAM-SHA-256, and access control in force. Two of its tests log in without TLS: there is a
// listener for them.
func TestKgoSuite_secured(t *testing.T) {
	onlyFull(t)
	tls := newCertificate(t)
	port, err := loopback.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	b := startBroker(t, suiteGroups+fmt.Sprintf(`  tls: {cert: %q, key: %q}
  listeners: {sasl: {listen: %q}}
  users: {suite: {password: "${env:OUTRELAY_SUITE_PASSWORD}", super: true}}
`, tls.cert, tls.key, loopback.Addr(port)), "OUTRELAY_SUITE_PASSWORD=of the suite")
	r := results.add("franz-go's kgo suite, over TLS and SCRAM")
	r.skipped = append(r.skipped, "TestIssue769: its own dialer speaks no TLS")
	kgoSuite(t, r, "kgo-scram.test", "KGO_SEEDS="+b.Kafka, fmt.Sprintf("KGO_TEST_RECORDS=%d", suiteRecords),
		"KGO_TEST_TLS=ca:"+tls.cert, "KGO_TEST_SCRAM=suite:of the suite", "KGO_TEST_SCRAM_SEEDS="+loopback.Addr(port))
}

// The same while the broker is killed and started again, over and over.
func TestKgoSuite_brokerKilled(t *testing.T) {
	onlyFull(t)
	b := startBroker(t, suiteGroups)
	r := results.add(fmt.Sprintf("franz-go's kgo suite, broker killed -9 after every %s", killedAfter))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- killLoop(ctx, b.Kill, func() error {
			_, err := b.Start(ctx)
			return err
		})
	}()
	kgoSuite(t, r, "kgo.test", "KGO_SEEDS="+b.Kafka, fmt.Sprintf("KGO_TEST_RECORDS=%d", suiteRecords/5))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	t.Logf("the broker was killed %d times", b.Restarts())
}

// The same with Apache Kafka in the broker's place, to know what of a failure above is the suite's or the protocol's: OUTRELAY_COMPAT=kafka.
func TestKgoSuite_kafkaKilled(t *testing.T) {
	if os.Getenv("OUTRELAY_COMPAT") != "kafka" {
		t.Skip("shows another broker: runs with OUTRELAY_COMPAT=kafka")
	}
	k := testenv.StartKafka(t, testenv.KafkaOptions{Config: map[string]string{"group.consumer.min.heartbeat.interval.ms": "1000", "group.consumer.heartbeat.interval.ms": "1000"}})
	r := results.add(fmt.Sprintf("Apache Kafka %s: franz-go's kgo suite, broker killed -9 after every %s", testenv.KafkaVersion, killedAfter))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	kills := 0
	go func() { ended <- killLoop(ctx, func() error { kills++; return k.Kill9() }, k.Start) }()
	kgoSuite(t, r, "kgo.test", "KGO_SEEDS="+k.Addr(), fmt.Sprintf("KGO_TEST_RECORDS=%d", suiteRecords/5))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	t.Logf("the broker was killed %d times", kills)
}

// killLoop kills and starts a broker, over and over, until ctx ends.
func killLoop(ctx context.Context, kill, start func() error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(killedAfter):
		}
		if err := kill(); err != nil {
			return err
		}
		if err := start(); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

var suiteLine = regexp.MustCompile(`(?m)^\s*--- (PASS|FAIL|SKIP): (\S+)`)

// kgoSuite runs the suite, which scripts/install-clients has compiled, and notes each of its tests and subtests.
func kgoSuite(t *testing.T, r *row, program string, env ...string) {
	t.Helper()
	r.version = moduleVersion(t, "github.com/twmb/franz-go")
	ctx, cancel := context.WithTimeout(t.Context(), suiteMax+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, cache(t, "kgo", program), "-test.v", "-test.timeout", suiteMax.String(), "-test.skip", leftOut(r), "-test.run", os.Getenv("OUTRELAY_COMPAT_TESTS"))
	cmd.Dir = cache(t, "kgo", "source", "pkg", "kgo") // one of its tests reads its source
	cmd.Env = append(os.Environ(), append(env, "KGO_TEST_RF=1", "KGO_LOG_LEVEL="+cmp.Or(os.Getenv("KGO_LOG_LEVEL"), "none"))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if file := os.Getenv("OUTRELAY_COMPAT_OUTPUT"); file != "" {
		_ = os.WriteFile(file, out.Bytes(), 0o644)
	}
	for _, m := range suiteLine.FindAllStringSubmatch(out.String(), -1) {
		switch name := m[2]; m[1] {
		case "PASS":
			r.passed++
		case "SKIP":
			r.skipped = append(r.skipped, name+": "+said(out.String(), name))
		default:
			r.failed = append(r.failed, name+": "+said(out.String(), name))
		}
	}
	if err != nil && len(r.failed) == 0 {
		r.failed = append(r.failed, fmt.Sprintf("the suite: %v", err))
	}
	for _, f := range r.failed {
		t.Error(f)
	}
	if r.passed < 100 {
		t.Errorf("only %d passed: the suite did not run whole\n%s", r.passed, out.Bytes()[max(0, out.Len()-4000):])
	}
}

// leftOut is the pattern of the tests that r has skipped before the suite runs.
func leftOut(r *row) string {
	var names []string
	for _, s := range r.skipped {
		name, _, _ := strings.Cut(s, ":")
		names = append(names, "^"+name+"$")
	}
	if len(names) == 0 {
		return "^$"
	}
	return strings.Join(names, "|")
}

var (
	suiteTurn = regexp.MustCompile(`^=== (?:RUN|CONT|NAME|PAUSE)\s+(\S+)`)
	suiteWord = regexp.MustCompile(`^\s+\w+\.go:\d+: `)
)

// said returns the first lines that a test of the suite has written with its place; tests that run at once take turns.
func said(out, name string) string {
	var lines []string
	turn := ""
	for line := range strings.Lines(out) {
		if m := suiteTurn.FindStringSubmatch(line); m != nil {
			turn = m[1]
		} else if turn == name && len(lines) < 3 && suiteWord.MatchString(line) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, " ")
}

// moduleVersion returns the version of a module of this one.
func moduleVersion(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "v")
}
