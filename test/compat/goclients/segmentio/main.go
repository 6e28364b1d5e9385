// Command segmentio runs the checks of test/compat with segmentio/kafka-go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/outrelay/outrelay/test/compat/goclients/check"
)

var codecs = map[string]kafka.Compression{"none": 0, "gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}

func main() {
	check.Start("github.com/segmentio/kafka-go")
	for _, c := range check.Codecs {
		check.Run("read "+c, func() error { return readAll("in." + c) })
		check.Wrote("write "+c, "out."+c, func() error { return write("out."+c, codecs[c], 0, check.Len) })
	}
	check.Skip("read_committed, read_uncommitted", "its Reader takes the markers of transactions for records")
	check.Run("offset of a time", offsetOfTime)
	check.Run("group", group)
	check.Run("topics: create, describe, configure, grow, delete", topics)
	check.Run("groups: list, describe, delete", groups)
	check.Skip("transactions", "its Writer knows none")
	check.Run("acknowledged records survive kill -9", restart)
	check.Done()
}

func client() *kafka.Client {
	return &kafka.Client{Addr: kafka.TCP(check.Bootstrap()), Timeout: 20 * time.Second, Transport: &kafka.Transport{MetadataTTL: 200 * time.Millisecond}}
}

func timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 40*time.Second)
}

func messages(from, limit int) []kafka.Message {
	var list []kafka.Message
	for i := from; i < limit; i++ {
		list = append(list, kafka.Message{Key: []byte(check.Key(i)), Value: []byte(check.Value(i)), Headers: []kafka.Header{{Key: "n", Value: []byte(check.Header(i))}}})
	}
	return list
}

func writer(topic string) *kafka.Writer {
	return &kafka.Writer{Addr: kafka.TCP(check.Bootstrap()), Topic: topic, Balancer: &kafka.Hash{}, RequiredAcks: kafka.RequireAll, BatchTimeout: time.Millisecond,
		Transport: &kafka.Transport{MetadataTTL: 200 * time.Millisecond}}
}

func write(topic string, codec kafka.Compression, from, limit int) error {
	ctx, cancel := timeout()
	defer cancel()
	w := writer(topic)
	w.Compression = codec
	return errors.Join(w.WriteMessages(ctx, messages(from, limit)...), w.Close())
}

func add(set *check.Set, m kafka.Message) error {
	headers := ""
	for _, h := range m.Headers {
		headers += h.Key + "=" + string(h.Value)
	}
	return set.Add(string(m.Key), string(m.Value), headers)
}

// readAll reads each partition from its beginning up to where it ends now.
func readAll(topic string) error {
	ctx, cancel := timeout()
	defer cancel()
	var set check.Set
	for p := range check.Partitions {
		r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{check.Bootstrap()}, Topic: topic, Partition: p, MaxWait: 100 * time.Millisecond})
		for quiet := false; !quiet; {
			step, stop := context.WithTimeout(ctx, 300*time.Millisecond)
			m, err := r.ReadMessage(step)
			stop()
			switch {
			case err == nil:
				if err := add(&set, m); err != nil {
					return err
				}
			case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF):
				quiet = true
			default:
				return err
			}
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	return set.Whole()
}

func offsetOfTime() error {
	ctx, cancel := timeout()
	defer cancel()
	at := time.UnixMilli(check.EpochMilli + 500)
	got, err := client().ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{
		"in.none": {kafka.FirstOffsetOf(2), kafka.LastOffsetOf(2), kafka.TimeOffsetOf(2, at)}}})
	if err != nil {
		return err
	}
	p := got.Topics["in.none"][0]
	_, there := p.Offsets[125]
	if p.Error != nil || p.FirstOffset != 0 || p.LastOffset != check.Len/check.Partitions || !there {
		return fmt.Errorf("%+v", p)
	}
	return nil
}

func createTopic(name string, partitions int) error {
	ctx, cancel := timeout()
	defer cancel()
	r, err := client().CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: name, NumPartitions: partitions, ReplicationFactor: 1}}})
	if err != nil {
		return err
	}
	return r.Errors[name]
}

