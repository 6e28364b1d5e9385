package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/internal/kafka"
)

const (
	// batchBytesMax is what a batch may hold, uncompressed; largeBatchBytesMax where one record alone is larger. Such a record has a batch, and a chunk, of
	// its own.
	batchBytesMax      = 1_000_000
	largeBatchBytesMax = 90 << 20
	copyTxnTimeout     = time.Minute
	topicRetries       = 20 // the topics have just been made
)

// writer writes into the new log, in transactions of the migration's id. One goroutine owns it. After an error it is of no more use: nobody knows what became of the
// transaction but the new log.
type writer struct {
	o        kafka.Options
	progress *progress

	cl       *kgo.Client
	codec    uint8 // of the batches, as the attributes of Kafka's batches number them
	batchMax int32
}

func newWriter(o kafka.Options, p *progress) *writer { return &writer{o: o, progress: p} }

func (w *writer) close() {
	if w.cl != nil {
		w.cl.Close()
		w.cl = nil
	}
}

// open takes the transactional id, for batches of that codec. Whatever was open under it is aborted, whoever else has it is fenced.
func (w *writer) open(ctx context.Context, codec uint8, batchMax int32) (err error) {
	w.close()
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	if int(codec) >= len(codecs) {
		return fmt.Errorf("compression %d of a record: %w", codec, outrelay.ErrEnvironment)
	}
	id := w.o.MigrationID(w.progress.log)
	w.cl, err = kafka.NewClient(w.o,
		kgo.TransactionalID(id), kgo.TransactionTimeout(copyTxnTimeout), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kafka.Partitioner()), kgo.ProducerBatchCompression(codecs[codec]),
		kgo.ProducerBatchMaxBytes(batchMax), kgo.MaxBufferedRecords(math.MaxInt32), kgo.ManualFlushing(), kgo.UnknownTopicRetries(topicRetries))
	if err != nil {
		return err
	}
	if _, err := kafka.CompleteTransaction(ctx, w.cl, id); err != nil {
		return err
	}
	if _, _, err := w.cl.ProducerID(ctx); err != nil {
		return kafka.Wrap(err, "take transactional id "+id)
	}
	w.codec, w.batchMax = codec, batchMax
	return nil
}

// suit opens the writer anew where the records to come need another codec or a larger batch. Should another process have written in between, it has
// fenced us, and we have now fenced it: we are the late one.
func (w *writer) suit(ctx context.Context, codec uint8, batchMax int32) error {
	if w.codec == codec && w.batchMax == batchMax {
		return nil
	}
	if err := w.open(ctx, codec, batchMax); err != nil {
		return err
	}
	known := w.progress.notes
	err := w.progress.load(ctx, kafka.HighWatermarks)
	if err == nil && w.progress.notes != known {
		err = errOther(kerr.InvalidProducerEpoch)
	}
	return err
}

func errOther(err error) error {
	return &outrelay.Error{Class: outrelay.ErrFenced, Code: "migration-taken-over", Cause: "another process migrates the same logs and has taken over", Err: err, Fix: "leave it to that one"}
}

// commit writes records, and then the record of the migration topic that note makes once the offsets of the records are known, in one transaction, and
// commits it. It returns the offset of the note.
func (w *writer) commit(ctx context.Context, recs []*kgo.Record, note func() any) (at int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, copyTxnTimeout)
	defer cancel()
	if err := w.cl.BeginTransaction(); err != nil {
		return 0, w.wrap(err)
	}
	if err := w.produce(ctx, recs); err != nil {
		return 0, w.wrap(err)
	}
	failpoint.Hit("migrate.beforeNote")
	rec := note()
	value, err := json.Marshal(rec)
	if err != nil {
		return 0, fmt.Errorf("note of the migration: %w", err)
	}
	n := &kgo.Record{Topic: w.progress.topic, Partition: 0, Key: []byte(key(rec)), Value: value}
	if err := w.produce(ctx, []*kgo.Record{n}); err != nil {
		return 0, w.wrap(err)
	}
	failpoint.Hit("migrate.beforeCommit")
	if err := kafka.Commit(ctx, w.cl); err != nil {
		return 0, w.wrap(err)
	}
	w.progress.seen = max(w.progress.seen, n.Offset+1)
	failpoint.Hit("migrate.afterCommit")
	return n.Offset, nil
}

func (w *writer) produce(ctx context.Context, recs []*kgo.Record) error {
	var failed error
	for _, r := range recs {
		w.cl.Produce(ctx, r, func(r *kgo.Record, err error) {
			if err != nil && failed == nil { // one goroutine at a time calls, and Flush waits for it
				failed = fmt.Errorf("%s/%d: %w", r.Topic, r.Partition, err)
			}
		})
	}
	if err := w.cl.Flush(ctx); err != nil {
		return err
	}
	return failed
}

// wrap gives an error of the new log its class, and says what to do where somebody must mend something.
func (w *writer) wrap(err error) error {
	switch {
	case errors.Is(err, kerr.InvalidTimestamp):
		return wrong("timestamp-refused", "", "set message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic to 9223372036854775807 while the migration runs, or let outrelay alter configs of topics",
			"the new log refuses a timestamp of the old one: %v", err)
	case errors.Is(kafka.Class(err), outrelay.ErrRecord):
		return wrong("record-refused", "", "raise max.message.bytes of the topic in the new log above that of the old one, then try again", "the new log refuses a record: %v", err)
	case errors.Is(kafka.Class(err), outrelay.ErrFenced):
		return errOther(err)
	}
	return kafka.Wrap(err, "write into the new log")
}
