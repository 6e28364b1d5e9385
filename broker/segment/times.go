package segment

import (
	"errors"
	"fmt"

	"github.com/outrelay/outrelay/broker/record"
)

// errFound ends a walk over records.
var errFound = errors.New("found")

// OffsetForTime returns the first record, at or above from and the log start offset, whose timestamp (ms) is ts or later; ok is false
// when there is none. It reads the disk and decodes one batch or a few. Safe for concurrent use. Errors: ErrCorrupt, ErrClosed, the disk's.
func (l *Log) OffsetForTime(ts, from int64) (offset, timestamp int64, ok bool, err error) {
	for {
		if err := l.flushNow(); err != nil {
			return 0, 0, false, err
		}
		offset, timestamp, ok, err = l.offsetForTime(l.view.Load(), ts, from)
		if err == nil {
			return offset, timestamp, ok, nil
		}
		if err = l.retry(err); err != nil {
			return 0, 0, false, err
		}
	}
}

// flushNow brings what only memory has into the files, for readers that walk those.
func (l *Log) flushNow() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	return l.flush()
}

func (l *Log) offsetForTime(v *view, ts, from int64) (offset, timestamp int64, ok bool, err error) {
	for _, s := range v.segments {
		most := s.maxTS.Load()
		if s.sealed() {
			if most, err = s.maxTimestamp(l.o.IndexIntervalBytes); err != nil {
				return 0, 0, false, err
			}
		}
		if most < ts {
			continue
		}
		offset, timestamp, ok, err = l.searchTime(s, ts, max(v.start, from))
		if ok || err != nil {
			return offset, timestamp, ok, err
		}
	}
	return 0, 0, false, nil
}

func (l *Log) searchTime(s *segment, ts, start int64) (offset, timestamp int64, ok bool, err error) {
	f, err := s.acquire()
	if err != nil {
		return 0, 0, false, err
	}
	defer s.release()
	at, check, err := s.findTime(ts, l.o.IndexIntervalBytes)
	if err != nil {
		return 0, 0, false, err
	}
	sc := newScanner(f, at.pos, s.flushed.Load(), s.base, s.limit.Load())
	for {
		h, pos, more, err := sc.header()
		if check && (err != nil || !more || h.BaseOffset() != at.offset) {
			if again, derr := s.distrust(l.o.IndexIntervalBytes); derr != nil || !again {
				return 0, 0, false, errors.Join(derr, fmt.Errorf("segment %s at byte %d: %w", s.logName(), at.pos, errIndex))
			}
			return l.searchTime(s, ts, start)
		}
		check = false
		if err != nil || !more {
			return 0, 0, false, err
		}
		if h.MaxTimestamp() < ts || h.LastOffset() < start {
			continue
		}
		b, err := sc.body(pos, h.Size())
		if err != nil {
			return 0, 0, false, err
		}
		if offset, timestamp, ok, err = l.timeInBatch(b, ts, start); ok || err != nil {
			if err != nil {
				err = sc.corrupt(pos, "%v", err)
			}
			return offset, timestamp, ok, err
		}
	}
}

// timeInBatch finds the first record of b at or above start with a timestamp of ts or later.
func (l *Log) timeInBatch(b record.Batch, ts, start int64) (offset, timestamp int64, ok bool, err error) {
	err = l.codec.RecordsBare(b, func(r record.Record) error {
		offset, timestamp = b.Offset(r), b.Timestamp(r)
		if timestamp >= ts && offset >= start {
			return errFound
		}
		return nil
	})
	switch {
	case errors.Is(err, errFound):
		return offset, timestamp, true, nil
	case errors.Is(err, record.ErrTooLarge): // above what we decompress: the batch is as near as we come
		return max(b.BaseOffset(), start), b.MaxTimestamp(), true, nil
	}
	return 0, 0, false, err
}

// MaxTimestamp returns the first record with the largest timestamp (ms) at or above the log start offset (KIP-734); ok is false in a log
// without timestamps. Blocks and fails as OffsetForTime does.
func (l *Log) MaxTimestamp() (offset, timestamp int64, ok bool, err error) {
	for {
		if err := l.flushNow(); err != nil {
			return 0, 0, false, err
		}
		v := l.view.Load()
		most, err := l.maxTimestamp(v)
		if err == nil && most == noTimestamp {
			return 0, 0, false, nil
		}
		if err == nil {
			offset, timestamp, ok, err = l.offsetForTime(v, most, 0)
		}
		if err == nil {
			return offset, timestamp, ok, nil
		}
		if err = l.retry(err); err != nil {
			return 0, 0, false, err
		}
	}
}

func (l *Log) maxTimestamp(v *view) (most int64, err error) {
	most = noTimestamp
	for _, s := range v.segments {
		ts := s.maxTS.Load()
		switch {
		case s.base < v.start:
			ts, err = maxTimestampFrom(s, v.start)
		case s.sealed():
			ts, err = s.maxTimestamp(l.o.IndexIntervalBytes)
		}
		if err != nil {
			return 0, err
		}
		most = max(most, ts)
	}
	return most, nil
}

// maxTimestampFrom walks a segment whose beginning does not count any more.
func maxTimestampFrom(s *segment, start int64) (most int64, err error) {
	f, err := s.acquire()
	if err != nil {
		return 0, err
	}
	defer s.release()
	most = noTimestamp
	sc := newScanner(f, 0, s.flushed.Load(), s.base, s.limit.Load())
	for {
		h, _, ok, err := sc.header()
		if err != nil || !ok {
			return most, err
		}
		if h.LastOffset() >= start {
			most = max(most, h.MaxTimestamp())
		}
	}
}
