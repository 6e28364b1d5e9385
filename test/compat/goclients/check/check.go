// Package check owns how a client's program speaks with the runner of test/compat, and the corpus that both know. It never talks to a broker.
package check

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
)

// Len is how many records the corpus has; Partitions is how many partitions its topics have.
const (
	Len        = 1000
	Partitions = 4
	EpochMilli = 1_700_000_000_000 // record i of a topic in.… has the timestamp EpochMilli + i
)

// Codecs are the compressions of the topics in.<codec> and out.<codec>.
var Codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// Key, Value and Header are those of record i.
func Key(i int) string    { return fmt.Sprintf("k%d", i%10) }
func Value(i int) string  { return fmt.Sprintf("v%d:%s", i, strings.Repeat("x", i%200)) }
func Header(i int) string { return fmt.Sprint(i) }

// Bootstrap is the broker's address.
func Bootstrap() string { return os.Getenv("OUTRELAY_COMPAT_BOOTSTRAP") }

func say(v map[string]any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(b))
}

// Start tells the version of the client: that of its module in this program.
func Start(module string) {
	info, _ := debug.ReadBuildInfo()
	for _, d := range info.Deps {
		if d.Path == module {
			say(map[string]any{"version": strings.TrimPrefix(d.Version, "v")})
		}
	}
}

// Run runs a check and tells how it ended.
func Run(name string, f func() error) { tell(name, "", f) }

// Wrote is Run for a check that has written the corpus into a topic, which the runner compares.
func Wrote(name, topic string, f func() error) { tell(name, topic, f) }

// Skip tells that the client cannot do it, and why.
func Skip(name, why string) { say(map[string]any{"check": name, "result": "skipped", "why": why}) }

func tell(name, topic string, f func() error) {
	line := map[string]any{"check": name, "result": "passed", "wrote": topic}
	if err := f(); err != nil {
		line["result"], line["why"] = "failed", err.Error()
	}
	say(line)
}

// Restart has the broker killed and started again, and returns when it is back.
func Restart() error {
	say(map[string]any{"ask": "restart"})
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err == nil && answer != "ok\n" {
		err = fmt.Errorf("the runner said %q", answer)
	}
	return err
}

// Done tells that all checks have run.
func Done() { say(map[string]any{"done": true}) }

// Set gathers what was read of the corpus.
type Set struct {
	seen [Len]int
	n    int
}

// Add takes one record; headers are joined as key=value.
func (s *Set) Add(key, value, headers string) error {
	var i int
	if _, err := fmt.Sscanf(value, "v%d:", &i); err != nil || i < 0 || i >= Len {
		return fmt.Errorf("value %.40q is not of the corpus", value)
	}
	if key != Key(i) || value != Value(i) || headers != "n="+Header(i) {
		return fmt.Errorf("record %d: key %q, value %.40q, headers %q", i, key, value, headers)
	}
	s.seen[i]++
	s.n++
	return nil
}

// Len returns how many records were added.
func (s *Set) Len() int { return s.n }

// Whole returns nil when each record was added once.
func (s *Set) Whole() error {
	var errs []error
	for i, n := range s.seen {
		if n != 1 {
			errs = append(errs, fmt.Errorf("record %d was read %d times", i, n))
		}
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}
