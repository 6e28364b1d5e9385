package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/broker/brokertest"
	"github.com/outrelay/outrelay/broker/record"
)

// kcat runs kcat with args and returns what it printed.
func kcat(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	bin, err := exec.LookPath("kcat")
	if err != nil {
		t.Skip("kcat is not installed: `make test` installs it (Debian package kcat)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("kcat %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// librdkafka produces and consumes with every codec; what stands in the log is compressed (it drops the codec without a word when the
// broker does not advertise Produce from version 0).
func TestKcat_codecs(t *testing.T) {
	t.Parallel()
	n := brokertest.New(t)
	want := map[string]record.Codec{
		"none": record.CodecNone, "gzip": record.CodecGzip, "snappy": record.CodecSnappy, "lz4": record.CodecLZ4, "zstd": record.CodecZstd,
	}
	for codec, id := range want {
		t.Run(codec, func(t *testing.T) {
			topic := "kcat." + codec
			var in strings.Builder
			var lines []string
			for i := range 1000 {
				lines = append(lines, fmt.Sprintf("key%d:value %d %s", i%10, i, strings.Repeat("z", 50)))
				in.WriteString(lines[i] + "\n")
			}
			kcat(t, in.String(), "-b", n.TCPAddr(), "-t", topic, "-P", "-K:", "-z", codec)
			for _, level := range []string{"read_committed", "read_uncommitted"} {
				out := kcat(t, "", "-b", n.TCPAddr(), "-t", topic, "-C", "-e", "-q", "-K:", "-o", "beginning", "-X", "isolation.level="+level)
				got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
				slices.Sort(got)
				slices.Sort(lines)
				if !slices.Equal(got, lines) {
					t.Errorf("%s: %d lines, want %d", level, len(got), len(lines))
				}
			}
			if got := codecInLog(t, n, topic); got != id {
				t.Errorf("stands in the log as %s", got)
			}
		})
	}
	if out := kcat(t, "", "-b", n.TCPAddr(), "-L"); !strings.Contains(out, "topic \"kcat.zstd\" with 16 partitions") {
		t.Errorf("kcat -L:\n%s", out)
	}
}

// codecInLog returns the codec of the topic's first batch.
func codecInLog(t *testing.T, n *brokertest.Node, topic string) record.Codec {
	t.Helper()
	for _, r := range collect(t, newClient(t, n, kgo.ConsumeTopics(topic)), 1) {
		switch r.Attrs.CompressionType() {
		case 1:
			return record.CodecGzip
		case 2:
			return record.CodecSnappy
		case 3:
			return record.CodecLZ4
		case 4:
			return record.CodecZstd
		}
	}
	return record.CodecNone
}
