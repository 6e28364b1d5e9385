// Command sarama runs the checks of test/compat with IBM/sarama.
package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/outrelay/outrelay/test/compat/goclients/check"
)

var codecs = map[string]sarama.CompressionCodec{
	"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

func main() {
	check.Start("github.com/IBM/sarama")
	for _, c := range check.Codecs {
		check.Run("read "+c, func() error { return readAll("in."+c, sarama.ReadUncommitted, check.Len) })
		check.Wrote("write "+c, "out."+c, func() error { return write(c) })
	}
	check.Run("read_committed", func() error { return readAll("in.txn", sarama.ReadCommitted, check.Len) })
	check.Run("read_uncommitted", func() error { return readAll("in.txn", sarama.ReadUncommitted, check.Len+check.Len/10) })
	check.Run("offset of a time", offsetOfTime)
	check.Run("group", group)
	check.Wrote("transactions", "out.txn", transactions)
	check.Run("consume, produce and commit offsets in transactions", exactlyOnce)
	runAdmin()
	check.Run("acknowledged records survive kill -9", restart)
	check.Done()
}

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Return.Successes = true
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Return.Errors = true
	return c
}

func brokers() []string { return []string{check.Bootstrap()} }

func message(topic string, i int) *sarama.ProducerMessage {
	return &sarama.ProducerMessage{
		Topic: topic, Key: sarama.StringEncoder(check.Key(i)), Value: sarama.StringEncoder(check.Value(i)),
		Headers: []sarama.RecordHeader{{Key: []byte("n"), Value: []byte(check.Header(i))}},
	}
}

func messages(topic string, from, limit int) []*sarama.ProducerMessage {
	var list []*sarama.ProducerMessage
	for i := from; i < limit; i++ {
		list = append(list, message(topic, i))
	}
	return list
}

func write(codec string) error {
	c := config()
	c.Producer.Compression = codecs[codec]
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	p, err := sarama.NewSyncProducer(brokers(), c)
	if err != nil {
		return err
	}
	defer p.Close()
	return p.SendMessages(messages("out."+codec, 0, check.Len))
}

func add(set *check.Set, m *sarama.ConsumerMessage) error {
	headers := ""
	for _, h := range m.Headers {
		headers += string(h.Key) + "=" + string(h.Value)
	}
	return set.Add(string(m.Key), string(m.Value), headers)
}

// readAll reads want records of a topic from its beginning, and sees that no more come.
func readAll(topic string, level sarama.IsolationLevel, want int) error {
	cfg := config()
	cfg.Consumer.IsolationLevel = level
	c, err := sarama.NewConsumer(brokers(), cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	all := make(chan *sarama.ConsumerMessage)
	stop := make(chan struct{})
	defer close(stop)
	for p := range int32(check.Partitions) {
		pc, err := c.ConsumePartition(topic, p, sarama.OffsetOldest)
		if err != nil {
			return err
		}
		defer pc.AsyncClose()
		go func() {
			for m := range pc.Messages() {
				select {
				case all <- m:
				case <-stop:
					return
				}
			}
		}()
	}
	var set check.Set
	for {
		quiet := 20 * time.Second
		if set.Len() >= want {
			quiet = 300 * time.Millisecond
		}
		select {
		case m := <-all:
			if err := add(&set, m); err != nil {
				return err
			}
		case <-time.After(quiet):
			if set.Len() != want {
				return fmt.Errorf("%d records, want %d", set.Len(), want)
			}
			if want == check.Len {
				return set.Whole()
			}
			return nil
		}
	}
}

func offsetOfTime() error {
	c, err := sarama.NewClient(brokers(), config())
	if err != nil {
		return err
	}
	defer c.Close()
	for at, want := range map[int64]int64{check.EpochMilli + 500: 125, sarama.OffsetOldest: 0, sarama.OffsetNewest: check.Len / check.Partitions, check.EpochMilli + check.Len: -1} {
		got, err := c.GetOffset("in.none", 2, at)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("time %d: offset %d, want %d", at, got, want)
		}
	}
	return nil
}

// member is one member of a group: it gathers what it gets and marks it.
type member struct {
	mu       *sync.Mutex
	set      *check.Set
	err      error
	assigned chan int // how many partitions each session has
	record   func()
}

