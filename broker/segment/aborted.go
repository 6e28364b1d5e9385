package segment

import (
	"cmp"
	"slices"

	"github.com/outrelay/outrelay/broker/record"
	"github.com/outrelay/outrelay/internal/invariant"
)

// AbortedTxn is an aborted transaction: read_committed readers drop the producer's transactional records in [First, Last].
type AbortedTxn struct {
	ProducerID int64
	First      int64 // offset of its first record in this partition
	Last       int64 // offset of its abort marker
	LSO        int64 // last stable offset once it was aborted: transactions aborted later began at or above it
}

// AppendAborted notes an aborted transaction whose marker was appended last. It is durable after the next Sync, with the marker.
// Call it where Append is called. An error is the disk's, and final.
func (l *Log) AppendAborted(a AbortedTxn) error {
	invariant.Check(a.First <= a.Last && a.Last < l.next.Load(),
		"S3: aborted transaction [%d, %d] where offset %d is next", a.First, a.Last, l.next.Load())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.active.mu.Lock()
	defer l.active.mu.Unlock()
	l.active.aborted = append(l.active.aborted, a)
	return nil
}

// Aborted returns the aborted transactions that have records in [from, to), ordered by their markers. Offsets below the log start
// have none. It reads the disk where an index is not in memory. Safe for concurrent use. On an error (the disk's, ErrCorrupt,
// ErrClosed) it is not known which records are aborted, so none may be shown.
func (l *Log) Aborted(from, to int64) ([]AbortedTxn, error) {
	for {
		as, err := l.abortedIn(l.view.Load(), from, to)
		if err == nil {
			return as, nil
		}
		if err = l.retry(err); err != nil {
			return nil, err
		}
	}
}

func (l *Log) abortedIn(v *view, from, to int64) (found []AbortedTxn, err error) {
	for i := v.at(from); i < len(v.segments); i++ {
		as, err := l.abortedOf(v, i)
		if err != nil {
			return nil, err
		}
		// A transaction stands with its marker, so those of [from, to) may end in later segments.
		j, _ := slices.BinarySearchFunc(as, from, func(a AbortedTxn, o int64) int { return cmp.Compare(a.Last, o) })
		for _, a := range as[j:] {
			if a.First < to {
				found = append(found, a)
			}
			if a.LSO >= to {
				return found, nil
			}
		}
	}
	return found, nil
}

// abortedOf returns the aborted transactions of a segment. The slice may grow behind, and is not changed.
func (l *Log) abortedOf(v *view, i int) ([]AbortedTxn, error) {
	s := v.segments[i]
	s.mu.Lock()
	ok, as := s.loadAborted(), s.aborted
	s.mu.Unlock()
	if ok {
		return as, nil
	}
	as, err := scanAborted(v.segments[:i+1])
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return as, nil // of the log file that this view has; the name may be another's already
	}
	s.aborted, s.txns = as, true
	if _, err := s.maxTimestampLocked(l.o.IndexIntervalBytes); err != nil {
		return nil, err
	}
	if f, err := s.writeAbortedLocked(0); err == nil {
		f.Close()
	} // else the next one rebuilds it again: it is a cache
	return as, nil
}

// scanAborted finds the aborted transactions whose markers stand in the last of the segments, by walking the headers of all of them.
func scanAborted(segments []*segment) (found []AbortedTxn, err error) {
	open := map[int64]int64{} // producer → first offset
	for i, s := range segments {
		as, err := scanMarkers(s, open)
		if err != nil {
			return nil, err
		}
		if i == len(segments)-1 {
			found = as
		}
	}
	return found, nil
}

// scanMarkers walks one segment, beginning and ending transactions in open.
func scanMarkers(s *segment, open map[int64]int64) (found []AbortedTxn, err error) {
	f, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer s.release()
	sc := newScanner(f, 0, s.flushed.Load(), s.base, s.limit.Load())
	for {
		h, pos, ok, err := sc.header()
		if err != nil || !ok {
			return found, err
		}
		if !h.Transactional() {
			continue
		}
		pid, base := h.ProducerID(), h.BaseOffset()
		first, began := open[pid]
		if !h.Control() {
			if !began {
				open[pid] = base
			}
			continue
		}
		if h.Count() == 0 {
			continue // compaction has left the header: the transaction has no records any more
		}
		b, err := sc.body(pos, h.Size())
		if err != nil {
			return nil, err
		}
		commit, _, err := record.ParseEndTxnMarker(b)
		if err != nil {
			return nil, sc.corrupt(pos, "%v", err)
		}
		delete(open, pid)
		if !commit && began {
			lso := base + 1
			for _, o := range open {
				lso = min(lso, o)
			}
			found = append(found, AbortedTxn{ProducerID: pid, First: first, Last: base, LSO: lso})
		}
	}
}
