package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/internal/failpoint"
	"github.com/outrelay/outrelay/sources"
)

// init makes what the source needs in its database, and writes the first position. Before anything is made that could not be told from somebody
// else's later, the log says that it is being made (R7).
func (s *session) init(ctx context.Context) error {
	pos, err := s.firstPosition(ctx)
	if err != nil {
		return s.named(err)
	}
	pos.Source = s.o.Source
	failpoint.Hit("relay.afterInit")
	g := &gather{pos: pos, place: "start", last: true, hasPos: true}
	if _, err := s.pub.publish(ctx, g); err != nil {
		return fmt.Errorf("write the first position of source %s: %w", s.o.Source, err)
	}
	s.intent = ""
	s.o.Logger.Info("first position written", "source", s.o.Source, "position", pos.Token)
	return nil
}

// firstPosition goes on from an intent that stands in the log, or begins.
func (s *session) firstPosition(ctx context.Context) (outrelay.Position, error) {
	if s.intent != "" {
		pos, err := s.o.From.ResumeInit(ctx, s.intent)
		if !errors.Is(err, sources.ErrNotBegun) {
			return pos, err
		}
		s.o.Logger.Info("an earlier start has created nothing that is still there", "source", s.o.Source, "err", err)
	}
	intent, err := s.o.From.PrepareInit(ctx)
	if err != nil {
		return outrelay.Position{}, err
	}
	rec := PositionRecord{Position: outrelay.Position{Source: s.o.Source}, Intent: intent}
	if err := s.pub.publishControl(ctx, rec.Append(nil)); err != nil {
		return outrelay.Position{}, fmt.Errorf("write the intent to initialise it: %w", err)
	}
	failpoint.Hit("relay.afterIntent")
	pos, err := s.o.From.Init(ctx)
	if errors.Is(err, outrelay.ErrDataHalt) {
		// What is there is not ours, though the intent would let the next start believe so: somebody was faster.
		if werr := s.pub.publishControl(ctx, nil); werr != nil {
			s.o.Logger.Error("intent to initialise the source not withdrawn", "source", s.o.Source, "err", werr)
		}
	}
	return pos, err
}
