package segment

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// stateVersion begins a marshalled State.
const stateVersion = 1

// epochsMax bounds what Unmarshal allocates.
const epochsMax = 1 << 20

// Epoch says from which offset on a leader epoch wrote (KIP-101).
type Epoch struct {
	Epoch int32
	Start int64
}

// State is what a checkpoint must say of a log so that Open can restore it. The zero State is a log that has nothing yet. A replica that
// starts from another's snapshot at offset n uses NewState(n).
type State struct {
	LogStartOffset int64
	NextOffset     int64   // the log end offset
	ActiveBase     int64   // base offset of the active segment
	ActiveSize     int64   // its bytes
	ActiveCreated  int64   // ms; from when on its age counts. 0: from Open
	ActiveAborted  int64   // entries of its .txn
	ActiveSum      int64   // CRC32C of the first 16 bytes of its batches
	CleanedTo      int64   // compaction has seen everything below
	Epochs         []Epoch // ascending in both fields
}

// NewState returns the state of an empty log whose first record will have the given offset.
func NewState(offset int64) State {
	return State{LogStartOffset: offset, NextOffset: offset, ActiveBase: offset, CleanedTo: offset}
}

// Marshal returns the state's bytes: a version byte, then the fields as varints. The checkpoint that holds them has the checksum.
func (s State) Marshal() []byte {
	b := []byte{stateVersion}
	for _, v := range s.fields() {
		b = binary.AppendVarint(b, *v)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Epochs)))
	for _, e := range s.Epochs {
		b = binary.AppendVarint(b, int64(e.Epoch))
		b = binary.AppendVarint(b, e.Start)
	}
	return b
}

func (s *State) fields() []*int64 {
	return []*int64{&s.LogStartOffset, &s.NextOffset, &s.ActiveBase, &s.ActiveSize, &s.ActiveCreated, &s.ActiveAborted, &s.ActiveSum, &s.CleanedTo}
}

// Unmarshal reads what Marshal wrote. Errors wrap ErrCorrupt or ErrVersion; s is then not changed.
func (s *State) Unmarshal(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("log state: no bytes: %w", ErrCorrupt)
	}
	if b[0] != stateVersion {
		return fmt.Errorf("log state: version %d: %w", b[0], ErrVersion)
	}
	b = b[1:]
	ok := true
	varint := func() int64 {
		v, n := binary.Varint(b)
		if n <= 0 {
			ok = false
			return 0
		}
		b = b[n:]
		return v
	}
	var got State
	for _, f := range got.fields() {
		*f = varint()
	}
	count, n := binary.Uvarint(b)
	if !ok || n <= 0 || count > epochsMax || count > uint64(len(b)) {
		return fmt.Errorf("log state: cut: %w", ErrCorrupt)
	}
	b = b[n:]
	for range count {
		got.Epochs = append(got.Epochs, Epoch{Epoch: int32(varint()), Start: varint()})
	}
	if !ok || len(b) != 0 {
		return fmt.Errorf("log state: %d epochs do not fill it: %w", count, ErrCorrupt)
	}
	if err := got.check(); err != nil {
		return err
	}
	*s = got
	return nil
}

// check returns an error wrapping ErrCorrupt unless s can be the state of a log.
func (s *State) check() error {
	if s.LogStartOffset < 0 || s.NextOffset < s.LogStartOffset || s.ActiveBase < 0 || s.ActiveBase > s.NextOffset ||
		s.ActiveSize < 0 || s.ActiveSize > segmentBytesMax || (s.ActiveSize == 0) != (s.ActiveBase == s.NextOffset) || s.ActiveAborted < 0 {
		return fmt.Errorf("log state: start %d, next %d, active segment %d of %d bytes: %w",
			s.LogStartOffset, s.NextOffset, s.ActiveBase, s.ActiveSize, ErrCorrupt)
	}
	if !slices.IsSortedFunc(s.Epochs, func(a, b Epoch) int { return int(a.Start - b.Start) }) {
		return fmt.Errorf("log state: epochs are not ascending: %w", ErrCorrupt)
	}
	return nil
}

// appendEpoch adds the epoch of a batch at offset, if it is new.
func appendEpoch(es []Epoch, epoch int32, offset int64) []Epoch {
	if epoch < 0 || (len(es) > 0 && epoch <= es[len(es)-1].Epoch) {
		return es
	}
	return append(es, Epoch{epoch, offset})
}

// trimEpochs drops what lies below the log's start; the epoch that wrote there starts there.
func trimEpochs(es []Epoch, start int64) []Epoch {
	i := 0
	for i+1 < len(es) && es[i+1].Start <= start {
		i++
	}
	es = slices.Clone(es[i:])
	if len(es) > 0 && es[0].Start < start {
		es[0].Start = start
	}
	return es
}

// EpochEnd returns the largest known epoch that is not above the given one, and the offset at which it ended: the start of the next, or the
// log end offset (KIP-101, KIP-279, OffsetForLeaderEpoch). It returns -1, -1 for an epoch above all known ones, and the epoch itself with the first
// known start for one below all. Does not block on the disk; safe for concurrent use.
func (l *Log) EpochEnd(epoch int32) (endEpoch int32, endOffset int64) {
	l.epochMu.Lock()
	defer l.epochMu.Unlock()
	es := l.epochs
	if len(es) == 0 || epoch > es[len(es)-1].Epoch || epoch < 0 {
		return -1, -1
	}
	i, found := slices.BinarySearchFunc(es, epoch, func(e Epoch, want int32) int { return int(e.Epoch) - int(want) })
	if !found {
		i-- // the largest below
	}
	if i < 0 {
		return epoch, es[0].Start
	}
	if i+1 == len(es) {
		return es[i].Epoch, l.next.Load()
	}
	return es[i].Epoch, es[i+1].Start
}
