package broker

import (
	"errors"
	"fmt"
	"math"

	"github.com/outrelay/outrelay/broker/record"
)

// conform checks a batch's timestamps and compresses it as its topic is configured. Only where that differs from what the producer did is
// anything decoded.
func (s *Server) conform(b record.Batch, conf *topicConfig) (record.Batch, error) {
	if !conf.LogAppendTime {
		if err := s.checkTimestamps(b, conf); err != nil {
			return nil, err
		}
	}
	if !conf.Recompress || b.Codec() == conf.Compression {
		return b, nil
	}
	b, err := s.codecs.Recompress(b, conf.Compression)
	if err == nil && len(b) > conf.maxMessageBytes {
		err = fmt.Errorf("%d bytes once it is compressed as the topic says, at most %d are allowed: %w", len(b), conf.maxMessageBytes, record.ErrTooLarge)
	}
	return b, err
}

// checkTimestamps compares a batch's timestamps with the clock (message.timestamp.after.max.ms, message.timestamp.before.max.ms).
func (s *Server) checkTimestamps(b record.Batch, conf *topicConfig) error {
	now := s.clock.Now()
	if most := now.UnixMilli() + conf.TimestampAfter.Milliseconds(); most > 0 && b.MaxTimestamp() > most {
		return fmt.Errorf("timestamp %d is more than %v ahead of the clock: %w", b.MaxTimestamp(), conf.TimestampAfter, record.ErrTimestamp)
	}
	if conf.TimestampBefore == math.MaxInt64 {
		return nil
	}
	least, i := now.Add(-conf.TimestampBefore).UnixMilli(), int32(-1)
	return s.codecs.RecordsBare(b, func(r record.Record) error {
		if i++; b.Timestamp(r) != record.NoTimestamp && b.Timestamp(r) < least {
			return fmt.Errorf("timestamp %d is more than %v behind the clock: %w", b.Timestamp(r), conf.TimestampBefore,
				errors.Join(record.ErrTimestamp, &record.RecordError{Index: i, Text: "too old"}))
		}
		return nil
	})
}
