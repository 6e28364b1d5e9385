package postgres

import (
	"context"
	"errors"

	"github.com/outrelay/outrelay"
	"github.com/outrelay/outrelay/sources"
)

var errStub = errors.New("not yet")

// Init keeps sources.Source.
func (s *Source) Init(context.Context) (outrelay.Position, error) {
	return outrelay.Position{}, errStub
}

// Open keeps sources.Source.
func (s *Source) Open(context.Context, outrelay.Position) (sources.Stream, error) {
	return nil, errStub
}

// Status keeps sources.Source.
func (s *Source) Status(context.Context, outrelay.Position) (sources.Status, error) {
	return sources.Status{}, errStub
}
