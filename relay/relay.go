// Package relay moves transactions of a source into the log: route, gather, transact, confirm. It never looks inside a
// position, never keeps one anywhere but in the log, and confirms to the source only what the log has committed.
package relay

import (
	"context"
	"errors"

	"github.com/outrelay/outrelay"
)

// Relay relays one source.
type Relay struct{ o Options }

// New checks the options; it does not connect.
func New(o Options) (*Relay, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Relay{o: o}, nil
}

// Run relays until ctx ends or the relay must stop.
func (r *Relay) Run(ctx context.Context) error { return errors.New("relay: not built yet") }

// Status returns a snapshot. It may be called at any time.
func (r *Relay) Status() Status { return Status{} }

// Init prepares the source's database and writes its first position.
func (r *Relay) Init(ctx context.Context) (outrelay.Position, error) {
	return outrelay.Position{}, errors.New("relay: not built yet")
}
