package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay/internal/kafka"
)

// lineBytesMax bounds a line of input: the largest record the log takes by default, with room for its key.
const lineBytesMax = 2 << 20

func newProduce(a *app) *cobra.Command {
	var keySep, codec string
	var headers []string
	var partition int32
	c := &cobra.Command{
		Use: "produce TOPIC", Short: "Write a record for each line of standard input", Args: cobra.ExactArgs(1),
		Example: `  echo '{"customer":"c1","amount":7}' | outrelay produce orders
  printf 'c1:first\nc2:second\n' | outrelay produce orders --key-separator :`,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := produceOptions(codec, partition)
			if err != nil {
				return err
			}
			var hs []kgo.RecordHeader
			for _, h := range headers {
				k, v, ok := strings.Cut(h, "=")
				if !ok {
					return usageError{fmt.Errorf("--header %q: write name=value", h)}
				}
				hs = append(hs, kgo.RecordHeader{Key: k, Value: []byte(v)})
			}
			cl, err := a.client(opts...)
			if err != nil {
				return err
			}
			defer cl.Close()
			n := 0
			var failed error
			in := bufio.NewScanner(os.Stdin)
			in.Buffer(make([]byte, 64<<10), lineBytesMax)
			for in.Scan() && cmd.Context().Err() == nil {
				r := &kgo.Record{Topic: args[0], Value: append([]byte(nil), in.Bytes()...), Headers: hs, Partition: partition}
				if keySep != "" {
					if k, v, ok := strings.Cut(in.Text(), keySep); ok {
						r.Key, r.Value = []byte(k), []byte(v)
					}
				}
				cl.Produce(cmd.Context(), r, func(_ *kgo.Record, err error) {
					if err != nil && failed == nil {
						failed = err
					}
				})
				n++
			}
			if err := cl.Flush(cmd.Context()); err != nil {
				return a.reach(err)
			}
			if failed != nil {
				return a.reach(fmt.Errorf("topic %s: %w", args[0], failed))
			}
			if err := in.Err(); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("standard input, line %d: %w", n+1, err)
			}
			if a.json {
				return a.printJSON(map[string]any{"topic": args[0], "records": n})
			}
			fmt.Fprintf(os.Stderr, "%d record(s) are durable in %s\n", n, args[0])
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&keySep, "key-separator", "", "what separates key and value in a line; empty: no key")
	f.StringVar(&codec, "compression", "none", "none, gzip, snappy, lz4 or zstd")
	f.StringArrayVar(&headers, "header", nil, "header name=value; may be repeated")
	f.Int32Var(&partition, "partition", -1, "partition (-1: by key, else spread)")
	return c
}

func produceOptions(codec string, partition int32) ([]kgo.Opt, error) {
	opts := []kgo.Opt{kgo.AllowAutoTopicCreation(), kgo.RecordPartitioner(kafka.Partitioner())}
	if partition >= 0 {
		opts[1] = kgo.RecordPartitioner(kgo.ManualPartitioner())
	}
	switch codec {
	case "none":
		opts = append(opts, kgo.ProducerBatchCompression(kgo.NoCompression()))
	case "gzip":
		opts = append(opts, kgo.ProducerBatchCompression(kgo.GzipCompression()))
	case "snappy":
		opts = append(opts, kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	case "lz4":
		opts = append(opts, kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	case "zstd":
		opts = append(opts, kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	default:
		return nil, usageError{fmt.Errorf("--compression %q: write none, gzip, snappy, lz4 or zstd", codec)}
	}
	return opts, nil
}
