package compat_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// kcat runs kcat to its end and returns what it printed.
func (s *subject) kcat(stdin string, args ...string) (string, error) {
	ctx, cancel := s.within()
	defer cancel()
	return run(ctx, stdin, "kcat", append([]string{"-b", s.broker.Kafka}, args...)...)
}

// run runs a program to its end and returns its standard output; an error carries both outputs.
func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// corpusLines is the corpus as kcat prints it with -f '%k %s %h\n'.
func corpusLines() []string {
	lines := make([]string, corpusLen)
	for i := range lines {
		lines[i] = fmt.Sprintf("k%d %s n=%d", i%10, corpusValue(i), i)
	}
	return lines
}

// sameLines compares what was printed with the lines wanted, in any order.
func sameLines(got string, want []string) error {
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	slices.Sort(lines)
	slices.Sort(want)
	if slices.Equal(lines, want) {
		return nil
	}
	for i := range lines {
		if i >= len(want) || lines[i] != want[i] {
			return fmt.Errorf("%d lines, want %d; the first that differs: %.80q", len(lines), len(want), lines[i])
		}
	}
	return fmt.Errorf("%d lines, want %d", len(lines), len(want))
}

var kcatVersion = regexp.MustCompile(`Version (\S+) .*librdkafka (\S+)`)

func testKcat(t *testing.T, s *subject) {
	if m := kcatVersion.FindStringSubmatch(kcatBanner(t)); m != nil {
		s.row.version = m[1] + " (" + m[2] + ")"
	}
	s.check("list", func() error {
		out, err := s.kcat("", "-L")
		if err == nil && !strings.Contains(out, `topic "in.gzip" with 4 partitions`) {
			err = fmt.Errorf("printed %s", out)
		}
		return err
	})
	for _, codec := range slices.Sorted(maps.Keys(codecs)) {
		s.check("read "+codec, func() error {
			out, err := s.kcat("", "-C", "-e", "-q", "-t", "in."+codec, "-o", "beginning", "-f", `%k %s %h\n`)
			if err != nil {
				return err
			}
			return sameLines(out, corpusLines())
		})
		s.check("write "+codec, func() error { return s.kcatWrites("out."+codec, codec) })
	}
	for level, want := range map[string]int{"read_committed": corpusLen, "read_uncommitted": corpusLen + corpusLen/10} {
		s.check(level, func() error {
			out, err := s.kcat("", "-C", "-e", "-q", "-t", "in.txn", "-o", "beginning", "-f", `%s\n`, "-X", "isolation.level="+level)
			if n := strings.Count(out, "\n"); err == nil && n != want {
				err = fmt.Errorf("%d records, want %d", n, want)
			}
			return err
		})
	}
	s.check("offset of a time", func() error {
		out, err := s.kcat("", "-Q", "-t", fmt.Sprintf("in.none:2:%d", corpusEpochMilli+500))
		if err == nil && !strings.Contains(out, "in.none [2] offset 125") { // record 502 is the first of partition 2 from there
			err = fmt.Errorf("printed %s", out)
		}
		return err
	})
	s.check("group", s.kcatGroup)
}

// kcatWrites produces keys and values of the corpus; kcat gives every record of a run the same headers.
func (s *subject) kcatWrites(topic, codec string) error {
	var in strings.Builder
	for i := range corpusLen {
		fmt.Fprintf(&in, "k%d|%s\n", i%10, corpusValue(i))
	}
	if _, err := s.kcat(in.String(), "-P", "-t", topic, "-K|", "-z", codec, "-H", "of=kcat", "-X", "enable.idempotence=true"); err != nil {
		return err
	}
	records, err := s.readAll(topic)
	if err != nil {
		return err
	}
	var got strings.Builder
	for _, r := range records {
		fmt.Fprintf(&got, "%s|%s\n", r.Key, r.Value)
		if len(r.Headers) != 1 || r.Headers[0].Key != "of" || string(r.Headers[0].Value) != "kcat" {
			return fmt.Errorf("headers %v", r.Headers)
		}
	}
	return sameLines(got.String(), strings.Split(strings.TrimSuffix(in.String(), "\n"), "\n"))
}

// kcatGroup reads a topic as a group, a second time from where the first has ended, and once more after new records.
func (s *subject) kcatGroup() error {
	read := func() (string, error) {
		return s.kcat("", "-G", "kcats", "-e", "-q", "-X", "auto.offset.reset=earliest", "-f", `%k %s %h\n`, "in.zstd")
	}
	out, err := read()
	if err != nil {
		return err
	}
	if err := sameLines(out, corpusLines()); err != nil {
		return err
	}
	if out, err = read(); err != nil || strings.TrimSpace(out) != "" {
		return errors.Join(err, fmt.Errorf("the second run read %.80q", out))
	}
	ctx, cancel := s.within()
	defer cancel()
	if err := s.kafka.ProduceSync(ctx, corpusRecord("in.zstd", 7)).FirstErr(); err != nil {
		return err
	}
	if out, err = read(); err == nil && strings.TrimSpace(out) != "k7 "+corpusValue(7)+" n=7" {
		err = fmt.Errorf("after one more record it read %.80q", out)
	}
	return err
}

func kcatBanner(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "kcat", "-V").CombinedOutput()
	if err != nil {
		t.Fatalf("kcat: %v: run scripts/install-deps", err)
	}
	return string(out)
}
