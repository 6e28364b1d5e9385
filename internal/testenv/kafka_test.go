package testenv_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/testenv"
)

func TestKafka_startsAndSurvivesKill9(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a JVM three times")
	}
	t.Parallel()
	at := time.Now()
	k := testenv.StartKafka(t, testenv.KafkaOptions{})
	t.Logf("ready after %v", time.Since(at))
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Addr()), kgo.DefaultProduceTopic("t"), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	write := func(want int64) {
		t.Helper()
		rec := kgo.StringRecord("x")
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if rec.Offset != want {
			t.Fatalf("offset %d, want %d", rec.Offset, want)
		}
	}
	write(0)
	at = time.Now()
	if err := k.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := k.Start(); err != nil {
		t.Fatal(err)
	}
	t.Logf("back %v after kill -9", time.Since(at))
	write(1)
	if err := k.Stop(); err != nil {
		t.Fatal(err)
	}
	if k.Pid() != 0 {
		t.Fatalf("a stopped server has process id %d", k.Pid())
	}
}

// TestKafka_goneWithTheProcess runs this test binary as a child, kills it, and sees that its server and directory go away.
func TestKafka_goneWithTheProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a JVM")
	}
	t.Parallel()
	if dirFile := os.Getenv("TESTENV_CHILD"); dirFile != "" {
		k := testenv.StartKafka(t, testenv.KafkaOptions{})
		if err := os.WriteFile(dirFile+".new", fmt.Appendf(nil, "%s %d", k.Path(""), k.Pid()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dirFile+".new", dirFile); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	diesWithItsProcess(t, "TestKafka_goneWithTheProcess")
}

func TestKafkaLibs_SaysHowToGetThem(t *testing.T) {
	t.Setenv("OUTRELAY_KAFKA_LIBS", t.TempDir())
	_, err := testenv.KafkaLibs()
	if err == nil || !strings.Contains(err.Error(), "make deps-kafka") {
		t.Fatalf("the error should say what to run: %v", err)
	}
	script, err := os.ReadFile("../../scripts/install-deps")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(script), "kafka_version="+testenv.KafkaVersion+" ") {
		t.Errorf("scripts/install-deps fetches another version than %s", testenv.KafkaVersion)
	}
}

// diesWithItsProcess runs the named test as a child that starts a server and writes the server's directory and process id into the file that TESTENV_CHILD
// names, kills it, and waits until server and directory are gone.
func diesWithItsProcess(t *testing.T, test string) {
	t.Helper()
	dirFile := filepath.Join(t.TempDir(), "dir")
	child := exec.Command(os.Args[0], "-test.run=^"+test+"$")
	child.Env = append(os.Environ(), "TESTENV_CHILD="+dirFile)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	var pid int
	waitFor(t, "the child's server", func() bool {
		b, err := os.ReadFile(dirFile)
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(b), &dir, &pid)
		return err == nil
	})
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	waitFor(t, "server and directory to go", func() bool {
		_, derr := os.Stat(dir)
		_, perr := os.Stat(fmt.Sprintf("/proc/%d", pid))
		return os.IsNotExist(derr) && os.IsNotExist(perr)
	})
}
