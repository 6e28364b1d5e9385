package segment

import (
	"errors"
	"fmt"
)

// Verify reads everything and checks every batch's CRC and frame, that offsets ascend and stay within their segments, that leader epochs are those the
// log knows, and that the indexes agree with the log. It returns what is wrong, one error per segment, each wrapping ErrCorrupt with file and byte; the file behind the byte is
// then not checked further. It changes nothing and may run beside everything else.
func (l *Log) Verify() error {
	l.mu.Lock()
	err := l.err
	if err == nil {
		err = l.flush()
	}
	segments, activeSize, activeSum := l.view.Load().segments, l.active.size.Load(), l.index.sum
	l.mu.Unlock()
	if err != nil {
		return err
	}
	var errs []error
	for i, s := range segments {
		size, sum := activeSize, &activeSum
		if i < len(segments)-1 {
			size, sum = s.flushed.Load(), nil
		}
		if err := l.verify(s, size, sum, nil); err != nil && !errors.Is(err, errRetired) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Scrub is Verify for a log in use: it goes through the segments as they are on disk, calls pace before it reads so many bytes on, and ends with pace's error.
// It returns the first damage it meets. A segment that compaction or retention takes away meanwhile is skipped.
func (l *Log) Scrub(pace func(bytes int64) error) error {
	for _, s := range l.view.Load().segments {
		if err := l.verify(s, s.flushed.Load(), nil, pace); err != nil && !errors.Is(err, errRetired) {
			return err
		}
	}
	return nil
}

func (l *Log) sumOf(s *segment) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known.Load() {
		if err := s.loadIndex(l.o.IndexIntervalBytes); err != nil {
			return 0, err
		}
	}
	return s.sum.Load(), nil
}

// verify checks the first size bytes of a segment. sum is what the batches' first 16 bytes have to add up to; nil: what the index of a sealed
// segment says. pace may be nil.
func (l *Log) verify(s *segment, size int64, sum *uint32, pace func(int64) error) error {
	f, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release()
	sealed := s.sealed()
	s.mu.Lock()
	err = s.loadIndex(l.o.IndexIntervalBytes)
	es := s.index
	s.mu.Unlock()
	if err == nil && sum == nil && sealed {
		sum = new(uint32)
		*sum, err = l.sumOf(s)
	}
	if err != nil {
		return err
	}
	x := indexer{}
	sc, epochs := newScanner(f, 0, size, s.base, s.limit.Load()), l.knownEpochs()
	for {
		h, pos, ok, err := sc.header()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		x.mix(h)
		offset, size := h.BaseOffset(), h.Size()
		if pace != nil {
			if err := pace(size); err != nil {
				return err
			}
		}
		if epoch, known := epochAt(epochs, offset); known && epoch != h.LeaderEpoch() {
			return sc.corrupt(pos, "leader epoch %d, the checkpoint says %d", h.LeaderEpoch(), epoch)
		}
		if _, err := sc.body(pos, size); err != nil {
			return err
		}
		if len(es) > 0 && int64(es[0].pos) == pos {
			if s.base+int64(es[0].rel) != offset {
				return fmt.Errorf("index %s: offset %d at byte %d, the log has %d: %w", l.d.name(s.base, extIndex), s.base+int64(es[0].rel), pos, offset, ErrCorrupt)
			}
			es = es[1:]
		}
	}
	if sum != nil && x.sum != *sum {
		sc.cur = s.base
		return sc.corrupt(0, "offsets or leader epochs have changed: their sum is %08x, want %08x", x.sum, *sum)
	}
	if len(es) > 0 && int64(es[0].pos) < sc.pos {
		return fmt.Errorf("index %s: no batch at byte %d: %w", l.d.name(s.base, extIndex), es[0].pos, ErrCorrupt)
	}
	return nil
}
