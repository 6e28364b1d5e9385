package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/outrelay/outrelay/internal/loopback"
)

// Start starts a stopped or killed server on the same port and data, and waits until it answers.
func (k *Kafka) Start() error {
	if k.proc != nil {
		return nil
	}
	return k.launch(context.Background())
}

// Stop shuts the server down in order.
func (k *Kafka) Stop() error { return k.end(syscall.SIGTERM) }

// Kill9 kills the server with SIGKILL and waits until it is gone. What it had written is in the page cache, synced or not: as after a crash of the
// process, not of the machine.
func (k *Kafka) Kill9() error { return k.end(syscall.SIGKILL) }

// Signal sends sig to the server: SIGSTOP makes it hang, SIGCONT goes on.
func (k *Kafka) Signal(sig syscall.Signal) error {
	if k.proc == nil {
		return errors.New("server is stopped")
	}
	return syscall.Kill(k.proc.pid, sig)
}

// kafkaStopMax bounds a stop in order, which waits for the controller.
const kafkaStopMax = 60 * time.Second

func (k *Kafka) end(sig syscall.Signal) error {
	if k.proc == nil {
		return nil
	}
	if err := syscall.Kill(k.proc.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	late := time.NewTimer(kafkaStopMax)
	defer late.Stop()
	select {
	case <-k.proc.done:
	case <-late.C:
		_ = syscall.Kill(k.proc.pid, syscall.SIGKILL) // the wait says when it is gone
		<-k.proc.done
	}
	k.proc = nil
	return os.Remove(k.pidFile()) // its number may be another's from now on
}

// archiveName is the file of classes that are loaded already (class data sharing): a start with it takes half the processor time.
const archiveName = "classes.jsa"

// quickJVM are the options with which a server is there soonest.
func quickJVM() []string {
	return []string{"-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"}
}

// template returns a directory of the user's cache with what a start needs and takes long to make, made once for each set of jars and transaction version: the
// checkpoint that Kafka's format step writes, and an archive of classes. Of several processes one makes it, the others wait.
func (k *Kafka) template(ctx context.Context) (string, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d template 1", k.libs, k.java, KafkaVersion, k.opts.TransactionVersion))
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "outrelay-cache-"+strconv.Itoa(os.Geteuid()))
	}
	cache = filepath.Join(cache, "outrelay", "testenv")
	dir := filepath.Join(cache, "kafka-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	staged, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(staged)
	if err := k.makeTemplate(ctx, staged); err != nil {
		return "", err
	}
	return dir, os.Rename(filepath.Join(staged, "template"), dir)
}

// makeTemplate formats a directory and runs a server on it once, so that the machine notes which classes it loads.
func (k *Kafka) makeTemplate(ctx context.Context, dir string) error {
	t := &Kafka{opts: KafkaOptions{StartTimeout: k.opts.StartTimeout}, java: k.java, libs: k.libs, dir: dir}
	var err error
	if t.port, err = loopback.FreePort(); err != nil {
		return err
	}
	if t.controller, err = loopback.FreePort(); err != nil {
		return err
	}
	if err := t.writeConfig(); err != nil {
		return err
	}
	to := filepath.Join(dir, "template")
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	format := exec.CommandContext(ctx, t.java, append(quickJVM(), "-cp", t.libs+"/*", "kafka.tools.StorageTool", "format", "-t", kafkaUUID(), "-c", t.properties(),
		"--feature", "transaction.version="+strconv.Itoa(k.opts.TransactionVersion))...)
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("format of Apache Kafka's directory: %w: %s", err, out)
	}
	b, err := os.ReadFile(t.Path("data/bootstrap.checkpoint"))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "bootstrap.checkpoint"), b, 0o600)
	}
	if err != nil {
		return err
	}
	if err := t.launchWith(ctx, append(quickJVM(), "-XX:ArchiveClassesAtExit="+filepath.Join(to, archiveName))); err != nil {
		return err
	}
	return t.Stop()
}
