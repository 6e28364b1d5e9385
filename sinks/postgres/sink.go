// Package postgres is the sink that applies records to a PostgreSQL database by SQL and keeps the group's offsets there, both in one
// transaction. It never reads the log and never decides what to do about a failure: errors carry a class, the consumer decides.
package postgres

import (
	"context"
	"errors"

	"github.com/outrelay/outrelay/sinks"
)

var errStub = errors.New("sinks/postgres: not there yet")

// Sink is an open sink. It implements sinks.OffsetStore with sinks.Transactional.
type Sink struct{}

// Open connects, creates or upgrades the tables of outrelay, and prepares every statement of every handler.
func Open(context.Context, Options) (*Sink, error) { return nil, errStub }

// Validate checks what can be checked of handlers without a database.
func Validate(map[string][]Statement) error { return nil }

// Apply implements sinks.Sink.
func (s *Sink) Apply(context.Context, sinks.Batch) error { return errStub }

// Guarantee implements sinks.Sink.
func (s *Sink) Guarantee() sinks.Guarantee { return sinks.Transactional }

// Close implements sinks.Sink.
func (s *Sink) Close() error { return nil }

// Claim implements sinks.OffsetStore.
func (s *Sink) Claim(context.Context, string, sinks.Partition) (sinks.Claim, error) {
	return sinks.Claim{}, errStub
}

// Offsets implements sinks.OffsetStore.
func (s *Sink) Offsets(context.Context, string) ([]sinks.OffsetRow, error) { return nil, errStub }

// Reset implements sinks.OffsetStore.
func (s *Sink) Reset(context.Context, string, sinks.Partition, int64) error { return errStub }

var _ sinks.OffsetStore = (*Sink)(nil)
