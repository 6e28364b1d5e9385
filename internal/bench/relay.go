package bench

import (
	"context"
	"errors"
)

// Relay is not there yet.
func Relay(context.Context, Options) (*Report, error) { return nil, errors.New("not there yet") }
