package testenv

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outrelay/outrelay/internal/loopback"
)

// KafkaVersion is the Apache Kafka that tests and benchmarks run; scripts/install-deps kafka fetches its jars.
const KafkaVersion = "4.3.1"

// KafkaOptions says how a server is set up. The zero value is one node that starts quickly, with transaction version 2.
type KafkaOptions struct {
	LibsDir            string            // where the jars are; "" takes KafkaLibs
	Dir                string            // where the server's directory is made: the disk that a benchmark measures; "" is /tmp
	Port               int               // of the listener; 0 takes a free one
	Config             map[string]string // server properties over the defaults of this package
	Listeners          []KafkaListener   // beside the plaintext one that Addr names
	TransactionVersion int               // 1 or 2; 0 means 2, as a new cluster has
	FullSpeed          bool              // the JVM's own compilers and collector, 1 GiB of heap and Kafka's numbers of internal partitions; else what starts quickly
	StartTimeout       time.Duration     // 0 means 90 s
}

// KafkaListener is a further listener of a server.
type KafkaListener struct {
	Name       string // in capitals
	Protocol   string // PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; what it needs stands in KafkaOptions.Config
	Port       int    // on the loopback
	Advertised string // host:port that its clients are told; "" is its own: a Proxy's address goes here
}

// FreePort returns a port of the loopback that nobody listens on.
func FreePort(tb TB) int {
	tb.Helper()
	port, err := loopback.FreePort()
	if err != nil {
		tb.Fatalf("testenv: %v", err)
	}
	return port
}

// Kafka is a running Apache Kafka of one node: broker and controller in one process. Its methods may be called concurrently, Start, Stop and Kill9 by
// one goroutine at a time.
type Kafka struct {
	opts       KafkaOptions
	java, libs string
	dir        string // holds data, configuration and log
	port       int
	controller int // port

	guard *guard
	proc  *process // nil while the server is stopped
	once  sync.Once
}

// StartKafka starts a server that is stopped and removed at the end of tb's test. It returns when the server answers.
func StartKafka(tb TB, o KafkaOptions) *Kafka {
	tb.Helper()
	k, err := OpenKafka(context.Background(), o)
	if err != nil {
		tb.Fatalf("testenv: %v", err)
	}
	tb.Cleanup(k.Close)
	return k
}

// OpenKafka is StartKafka for those that have no test: the caller must Close the server. Should the process die before, the server
// is stopped and removed all the same.
func OpenKafka(ctx context.Context, o KafkaOptions) (*Kafka, error) {
	if o.StartTimeout == 0 {
		o.StartTimeout = 90 * time.Second
	}
	if o.TransactionVersion == 0 {
		o.TransactionVersion = 2
	}
	k := &Kafka{opts: o, libs: o.LibsDir}
	var err error
	if k.java, err = javaProgram(); err != nil {
		return nil, err
	}
	if k.libs == "" {
		if k.libs, err = KafkaLibs(); err != nil {
			return nil, err
		}
	}
	parent := o.Dir
	if parent == "" {
		parent = "/tmp"
	}
	if k.dir, err = os.MkdirTemp(parent, "outrelay-kafka-"); err != nil {
		return nil, err
	}
	if k.guard, err = startGuard(k.pidFile(), "KILL", k.dir); err != nil {
		_ = os.RemoveAll(k.dir) // nothing is in it
		return nil, err
	}
	if err := k.setUp(ctx); err != nil {
		k.Close()
		return nil, err
	}
	if err := k.launch(ctx); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// errNoKafka says how to get what is missing.
var errNoKafka = errors.New("run scripts/install-deps kafka (make deps-kafka): it installs Java and Maven where they are missing and fetches the jars")

// KafkaLibs returns the directory of Apache Kafka's jars: OUTRELAY_KAFKA_LIBS, or what scripts/install-deps kafka has put into the user's cache.
func KafkaLibs() (string, error) {
	dir := os.Getenv("OUTRELAY_KAFKA_LIBS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("Apache Kafka's jars: %w; set OUTRELAY_KAFKA_LIBS", err) //nolint:staticcheck // a name
		}
		dir = filepath.Join(cache, "outrelay", "kafka-"+KafkaVersion, "libs")
	}
	jar := filepath.Join(dir, "kafka_2.13-"+KafkaVersion+".jar")
	if _, err := os.Stat(jar); err != nil {
		return "", fmt.Errorf("no Apache Kafka: %w: %w", err, errNoKafka)
	}
	return dir, nil
}

func javaProgram() (string, error) {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		return filepath.Join(home, "bin", "java"), nil
	}
	java, err := exec.LookPath("java")
	if err != nil {
		return "", fmt.Errorf("no Java: %w: %w", err, errNoKafka)
	}
	return java, nil
}

// Addr returns the server's address, host:port on loopback.
func (k *Kafka) Addr() string { return loopback.Addr(k.port) }

// Pid returns the server's process id, 0 while it is stopped.
func (k *Kafka) Pid() int {
	if k.proc == nil {
		return 0
	}
	return k.proc.pid
}

// Log returns what the server has logged so far.
func (k *Kafka) Log() string {
	b, err := os.ReadFile(filepath.Join(k.dir, "log"))
	if err != nil {
		return ""
	}
	return string(b)
}

// Path returns the path of a file in the server's directory, for what a test puts there: keys, certificates.
func (k *Kafka) Path(name string) string { return filepath.Join(k.dir, name) }

func (k *Kafka) pidFile() string    { return k.Path("pid") }
func (k *Kafka) properties() string { return k.Path("server.properties") }

