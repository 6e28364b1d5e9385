package segment

import (
	"fmt"
	"slices"
	"time"
)

// RetentionPoint returns the first offset to keep: segments are given up from the oldest on while they are older than retentionMs (by the
// largest timestamp in them, or their file's time where no record has one), or the log without them still has retentionBytes. A
// negative number switches a rule off. The active segment, and what is not wholly below limit, is always kept. It removes nothing. It may
// read the disk; a segment that cannot be read is kept.
func (l *Log) RetentionPoint(now time.Time, retentionMs, retentionBytes, limit int64) int64 {
	v := l.view.Load()
	total, point := l.Size(), v.start
	for _, s := range v.segments {
		end, size := s.limit.Load(), s.size.Load()
		if !s.sealed() || end > limit {
			break
		}
		if !(retentionBytes >= 0 && total-size >= retentionBytes) && !(retentionMs >= 0 && l.olderThan(s, now.UnixMilli()-retentionMs)) {
			break
		}
		total -= size
		point = end
	}
	return point
}

func (l *Log) olderThan(s *segment, ms int64) bool {
	ts, err := s.maxTimestamp(l.o.IndexIntervalBytes)
	if err == nil && ts == noTimestamp {
		info, serr := l.d.fs.Stat(s.logName())
		ts, err = info.ModTime.UnixMilli(), serr
	}
	if err != nil {
		l.o.Logger.Warn("segment kept: its age is not known", "segment", s.logName(), "err", err)
		return false
	}
	return ts < ms
}

// AdvanceStart moves the log start offset up to offset and removes the segments wholly below; the active segment always stays. Reads under way end
// well. S2 is the caller's duty: offset is at most the ActiveBase of the State in the last durable checkpoint, and that checkpoint
// says that the log starts there, since a restart finds the files gone. It blocks on the disk. Errors: ErrOutOfRange above the log end
// offset; the disk's is final.
func (l *Log) AdvanceStart(offset int64) error {
	l.upkeep.Lock()
	defer l.upkeep.Unlock()
	gone, err := l.dropBelow(offset)
	if err != nil {
		return err
	}
	for _, s := range gone {
		s.retire()
		err := l.d.removeSegment(s.base)
		if err == nil {
			// One by one from the oldest, so that a crash never leaves a gap: S3.
			err = l.d.fs.SyncDir(l.d.dir)
		}
		if err != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.fail(fmt.Errorf("remove segment %s: %w", s.logName(), err))
		}
	}
	return nil
}

// dropBelow shows readers a log that starts at offset and returns the segments that are not part of it.
func (l *Log) dropBelow(offset int64) (gone []*segment, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	old := l.view.Load()
	if next := l.next.Load(); offset > next {
		return nil, fmt.Errorf("log start offset %d, the log ends at %d: %w", offset, next, ErrOutOfRange)
	}
	if offset <= old.start {
		return nil, nil
	}
	n := 0
	for n < len(old.segments)-1 && old.segments[n].limit.Load() <= offset {
		n++
	}
	l.view.Store(&view{start: offset, segments: slices.Clone(old.segments[n:])})
	l.epochMu.Lock()
	l.epochs = trimEpochs(l.epochs, offset)
	l.epochMu.Unlock()
	return old.segments[:n], nil
}