func (m *member) Setup(s sarama.ConsumerGroupSession) error {
	n := 0
	for _, ps := range s.Claims() {
		n += len(ps)
	}
	select {
	case m.assigned <- n:
	default:
	}
	return nil
}
func (m *member) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (m *member) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for {
		select {
		case msg, ok := <-c.Messages():
			if !ok {
				return nil
			}
			m.mu.Lock()
			if err := add(m.set, msg); err != nil {
				m.err = err
			}
			m.mu.Unlock()
			s.MarkMessage(msg, "")
			m.record()
		case <-s.Context().Done():
			return nil
		}
	}
}

// join runs a member until its context ends.
func join(ctx context.Context, name, topic string, m *member, wg *sync.WaitGroup) error {
	cfg := config()
	cfg.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	g, err := sarama.NewConsumerGroup(brokers(), name, cfg)
	if err != nil {
		return err
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		defer g.Close()
		for ctx.Err() == nil {
			if err := g.Consume(ctx, []string{topic}, m); err != nil && !errors.Is(err, sarama.ErrClosedConsumerGroup) {
				m.mu.Lock()
				m.err = err
				m.mu.Unlock()
				return
			}
		}
	}()
	return nil
}

// group: two members share a topic, every record comes once, and a member that joins later finds what they have committed.
func group() error {
	var mu sync.Mutex
	var set check.Set
	var wg sync.WaitGroup
	got := make(chan struct{}, 1<<16)
	newMember := func() *member {
		return &member{mu: &mu, set: &set, assigned: make(chan int, 16), record: func() { got <- struct{}{} }}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	if err := createTopic("sarama.group"); err != nil {
		return err
	}
	// Both members first share an empty topic, so that no record comes before the group is balanced.
	a, b := newMember(), newMember()
	for _, m := range []*member{a, b} {
		if err := join(ctx, "saramas", "sarama.group", m, &wg); err != nil {
			return err
		}
	}
	shared := map[*member]int{}
	for shared[a] != 2 || shared[b] != 2 {
		select {
		case shared[a] = <-a.assigned:
		case shared[b] = <-b.assigned:
		case <-ctx.Done():
			return fmt.Errorf("partitions are not shared: %v and %v", shared[a], shared[b])
		}
	}
	p, err := sarama.NewSyncProducer(brokers(), config())
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.SendMessages(messages("sarama.group", 0, check.Len)); err != nil {
		return err
	}
	for range check.Len {
		select {
		case <-got:
		case <-ctx.Done():
			return fmt.Errorf("%d records came", set.Len())
		}
	}
	cancel()
	wg.Wait()
	if err := errors.Join(a.err, b.err, set.Whole()); err != nil {
		return err
	}
	return resumes("saramas", "sarama.group", p)
}

// resumes joins a group that has read everything, and sees nothing but the record that comes after.
func resumes(name, topic string, p sarama.SyncProducer) error {
	var mu sync.Mutex
	var set check.Set
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	got := make(chan struct{}, check.Len)
	m := &member{mu: &mu, set: &set, assigned: make(chan int, 16), record: func() { got <- struct{}{} }}
	if err := join(ctx, name, topic, m, &wg); err != nil {
		return err
	}
	select {
	case <-m.assigned:
	case <-ctx.Done():
		return errors.New("no assignment")
	}
	if _, _, err := p.SendMessage(message(topic, 7)); err != nil {
		return err
	}
	select {
	case <-got:
	case <-ctx.Done():
		return errors.New("the record after the commit does not come")
	}
	cancel()
	wg.Wait()
	if set.Len() != 1 {
		return fmt.Errorf("%d records after the commit, want 1", set.Len())
	}
	return m.err
}

func transactional(id string) (sarama.AsyncProducer, error) {
	cfg := config()
	cfg.Producer.Idempotent = true
	cfg.Producer.Transaction.ID = id
	cfg.Net.MaxOpenRequests = 1
	return sarama.NewAsyncProducer(brokers(), cfg)
}

// send puts records [from, limit) into the transaction that is open and waits for their acknowledgement.
func send(p sarama.AsyncProducer, topic string, from, limit int) error {
	go func() {
		for _, m := range messages(topic, from, limit) {
			p.Input() <- m
		}
	}()
	for range limit - from {
		select {
		case <-p.Successes():
		case err := <-p.Errors():
			return err
		}
	}
	return nil
}

func transactions() error {
	p, err := transactional("sarama")
	if err != nil {
		return err
	}
	defer p.Close()
	for from := 0; from < check.Len; from += 100 {
		for _, part := range []struct {
			n   int
			end func() error
		}{{100, p.CommitTxn}, {10, p.AbortTxn}} {
			if err := p.BeginTxn(); err != nil {
				return err
			}
			if err := send(p, "out.txn", from, from+part.n); err != nil {
				return err
			}
			if err := part.end(); err != nil {
				return err
			}
		}
	}
	return nil
}

// exactlyOnce copies one partition into another topic and moves a group's offset in the same transactions; one of them is aborted and done again.
func exactlyOnce() error {
	p, err := transactional("sarama-copy")
	if err != nil {
		return err
	}
	defer p.Close()
	c, err := sarama.NewConsumer(brokers(), config())
	if err != nil {
		return err
	}
	defer c.Close()
	pc, err := c.ConsumePartition("in.none", 1, 0)
	if err != nil {
		return err
	}
	defer pc.Close()
	const part = 50
	for from := 0; from < check.Len/check.Partitions; from += part {
		var batch []*sarama.ConsumerMessage
		for range part {
			batch = append(batch, <-pc.Messages())
		}
		if from == 100 {
			if err := copyPart(p, batch, p.AbortTxn); err != nil {
				return err
			}
		}
		if err := copyPart(p, batch, p.CommitTxn); err != nil {
			return err
		}
	}
	return copied(check.Len / check.Partitions)
}

func copyPart(p sarama.AsyncProducer, batch []*sarama.ConsumerMessage, end func() error) error {
	if err := p.BeginTxn(); err != nil {
		return err
	}
	for _, m := range batch {
		p.Input() <- &sarama.ProducerMessage{Topic: "sarama.copy", Key: sarama.ByteEncoder(m.Key), Value: sarama.ByteEncoder(m.Value)}
		select {
		case <-p.Successes():
		case err := <-p.Errors():
			return err
		}
	}
	offsets := map[string][]*sarama.PartitionOffsetMetadata{"in.none": {{Partition: 1, Offset: batch[len(batch)-1].Offset + 1}}}
	if err := p.AddOffsetsToTxn(offsets, "sarama-copy"); err != nil {
		return err
	}
	return end()
}

// copied sees that the copy holds want committed records and that the group's offset stands behind them.
func copied(want int) error {
	cfg := config()
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted
	admin, err := sarama.NewClusterAdmin(brokers(), cfg)
	if err != nil {
		return err
	}
	defer admin.Close()
	fetched, err := admin.ListConsumerGroupOffsets("sarama-copy", map[string][]int32{"in.none": {1}})
	if err != nil {
		return err
	}
	if b := fetched.GetBlock("in.none", 1); b == nil || b.Offset != int64(want) {
		return fmt.Errorf("the group's offset: %+v, want %d", b, want)
	}
	c, err := sarama.NewConsumer(brokers(), cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	partitions, err := c.Partitions("sarama.copy")
	if err != nil {
		return err
	}
	n := 0
	for _, p := range partitions {
		pc, err := c.ConsumePartition("sarama.copy", p, 0)
		if err != nil {
			return err
		}
		for quiet := false; !quiet; {
			select {
			case <-pc.Messages():
				n++
			case <-time.After(400 * time.Millisecond):
				quiet = true
			}
		}
		if err := pc.Close(); err != nil {
			return err
		}
	}
	if n != want {
		return fmt.Errorf("%d records copied, want %d", n, want)
	}
	return nil
}

// restart has the broker killed while records are on their way, and reads back everything that was acknowledged.
func restart() error {
	if err := createTopic("sarama.restart"); err != nil {
		return err
	}
	cfg := config()
	cfg.Producer.Idempotent = true
	cfg.Net.MaxOpenRequests = 1
	cfg.Producer.Retry.Max = 200
	p, err := sarama.NewAsyncProducer(brokers(), cfg)
	if err != nil {
		return err
	}
	go func() {
		for _, m := range messages("sarama.restart", 0, check.Len) {
			p.Input() <- m
			time.Sleep(2 * time.Millisecond)
		}
	}()
	for n := range check.Len {
		if n == 200 {
			if err := check.Restart(); err != nil {
				return err
			}
		}
		select {
		case <-p.Successes():
		case err := <-p.Errors():
			return err
		case <-time.After(30 * time.Second):
			return fmt.Errorf("%d of %d acknowledged", n, check.Len)
		}
	}
	if err := p.Close(); err != nil {
		return err
	}
	return readAll("sarama.restart", sarama.ReadUncommitted, check.Len)
}