// setUp makes the data directory as Kafka's own format step does, from what that step has once made, and writes the configuration.
func (k *Kafka) setUp(ctx context.Context) error {
	var err error
	if k.port = k.opts.Port; k.port == 0 {
		if k.port, err = loopback.FreePort(); err != nil {
			return err
		}
	}
	if k.controller, err = loopback.FreePort(); err != nil {
		return err
	}
	tmpl, err := k.template(ctx)
	if err != nil {
		return err
	}
	data := k.Path("data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(tmpl, "bootstrap.checkpoint"))
	if err == nil {
		err = os.WriteFile(filepath.Join(data, "bootstrap.checkpoint"), b, 0o600)
	}
	if err == nil {
		meta := fmt.Sprintf("version=1\nnode.id=1\ncluster.id=%s\ndirectory.id=%s\n", kafkaUUID(), kafkaUUID())
		err = os.WriteFile(filepath.Join(data, "meta.properties"), []byte(meta), 0o600)
	}
	if err != nil {
		return err
	}
	return k.writeConfig()
}

// kafkaUUID returns an id as Kafka writes them.
func kafkaUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[0] |= 0x80           // does not begin with a dash, which Kafka's tools take for an option
	u[0] &^= 0x40
	return base64.RawURLEncoding.EncodeToString(u[:])
}

func (k *Kafka) writeConfig() error {
	conf := map[string]string{
		"process.roles":                            "broker,controller",
		"node.id":                                  "1",
		"controller.quorum.voters":                 fmt.Sprintf("1@127.0.0.1:%d", k.controller),
		"listeners":                                fmt.Sprintf("PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", k.port, k.controller),
		"advertised.listeners":                     fmt.Sprintf("PLAINTEXT://127.0.0.1:%d", k.port),
		"controller.listener.names":                "CONTROLLER",
		"log.dirs":                                 k.Path("data"),
		"offsets.topic.replication.factor":         "1",
		"transaction.state.log.replication.factor": "1",
		"transaction.state.log.min.isr":            "1",
		"group.initial.rebalance.delay.ms":         "0",
		"auto.create.topics.enable":                "false",
	}
	protocols := "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
	for _, l := range k.opts.Listeners {
		at := net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Port))
		conf["listeners"] += "," + l.Name + "://" + at
		if l.Advertised != "" {
			at = l.Advertised
		}
		conf["advertised.listeners"] += "," + l.Name + "://" + at
		protocols += "," + l.Name + ":" + l.Protocol
	}
	conf["listener.security.protocol.map"] = protocols
	conf["inter.broker.listener.name"] = "PLAINTEXT"
	if !k.opts.FullSpeed {
		conf["offsets.topic.num.partitions"] = "4"
		conf["transaction.state.log.num.partitions"] = "4"
		// A broker that was killed may register again when its session has ended: 9 s by default.
		conf["broker.session.timeout.ms"] = "3000"
		conf["broker.heartbeat.interval.ms"] = "500"
	}
	for name, v := range k.opts.Config {
		conf[name] = v
	}
	names := make([]string, 0, len(conf))
	for name := range conf {
		names = append(names, name)
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s=%s\n", name, conf[name])
	}
	return os.WriteFile(k.properties(), []byte(b.String()), 0o600)
}

// jvm returns the options of the virtual machine.
func (k *Kafka) jvm() []string {
	if k.opts.FullSpeed {
		return []string{"-Xmx1g", "-Xms1g"}
	}
	return quickJVM()
}

// launch runs the server and waits until it answers.
func (k *Kafka) launch(ctx context.Context) error {
	args := k.jvm()
	if tmpl, err := k.template(ctx); err == nil && !k.opts.FullSpeed {
		args = append(args, "-Xshare:auto", "-XX:SharedArchiveFile="+filepath.Join(tmpl, archiveName))
	}
	return k.launchWith(ctx, args)
}

func (k *Kafka) launchWith(ctx context.Context, jvm []string) error {
	logFile, err := os.OpenFile(k.Path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(k.java, append(jvm, "-cp", k.libs+"/*", "kafka.Kafka", k.properties())...)
	cmd.Dir = k.dir
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	proc, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("start of Apache Kafka: %w", err)
	}
	err = os.WriteFile(k.pidFile(), []byte(strconv.Itoa(proc.pid)+"\n"), 0o600)
	if err == nil {
		err = k.waitReady(ctx, proc)
	}
	if err != nil {
		_ = syscall.Kill(proc.pid, syscall.SIGKILL) // it may have ended
		<-proc.done
		return err
	}
	k.proc = proc
	return nil
}

// waitReady waits until the broker answers a request on its listener, which it does only once it is registered and unfenced.
func (k *Kafka) waitReady(ctx context.Context, proc *process) error {
	ctx, cancel := context.WithTimeout(ctx, k.opts.StartTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("no answer")
	for {
		select {
		case <-proc.done:
			return fmt.Errorf("Apache Kafka ended at start: %v: %s", proc.err, tail(k.Log(), 3000)) //nolint:staticcheck // a name
		case <-ctx.Done():
			return fmt.Errorf("Apache Kafka not ready: %w; last: %w: %s", ctx.Err(), last, tail(k.Log(), 3000)) //nolint:staticcheck // a name
		case <-tick.C:
		}
		if last = k.ask(ctx); last == nil {
			return nil
		}
	}
}

func (k *Kafka) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.Addr()), kgo.RequestRetries(0), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer cl.Close()
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if len(resp.Brokers) == 0 {
		return errors.New("no broker in the cluster yet")
	}
	return nil
}

// Close stops the server and removes its directory. A second call does nothing.
func (k *Kafka) Close() {
	k.once.Do(func() {
		if k.proc != nil {
			_ = k.Kill9() // nothing of it is kept
		}
		k.guard.close()
	})
}