// group: two readers of one group get every record once; a third gets only what comes after their commits.
func group() error {
	ctx, cancel := timeout()
	defer cancel()
	if err := createTopic("segmentio.group", check.Partitions); err != nil {
		return err
	}
	reader := func() *kafka.Reader {
		return kafka.NewReader(kafka.ReaderConfig{Brokers: []string{check.Bootstrap()}, GroupID: "segmentios", Topic: "segmentio.group", MaxWait: 100 * time.Millisecond,
			StartOffset: kafka.FirstOffset, JoinGroupBackoff: 100 * time.Millisecond})
	}
	if err := write("segmentio.group", 0, 0, check.Len); err != nil {
		return err
	}
	type got struct {
		m   kafka.Message
		err error
	}
	all := make(chan got)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	readers := []*kafka.Reader{reader(), reader()}
	for _, r := range readers {
		go func() {
			for {
				m, err := r.FetchMessage(reading)
				if err == nil {
					err = r.CommitMessages(reading, m)
				}
				select {
				case all <- got{m, err}:
				case <-reading.Done():
				}
				if err != nil {
					return
				}
			}
		}()
	}
	var set check.Set
	once := map[string]bool{} // a rebalance may repeat what was not committed yet
	for len(once) < check.Len {
		g := <-all
		if g.err != nil {
			return fmt.Errorf("after %d records: %w", len(once), g.err)
		}
		if at := fmt.Sprint(g.m.Partition, "/", g.m.Offset); !once[at] {
			once[at] = true
			if err := add(&set, g.m); err != nil {
				return err
			}
		}
	}
	stop()
	for _, r := range readers {
		if err := r.Close(); err != nil {
			return err
		}
	}
	if err := set.Whole(); err != nil {
		return err
	}
	if err := write("segmentio.group", 0, 7, 8); err != nil {
		return err
	}
	r := reader()
	defer r.Close()
	m, err := r.ReadMessage(ctx)
	if err != nil || string(m.Value) != check.Value(7) {
		return fmt.Errorf("after the commits it read %.40q, %v", m.Value, err)
	}
	return nil
}

func topics() error {
	ctx, cancel := timeout()
	defer cancel()
	c := client()
	if err := createTopic("segmentio.admin", 3); err != nil {
		return err
	}
	altered, err := c.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: "segmentio.admin",
		Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: "retention.ms", Value: "60000", ConfigOperation: kafka.ConfigOperationSet}}}}})
	if err != nil || altered.Resources[0].Error != nil {
		return fmt.Errorf("%+v, %v", altered, err)
	}
	described, err := c.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: "segmentio.admin", ConfigNames: []string{"retention.ms"}}}})
	if err != nil || len(described.Resources) != 1 || len(described.Resources[0].ConfigEntries) != 1 || described.Resources[0].ConfigEntries[0].ConfigValue != "60000" {
		return fmt.Errorf("%+v, %v", described, err)
	}
	grown, err := c.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{{Name: "segmentio.admin", Count: 5}}})
	if err != nil || grown.Errors["segmentio.admin"] != nil {
		return fmt.Errorf("%+v, %v", grown, err)
	}
	conn, err := kafka.DialContext(ctx, "tcp", check.Bootstrap())
	if err != nil {
		return err
	}
	defer conn.Close()
	if ps, err := conn.ReadPartitions("segmentio.admin"); err != nil || len(ps) != 5 {
		return fmt.Errorf("%d partitions, %v", len(ps), err)
	}
	return conn.DeleteTopics("segmentio.admin")
}

func groups() error {
	ctx, cancel := timeout()
	defer cancel()
	c := client()
	list, err := c.ListGroups(ctx, &kafka.ListGroupsRequest{})
	if err != nil || len(list.Groups) == 0 {
		return fmt.Errorf("%+v, %v", list, err)
	}
	described, err := c.DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: []string{"segmentios"}})
	if err != nil || len(described.Groups) != 1 || described.Groups[0].GroupState != "Empty" {
		return fmt.Errorf("%+v, %v", described, err)
	}
	deleted, err := c.DeleteGroups(ctx, &kafka.DeleteGroupsRequest{GroupIDs: []string{"segmentios"}})
	if err != nil {
		return err
	}
	return deleted.Errors["segmentios"]
}

// restart has the broker killed between acknowledged records and reads all of them back. The writer is not idempotent: what it sends again may stand twice.
func restart() error {
	ctx, cancel := timeout()
	defer cancel()
	if err := createTopic("segmentio.restart", check.Partitions); err != nil {
		return err
	}
	w := writer("segmentio.restart")
	defer w.Close()
	for from := 0; from < check.Len; from += 50 {
		if from == 500 {
			if err := check.Restart(); err != nil {
				return err
			}
		}
		for {
			err := w.WriteMessages(ctx, messages(from, from+50)...)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return err
			}
		}
	}
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{check.Bootstrap()}, GroupID: "after", Topic: "segmentio.restart", StartOffset: kafka.FirstOffset, MaxWait: 100 * time.Millisecond})
	defer r.Close()
	seen := map[string]bool{}
	for len(seen) < check.Len {
		m, err := r.FetchMessage(ctx)
		if err != nil {
			return fmt.Errorf("%d of %d read: %w", len(seen), check.Len, err)
		}
		seen[string(m.Value)] = true
	}
	return nil
}
