package replica

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/outrelay/outrelay/broker/segment"
)

// Maintain looks at the age of the active segment, at retention and at compaction; the node calls it every Options.MaintainEvery, from one
// goroutine. It blocks on the disk, beside applies and reads. Only segments wholly below the last durable checkpoint are touched:
// a restart appends again from there. The leader decides on retention, by its clock, and the others follow its log start entry. An
// error means that the disk failed; damage is marked, and a damaged partition is left alone.
func (p *Partition) Maintain(now time.Time) error {
	if p.closed.Load() || p.log == nil || p.Damage() != nil {
		return nil
	}
	cfg := p.config()
	var rollErr error
	err := p.in.onShard(func() bool {
		before := p.log.Segments()
		p.log.Configure(cfg.SegmentBytes, cfg.segmentAge())
		if rollErr = p.log.RollIfOld(now); rollErr == nil && cfg.Delete && cfg.RetentionMs >= 0 {
			rollErr = p.log.RollIfExpired(now.UnixMilli() - cfg.RetentionMs) // as Kafka: the last records expire too
		}
		return p.log.Segments() != before // else nothing of an idle partition would come below a checkpoint
	})
	if err != nil {
		return nil // removed or closing
	}
	p.mu.Lock()
	durable, open := p.durable, p.ps.lastStable(p.log.NextOffset())
	p.mu.Unlock()
	if rollErr != nil {
		return p.maintainError("roll", rollErr)
	}
	if cfg.Delete && p.Leads() && (cfg.RetentionMs >= 0 || cfg.RetentionBytes >= 0) {
		to := p.log.RetentionPoint(now, cfg.RetentionMs, cfg.RetentionBytes, durable.activeBase)
		if to > p.LogStart() {
			p.moveStart(to, flagRetention, func(int64, error) {}) // the next look tries again
		}
	}
	// Files go only once the checkpoint says so: until then a restart may need to know of them.
	if durable.logStart > p.log.LogStartOffset() {
		if err := p.log.AdvanceStart(durable.logStart); err != nil {
			return p.maintainError("retention", err)
		}
	}
	if !cfg.Compact || !p.roomToCompact(cfg) {
		return nil
	}
	_, err = p.log.Compact(context.Background(), segment.CompactOptions{
		Below: min(durable.activeBase, open), DeleteRetention: time.Duration(cfg.DeleteRetentionMs) * time.Millisecond, Now: now,
		MinDirtyRatio: cfg.MinCleanableRatio, MinLag: cfg.MinCompactionLag, MaxLag: cfg.MaxCompactionLag, ProducerExpiry: p.o.ProducerExpiry,
	})
	return p.maintainError("compaction", err)
}

// roomToCompact reports whether the disk has room for the largest file that a compaction writes before it gives room back.
func (p *Partition) roomToCompact(cfg TopicConfig) bool {
	free, _, err := p.o.FS.Space(p.o.Dir)
	need := p.log.Size()
	if cfg.SegmentBytes > 0 {
		need = min(need, cfg.SegmentBytes)
	}
	if err != nil || free > need+need/4 {
		return true
	}
	p.o.Logger.Warn("not compacted: the disk has no room for it", "free", free, "needed", need+need/4)
	return false
}

func (p *Partition) maintainError(what string, err error) error {
	switch {
	case err == nil || p.closed.Load():
		return nil
	case errors.Is(err, segment.ErrCorrupt):
		p.MarkDamaged(fmt.Errorf("%s: %w", what, err))
		return nil
	case errors.Is(err, syscall.ENOSPC) && p.log.Err() == nil: // given up before anything was changed
		p.o.Logger.Warn("housekeeping put off: the disk is full", "what", what, "err", err)
		return nil
	}
	return fmt.Errorf("%s/%d: %s: %w", p.o.Topic, p.o.Index, what, err)
}
