package replica

import (
	"errors"
	"fmt"

	"github.com/outrelay/outrelay/broker/segment"
)

// Damage returns what is not right with the partition's files, with the place, or nil. A damaged partition stays as it is, for a person to look at: nothing is
// read from it, and retention and compaction leave it alone. It lasts until the process ends.
func (p *Partition) Damage() error {
	if d := p.damage.Load(); d != nil {
		return *d
	}
	return nil
}

// MarkDamaged notes that the partition's files are not what was written. The first damage counts.
func (p *Partition) MarkDamaged(err error) {
	var ce *segment.CorruptError
	if errors.As(err, &ce) {
		err = ce // the place alone, as it is said without a broker
	}
	err = fmt.Errorf("%s/%d: %w", p.o.Topic, p.o.Index, err)
	if p.damage.CompareAndSwap(nil, &err) {
		p.o.Logger.Error("partition damaged: it is not served until it is mended", "err", err, "fix", "outrelay log verify --data DIR")
	}
}

// Confined reports whether err, of Node.AddGroup, is of the files of one partition alone: the others can be served.
func Confined(err error) bool {
	return errors.Is(err, segment.ErrCorrupt) || errors.Is(err, ErrCorrupt)
}

// unreadable notes an error of a read: of damage for good, of the disk for the log.
func (p *Partition) unreadable(from int64, err error) {
	switch {
	case errors.Is(err, segment.ErrCorrupt):
		p.MarkDamaged(err)
	case !p.closed.Load():
		p.o.Logger.Error("segment not readable", "offset", from, "err", err)
	}
}

// Scrub reads all of the partition's segments and checks them, calling pace before so many bytes are read; damage is marked and returned. It blocks on
// the disk, beside everything else. pace's error ends it.
func (p *Partition) Scrub(pace func(bytes int64) error) error {
	if p.log == nil || p.closed.Load() || p.Damage() != nil {
		return nil
	}
	err := p.log.Scrub(pace)
	if errors.Is(err, segment.ErrCorrupt) && !p.closed.Load() {
		p.MarkDamaged(err)
	}
	return err
}
