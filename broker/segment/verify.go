package segment

import (
	"errors"
	"fmt"
)

// Verify reads everything and checks every batch's CRC and frame, that offsets ascend and stay within their segments, and that the indexes agree with
// the log. It returns what is wrong, one error per segment, each wrapping ErrCorrupt with file and byte; the file behind the byte is
// then not checked further. It changes nothing and may run beside everything else.
func (l *Log) Verify() error {
	if err := l.flushNow(); err != nil {
		return err
	}
	var errs []error
	for _, s := range l.view.Load().segments {
		if err := l.verify(s); err != nil && !errors.Is(err, errRetired) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (l *Log) verify(s *segment) error {
	f, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release()
	limit := s.limit.Load()
	s.mu.Lock()
	err = s.loadIndex(l.o.IndexIntervalBytes)
	es := s.index
	s.mu.Unlock()
	if err != nil {
		return err
	}
	sc := newScanner(f, 0, s.flushed.Load(), s.base)
	for {
		h, pos, ok, err := sc.header()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		offset, last, size := h.BaseOffset(), h.LastOffset(), h.Size()
		if last >= limit {
			return sc.corrupt(pos, "offset %d in a segment that ends at %d", last, limit)
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
	if len(es) > 0 && int64(es[0].pos) < sc.pos {
		return fmt.Errorf("index %s: no batch at byte %d: %w", l.d.name(s.base, extIndex), es[0].pos, ErrCorrupt)
	}
	return nil
}
