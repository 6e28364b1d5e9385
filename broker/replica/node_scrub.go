package replica

import (
	"time"
)

const (
	scrubEvery     = 24 * time.Hour
	scrubStepBytes = 256 << 10 // read at once; then the pace is kept
)

// scrubber is a state machine with files to be read and checked now and then.
type scrubber interface {
	Scrub(pace func(bytes int64) error) error
}

// scrub goes through the segments of all partitions, each once a day, until the node stops. It reads no faster than Options.ScrubBytes a second: damage should be
// found while there is still a backup without it, not at the price of the clients. The order is random, so that a process that starts again and again comes to all.
func (n *Node) scrub() {
	last := map[GroupID]time.Time{}
	due := int64(0)
	for n.pause(n.o.ScrubAfter) == nil {
		hs := n.handles()
		for id := range last {
			if hs[id] == nil {
				delete(last, id)
			}
		}
		for id, h := range hs {
			s, ok := h.sm.(scrubber)
			if at, done := last[id]; !ok || n.removed(id, h) || done && n.o.Clock.Now().Sub(at) < scrubEvery {
				continue
			}
			last[id] = n.o.Clock.Now()
			// What is wrong is the partition's to mark and to say; the others go on.
			_ = s.Scrub(func(bytes int64) error { return n.scrubPace(&due, bytes) })
			if n.pause(0) != nil {
				return
			}
			n.metrics.scrubbedPartitions.Inc()
		}
	}
}

// scrubPace counts bytes that are about to be read, and waits as long as those of the last step may take.
func (n *Node) scrubPace(due *int64, bytes int64) error {
	n.metrics.scrubbed.Add(float64(bytes))
	if *due += bytes; *due < scrubStepBytes {
		return nil
	}
	d := time.Duration(float64(*due) / float64(n.o.ScrubBytes) * float64(time.Second))
	*due = 0
	return n.pause(d)
}

// pause waits for d; it returns ErrClosed when the node stops.
func (n *Node) pause(d time.Duration) error {
	if d <= 0 {
		select {
		case <-n.stop:
			return ErrClosed
		case <-n.dead:
			return ErrClosed
		default:
			return nil
		}
	}
	t := n.o.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-n.stop:
	case <-n.dead:
	}
	return ErrClosed
}
